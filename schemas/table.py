"""What a table of the lake is: its columns with type, nullability and meaning, and nothing of any engine.

The Arrow schema, the DDL and the reference page in docs/ are derived from these definitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Type(StrEnum):
    """The few types that every engine reads alike (docs/decisions/, "types in the lake")."""

    STRING = "string"
    BOOL = "bool"
    INT32 = "int32"
    INT64 = "int64"
    TIMESTAMP_US = "timestamp_us"  # microseconds, UTC


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: Type
    meaning: str
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the lake, partitioned by the string columns `date` and `hour`."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    partition_time: str  # the column whose UTC date and hour name the partition

    def column(self, name: str) -> Column:
        """The column of that name; KeyError where there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)
