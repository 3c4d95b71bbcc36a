"""flowlake's own commands as processes that are measured from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.machine import CpuUse, cpu_use, memory_mib
from transport.log import Message
from transport.spool import SpoolReader

START_SECONDS, END_SECONDS = 60.0, 300.0


class Process:
    """`flowlake COMMAND FLAGS...`, ended with SIGTERM at the end of the context at the latest."""

    def __init__(self, command: str, *flags: str) -> None:
        self._said = tempfile.TemporaryFile("a+")  # noqa: SIM115 - appended to: reading moves the offset that both share
        environ = {name: value for name, value in os.environ.items() if not name.startswith("FLOWLAKE_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flowlake.main", command, *flags], env=environ, stdout=self._said, stderr=self._said
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._said.close()

    def wait_until_it_says(self, text: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while text not in self.said():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"flowlake did not say {text!r} but: {self.said()}")
            time.sleep(0.02)

    def said(self) -> str:
        self._said.seek(0)
        return self._said.read()

    def running(self) -> bool:
        """Also False when it has ended and finish() was not called yet."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def terminate(self) -> None:
        self._process.terminate()

    def finish(self) -> CpuUse:
        """Ask it to end, wait, and return what it used from its start to its end."""
        if self.running():
            self._process.terminate()
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode != 0:
            raise RuntimeError(f"flowlake ended badly: {self.said()}")
        return CpuUse(
            int((usage.ru_utime + usage.ru_stime) * 1e9), int(usage.ru_utime * 1000), int(usage.ru_stime * 1000)
        )

    def cpu(self) -> CpuUse:
        return cpu_use(self._process.pid)

    def memory_mib(self, what: str) -> float:
        return memory_mib(self._process.pid, what)


class Sidecar(Process):
    """A sidecar that watches, with a spool of its own."""

    def __init__(self, spool: Path, *flags: str) -> None:
        super().__init__("sidecar", "--spool", str(spool), *flags)
        self.wait_until_it_says("watching")

    def dropped(self) -> dict[str, int]:
        """After finish(): flows dropped in its life by reason, those of others on this machine included."""
        found = re.search(r"captured \d+, spooled \d+, dropped (.*)", self.said())
        if not found:
            raise RuntimeError(f"the sidecar told no totals: {self.said()}")
        return {reason: int(count) for count, reason in re.findall(r"(\d+) (\w+)", found[1])}


def read_spool(directory: Path) -> list[Message]:
    """Every message that a spool holds."""
    reader = SpoolReader(directory)
    first, end = reader.bounds()
    messages: list[Message] = []
    while first < end:
        fetched = reader.read(first, stop_before=end, appended_before_us=None, max_bytes=16 << 20)
        messages += fetched.messages
        first = fetched.next_offset
    return messages
