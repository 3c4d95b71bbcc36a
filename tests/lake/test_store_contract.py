"""What lake/store.py promises, of every store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from services.versitygw import QUICK, Versitygw

from lake.config import S3Config
from lake.local_store import LocalStore
from lake.s3_place import S3Place
from lake.s3_store import S3Store
from lake.store import ObjectExists, ObjectMissing, Store, StoreError

NewStore = Callable[[], Store]


@pytest.fixture(params=["local", "s3"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> NewStore:
    """Makes an empty store, every time another one."""
    made = 0
    if request.param == "s3":
        gateway: Versitygw = request.getfixturevalue("gateway")
        bucket: str = request.getfixturevalue("bucket")
        client = gateway.client()

    def new() -> Store:
        nonlocal made
        made += 1
        if request.param == "local":
            return LocalStore(tmp_path / f"lake-{made}")
        return S3Store(S3Place(bucket, f"lake-{made}/"), S3Config(), patience=QUICK, connect=lambda _: client)

    return new


@pytest.fixture
def store(new_store: NewStore) -> Store:
    return new_store()


@pytest.mark.parametrize("body", [b"", b"body", bytes(range(256)) * 10_000], ids=["empty", "small", "large"])
def test_an_object_reads_as_it_was_created(store: Store, body: bytes) -> None:
    store.put_if_absent("flows/date=2026-11-22/hour=07/a.parquet", body)
    assert store.get("flows/date=2026-11-22/hour=07/a.parquet") == body


def test_creating_an_object_that_exists_fails_and_changes_nothing(store: Store) -> None:
    store.put_if_absent("a", b"first")
    with pytest.raises(ObjectExists, match="there is an object a"):
        store.put_if_absent("a", b"second")
    assert store.get("a") == b"first"


def test_creating_the_same_object_again_fails_too(store: Store) -> None:
    store.put_if_absent("a", b"body")
    with pytest.raises(ObjectExists, match="there is an object a"):
        store.put_if_absent("a", b"body")


def test_put_replaces(store: Store) -> None:
    store.put("_head", b"1")
    store.put("_head", b"2")
    assert store.get("_head") == b"2"


def test_what_is_not_there_is_missing_and_deleting_it_is_no_error(store: Store) -> None:
    store.put_if_absent("a/b", b"")
    for key in ("x", "a", "a/b/c", "x/y"):
        with pytest.raises(ObjectMissing, match="there is no object"):
            store.get(key)
    store.delete("x")
    store.delete("a/b/c")
    store.delete("a/b")
    assert list(store.list("")) == []


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a/.", "a\0b"])
def test_a_key_that_could_leave_the_lake_is_refused(store: Store, key: str) -> None:
    for operation in (store.get, store.delete, lambda k: store.put(k, b""), lambda k: store.put_if_absent(k, b"")):
        with pytest.raises(StoreError, match="cannot be the key"):
            operation(key)


NAMES = st.text("ab-./=", min_size=1, max_size=3).filter(lambda name: not set(name) <= {"."} and "/" not in name)
KEYS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.sets(KEYS, max_size=12), prefix=st.one_of(st.just(""), KEYS), start_after=st.one_of(st.just(""), KEYS))
def test_listing_is_what_sorting_and_filtering_all_keys_gives(
    new_store: NewStore, keys: set[str], prefix: str, start_after: str
) -> None:
    store = new_store()
    # In a directory, unlike on S3, one name is not both an object and a folder.
    keys = {key for key in keys if not any(other.startswith(key + "/") for other in keys)}
    for key in keys:
        store.put_if_absent(key, key.encode())
    expected = sorted(key for key in keys if key.startswith(prefix) and key > start_after)
    assert [(found.key, found.size) for found in store.list(prefix, start_after)] == [(k, len(k)) for k in expected]


def test_of_16_threads_that_create_one_object_exactly_one_does(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        for turn in range(25):
            barrier = threading.Barrier(16)

            def create(number: int, turn: int = turn, barrier: threading.Barrier = barrier) -> bool:
                barrier.wait()
                try:
                    store.put_if_absent(f"turn/{turn}", b"%d" % number)
                except ObjectExists:
                    return False
                return True

            won = [number for number, winner in enumerate(pool.map(create, range(16))) if winner]
            assert len(won) == 1
            assert store.get(f"turn/{turn}") == b"%d" % won[0]
    assert [found.key for found in store.list("")] == sorted(f"turn/{turn}" for turn in range(25))
