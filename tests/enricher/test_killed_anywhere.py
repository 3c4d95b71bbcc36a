"""The real row maker under the protocol, killed just before or just after every object that it creates."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_batches import HOUR_US, NOON_US, make_header, random_flows
from memory_world import Clock, MemoryLog, MemoryStore, performer
from one_partition import Dies, chain

from enricher.gather import GatherConfig
from enricher.partition import partition
from enricher.range_writer import PartitionConfig
from enricher.row_maker import FlowRowMaker
from schemas.flow_batch import encode_flow_batch

pytestmark = pytest.mark.slow

ROWS_PER_BATCH = 20


class Mortal(MemoryStore):
    """Takes one new object. The process dies right after it, or before the second one."""

    after = False
    taken = 0

    def put_if_absent(self, key: str, body: bytes) -> None:
        if key not in self.objects and self.taken:
            raise Dies
        super().put_if_absent(key, body)
        self.taken += 1
        if self.after:
            raise Dies


@pytest.mark.parametrize("after", [False, True], ids=["before it is there", "after"])
def test_killing_the_enricher_at_every_object_writes_every_flow_once(after: bool) -> None:
    rng, log, sent = np.random.default_rng(3), MemoryLog(), Counter[tuple[int, int]]()
    for number in range(6):
        made_us = NOON_US + number * HOUR_US // 2
        flows = random_flows(rng, ROWS_PER_BATCH, made_us)
        sent.update(zip(flows["flow_id"].tolist(), flows["sequence"].tolist(), strict=True))
        value = encode_flow_batch(make_header(number=number), flows)
        for _ in range(1 + number % 2):  # every second batch is repeated
            log.append(value, made_us + 5_000_000)
    config = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=0, range_bytes=2 * len(value)))
    objects: dict[str, bytes] = {}

    deaths = 0
    while True:
        store = Mortal(objects)
        store.after = after
        world, _ = performer(store, log, Clock((NOON_US + 10 * HOUR_US) / 1e6))
        world.stop.drain()
        try:
            world.run(partition(log.identity(), FlowRowMaker(), config, "lake"))
            break
        except Dies:
            deaths += 1

    written = Counter[tuple[int, int]]()
    for key, body in objects.items():
        if key.startswith("flows/"):
            rows = pq.read_table(io.BytesIO(body), columns=["flow_id", "sequence"], partitioning=None).to_pydict()
            written.update(zip(rows["flow_id"], rows["sequence"], strict=True))
    assert written == sent
    assert deaths >= len([key for key in objects if not key.endswith("_head")]) - 1
    assert sum(done.repeated_batches for done in chain(MemoryStore(objects))) == 3
