"""Every class of settings that the program has, and where a command looks for the spool that it was not told of."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Sequence

from lake.config import LakeConfig, local_path
from settings import load, settings_of
from transport.config import SpoolConfig

# Not imported above: a command loads no room that it does not need. Config modules import nothing heavy.
_MODULES = ("transport.config", "lake.config", "sidecar.config", "enricher.config")

UP_SPOOL = "_spool"
"""The spool of `flowlake up`, in the lake beside the tables: one directory holds, and loses, all of it."""


def known_configs() -> Sequence[type]:
    """The `known` of settings.load(): a setting that none of them declares is refused."""
    modules = [importlib.import_module(name) for name in _MODULES]
    return [member for module in modules for member in vars(module).values() if _is_config(module.__name__, member)]


def load_spool(args: argparse.Namespace) -> SpoolConfig:
    """The spool that was set; else that of `flowlake up` in the lake, where there is one. Raises WrongUse."""
    of_up = local_path(load(LakeConfig, args, os.environ, known=args.known).uri) / UP_SPOOL
    defaults = {"spool": of_up} if of_up.is_dir() else {}
    return load(SpoolConfig, args, os.environ, known=args.known, defaults=defaults)


def _is_config(module_name: str, member: object) -> bool:
    if not isinstance(member, type) or member.__module__ != module_name:
        return False
    return hasattr(member, "__dataclass_fields__") and bool(settings_of(member))
