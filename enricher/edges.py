"""The table `edges` of one offset range: what its stored flows add up to, per minute and pair.

Grouping runs on integers: text is read as dictionary indices, and turned back once per group.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from enricher.dictionary import canonical, one_array
from enricher.parquet import written_schema
from schemas.edges import EDGES
from schemas.failures import BROKE, GIVEN_UP, NEVER_CONNECTED
from schemas.flows import FLOWS
from schemas.table import Type

MINUTE_US = 60_000_000

_NAMES = ("workload", "kind", "namespace", "cluster", "zone")
_READ = (
    "start_time", "end_time", "opened_time", "sequence", "final", "role", "network", "local_port", "remote_port",
    "local_address", *(f"local_{name}" for name in _NAMES),
    "remote_address", *(f"remote_{name}" for name in _NAMES),
    "bytes_sent", "bytes_received", "retransmits", "syn_retransmits", "connect_us", "rtt_us",
    "busy_us", "rwnd_limited_us", "sndbuf_limited_us", "close_reason",
)  # fmt: skip
_TEXT = [name for name in _READ if FLOWS.column(name).type is Type.STRING]

Bools = NDArray[np.bool_]
Int64s = NDArray[np.int64]


def read_flows(stored: Sequence[bytes]) -> pa.Table:
    """The columns that edges need, of the flows files of one range; each text column with one dictionary for all."""
    tables = [
        pq.read_table(pa.BufferReader(body), columns=list(_READ), read_dictionary=_TEXT, use_threads=False)
        for body in stored
    ]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def edges_table(flows: pa.Table) -> pa.Table:
    """The rows of EDGES, sorted by all that they are grouped by.

    flows: as read_flows() gives them: all flows of one offset range.
    """
    schema = written_schema(EDGES)
    if flows.num_rows == 0:
        return schema.empty_table()
    column = {name: one_array(flows[name]) for name in flows.column_names}
    ends = observed_ends(column)
    keys, values = _keys(column, ends)
    sums = _summands(column, ends)
    how = [(name, "max" if name.endswith("_max") else "sum") for name in sums]
    groups = pa.table({**keys, **sums}).group_by(list(keys), use_threads=False).aggregate(how)

    made = {name: one_array(groups[f"{name}_{function}"]) for name, function in how}
    for name in keys:
        codes = one_array(groups[name])
        made[name] = _decoded(codes, values[name]) if name in values else codes
    # A canonical dictionary is sorted, so its indices sort as the text would.
    order = pa.table({name: made[name].indices if name in values else made[name] for name in keys})
    rows = pc.sort_indices(order, [(name, "ascending", "at_start") for name in keys])
    arrays = [made[field.name].cast(field.type).take(rows) for field in schema]
    return pa.table(arrays, schema=schema)


@dataclass(frozen=True, slots=True)
class Ends:
    """Which end of its connection each of n rows saw, and whether the other end's rows are there too.

    is_client, is_server: (n,) what the local end is. Neither: no record says; it then passes for the client.
    other_end_seen: (n,) rows of the other end are among these. Where no client's row stands for the connection, one
        end is spared, so that `NOT other_end_seen OR observer = 'client'` counts every connection once.
    """

    is_client: Bools
    is_server: Bools
    other_end_seen: Bools


def observed_ends(column: Mapping[str, pa.Array]) -> Ends:
    """column: role, network, addresses and ports of the flows of one offset range."""
    roles, role = _coded(column["role"])
    is_client, is_server = _is_one_of(role, roles, {"client"}), _is_one_of(role, roles, {"server"})
    unknown = ~(is_client | is_server)

    connections = _Connections(column)
    if unknown.any():  # what an end does not know of itself, the other end's record may say
        now_client = unknown & connections.other_end_is(is_server)
        now_server = unknown & ~now_client & connections.other_end_is(is_client)
        is_client, is_server = is_client | now_client, is_server | now_server
    other = connections.other_end_is(np.ones(len(role), np.bool_))
    stands_back = is_client | connections.other_end_is(is_client) | connections.at_lower_port
    return Ends(is_client, is_server, other & stands_back)


class _Connections:
    """Which rows speak of the same connection, and from which of its two ends.

    at_lower_port: (n,) the local end is the one with the lower port, or else the first address.
    """

    def __init__(self, column: Mapping[str, pa.Array]) -> None:
        _, network = _coded(column["network"])
        addresses, local, remote = _coded_together(column["local_address"], column["remote_address"])
        ends = [
            column[port].to_numpy().astype(np.int64) << 32 | address
            for address, port in ((local, "local_port"), (remote, "remote_port"))
        ]
        self.at_lower_port: Bools = ends[0] < ends[1]
        self._two_ends: Bools = ends[0] != ends[1]  # a socket connected to itself has no other end
        low, high = np.minimum(*ends), np.maximum(*ends)
        among = np.int64(len(addresses))
        # Below 2^31 once encoded; 2^63 holds 1000 networks of 90 million addresses before.
        hosts = (network * among + (low & 0xFFFF_FFFF)) * among + (high & 0xFFFF_FFFF)
        if among * among * (int(network.max()) + 1) >= 1 << 31:
            hosts = pa.array(hosts).dictionary_encode().indices.to_numpy().astype(np.int64)
        pair = hosts << 32 | (low >> 32) << 16 | high >> 32
        encoded = pa.array(pair).dictionary_encode()
        self._count = len(encoded.dictionary)
        # Twice the number of the connection, and one more for its upper end.
        self._here = encoded.indices.to_numpy().astype(np.int64) * 2 + ~self.at_lower_port

    def other_end_is(self, which: Bools) -> Bools:
        """(n,) one of these rows is of the other end of the row's connection."""
        seen = np.zeros(2 * self._count, np.bool_)
        seen[self._here[which]] = True
        found: Bools = seen[self._here ^ 1] & self._two_ends
        return found


def _keys(column: Mapping[str, pa.Array], ends: Ends) -> tuple[dict[str, pa.Array], dict[str, pa.Array]]:
    """What rows are grouped by, all of it integers; and for text what the integers stand for, -1 being null."""
    swap = ends.is_server  # the server is the local end
    values: dict[str, pa.Array] = {"observer": pa.array(["client", "server", "unknown"])}
    observer = np.where(ends.is_client, 0, np.where(ends.is_server, 1, 2))
    values["network"], network = _coded(column["network"])
    end_us = column["end_time"].view(pa.int64()).to_numpy()
    keys: dict[str, NDArray[Any]] = {"minute": end_us - end_us % MINUTE_US, "observer": observer, "network": network}
    for name in (*_NAMES, "address"):
        text, local, remote = _coded_together(column[f"local_{name}"], column[f"remote_{name}"])
        if name == "address":  # only where there is no name
            local = np.where(_present(column["local_workload"]), -1, local)
            remote = np.where(_present(column["remote_workload"]), -1, remote)
        values[f"client_{name}"] = values[f"server_{name}"] = text
        keys[f"client_{name}"] = np.where(swap, remote, local)
        keys[f"server_{name}"] = np.where(swap, local, remote)
    keys["server_port"] = np.where(swap, column["local_port"].to_numpy(), column["remote_port"].to_numpy())
    keys["other_end_seen"] = ends.other_end_seen
    in_order = [c.name for c in EDGES.columns if c.name in keys]
    return {name: pa.array(keys[name]) for name in in_order}, values


def _summands(column: Mapping[str, pa.Array], ends: Ends) -> dict[str, pa.Array]:
    """What is summed; where the name ends in _max, what the largest is taken of."""
    final = column["final"].to_numpy(zero_copy_only=False)
    first = column["sequence"].to_numpy() == 0
    sent, received = column["bytes_sent"].to_numpy(), column["bytes_received"].to_numpy()

    reasons, reason = _coded(column["close_reason"])
    given_up = _is_one_of(reason, reasons, GIVEN_UP) & (column["syn_retransmits"].to_numpy() > 0)
    never_connected = final & (_is_one_of(reason, reasons, NEVER_CONNECTED) | given_up)
    failed = never_connected | (final & _is_one_of(reason, reasons, BROKE))

    # Every record of a connection tells its connect_us; it counts where the connection came about: in the first
    # record, or in a later one whose interval began before.
    connect_us = column["connect_us"]
    opened_us = pc.fill_null(column["opened_time"].view(pa.int64()), -(1 << 62)).to_numpy()
    start_us = column["start_time"].view(pa.int64()).to_numpy()
    came_about = opened_us + pc.fill_null(connect_us, 0).to_numpy() > start_us
    connected = _present(connect_us) & (first | came_about)
    connects = pc.if_else(pa.array(connected), connect_us, pa.scalar(None, pa.int32()))
    rtt_us = column["rtt_us"]
    summands: dict[str, Any] = {
        "records": np.ones(len(final), np.int64),
        "opened": first,
        "closed": final,
        "failed": failed,
        "never_connected": never_connected,
        "bytes_sent": np.where(ends.is_server, received, sent),
        "bytes_received": np.where(ends.is_server, sent, received),
        "retransmits": column["retransmits"],
        "syn_retransmits": column["syn_retransmits"],
        "connects": connected,
        "connect_us_sum": pc.fill_null(connects, 0),
        "connect_us_max": connects,
        "rtt_samples": _present(rtt_us),
        "rtt_us_sum": pc.fill_null(rtt_us, 0),
        "rtt_us_max": rtt_us,
        "busy_us": column["busy_us"],
        "rwnd_limited_us": column["rwnd_limited_us"],
        "sndbuf_limited_us": column["sndbuf_limited_us"],
    }
    return {name: pa.array(values) if isinstance(values, np.ndarray) else values for name, values in summands.items()}


def _coded(text: pa.Array) -> tuple[pa.Array, NDArray[np.int32]]:
    """(distinct values, (n,) index of each row among them, -1 for null) of a dictionary array."""
    codes: NDArray[np.int32] = pc.fill_null(text.indices, -1).to_numpy()
    return text.dictionary, codes


def _coded_together(local: pa.Array, remote: pa.Array) -> tuple[pa.Array, NDArray[np.int32], NDArray[np.int32]]:
    """_coded() of two columns with one list of values."""
    both = pa.chunked_array([local, remote]).unify_dictionaries()
    values, local_codes = _coded(both.chunk(0))
    _, remote_codes = _coded(both.chunk(1))
    return values, local_codes, remote_codes


def _decoded(codes: pa.Array, values: pa.Array) -> pa.DictionaryArray:
    """The text that the codes stand for, in canonical form."""
    known = pc.if_else(pc.greater_equal(codes, 0), codes, pa.scalar(None, codes.type)).cast(pa.int32())
    return canonical(pa.DictionaryArray.from_arrays(known, values))


def _is_one_of(codes: NDArray[np.int32], values: pa.Array, wanted: Collection[str]) -> Bools:
    # One entry more, for the code -1.
    table = np.array([value in wanted for value in values.to_pylist()] + [False])
    found: Bools = table[codes]
    return found


def _present(column: pa.Array) -> Bools:
    present: Bools = column.is_valid().to_numpy(zero_copy_only=False)
    return present
