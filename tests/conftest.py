"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from skipping import missing


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") is None:
        return
    if os.geteuid() != 0:
        missing("the kernel tests need root")
    if not Path("/sys/kernel/btf/vmlinux").exists():
        missing("the kernel tests need BTF in /sys/kernel/btf/vmlinux")
