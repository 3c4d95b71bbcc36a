"""Damaged spools: both processes go on, and what was lost is counted where anybody can know it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from chaos.told import coverage_by_run, flows_by_key, losses, table
from chaos.witness import FlowKey, Spooled, read_segment, read_spool, spans
from kernel.namespaces import Namespace
from kernel.traffic import ORDERLY, random_plan, run_traffic, traffic_namespace
from processes import enrich_all, sidecar

pytestmark = pytest.mark.kernel

OFTEN = {
    "drain_seconds": "0.02",
    "batch_seconds": "0.1",
    "batch_flows": "100",
    "spool_segment_bytes": "64KiB",  # four whole batches or more, however fast the machine fills them
    "probe_ring_bytes": "32MiB",  # whatever else goes on on this host: here nothing is lost but what the test damages
}


def spool_something(lake: Path, namespace: Namespace, seed: int) -> list[str]:
    """A run of the sidecar that spools a few thousand records in many batches; what it said."""
    with sidecar(lake, **OFTEN) as watching:
        run_traffic(namespace, random_plan(seed, 1_000, ORDERLY))
        watching.end()
        return watching.errors().splitlines()


def flows_of(messages: Iterable[Spooled]) -> dict[FlowKey, tuple[int, int]]:
    return {key: moved for message in messages for key, moved in message.flows().items()}


@pytest.mark.parametrize("where", ["in its flows", "in its header"])
def test_damaged_bytes_cost_their_batch_which_coverage_counts_as_corrupt(tmp_path: Path, where: str) -> None:
    lake = tmp_path / "lake"
    with traffic_namespace() as namespace:
        spool_something(lake, namespace, 1)
        whole = read_spool(lake / "_spool")
        # Not the last segment: its end belongs to the writer, who cuts it.
        *closed, _ = sorted((lake / "_spool").glob("*.segment"))
        path = next(segment for segment in closed if len(spans(segment)) > 2)
        offset, begin, end = spans(path)[1]
        raw = bytearray(path.read_bytes())
        at = begin + 8 if where == "in its header" else (begin + end) // 2
        raw[at : at + 4] = bytes(octet ^ 0xFF for octet in raw[at : at + 4])
        path.write_bytes(raw)
        again = spool_something(lake, namespace, 2)
        segments = sorted((lake / "_spool").glob("*.segment"))
        after = [m for segment in segments for m in read_segment(segment) if m.offset > whole[-1].offset]
        enrich_all(lake)

    lost = [message for message in whole if message.offset == offset]
    kept = [message for message in whole if message.offset != offset]
    assert re.search(r"dropped (none|\d+ unseen_end)$", again[-1])
    assert len(lost) == 1 and len(flows_of(lost)) > 0
    assert flows_by_key(table(lake, "flows")) == flows_of(kept) | flows_of(after)
    assert losses(lake) == {"dropped_spool_corrupt": len(flows_of(lost))}
    assert coverage_by_run(lake)[lost[0].batch["run_id"]]["missing_batches"] == 1


@pytest.mark.parametrize("sidecar_comes_back", [True, False])
def test_a_torn_end_costs_its_batch_and_everything_else_is_in_the_lake(
    tmp_path: Path, sidecar_comes_back: bool
) -> None:
    lake = tmp_path / "lake"
    said: list[str] = []
    with traffic_namespace() as namespace:
        spool_something(lake, namespace, 1)
        whole = read_spool(lake / "_spool")
        path = max((lake / "_spool").glob("*.segment"))
        _, begin, end = spans(path)[-1]
        path.write_bytes(path.read_bytes()[: end - 7])
        if sidecar_comes_back:
            said = spool_something(lake, namespace, 2)
        spooled = read_spool(lake / "_spool")
        enrich_all(lake)

    assert flows_of(whole[:-1]).items() <= flows_of(spooled).items()
    assert flows_by_key(table(lake, "flows")) == flows_of(spooled)
    assert losses(lake) == {}
    if sidecar_comes_back:
        assert said[0] == (
            f"flowlake: the spool's end was torn, as after a crash: cut {end - 7 - begin} bytes, 1 messages"
        )
        assert len({message.batch["run_id"] for message in spooled}) == 2
    else:
        assert [message.offset for message in spooled] == [message.offset for message in whole[:-1]]
