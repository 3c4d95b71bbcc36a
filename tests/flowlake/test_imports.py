"""Imports point one way, and the host's process stays small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# design.md: flowlake -> sidecar | enricher | console -> transport | lake -> schemas; settings imports nothing of ours.
ALLOWED = {
    "settings": set(),
    "schemas": {"settings"},
    "transport": {"settings", "schemas"},
    "lake": {"settings", "schemas"},
    "sidecar": {"settings", "schemas", "transport"},
    "enricher": {"settings", "schemas", "transport", "lake"},
    "flowlake": {"settings", "schemas", "transport", "lake", "sidecar", "enricher"},
}


def imports_of(path: Path) -> set[str]:
    """First names of all modules that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        foreign = (imports_of(file) & ALLOWED.keys()) - ALLOWED[room] - {room}
        assert not foreign, f"{file.relative_to(ROOT)} imports {sorted(foreign)}"


def test_the_sidecar_brings_in_no_library_of_the_lake() -> None:
    code = (
        "import sys, sidecar.main\n"
        "heavy = {'pyarrow', 'polars', 'duckdb', 'boto3', 'botocore', 'rich', 'pandas'} & set(sys.modules)\n"
        "ours = {'lake', 'enricher', 'flowlake'} & set(sys.modules)\n"
        "print(sorted(heavy | ours))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
