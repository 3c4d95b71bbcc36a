"""One partition of a topic, read by offset.

A fetch names the topic by its id, so that the broker itself refuses to read from another topic of the same name. There
is no consumer behind it, and nothing is fetched ahead: what a reader holds is one fetch, of which it keeps back what is
not settled yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from kafka.protocol.consumer import FetchRequest, IsolationLevel, ListOffsetsRequest, OffsetSpec

from transport.kafka_client import Kafka
from transport.kafka_errors import (
    OUT_OF_RANGE,
    UNKNOWN_TOPIC_ID,
    KafkaAbsent,
    KafkaRefused,
    LogReplaced,
    broker_error,
)
from transport.kafka_records import decode_fetch
from transport.log import Fetched, LogIdentity, Message, OffsetsLost

_BY_TOPIC_ID = 13  # Fetch version that names the topic by its id (KIP-516, Kafka 3.1)


class KafkaReader:
    """LogReader on one partition. Not for several threads at once; the connection may be shared.

    It stands for the topic as it was when identity(), bounds() or read() was first called. Once the topic is made anew,
    everything raises LogReplaced; a new reader reads the new one.
    """

    def __init__(self, kafka: Kafka, topic: str, partition: int, commit: Callable[[int], None]) -> None:
        """commit: where the hint goes; usually the offsets of a consumer group."""
        self._kafka = kafka
        self._name = topic
        self._partition = partition
        self._commit = commit
        self._topic_id: Any = None  # uuid.UUID, once known
        self._identity: LogIdentity | None = None
        self._leader: int | None = None
        # The last fetch, as far as it was not given away: messages in order, and where to read on after them.
        self._held: deque[Message] = deque()
        self._held_from = 0
        self._held_to = 0

    def identity(self) -> LogIdentity:
        """Raises KafkaAbsent, KafkaRefused."""
        if self._identity is None:
            self._look_up()
        assert self._identity is not None
        return self._identity

    def bounds(self) -> tuple[int, int]:
        """(first offset kept, offset after the last message that is committed). Raises LogError, LogReplaced."""
        self.identity()
        bounds = self._offset(OffsetSpec.EARLIEST), self._offset(OffsetSpec.LATEST)
        # These are asked by name. A broker learns of a new topic before it serves it: as long as the one that answered
        # tells the old id, it answered for the old topic.
        self._look_up(self._leader)
        return bounds

    def read(self, first: int, *, stop_before: int | None, appended_before_us: int | None, max_bytes: int) -> Fetched:
        """See LogReader. One fetch at most, so that a backlog is read in steps of kafka_fetch_bytes.

        Raises OffsetsLost; with first_available <= wanted where the log ends before `first`, so that it lost its tail.
        """
        self.identity()
        if stop_before is not None and first >= stop_before:
            return Fetched((), first)
        if not self._holds(first):
            self._fetch(first)
        taken: list[Message] = []
        value_bytes = 0
        next_offset = self._held_to
        for message in self._held:
            late = appended_before_us is not None and message.append_time_us >= appended_before_us
            full = taken and value_bytes + len(message.value) > max_bytes
            if late or full or (stop_before is not None and message.offset >= stop_before):
                next_offset = message.offset
                break
            taken.append(message)
            value_bytes += len(message.value)
        if stop_before is not None:
            next_offset = min(next_offset, stop_before)
        self._give_away(next_offset)
        return Fetched(taken, next_offset)

    def commit(self, next_offset: int) -> None:
        """Raises LogError where the hint could not be given."""
        self._commit(next_offset)

    def _holds(self, first: int) -> bool:
        """Drop what lies before `first`; whether the rest begins there, and is not empty."""
        if not self._held_from <= first < self._held_to:
            return False
        self._give_away(first)
        return True

    def _give_away(self, next_offset: int) -> None:
        while self._held and self._held[0].offset < next_offset:
            self._held.popleft()
        self._held_from = next_offset

    def _fetch(self, first: int) -> None:
        self._held.clear()
        self._held_from = self._held_to = first
        found = self._asked(_fetch_request(self._topic_id, self._partition, first, self._kafka.config.fetch_bytes))
        if found.error_code == OUT_OF_RANGE:
            begin, end = self.bounds()
            raise OffsetsLost(first, begin if first < begin else end)
        self._raise_for(found.error_code)
        aborted: Sequence[Any] = found.aborted_transactions or ()
        decoded = decode_fetch(found.records or b"", first, [(one.first_offset, one.producer_id) for one in aborted])
        self._held.extend(decoded.messages)
        self._held_to = decoded.next_offset

    def _asked(self, request: Any) -> Any:
        """What the leader answers for our partition."""
        try:
            answer = self._kafka.ask(request, self._leader_now())
        except KafkaAbsent:
            self._leader = None
            raise
        if answer.error_code:
            self._raise_for(answer.error_code)
        ((found,),) = ([*topic.partitions] for topic in answer.responses)
        return found

    def _offset(self, which: OffsetSpec) -> int:
        one = ListOffsetsRequest.ListOffsetsTopic.ListOffsetsPartition(
            partition_index=self._partition, current_leader_epoch=-1, timestamp=which
        )
        request = ListOffsetsRequest(
            isolation_level=IsolationLevel.READ_COMMITTED, topics=[(self._name, [one])], min_version=2
        )
        try:
            answer = self._kafka.ask(request, self._leader_now())
        except KafkaAbsent:
            self._leader = None
            raise
        ((found,),) = ([*topic.partitions] for topic in answer.topics)
        self._raise_for(found.error_code)
        return int(found.offset)

    def _raise_for(self, code: int) -> None:
        if not code:
            return
        self._leader = None
        if code == UNKNOWN_TOPIC_ID:
            self._look_up()  # raises where it was made anew, or is gone
        raise broker_error(code, topic=self._name, user=self._kafka.user, action="read from")

    def _leader_now(self) -> int:
        if self._leader is None:
            self._look_up()
        if self._leader is None or self._leader < 0:
            self._leader = None
            raise KafkaAbsent(
                f"Kafka: partition {self._partition} of topic {self._name} has no leader; waiting for one"
            )
        return self._leader

    def _look_up(self, node: int | None = None) -> None:
        """Learn who leads the partition, and make sure that the topic is still the one that we read."""
        topic = self._kafka.topic(self._name, node)
        if self._identity is not None and topic.uuid != self._identity.uuid:
            raise LogReplaced(
                f"topic {self._name} was made anew: {topic.uuid} in place of {self._identity.uuid}; it is another log"
            )
        if self._partition not in topic.leaders:
            raise KafkaRefused(
                f"topic {self._name} has no partition {self._partition}, only {len(topic.leaders)} of them"
            )
        self._leader = topic.leaders[self._partition]
        self._topic_id = topic.topic_id
        self._identity = LogIdentity("kafka", self._name, topic.uuid, self._partition)


def _fetch_request(topic_id: Any, partition: int, first: int, fetch_bytes: int) -> FetchRequest:
    one = FetchRequest.FetchTopic.FetchPartition(
        partition=partition, fetch_offset=first, partition_max_bytes=fetch_bytes
    )
    return FetchRequest(
        max_wait_ms=0,  # a reader does not wait; and on a connection that is shared all others would wait with it
        min_bytes=1,
        max_bytes=fetch_bytes,
        isolation_level=IsolationLevel.READ_COMMITTED,
        session_id=0,
        session_epoch=-1,  # of no fetch session
        topics=[FetchRequest.FetchTopic(topic_id=topic_id, partitions=[one])],
        forgotten_topics_data=[],
        rack_id="",
        min_version=_BY_TOPIC_ID,
    )
