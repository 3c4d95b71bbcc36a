"""What `flowlake up` shows while it runs: who talks to whom, and what fails."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from flowlake.failing import failed_rows
from flowlake.output import endpoint, for_eyes

MAX_PAIRS = 10_000  # remembered, 5 MB; beyond it the least recently seen are forgotten
PLAIN_SECONDS = 5.0  # between two lines where there is no terminal
REMEMBERED_ENDS = 20_000  # of clients, 2 MB: a second of the fastest churn that the probe is built for
SHOWN_PAIRS = 15

_TEXT = ("role", "network", "local_address", "remote_address", "local_workload", "remote_workload", "close_reason")

PairKey = tuple[str, str, int]  # client, server, server port


@dataclass(slots=True)
class Pair:
    """What was seen of one client, server and port."""

    opened: int = 0
    failed: int = 0
    bytes: int = 0
    rtt_us: int | None = None  # of the newest record that has one
    last_failure: str = ""  # its close reason


class LiveTable:
    """Takes new rows of `flows`; a table on a terminal, a line now and then elsewhere.

    Where both ends of a connection are on this host, the client's records count and the server's are left out. They
    are recognised while the client's are among the newest REMEMBERED_ENDS that were added, before or together.
    """

    def __init__(self, lake: Path, stream: TextIO = sys.stdout, clock: Callable[[], float] = time.monotonic) -> None:
        self._lake = lake
        self.pairs: dict[PairKey, Pair] = {}  # the least recently seen first
        self.records = 0
        self._stream = stream
        self._console = Console(file=stream, highlight=False)
        self._clock = clock
        self._next_line = clock() + PLAIN_SECONDS
        self._client_ends: pa.ChunkedArray = pa.chunked_array([], pa.string())
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self.render, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def add(self, flows: pa.Table) -> None:
        """flows: (n,) new rows, with the columns of the lake, text as plain strings or dictionary-encoded."""
        self.records += flows.num_rows
        # Arrow groups by plain text, and joins it.
        text = (
            "role",
            "network",
            "local_address",
            "remote_address",
            "local_workload",
            "remote_workload",
            "close_reason",
        )
        for name in text:
            flows = flows.set_column(flows.schema.get_field_index(name), name, flows[name].cast(pa.string()))
        flows = self._counted_once(flows)
        is_server = pc.equal(flows["role"], "server")
        local = pc.coalesce(flows["local_workload"], flows["local_address"])
        remote = pc.coalesce(flows["remote_workload"], flows["remote_address"])
        rows = pa.table(
            {
                "client": pc.if_else(is_server, remote, local),
                "server": pc.if_else(is_server, local, remote),
                "port": pc.if_else(is_server, flows["local_port"], flows["remote_port"]),
                "reason": flows["close_reason"],
                "opened": pc.cast(pc.equal(flows["sequence"], 0), pa.int64()),
                "failed": pc.cast(failed_rows(flows), pa.int64()),
                "bytes": pc.add(flows["bytes_sent"], flows["bytes_received"]),
                "rtt_us": flows["rtt_us"],
            }
        )
        self._add(rows)

    def refresh(self) -> None:
        """Shows what was added. Call it as often as the eye wants; without a terminal most calls do nothing."""
        if self._live is not None:
            self._live.refresh()
        elif self._clock() >= self._next_line:
            self._next_line = self._clock() + PLAIN_SECONDS
            self._print(self.line())

    def line(self) -> str:
        """All of it in one line."""
        failed = sum(pair.failed for pair in self.pairs.values())
        busiest = self.busiest(1)
        most = f"; busiest {_named(busiest[0][0])}, {for_eyes('bytes', busiest[0][1].bytes)}" if busiest else ""
        return f"{self.records} records, {len(self.pairs)} pairs, {failed} failed{most}"

    def busiest(self, count: int) -> list[tuple[PairKey, Pair]]:
        return sorted(self.pairs.items(), key=lambda item: (-item[1].bytes, -item[1].opened, item[0]))[:count]

    def render(self) -> RichTable:
        """The busiest pairs as rich draws them."""
        table = RichTable(box=box.SIMPLE, title=Text(f"{self.line()}\ninto {self._lake}"), title_justify="left")
        for name in ("client", "server", "port", "opened", "failed", "bytes", "rtt", "last failure"):
            table.add_column(name, justify="left" if name in ("client", "server", "last failure") else "right")
        for (client, server, port), pair in self.busiest(SHOWN_PAIRS):
            cells = (
                for_eyes("", client), for_eyes("", server), str(port), str(pair.opened), str(pair.failed),
                for_eyes("bytes", pair.bytes), for_eyes("rtt_us", pair.rtt_us), pair.last_failure,
            )  # fmt: skip
            # Text, since names of workloads are not markup.
            table.add_row(*(Text(cell) for cell in cells), style="red" if pair.failed else "")
        return table

    def _counted_once(self, flows: pa.Table) -> pa.Table:
        """Without the server's records of connections whose client's were added."""
        us = [flows["local_address"], flows["local_port"].cast(pa.string())]
        them = [flows["remote_address"], flows["remote_port"].cast(pa.string())]
        ours = pc.binary_join_element_wise(flows["network"], *us, *them, " ")
        theirs = pc.binary_join_element_wise(flows["network"], *them, *us, " ")
        is_client = pc.equal(flows["role"], "client")
        known = pa.chunked_array([*self._client_ends.chunks, *ours.filter(is_client).chunks], pa.string())
        self._client_ends = known.slice(max(0, len(known) - REMEMBERED_ENDS))
        repeated = pc.and_(pc.equal(flows["role"], "server"), pc.is_in(theirs, known))
        return flows.filter(pc.invert(repeated))

    def _add(self, rows: pa.Table) -> None:
        key = ["client", "server", "port"]
        sums = rows.group_by(key, use_threads=False).aggregate(
            [("opened", "sum"), ("failed", "sum"), ("bytes", "sum"), ("rtt_us", "last")]
        )
        for row in sums.to_pylist():
            pair = self._pair(row)
            pair.opened += row["opened_sum"]
            pair.failed += row["failed_sum"]
            pair.bytes += row["bytes_sum"]
            if row["rtt_us_last"] is not None:
                pair.rtt_us = row["rtt_us_last"]
        failed = rows.filter(pc.equal(rows["failed"], 1))
        for row in failed.group_by(key, use_threads=False).aggregate([("reason", "last")]).to_pylist():
            self._pair(row).last_failure = row["reason_last"]
        for stale in list(self.pairs)[: max(0, len(self.pairs) - MAX_PAIRS)]:
            del self.pairs[stale]

    def _pair(self, row: Mapping[str, Any]) -> Pair:
        """The pair of a row, made the most recently seen."""
        key = (row["client"], row["server"], row["port"])
        pair = self.pairs.pop(key, None) or Pair()
        self.pairs[key] = pair
        return pair

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _named(key: PairKey) -> str:
    client, server, port = key
    return f"{for_eyes('', client)} -> {for_eyes('', endpoint(server, port))}"
