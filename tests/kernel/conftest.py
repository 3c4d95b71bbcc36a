"""The probe, compiled and loaded."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.probe.probe import MiB, Probe, ProbeConfig

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def probe_objects() -> None:
    """The compiled programs, as new as their sources."""
    made = subprocess.run(["make", "-C", str(ROOT / "bpf")], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.fixture(scope="module")
def probe(probe_objects: None) -> Iterator[Probe]:
    """A probe of the whole host, with room for what happens while a test does not drain it."""
    with Probe(ProbeConfig(final_ring_bytes=16 * MiB)) as loaded:
        yield loaded
