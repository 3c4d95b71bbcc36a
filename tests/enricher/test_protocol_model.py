"""Exactly once, shown: every interleaving of writers with crashes, lost answers, pauses and expiry, within a bound.

What is explored is the real generator (enricher/partition.py) over a toy row maker; see protocol_model.py for how, and
protocol_invariants.py for what must hold. Each bound says how many states it must reach at least, so that an explorer
that explores nothing cannot pass; and each mutant, the same protocol with one rule broken, must be found out.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from protocol_invariants import check_always, check_end
from protocol_model import Bound, Checker, Store
from protocol_writer import Violation
from toy_rows import ToyRows, batch

from enricher.gather import GatherConfig
from enricher.operations import Commit, Get, Now, Operation, Put, PutIfAbsent, Read, Steps
from enricher.partition import partition
from enricher.range_writer import PartitionConfig
from lake.ranges import ChainKeys, Genesis, LakeFile, log_hash
from lake.store import ObjectExists, StoreError, StoreUnavailable
from transport.log import LogError, LogIdentity, Message

pytestmark = pytest.mark.slow

IDENTITY = LogIdentity("spool", "spool", "uuid", 0)
KEYS = ChainKeys(log_hash("spool", "uuid"), 0)
BEGUN = {
    "_lake.json": LakeFile("lake").to_json(),
    KEYS.genesis: Genesis("spool", "spool", "uuid", 0, 0).to_json(),
}
A0 = batch("a", 0, 7, 8)  # its rows lie in two hours, so in two files
A1 = batch("a", 1, 7)
B0 = batch("b", 0, 7)
PAIR_BYTES = 2 * len(A1)  # ranges of two messages
ONE_BYTE = 1  # ranges of one message


def log_of(*values: bytes) -> list[Message]:
    return [Message(offset, 1000 + offset, b"host", value) for offset, value in enumerate(values)]


def writer(name: str, range_bytes: int) -> Steps[None]:
    """The protocol as it is."""
    gather = GatherConfig(settle_seconds=0, range_seconds=0, range_bytes=range_bytes)
    return partition(IDENTITY, ToyRows(name), PartitionConfig(gather, full_state_every=2), f"lake of {name}")


def explored(bound: Bound, messages: list[Message], range_bytes: int, store: Store, mutant: Mutant | None) -> Checker:
    def start(name: str) -> Steps[None]:
        steps = writer(name, range_bytes)
        return steps if mutant is None else altered(steps, mutant)

    checker = Checker(
        bound, messages, store, start, check_always, lambda store, first, end: check_end(store, messages, first, end)
    )
    gc.disable()  # nothing that is explored is garbage, and looking at it again and again takes half of the time
    try:
        checker.run()
    finally:
        gc.enable()
    return checker


def param(name: str, *bound: object) -> ParameterSet:
    states_at_least = bound[-1]
    assert isinstance(states_at_least, int)
    return pytest.param(*bound, id=name, marks=pytest.mark.slow if states_at_least > 15_000 else ())


@pytest.mark.parametrize(
    ("bound", "messages", "range_bytes", "store", "states_at_least"),
    [
        param("a fault in two ranges", Bound(faults=1), log_of(A0, A1, A1, B0), PAIR_BYTES, BEGUN, 50_000),
        param("two faults", Bound(faults=2), log_of(B0, B0), PAIR_BYTES, BEGUN, 15_000),
        param("a message expires", Bound(expiries=1), log_of(A0, A1, A1), PAIR_BYTES, BEGUN, 20_000),
        param("all messages expire", Bound(expiries=2), log_of(A1, A1), PAIR_BYTES, BEGUN, 15_000),
        param("a fault and expiry", Bound(faults=1, expiries=1), log_of(A1, B0), PAIR_BYTES, BEGUN, 30_000),
        param("a message comes", Bound(appends=1), log_of(A1, A1, B0), PAIR_BYTES, BEGUN, 7_000),
        param("a pause of ten minutes", Bound(jumps=1), log_of(A1, A1), ONE_BYTE, BEGUN, 15_000),
        param("a fault and a pause", Bound(faults=1, jumps=1), log_of(B0), ONE_BYTE, BEGUN, 50_000),
        param("two faults, an empty lake", Bound(faults=2), log_of(B0), ONE_BYTE, {}, 35_000),
        param("three writers", Bound(writers=3), log_of(A0, A1), PAIR_BYTES, BEGUN, 35_000),
        param("three writers, a fault", Bound(writers=3, faults=1), log_of(B0), ONE_BYTE, BEGUN, 150_000),
    ],
)
def test_nothing_is_doubled_or_lost_in_any_execution(
    bound: Bound, messages: list[Message], range_bytes: int, store: Store, states_at_least: int
) -> None:
    checker = explored(bound, messages, range_bytes, store, None)

    print(f"{checker.states} states, {checker.transitions} steps, {checker.stores} different lakes")
    assert checker.states >= states_at_least


# The same protocol with one rule broken. A mutant stands between the protocol and the world, one operation at a time.

Memory = list[Operation[Any]]
Mutant = Callable[[Operation[Any], Memory], Steps[Any]]


def altered(steps: Steps[None], mutant: Mutant) -> Steps[None]:
    memory: Memory = []
    operation = next(steps)
    while True:
        error = answer = None
        try:
            answer = yield from mutant(operation, memory)
        except (StoreError, LogError) as thrown:
            error = thrown
        try:
            operation = steps.send(answer) if error is None else steps.throw(error)
        except StopIteration:
            return


def is_file(operation: Operation[Any]) -> bool:
    return isinstance(operation, PutIfAbsent) and operation.key.endswith(".parquet")


def is_put(operation: Operation[Any], suffix: str) -> bool:
    return isinstance(operation, PutIfAbsent) and operation.key.endswith(suffix)


def overwrites_the_intent(operation: Operation[Any], memory: Memory) -> Steps[Any]:
    if isinstance(operation, PutIfAbsent) and is_put(operation, ".range.json"):
        operation = Put(operation.key, operation.body)
    return (yield operation)


def believes_its_own_intent_when_another_is_there(operation: Operation[Any], memory: Memory) -> Steps[Any]:
    try:
        return (yield operation)
    except ObjectExists:
        if is_put(operation, ".range.json"):
            return None
        raise


def takes_no_answer_for_success(operation: Operation[Any], memory: Memory) -> Steps[Any]:
    try:
        return (yield operation)
    except StoreUnavailable:
        if is_file(operation):
            return None
        raise


def never_looks_at_the_clock(operation: Operation[Any], memory: Memory) -> Steps[Any]:
    answer = yield operation
    return type(answer)(answer.wall_us, 0, answer.stop) if isinstance(operation, Now) else answer


def is_done_before_the_files(operation: Operation[Any], memory: Memory) -> Steps[Any]:
    if is_file(operation):
        memory.append(operation)
        return None
    answer = yield operation
    if is_put(operation, ".done.json"):
        while memory:
            yield memory.pop(0)
    return answer


def forgets_the_runs_of_a_done(operation: Operation[Any], memory: Memory) -> Steps[Any]:
    answer = yield operation
    if isinstance(operation, Get) and operation.key.endswith(".done.json"):
        return json.dumps(json.loads(answer) | {"runs": {}}).encode()
    return answer


def reads_past_the_range_it_adopts(operation: Operation[Any], memory: Memory) -> Steps[Any]:
    if isinstance(operation, Read) and operation.stop_before is not None:
        operation = Read(operation.first, operation.stop_before + 1, None, 2 * operation.max_bytes)
    return (yield operation)


def keeps_its_own_rows_where_others_are_stored(operation: Operation[Any], memory: Memory) -> Steps[Any]:
    try:
        return (yield operation)
    except ObjectExists:
        if is_file(operation):
            return None
        raise


def writes_no_empty_files(operation: Operation[Any], memory: Memory) -> Steps[Any]:
    if isinstance(operation, PutIfAbsent) and is_file(operation) and json.loads(operation.body)["rows"] == []:
        return None
    return (yield operation)


def commits_at_the_intent(operation: Operation[Any], memory: Memory) -> Steps[Any]:
    answer = yield operation
    if isinstance(operation, PutIfAbsent) and is_put(operation, ".range.json"):
        yield Commit(json.loads(operation.body)["next"])
    return answer


@pytest.mark.parametrize(
    ("mutant", "bound", "messages", "range_bytes", "found"),
    [
        (overwrites_the_intent, Bound(appends=1), log_of(A1, B0), PAIR_BYTES, "was overwritten"),
        (
            believes_its_own_intent_when_another_is_there,
            Bound(appends=1),
            log_of(A1, B0),
            PAIR_BYTES,
            "no intent knows",
        ),
        (takes_no_answer_for_success, Bound(faults=1), log_of(B0), ONE_BYTE, "without its files|flows were there"),
        (never_looks_at_the_clock, Bound(jumps=1), log_of(B0), ONE_BYTE, "a tip that was last looked at"),
        (is_done_before_the_files, Bound(), log_of(B0), ONE_BYTE, "done without its files"),
        (forgets_the_runs_of_a_done, Bound(faults=1), log_of(A1, A1), ONE_BYTE, "rows twice|give other rows than"),
        (reads_past_the_range_it_adopts, Bound(), log_of(A1, A1, B0), PAIR_BYTES, "does not hold the messages"),
        (keeps_its_own_rows_where_others_are_stored, Bound(), log_of(B0), ONE_BYTE, "is not the sum of its flows"),
        (writes_no_empty_files, Bound(expiries=1), log_of(B0), ONE_BYTE, "done without its files"),
        (commits_at_the_intent, Bound(), log_of(B0), ONE_BYTE, "committed 1, but the lake reaches 0"),
    ],
)
def test_the_checker_finds_out_a_protocol_that(
    mutant: Mutant, bound: Bound, messages: list[Message], range_bytes: int, found: str
) -> None:
    with pytest.raises(Violation, match=found):
        explored(bound, messages, range_bytes, BEGUN, mutant)
