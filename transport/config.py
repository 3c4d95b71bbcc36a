"""Settings of the spool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from settings import GiB, KiB, MiB, setting


@dataclass(frozen=True)
class SpoolConfig:
    """The spool on disk, between the sidecar and whoever reads on"""

    directory: Path = setting(
        Path("/var/lib/flowlake/spool"), "directory of the spool; one sidecar writes to it", name="spool"
    )
    max_bytes: int = setting(
        2 * GiB,
        "bound of the spool; beyond it the oldest messages go, counted. 10 minutes of 20,000 flows/s at 150 bytes",
        name="spool_max_bytes",
        minimum=128 * KiB,
    )
    segment_bytes: int = setting(
        16 * MiB,
        "size of a segment; what a full spool drops at a time, and what is lost at most when a disk turns bad",
        name="spool_segment_bytes",
        minimum=4 * KiB,
    )
    fsync_seconds: float = setting(
        1.0,
        "at most so much is lost when the machine loses power (a killed process loses nothing); 0 syncs every message",
        name="spool_fsync_seconds",
    )

    def __post_init__(self) -> None:
        if self.max_bytes < 2 * self.segment_bytes:
            raise ValueError(
                f"spool_max_bytes is {self.max_bytes}, expected at least two segments "
                f"(spool_segment_bytes is {self.segment_bytes})"
            )
