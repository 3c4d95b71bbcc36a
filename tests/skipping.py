"""The rule about skipping: on CI nothing that this project needs may be missing.

A module of its own, since every room may have a conftest.py: `from conftest import` takes whichever was loaded last.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

NO_SKIP = os.environ.get("FLOWLAKE_TEST_NO_SKIP") == "1"


def missing(what: str) -> NoReturn:
    """End the test: a skip that says why on a laptop, a failure where FLOWLAKE_TEST_NO_SKIP=1 (CI)."""
    if NO_SKIP:
        pytest.fail(f"FLOWLAKE_TEST_NO_SKIP=1, but {what}", pytrace=False)
    pytest.skip(what)
