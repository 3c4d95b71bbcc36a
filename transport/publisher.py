"""From the spool to the topic: in order, one chunk at a time, and the spool may forget what the broker has taken.

A chunk is one record batch: a broker takes it whole or not at all, and the next is sent only once this one is
acknowledged. So no batch ever overtakes another of its host, whatever fails and however often it is sent again, and
nothing is held in memory but one chunk. A chunk whose answer was lost is sent again; the enricher knows the batches in
it by their numbers.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from kafka.partitioner.default import murmur2
from kafka.protocol.producer import ProduceRequest

from transport.kafka_client import Kafka
from transport.kafka_config import PublishConfig
from transport.kafka_errors import KafkaAbsent, MessageRefused, broker_error
from transport.kafka_records import encode_batch
from transport.log import Fetched, LogError, LogIdentity, LogReader, Message, OffsetsLost

MESSAGE_REFUSED = "message_refused"  # the topic will never take it: too large
SPOOL_CORRUPT = "spool_corrupt"  # it failed its checksum on this host's disk

FIRST_BACKOFF_SECONDS = 0.25
LAST_BACKOFF_SECONDS = 5.0
IDLE_SECONDS = 0.25

_BY_NAME = 12  # the last Produce version that names the topic, and so goes on with one that was made anew
_ALL_IN_SYNC = -1
_SECOND_US = 1_000_000


class Source(LogReader, Protocol):
    """The spool, as the publisher reads it."""

    def weight_from(self, first: int) -> int: ...


@dataclass(slots=True)
class PublishCounts:
    """Totals since the start; `bytes` of message values.

    behind_us: how old the newest acknowledged message was when it was acknowledged, in microseconds.
    """

    messages: int = 0
    bytes: int = 0
    chunks: int = 0
    failures: int = 0
    behind_us: int = 0


class Publisher:
    """turn() is the loop's body, and says how long to wait before the next. run() is the loop, for a thread of its own.

    committed: what the spool was told last that is kept elsewhere; from there it goes on.
    dropped: told the reason and how many flows went with a message that the topic will never take, or the disk lost.
    """

    def __init__(
        self,
        kafka: Kafka,
        topic: str,
        spool: Source,
        config: PublishConfig,
        committed: Callable[[LogIdentity], int],
        dropped: Callable[[str, int], None],
        *,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.counts = PublishCounts()
        self._kafka = kafka
        self._topic = topic
        self._spool = spool
        self._config = config
        self._committed = committed
        self._dropped = dropped
        self._clock_us = clock_us
        self._jitter = jitter
        self._position: int | None = None
        self._leaders: Mapping[int, int] = {}  # by partition; empty where it has to be asked
        # The number of partitions, as first seen. Were it to grow while we run, a batch sent again could go to another
        # partition, where nobody knows that it is a repetition.
        self._partitions = 0
        self._at_most_bytes = config.chunk_bytes
        self._failed_in_a_row = 0
        self._complaint = ""

    def run(self, stop: Event) -> None:
        """Until asked to stop. What is not acknowledged by then stays in the spool."""
        while not stop.is_set():
            stop.wait(self.turn())

    def turn(self) -> float:
        """Send the next chunk, if there is one. How many seconds to wait before the next turn."""
        try:
            chunk = self._next_chunk()
            if not chunk.messages:
                return self._nothing_to_send(chunk)
            try:
                self._send(chunk.messages)
            except MessageRefused as error:
                self._refused(chunk, error)
                return 0.0
            return self._acknowledged(chunk)
        except LogError as error:
            return self._failed(error)

    def _next_chunk(self) -> Fetched:
        """What to send next: messages of one host, which fit into one chunk."""
        if self._position is None:
            self._position = self._committed(self._spool.identity())
        while True:
            try:
                fetched = self._spool.read(
                    self._position, stop_before=None, appended_before_us=None, max_bytes=self._at_most_bytes
                )
                break
            except OffsetsLost as lost:
                self._position = lost.first_available  # whoever evicted them has counted them
        for at, message in enumerate(fetched.messages):
            if message.key != fetched.messages[0].key:
                corrupt = [offset for offset in fetched.corrupt if offset < message.offset]
                return Fetched(fetched.messages[:at], message.offset, corrupt)
        return fetched

    def _send(self, messages: Sequence[Message]) -> None:
        """Raises KafkaAbsent, KafkaRefused, MessageRefused. After KafkaAbsent they may be in the topic all the same."""
        if not self._leaders:
            self._leaders = self._kafka.topic(self._topic).leaders
            if not 0 < self._partitions <= len(self._leaders):
                self._partitions = len(self._leaders)
        partition = (murmur2(messages[0].key) & 0x7FFFFFFF) % self._partitions  # as every Kafka client does
        leaders, self._leaders = self._leaders, {}  # to be asked anew, unless this goes well
        leader = leaders[partition]
        if leader < 0:
            raise KafkaAbsent(f"Kafka: partition {partition} of topic {self._topic} has no leader; waiting for one")
        topic = ProduceRequest.TopicProduceData
        batch = topic.PartitionProduceData(index=partition, records=encode_batch(messages, self._config.compression))
        answer = self._kafka.ask(
            ProduceRequest(
                transactional_id=None,
                acks=_ALL_IN_SYNC,
                timeout_ms=int(self._kafka.config.request_seconds * 800),  # the broker gives up before we do
                topic_data=[topic(name=self._topic, partition_data=[batch])],
                max_version=_BY_NAME,
            ),
            leader,
        )
        ((result,),) = ([*found.partition_responses] for found in answer.responses)
        if result.error_code:
            raise broker_error(result.error_code, topic=self._topic, user=self._kafka.user, action="write to")
        self._leaders = leaders

    def _acknowledged(self, chunk: Fetched) -> float:
        sent_bytes = sum(len(message.value) for message in chunk.messages)
        now_us = self._clock_us()
        self.counts.messages += len(chunk.messages)
        self.counts.bytes += sent_bytes
        self.counts.chunks += 1
        self.counts.behind_us = max(0, now_us - chunk.messages[-1].append_time_us)
        self._failed_in_a_row = 0
        if self._complaint:
            self._complaint = ""
            _say(f"Kafka takes batches again; {self.counts.behind_us / _SECOND_US:.0f} s behind")
        self._advance(chunk)
        backlog = now_us - chunk.messages[0].append_time_us > self._config.backlog_after_seconds * _SECOND_US
        return sent_bytes / self._config.backlog_bytes if backlog else 0.0

    def _nothing_to_send(self, chunk: Fetched) -> float:
        if chunk.next_offset == self._position:
            return IDLE_SECONDS
        self._advance(chunk)
        return 0.0

    def _refused(self, chunk: Fetched, error: MessageRefused) -> None:
        """Single out the message that is refused; then pass over it, and count what it held."""
        if len(chunk.messages) > 1:
            self._at_most_bytes = sum(len(message.value) for message in chunk.messages) // 2
            return
        (message,) = chunk.messages
        _say(f"batch {message.offset} of the spool, {len(message.value)} bytes, is dropped: {error}")
        self._dropped(MESSAGE_REFUSED, self._weight(message.offset))
        self._at_most_bytes = self._config.chunk_bytes
        self._advance(chunk)

    def _advance(self, chunk: Fetched) -> None:
        """Go on behind the chunk; from then on the spool may forget it."""
        self._position = chunk.next_offset
        if chunk.corrupt:
            self._dropped(SPOOL_CORRUPT, sum(self._weight(offset) for offset in chunk.corrupt))
        self._spool.commit(chunk.next_offset)

    def _weight(self, offset: int) -> int:
        """The flows of one message: the difference of two totals, taken while nothing was appended between them."""
        while True:
            after = self._spool.weight_from(offset + 1)
            weight = self._spool.weight_from(offset) - after
            if self._spool.weight_from(offset + 1) == after:
                return weight

    def _failed(self, error: LogError) -> float:
        """Say why, once while it goes on; the same chunk is tried again."""
        self.counts.failures += 1
        if str(error) != self._complaint:
            self._complaint = str(error)
            _say(self._complaint)
        backoff_seconds = min(FIRST_BACKOFF_SECONDS * 2.0**self._failed_in_a_row, LAST_BACKOFF_SECONDS)
        self._failed_in_a_row = min(self._failed_in_a_row + 1, 16)
        return backoff_seconds * (0.5 + self._jitter())  # a fleet does not come back all at once


def _say(line: str) -> None:
    print(f"flowlake: {line}", file=sys.stderr, flush=True)
