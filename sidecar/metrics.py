"""What the sidecar counts: the running totals that every batch header carries."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.drops import Drop


@dataclass
class RunTotals:
    """Totals of one run of the sidecar.

    emitted: records that were put into batches. spooled: flows whose batch the spool has taken.
    """

    emitted: int = 0
    spooled: int = 0
    batches: int = 0
    delayed_interims: int = 0
    kernel_dropped: dict[Drop, int] = field(default_factory=dict)  # lost before they became a record
    later_dropped: dict[Drop, int] = field(default_factory=dict)  # records that were emitted, and dropped after

    @property
    def captured(self) -> int:
        """Records that the kernel made or tried to make, as far as batches have been made of them."""
        return self.emitted + sum(self.kernel_dropped.values())

    @property
    def dropped(self) -> dict[str, int]:
        """By the names that the lake uses; reasons that never happened are left out."""
        reasons = (*self.kernel_dropped.items(), *self.later_dropped.items())
        return {reason.value: count for reason, count in reasons if count}

    def drop(self, reason: Drop, flows: int) -> None:
        """Count flows that were in a batch and are lost."""
        self.later_dropped[reason] = self.later_dropped.get(reason, 0) + flows
