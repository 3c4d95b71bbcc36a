"""Table `edges`: per minute and pair, partial sums of the flows of one offset range. Readers SUM."""

from __future__ import annotations

from schemas.table import Column, Table, Type

STRING, BOOL, INT32, INT64, TIMESTAMP = Type.STRING, Type.BOOL, Type.INT32, Type.INT64, Type.TIMESTAMP_US

EDGES = Table(
    name="edges",
    meaning="One row is one minute of one pair as one end of it saw it, summed over one offset range. Several rows "
    "may speak of the same minute and pair: readers SUM. Filter `NOT other_end_seen OR observer = 'client'` to count "
    "no connection twice.",
    partition_time="minute",
    columns=(
        Column("minute", TIMESTAMP, "minute of end_time, UTC"),
        Column("observer", STRING, "which end saw it: client, server or unknown"),
        Column("network", STRING, "the scope that the addresses live in"),
        Column("client_workload", STRING, "who connects", nullable=True),
        Column("client_kind", STRING, "kind of the client", nullable=True),
        Column("client_namespace", STRING, "namespace of the client", nullable=True),
        Column("client_cluster", STRING, "cluster of the client", nullable=True),
        Column("client_zone", STRING, "zone of the client", nullable=True),
        Column("client_address", STRING, "address of the client, where it has no name", nullable=True),
        Column("server_workload", STRING, "who is connected to", nullable=True),
        Column("server_kind", STRING, "kind of the server", nullable=True),
        Column("server_namespace", STRING, "namespace of the server", nullable=True),
        Column("server_cluster", STRING, "cluster of the server", nullable=True),
        Column("server_zone", STRING, "zone of the server", nullable=True),
        Column("server_address", STRING, "address of the server, where it has no name", nullable=True),
        Column("server_port", INT32, "TCP port of the server"),
        Column("other_end_seen", BOOL, "the other end's record of the same connections is in the same range"),
        Column("records", INT64, "rows of flows in this sum"),
        Column("opened", INT64, "connections whose first record is in this sum"),
        Column("closed", INT64, "connections whose final record is in this sum"),
        Column("failed", INT64, "of closed: never became a connection, or broke"),
        Column("never_connected", INT64, "of failed: never became a connection"),
        Column("bytes_sent", INT64, "by the client to the server"),
        Column("bytes_received", INT64, "by the client from the server"),
        Column("retransmits", INT64, "segments the observer sent again"),
        Column("syn_retransmits", INT64, "SYN or SYN-ACK sent again"),
        Column("connects", INT64, "connections with a connect_us in this sum"),
        Column("connect_us_sum", INT64, "sum of connect_us over `connects`"),
        Column("connect_us_max", INT32, "largest connect_us", nullable=True),
        Column("rtt_samples", INT64, "records with an rtt_us in this sum"),
        Column("rtt_us_sum", INT64, "sum of rtt_us over `rtt_samples`"),
        Column("rtt_us_max", INT32, "largest rtt_us", nullable=True),
        Column("busy_us", INT64, "time with data to send"),
        Column("rwnd_limited_us", INT64, "of busy_us: held back by the receiver"),
        Column("sndbuf_limited_us", INT64, "of busy_us: held back by the own buffer"),
    ),
)
