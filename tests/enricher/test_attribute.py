"""Attribution without claims: nobody gets a name, everybody a reason, and what was captured stays as it was."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest

from enricher.attribute import ATTRIBUTED, attribute
from enricher.flows_table import CAPTURED
from schemas.flows import FLOWS

FLOWS_SEEN = pa.table({"flow_id": [1, 2], "remote_address": ["10.0.0.1", "::1"], "remote_port": [80, 443]})


def test_without_claims_no_remote_end_has_a_name_and_all_say_why() -> None:
    for claims in (None, pa.table({})):
        rows = attribute(FLOWS_SEEN, claims).to_pylist()
        assert [row["remote_reason"] for row in rows] == ["no_claim", "no_claim"]
        assert {row[name] for row in rows for name in ATTRIBUTED if name != "remote_reason"} == {None}


def test_captured_columns_are_left_as_they_were_and_names_given_before_are_replaced() -> None:
    before = FLOWS_SEEN.append_column("remote_workload", pa.array(["old", "older"]))
    after = attribute(before, None)
    assert after.select(FLOWS_SEEN.column_names).equals(FLOWS_SEEN)
    assert after["remote_workload"].to_pylist() == [None, None]


def test_captured_and_attributed_columns_together_are_the_table() -> None:
    assert sorted([*CAPTURED, *ATTRIBUTED]) == sorted(column.name for column in FLOWS.columns)
    assert {"remote_address", "remote_port"} <= set(CAPTURED)


def test_no_flows_give_no_rows() -> None:
    assert attribute(FLOWS_SEEN.slice(0, 0), None).num_rows == 0


def test_claims_are_refused_rather_than_ignored() -> None:
    with pytest.raises(ValueError, match="1 claims were given"):
        attribute(FLOWS_SEEN, pa.table({"claim": [1]}))


def test_attribution_knows_neither_log_nor_store() -> None:
    script = "import enricher.attribute, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in loaded if name.split(".")[0] in ("transport", "lake", "kafka", "boto3")]
