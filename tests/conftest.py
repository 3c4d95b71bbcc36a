"""What every test may ask for, and the rule about skipping: on CI nothing that this project needs may be missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NO_SKIP = os.environ.get("FLOWLAKE_TEST_NO_SKIP") == "1"


def missing(what: str) -> None:
    """End the test: a skip that says why on a laptop, a failure where FLOWLAKE_TEST_NO_SKIP=1 (CI)."""
    if NO_SKIP:
        pytest.fail(f"FLOWLAKE_TEST_NO_SKIP=1, but {what}", pytrace=False)
    pytest.skip(what)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") is None:
        return
    if os.geteuid() != 0:
        missing("the kernel tests need root")
    if not Path("/sys/kernel/btf/vmlinux").exists():
        missing("the kernel tests need BTF in /sys/kernel/btf/vmlinux")
