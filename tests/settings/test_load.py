"""Settings: flags over environment over file over defaults, and nothing given is ever ignored."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from settings import GiB, add_flags, load, setting, settings_reference
from settings.errors import WrongUse


@dataclass(frozen=True)
class Sample:
    """A config of every type"""

    directory: Path = setting(Path("/var/lib/x"), "where", name="spool")
    settle_seconds: float = setting(30.0, "delay; 30 covers the claims' way")
    interim_seconds: float = setting(60.0, "of interim records", minimum=1)
    max_bytes: int = setting(2 * GiB, "bound")
    partitions: int = setting(8, "how many")
    ratio: float = setting(0.5, "share")
    console: bool = setting(True, "whether | the page is served, 100 % of it")
    kafka_bootstrap_servers: str = setting("", "brokers")
    network: str | None = setting(None, "of the host")
    registry: Path | None = setting(Path("/r"), "of schemas")
    password: str = setting("", "of Kafka", secret=True)


@dataclass(frozen=True)
class OtherRoom:
    """Another room's config"""

    lake: str = setting("data/lake", "where the lake is")
    settle_seconds: float = setting(30.0, "delay")


def loaded(flags: list[str] | None = None, environ: Mapping[str, str] | None = None) -> Sample:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, Sample, OtherRoom)
    return load(Sample, parser.parse_args(flags or []), environ or {}, known=[Sample, OtherRoom])


def written(directory: Path, text: str) -> str:
    path = directory / "flowlake.toml"
    path.write_text(text)
    return str(path)


def test_without_anything_given_the_defaults_hold() -> None:
    assert loaded() == Sample()


def test_flags_are_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    config = written(tmp_path, 'settle_seconds = 1\ninterim_seconds = 11\npartitions = 3\nspool = "/file"')
    environ = {
        "FLOWLAKE_CONFIG": config,
        "FLOWLAKE_SETTLE_SECONDS": "2",
        "FLOWLAKE_INTERIM_SECONDS": "12",
    }
    sample = loaded(["--settle-seconds", "3"], environ)
    assert (sample.settle_seconds, sample.interim_seconds, sample.partitions) == (3, 12, 3)
    assert (sample.directory, sample.ratio) == (Path("/file"), 0.5)


def test_the_flag_config_is_over_its_variable(tmp_path: Path) -> None:
    config = written(tmp_path, "partitions = 3")
    assert loaded(["--config", config], {"FLOWLAKE_CONFIG": "/nowhere"}).partitions == 3


EMPTY_VALUES = [
    ("settle_seconds", "0", 0.0),
    ("partitions", "0", 0),
    ("max_bytes", "0", 0),
    ("console", "false", False),
    ("console", "0", False),
    ("network", "", None),
    ("registry", "", None),
    ("kafka_bootstrap_servers", "", ""),
]


@pytest.mark.parametrize(("name", "text", "value"), EMPTY_VALUES)
def test_zero_false_and_empty_are_values_and_never_replaced(
    tmp_path: Path, name: str, text: str, value: object
) -> None:
    environ = {"FLOWLAKE_" + name.upper(): text}
    assert getattr(loaded([], environ), name) == value
    config = written(tmp_path, f"{name} = {str(value).lower() if isinstance(value, int | float) else repr(text)}")
    assert getattr(loaded(["--config", config]), name) == value
    full = "true" if name == "console" else "7"
    assert getattr(loaded(["--config", config], {"FLOWLAKE_" + name.upper(): full}), name) != value
    if name != "console":
        flag = "--" + name.replace("_", "-")
        assert getattr(loaded([flag, text], {"FLOWLAKE_" + name.upper(): full}), name) == value


def test_a_boolean_has_a_flag_for_either_value() -> None:
    assert loaded(["--no-console"], {"FLOWLAKE_CONSOLE": "true"}).console is False
    assert loaded(["--console"], {"FLOWLAKE_CONSOLE": "false"}).console is True


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GiB", 2 << 30), ("16 MiB", 16 << 20), ("1.5kB", 1500), ("1_000", 1000), ("7B", 7), ("1TiB", 1 << 40)],
)
def test_sizes_have_units(text: str, count: int) -> None:
    assert loaded([], {"FLOWLAKE_MAX_BYTES": text}).max_bytes == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("2m", 120), ("1.5h", 5400), ("30s", 30), ("250us", 250e-6), ("1d", 86400)]
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert loaded([], {"FLOWLAKE_SETTLE_SECONDS": text}).settle_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("max_bytes", "2 gigs", "a size in bytes (such as 16MiB)"),
        ("max_bytes", "1.5", "a size in bytes (such as 16MiB)"),
        ("settle_seconds", "soon", "a duration in seconds (such as 30, 500ms, 2m)"),
        ("settle_seconds", "-1", "a duration in seconds (such as 30, 500ms, 2m), not less than 0"),
        ("settle_seconds", "nan", "a duration in seconds (such as 30, 500ms, 2m)"),
        ("settle_seconds", "1e400", "a duration in seconds (such as 30, 500ms, 2m)"),
        ("interim_seconds", "0.5", "a duration in seconds (such as 30, 500ms, 2m) of at least 1"),
        ("partitions", "eight", "a whole number"),
        ("partitions", "8MiB", "a whole number"),
        ("partitions", "", "a whole number"),
        ("ratio", "", "a number"),
        ("console", "maybe", "true or false"),
        ("spool", "", "a path"),
    ],
)
def test_a_wrong_value_is_said_with_its_name_what_is_expected_and_where_it_came_from(
    name: str, text: str, expected: str
) -> None:
    with pytest.raises(WrongUse) as caught:
        loaded([], {"FLOWLAKE_" + name.upper(): text})
    variable = "FLOWLAKE_" + name.upper()
    assert str(caught.value) == f"{variable} is {text!r}, expected {expected} (from the environment)"
    assert caught.value.exit_code == 2


def test_a_wrong_value_in_flag_or_file_names_that(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"^partitions is 'x', expected a whole number \(from the flag --partitions\)$"):
        loaded(["--partitions", "x"])
    for text in ("partitions = true", "partitions = [8]", "partitions = 1.5", "console = 1", "spool = 3"):
        config = written(tmp_path, text)
        with pytest.raises(WrongUse, match=rf"^{text.partition(' ')[0]} is .*, expected .* \(from {config}\)$"):
            loaded(["--config", config])


def test_an_unknown_variable_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(WrongUse, match=r"no setting FLOWLAKE_SETLE_SECONDS \(from the environment\); did you mean FLO"):
        loaded([], {"FLOWLAKE_SETLE_SECONDS": "2"})


def test_an_unknown_key_of_the_file_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    config = written(tmp_path, "[spol]\nx = 1")
    with pytest.raises(WrongUse, match=rf"no setting spol \(from {config}\); did you mean spool\?"):
        loaded(["--config", config])


def test_settings_of_other_rooms_the_tests_own_variables_and_foreign_ones_are_no_error(tmp_path: Path) -> None:
    environ = {"FLOWLAKE_LAKE": "x", "FLOWLAKE_TEST_NO_SKIP": "1", "PATH": "/bin", "KAFKA_X": "1"}
    assert loaded(["--config", written(tmp_path, 'lake = "y"')], environ) == Sample()


def test_a_settings_file_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(WrongUse, match=rf"cannot read .* {missing} \(from FLOWLAKE_CONFIG\): No such file"):
        loaded([], {"FLOWLAKE_CONFIG": str(missing)})
    with pytest.raises(WrongUse, match=r"is not TOML: [^\n]*line 1[^\n]*$"):
        loaded(["--config", written(tmp_path, "a = = 1")])
    (tmp_path / "flowlake.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(WrongUse, match=r"is not TOML"):
        loaded(["--config", str(tmp_path / "flowlake.toml")])


def test_a_secret_is_shown_nowhere(tmp_path: Path) -> None:
    sample = loaded([], {"FLOWLAKE_PASSWORD": "hunter2"})
    assert sample.password == "hunter2"
    assert "hunter2" not in repr(sample)
    with pytest.raises(SystemExit):
        loaded(["--password", "hunter2"])
    with pytest.raises(WrongUse) as caught:
        loaded(["--config", written(tmp_path, "password = [1234567]")])
    assert "1234567" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_setting_without_default_must_be_given() -> None:
    @dataclass(frozen=True)
    class Needy:
        """Needs"""

        host_name: str = setting(help="of the host")

    with pytest.raises(WrongUse, match=r"^FLOWLAKE_HOST_NAME is not set: give text, or use --host-name$"):
        load(Needy, argparse.Namespace(), {}, known=[])
    assert load(Needy, argparse.Namespace(), {"FLOWLAKE_HOST_NAME": ""}, known=[]).host_name == ""


def test_what_a_config_says_cannot_be_meant_together_is_wrong_use() -> None:
    @dataclass(frozen=True)
    class Pair:
        """Two"""

        low: int = setting(1, "low")
        high: int = setting(2, "high")

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError(f"low is {self.low}, expected at most high ({self.high})")

    with pytest.raises(WrongUse, match=r"^low is 3, expected at most high \(2\)$"):
        load(Pair, argparse.Namespace(), {"FLOWLAKE_LOW": "3"}, known=[])


def test_help_names_the_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        loaded(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--settle-seconds SECONDS delay; 30 covers the claims' way [FLOWLAKE_SETTLE_SECONDS]" in text
    assert "100 % of it" in text
    assert "password" not in text


def test_the_reference_has_a_row_for_every_setting() -> None:
    page = settings_reference([Sample, OtherRoom])
    assert page.startswith("## A config of every type\n")
    assert (
        "| `settle_seconds` | `FLOWLAKE_SETTLE_SECONDS` | `--settle-seconds` | "
        "a duration in seconds (such as 30, 500ms, 2m) | `30` | delay; 30 covers the claims' way |"
    ) in page
    assert "| `2GiB` | bound |" in page
    assert "| `true` | whether \\| the page" in page
    assert "| `password` | `FLOWLAKE_PASSWORD` | none: it is a secret | text | none | of Kafka |" in page
    assert "| empty | brokers |" in page
    assert "## Another room's config" in page
