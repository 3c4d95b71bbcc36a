"""Every table of the lake."""

from __future__ import annotations

from schemas.coverage import COVERAGE
from schemas.edges import EDGES
from schemas.flows import FLOWS
from schemas.listeners import LISTENERS
from schemas.table import Table

TABLES: dict[str, Table] = {table.name: table for table in (FLOWS, EDGES, COVERAGE, LISTENERS)}
