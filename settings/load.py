"""Loading settings: flags over environment over a TOML file over defaults. What nobody declared is an error."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from settings.declare import ENVIRONMENT_PREFIX, Setting, settings_of
from settings.errors import WrongUse
from settings.values import BadValueError, expected, parse_text, parse_toml

CONFIG_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"
_TEST_PREFIX = ENVIRONMENT_PREFIX + "TEST_"  # how tests are run; no setting of the program
_LONGEST_SHOWN = 80

Config = TypeVar("Config")


def add_flags(parser: argparse.ArgumentParser, *config_classes: type) -> None:
    """A flag for every setting of these classes (once, however many declare it), and --config for the TOML file."""
    parser.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS, help=f"settings as TOML (or {CONFIG_VARIABLE})"
    )
    added = set()
    for setting in (setting for config_class in config_classes for setting in settings_of(config_class)):
        if setting.secret or setting.name in added:
            continue
        added.add(setting.name)
        help = f"{setting.help} [{setting.variable}]".replace("%", "%%")
        if setting.type is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(setting.flag, dest=setting.name, action=action, default=argparse.SUPPRESS, help=help)
        else:
            metavar = setting.name.rpartition("_")[2].upper()
            parser.add_argument(setting.flag, dest=setting.name, metavar=metavar, default=argparse.SUPPRESS, help=help)


def load(
    config_class: type[Config],
    args: argparse.Namespace,
    environ: Mapping[str, str],
    *,
    known: Iterable[type],
    defaults: Mapping[str, object] = MappingProxyType({}),
) -> Config:
    """The config, from what was given anywhere.

    known: the config classes of all rooms; what none of them declares is refused, whoever would ask for it.
    defaults: by the settings' names, in place of the declared ones: for a command that has better.
    Raises WrongUse: one line with the setting, the value, what is expected, and where it came from.
    """
    names = {setting.name for other in (config_class, *known) for setting in settings_of(other)}
    _refuse_unknown_variables(environ, names)
    file, file_values = _read_file(args, environ, names)
    values = {}
    for setting in settings_of(config_class):
        for value in _given(setting, args, environ, file, file_values):
            values[setting.field] = value
            break
        else:
            if setting.name in defaults:
                values[setting.field] = defaults[setting.name]
            elif setting.default is dataclasses.MISSING:
                raise WrongUse(f"{setting.variable} is not set: give {expected(setting)}, or use {setting.flag}")
    try:
        return config_class(**values)
    except ValueError as error:  # a config class says in __post_init__ what cannot be meant together
        raise WrongUse(str(error)) from error


def _given(
    setting: Setting,
    args: argparse.Namespace,
    environ: Mapping[str, str],
    file: str,
    file_values: Mapping[str, object],
) -> Iterator[object]:
    """The values given for a setting, the one that counts first. Nothing that was given is skipped for being empty."""
    if hasattr(args, setting.name):
        flag = getattr(args, setting.name)
        yield flag if isinstance(flag, bool) else _parsed(setting, parse_text, flag, f"the flag {setting.flag}")
    if setting.variable in environ:
        yield _parsed(setting, parse_text, environ[setting.variable], "the environment")
    if setting.name in file_values:
        yield _parsed(setting, parse_toml, file_values[setting.name], file)


def _parsed(setting: Setting, parse: Any, value: object, source: str) -> object:
    try:
        return parse(setting, value)
    except BadValueError as error:
        shown = "(not shown: it is a secret)" if setting.secret else _shown(value)
        spelled = setting.variable if source == "the environment" else setting.name
        # "from None": the chain would carry a secret into a traceback.
        raise WrongUse(f"{spelled} is {shown}, expected {error} (from {source})") from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def _refuse_unknown_variables(environ: Mapping[str, str], names: set[str]) -> None:
    variables = {ENVIRONMENT_PREFIX + name.upper() for name in names} | {CONFIG_VARIABLE}
    for variable in sorted(environ):
        if variable.startswith(ENVIRONMENT_PREFIX) and not variable.startswith(_TEST_PREFIX):
            _refuse_unknown(variable, variables, "the environment")


def _read_file(
    args: argparse.Namespace, environ: Mapping[str, str], names: set[str]
) -> tuple[str, Mapping[str, object]]:
    """(what to call the file, its values); nothing where no file was named."""
    flag = getattr(args, "config", None)
    path = environ.get(CONFIG_VARIABLE) if flag is None else flag
    if path is None or path == "":
        return "", {}
    origin = CONFIG_VARIABLE if flag is None else "--config"
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongUse(f"cannot read the settings file {path} (from {origin}): {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise WrongUse(f"the settings file {path} (from {origin}) is not TOML: {reason}") from error
    for key in values:
        _refuse_unknown(key, names, str(path))
    return str(path), values


def _refuse_unknown(name: str, known: Iterable[str], source: str) -> None:
    known = sorted(known)
    if name in known:
        return
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise WrongUse(f"there is no setting {name} (from {source}){hint}")
