"""Settings of every room: declared where they are used, loaded in one way, documented from their declarations."""

from settings.declare import GiB, KiB, MiB, Setting, setting, settings_of
from settings.load import CONFIG_VARIABLE, add_flags, load
from settings.reference import settings_reference

__all__ = [
    "CONFIG_VARIABLE",
    "GiB",
    "KiB",
    "MiB",
    "Setting",
    "add_flags",
    "load",
    "setting",
    "settings_of",
    "settings_reference",
]
