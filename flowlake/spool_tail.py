"""Live flows: what is appended to the spool, as rows of the table `flows`, before the enricher has stored them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from enricher.attribute import attribute
from enricher.flows_table import flows_table
from schemas.decode import DecodedMessage, DecodeError, decode_flows, decode_message
from schemas.flows import FLOWS
from transport.log import OffsetsLost
from transport.spool import SpoolReader

_READ_BYTES = 1 << 20  # of messages at a time: some 10,000 flows


class SpoolTail:
    """Reads a spool on from the first offset that it keeps. Never commits: following changes nothing for the enricher.

    missed: offsets that were gone, or corrupt, before they were read. unreadable: messages that could not be decoded.
    run_ids: of the sidecars whose batches were read.
    """

    def __init__(self, directory: Path) -> None:
        self.missed = 0
        self.unreadable = 0
        self.run_ids: set[str] = set()
        self._reader = SpoolReader(directory)
        self._next_offset: int | None = None  # None: the first that is kept

    def check(self) -> None:
        """Raises LogError where there is no spool, or it cannot be read."""
        self._reader.identity()

    def skip_to_end(self) -> None:
        """Go on with what is appended from now. Raises LogError."""
        _, self._next_offset = self._reader.bounds()

    def new_flows(self) -> Iterator[pa.Table]:
        """The flows appended since the last call, about 1 MiB of messages at a time; ends where nothing more is there.

        Columns are those of the lake, text is dictionary-encoded. Raises LogError.
        """
        if self._next_offset is None:
            self._next_offset, _ = self._reader.bounds()
        while True:
            try:
                fetched = self._reader.read(
                    self._next_offset, stop_before=None, appended_before_us=None, max_bytes=_READ_BYTES
                )
            except OffsetsLost as lost:
                self.missed += lost.first_available - self._next_offset
                self._next_offset = lost.first_available
                continue
            self._next_offset = fetched.next_offset
            self.missed += len(fetched.corrupt)
            if not fetched.messages:
                return
            yield self._flows([message.value for message in fetched.messages])

    def _flows(self, values: list[bytes]) -> pa.Table:
        messages: list[DecodedMessage] = []
        for value in values:
            try:
                messages.append(decode_message(value))
            except DecodeError:
                self.unreadable += 1
        headers = [message.header for message in messages]
        self.run_ids.update(header.run_id for header in headers)
        wire, wrong = decode_flows(messages)
        self.unreadable += len(wrong)
        flows = attribute(flows_table(wire, headers), None)
        return flows.select([column.name for column in FLOWS.columns])
