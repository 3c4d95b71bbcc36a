"""Table `listeners`: the listening sockets of each host at each walk."""

from __future__ import annotations

from schemas.table import Column, Table, Type

STRING, INT32, INT64, TIMESTAMP = Type.STRING, Type.INT32, Type.INT64, Type.TIMESTAMP_US

LISTENERS = Table(
    name="listeners",
    meaning="One row is one listening socket at one walk of the sidecar (every interim interval).",
    partition_time="time",
    columns=(
        Column("time", TIMESTAMP, "when the sidecar looked"),
        Column("host", STRING, "name of the observing host"),
        Column("host_id", STRING, "machine id of the observing host"),
        Column("run_id", STRING, "run of the sidecar"),
        Column("network", STRING, "the scope that the address lives in"),
        Column("netns", INT64, "network namespace cookie"),
        Column("address", STRING, "local address; 0.0.0.0 or :: where it listens on all"),
        Column("port", INT32, "TCP port"),
        Column("pid", INT32, "process that listens (thread group id)", nullable=True),
        Column("process", STRING, "name of that process's leader", nullable=True),
        Column("container_id", STRING, "its container", nullable=True),
        Column("owner_source", STRING, "how the owner is known"),
        Column("local_workload", STRING, "who listens", nullable=True),
        Column("local_kind", STRING, "what kind of workload", nullable=True),
        Column("local_namespace", STRING, "its namespace", nullable=True),
        Column("local_instance", STRING, "name of the instance", nullable=True),
        Column("local_instance_id", STRING, "id of the instance", nullable=True),
        Column("accept_queue", INT32, "connections waiting to be accepted"),
        Column("accept_queue_max", INT32, "bound of that queue"),
        Column("overflows", INT64, "connections the listener could not take, since the last row of this socket"),
    ),
)
