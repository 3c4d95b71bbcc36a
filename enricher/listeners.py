"""The table `listeners` of one offset range, from the headers of its batches: a few rows each, so plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from enricher.dictionary import address_text
from enricher.parquet import written_schema
from schemas.flow_batch import BatchHeader, Listener
from schemas.listeners import LISTENERS


def listeners_table(walks: Sequence[tuple[BatchHeader, Listener]]) -> pa.Table:
    """The rows of LISTENERS, in the order given: every listener with the header of its batch."""
    raw = np.frombuffer(b"".join(listener.address for _, listener in walks), np.uint8).reshape(-1, 16)
    addresses = address_text(raw).to_pylist()
    rows = [_row(header, listener, text) for (header, listener), text in zip(walks, addresses, strict=True)]
    arrays = []
    for field in written_schema(LISTENERS):
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        values = pa.array([row[field.name] for row in rows], plain)
        arrays.append(values.dictionary_encode() if plain is not field.type else values)
    return pa.table(arrays, schema=written_schema(LISTENERS))


def _row(header: BatchHeader, listener: Listener, address: str) -> dict[str, Any]:
    owner = None if listener.workload is None else header.workloads[listener.workload]
    return {
        "time": listener.time,
        "host": header.host,
        "host_id": header.host_id,
        "run_id": header.run_id,
        "network": header.networks[listener.network],
        "netns": listener.netns,
        "address": address,
        "port": listener.port,
        "pid": listener.pid,
        "process": None if listener.process is None else header.processes[listener.process],
        "container_id": owner and owner.container_id,
        "owner_source": listener.owner_source,
        "local_workload": owner and owner.workload,
        "local_kind": owner and owner.kind,
        "local_namespace": owner and owner.namespace,
        "local_instance": owner and owner.instance,
        "local_instance_id": owner and owner.instance_id,
        "accept_queue": listener.accept_queue,
        "accept_queue_max": listener.accept_queue_max,
        "overflows": listener.overflows,
    }
