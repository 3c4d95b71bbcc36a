"""Which host this is: its name, an id that stays, the boot, and what the settings say about where it stands."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from settings.errors import FlowlakeError

_MACHINE_ID_FILES = ("etc/machine-id", "var/lib/dbus/machine-id")
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What boards carry whose maker never set one: the same on thousands of machines.
_NO_UUIDS = frozenset(
    (
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the host stands, as the settings say; nothing here is found out."""

    cluster: str | None = None
    region: str | None = None
    zone: str | None = None
    account: str | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """The facts of this host that every batch carries."""

    host: str
    host_id: str
    boot_id: str
    place: Place


def read_host(
    host_root: Path,
    spool: Path,
    place: Place,
    new_id: Callable[[], str],
    name: str | None = None,
    proc: Path = Path("/proc"),
) -> Host:
    """The facts of the host whose `/` is at `host_root`.

    name: said by the settings; else the host's own. new_id: makes 32 hex digits, and is called only on a host without
    any id; the answer is kept in the directory `spool`. Raises FlowlakeError where it cannot be kept.
    """
    return Host(
        host=name or _name(host_root),
        host_id=_machine_id(host_root) or _board_id(host_root) or _kept_id(spool, new_id),
        boot_id=(proc / "sys/kernel/random/boot_id").read_text().strip(),
        place=place,
    )


def _name(host_root: Path) -> str:
    """The kernel's answer, or the host's file where the sidecar lives in a container with a name of its own."""
    return ("" if host_root == Path("/") else _read(host_root / "etc/hostname")) or os.uname().nodename


def _machine_id(host_root: Path) -> str | None:
    """machine-id(5); "uninitialized" and an empty file mean that there is none yet."""
    ids = (_read(host_root / file) for file in _MACHINE_ID_FILES)
    return next((machine_id for machine_id in ids if _MACHINE_ID.fullmatch(machine_id)), None)


def _board_id(host_root: Path) -> str | None:
    """The firmware's UUID, as 32 hex digits."""
    uuid = _read(host_root / "sys/class/dmi/id/product_uuid").lower()
    return uuid.replace("-", "") if _UUID.fullmatch(uuid) and uuid not in _NO_UUIDS else None


def _kept_id(spool: Path, new_id: Callable[[], str]) -> str:
    """The id made at the first start. Two sidecars that start at once agree: link(2) lets one win."""
    file = spool / "host-id"
    if not file.exists():
        draft = spool / f".host-id.{os.getpid()}"
        try:
            spool.mkdir(parents=True, exist_ok=True)
            with draft.open("w") as out:
                out.write(new_id() + "\n")
                out.flush()
                os.fsync(out.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(draft, file)
        except OSError as error:
            raise FlowlakeError(
                f"this host has no /etc/machine-id, and {file} cannot be written ({error.strerror}): "
                "run systemd-machine-id-setup, or make the spool directory writable"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()
    kept = _read(file)
    if not _MACHINE_ID.fullmatch(kept):
        raise FlowlakeError(f"{file} does not hold an id: remove it, and a new one is made at the next start")
    return kept


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
