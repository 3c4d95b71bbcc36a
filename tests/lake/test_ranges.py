from __future__ import annotations

import dataclasses
import json

import pytest

from lake.ranges import (
    FORMAT_VERSION,
    ChainKeys,
    Done,
    FileEntry,
    Genesis,
    Head,
    Intent,
    LakeError,
    LakeFile,
    Outcome,
    RunState,
    log_hash,
)

RUN = RunState("host", 7, 800, {"ring_full": 3}, 1, 1_700_000_000_000_000)
OUTCOME = Outcome(3, 120, 1, 0, {"unreadable": 1}, {"run": RUN}, ("edges/a", "flows/a"), {"minutes": [[1, "run", 2]]})
OBJECTS = [
    LakeFile("0b7e"),
    Genesis("kafka", "flowlake.flows.v1", "cluster/topic", 3, 17, ("abc",), {"run": RUN}),
    Intent(4, 17, 21, 4, "00ff", (18,), False, 1, {"skew_seconds": 60}, OUTCOME),
    Done(
        4,
        17,
        21,
        (FileEntry("flows/a", "flows", 120, "ee"),),
        120,
        3,
        1,
        0,
        {"unreadable": 1},
        1,
        0,
        0,
        {"run": RUN},
        True,
    ),
    Head(17),
]


@pytest.mark.parametrize("written", OBJECTS, ids=lambda o: type(o).__name__)
def test_what_is_written_is_read_back(written: LakeFile | Genesis | Intent | Done | Head) -> None:
    assert type(written).from_json(written.to_json()) == written


@pytest.mark.parametrize("written", OBJECTS, ids=lambda o: type(o).__name__)
def test_a_field_of_a_later_version_is_ignored(written: LakeFile | Genesis | Intent | Done | Head) -> None:
    fields = json.loads(written.to_json()) | {"added_later": [1, 2]}

    assert type(written).from_json(json.dumps(fields).encode()) == written


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"{}", b'{"first": 1, "outcome": 7}', b"\xff\xfe"])
def test_bytes_that_are_no_intent_are_one_line_that_says_so(body: bytes) -> None:
    with pytest.raises(LakeError, match=r"cannot understand an object range\.json") as raised:
        Intent.from_json(body)
    assert "\n" not in str(raised.value)


def test_a_lake_of_this_version_may_be_written_to() -> None:
    LakeFile("0b7e").check()


def test_a_lake_of_a_newer_version_or_of_the_other_engine_is_refused_with_what_to_do() -> None:
    with pytest.raises(LakeError, match=f"format {FORMAT_VERSION + 1}.*use the newer flowlake"):
        LakeFile("0b7e", format_version=FORMAT_VERSION + 1).check()
    with pytest.raises(LakeError, match=r"engine 'iceberg'.*use another lake"):
        LakeFile("0b7e", engine="iceberg").check()


def test_keys_sort_as_their_offsets_do() -> None:
    keys = ChainKeys("00ff", 3)
    firsts = [0, 9, 10, 99, 12345678901234567890]

    assert sorted(map(keys.intent, firsts)) == [keys.intent(first) for first in firsts]
    assert keys.intent(10) == "_ranges/00ff/3/00000000000000000010.range.json"
    assert keys.done(10) < keys.intent(10) < keys.done(11)


def test_only_the_key_of_a_done_tells_a_first_offset() -> None:
    keys = ChainKeys("00ff", 3)

    assert keys.first_of_done(keys.done(17)) == 17
    for other in (keys.intent(17), keys.head, keys.genesis, ChainKeys("00ff", 31).done(17), keys.done(17) + ".json"):
        assert keys.first_of_done(other) is None


def test_a_log_made_anew_has_another_hash_and_its_name_does_not_matter() -> None:
    assert log_hash("spool", "a") != log_hash("spool", "b")
    assert log_hash("spool", "a") != log_hash("kafka", "a")
    assert len(log_hash("spool", "a")) == 16


def test_outcomes_are_the_same_when_their_bytes_are_also_after_they_were_stored() -> None:
    stored = Intent.from_json(OBJECTS[2].to_json()).outcome
    other = dataclasses.replace(OUTCOME, accepted_records=121)

    assert stored.to_json() == OUTCOME.to_json() != other.to_json()
