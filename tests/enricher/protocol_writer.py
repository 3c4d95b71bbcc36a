"""One writer of the model: the generator of enricher/partition.py, as a machine whose states can be left twice.

Its local state is read from its frames (code position and variables), so two histories that lead to the same place are
one state. A generator cannot be copied: each local state keeps the answers that lead to it, and is reached again by
giving them to a new generator. Operations that touch nothing shared are performed together with the shared one before.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Any

from enricher.operations import (
    Buffered,
    Finished,
    Get,
    Instant,
    List,
    Now,
    Operation,
    PublishRejected,
    PutIfAbsent,
    Steps,
    Stop,
    Wait,
    Warn,
)
from lake.store import ObjectExists, ObjectMissing, StoreUnavailable
from transport.log import LogError, OffsetsLost

WALL_US = 10**15
BELIEVED_US = 300 * 10**6  # how long a tip may be believed (step 10)

# Variables that are the same in every state of a writer; and `failures`, which decides only how long it waits.
CONSTANT = {"failures", "identity", "rows", "config", "new_lake_uuid", "_rows", "_config", "_keys", "keys", "genesis"}

Answer = Any  # a result, or one of the tuples of _thrown


class Violation(AssertionError):
    """The protocol broke an invariant; the message tells which, and the way there."""


def _thrown(answer: Answer) -> Exception | None:
    if not isinstance(answer, tuple) or not answer:
        return None
    match answer:
        case ("exists",):
            return ObjectExists("there")
        case ("missing",):
            return ObjectMissing("not there")
        case ("unavailable",):
            return StoreUnavailable("no answer")
        case ("log error",):
            return LogError("no answer")
        case ("lost", wanted, first):
            return OffsetsLost(wanted, first)
    return None


_pictures: dict[
    int, tuple[Any, Any]
] = {}  # of frozen dataclasses, by id; the value is kept, so that its id stays its own


def frozen(value: Any) -> Any:
    """A hashable picture of all that a value can do from now on."""
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return value
        case types.GeneratorType():
            if value.gi_frame is None:
                return "ended"
            variables = tuple((name, frozen(v)) for name, v in value.gi_frame.f_locals.items() if name not in CONSTANT)
            return (value.gi_code.co_name, value.gi_frame.f_lasti, variables, frozen(value.gi_yieldfrom))
        case list() | tuple():
            return tuple(frozen(v) for v in value)
        case dict():
            return tuple((k, frozen(v)) for k, v in value.items())
        case type() | types.FunctionType() | types.MethodType():
            return value.__qualname__
    if is_dataclass(value):
        if not value.__dataclass_params__.frozen:
            return tuple(frozen(getattr(value, name)) for name in value.__dataclass_fields__)
        if id(value) not in _pictures:
            picture = (type(value).__name__, *(frozen(getattr(value, name)) for name in value.__dataclass_fields__))
            _pictures[id(value)] = (value, picture)
        return _pictures[id(value)][1]
    if hasattr(value, "__dict__"):
        return tuple((name, frozen(v)) for name, v in vars(value).items() if name not in CONSTANT)
    return repr(value)


@dataclass(slots=True)
class Local:
    """A writer between two shared operations."""

    pending: Operation[Any] | None  # None: ended
    history: tuple[Any, ...] | None  # ((answer, clock), parent's history): the way back to it
    looked_us: int  # when the writer last saw that there was nothing after the tip, or an unfinished range at it


class Writer:
    """The transition function of one writer: from a local state and an answer to the next local state."""

    def __init__(self, start: Callable[[], Steps[None]]) -> None:
        self._start = start
        self.locals: list[Local] = []
        self._by_picture: dict[Any, int] = {}
        self._moves: dict[Any, int] = {}
        self._live: dict[int, Steps[None]] = {}  # generators that stand at a local state and were not moved on yet

    def initial(self, clock_us: int) -> int:
        return self._move((-1, None, clock_us))

    def after(self, local: int, answer: Answer, clock_us: int) -> int:
        return self._move((local, answer, clock_us))

    def _move(self, move: tuple[int, Answer, int]) -> int:
        known = self._moves.get(move)
        if known is None:
            known = self._moves[move] = self._explore(*move)
        return known

    def _explore(self, local: int, answer: Answer, clock_us: int) -> int:
        if local == -1:
            steps, looked_us = self._start(), clock_us
            pending = self._on(steps, lambda: next(steps), clock_us)
            history = (clock_us, None)
        else:
            before = self.locals[local]
            steps = self._live.pop(local, None) or self._replayed(before.history)
            pending = self._give(steps, answer, clock_us)
            history = ((answer, clock_us), before.history)
            looked_us = before.looked_us
            looking = isinstance(before.pending, Get) and before.pending.key.endswith((".done.json", ".range.json"))
            if looking or isinstance(before.pending, List):
                looked_us = clock_us
        if isinstance(pending, PutIfAbsent) and clock_us - looked_us > BELIEVED_US:
            raise Violation(f"wrote {pending.key} on a tip that was last looked at {clock_us - looked_us} us before")
        picture = (frozen(steps), looked_us)
        if picture in self._by_picture:
            return self._by_picture[picture]
        index = self._by_picture[picture] = len(self.locals)
        self.locals.append(Local(pending, history, looked_us))
        self._live[index] = steps
        return index

    def _replayed(self, history: Any) -> Steps[None]:
        answers = []
        while isinstance(history[0], tuple):
            answers.append(history[0])
            history = history[1]
        steps = self._start()
        self._on(steps, lambda: next(steps), history[0])
        for answer, clock_us in reversed(answers):
            self._give(steps, answer, clock_us)
        return steps

    def _give(self, steps: Steps[None], answer: Answer, clock_us: int) -> Operation[Any] | None:
        error = _thrown(answer)
        if error is not None:
            return self._on(steps, lambda: steps.throw(error), clock_us)
        return self._on(steps, lambda: steps.send(answer), clock_us)

    @staticmethod
    def _on(steps: Steps[None], move: Callable[[], Operation[Any]], clock_us: int) -> Operation[Any] | None:
        """Move, then perform what touches nothing shared."""
        try:
            operation = move()
            while True:
                match operation:
                    case Now():
                        operation = steps.send(Instant(WALL_US + clock_us, clock_us, Stop.DRAIN))
                    case Buffered():
                        operation = steps.send(False)
                    case Finished() | Warn() | Wait() | PublishRejected():
                        operation = steps.send(None)
                    case _:
                        return operation
        except StopIteration:
            return None
