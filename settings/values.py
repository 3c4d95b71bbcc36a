"""From what people write to a value: `2GiB`, `500ms`, `no`, and what TOML has already parsed."""

from __future__ import annotations

import math
import re
from pathlib import Path

from settings.declare import Setting

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
# Decimal and binary units are both meant as written: kB is 1000, KiB is 1024.
_SIZE_UNITS = {"": 1, "B": 1}
_SIZE_UNITS |= {prefix + "B": 1000 ** (power + 1) for power, prefix in enumerate(("k", "M", "G", "T"))}
_SIZE_UNITS |= {prefix + "iB": 1024 ** (power + 1) for power, prefix in enumerate(("K", "M", "G", "T"))}
_DURATION_UNITS = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"([-+]?[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z]*)")


class BadValueError(Exception):
    """What was expected instead, to follow the words "expected"."""


def expected(setting: Setting) -> str:
    """What the setting takes, in words."""
    if setting.is_size:
        words = "a size in bytes (such as 16MiB)"
    elif setting.is_duration:
        words = "a duration in seconds (such as 30, 500ms, 2m)"
    elif setting.type is bool:
        words = "true or false"
    elif setting.type is int:
        words = "a whole number"
    elif setting.type is float:
        words = "a number"
    elif setting.type is Path:
        words = "a path"
    else:
        words = "text"
    if setting.type in (int, float) and setting.minimum != 0:
        words += f" of at least {setting.minimum if setting.minimum % 1 else int(setting.minimum)}"
    return words + (", or nothing" if setting.optional else "")


def parse_text(setting: Setting, text: str) -> object:
    """The value of a flag or of an environment variable. Raises BadValueError."""
    if text == "" and setting.optional:
        return None
    if setting.type is str:
        return text
    if setting.type is Path:
        if text == "":
            raise BadValueError(expected(setting))
        return Path(text)
    if setting.type is bool:
        return _parse_bool(setting, text.strip().lower())
    return _parse_number(setting, text.strip())


def parse_toml(setting: Setting, value: object) -> object:
    """A value as TOML typed it: text as elsewhere, numbers and booleans only where meant. Raises BadValueError."""
    if isinstance(value, str):
        return parse_text(setting, value)
    if isinstance(value, bool) and setting.type is bool:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and setting.type in (int, float):
        return _checked(setting, value)
    raise BadValueError(expected(setting))


def _parse_bool(setting: Setting, text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise BadValueError(expected(setting))


def _parse_number(setting: Setting, text: str) -> int | float:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise BadValueError(expected(setting))
    digits, unit = match[1], match[2]
    if setting.is_size:
        units: dict[str, int] | dict[str, float] = _SIZE_UNITS
    elif setting.is_duration:
        units = _DURATION_UNITS
    else:
        units = {"": 1}
    if unit not in units:
        raise BadValueError(expected(setting))
    try:
        number: int | float = int(digits)
    except ValueError:
        number = float(digits)
    return _checked(setting, number * units[unit])


def _checked(setting: Setting, number: int | float) -> int | float:
    if not math.isfinite(number) or number < setting.minimum:
        raise BadValueError(expected(setting) + (", not less than 0" if setting.minimum == 0 and number < 0 else ""))
    if setting.type is float:
        return float(number)
    if number != int(number):
        raise BadValueError(expected(setting))
    return int(number)
