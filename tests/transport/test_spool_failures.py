"""Killed writers, full and broken disks, directories that cannot be used: one line, nothing lost, and on it goes."""

from __future__ import annotations

import errno
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from spool_bench import Bench, read_to_end

from transport.log import LogError
from transport.spool import SpoolConfig, SpoolReader, SpoolWriter

VALUE = b"q" * 950
NOBODY = 65534

APPEND_UNTIL_KILLED = """
import sys
from pathlib import Path
from transport.spool import SpoolConfig, SpoolWriter
directory, run = Path(sys.argv[1]), int(sys.argv[2])
with SpoolWriter(SpoolConfig(directory, 1 << 30, 1 << 20)) as writer:
    number = 0
    while True:
        value = b"%d/%d " % (run, number) + bytes(number * 7919 % 300_000)
        offset = writer.append(b"host", value, 1).offset
        sys.stdout.write(f"{offset} {number}\\n")
        sys.stdout.flush()
        number += 1
"""


def test_killing_the_writer_at_random_moments_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(3)
    acknowledged: dict[int, bytes] = {}
    reader = SpoolReader(tmp_path)
    read: dict[int, bytes] = {}
    position = 0
    for run in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", APPEND_UNTIL_KILLED, str(tmp_path), str(run)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            # Killed after so many acknowledgements, in the middle of whatever it does next.
            for _ in range(chance.randrange(1, 40)):
                offset, number = map(int, process.stdout.readline().split())
                acknowledged[offset] = b"%d/%d " % (run, number)
        finally:
            process.kill()
            rest, _ = process.communicate()
        for line in rest.splitlines():
            if len(fields := line.split()) == 2:
                acknowledged[int(fields[0])] = b"%d/%d " % (run, int(fields[1]))
        # A reader goes on between the crashes, from where it was.
        fetched = read_to_end(reader, position)
        assert not fetched.corrupt
        position = fetched.next_offset
        for message in fetched.messages:
            assert message.offset not in read
            read[message.offset] = message.value.partition(b" ")[0] + b" "
    again = read_to_end(SpoolReader(tmp_path))
    assert not again.corrupt
    assert {m.offset: m.value.partition(b" ")[0] + b" " for m in again.messages} == read
    assert acknowledged.items() <= read.items()
    # At most the one in flight at each kill is there unacknowledged, and no message is there twice.
    assert len(read) - len(acknowledged) <= 20
    assert len(set(read.values())) == len(read)


def append_until_it_fails(writer: SpoolWriter, limit: int = 10_000) -> tuple[int, LogError]:
    """(how many were appended, why the next was not)."""
    for count in range(limit):
        try:
            writer.append(b"host", VALUE, 1)
        except LogError as error:
            return count, error
    raise AssertionError("nothing failed")


@contextmanager
def small_file_system(directory: Path, size: str) -> Iterator[None]:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.mark.kernel
def test_a_full_disk_is_one_line_and_appending_goes_on_when_there_is_space(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    with small_file_system(mount, "512k"):
        (mount / "ballast").write_bytes(bytes(256 << 10))
        spool = mount / "spool"
        with SpoolWriter(SpoolConfig(spool, 16 << 20, 64 << 10)) as writer:
            count, error = append_until_it_fails(writer)
            assert str(error) == (
                f"cannot append to the spool in {spool}: no space left on device; "
                "free space there, or lower FLOWLAKE_SPOOL_MAX_BYTES"
            )
            assert append_until_it_fails(writer)[0] == 0
            assert [m.offset for m in read_to_end(SpoolReader(spool)).messages] == list(range(count))
            (mount / "ballast").unlink()
            for _ in range(20):
                writer.append(b"host", VALUE, 1)
            fetched = read_to_end(SpoolReader(spool))
            assert [m.offset for m in fetched.messages] == list(range(count + 20))
            assert not fetched.corrupt
        with SpoolWriter(SpoolConfig(spool, 16 << 20, 64 << 10)) as writer:
            assert writer.repaired.cut_bytes == 0


@pytest.mark.kernel
def test_a_read_only_disk_is_one_line(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    with small_file_system(mount, "512k"):
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        with pytest.raises(LogError, match=r"cannot open the spool in [^\n]*: read-only file system; mount it "):
            SpoolWriter(SpoolConfig(mount / "spool")).open()


def test_a_write_that_takes_half_a_record_leaves_none_of_it(bench: Bench) -> None:
    writer = bench.writer()
    writer.append(b"host", VALUE, 1)
    size = bench.used_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 500, before[1]))  # Python ignores SIGXFSZ, so write gives EFBIG
    try:
        with pytest.raises(LogError, match=r"^cannot append to the spool in [^\n]*: file too large; raise the limit"):
            writer.append(b"host", VALUE, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert bench.used_bytes() == size
    assert writer.append(b"host", VALUE, 1).offset == 1
    assert [m.value for m in read_to_end(bench.reader()).messages] == [VALUE, VALUE]


def failing(code: int) -> Callable[..., int]:
    def fail(*args: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_half_written_record_that_cannot_be_cut_off_at_once_is_cut_off_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = bench.writer()
    writer.append(b"host", VALUE, 1)
    real = os.pwritev

    def half(fd: int, parts: list[memoryview], position: int) -> int:
        if position == bench.used_bytes() and len(parts) == 3:
            return real(fd, [parts[0], parts[1], parts[2][:100]], position)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("transport.spool_writer.os.pwritev", half)
        patch.setattr("transport.spool_writer.os.ftruncate", failing(errno.EIO))
        for _ in range(2):
            with pytest.raises(LogError, match=r"input/output error; look at the disk \(dmesg\)$"):
                writer.append(b"host", VALUE, 1)
        assert [m.offset for m in read_to_end(bench.reader()).messages] == [0]
    writer.append(b"host", b"after", 1)
    assert [m.value for m in read_to_end(bench.reader()).messages] == [VALUE, b"after"]


def test_after_a_failed_sync_the_file_in_doubt_is_left_for_a_new_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = bench.writer(fsync_seconds=0)
    writer.append(b"host", b"0", 1)
    with monkeypatch.context() as patch:
        patch.setattr("transport.spool_writer.os.fdatasync", failing(errno.EIO))
        with pytest.raises(LogError, match="input/output error"):
            writer.append(b"host", b"1", 1)
    assert writer.append(b"host", b"1 again", 1).offset == 2
    assert len(bench.segments()) == 2
    # As after a lost answer: it may be there twice, which its batch number tells.
    assert [m.value for m in read_to_end(bench.reader()).messages] == [b"0", b"1", b"1 again"]


def test_what_was_dropped_for_a_message_that_then_failed_is_told_with_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = bench.writer(max_bytes=8192)
    for _ in range(7):
        writer.append(b"host", VALUE, 3)
    with monkeypatch.context() as patch:
        patch.setattr("transport.spool_writer.os.pwritev", failing(errno.ENOSPC))
        with pytest.raises(LogError):
            writer.append(b"host", bytes(3000), 3)
    assert bench.reader().bounds()[0] == 4
    evicted = writer.append(b"host", b"small", 3).evicted
    assert [(e.first, e.next_offset, e.messages, e.weight) for e in evicted] == [(0, 4, 4, 12)]
    assert not writer.append(b"host", b"small", 3).evicted


def test_syncing_comes_at_most_every_so_many_seconds_and_when_a_segment_is_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[float] = []
    real = os.fdatasync

    def noting(fd: int) -> None:
        synced.append(bench.seconds)
        real(fd)

    monkeypatch.setattr("transport.spool_writer.os.fdatasync", noting)
    writer = bench.writer(fsync_seconds=1.0)
    for bench.seconds in (0.1, 0.9, 1.0, 1.5, 2.5):
        writer.append(b"host", b"small", 1)
    assert synced == [1.0, 2.5]
    writer.sync()
    assert synced == [1.0, 2.5]  # nothing to sync
    for bench.seconds in (2.6, 2.7, 2.8, 2.9):
        writer.append(b"host", VALUE, 1)
    assert synced == [1.0, 2.5, 2.9]
    writer.close()
    assert synced == [1.0, 2.5, 2.9, 2.9]


def test_a_file_where_the_spool_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"")
    for directory in (tmp_path / "spool", tmp_path / "spool" / "below"):
        with pytest.raises(LogError, match=r"^cannot open the spool in [^\n]*; set FLOWLAKE_SPOOL to a directory$"):
            SpoolWriter(SpoolConfig(directory)).open()
        with pytest.raises(LogError, match=r"^cannot read the spool in [^\n]*; set FLOWLAKE_SPOOL to a directory$"):
            SpoolReader(directory).identity()


def test_a_spool_that_may_not_be_used_is_said(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o555)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from transport.spool import SpoolConfig, SpoolReader, SpoolWriter\n"
        f"if os.geteuid() == 0: os.setuid({NOBODY})\n"
        "try: SpoolWriter(SpoolConfig(Path(sys.argv[1]))).open()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    closed = [path for path in spool.parents if path.stat().st_mode & 0o005 != 0o005]
    modes = [path.stat().st_mode for path in closed]
    try:
        for path in closed:
            path.chmod(0o755)
        done = subprocess.run([sys.executable, "-c", code, str(spool)], capture_output=True, text=True)
    finally:
        for path, mode in zip(closed, modes, strict=True):
            path.chmod(mode)
    assert done.stderr == ""
    assert done.stdout == (
        f"LogError cannot open the spool in {spool}: permission denied; "
        "give this user access, or set FLOWLAKE_SPOOL to a directory that it may use\n"
    )
