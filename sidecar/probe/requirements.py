"""What the probe needs of a host, each with what to do when it is missing.

Its own start fails with the first one; `flowlake doctor` shows them all.
"""

from __future__ import annotations

import ctypes
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.probe.btf import KERNEL_BTF
from sidecar.probe.libbpf import SONAME
from sidecar.probe.loader import Mode, ProbeError

# include/uapi/linux/capability.h
CAP_SYS_ADMIN: Final = 21
CAP_PERFMON: Final = 38
CAP_BPF: Final = 39
OLDEST_KERNEL: Final = (5, 12)  # atomics that return a value; ring buffers and socket storage in tracing are older


@dataclass(frozen=True)
class Check:
    """One line of the checklist. `remedy` is empty when all is well."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def check_kernel(release: str) -> Check:
    """release: as `uname -r` prints it."""
    found = re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    return Check(
        "kernel",
        version >= OLDEST_KERNEL,
        f"Linux {release}",
        "" if version >= OLDEST_KERNEL else "use Linux 5.12 or newer (tested: 6.1 and 6.18)",
    )


def check_privileges(status: str) -> Check:
    """status: the text of /proc/self/status. Root in a container may lack capabilities, so only those count."""
    line = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    effective = int(line[1], 16) if line else 0
    if effective >> CAP_SYS_ADMIN & 1:
        return Check("privileges", True, "CAP_SYS_ADMIN")
    needed = {CAP_BPF: "CAP_BPF", CAP_PERFMON: "CAP_PERFMON"}
    missing = [name for number, name in needed.items() if not effective >> number & 1]
    if not missing:
        return Check("privileges", True, "CAP_BPF and CAP_PERFMON")
    return Check(
        "privileges",
        False,
        f"without {' and '.join(missing)}",
        "run as root, or give the process CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN)",
    )


def check_btf(path: Path | None) -> Check:
    """path: BTF from elsewhere, for a kernel that has none of its own."""
    where = path or KERNEL_BTF
    if where.exists():
        return Check("BTF", True, str(where))
    if path is not None:
        return Check("BTF", False, f"{path} is not there", "name the file that holds the BTF of the running kernel")
    return Check(
        "BTF",
        False,
        f"this kernel has none ({where})",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF, or name a file with the BTF of this kernel (btfhub has many)",
    )


def check_libbpf() -> Check:
    """The library, by loading it."""
    try:
        library = ctypes.CDLL(SONAME)
    except OSError:
        return Check("libbpf", False, f"{SONAME} is not installed", "install libbpf 1.0 or newer (Debian: libbpf1)")
    library.libbpf_version_string.restype = ctypes.c_char_p
    return Check("libbpf", True, library.libbpf_version_string().decode())


def check_object(directory: Path, mode: Mode | None) -> Check:
    """The compiled probe; mode None means that both should be there."""
    modes = [mode] if mode else list(Mode)
    missing = [each.object_name for each in modes if not (directory / each.object_name).exists()]
    if not missing:
        return Check("probe object", True, ", ".join(each.object_name for each in modes))
    return Check("probe object", False, f"{', '.join(missing)} not in {directory}", "build it with: make -C bpf")


def checks(object_directory: Path, btf_path: Path | None = None, mode: Mode | None = None) -> list[Check]:
    """Everything that the probe needs, in the order in which to mend it."""
    return [
        check_kernel(platform.release()),
        check_privileges(Path("/proc/self/status").read_text()),
        check_btf(btf_path),
        check_libbpf(),
        check_object(object_directory, mode),
    ]


def require(object_directory: Path, btf_path: Path | None, mode: Mode | None) -> None:
    """Raises ProbeError with the first thing that is missing, and what to do about it."""
    for check in checks(object_directory, btf_path, mode):
        if not check.ok:
            remedy = check.remedy[0].upper() + check.remedy[1:]
            raise ProbeError(f"cannot load the probe: {check.name}: {check.detail}. {remedy}")


def modes_to_try(wanted: Mode | None, btf_path: Path | None) -> list[Mode]:
    """tp_btf needs the kernel's own BTF, where the verifier looks up types; a file serves raw tracepoints only."""
    if wanted is not None:
        return [wanted]
    return [Mode.RAW_TRACEPOINT] if btf_path else [Mode.TP_BTF, Mode.RAW_TRACEPOINT]
