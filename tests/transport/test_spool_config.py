"""The spool's settings by their names, which people depend on."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from settings import GiB, MiB, add_flags, load
from settings.errors import WrongUse
from transport.spool import SpoolConfig


def loaded(flags: list[str], environ: dict[str, str]) -> SpoolConfig:
    parser = argparse.ArgumentParser()
    add_flags(parser, SpoolConfig)
    return load(SpoolConfig, parser.parse_args(flags), environ, known=[SpoolConfig])


def test_the_spool_is_set_by_flag_and_variable() -> None:
    environ = {"FLOWLAKE_SPOOL": "/s", "FLOWLAKE_SPOOL_MAX_BYTES": "1GiB", "FLOWLAKE_SPOOL_FSYNC_SECONDS": "0"}
    assert loaded(["--spool-segment-bytes", "1MiB"], environ) == SpoolConfig(Path("/s"), 1 * GiB, 1 * MiB, 0.0)


def test_a_bound_that_cannot_hold_two_segments_is_wrong_use() -> None:
    with pytest.raises(WrongUse, match=r"^spool_max_bytes is 1048576, expected at least two segments \(spool_segment_"):
        loaded(["--spool-max-bytes", "1MiB"], {})
