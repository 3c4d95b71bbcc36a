"""The joining process: reads the log, writes the lake, exactly once. Only wires: the protocol is in partition.py."""

from __future__ import annotations

import argparse
import os
import signal
import uuid

# Before pyarrow is loaded: its default allocator keeps what it had at the peak.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from enricher.config import EnricherConfig
from enricher.metrics import EnricherMetrics
from enricher.operations import Stop
from enricher.partition import partition
from enricher.perform import MemoryBudget, Performer, StopSwitch
from enricher.row_maker import FlowRowMaker
from lake.config import LakeConfig, S3Config
from lake.open_store import open_store
from settings import add_flags, load
from settings.memory import keep_freed_pages
from transport.config import SpoolConfig
from transport.log import LogError, LogIdentity
from transport.spool import SpoolReader

KEPT_BYTES = 64 << 20  # about what one range needs at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `flowlake enricher`."""
    parser.add_argument(
        "--drain",
        action="store_true",
        help="on SIGTERM write all that the log holds by then, and end at once at a second one; default: end at once",
    )
    add_flags(parser, LakeConfig, S3Config, SpoolConfig, EnricherConfig)


def run(args: argparse.Namespace) -> int:
    """Until SIGTERM or SIGINT. Raises FlowlakeError where going on makes no sense."""
    config = load(EnricherConfig, args, os.environ, known=args.known)
    lake = load(LakeConfig, args, os.environ, known=args.known)
    spool = load(SpoolConfig, args, os.environ, known=args.known)

    stop = StopSwitch()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _asked_to_end(stop, drain=args.drain))
    # `flowlake up` starts us with it held back until now (flowlake/children.py).
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))

    keep_freed_pages(KEPT_BYTES)
    metrics = EnricherMetrics()
    reader = SpoolReader(spool.directory)
    store = open_store(lake.uri, load(S3Config, args, os.environ, known=args.known))
    performer = Performer(store, reader, stop, MemoryBudget(config.buffer_bytes), metrics)
    identity = _identity(reader, stop, metrics, config.poll_seconds)
    if identity is not None:
        performer.run(partition(identity, FlowRowMaker(), config.partition, str(uuid.uuid4())))
    return 0


def _asked_to_end(stop: StopSwitch, *, drain: bool) -> None:
    """The first signal may drain; the second ends at once, such as where the lake takes nothing for hours."""
    if drain and stop.stop is Stop.GO_ON:
        stop.drain()
    else:
        stop.now()


def _identity(
    reader: SpoolReader, stop: StopSwitch, metrics: EnricherMetrics, poll_seconds: float
) -> LogIdentity | None:
    """What log this is, once its writer has made it; None when asked to end before that."""
    told = False
    while stop.stop is not Stop.NOW:
        try:
            return reader.identity()
        except LogError as error:
            if stop.stop is Stop.DRAIN:  # of nothing
                return None
            if not told:
                metrics.warned(f"{error}; waiting for it")
                told = True
            stop.wait(poll_seconds)
    return None
