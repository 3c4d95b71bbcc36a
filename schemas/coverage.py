"""Table `coverage`: what is missing, where and when, from the headers of the batches."""

from __future__ import annotations

from schemas.drops import Drop
from schemas.table import Column, Table, Type

STRING, BOOL, INT32, INT64, TIMESTAMP = Type.STRING, Type.BOOL, Type.INT32, Type.INT64, Type.TIMESTAMP_US

COVERAGE = Table(
    name="coverage",
    meaning="One row is one minute of one run of a sidecar over one offset range (netns is null), or what the kernel "
    "counted in one of its network namespaces meanwhile. Readers SUM; a minute without a row of a host was not "
    "watched. captured = written + rejected + repeated gaps aside + all dropped_*, summed over a run that has drained.",
    partition_time="minute",
    columns=(
        Column("minute", TIMESTAMP, "minute in which the batches were made, UTC"),
        Column("host", STRING, "name of the observing host"),
        Column("host_id", STRING, "machine id of the observing host"),
        Column("run_id", STRING, "run of the sidecar"),
        Column("netns", INT64, "network namespace cookie; null: the row is about the host", nullable=True),
        Column("batches", INT64, "batches accepted"),
        Column("repeated_batches", INT64, "batches that had been accepted before, and were left out"),
        Column("missing_batches", INT64, "batch numbers that were passed over: their flows are dropped or late"),
        Column("captured", INT64, "records that the kernel made or tried to make"),
        Column("written", INT64, "rows of flows"),
        Column("rejected", INT64, "records that could not be read or were outside what clocks allow"),
        Column(
            "expired",
            INT64,
            "records that the log had lost before they were read, as far as known; negative where a sidecar names "
            "as dropped what had been counted here before",
        ),
        *(
            Column(f"dropped_{reason.value}", INT64, f"records dropped: {reason.value.replace('_', ' ')}")
            for reason in Drop
        ),
        Column("delayed_interims", INT64, "interim records put off since their ring was full; the next carries them"),
        Column("clock_offset_us", INT64, "host clock less the log's append clock, smallest seen", nullable=True),
        Column("listen_overflows", INT64, "connections refused by a full accept queue", nullable=True),
        Column("listen_drops", INT64, "SYNs and ACKs that a listener dropped", nullable=True),
        Column("out_no_routes", INT64, "packets without a route: connects that gave no event", nullable=True),
        Column("half_open", INT64, "handshakes whose SYN-ACK had to be repeated", nullable=True),
    ),
)
