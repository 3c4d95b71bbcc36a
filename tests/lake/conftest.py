"""A real S3 server for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from services.versitygw import Versitygw


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versitygw]:
    """One for all tests, which make buckets of their own; with users, and restarted by those who stop it."""
    directory = tmp_path_factory.mktemp("versitygw")
    buckets, users = directory / "buckets", directory / "users"
    buckets.mkdir()
    users.mkdir()
    with Versitygw(buckets, users) as running:
        yield running


@pytest.fixture
def bucket(gateway: Versitygw, tmp_path: Path) -> str:
    """A bucket of this test's own."""
    name = f"lake-{len(list(gateway.directory.iterdir()))}"
    gateway.client().create_bucket(Bucket=name)
    return name
