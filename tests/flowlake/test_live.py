"""The live table of `flowlake up`, and its summary."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from small_lake import at, flow, make_lake, other_end

from flowlake import live
from flowlake.live import LiveTable
from flowlake.summary import summary
from schemas.arrow import ARROW_TYPES
from schemas.flows import FLOWS


def rows(*records: Mapping[str, Any]) -> pa.Table:
    zero = {"sequence": 0, "bytes_sent": 0, "bytes_received": 0, "syn_retransmits": 0}
    arrays = {
        c.name: pa.array([{**zero, **record}.get(c.name) for record in records], ARROW_TYPES[c.type])
        for c in FLOWS.columns
    }
    # As the enricher gives it: text is dictionary-encoded.
    encoded = {n: a.dictionary_encode() if pa.types.is_string(a.type) else a for n, a in arrays.items()}
    return pa.table(encoded)


def facts(table: LiveTable) -> Sequence[tuple[Any, ...]]:
    return [(*key, pair.opened, pair.failed, pair.bytes, pair.last_failure) for key, pair in table.busiest(99)]


def test_records_of_a_pair_are_added_up_over_calls(tmp_path: Path) -> None:
    table = LiveTable(tmp_path, io.StringIO())
    table.add(rows(flow("11:00:00", 1, final=False, bytes_sent=5), flow("11:00:00", 2, close_reason="refused")))
    table.add(rows(flow("11:01:00", 1, sequence=1, bytes_received=7, rtt_us=90)))
    assert facts(table) == [("checkout", "10.0.0.2", 5432, 2, 1, 12, "refused")]
    assert table.busiest(1)[0][1].rtt_us == 90
    assert table.records == 3


def test_a_connection_with_both_ends_here_counts_once(tmp_path: Path) -> None:
    table = LiveTable(tmp_path, io.StringIO())
    client = flow("11:00:00", 1, bytes_sent=5)
    table.add(rows(client))
    table.add(rows(other_end(client)))
    lone_server = other_end(flow("11:00:00", 2, bytes_received=9))
    table.add(rows(lone_server))
    assert facts(table) == [
        ("10.0.0.1", "postgres", 5432, 1, 0, 9, ""),
        ("checkout", "10.0.0.2", 5432, 1, 0, 5, ""),
    ]


def test_the_memory_of_pairs_is_bounded_and_forgets_the_oldest(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(live, "MAX_PAIRS", 3)
    monkeypatch.setattr(live, "REMEMBERED_ENDS", 2)
    table = LiveTable(tmp_path, io.StringIO())
    for port in (1, 2, 3, 1, 4):
        table.add(rows(flow("11:00:00", port, remote_port=port)))
    assert sorted(table.pairs) == [("checkout", "10.0.0.2", port) for port in (1, 3, 4)]
    assert len(table._client_ends) == 2


def test_names_are_text_and_no_markup(tmp_path: Path) -> None:
    table = LiveTable(tmp_path, io.StringIO())
    table.add(rows(flow("11:00:00", 1, local_workload="[red]cart[/red]\x1b[2J")))
    console = Console(file=io.StringIO(), width=120)
    console.print(table.render())
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]cart[/red]\ufffd[2J" in printed


def test_without_a_terminal_there_is_a_line_every_few_seconds(tmp_path: Path) -> None:
    stream, now = io.StringIO(), [100.0]
    with LiveTable(tmp_path, stream, clock=lambda: now[0]) as table:
        table.add(rows(flow("11:00:00", 1, bytes_sent=2048)))
        for seconds in (101.0, 104.9, 105.0, 106.0, 110.5):
            now[0] = seconds
            table.refresh()
    line = "1 records, 1 pairs, 0 failed; busiest checkout -> 10.0.0.2:5432, 2.0 KiB\n"
    assert stream.getvalue() == line * 2


def test_the_summary_tells_what_became_of_every_record_of_these_runs(tmp_path: Path) -> None:
    of_host = {"minute": at("11:00:00"), "host": "web", "host_id": "id-web"}
    lake = make_lake(
        tmp_path / "lake",
        {
            "coverage": [
                {**of_host, "run_id": "run-1", "captured": 10, "written": 7, "dropped_ring_full": 2, "expired": 1},
                {**of_host, "run_id": "run-0", "captured": 99, "written": 99},
            ],
            "edges": [
                {
                    "minute": at("11:00:00"), "observer": "client", "client_workload": "checkout",
                    "server_address": "10.0.0.2", "server_port": 5432, "bytes_sent": 4096, "opened": 2,
                }
            ],
            "flows": [flow("11:00:10", 1, close_reason="refused"), flow("11:00:11", 2)],
        },
    )  # fmt: skip
    assert list(summary(lake, {"run-1"}, at("11:00:05"), at("11:01:00"))) == [
        "captured 10, written 7, lost 3 (ring_full 2, expired 1)",
        "busiest:",
        "  checkout -> 10.0.0.2:5432  4.0 KiB, 2 opened",
        "failing:",
        "  checkout -> 10.0.0.2:5432  1 of 2 refused: nothing listens there, or a firewall says no",
    ]


def test_the_summary_of_an_empty_lake_is_one_line(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake", {})
    assert list(summary(lake, set(), None, at("11:01:00"))) == ["captured 0, written 0, lost 0"]
