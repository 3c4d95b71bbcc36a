"""A file system of the test's own that is small enough to fill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel.namespaces import run


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ballast = directory / "ballast"

    def fill(self) -> None:
        """Take all the room that is left."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                os.fsync(file.fileno())

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink()


@contextmanager
def small_disk(directory: Path, size: str, *options: str) -> Iterator[SmallDisk]:
    """Mounted at `directory`, which is made; unmounted however the test ends."""
    directory.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "tmpfs", str(directory))
    try:
        yield SmallDisk(directory)
    finally:
        run("umount", "--lazy", str(directory))
