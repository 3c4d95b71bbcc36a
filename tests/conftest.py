"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from skipping import missing

if TYPE_CHECKING:
    from services.kafka_bench import KafkaBench


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") is None:
        return
    if os.geteuid() != 0:
        missing("the kernel tests need root")
    if not Path("/sys/kernel/btf/vmlinux").exists():
        missing("the kernel tests need BTF in /sys/kernel/btf/vmlinux")


@pytest.fixture(scope="session")
def _shared_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBench]:
    """One broker for all tests that do not harm it."""
    from services.kafka_bench import secured_broker  # loads the client library, which few tests need

    with secured_broker(tmp_path_factory.mktemp("kafka")) as bench:
        yield bench


@pytest.fixture
def kafka_bench(_shared_kafka: KafkaBench) -> Iterator[KafkaBench]:
    """The shared broker, with topics and connections of the test's own."""
    with _shared_kafka.for_one_test() as bench:
        yield bench


@pytest.fixture
def own_kafka(_shared_kafka: KafkaBench) -> Iterator[KafkaBench]:
    """The same, for a test that kills or freezes the broker: it runs again for the next one."""
    with _shared_kafka.for_one_test() as bench:
        try:
            yield bench
        finally:
            bench.broker.revive()
