"""The command as people and scripts meet it: exit codes, one-line errors, and what it does not load."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from small_lake import flow, make_lake

from flowlake import main as command
from settings.errors import FlowlakeError, WrongUse


def flowlake(
    *words: str, cwd: Path | None = None, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLOWLAKE_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "flowlake.main", *words],
        capture_output=True, text=True, check=False, cwd=cwd, env=clean | dict(environ or {}),
    )  # fmt: skip


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return make_lake(tmp_path / "lake", {"flows": [flow("11:00:00", 1, close_reason="refused")]})


def test_version_and_help_are_there() -> None:
    assert flowlake("--version").stdout.startswith("flowlake ")
    listed = flowlake("--help").stdout
    assert all(name in listed for name in ("up", "sidecar", "enricher", "query", "tail", "doctor"))


@pytest.mark.parametrize(
    "words", [(), ("fly",), ("console",), ("query", "--no-such-flag"), ("query", "talkers", "--format", "xml")]
)
def test_wrong_use_exits_with_2(words: tuple[str, ...]) -> None:
    done = flowlake(*words)
    assert done.returncode == 2
    assert "flowlake" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("query", "talkers", "--lake", "nowhere"), 1, "there is no lake at"),
        (("query", "talkerz", "--lake", "lake"), 2, "did you mean 'talkers'"),
        (("query", "talkers", "--lake", "lake", "--since", "tomorrow"), 2, "--since tomorrow"),
        (("query", "coverage", "--lake", "lake", "--port", "1"), 2, "does not take --port"),
        (("query", "SELECT 1", "--lake", "lake", "--limit", "1"), 2, "--limit is for a named question"),
        (("query", "DROP VIEW flows", "--lake", "lake"), 2, "one SELECT"),
        (("query", "SELECT * FROM nothing", "--lake", "lake"), 2, "nothing does not exist"),
        (("tail", "--spool", "nowhere"), 1, "there is no spool in"),
        (("tail", "--count", "0"), 2, "--count"),
    ],
)
def test_an_expected_failure_is_one_line(lake: Path, words: tuple[str, ...], code: int, says: str) -> None:
    done = flowlake(*words, cwd=lake.parent)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    if "usage:" not in done.stderr:
        assert done.stderr.startswith("flowlake: ")
        assert done.stderr.count("\n") == 1


def test_verbose_adds_the_traceback_before_or_after_the_command(lake: Path) -> None:
    for words in (("--verbose", "query", "talkers"), ("query", "talkers", "--verbose")):
        done = flowlake(*words, "--lake", str(lake / "nowhere"))
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("flowlake: there is no lake at")


def test_an_unknown_setting_in_the_environment_names_the_right_one(lake: Path) -> None:
    done = flowlake("query", "talkers", environ={"FLOWLAKE_LAKEE": str(lake)})
    assert done.returncode == 2
    assert "FLOWLAKE_LAKE?" in done.stderr


def test_settings_of_other_rooms_are_no_error_and_the_environment_names_the_lake(lake: Path) -> None:
    environ = {"FLOWLAKE_LAKE": str(lake), "FLOWLAKE_SPOOL": "/x", "FLOWLAKE_INTERIM_SECONDS": "1"}
    done = flowlake("query", "SELECT flow_id FROM flows", environ=environ)
    assert done.stdout == '"flow_id"\n1\n'


def test_a_file_of_settings_names_the_lake(lake: Path) -> None:
    (lake.parent / "flowlake.toml").write_text(f'lake = "{lake}"\n')
    done = flowlake("query", "SELECT flow_id FROM flows", "--config", "flowlake.toml", cwd=lake.parent)
    assert done.stdout == '"flow_id"\n1\n'


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FlowlakeError("no such thing; make one"), 1, "flowlake: no such thing; make one"),
        (WrongUse("cannot be meant"), 2, "flowlake: cannot be meant"),
        (OSError("no\n!"), 1, "flowlake: unexpected OSError: no ! (run with --verbose for the traceback)"),
        (KeyboardInterrupt(), 130, ""),
    ],
)  # fmt: skip
def test_every_way_of_failing_has_its_exit_code_and_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    def fails(args: object) -> int:
        raise error

    monkeypatch.setattr("flowlake.query.run", fails)
    assert command.main(["query"]) == code
    assert capsys.readouterr().err.strip() == line


def test_a_reader_that_goes_away_ends_the_command_quietly(lake: Path) -> None:
    words = [sys.executable, "-m", "flowlake.main", "query", "SELECT * FROM range(3000000)", "--lake", str(lake)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b'"range"\n'
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["sidecar", "--help"], {"pyarrow", "polars", "duckdb", "rich", "pandas", "boto3"}),
        (["query"], {"pyarrow", "polars", "duckdb", "rich", "sidecar.main", "enricher.main"}),
        (["--help"], {"pyarrow", "polars", "duckdb", "rich", "numpy", "sidecar.main", "enricher.main"}),
    ],
)
def test_a_command_loads_only_what_it_needs(words: list[str], absent: set[str]) -> None:
    code = (
        "import sys\nfrom flowlake.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        f"print('loaded', sorted({absent!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_the_configs_of_all_rooms_may_be_loaded_without_a_library_of_the_lake() -> None:
    code = (
        "import sys\nfrom flowlake.config import known_configs\n"
        "print(sorted(c.__name__ for c in known_configs()))\n"
        "print(sorted({'pyarrow', 'polars', 'duckdb', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, heavy = done.stdout.splitlines()
    assert all(name in names for name in ("EnricherConfig", "LakeConfig", "SidecarConfig", "SpoolConfig"))
    assert heavy == "[]"
