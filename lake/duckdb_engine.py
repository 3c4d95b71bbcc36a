"""DuckDB over a local lake: one view per table, one read-only question at a time.

What a question may do: SELECT from the views. DuckDB is locked before it sees the question: it opens no file at all,
loads and attaches nothing, and its settings are fixed. The lake's files reach it as Arrow datasets, which push filters
and columns down to Parquet and skip the hours that a filter on `date` and `hour` excludes. (With DuckDB's own reader it
had to be allowed the lake's folders, and then `WITH x AS (COPY ... TO ...) SELECT ...`, a SELECT, may write there.)

A file that cannot be read stops the question, and is named: an answer that quietly leaves rows out is worse than none
at 3 a.m. `skip_unreadable` answers from the rest, and says how many files that leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs

from lake.config import local_path
from lake.layout import parse_file_key
from lake.questions import Window
from lake.ranges import LAKE_KEY, LakeFile
from lake.store import StoreError
from schemas.arrow import ARROW_TYPES
from schemas.table import Table, Type
from schemas.tables import TABLES
from settings.errors import FlowlakeError, WrongUse

BATCH_ROWS = 10_000  # a result travels in batches of this many: bounded memory, and the first rows come at once

_PARTITION = re.compile(r"date=(\d{4}-\d\d-\d\d)/hour=(\d\d)")


class QueryError(FlowlakeError):
    """The question cannot be answered; one line that says why."""


class UnreadableFiles(QueryError):
    """Files of the lake cannot be read, or are not the lake's own."""

    def __init__(self, unreadable: Sequence[Unreadable]) -> None:
        first = unreadable[0]
        more = f", and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        super().__init__(
            f"cannot read {first.path} ({first.why}){more}: "
            "restore it, or answer from the other files with --skip-unreadable"
        )
        self.unreadable = tuple(unreadable)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file in a table's folder that no answer can come from."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class TableFiles:
    """What stands in a table's folders for a window: the lake's own files, and what else is there."""

    own: tuple[Path, ...]
    foreign: tuple[Unreadable, ...]


@dataclass(slots=True)
class DuckDBEngine:
    """One question at a time over a local lake.

    lake: the lake's folder. window: limits the views to rows of that time, and the files to its hours; None: all.
    """

    lake: Path
    window: Window | None = None
    skip_unreadable: bool = False
    left_out: list[Unreadable] = field(default_factory=list)  # filled by `ask`, where skip_unreadable

    @classmethod
    def open(cls, uri: str, window: Window | None = None, *, skip_unreadable: bool = False) -> Self:
        """uri: a folder or file:// URI. Raises FlowlakeError where there is no lake that this version can read."""
        path = local_path(uri)
        check_lake(path)
        return cls(path, window, skip_unreadable)

    @contextmanager
    def ask(self, sql: str, values: Mapping[str, object] | None = None) -> Iterator[pa.RecordBatchReader]:
        """The answer, as batches of up to BATCH_ROWS rows, while the context lasts.

        Raises WrongUse where the SQL is not one SELECT or cannot be meant, UnreadableFiles, QueryError.
        """
        with duckdb.connect(":memory:") as connection, self._explained(sql):
            connection.execute("SET TimeZone = 'UTC'")
            _refuse_all_but_one_select(connection, sql)
            for table in TABLES.values():
                self._create_view(connection, table, _mentions(sql, table))
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            answer = connection.sql(sql, params=dict(values or {})).to_arrow_reader(BATCH_ROWS)
            yield pa.RecordBatchReader.from_batches(answer.schema, _read(answer))

    def _create_view(self, connection: duckdb.DuckDBPyConnection, table: Table, mentioned: bool) -> None:
        """The view of one table. One that the question does not name is empty: its folders need not be looked at."""
        connection.register(f"{table.name}_files", dataset(table, self._files(table) if mentioned else ()))
        view = f"SELECT * FROM {table.name}_files"
        if self.window is not None:
            since, until = (f"TIMESTAMPTZ '{time.isoformat()}'" for time in (self.window.since, self.window.until))
            view += f" WHERE {table.partition_time} >= {since} AND {table.partition_time} < {until}"
        connection.execute(f"CREATE VIEW {table.name} AS {view}")

    def _files(self, table: Table) -> tuple[Path, ...]:
        """The table's files of the window, without what cannot be read where that is to be skipped."""
        found = table_files(self.lake, table, self.window)
        if not self.skip_unreadable:
            if found.foreign:
                raise UnreadableFiles(found.foreign)
            return found.own
        damaged = unreadable_files(table, found.own)
        self.left_out += [*found.foreign, *damaged]
        bad = {file.path for file in damaged}
        return tuple(path for path in found.own if path not in bad)

    @contextmanager
    def _explained(self, sql: str) -> Iterator[None]:
        """Turns DuckDB's errors into ours. A file that it cannot read is looked for only now: it costs a full read."""
        try:
            yield
        except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
            raise WrongUse(f"cannot understand the SQL: {_one_line(error)}") from error
        except duckdb.PermissionException as error:
            raise WrongUse(f"a question reads the lake and nothing else: {_one_line(error)}") from error
        except duckdb.Error as error:
            for table in TABLES.values():
                files = table_files(self.lake, table, self.window).own if _mentions(sql, table) else ()
                if damaged := unreadable_files(table, files):
                    raise UnreadableFiles(damaged) from error
            raise QueryError(f"the question failed: {_one_line(error)}") from error


def check_lake(path: Path) -> LakeFile:
    """Its `_lake.json`. Raises FlowlakeError where there is no lake, it cannot be read, or a newer flowlake made it."""
    try:
        body = (path / LAKE_KEY).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"there is no lake at {path}: start one with `flowlake up`, or name it with --lake or FLOWLAKE_LAKE"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot read the lake at {path} ({error.strerror}): run as a user who may") from error
    lake_file = LakeFile.from_json(body)
    lake_file.check()
    return lake_file


def table_files(lake: Path, table: Table, window: Window | None) -> TableFiles:
    """The files of a table in the hours of the window, in order of their keys. Raises StoreError."""
    own: list[Path] = []
    foreign: list[Unreadable] = []
    bounds = window.values() if window else None
    try:
        for folder in _hour_folders(lake / table.name):
            partition = _PARTITION.fullmatch("/".join(folder.parts[-2:]))
            if partition is None:
                foreign.append(Unreadable(folder, "not a folder date=YYYY-MM-DD/hour=HH"))
            elif bounds is None or (
                (bounds["since_date"], bounds["since_hour"]) <= partition.groups()
                and partition.groups() <= (bounds["until_date"], bounds["until_hour"])
            ):
                for path in sorted(folder.iterdir()):
                    if parse_file_key(path.relative_to(lake).as_posix()):
                        own.append(path)
                    else:
                        foreign.append(Unreadable(path, "not a file that flowlake wrote"))
    except OSError as error:
        raise StoreError(
            f"cannot read {error.filename} of the lake ({error.strerror}): run as a user who may"
        ) from error
    return TableFiles(tuple(own), tuple(foreign))


def _hour_folders(table_folder: Path) -> Iterator[Path]:
    """What stands two levels down. Raises OSError: Path.glob would pass over a folder that it may not read."""
    if not table_folder.exists():
        return
    for day in sorted(table_folder.iterdir()):
        yield from sorted(day.iterdir())


def dataset(table: Table, paths: Sequence[Path]) -> ds.Dataset:
    """The rows of these files, with the columns of the table, and `date` and `hour` from their folders.

    No file is opened here. A column that a file does not have, since it was added later, is null.
    """
    schema = pa.schema(
        [
            *((column.name, ARROW_TYPES[column.type]) for column in table.columns),
            ("date", ARROW_TYPES[Type.STRING]),
            ("hour", ARROW_TYPES[Type.STRING]),
        ]
    )
    partitions = []
    for path in paths:
        key = parse_file_key("/".join(path.parts[-4:]))
        assert key is not None  # table_files gives no others
        partitions.append((ds.field("date") == key.date) & (ds.field("hour") == key.hour))
    return ds.FileSystemDataset.from_paths(
        [str(path) for path in paths],
        schema=schema,
        format=ds.ParquetFileFormat(),
        filesystem=pa.fs.LocalFileSystem(),
        partitions=partitions,
    )


def unreadable_files(table: Table, paths: Sequence[Path]) -> list[Unreadable]:
    """Those that cannot be read from end to end: every page is decoded, a footer alone proves little."""
    unreadable = []
    for path in paths:
        try:
            for _ in dataset(table, [path]).to_batches():
                pass
        except (OSError, pa.ArrowException) as error:
            unreadable.append(Unreadable(path, _one_line(error).replace(f" '{path}'", "")))
    return unreadable


def _read(answer: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """Arrow's stream hides that an error is DuckDB's: it is one again when it leaves here."""
    try:
        yield from answer
    except (OSError, pa.ArrowException) as error:
        raise duckdb.Error(str(error)) from error


def _refuse_all_but_one_select(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise WrongUse("a question is one SELECT: nothing else is run against a lake")


def _mentions(sql: str, table: Table) -> bool:
    """Whether the table may be read. Too often is only slow; so any mention counts, in comments and strings too."""
    return table.name in sql.lower()


def _one_line(error: Exception) -> str:
    """DuckDB's own words, without its picture of the place in the SQL."""
    first_paragraph = str(error).split("\n\nLINE ")[0]
    words = " ".join(first_paragraph.split())
    return re.sub(r"^(?:[A-Z]\w* )+Error: ", "", words).removesuffix(".")
