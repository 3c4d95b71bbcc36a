"""libbpf 1.x through ctypes: the few calls that the probe makes, and errors that keep libbpf's own words.

LibbpfMissing and LibbpfError are FlowlakeErrors, one line in their text; LibbpfError.log has all of the verifier's log.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any, Final

from settings.errors import FlowlakeError

SONAME: Final = "libbpf.so.1"


class LibbpfMissing(FlowlakeError):
    """The library is not installed."""


class LibbpfError(FlowlakeError):
    """libbpf or the kernel refused something. `log` is all that libbpf said, the verifier's log included."""

    def __init__(self, what: str, errno: int, log: str) -> None:
        self.errno = errno
        self.log = log
        super().__init__(f"{what}: {os.strerror(errno)} (--verbose shows what the kernel said)")


class OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts (libbpf.h), as far as btf_custom_path."""

    _fields_ = (
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", c_char_p),
        ("attach_prog_fd", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
    )


class IterOptions(ctypes.Structure):
    """struct bpf_iter_attach_opts (libbpf.h)."""

    _fields_ = (("sz", c_size_t), ("link_info", c_void_p), ("link_info_len", c_uint32))


class BatchOptions(ctypes.Structure):
    """struct bpf_map_batch_opts (bpf.h)."""

    _fields_ = (("sz", c_size_t), ("elem_flags", c_uint64), ("flags", c_uint64))


class ProgramInfo(ctypes.Structure):
    """struct bpf_prog_info (include/uapi/linux/bpf.h), whose statistics come last but one."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("_before", ctypes.c_uint8 * (192 - 8)),
        ("run_time_ns", c_uint64),
        ("run_count", c_uint64),
        ("recursion_misses", c_uint64),
        ("verified_insns", c_uint32),
        ("_after", c_uint32 * 3),
    )


_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "libbpf_set_print": (c_void_p, (c_void_p,)),
    "bpf_object__open_file": (c_void_p, (c_char_p, POINTER(OpenOptions))),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__find_map_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__attach": (c_void_p, (c_void_p,)),
    "bpf_program__attach_iter": (c_void_p, (c_void_p, POINTER(IterOptions))),
    "bpf_link__fd": (c_int, (c_void_p,)),
    "bpf_link__destroy": (c_int, (c_void_p,)),
    "bpf_iter_create": (c_int, (c_int,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_map_delete_elem": (c_int, (c_int, c_void_p)),
    "bpf_map_lookup_batch": (
        c_int,
        (c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), POINTER(BatchOptions)),
    ),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, POINTER(c_uint32))),
    "libbpf_num_possible_cpus": (c_int, ()),
    "btf__parse": (c_void_p, (c_char_p, c_void_p)),
    "btf__free": (None, (c_void_p,)),
    "btf__find_by_name_kind": (c_int, (c_void_p, c_char_p, c_uint32)),
    "btf__type_by_id": (c_void_p, (c_void_p, c_uint32)),
    "btf__name_by_offset": (c_char_p, (c_void_p, c_uint32)),
}

_LIBC: Final = ctypes.CDLL(None)
_LIBC.vasprintf.argtypes = (POINTER(c_void_p), c_char_p, c_void_p)
_LIBC.free.argtypes = (c_void_p,)
_LIBC.free.restype = None

_PRINT: Final = CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_DEBUG: Final = 2  # LIBBPF_DEBUG of enum libbpf_print_level
_said: list[str] = []


def _listen(level: int, template: bytes, arguments: int) -> int:
    """Keeps what libbpf says. A va_list is a pointer on x86-64 and, passed by value, on arm64 too."""
    if level >= _DEBUG:
        return 0
    text = c_void_p()
    if _LIBC.vasprintf(ctypes.byref(text), template, arguments) >= 0:
        _said.append(ctypes.string_at(text.value or 0).decode(errors="replace"))
        _LIBC.free(text)
    return 0


_listener: Final = _PRINT(_listen)  # kept for ever: libbpf calls it


@cache
def library() -> ctypes.CDLL:
    """libbpf with its signatures declared, and its messages kept for errors. Raises LibbpfMissing."""
    try:
        lib = ctypes.CDLL(SONAME, use_errno=True)
    except OSError as error:
        raise LibbpfMissing(
            f"cannot load the probe: {SONAME} is not installed. Install libbpf 1.0 or newer (Debian: libbpf1)"
        ) from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    lib.libbpf_set_print(ctypes.cast(_listener, c_void_p))
    return lib


def forget_messages() -> None:
    """What libbpf said so far belongs to no later error."""
    _said.clear()


def messages() -> str:
    """What libbpf said since forget_messages()."""
    return "".join(_said)


def pointer(value: int | None, what: str) -> int:
    """A result that libbpf returns as NULL with errno set when it fails. Raises LibbpfError."""
    if not value:
        raise LibbpfError(what, ctypes.get_errno(), messages())
    return value


def number(value: int, what: str) -> int:
    """A result that is negative, and the negated errno, when it fails. Raises LibbpfError."""
    if value < 0:
        raise LibbpfError(what, -value, messages())
    return value
