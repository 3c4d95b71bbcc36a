"""Which host this is, from the files of hosts of every kind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from settings.errors import FlowlakeError
from sidecar.host import Host, Place, read_host

MACHINE_ID = "3d1219c7c4c5404aaa1f6d2a48adfda4"
UUID = "EC2A1B2C-4D5E-6F70-8192-A3B4C5D6E7F8"
MADE = "0" * 31 + "7"


def write(root: Path, file: str, text: str) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text)


def host_id(root: Path, spool: Path) -> str:
    return read_host(root, spool, Place(), lambda: MADE).host_id


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.mark.parametrize("file", ["etc/machine-id", "var/lib/dbus/machine-id"])
def test_the_machine_id_is_the_hosts_id(root: Path, spool: Path, file: str) -> None:
    write(root, file, MACHINE_ID + "\n")
    assert host_id(root, spool) == MACHINE_ID
    assert not spool.exists()


@pytest.mark.parametrize("text", ["", "uninitialized\n", MACHINE_ID[:31]])
def test_a_machine_id_that_is_none_yields_to_the_boards_uuid(root: Path, spool: Path, text: str) -> None:
    write(root, "etc/machine-id", text)
    write(root, "sys/class/dmi/id/product_uuid", UUID + "\n")
    assert host_id(root, spool) == UUID.lower().replace("-", "")


@pytest.mark.parametrize(
    "uuid", ["", "Not Settable", "00000000-0000-0000-0000-000000000000", "03000200-0400-0500-0006-000700080009"]
)
def test_a_uuid_that_thousands_of_boards_share_is_no_id(root: Path, spool: Path, uuid: str) -> None:
    write(root, "sys/class/dmi/id/product_uuid", uuid)
    assert host_id(root, spool) == MADE


def test_an_id_that_had_to_be_made_is_kept(root: Path, spool: Path) -> None:
    made = iter([MADE, "f" * 32])
    first = read_host(root, spool, Place(), lambda: next(made))
    second = read_host(root, spool, Place(), lambda: next(made))
    assert first.host_id == second.host_id == MADE
    assert [file.name for file in spool.iterdir()] == ["host-id"]


def test_an_id_that_cannot_be_kept_is_one_line_that_says_what_to_do(root: Path, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(FlowlakeError, match=r"no /etc/machine-id.*host-id cannot be written.*systemd-machine-id-setup"):
        host_id(root, tmp_path / "spool")


def test_a_kept_id_that_is_none_is_one_line_that_says_what_to_do(root: Path, spool: Path) -> None:
    write(spool, "host-id", "")
    with pytest.raises(FlowlakeError, match="host-id does not hold an id: remove it"):
        host_id(root, spool)


def test_the_name_is_the_settings_else_the_hosts_file_seen_from_a_container_else_the_kernels(
    root: Path, spool: Path
) -> None:
    def name(said: str | None = None) -> str:
        return read_host(root, spool, Place(), lambda: MADE, name=said).host

    assert name() == socket.gethostname()
    write(root, "etc/hostname", "node-1\n")
    assert name() == "node-1"
    assert name("edge-7") == "edge-7"


def test_this_host_is_read_whole(spool: Path) -> None:
    place = Place(cluster="prod", region="eu-central-1", zone="eu-central-1a", account="123456789012")
    host = read_host(Path("/"), spool, place, lambda: MADE)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert host == Host(os.uname().nodename, host.host_id, boot_id, place)
