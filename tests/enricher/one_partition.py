"""A partition run over a lake and a log in memory, and what it left there."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from memory_world import Clock, Heard, MemoryLog, MemoryStore, performer
from toy_rows import ToyRows

from enricher.gather import GatherConfig
from enricher.partition import partition
from enricher.range_writer import PartitionConfig
from lake.ranges import ChainKeys, Done, Intent, log_hash

KEYS = ChainKeys(log_hash("spool", "uuid"), 0)
EAGER = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=0, range_bytes=1))  # a range for each message


def run(
    store: MemoryStore,
    log: MemoryLog,
    config: PartitionConfig = EAGER,
    rows: ToyRows = ToyRows("R"),  # noqa: B008
    budget_bytes: int = 1 << 30,
) -> Heard:
    """Until everything that is in the log is written."""
    world, heard = performer(store, log, Clock(), budget_bytes)
    world.stop.drain()
    world.run(partition(log.identity(), rows, config, "new lake"))
    return heard


def chain(store: MemoryStore) -> list[Done]:
    return [Done.from_json(body) for key, body in sorted(store.objects.items()) if key.endswith(".done.json")]


def intents(store: MemoryStore) -> list[Intent]:
    return [Intent.from_json(body) for key, body in sorted(store.objects.items()) if key.endswith(".range.json")]


def rows_in(store: MemoryStore) -> Counter[str]:
    bodies = [body for key, body in store.objects.items() if key.startswith("flows/")]
    return Counter(row for body in bodies for _, row in json.loads(body)["rows"])


def log_with(*values: bytes) -> MemoryLog:
    log = MemoryLog()
    for value in values:
        log.append(value)
    return log


class Dies(Exception):
    """The process, in a test."""


def die_at(store: MemoryStore, suffix: str) -> MemoryStore:
    """The same objects, in a store whose process dies when it would create a key that ends so."""

    class Dying(MemoryStore):
        def put_if_absent(self, key: str, body: bytes) -> None:
            if key.endswith(suffix):
                raise Dies
            super().put_if_absent(key, body)

    return Dying(store.objects)


def begin(store: MemoryStore, log: MemoryLog, until: str, config: PartitionConfig = EAGER) -> None:
    """Run until something that ends so would be created."""
    with pytest.raises(Dies):
        run(die_at(store, until), log, config)
