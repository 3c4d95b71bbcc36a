"""The page about settings, from their declarations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from settings.declare import GiB, KiB, MiB, Setting, settings_of
from settings.values import expected


def settings_reference(config_classes: Iterable[type]) -> str:
    """A Markdown section per config class: its docstring's first line, and a table of its settings."""
    return "\n".join(_section(config_class) for config_class in config_classes)


def _section(config_class: type) -> str:
    summary = (config_class.__doc__ or "").strip().partition("\n")[0]
    lines = [f"## {summary}", "", "| setting | environment | flag | takes | default | |", "|---|---|---|---|---|---|"]
    for setting in settings_of(config_class):
        flag = "none: it is a secret" if setting.secret else f"`{setting.flag}`"
        cells = (f"`{setting.name}`", f"`{setting.variable}`", flag, expected(setting), _default(setting), setting.help)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(setting: Setting) -> str:
    value = setting.default
    if value is dataclasses.MISSING:
        return "must be given"
    if setting.secret or value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and setting.is_size:
        return f"`{_size(value)}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`" if isinstance(value, int | Path) or value else "empty"


def _size(count: int) -> str:
    for unit, name in ((GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB")):
        if count and count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)
