"""What the running kernel's type information says of itself: the numbers behind an enum's names."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from types import TracebackType
from typing import Final

from sidecar.probe.libbpf import forget_messages, library, pointer

KERNEL_BTF: Final = Path("/sys/kernel/btf/vmlinux")

# enum of include/uapi/linux/btf.h
_KIND_ENUM: Final = 6


class Btf:
    """BTF of one kernel, read from a file; close() or a `with` block frees it."""

    def __init__(self, path: Path) -> None:
        """Raises LibbpfError if the file holds no BTF."""
        forget_messages()
        self._lib = library()
        self._btf = pointer(self._lib.btf__parse(str(path).encode(), None), f"cannot read BTF from {path}")

    def enum_value(self, enum: str, name: str) -> int | None:
        """The number behind a name of an enum; None if this kernel has no such name."""
        type_id = self._lib.btf__find_by_name_kind(self._btf, enum.encode(), _KIND_ENUM)
        if type_id < 0:
            return None
        members = self._lib.btf__type_by_id(self._btf, type_id) + 12
        for index in range(self._vlen(type_id)):
            name_offset, value = struct.unpack("Ii", ctypes.string_at(members + 8 * index, 8))
            if self._lib.btf__name_by_offset(self._btf, name_offset) == name.encode():
                return int(value)
        return None

    def close(self) -> None:
        """Frees it."""
        self._lib.btf__free(self._btf)

    def _type(self, type_id: int) -> tuple[int, int, int]:
        """struct btf_type: name_off, info, and size or type."""
        where = self._lib.btf__type_by_id(self._btf, type_id)
        name_offset, info, size_or_type = struct.unpack("III", ctypes.string_at(where, 12))
        return name_offset, info, size_or_type

    def _vlen(self, type_id: int) -> int:
        return self._type(type_id)[1] & 0xFFFF

    def __enter__(self) -> Btf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
