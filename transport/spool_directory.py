"""What stands in a spool's directory beside the records, and who may write it.

    spool.json              UUID and format version; made once by the writer
    lock                    flock of the writer, with its process id
    <base offset>.segment   segment.py
    committed               a reader's hint: everything below this offset is kept elsewhere for good

A file gets its name when it is complete (`<name>.new`, fsync, rename, fsync of the directory).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from transport.log import LogError
from transport.segment import FORMAT_VERSION, base_offset_of, segment_name

_IDENTITY = "spool.json"
_LOCK = "lock"
_COMMITTED = "committed"
NEW_SUFFIX = ".new"

_ADVICE = {
    errno.ENOSPC: "free space there, or lower FLOWLAKE_SPOOL_MAX_BYTES",
    errno.EDQUOT: "free space there, or lower FLOWLAKE_SPOOL_MAX_BYTES",
    errno.EACCES: "give this user access, or set FLOWLAKE_SPOOL to a directory that it may use",
    errno.EPERM: "give this user access, or set FLOWLAKE_SPOOL to a directory that it may use",
    errno.EROFS: "mount it writable, or set FLOWLAKE_SPOOL to a directory that is",
    errno.ENOTDIR: "set FLOWLAKE_SPOOL to a directory",
    errno.EEXIST: "set FLOWLAKE_SPOOL to a directory",  # mkdir over a file
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or lower FLOWLAKE_SPOOL_SEGMENT_BYTES",
    errno.EIO: "look at the disk (dmesg)",
}


@contextlib.contextmanager
def explained(action: str, directory: Path) -> Iterator[None]:
    """Turns an OSError into the LogError that says what could not be done to the spool, and what to do about it."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        advice = _ADVICE.get(error.errno or 0)
        raise LogError(
            f"cannot {action} the spool in {directory}: {reason}" + (f"; {advice}" if advice else "")
        ) from error


def read_identity(directory: Path) -> UUID | None:
    """The spool's UUID; None where there is no spool yet. Raises LogError, OSError."""
    path = directory / _IDENTITY
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        facts = json.loads(text)
        version, uuid = int(facts["format"]), str(facts["uuid"])
    except (ValueError, KeyError, TypeError):
        raise LogError(f"{path} is damaged; move {directory} away, and the sidecar makes a new spool") from None
    if version > FORMAT_VERSION:
        raise LogError(f"the spool in {directory} was written by a newer flowlake (format {version}); update this one")
    try:
        return UUID(uuid)
    except ValueError:
        raise LogError(f"{path} is damaged; move {directory} away, and the sidecar makes a new spool") from None


def write_identity(directory: Path, uuid: UUID) -> None:
    write_whole(directory / _IDENTITY, json.dumps({"format": FORMAT_VERSION, "uuid": str(uuid)}).encode())


def segment_bases(directory: Path) -> list[int]:
    """Base offsets of the segments there, rising. Empty where there is no directory."""
    try:
        with os.scandir(directory) as entries:
            bases = [base_offset_of(entry.name) for entry in entries]
    except FileNotFoundError:
        return []
    return sorted(base for base in bases if base is not None)


def segment_path(directory: Path, base_offset: int) -> Path:
    return directory / segment_name(base_offset)


def read_committed(directory: Path, spool: UUID, next_offset: int) -> int:
    """The offset below which everything is kept elsewhere; 0 where no hint, or none that can be true, is there."""
    try:
        facts = json.loads((directory / _COMMITTED).read_bytes())
        committed, uuid = int(facts["next_offset"]), facts["uuid"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0
    return committed if uuid == str(spool) and 0 <= committed <= next_offset else 0


def write_committed(directory: Path, spool: UUID, next_offset: int) -> None:
    """Durable before it can be seen: a hint that is true stays true, so a crash between is no harm."""
    write_whole(directory / _COMMITTED, json.dumps({"uuid": str(spool), "next_offset": next_offset}).encode())


def write_whole(path: Path, body: bytes) -> None:
    """Create or replace a small file, durably; nobody sees half of it. Leaves nothing behind where it fails."""
    new = path.with_name(path.name + NEW_SUFFIX)
    try:
        with new.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock_for_writing(directory: Path) -> int:
    """Takes the writer's lock; closing the returned file descriptor gives it back. Raises LogError, OSError."""
    fd = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise LogError(
            f"another process (pid {holder}) writes to the spool in {directory}; "
            "end it, or set FLOWLAKE_SPOOL to another directory"
        ) from None
    os.ftruncate(fd, 0)
    # Only said to people: where the disk is full, the lock holds all the same.
    with contextlib.suppress(OSError):
        os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd
