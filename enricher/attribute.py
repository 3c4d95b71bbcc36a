"""Who the remote end of each flow was: a pure function of flows and claims, Arrow in and Arrow out.

It knows neither a log nor a store, so the same function may run over history in another engine.
"""

from __future__ import annotations

import pyarrow as pa

from enricher.dictionary import always, nothing
from schemas.flows import FLOWS

_CAPTURED = {"remote_address", "remote_port"}

ATTRIBUTED: tuple[str, ...] = tuple(
    column.name for column in FLOWS.columns if column.name.startswith("remote_") and column.name not in _CAPTURED
)
"""The columns that attribution fills. All others are captured: they are what the host saw, and never change."""


def attribute(flows: pa.Table, claims: pa.Table | None) -> pa.Table:
    """The flows with the columns ATTRIBUTED added, or replaced where they stand already.

    flows: captured columns of the table `flows`.
    claims: who owned which address, where and when. None, or a table without rows: nothing is claimed, so no remote
        end gets a name.

    Refuses to guess: a row without a name has the reason in remote_reason.
    Raises ValueError for claims: none is published yet, so there is no schema to read them by.
    """
    if claims is not None and claims.num_rows:
        raise ValueError(f"{claims.num_rows} claims were given, and this version knows no schema of claims")
    rows = flows.num_rows
    named = {name: nothing(rows) for name in ATTRIBUTED} | {"remote_reason": always("no_claim", rows)}
    captured = [name for name in flows.column_names if name not in named]
    return pa.table({**{name: flows[name] for name in captured}, **named})
