"""`flowlake up`: sidecar and enricher as one process tree, a live table of what they see, and a summary at the end."""

from __future__ import annotations

import argparse
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

from enricher.config import EnricherConfig
from flowlake.children import Child
from flowlake.config import UP_SPOOL
from flowlake.live import LiveTable
from flowlake.spool_tail import SpoolTail
from flowlake.summary import print_summary
from lake.config import LakeConfig, local_path
from settings import CONFIG_VARIABLE, add_flags, load, settings_of
from sidecar.config import SidecarConfig
from transport.config import SpoolConfig

# Alone on one host nobody else's claims are waited for, and a person wants to see rows soon.
UP_DEFAULTS = {"settle_seconds": 2.0, "range_seconds": 10.0}
LOOK_SECONDS = 0.5
CONFIGS = (LakeConfig, SpoolConfig, SidecarConfig, EnricherConfig)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `flowlake up`."""
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="end by itself; default: at Ctrl-C")
    add_flags(parser, *CONFIGS)


def run(args: argparse.Namespace) -> int:
    """Until --duration, Ctrl-C or SIGTERM. Raises FlowlakeError where a child ends by itself."""
    lake = local_path(load(LakeConfig, args, os.environ, known=args.known).uri).absolute()
    defaults = {**UP_DEFAULTS, "spool": lake / UP_SPOOL}
    settings = {
        setting.variable: written(getattr(config, setting.field))
        for config_class in CONFIGS
        for config in [load(config_class, args, os.environ, known=args.known, defaults=defaults)]
        for setting in settings_of(config_class)
    }
    environ = {name: value for name, value in os.environ.items() if name != CONFIG_VARIABLE}
    environ |= settings | {"FLOWLAKE_LAKE": str(lake)}

    asked: list[int] = []  # signals; an Event's lock could be held by the very code that the handler interrupts
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    began = datetime.now(UTC)
    tail = SpoolTail(Path(environ["FLOWLAKE_SPOOL"]))
    tail.skip_to_end()
    with Child("enricher", "--drain", environ=environ) as enricher, Child("sidecar", environ=environ) as sidecar:
        with LiveTable(lake) as table:
            ends_at = time.monotonic() + (float("inf") if args.duration is None else args.duration)
            while not asked and time.monotonic() < ends_at:
                sidecar.check()
                enricher.check()
                for flows in tail.new_flows():
                    table.add(flows)
                table.refresh()
                time.sleep(min(LOOK_SECONDS, max(0.0, ends_at - time.monotonic())))
        sidecar.end()
        for _ in tail.new_flows():  # only to know the run, should it have been too short to be seen above
            pass
        enricher.end()
    print_summary(lake, tail.run_ids, began)
    return 0


def written(value: object) -> str:
    """A setting's value as the environment has it; nothing given is the empty string."""
    return "" if value is None else str(value)
