"""Objects as files below a directory: the store of a lake on this host.

An object gets its name by link(2) (create if absent) or rename(2) (replace) once it is whole and synced; so it is seen
whole or not at all, whoever dies. Until then it is a file in `_tmp/`, on the same file system and outside every table.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lake.store import ObjectExists, ObjectInfo, ObjectMissing, StoreError, StoreUnavailable

_TEMPORARY = "_tmp"
_LEFTOVER_SECONDS = 86_400  # nobody writes one object for a day: whoever began it is dead

# Conditions that pass, or that say nothing about what happened; everything else is a refusal.
_PASSING = {
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
}
_ADVICE = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or raise the quota",
    errno.EACCES: "give this user access, or set FLOWLAKE_LAKE to a directory that it may use",
    errno.EPERM: "give this user access, or set FLOWLAKE_LAKE to a directory that it may use",
    errno.EROFS: "mount it writable, or set FLOWLAKE_LAKE to a directory that is",
    errno.ENOTDIR: "a file stands where a directory has to be; set FLOWLAKE_LAKE to a directory",
    errno.EEXIST: "a file stands where a directory has to be; set FLOWLAKE_LAKE to a directory",
    errno.EISDIR: "a directory stands where an object has to be; move it away",
    errno.EIO: "look at the disk (dmesg)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


class LocalStore:
    """Store on a directory, which is made by the first write. For any number of threads and processes."""

    def __init__(self, root: Path, *, clock_seconds: Callable[[], float] = time.time) -> None:
        self._root = root.absolute()
        self._clock_seconds = clock_seconds
        self._temporary_ready = False
        self._durable: set[Path] = set()  # directories whose own entries, up to the root, are known to be on disk

    def put_if_absent(self, key: str, body: bytes) -> None:
        path = self._path(key)
        with self._explained("write to", key), self._written(body) as temporary:
            directory = self._directory(path.parent)
            try:
                path.hardlink_to(temporary)
            except FileExistsError as error:
                # Whoever made it may have died before this: nobody builds on an object that a power loss can take back.
                _sync_directory(directory)
                raise ObjectExists(f"there is an object {key} in {self._root} already") from error
            _sync_directory(directory)

    def put(self, key: str, body: bytes) -> None:
        path = self._path(key)
        with self._explained("write to", key), self._written(body) as temporary:
            directory = self._directory(path.parent)
            temporary.replace(path)
            _sync_directory(directory)

    def get(self, key: str) -> bytes:
        path = self._path(key)
        with self._explained("read", key):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise ObjectMissing(f"there is no object {key} in {self._root}") from error

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """See Store. Reads only directories that can hold such keys, each when its turn comes."""
        parent, _, _ = prefix.rpartition("/")
        if parent:
            self._path(parent)
        with self._explained("list", prefix):
            yield from self._list(parent + "/" if parent else "", prefix, start_after)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._explained("delete from", key):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            _sync_directory(path.parent)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in key or parts[0] == _TEMPORARY:
            raise StoreError(f"{key!r} cannot be the key of an object")
        return self._root.joinpath(*parts)

    @contextlib.contextmanager
    def _explained(self, action: str, key: str) -> Iterator[None]:
        """Turns an OSError into the StoreError that says what could not be done, and what to do about it."""
        try:
            yield
        except OSError as error:
            code = error.errno or 0
            advice = f"; {_ADVICE[code]}" if code in _ADVICE else ""
            text = f"cannot {action} the lake in {self._root}: {os.strerror(code).lower()} ({key}){advice}"
            raise (StoreUnavailable if code in _PASSING else StoreError)(text) from error

    @contextlib.contextmanager
    def _written(self, body: bytes) -> Iterator[Path]:
        """A synced temporary file with this body, gone afterwards."""
        path = self._temporary_directory() / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with path.open("xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _temporary_directory(self) -> Path:
        directory = self._root / _TEMPORARY
        if not self._temporary_ready:
            directory.mkdir(parents=True, exist_ok=True)
            oldest = self._clock_seconds() - _LEFTOVER_SECONDS
            with os.scandir(directory) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # another process sweeps as well
                        if entry.stat().st_mtime < oldest:
                            Path(entry.path).unlink()
            self._temporary_ready = True
        return directory

    def _directory(self, directory: Path) -> Path:
        """Makes a directory, and sees that its name is on disk, whichever process made it."""
        if directory not in self._durable or not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            for ancestor in directory.parents:
                if ancestor == self._root.parent:
                    # Above the root we may not be allowed to look.
                    with contextlib.suppress(PermissionError):
                        _sync_directory(ancestor)
                    break
                _sync_directory(ancestor)
            self._durable.add(directory)
        return directory

    def _list(self, directory_key: str, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
        """directory_key: "" or ends with "/"."""
        try:
            with os.scandir(self._root / directory_key) as entries:
                names = [entry.name + "/" if entry.is_dir() else entry.name for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return
        # A directory sorts as its keys do, with the "/": `a-b` and `a.b` come before `a/b`.
        for name in sorted(names):
            key = directory_key + name
            if key == _TEMPORARY + "/":
                continue
            if name.endswith("/"):
                fits = key.startswith(prefix) or prefix.startswith(key)
                if fits and (key > start_after or start_after.startswith(key)):
                    yield from self._list(key, prefix, start_after)
            elif key.startswith(prefix) and key > start_after:
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    yield ObjectInfo(key, (self._root / key).stat().st_size)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
