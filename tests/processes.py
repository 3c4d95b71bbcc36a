"""flowlake's own processes, as a test starts, kills and ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

START_SECONDS = 60.0  # never reached unless something is wrong
END_SECONDS = 120.0


class Process:
    """`flowlake COMMAND` with a lake and a spool of the test's own. Standard error is kept in a file."""

    def __init__(self, command: str, lake: Path, *flags: str, **settings: str | None) -> None:
        """settings: by name, without the prefix and in small letters; None leaves it to the command."""
        self.command = command
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in __exit__)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("FLOWLAKE_")}
        given = {"lake": str(lake), "spool": str(lake / "_spool"), **settings}
        environ |= {f"FLOWLAKE_{name.upper()}": value for name, value in given.items() if value is not None}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flowlake.main", command, *flags],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self._errors.close()

    def answers_signals(self) -> bool:
        """Whether it would end orderly by now. Source: proc(5), SigCgt of /proc/PID/status."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    def errors(self) -> str:
        """What it has said on standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def end(self, number: int = signal.SIGTERM) -> str:
        """Ask it to end and wait; it must end well. Returns its standard output."""
        self.process.send_signal(number)
        return self.finish()

    def finish(self) -> str:
        """Wait until it ends by itself; it must end well. Returns its standard output."""
        output, _ = self.process.communicate(timeout=END_SECONDS)
        assert self.process.returncode == 0, f"{self.command} exited {self.process.returncode}: {self.errors()}"
        return output


@contextmanager
def sidecar(lake: Path, **settings: str) -> Iterator[Process]:
    """A sidecar that watches."""
    with Process("sidecar", lake, **settings) as process:
        wait_until_watching(process)
        yield process


def wait_until_watching(process: Process) -> None:
    """Returns once its probe is attached."""
    for _ in range(int(START_SECONDS / 0.02)):
        if "watching" in process.errors():
            return
        try:
            process.process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the sidecar ended: {process.errors()}")
    raise AssertionError(f"the sidecar does not start: {process.errors()}")


def enrich_all(lake: Path, **settings: str) -> str:
    """Write everything that the spool holds into the lake, and end. Returns what was said on standard error."""
    with Process("enricher", lake, "--drain", settle_seconds="0", poll_seconds="0.05", **settings) as enricher:
        wait_until_begun(enricher)
        enricher.end()
        return enricher.errors()


def wait_until_begun(process: Process) -> None:
    """Returns once it has its signal handlers."""
    for _ in range(int(START_SECONDS / 0.02)):
        if process.answers_signals():
            return
        try:
            process.process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the {process.command} ended: {process.errors()}")
    raise AssertionError(f"the {process.command} does not start: {process.errors()}")
