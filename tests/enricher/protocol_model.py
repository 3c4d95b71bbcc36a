"""A model checker for the protocol of a partition: every interleaving of writers, faults and events within a bound.

A state is the store, the log's bounds, the clock, what may still go wrong, and the local state of each writer
(protocol_writer.py). Between any two operations that touch something shared anything else may happen, for as long as it
likes: that is what a pause is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from protocol_writer import Answer, Violation, Writer

from enricher.operations import Bounds, Commit, Get, List, Operation, Put, PutIfAbsent, Read, Steps
from transport.log import Fetched, Message

JUMP_US = 600 * 10**6  # a pause far longer than a tip is believed

Store = dict[str, bytes]
Step = tuple[int, str]  # who (-1: nobody), and what happens; "": the pending operation succeeds


@dataclass(frozen=True)
class Bound:
    """How much may happen in one execution."""

    writers: int = 2
    faults: int = 0  # crash, error without effect, lost answer: in any mixture
    jumps: int = 0  # of the clock, by JUMP_US
    expiries: int = 0  # one message each, from the front of the log
    appends: int = 0  # messages that arrive while the writers run


class State(NamedTuple):
    store: int
    log_first: int
    log_next: int
    clock_us: int
    faults: int
    locals: tuple[int, ...]


Way = tuple[State, Step] | None  # how a state was first reached; None: it is the start


def finished_up_to(store: Store) -> int:
    """The offset that the chain's finished ranges reach."""
    return max((json.loads(body)["next"] for key, body in store.items() if key.endswith(".done.json")), default=0)


class Checker:
    """Explores everything within a bound. `check_store` sees each store once, after the operation that made it."""

    def __init__(
        self,
        bound: Bound,
        messages: list[Message],
        store: Store,
        start: Callable[[str], Steps[None]],
        check: Callable[[Store], None],
        check_end: Callable[[Store, int, int], None],
    ) -> None:
        self._bound = bound
        self._messages = messages
        self._check = check
        self._check_end = check_end
        self._writers = [Writer(lambda name=name: start(name)) for name in "ABC"[: bound.writers]]
        self._recoverer = Writer(lambda: start("R"))
        self._stores: list[Store] = []
        self._store_ids: dict[Any, int] = {}
        self._puts: dict[Any, int] = {}
        self._recovered: set[tuple[int, int, int]] = set()
        self._first_store = self._known(store)
        self.states = 0
        self.transitions = 0

    @property
    def stores(self) -> int:
        """How many different stores were seen, and recovered from."""
        return len(self._stores)

    def run(self) -> None:
        """Raises Violation."""
        log_next = len(self._messages) - self._bound.appends
        start = State(self._first_store, 0, log_next, 0, self._bound.faults, tuple(w.initial(0) for w in self._writers))
        seen: dict[State, Way] = {start: None}
        todo = [start]
        while todo:
            state = todo.pop()
            step: Step | None = None
            try:
                self._recover(state)
                for step in self._steps(state):
                    after = self._after(state, *step)
                    self.transitions += 1
                    if after not in seen:
                        seen[after] = (state, step)
                        todo.append(after)
            except Exception as error:
                way = "\n".join(self._way(seen, state, step))
                raise Violation(f"{error if isinstance(error, Violation) else repr(error)}\n{way}") from error
        self.states = len(seen)

    def _steps(self, state: State) -> list[Step]:
        """All that may happen next, as far as its order matters.

        Where a writer's next operation has an answer that nothing can change any more, and no effect on anything
        shared, it may as well go first, or fail first: whatever the others do meanwhile, they may do after it.
        """
        steps: list[Step] = []
        settled = state.clock_us == self._bound.jumps * JUMP_US  # the clock is looked at after every operation
        for who, writer in enumerate(self._writers):
            operation = writer.locals[state.locals[who]].pending
            if operation is None:
                continue
            own: list[Step] = [(who, "")]
            if state.faults:
                own += [(who, "fails"), (who, "crashes before it")]
                if isinstance(operation, PutIfAbsent | Put):
                    own.append((who, "loses the answer"))
            if settled and self._is_local(state, operation):
                return own
            steps += own
        if not settled:
            steps.append((-1, "10 minutes pass"))
        if self._may_expire(state):
            steps.append((-1, "a message expires"))
        if self._may_come(state):
            steps.append((-1, "a message comes"))
        return steps

    def _may_expire(self, state: State) -> bool:
        return state.log_first < min(self._bound.expiries, state.log_next)

    def _may_come(self, state: State) -> bool:
        return state.log_next < len(self._messages)

    def _is_local(self, state: State, operation: Operation[Any]) -> bool:
        match operation:
            case Get(key) | PutIfAbsent(key, _):
                return key in self._stores[state.store] and not key.endswith("/_head")
            case Read() | Bounds():
                return not self._may_expire(state) and not self._may_come(state)
        return isinstance(operation, Commit)

    def _after(self, state: State, who: int, what: str) -> State:
        match what:
            case "10 minutes pass":
                return state._replace(clock_us=state.clock_us + JUMP_US)
            case "a message expires":
                return state._replace(log_first=state.log_first + 1)
            case "a message comes":
                return state._replace(log_next=state.log_next + 1)
        writer, local = self._writers[who], state.locals[who]
        operation = writer.locals[local].pending
        assert operation is not None
        store, faults = state.store, state.faults - 1
        match what:
            case "":
                store, answer = self._on_shared(state, operation)
                local, faults = writer.after(local, answer, state.clock_us), state.faults
            case "fails":
                local = writer.after(local, _failure(operation), state.clock_us)
            case "loses the answer":
                store, _ = self._on_shared(state, operation)
                local = writer.after(local, _failure(operation), state.clock_us)
            case _:
                local = writer.initial(state.clock_us)
        locals_ = (*state.locals[:who], local, *state.locals[who + 1 :])
        return State(store, state.log_first, state.log_next, state.clock_us, faults, locals_)

    def _on_shared(self, state: State, operation: Operation[Any]) -> tuple[int, Answer]:
        """Perform on the store or the log: the store after it, and the answer."""
        store = self._stores[state.store]
        match operation:
            case PutIfAbsent(key, body):
                if key in store:
                    return state.store, ("exists",)
                return self._put(state.store, key, body), None
            case Put(key, body):
                return self._put(state.store, key, body), None
            case Commit(next_offset):
                if next_offset > finished_up_to(store):
                    raise Violation(f"committed {next_offset}, but the lake reaches {finished_up_to(store)}")
                return state.store, None
        return state.store, self._look(store, state.log_first, state.log_next, operation)

    def _look(self, store: Store, log_first: int, log_next: int, operation: Operation[Any]) -> Answer:
        match operation:
            case Get(key):
                return store.get(key, ("missing",))
            case List(prefix, start_after, limit):
                return tuple(sorted(k for k in store if k.startswith(prefix) and k > start_after)[:limit])
            case Bounds():
                return (log_first, log_next)
            case Read(first, stop_before, _, max_bytes):
                if first < log_first:
                    return ("lost", first, log_first)
                return self._read(first, log_next if stop_before is None else min(stop_before, log_next), max_bytes)
        raise TypeError(f"no such operation: {operation!r}")

    def _read(self, first: int, end: int, max_bytes: int) -> Fetched:
        taken: list[Message] = []
        room = max_bytes
        for message in self._messages[first:end]:
            if taken and len(message.value) > room:
                break
            taken.append(message)
            room -= len(message.value)
        return Fetched(tuple(taken), first + len(taken))

    def _put(self, store_id: int, key: str, body: bytes) -> int:
        move = (store_id, key, body)
        if move not in self._puts:
            store = self._stores[store_id]
            if store.get(key, body) != body and not key.endswith("/_head"):
                raise Violation(f"{key} was overwritten with other content")
            self._puts[move] = self._known({**store, key: body})
        return self._puts[move]

    def _known(self, store: Store) -> int:
        picture = frozenset(store.items())
        if picture not in self._store_ids:
            self._check(store)
            self._store_ids[picture] = len(self._stores)
            self._stores.append(store)
        return self._store_ids[picture]

    def _recover(self, state: State) -> None:
        """Should everyone die here, one new writer alone must bring everything to its end."""
        where = (state.store, state.log_first, state.log_next)
        if where in self._recovered:
            return
        self._recovered.add(where)
        local = self._recoverer.initial(0)
        while (operation := self._recoverer.locals[local].pending) is not None:
            try:
                store, answer = self._on_shared(state, operation)
                local = self._recoverer.after(local, answer, 0)
            except Violation:
                raise
            except Exception as error:
                raise Violation(f"a new writer cannot go on from here: {error!r}") from error
            state = state._replace(store=store)
            self._recovered.add((store, state.log_first, state.log_next))
        self._check_end(self._stores[state.store], state.log_first, state.log_next)

    def _way(self, seen: dict[State, Way], state: State, last: Step | None) -> list[str]:
        """What happened, from the start up to this state and the step that was taken from it."""
        names = [] if last is None else [self._name(state, *last)]
        while (before := seen[state]) is not None:
            state, step = before
            names.append(self._name(state, *step))
        return names[::-1]

    def _name(self, state: State, who: int, what: str) -> str:
        if who < 0:
            return what
        operation = self._writers[who].locals[state.locals[who]].pending
        subject = getattr(operation, "key", None) or getattr(operation, "prefix", None) or operation
        return f"{'ABC'[who]} {what}: {type(operation).__name__} {subject}"


def _failure(operation: Operation[Any]) -> Answer:
    return ("log error",) if isinstance(operation, Read | Bounds | Commit) else ("unavailable",)
