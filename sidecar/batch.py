"""Records of the kernel -> a FlowBatch: who owned the sockets, why they ended, when in wall time. Encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.flow_batch import BatchHeader, NamespaceCounters, encode_flow_batch
from sidecar.clock import WallClock
from sidecar.close_reason import endings
from sidecar.flow_columns import flow_columns
from sidecar.host import Host
from sidecar.identity.identity import BatchNames, Identity, OwnerIndices
from sidecar.listeners import Listeners
from sidecar.metrics import RunTotals
from sidecar.network_scope import NetworkScopes
from sidecar.outbox import EncodedBatch

Records = NDArray[Any]  # of FLOW_RECORD or LISTENER_RECORD, sidecar/probe/abi.py


class BatchMaker:
    """Makes the batches of one run, in order: 0, 1, 2..."""

    def __init__(
        self,
        host: Host,
        run_id: str,
        identity: Identity,
        scopes: NetworkScopes,
        clock: WallClock,
        hz: int,
        totals: RunTotals,
    ) -> None:
        self._host = host
        self._run_id = run_id
        self._identity = identity
        self._scopes = scopes
        self._clock = clock
        self._hz = hz
        self._totals = totals
        self._listeners = Listeners()

    def make(self, records: Records, listening: NDArray[Any], namespaces: Sequence[NamespaceCounters]) -> EncodedBatch:
        """The next batch.

        records: shape (n,), FLOW_RECORD. listening: shape (m,), LISTENER_RECORD, all of one walk or none.
        """
        self._clock.check()
        names = BatchNames()
        began_ns = np.where(records["opened_ns"] > 0, records["opened_ns"], records["start_ns"])
        owners = self._owners(records, names, began_ns, listening=False)
        networks: list[str] = []
        network = self._scopes.indices(records["local_address"], records["remote_address"], records["netns"], networks)
        columns = flow_columns(
            records,
            clock_offset_ns=self._clock.offset_ns,
            boot_id=self._host.boot_id,
            hz=self._hz,
            network=network,
            process=owners.process,
            workload=owners.workload,
            reasons=endings(records),
        )
        listeners = self._listeners.report(
            listening,
            self._clock.now_us(),
            self._owners(listening, names, None, listening=True),
            self._scopes.indices(listening["address"], listening["address"], listening["netns"], networks),
        )
        self._totals.emitted += len(records)
        header = BatchHeader(
            host_id=self._host.host_id,
            host=self._host.host,
            boot_id=self._host.boot_id,
            run_id=self._run_id,
            number=self._totals.batches,
            lowest_number=self._totals.batches,
            created_time=self._clock.now_us(),
            cluster=self._host.place.cluster,
            region=self._host.place.region,
            zone=self._host.place.zone,
            account=self._host.place.account,
            captured=self._totals.captured,
            dropped=self._totals.dropped,
            delayed_interims=self._totals.delayed_interims,
            networks=networks,
            processes=names.processes,
            workloads=names.workloads,
            listeners=listeners,
            namespaces=namespaces,
        )
        self._totals.batches += 1
        return EncodedBatch(self._host.host_id.encode(), encode_flow_batch(header, columns), len(records))

    def _owners(
        self, records: Records, names: BatchNames, began_ns: NDArray[np.uint64] | None, *, listening: bool
    ) -> OwnerIndices:
        return self._identity.resolve(
            records["cgroup"],
            records["cgroup_v1"],
            records["pid"],
            records["comm"],
            records["owner_source"],
            names,
            began_ns,
            listening,
        )
