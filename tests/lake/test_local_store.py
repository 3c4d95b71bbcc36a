"""The local store: an object is there whole or not at all, and only one of many creates it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lake.local_store import LocalStore
from lake.store import ObjectMissing, StoreError, StoreUnavailable

NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "lake")


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_an_object_reads_as_it_was_created_and_leaves_no_temporary_file(store: LocalStore, tmp_path: Path) -> None:
    store.put_if_absent("flows/date=2026-11-22/a.parquet", b"body")
    assert store.get("flows/date=2026-11-22/a.parquet") == b"body"
    assert files_below(tmp_path / "lake") == ["flows/date=2026-11-22/a.parquet"]


def test_a_store_whose_directory_does_not_exist_is_empty_and_stays_unmade_by_reading(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "lake")
    assert list(store.list("flows/")) == []
    with pytest.raises(ObjectMissing):
        store.get("a")
    assert not (tmp_path / "lake").exists()


def test_no_key_reaches_the_temporary_files(store: LocalStore) -> None:
    for operation in (store.get, store.delete, lambda k: store.put(k, b""), lambda k: store.put_if_absent(k, b"")):
        with pytest.raises(StoreError, match="cannot be the key"):
            operation("_tmp/a")


def test_a_narrow_prefix_does_not_read_the_other_directories(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hour in range(5):
        store.put_if_absent(f"flows/hour={hour:02d}/a", b"")
    opened: list[str] = []
    scandir = os.scandir

    def noting(path: Path) -> object:
        opened.append(Path(path).name)
        return scandir(path)

    monkeypatch.setattr("lake.local_store.os.scandir", noting)
    assert [found.key for found in store.list("flows/hour=03/")] == ["flows/hour=03/a"]
    assert opened == ["hour=03"]
    opened.clear()
    assert [found.key for found in store.list("flows/", "flows/hour=03/a")] == ["flows/hour=04/a"]
    assert opened == ["flows", "hour=03", "hour=04"]


def test_temporary_files_are_never_listed_and_yesterdays_are_removed(tmp_path: Path) -> None:
    temporary = tmp_path / "_tmp"
    temporary.mkdir()
    for name, age_seconds in (("old", 90_000), ("young", 80_000)):
        (temporary / name).write_bytes(b"half")
        os.utime(temporary / name, (0, 1_000_000 - age_seconds))
    store = LocalStore(tmp_path, clock_seconds=lambda: 1_000_000)
    store.put_if_absent("a", b"")
    assert [found.key for found in store.list("")] == ["a"]
    assert [path.name for path in temporary.iterdir()] == ["young"]


CREATE_ALL = """
import sys
from pathlib import Path
from lake.local_store import LocalStore, ObjectExists
store = LocalStore(Path(sys.argv[1]))
sys.stdin.read(1)
for turn in range(25):
    try:
        store.put_if_absent(f"turn/{turn}", sys.argv[2].encode())
        print(turn)
    except ObjectExists:
        pass
"""


def test_of_4_processes_that_create_the_same_objects_each_object_has_one_maker(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE_ALL, str(tmp_path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    made = [(int(turn), number) for number, output in enumerate(outputs) for turn in output.split()]
    assert sorted(turn for turn, _ in made) == list(range(25))
    store = LocalStore(tmp_path)
    assert all(store.get(f"turn/{turn}") == str(number).encode() for turn, number in made)


def test_a_reader_never_sees_a_part_of_an_object(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    bodies = {bytes([number]) * 300_000 for number in range(20)}
    done = threading.Event()

    def replace_again_and_again() -> None:
        for body in bodies:
            store.put("_head", body)
        done.set()

    store.put("_head", bytes(300_000))
    writer = threading.Thread(target=replace_again_and_again)
    writer.start()
    while not done.is_set():
        assert store.get("_head") in bodies
    writer.join()


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (errno.ENOSPC, StoreUnavailable, "no space left on device (a); free space there"),
        (errno.EIO, StoreUnavailable, "input/output error (a); look at the disk"),
        (errno.EACCES, StoreError, "permission denied (a); give this user access"),
        (errno.EROFS, StoreError, "read-only file system (a); mount it writable"),
    ],
)
@pytest.mark.parametrize("operation", ["put", "put_if_absent"])
def test_a_write_that_fails_says_why_in_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, code: int, kind: type[StoreError], text: str
) -> None:
    store = LocalStore(tmp_path)

    def fail(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("lake.local_store.os.fsync", fail)
        with pytest.raises(StoreError) as caught:
            getattr(store, operation)("a", b"body")
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"cannot write to the lake in {tmp_path}: {text}")
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == []


def test_a_file_where_the_lake_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "lake").write_bytes(b"")
    for root in (tmp_path / "lake", tmp_path / "lake" / "below"):
        with pytest.raises(StoreError, match=r"a file stands where a directory has to be; set FLOWLAKE_LAKE"):
            LocalStore(root).put_if_absent("a", b"")


def test_a_directory_that_may_not_be_used_is_said(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    LocalStore(lake).put_if_absent("flows/a", b"")
    code = (
        "import os, sys; from pathlib import Path; from lake.local_store import LocalStore\n"
        "store = LocalStore(Path(sys.argv[1]))\n"
        "for what in (lambda: store.put('b', b''), lambda: store.get('flows/a'), lambda: list(store.list('flows/'))):\n"
        "    try: what()\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    assert errors_without_permission(code, lake, lambda: (lake / "flows").chmod(0o000)) == [
        f"StoreError cannot {action} the lake in {lake}: permission denied ({key}); "
        "give this user access, or set FLOWLAKE_LAKE to a directory that it may use"
        for action, key in (("write to", "b"), ("read", "flows/a"), ("list", "flows/"))
    ]


def errors_without_permission(code: str, directory: Path, forbid: Callable[[], None]) -> list[str]:
    """What the code prints, run by a user who may enter the directory and no more."""
    root = os.geteuid() == 0
    directory.chmod(0o555)
    forbid()
    opened = []
    if root:  # pytest's directories are closed to others
        for parent in directory.parents:
            if parent.stat().st_mode & 0o005 != 0o005:
                opened.append((parent, parent.stat().st_mode))
                parent.chmod(0o755)
    # The modules are imported while that is still allowed.
    drop = f"import os, lake.local_store, transport.spool; {f'os.setuid({NOBODY})' if root else 'pass'}\n"
    try:
        done = subprocess.run([sys.executable, "-c", drop + code, str(directory)], capture_output=True, text=True)
    finally:
        for parent, mode in opened:
            parent.chmod(mode)
        directory.chmod(0o755)
        for below in directory.iterdir():
            below.chmod(0o755)
    assert done.stderr == ""
    return done.stdout.splitlines()
