"""The processes below `flowlake up`: started with its settings, ended in order, never left behind."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from settings.errors import FlowlakeError

STOP_SECONDS = 120.0  # after SIGTERM: long enough to write a spool that has filled up meanwhile
_PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None)


class Child:
    """One of flowlake's own commands as a process. Ends with SIGTERM: at `end`, or when its parent dies."""

    def __init__(self, command: str, *flags: str, environ: Mapping[str, str]) -> None:
        self.command = command
        # A session of its own: Ctrl-C is for the parent, which ends its children one after the other.
        self._process = subprocess.Popen(
            # -P: not from the folder we stand in, which may have a lake/ of its own.
            [sys.executable, "-P", "-m", "flowlake.main", command, *flags],
            env=environ,
            start_new_session=True,
            preexec_fn=_before_exec,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def check(self) -> None:
        """Raises FlowlakeError where it has ended by itself; it has said why."""
        if self._process.poll() is not None:
            raise FlowlakeError(f"the {self.command} ended by itself ({self._how()})")

    def end(self) -> None:
        """Ask it to end, and wait. Raises FlowlakeError where it did not end well."""
        self.check()
        self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise FlowlakeError(f"the {self.command} did not end within {STOP_SECONDS:g} s, and was killed") from None
        if code != 0:
            raise FlowlakeError(f"the {self.command} ended badly ({self._how()})")

    def _how(self) -> str:
        code = self._process.returncode
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _before_exec() -> None:
    """In the child, before it becomes the command."""
    # A parent that is killed takes its children with it.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # Held back until the command can answer it, and lets it through: one that is asked while it starts ends in order.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
