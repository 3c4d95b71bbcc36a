"""Answers on their way out: a table for people, csv, json and parquet for programs.

table   units for the eye (KiB, ms, %), times in UTC to the millisecond; no text is cut: where a row is too wide for the
        terminal, each of its columns gets a line
csv     a header line; raw numbers; times as 2026-11-22T07:30:00.000000Z; null is empty, an empty string is ""
json    one object per line (so that a stream can be read, and cut, anywhere); raw numbers; times as in csv
parquet the types as they are

What a column is, its name says: `..._us`, `..._seconds`, `bytes_...`, `..._share`.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from settings.errors import FlowlakeError, WrongUse

FORMATS = ("table", "csv", "json", "parquet")
# Widths of a table are taken from its first rows: an answer of any length begins at once. Later rows that are wider
# push their line out, and are printed whole.
_MEASURED_ROWS = 1000
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"  # Arrow's %S has the fraction of the type's unit
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def write(answer: pa.RecordBatchReader, format: str | None, file: Path | None) -> None:
    """Writes an answer to a file, or to standard output.

    format: one of FORMATS; None is a table on a terminal and csv elsewhere. A file appears whole or not at all.
    Raises WrongUse where parquet would go to a terminal, FlowlakeError where the file cannot be written.
    """
    on_terminal = file is None and sys.stdout.isatty()
    chosen = format or ("table" if on_terminal else "csv")
    if chosen == "parquet" and on_terminal:
        raise WrongUse("parquet is not for a terminal: add --output FILE, or pipe it on")
    with _opened(file) as sink:
        if chosen == "table":
            width = shutil.get_terminal_size().columns if on_terminal else None
            for line in table_lines(answer, width):
                sink.write(line.encode() + b"\n")
        elif chosen == "csv":
            _write_csv(answer, sink)
        elif chosen == "json":
            for line in json_lines(answer):
                sink.write(line.encode() + b"\n")
        else:
            with pq.ParquetWriter(sink, answer.schema, compression="zstd") as writer:
                for batch in answer:
                    writer.write_batch(batch)


def table_lines(answer: pa.RecordBatchReader, width: int | None) -> Iterator[str]:
    """The answer as an aligned table; as one line per column where a row is wider than `width` characters.

    width: None where lines may be of any length.
    """
    names = answer.schema.names
    numeric = [_is_number(field.type) for field in answer.schema]
    rows = _formatted_rows(answer)
    head = list(islice(rows, _MEASURED_ROWS))
    widths = [max(map(len, column)) for column in zip(names, *head, strict=True)]
    if width is not None and sum(widths) + 2 * (len(widths) - 1) > width and head:
        yield from _one_column_per_line(names, chain(head, rows))
        return

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(cells, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    yield line(names)
    yield "  ".join("-" * w for w in widths)
    count = 0
    for count, row in enumerate(chain(head, rows), 1):  # noqa: B007 (the last count is wanted below)
        yield line(row)
    if count == 0:
        yield "(no rows)"


def json_lines(batches: Iterable[pa.RecordBatch]) -> Iterator[str]:
    """One JSON object per row. Not a number and infinity are null, since JSON has neither."""
    for batch in batches:
        names = batch.schema.names
        columns = [column.to_pylist() for column in batch.columns]
        for row in zip(*columns, strict=True):
            yield json.dumps({n: plain(v) for n, v in zip(names, row, strict=True)}, ensure_ascii=False)


def plain(value: object) -> object:
    """A value of Arrow as JSON knows it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return utc(value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def utc(time: datetime) -> str:
    """ISO 8601 with microseconds. A time without a zone is what it says."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if time.tzinfo else time.isoformat()


def for_eyes(name: str, value: object) -> str:
    """A value as a table shows it, in the unit that the column's name tells."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        shown = value.astimezone(UTC) if value.tzinfo else value
        text = shown.strftime("%Y-%m-%d %H:%M:%S.%f")
        return text[:-7] if shown.microsecond == 0 else text[:-3]
    if isinstance(value, int | float | Decimal):
        number = float(value)
        if "bytes" in name.split("_"):
            return _binary(number)
        if name.endswith("_us"):
            return _duration(number / 1e6)
        if name.endswith("_seconds"):
            return _duration(number)
        if name.endswith("_share"):
            return f"{number * 100:.3g} %"
        if isinstance(value, float):
            return f"{value:.6g}"
        return str(value)
    if isinstance(value, date | str):
        # A name of a process may hold anything: no line breaks, no terminal escapes.
        return "".join(char if char.isprintable() else "\ufffd" for char in str(value))
    return json.dumps(plain(value), ensure_ascii=False)


def endpoint(name: str, port: int) -> str:
    """An address (or the name it has) with its port; IPv6 in brackets."""
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _binary(count: float) -> str:
    for unit in _BINARY_UNITS[:-1]:
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_BINARY_UNITS[-1]}"


def _duration(seconds: float) -> str:
    size = abs(seconds)
    if size < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if size < 1:
        return f"{seconds * 1e3:.1f} ms"
    if size < 120:
        return f"{seconds:.1f} s"
    if size < 7200:
        return f"{seconds / 60:.0f} min"
    if size < 2 * 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def _formatted_rows(answer: pa.RecordBatchReader) -> Iterator[list[str]]:
    names = answer.schema.names
    for batch in answer:
        columns = [[for_eyes(n, v) for v in c.to_pylist()] for n, c in zip(names, batch.columns, strict=True)]
        yield from map(list, zip(*columns, strict=True))


def _is_number(type_: pa.DataType) -> bool:
    return any(test(type_) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal))


def _one_column_per_line(names: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    name_width = max(map(len, names))
    for number, row in enumerate(rows, 1):
        yield f"--- row {number} ---"
        for name, cell in zip(names, row, strict=True):
            yield f"{name.ljust(name_width)}  {cell}"


def _write_csv(answer: pa.RecordBatchReader, sink: BinaryIO) -> None:
    schema = pa.schema([(field.name, _csv_type(field.type)) for field in answer.schema])
    with pyarrow.csv.CSVWriter(sink, schema) as writer:
        for batch in answer:
            columns = [_for_csv(column) for column in batch.columns]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _csv_type(type_: pa.DataType) -> pa.DataType:
    simple = _is_number(type_) or pa.types.is_boolean(type_)
    return type_ if simple else pa.string()


def _for_csv(column: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(column.type):
        return pc.strftime(column, format=_TIME_FORMAT if column.type.tz else _TIME_FORMAT.removesuffix("Z"))
    if _csv_type(column.type) == column.type:
        return column
    if pa.types.is_nested(column.type):
        texts = [None if v is None else json.dumps(plain(v), ensure_ascii=False) for v in column.to_pylist()]
        return pa.array(texts, pa.string())
    return pa.array([None if v is None else str(plain(v)) for v in column.to_pylist()], pa.string())


@contextmanager
def _opened(file: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that appears under its name only once it is whole."""
    if file is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        with unfinished.open("wb") as sink:
            yield sink
        unfinished.replace(file)
    except OSError as error:
        raise FlowlakeError(f"cannot write {file}: {error.strerror}; name another file with --output") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
