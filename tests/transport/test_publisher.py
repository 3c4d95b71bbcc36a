"""From a real spool to a real broker: everything, in order, whatever happens to the broker; what never can, counted."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from kafka.cluster import ClusterMetadata
from kafka.partitioner import DefaultPartitioner
from kafka.protocol.metadata import MetadataRequest
from services.kafka_bench import KafkaBench
from spool_bench import Bench

from settings import KiB, MiB
from transport.kafka_client import Kafka
from transport.kafka_config import KafkaConfig, PublishConfig
from transport.log import LogIdentity
from transport.publisher import MESSAGE_REFUSED, SPOOL_CORRUPT, Publisher

NOTHING_WAITS = PublishConfig(backlog_after_seconds=1e12)


class Line:
    """A spool and a publisher of it. Jitter and clocks are fixed."""

    def __init__(self, spool: Bench, kafka: Kafka, topic: str, config: PublishConfig = NOTHING_WAITS) -> None:
        self.spool = spool
        self.writer = spool.writer(max_bytes=64 * MiB, segment_bytes=MiB)
        self.dropped: list[tuple[str, int]] = []
        self.publisher = Publisher(
            kafka,
            topic,
            spool.reader(),
            config,
            lambda identity: self.committed(),
            lambda reason, flows: self.dropped.append((reason, flows)),
            clock_us=lambda: spool.time_us,
            jitter=lambda: 0.0,
        )

    def append(self, *values: bytes, key: bytes = b"host", weight: int = 1) -> None:
        for value in values:
            self.writer.append(key, value, weight)

    def committed(self) -> int:
        """What the spool was told."""
        path = self.spool.directory / "committed"
        return int(json.loads(path.read_text())["next_offset"]) if path.exists() else 0

    def turn_until(self, done: Callable[[], bool], wait_seconds: float = 0.02) -> None:
        """Turns, with a short wait in place of what they ask for."""
        pause = threading.Event()
        for _ in range(2000):
            if done():
                return
            if self.publisher.turn():
                pause.wait(wait_seconds)
        raise AssertionError(f"nothing more came of it: {self.publisher.counts}")

    def drain(self) -> None:
        end = self.spool.reader().bounds()[1]
        self.turn_until(lambda: self.committed() == end)


@pytest.fixture
def make_line(tmp_path: Path, kafka_bench: KafkaBench) -> Iterator[Callable[..., Line]]:
    yield from _lines(tmp_path, kafka_bench)


@pytest.fixture
def make_own_line(tmp_path: Path, own_kafka: KafkaBench) -> Iterator[Callable[..., Line]]:
    """To a broker that the test may harm."""
    yield from _lines(tmp_path, own_kafka)


def _lines(tmp_path: Path, bench: KafkaBench) -> Iterator[Callable[..., Line]]:
    numbers = itertools.count()
    spools: list[Bench] = []

    def make(topic: str, config: PublishConfig = NOTHING_WAITS, kafka: KafkaConfig | None = None) -> Line:
        spools.append(Bench(tmp_path / f"spool{next(numbers)}"))
        return Line(spools[-1], bench.kafka(kafka), topic, config)

    yield make
    for writer in (writer for spool in spools for writer in spool.opened):
        writer.close()


def without_repeats(values: Sequence[bytes]) -> list[bytes]:
    """As the enricher takes them: a batch whose number is no higher than one before it is a repetition."""
    taken: list[bytes] = []
    for value in values:
        if not taken or value > taken[-1]:
            taken.append(value)
    return taken


def values_of(bench: KafkaBench, topic: str, partition: int = 0) -> list[bytes]:
    return [record.value for record in bench.written(topic, partition)]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_every_message_of_the_spool_is_in_the_topic_in_order(
    kafka_bench: KafkaBench, make_line: Callable[..., Line], compression: str
) -> None:
    topic = kafka_bench.topic()
    line = make_line(topic, PublishConfig(compression=compression, chunk_bytes=4 * KiB, backlog_after_seconds=1e12))
    sent = [b"%06d" % i + bytes(i % 300) for i in range(500)]
    line.append(*sent)
    line.drain()
    records = kafka_bench.written(topic)
    assert [(record.key, record.value) for record in records] == [(b"host", value) for value in sent]
    counts = line.publisher.counts
    assert (counts.messages, counts.bytes, counts.failures) == (500, sum(map(len, sent)), 0)
    assert counts.chunks >= counts.bytes // (4 * KiB)
    assert line.committed() == 500 and not line.dropped


def test_a_host_is_in_the_partition_where_every_kafka_client_puts_it(
    kafka_bench: KafkaBench, make_line: Callable[..., Line]
) -> None:
    topic = kafka_bench.topic(partitions=7)
    line = make_line(topic)
    keys = [b"host-%d" % i * (i % 5 + 1) for i in range(20)]
    for key in keys:
        line.append(b"first", b"second", key=key)
    line.drain()
    cluster = ClusterMetadata()
    kafka = kafka_bench.kafka()
    asked = MetadataRequest.MetadataRequestTopic(name=topic)
    cluster.update_metadata(kafka.ask(MetadataRequest(topics=[asked], allow_auto_topic_creation=False)))
    for key in keys:
        partition = DefaultPartitioner().partition(topic, None, key, None, None, cluster)
        there = [record.value for record in kafka_bench.written(topic, partition) if record.key == key]
        assert there == [b"first", b"second"]


def test_50_000_flows_arrive_in_order_though_the_broker_is_killed_among_them(
    own_kafka: KafkaBench, make_own_line: Callable[..., Line]
) -> None:
    topic = own_kafka.topic()
    kafka = own_kafka.config(request_seconds=2, connect_seconds=1)
    line = make_own_line(topic, PublishConfig(chunk_bytes=32 * KiB, backlog_after_seconds=1e12), kafka)
    flows_per_batch, batches = 100, 500
    sent = [b"%06d" % number + bytes(150 * flows_per_batch // 10) for number in range(batches)]
    stop = threading.Event()
    thread = threading.Thread(target=line.publisher.run, args=(stop,))
    thread.start()
    try:
        for number, value in enumerate(sent):
            line.append(value, weight=flows_per_batch)
            if number in (100, 300):
                own_kafka.kill()
            if number in (200, 400):
                own_kafka.broker.start()
        pause = threading.Event()
        while line.committed() < batches:
            pause.wait(0.05)
    finally:
        stop.set()
        thread.join()
    assert without_repeats(values_of(own_kafka, topic)) == sent
    assert line.publisher.counts.failures and not line.dropped


def test_a_broker_that_falls_silent_is_left_and_the_chunk_is_sent_again(
    own_kafka: KafkaBench, make_own_line: Callable[..., Line]
) -> None:
    """The client library's producer hangs for good once a sent batch is older than delivery_timeout_ms (defect A)."""
    topic = own_kafka.topic()
    line = make_own_line(topic, kafka=own_kafka.config(request_seconds=0.5, connect_seconds=0.5))
    sent = [b"%06d" % number for number in range(30)]
    line.append(*sent[:10])
    line.drain()
    with own_kafka.frozen():
        line.append(*sent[10:20])
        line.turn_until(lambda: line.publisher.counts.failures >= 3)
        assert line.committed() == 10
    line.append(*sent[20:])
    line.drain()
    assert without_repeats(values_of(own_kafka, topic)) == sent


def test_with_the_broker_away_the_spool_grows_and_the_publisher_does_not(
    own_kafka: KafkaBench,
    make_own_line: Callable[..., Line],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL", logger="kafka")  # pytest would keep every line that the client library logs
    topic = own_kafka.topic()
    line = make_own_line(topic, kafka=own_kafka.config(request_seconds=1, connect_seconds=0.5))
    line.append(b"first")
    line.drain()
    own_kafka.kill()
    value = bytes(64 * KiB)

    def fail_once_more() -> None:
        for _ in range(16):
            line.append(value)
        before = line.publisher.counts.failures
        line.turn_until(lambda: line.publisher.counts.failures > before)

    fail_once_more()
    fail_once_more()
    tracemalloc.start()
    try:
        fail_once_more()
        gc.collect()
        held_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(8):
            fail_once_more()
        gc.collect()
        held_later_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_later_bytes - held_bytes < 256 * KiB
    assert peak_bytes < 8 * MiB  # a chunk, and what the garbage collector has not come to yet
    assert line.spool.used_bytes() > 11 * MiB
    said = [text for text in capsys.readouterr().err.splitlines() if "nobody listens" in text]
    assert len(said) == 1 and own_kafka.broker.servers in said[0]
    own_kafka.broker.start()
    line.drain()
    assert len(own_kafka.written(topic)) == 1 + 11 * 16
    assert "Kafka takes batches again" in capsys.readouterr().err


def test_a_message_that_the_topic_will_never_take_is_dropped_by_name_and_nothing_else(
    kafka_bench: KafkaBench, make_line: Callable[..., Line], capsys: pytest.CaptureFixture[str]
) -> None:
    topic = kafka_bench.topic(max_message_bytes="20000")
    line = make_line(topic, PublishConfig(compression="none", backlog_after_seconds=1e12))
    line.append(*[b"%02d" % i for i in range(5)])
    line.append(bytes(30_000), weight=17)
    line.append(*[b"%02d" % i for i in range(5, 10)])
    line.append(b"9" * 19_000)
    line.drain()
    assert values_of(kafka_bench, topic) == [b"%02d" % i for i in range(10)] + [b"9" * 19_000]
    assert line.dropped == [(MESSAGE_REFUSED, 17)]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "flowlake: batch 5 of the spool, 30000 bytes, is dropped: Kafka: it is larger than max.message.bytes of topic "
        + topic
    ]


def test_a_missing_topic_is_waited_for_and_said_once(
    kafka_bench: KafkaBench, make_line: Callable[..., Line], capsys: pytest.CaptureFixture[str]
) -> None:
    topic = kafka_bench.definition().name
    line = make_line(topic)
    line.append(b"value")
    line.turn_until(lambda: line.publisher.counts.failures == 5)
    (said,) = capsys.readouterr().err.splitlines()
    assert f"there is no topic {topic}; make it with `flowlake topics create`" in said
    kafka_bench.make(topic)
    line.drain()
    assert values_of(kafka_bench, topic) == [b"value"]


def test_without_the_right_to_write_it_waits_until_someone_gives_it(
    kafka_bench: KafkaBench, make_line: Callable[..., Line], capsys: pytest.CaptureFixture[str]
) -> None:
    topic = kafka_bench.topic()
    kafka_bench.allow("sidecar", "DESCRIBE", topic)
    line = make_line(topic, kafka=kafka_bench.scram("sidecar"))
    line.append(b"value")
    line.turn_until(lambda: line.publisher.counts.failures == 3)
    (said,) = capsys.readouterr().err.splitlines()
    assert f"sidecar may not write to topic {topic}" in said and "--operation Write" in said
    kafka_bench.allow("sidecar", "WRITE", topic)
    line.drain()
    assert values_of(kafka_bench, topic) == [b"value"] and not line.dropped


def test_a_topic_made_anew_is_written_on(kafka_bench: KafkaBench, make_line: Callable[..., Line]) -> None:
    topic = kafka_bench.topic(partitions=3)
    line = make_line(topic)
    line.append(b"old")
    line.drain()
    kafka_bench.make_anew(topic, partitions=1)
    line.append(b"new")
    line.drain()
    assert values_of(kafka_bench, topic) == [b"new"]


def test_partitions_that_are_added_do_not_move_a_host_while_it_runs(
    kafka_bench: KafkaBench, make_line: Callable[..., Line]
) -> None:
    topic = kafka_bench.topic(partitions=1)
    line = make_line(topic)
    keys = [b"host-%d" % i for i in range(8)]
    for partitions in (2, 5):
        for key in keys:
            line.append(b"value", key=key)
        line.drain()
        kafka_bench.admin.create_partitions({topic: partitions})
        line.publisher._leaders = {}  # as after any failure: what the topic is like is asked again
    assert len(kafka_bench.written(topic, 0)) == 16


def test_it_goes_on_from_what_the_spool_was_told_and_repeats_at_most_what_it_was_not(
    kafka_bench: KafkaBench, make_line: Callable[..., Line], tmp_path: Path
) -> None:
    topic = kafka_bench.topic()
    line = make_line(topic)
    line.append(*[b"%02d" % i for i in range(10)])
    line.drain()
    line.append(b"10", b"11")
    identities: list[LogIdentity] = []

    def committed(identity: LogIdentity) -> int:
        identities.append(identity)
        return 9

    again = Publisher(kafka_bench.kafka(), topic, line.spool.reader(), NOTHING_WAITS, committed, lambda *_: None)
    again.turn()
    assert values_of(kafka_bench, topic) == [b"%02d" % i for i in [*range(10), 9, 10, 11]]
    assert identities == [line.spool.reader().identity()]


def test_what_the_disk_damaged_is_counted_and_passed_over(
    kafka_bench: KafkaBench, make_line: Callable[..., Line]
) -> None:
    topic = kafka_bench.topic()
    line = make_line(topic)
    for weight, value in enumerate((b"first", b"damaged" * 100, b"last")):
        line.append(value, weight=weight + 5)
    (segment,) = line.spool.segments()
    content = segment.read_bytes()
    segment.write_bytes(content.replace(b"damaged" * 100, b"damages" * 100))
    line.drain()
    assert values_of(kafka_bench, topic) == [b"first", b"last"]
    assert line.dropped == [(SPOOL_CORRUPT, 6)]


def test_what_the_spool_evicted_is_passed_over_and_not_counted_twice(
    kafka_bench: KafkaBench, make_line: Callable[..., Line]
) -> None:
    topic = kafka_bench.topic()
    line = make_line(topic)
    line.writer.close()
    line.writer = line.spool.writer(max_bytes=64 * KiB, segment_bytes=4 * KiB)
    evicted = 0
    for i in range(100):
        appended = line.writer.append(b"host", b"%06d" % i + bytes(1000), 1)
        evicted += sum(one.weight for one in appended.evicted)
    line.drain()
    numbers = [int(value[:6]) for value in values_of(kafka_bench, topic)]
    assert numbers == list(range(evicted, 100)) and evicted > 0
    assert not line.dropped


def test_a_backlog_goes_out_at_its_rate_and_live_batches_at_once(
    kafka_bench: KafkaBench, make_line: Callable[..., Line]
) -> None:
    topic = kafka_bench.topic()
    config = PublishConfig(chunk_bytes=4 * KiB, backlog_bytes=1000 * KiB, backlog_after_seconds=15)
    line = make_line(topic, config)
    line.append(*[bytes(KiB)] * 8)
    line.spool.time_us += 16_000_000
    line.append(b"live")
    assert [line.publisher.turn() for _ in range(4)] == [0.004, 0.004, 0.0, 0.25]
    assert line.publisher.counts.behind_us == 0
