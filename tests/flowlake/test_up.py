"""`flowlake up` as people use it: ends when it should, sums up what the lake says, leaves nobody behind."""

from __future__ import annotations

import errno
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from chaos.told import LOSSES, UNSEEN, assert_tables_agree, coverage_by_run
from kernel.records import wait_until
from kernel.traffic import ORDERLY, random_plan, run_traffic, traffic_namespace
from processes import Process, wait_until_watching

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


@contextmanager
def up(lake: Path, *flags: str) -> Iterator[Process]:
    """`flowlake up` that has begun to watch; told where the lake is by a flag, as people do, and nothing else."""
    with Process("up", lake, "--lake", str(lake), *flags, spool=None, probe_ring_bytes="32MiB") as process:
        wait_until_watching(process)
        yield process


def children_of(pid: int) -> list[int]:
    """Source: proc(5), /proc/PID/task/TID/children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> str:
    """The command line of a process; "" once it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def dial_nobody() -> None:
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", 1)) == errno.ECONNREFUSED


def check_summary(output: str, lake: Path) -> None:
    """The first line of the summary is what `coverage` says of the only run."""
    (run,) = coverage_by_run(lake).values()
    counts = f"captured {run['captured']}, written {run['written']}, lost {sum(run[name] for name in LOSSES)}"
    assert any(line == counts or line.startswith(f"{counts} (") for line in output.splitlines()), output


def test_it_ends_by_itself_and_its_summary_is_what_the_lake_says(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with traffic_namespace() as namespace:
        with up(lake, "--duration", "4") as process:
            truth = run_traffic(namespace, random_plan(4, 500, ORDERLY))
            dial_nobody()
            output = process.finish()
        check_summary(output, lake)
        assert_tables_agree(lake, namespace.cookie)
        (run,) = coverage_by_run(lake).values()
        assert run["written"] >= len(truth.ends()) - run[UNSEEN]
    summary = output[output.index("captured ") :]
    assert "busiest:" in summary and "failing:" in summary and "refused" in summary
    # One directory holds all of it.
    assert {path.name for path in lake.iterdir()} >= {"_lake.json", "_ranges", "_spool", "flows", "edges", "coverage"}
    assert (lake / "_spool" / "spool.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_it_writes_what_it_saw_and_sums_it_up(tmp_path: Path, number: signal.Signals) -> None:
    lake = tmp_path / "lake"
    with up(lake) as process:
        dial_nobody()
        children = children_of(process.process.pid)
        output = process.end(number)
        check_summary(output, lake)
        assert "Traceback" not in process.errors()
    assert len(children) == 2 and not any(map(command_of, children))


def test_asked_to_end_before_it_began_it_ends_well(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with Process("up", lake, "--duration", "0", spool=None) as process:
        check_summary(process.finish(), lake)
        assert "Traceback" not in process.errors()


def test_killed_it_takes_its_children_with_it(tmp_path: Path) -> None:
    with up(tmp_path / "lake") as process:
        children = children_of(process.process.pid)
        enricher, sidecar = (command_of(child).split() for child in children)
        assert "enricher" in enricher and "sidecar" in sidecar
        process.kill()
        wait_until(lambda: not any(map(command_of, children)), "both have ended")


@pytest.mark.parametrize("command", ["sidecar", "enricher"])
def test_when_a_child_is_killed_it_ends_with_one_line(tmp_path: Path, command: str) -> None:
    with up(tmp_path / "lake") as process:
        children = children_of(process.process.pid)
        (victim,) = (child for child in children if command in command_of(child).split())
        before = len(process.errors())
        os.kill(victim, signal.SIGKILL)
        process.process.wait(60)
        assert process.process.returncode == 1
        said = process.errors()[before:].splitlines()
        assert said[-1] == f"flowlake: the {command} ended by itself (signal SIGKILL)"
        # The other one ends orderly, and may say what it did.
        assert all(line.startswith("flowlake: captured ") for line in said[:-1])
        assert not any(map(command_of, children))


def test_without_privileges_the_sidecar_says_why_and_it_ends(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    words = [*WITHOUT_CAPABILITIES, sys.executable, "-P", "-m", "flowlake.main", "up", "--lake", str(lake)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    why, what = (line for line in done.stderr.splitlines() if "waiting for it" not in line)
    assert why.startswith("flowlake: cannot load the probe: privileges: without ")
    assert what == "flowlake: the sidecar ended by itself (exit code 1)"


def test_on_a_terminal_it_shows_a_table_of_who_talks_to_whom(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    words = [sys.executable, "-P", "-m", "flowlake.main", "up", "--lake", str(lake), "--duration", "6"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FLOWLAKE_")}
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, env=environ | {"TERM": "xterm", "COLUMNS": "120"}
        ) as process:
            os.close(theirs)
            shown = b""
            dialed = False
            while chunk := _read(ours):
                shown += chunk
                if not dialed and b"watching" in shown:
                    dial_nobody()
                    dialed = True
            assert process.wait(60) == 0
    finally:
        os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "Traceback" not in text
    for heading in ("client", "server", "port", "opened", "failed", "last failure"):
        assert heading in text
    assert "127.0.0.1" in text and "refused" in text
    check_summary(text.replace("\r\n", "\n"), lake)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError as error:  # EIO: nobody has its other end open any more (drivers/tty/n_tty.c)
        if error.errno != errno.EIO:
            raise
        return b""
