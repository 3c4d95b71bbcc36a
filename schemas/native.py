"""schemas/flow_codec.c as Python sees it: the structs, and the two functions over numpy's memory.

Imports numpy only: the sidecar uses it. The functions run without the interpreter's lock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.wire import Kind, WireField
from settings.errors import FlowlakeError

LIBRARY = Path(__file__).with_name("_flow_codec.so")
VERSION = 1  # flow_codec_version
WORD_BYTES = 8

# struct field, struct source, struct target
FIELD = np.dtype(
    [("least", "i8"), ("most", "i8"), ("kind", "i4"), ("nullable", "i4"), ("longest", "i4"), ("pad", "i4")]
)
SOURCE = np.dtype([("values", "u8"), ("stride", "i8"), ("mask", "u8"), ("mask_stride", "i8"), ("item", "i8")])
TARGET = np.dtype([("values", "u8"), ("valid", "u8"), ("width", "i8")])

_KINDS = {Kind.BOOLEAN: 0, Kind.ENUM: 1, Kind.INT: 1, Kind.LONG: 1, Kind.ADDRESS: 2}  # enum field_kind
_LONGEST = {Kind.BOOLEAN: 1, Kind.ENUM: 5, Kind.INT: 5, Kind.LONG: 10, Kind.ADDRESS: 16}

ITEMS = {
    np.dtype(name): code
    for name, code in (("?", 0), ("u1", 0), ("i1", 1), ("u2", 2), ("i2", 3), ("u4", 4), ("i4", 5), ("i8", 6))
}
"""enum item."""

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_capsule_pointer.restype = ctypes.c_void_p
_DATA_AT = 40  # of `void *data` in PyArrayInterface


class FailureCode(IntEnum):
    """enum failure_code."""

    OUT_OF_RANGE = 1
    NO_BRANCH = 2
    BAD_VARINT = 3
    CUT_OFF = 4
    TOO_MANY = 5
    BAD_SIZE = 6
    LEFT_OVER = 7
    NO_ROOM = 8


class Failure(ctypes.Structure):
    """struct failure. field: its place, or -1. offset: the row where encoding, the byte where decoding."""

    _fields_ = (("code", ctypes.c_int32), ("field", ctypes.c_int32), ("offset", ctypes.c_int64))


class CodecError(Exception):
    """What the C code could not do. field: the place of the field, or -1."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.code, failure.field, failure.offset)
        self.code = FailureCode(failure.code)
        self.field = int(failure.field)
        self.offset = int(failure.offset)


def address(array: NDArray[Any]) -> int:
    """Where the array's first element is. In a fifth of the time that array.ctypes.data takes: 0.5 us, not 2.6.

    https://numpy.org/doc/stable/reference/arrays.interface.html#c-struct-access
    """
    capsule = array.__array_struct__  # owns the struct that is read next
    data: int | None = ctypes.c_void_p.from_address(_capsule_pointer(capsule, None) + _DATA_AT).value
    return data or 0


class FieldTable:
    """The fields of one schema's flows, as the C code has them.

    array: (fields,) of FIELD.
    """

    def __init__(self, fields: Sequence[WireField]) -> None:
        self.array = np.array(
            [(*_range(field), _KINDS[field.kind], field.nullable, _LONGEST[field.kind], 0) for field in fields], FIELD
        )
        self.longest_row = int(self.array["longest"].sum() + self.array["nullable"].sum())
        self.least_row = sum(field.least_bytes for field in fields)
        self._address = self.array.ctypes.data

    def encode(self, sources: NDArray[Any], rows: int) -> NDArray[np.uint8]:
        """The concatenated encodings of the rows.

        sources: (fields,) of SOURCE; what they point at must have the rows, and outlive the call.
        Raises CodecError.
        """
        out = np.empty(rows * self.longest_row + WORD_BYTES, np.uint8)
        failure = Failure()
        length = _LIBRARY.flow_codec_encode(
            self._address, len(self.array), sources.ctypes.data, rows, self.longest_row, out.ctypes.data, len(out),
            ctypes.byref(failure),
        )  # fmt: skip
        if length < 0:
            raise CodecError(failure)
        return out[:length]

    def decode(
        self, value: bytes, start: int, most: NDArray[np.int64], targets: NDArray[Any], first: int, room: int
    ) -> int:
        """Decode the array of flows that is the end of a message; returns how many there are.

        value, start: the message, and where its array begins.
        most: (fields,) the greatest number of each field: `array["most"]`, or less.
        targets: (fields,) of TARGET with room for rows first to first + room, and a word behind them.
        Raises CodecError; what is in those rows then is waste.
        """
        failure = Failure()
        rows: int = _LIBRARY.flow_codec_decode(
            self._address, len(self.array), self.least_row, most.ctypes.data, value, start, len(value),
            targets.ctypes.data, first, room, ctypes.byref(failure),
        )  # fmt: skip
        if rows < 0:
            raise CodecError(failure)
        return rows


def _range(field: WireField) -> tuple[int, int]:
    """The least and the greatest number."""
    match field.kind:
        case Kind.BOOLEAN:
            return 0, 1
        case Kind.ENUM:
            return 0, len(field.symbols) - 1
        case Kind.INT:
            return -(2**31), 2**31 - 1
        case Kind.LONG:
            return -(2**63), 2**63 - 1
        case Kind.ADDRESS:
            return 0, 0


def load(path: Path) -> ctypes.CDLL:
    """Raises FlowlakeError where the library is not there, or is another version's."""
    try:
        library = ctypes.CDLL(str(path))
        version = ctypes.c_int32.in_dll(library, "flow_codec_version").value
    except (OSError, ValueError):
        version = None
    if version != VERSION:
        what = "is not built" if version is None else "was built from another version"
        raise FlowlakeError(f"the codec {path.name} {what}. Run `make setup`.")
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.flow_codec_encode.argtypes = (pointer, number, pointer, number, number, pointer, number, pointer)
    library.flow_codec_encode.restype = number
    library.flow_codec_decode.argtypes = (
        pointer, number, number, pointer, ctypes.c_char_p, number, number, pointer, number, number, pointer,
    )  # fmt: skip
    library.flow_codec_decode.restype = number
    return library


_LIBRARY = load(LIBRARY)
