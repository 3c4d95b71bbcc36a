"""A partition of a real topic as a log: what was produced reads back, once, whole, and never from another topic."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from kafka import KafkaProducer, TopicPartition
from services.kafka_bench import KafkaBench

from transport.kafka_config import KafkaConfig
from transport.kafka_errors import KafkaAbsent, LogReplaced
from transport.kafka_reader import KafkaReader
from transport.log import LogReader, Message, OffsetsLost


def reader_of(bench: KafkaBench, topic: str, partition: int = 0, **settings: object) -> KafkaReader:
    return KafkaReader(bench.kafka(**settings), topic, partition, commit=lambda _: None)


def read_all(reader: LogReader, first: int = 0, stop_before: int | None = None) -> tuple[list[Message], int]:
    """Every message from `first` on, and where reading ended."""
    messages: list[Message] = []
    while True:
        fetched = reader.read(first, stop_before=stop_before, appended_before_us=None, max_bytes=1 << 20)
        messages += fetched.messages
        if fetched.next_offset == first:
            return messages, first
        first = fetched.next_offset


def test_what_was_produced_reads_back_with_the_brokers_time(kafka_bench: KafkaBench) -> None:
    topic = kafka_bench.topic()
    before_us = int(time.time() * 1000) * 1000
    kafka_bench.write(topic, b"first", b"", bytes(range(256)) * 100)
    reader: LogReader = reader_of(kafka_bench, topic)
    messages, end = read_all(reader)
    expected = [(one.offset, one.timestamp * 1000, one.key, one.value) for one in kafka_bench.written(topic)]
    assert [(one.offset, one.append_time_us, one.key, one.value) for one in messages] == expected
    assert reader.bounds() == (0, 3) == (0, end)
    assert all(before_us <= one.append_time_us <= time.time_ns() // 1000 for one in messages)


def test_the_time_is_the_brokers_also_where_the_producers_clock_is_wrong(kafka_bench: KafkaBench) -> None:
    topic = kafka_bench.topic()
    producer = kafka_bench.producer()
    producer.send(topic, key=b"host", value=b"value", timestamp_ms=1_000_000).get(30)
    ((message,), _) = read_all(reader_of(kafka_bench, topic))
    assert message.append_time_us > 1_700_000_000_000_000


def test_the_identity_is_that_of_the_cluster_and_the_topic(kafka_bench: KafkaBench) -> None:
    topic = kafka_bench.topic(partitions=2)
    identity = reader_of(kafka_bench, topic, partition=1).identity()
    (described,) = kafka_bench.admin.describe_topics([topic])
    cluster = kafka_bench.admin.describe_cluster()["cluster_id"]
    assert (identity.kind, identity.name, identity.partition) == ("kafka", topic, 1)
    assert identity.uuid == f"{cluster}/{described['topic_id']}"


def test_reading_stops_before_an_offset_a_time_and_a_size(kafka_bench: KafkaBench) -> None:
    topic = kafka_bench.topic()
    for _ in range(10):
        kafka_bench.write(topic, b"q" * 1000)
    reader = reader_of(kafka_bench, topic)
    times = [message.append_time_us for message in read_all(reader)[0]]
    assert times == sorted(times) and times[2] < times[6]  # a producer made anew takes some milliseconds

    def offsets(first: int, stop: int | None = None, time_us: int | None = None, size: int = 1 << 20) -> list[int]:
        fetched = reader.read(first, stop_before=stop, appended_before_us=time_us, max_bytes=size)
        assert fetched.next_offset == first + len(fetched.messages)
        return [message.offset for message in fetched.messages]

    assert offsets(2, stop=6) == [2, 3, 4, 5]
    assert offsets(2, stop=2) == []
    assert offsets(0, stop=99) == list(range(10))
    assert offsets(2, time_us=times[6]) == [offset for offset in range(2, 10) if times[offset] < times[6]]
    assert offsets(2, time_us=times[0]) == []
    assert offsets(2, size=2000) == [2, 3]
    assert offsets(2, size=0) == [2]  # always one, however large
    assert offsets(10) == []


def test_what_is_not_settled_is_kept_back_and_not_fetched_again(kafka_bench: KafkaBench) -> None:
    """Also: the client library's consumer stalls for good where a partition is paused with records in hand (defect B);
    here holding back is nothing that the connection knows of.
    """
    topic, other = kafka_bench.topic(), kafka_bench.topic()
    kafka_bench.write(topic, b"one", b"two")
    kafka = kafka_bench.kafka()
    reader, beside = (KafkaReader(kafka, name, 0, commit=lambda _: None) for name in (topic, other))
    for _ in range(3):
        fetched = reader.read(0, stop_before=None, appended_before_us=0, max_bytes=1 << 20)
        assert (list(fetched.messages), fetched.next_offset) == ([], 0)
        assert read_all(beside) == ([], 0)
    asked: list[object] = []
    ask: Callable[..., object] = kafka.ask
    kafka.ask = lambda *request: asked.append(request) or ask(*request)  # type: ignore[method-assign,func-returns-value]
    fetched = reader.read(0, stop_before=None, appended_before_us=None, max_bytes=1 << 20)
    assert [message.value for message in fetched.messages] == [b"one", b"two"]
    assert not asked
    kafka_bench.write(topic, b"three")
    assert [message.value for message in read_all(reader, 2)[0]] == [b"three"]


def test_aborted_transactions_and_control_records_are_holes(kafka_bench: KafkaBench) -> None:
    topic = kafka_bench.topic()
    producer: KafkaProducer = kafka_bench.producer(transactional_id="writer")
    producer.init_transactions()
    for round_ in range(4):
        producer.begin_transaction()
        for i in range(3):
            producer.send(topic, key=b"host", value=f"{round_}/{i}".encode(), partition=0)
        producer.flush(30)  # or what is aborted is never sent
        (producer.abort_transaction if round_ % 2 else producer.commit_transaction)()
    expected = [(one.offset, one.value) for one in kafka_bench.written(topic)]
    assert [offset for offset, _ in expected] == [0, 1, 2, 8, 9, 10]
    reader = reader_of(kafka_bench, topic)
    messages, end = read_all(reader)
    assert [(one.offset, one.value) for one in messages] == expected
    assert end == 16 == reader.bounds()[1]
    fetched = reader.read(4, stop_before=6, appended_before_us=None, max_bytes=1 << 20)
    assert (list(fetched.messages), fetched.next_offset) == ([], 6)
    assert [one.offset for one in read_all(reader, 1, stop_before=9)[0]] == [1, 2, 8]


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_reading_may_begin_in_the_middle_of_a_compressed_batch(kafka_bench: KafkaBench, compression: str) -> None:
    topic = kafka_bench.topic()
    producer = kafka_bench.producer(compression_type=compression, linger_ms=10_000, batch_size=1 << 18)
    for i in range(100):
        producer.send(topic, key=b"host", value=b"%d" % i * 100, partition=0)
    producer.flush(30)
    expected = [(one.offset, one.value) for one in kafka_bench.written(topic)][37:]
    assert [(one.offset, one.value) for one in read_all(reader_of(kafka_bench, topic), 37)[0]] == expected


def test_a_reader_holds_one_fetch_and_still_reads_what_is_larger(kafka_bench: KafkaBench) -> None:
    topic = kafka_bench.topic()
    values = [bytes([i]) * 10_000 for i in range(30)] + [b"L" * 300_000] + [b"s"]
    kafka_bench.write(topic, *values)
    reader = reader_of(kafka_bench, topic, fetch_bytes=64 * 1024)
    first, sizes = 0, []
    while first < len(values):
        fetched = reader.read(first, stop_before=None, appended_before_us=None, max_bytes=1 << 30)
        assert [message.value for message in fetched.messages] == values[first : fetched.next_offset]
        sizes.append(sum(len(message.value) for message in fetched.messages))
        first = fetched.next_offset
    assert max(size for size in sizes if size < 300_000) <= 64 * 1024
    assert max(sizes) < 300_000 + 64 * 1024


def test_retention_that_overtook_the_reader_says_where_the_log_begins_now(kafka_bench: KafkaBench) -> None:
    topic = kafka_bench.topic()
    kafka_bench.write(topic, *[b"value"] * 10)
    reader = reader_of(kafka_bench, topic)
    kafka_bench.admin.delete_records({TopicPartition(topic, 0): 7})
    with pytest.raises(OffsetsLost) as lost:
        read_all(reader, 3)
    assert (lost.value.wanted, lost.value.first_available) == (3, 7)
    assert reader.bounds() == (7, 10)
    assert [message.offset for message in read_all(reader, 7)[0]] == [7, 8, 9]


def test_a_log_that_ends_before_what_was_read_of_it_has_lost_its_tail(kafka_bench: KafkaBench) -> None:
    topic = kafka_bench.topic()
    kafka_bench.write(topic, *[b"value"] * 3)
    with pytest.raises(OffsetsLost) as lost:
        read_all(reader_of(kafka_bench, topic), 5)
    assert lost.value.first_available <= lost.value.wanted == 5


def test_a_topic_made_anew_is_another_log_and_never_read_as_the_old_one(kafka_bench: KafkaBench) -> None:
    topic = kafka_bench.topic()
    kafka_bench.write(topic, b"old 0", b"old 1")
    reader, late = reader_of(kafka_bench, topic), reader_of(kafka_bench, topic)
    assert len(reader.read(0, stop_before=1, appended_before_us=None, max_bytes=1).messages) == 1
    late.identity()
    kafka_bench.make_anew(topic)
    kafka_bench.write(topic, b"new 0", b"new 1", b"new 2")
    held = reader.read(1, stop_before=None, appended_before_us=None, max_bytes=1 << 20)
    assert [message.value for message in held.messages] == [b"old 1"]  # fetched before
    for act in (lambda: read_all(reader, 2), lambda: read_all(late, 1), reader.bounds, late.bounds):
        with pytest.raises(LogReplaced):
            act()
    anew = reader_of(kafka_bench, topic)
    assert anew.identity().uuid != reader.identity().uuid
    assert [message.value for message in read_all(anew)[0]] == [b"new 0", b"new 1", b"new 2"]


def test_a_silent_broker_is_an_absence_and_reading_goes_on_after_it(own_kafka: KafkaBench) -> None:
    topic = own_kafka.topic()
    own_kafka.write(topic, b"one", b"two")
    reader = reader_of(own_kafka, topic, request_seconds=0.5, connect_seconds=0.5)
    assert reader.read(0, stop_before=1, appended_before_us=None, max_bytes=1).next_offset == 1
    with own_kafka.frozen():
        for _ in range(2):
            with pytest.raises(KafkaAbsent, match="answer"):
                read_all(reader, 2)
    while True:
        try:
            assert [message.value for message in read_all(reader, 0)[0]] == [b"one", b"two"]
            break
        except KafkaAbsent:  # it needs a moment to find itself alive
            continue


def test_the_hint_goes_where_it_was_told(kafka_bench: KafkaBench) -> None:
    hints: list[int] = []
    KafkaReader(kafka_bench.kafka(), "any", 0, commit=hints.append).commit(7)
    assert hints == [7]


def test_the_options_of_a_connection_are_bounded() -> None:
    options = KafkaConfig(bootstrap_servers="one:1, two:2").client_options()
    assert options["bootstrap_servers"] == ["one:1", "two:2"]
    assert options["reconnect_backoff_max_ms"] == 1000
