"""Settings of the enricher."""

from __future__ import annotations

from dataclasses import dataclass

from enricher.gather import GatherConfig
from enricher.range_writer import PartitionConfig
from settings import MiB, setting


@dataclass(frozen=True)
class EnricherConfig:
    """The joining process"""

    settle_seconds: float = setting(
        30.0,
        "messages wait so long in the log before they are read, so that claims on addresses can arrive before them",
    )
    range_seconds: float = setting(
        60.0,
        "a file is written at the latest so long after its first message: how fresh the lake is, and how many files",
    )
    range_bytes: int = setting(
        32 * MiB,
        "message bytes in one file at most: about 240,000 flows, a Parquet file of 8 MiB, 400 MB of memory",
        minimum=MiB,
    )
    buffer_bytes: int = setting(
        128 * MiB, "message bytes that the whole process holds at most; ranges are closed early to keep it", minimum=MiB
    )
    poll_seconds: float = setting(0.5, "between two looks at a log that had nothing new", minimum=0.01)

    @property
    def partition(self) -> PartitionConfig:
        """As the protocol takes it."""
        return PartitionConfig(
            GatherConfig(
                settle_seconds=self.settle_seconds,
                range_seconds=self.range_seconds,
                range_bytes=self.range_bytes,
                poll_seconds=self.poll_seconds,
            )
        )
