"""Reading the messages of a range: a new one as far as it is settled (steps 4 and 5), a begun one exactly (step 3)."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from enricher.chain import PartitionStopped
from enricher.operations import Bounds, Buffered, Now, Read, Steps, Stop, Wait
from lake.ranges import Intent
from transport.log import LogError, Message, OffsetsLost

SECOND_US = 1_000_000
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class GatherConfig:
    """When a range is closed. None of it decides what rows a range has once its intent is there."""

    settle_seconds: float = 30.0  # claims on addresses arrive within it
    range_seconds: float = 60.0  # how old the lake's newest rows are at most, beyond the settle delay
    range_bytes: int = 32 * MIB  # of message values: about 240,000 flows, a Parquet file of 8 MiB
    poll_seconds: float = 0.5  # between two looks at a log that had nothing new


@dataclass(slots=True)
class Contents:
    """What was read of the offsets [first, next).

    readable_from: the messages below it had expired. gap: the log had lost all of it before anyone read it.
    """

    first: int
    next: int
    readable_from: int
    gap: bool = False
    messages: list[Message] = field(default_factory=list)
    corrupt: list[int] = field(default_factory=list)
    bytes: int = 0
    since_us: int = 0  # append time of the first message; microseconds UTC

    def holds_anything(self) -> bool:
        """Whether there is something to write down. Offsets that were never messages are not."""
        return bool(self.messages or self.corrupt or self.gap)


def message_digest(messages: Sequence[Message], corrupt: Sequence[int]) -> str:
    """What an intent pins of its messages: all that rows can depend on. 64 hex digits."""
    digest = hashlib.sha256()
    for message in messages:
        checksum = zlib.crc32(message.value, zlib.crc32(message.key))
        lengths = (len(message.key), len(message.value))
        digest.update(struct.pack(">qqIII", message.offset, message.append_time_us, *lengths, checksum))
    digest.update(struct.pack(f">{len(corrupt)}q", *corrupt))
    return digest.hexdigest()


class Gatherer:
    """Reads the next range's messages. Remembers only up to where to read once draining was asked."""

    def __init__(self, config: GatherConfig) -> None:
        self._config = config
        self._drain_to: int | None = None

    def next_range(self, first: int) -> Steps[Contents | None]:
        """Settled messages from `first` on, until the range is to be closed; None when asked to end."""
        config = self._config
        contents = Contents(first, first, first)
        _, end = yield from Bounds()
        if end < first:
            # A spool after power loss, until its writer goes on past what anyone can have read; or a lagging replica.
            # But a topic that has lost its tail fills up again with others: its reader knows, when asked to read there.
            try:
                yield from Read(first, None, None, 0)
            except OffsetsLost as lost:
                if lost.first_available <= lost.wanted:
                    raise _tail_lost(lost.wanted) from None
            raise LogError(f"the log ends at offset {end}, though the lake has reached {first}; waiting for its writer")
        while True:
            now = yield from Now()
            if now.stop is Stop.NOW:
                return None
            if now.stop is Stop.DRAIN and self._drain_to is None:
                _, self._drain_to = yield from Bounds()
            horizon_us = now.wall_us - int(config.settle_seconds * SECOND_US)
            try:
                fetched = yield from Read(contents.next, None, horizon_us, config.range_bytes - contents.bytes)
            except OffsetsLost as lost:
                if lost.first_available <= lost.wanted:
                    raise _tail_lost(lost.wanted) from None
                if contents.holds_anything():
                    return contents
                return Contents(first, lost.first_available, lost.first_available, gap=True)

            contents.next = fetched.next_offset
            contents.corrupt.extend(fetched.corrupt)
            if fetched.messages:
                if not contents.messages:
                    contents.since_us = fetched.messages[0].append_time_us
                contents.messages.extend(fetched.messages)
                contents.bytes += sum(len(message.value) for message in fetched.messages)
            elif not contents.messages:
                contents.since_us = now.wall_us  # corrupt offsets alone have no append time

            spent = yield from Buffered(contents.bytes)
            drained = self._drain_to is not None and contents.next >= self._drain_to
            if contents.holds_anything():
                # In a backlog everything is old; there bytes close a range, lest ranges be as small as reads.
                last_us = contents.messages[-1].append_time_us if contents.messages else now.wall_us
                caught_up = not fetched.messages or last_us >= horizon_us - int(config.range_seconds * SECOND_US)
                old = horizon_us - contents.since_us >= int(config.range_seconds * SECOND_US)
                if contents.bytes >= config.range_bytes or spent or drained or (old and caught_up):
                    return contents
            elif drained:
                return None
            if not fetched.messages:
                yield from Wait(config.poll_seconds)


def _tail_lost(offset: int) -> PartitionStopped:
    return PartitionStopped(
        f"the log ends before offset {offset}, which the lake has reached already: it lost its tail. "
        "Make the topic or the spool anew, so that it counts as another log"
    )


def read_exactly(intent: Intent, max_bytes: int) -> Steps[Contents]:
    """The messages of a range that someone began, as far as the log still holds them.

    Raises PartitionStopped where the log holds others than the intent says.
    """
    readable_from = intent.next if intent.gap else intent.first
    while True:
        try:
            contents = yield from _read_from(readable_from, intent, max_bytes)
            break
        except OffsetsLost as lost:
            if lost.first_available <= lost.wanted:
                raise _tail_lost(lost.wanted) from None
            readable_from = min(lost.first_available, intent.next)
    whole = readable_from == intent.first
    if whole and message_digest(contents.messages, contents.corrupt) != intent.digest:
        raise PartitionStopped(
            f"the log does not hold the messages that the range at offset {intent.first} was begun with "
            f"({intent.messages}, digest {intent.digest[:12]}; found {len(contents.messages)}): was it restored or "
            "edited? Make the topic or the spool anew, so that it counts as another log"
        )
    return contents


def _read_from(readable_from: int, intent: Intent, max_bytes: int) -> Steps[Contents]:
    contents = Contents(intent.first, readable_from, readable_from, intent.gap)
    while contents.next < intent.next:
        fetched = yield from Read(contents.next, intent.next, None, max_bytes)
        if fetched.next_offset <= contents.next:
            raise LogError(
                f"the log gives nothing at offset {contents.next}, though a range up to {intent.next} was begun"
            )
        contents.next = fetched.next_offset
        contents.messages.extend(fetched.messages)
        contents.corrupt.extend(fetched.corrupt)
    return contents
