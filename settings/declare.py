"""Declaring settings: a room's config is a frozen dataclass, and every field of it a setting.

    @dataclass(frozen=True)
    class SpoolConfig:
        max_bytes: int = setting(2 * GiB, "bound of the spool: ten minutes of 20,000 flows/s", name="spool_max_bytes")

One name, three spellings: `spool_max_bytes` in TOML, FLOWLAKE_SPOOL_MAX_BYTES, --spool-max-bytes. The unit is in the
name: `..._bytes` takes 2GiB, `..._seconds` takes 500ms.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ENVIRONMENT_PREFIX = "FLOWLAKE_"
_KEY = "flowlake setting"

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, as declared."""

    name: str  # as in TOML; the environment's and the flag's spelling derive from it
    field: str  # of the config class
    type: type
    optional: bool  # None is a value, written as an empty string
    default: object  # dataclasses.MISSING where it must be given
    help: str
    minimum: float  # of numbers
    secret: bool  # never shown, and no flag: other users see command lines

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def is_size(self) -> bool:
        return self.name.endswith("_bytes") and self.type is int

    @property
    def is_duration(self) -> bool:
        return self.name.endswith("_seconds") and self.type in (int, float)


def setting(
    default: Any = dataclasses.MISSING, help: str = "", *, name: str = "", minimum: float = 0, secret: bool = False
) -> Any:
    """A field of a config class that is a setting.

    help: what it decides, and why the default is what it is.
    name: where the field's name is too short to stand alone: `directory` of the spool is the setting `spool`.
    minimum: the smallest number that can be meant.
    """
    metadata = {_KEY: {"help": help, "name": name, "minimum": minimum, "secret": secret}}
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


def settings_of(config_class: type) -> Sequence[Setting]:
    """Every setting that a config class declares, in its order."""
    hints = typing.get_type_hints(config_class)
    declared = []
    for field in dataclasses.fields(config_class):
        facts = field.metadata[_KEY]
        type_, optional = _without_none(hints[field.name])
        declared.append(
            Setting(
                name=facts["name"] or field.name,
                field=field.name,
                type=type_,
                optional=optional,
                default=field.default,
                help=facts["help"],
                minimum=facts["minimum"],
                secret=facts["secret"],
            )
        )
    return declared


def _without_none(hint: Any) -> tuple[type, bool]:
    """(int, True) of `int | None`; (int, False) of `int`."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint, False
    (type_,) = (member for member in typing.get_args(hint) if member is not types.NoneType)
    return type_, True
