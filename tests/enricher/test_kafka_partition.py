"""Spool to topic to lake, on a real broker: every flow is in the lake once, though an enricher dies at every object."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_batches import make_header, random_flows
from services.kafka_bench import KafkaBench

from enricher.chain import PartitionStopped
from enricher.gather import GatherConfig
from enricher.metrics import EnricherMetrics
from enricher.partition import partition
from enricher.perform import MemoryBudget, Performer, StopSwitch
from enricher.range_writer import PartitionConfig
from enricher.row_maker import FlowRowMaker
from lake.local_store import LocalStore
from schemas.flow_batch import encode_flow_batch
from transport.kafka_config import PublishConfig
from transport.kafka_errors import LogReplaced
from transport.kafka_reader import KafkaReader
from transport.publisher import Publisher
from transport.spool import SpoolConfig, SpoolReader, SpoolWriter

FLOWS_PER_BATCH = 40


def make_batch(number: int) -> tuple[bytes, list[tuple[int, int]]]:
    """A message's value, and the (flow_id, sequence) of its flows."""
    flows = random_flows(np.random.default_rng(number), FLOWS_PER_BATCH, time.time_ns() // 1000, 1_000_000)
    value = encode_flow_batch(make_header(number=number), flows)
    return value, list(zip(flows["flow_id"].tolist(), flows["sequence"].tolist(), strict=True))


class Dies(Exception):
    """The enricher, in a test."""


class Mortal(LocalStore):
    """Takes two new objects. The process dies before the third, or right after the second."""

    taken = 0
    after = False

    def put_if_absent(self, key: str, body: bytes) -> None:
        if self.taken == 2:
            raise Dies
        super().put_if_absent(key, body)
        self.taken += 1
        if self.after and self.taken == 2:
            raise Dies


def test_every_flow_is_in_the_lake_once_though_the_enricher_dies_at_every_object(
    kafka_bench: KafkaBench, tmp_path: Path
) -> None:
    topic = kafka_bench.topic()
    sent = Counter[tuple[int, int]]()
    with SpoolWriter(SpoolConfig(tmp_path / "spool")) as writer:
        for number in range(12):
            value, flows = make_batch(number)
            sent.update(flows)
            writer.append(b"host", value, FLOWS_PER_BATCH)
    for begin in (0, 4, 0):  # twice from the start, as after lost answers
        publisher = Publisher(
            kafka_bench.kafka(),
            topic,
            SpoolReader(tmp_path / "spool"),
            PublishConfig(chunk_bytes=16 * 1024),
            lambda _, begin=begin: begin,  # type: ignore[misc]
            lambda *_: None,
        )
        while publisher.counts.messages < 12 - begin:
            publisher.turn()
    lake = tmp_path / "lake"
    lake.mkdir()
    config = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=0, range_bytes=3 * len(value)))
    deaths = 0
    while not enrich(kafka_bench, topic, lake, config, die_after=bool(deaths % 2)):
        deaths += 1
    assert rows_of(lake) == sent
    assert deaths > 5


def test_a_topic_made_anew_in_the_middle_ends_the_partition_and_goes_on_as_another_log(
    kafka_bench: KafkaBench, tmp_path: Path
) -> None:
    topic = kafka_bench.topic()
    lake = tmp_path / "lake"
    lake.mkdir()
    config = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=0, range_bytes=1))
    sent = Counter[tuple[int, int]]()
    batches = [make_batch(number) for number in range(5)]
    for value, flows in batches[:3]:
        kafka_bench.write(topic, value)
        sent.update(flows)
    reader = KafkaReader(kafka_bench.kafka(), topic, 0, commit=lambda _: None)
    reader.identity()
    assert enrich(kafka_bench, topic, lake, config)
    kafka_bench.make_anew(topic)
    for value, flows in batches[1:]:  # what was not acknowledged comes again, then what is new
        kafka_bench.write(topic, value)
        sent.update({flow: 1 for flow in flows if flow not in sent})
    with pytest.raises(LogReplaced):
        drain(reader, LocalStore(lake), config)
    assert enrich(kafka_bench, topic, lake, config)
    assert rows_of(lake) == sent


def test_a_topic_that_lost_its_tail_stops_the_partition_before_others_fill_its_place(
    kafka_bench: KafkaBench, tmp_path: Path
) -> None:
    whole, cut = kafka_bench.topic(), kafka_bench.topic()
    batches = [make_batch(number)[0] for number in range(5)]
    kafka_bench.write(whole, *batches)
    kafka_bench.write(cut, *batches[:3])
    config = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=0, range_bytes=1))
    assert enrich(kafka_bench, whole, tmp_path, config)
    identity = KafkaReader(kafka_bench.kafka(), whole, 0, commit=lambda _: None).identity()
    reader = KafkaReader(kafka_bench.kafka(), cut, 0, commit=lambda _: None)
    performer = Performer(LocalStore(tmp_path), reader, StopSwitch(), MemoryBudget(1 << 30), EnricherMetrics())
    with pytest.raises(PartitionStopped, match="lost its tail"):
        performer.run(partition(identity, FlowRowMaker(), config, "lake"))


def enrich(bench: KafkaBench, topic: str, lake: Path, config: PartitionConfig, die_after: bool | None = None) -> bool:
    """One life of an enricher; whether it came to the end of the topic."""
    reader = KafkaReader(bench.kafka(), topic, 0, commit=lambda _: None)
    if die_after is None:
        drain(reader, LocalStore(lake), config)
        return True
    store = Mortal(lake)
    store.after = die_after
    try:
        drain(reader, store, config)
    except Dies:
        return False
    return True


def drain(reader: KafkaReader, store: LocalStore, config: PartitionConfig) -> None:
    stop = StopSwitch()
    stop.drain()
    performer = Performer(store, reader, stop, MemoryBudget(1 << 30), EnricherMetrics())
    performer.run(partition(reader.identity(), FlowRowMaker(), config, "lake"))


def rows_of(lake: Path) -> Counter[tuple[int, int]]:
    written = Counter[tuple[int, int]]()
    for path in lake.glob("flows/**/*.parquet"):
        rows = pq.read_table(path, columns=["flow_id", "sequence"], partitioning=None).to_pydict()
        written.update(zip(rows["flow_id"], rows["sequence"], strict=True))
    return written
