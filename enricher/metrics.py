"""What the enricher counts, and the lines that it tells people."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field

from enricher.rows import Rejected
from lake.ranges import Done


@dataclass
class EnricherMetrics:
    """Totals since the start of the process: the `Listener` of every partition."""

    ranges: int = 0
    files: int = 0
    written_records: int = 0
    accepted_batches: int = 0
    repeated_batches: int = 0
    missing_batches: int = 0
    expired_records: int = 0
    corrupt_messages: int = 0
    rejected_messages: Counter[str] = field(default_factory=Counter)  # by reason

    def finished(self, done: Done) -> None:
        """A range is in the lake."""
        self.ranges += 1
        self.files += len(done.files)
        self.written_records += done.written_records
        self.accepted_batches += done.accepted_batches
        self.repeated_batches += done.repeated_batches
        self.missing_batches += done.missing_batches
        self.expired_records += done.expired_records
        self.corrupt_messages += done.corrupt

    def rejected(self, rejected: tuple[Rejected, ...]) -> None:
        """Messages that could not be read. The first of each reason is told, the rest are counted."""
        for message in rejected:
            if message.reason not in self.rejected_messages:
                self.warned(f"message at offset {message.offset} rejected ({message.reason}): {message.error}")
            self.rejected_messages[message.reason] += 1

    def warned(self, line: str) -> None:
        """Tell people."""
        print(f"flowlake: {line}", file=sys.stderr, flush=True)
