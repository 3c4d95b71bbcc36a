"""The chain of one partition's ranges: where it begins, where its tip is (steps 1 and 2 of docs/exactly-once.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from enricher.dedupe import DedupeState
from enricher.operations import Bounds, Finished, Get, List, PutIfAbsent, Steps
from enricher.rows import FLOWS
from lake.ranges import (
    LAKE_KEY,
    RANGES_PREFIX,
    ChainKeys,
    Done,
    Genesis,
    Head,
    Intent,
    LakeError,
    LakeFile,
    RunState,
    log_hash,
)
from lake.store import ObjectExists, ObjectMissing
from settings.errors import FlowlakeError
from transport.log import LogIdentity

LIST_PAGE = 10_000


class PartitionStopped(FlowlakeError):
    """This partition cannot go on without someone's decision; the others can. One line that says why."""


@dataclass(frozen=True, slots=True)
class Tip:
    """The end of the chain: everything below `next` is finished, and `state` is what is known of the runs by then."""

    index: int  # of the range that begins at `next`
    next: int
    state: DedupeState
    unfinished: Intent | None = None  # the range that begins at `next`, where someone has begun it

    def after(self, done: Done) -> Tip:
        """The tip once the range that begins here is finished."""
        if (done.index, done.first) != (self.index, self.next):
            raise LakeError(
                f"the chain of ranges is damaged: range {self.index} should begin at offset {self.next}, "
                f"found range {done.index} at {done.first}; was an object of _ranges/ copied or removed?"
            )
        state = DedupeState(done.runs) if done.full else self.state.apply(done.runs)
        return Tip(done.index + 1, done.next, state)


def open_lake(new_uuid: str) -> Steps[LakeFile]:
    """The lake's own description, created where there is none. Raises LakeError where we may not write."""
    try:
        body = yield from Get(LAKE_KEY)
    except ObjectMissing:
        body = LakeFile(new_uuid).to_json()
        try:
            yield from PutIfAbsent(LAKE_KEY, body)
        except ObjectExists:
            body = yield from Get(LAKE_KEY)
    lake = LakeFile.from_json(body)
    lake.check()
    return lake


def open_chain(identity: LogIdentity, full_every: int) -> Steps[tuple[ChainKeys, Genesis]]:
    """The chain of this log's partition, begun where there is none."""
    keys = ChainKeys(log_hash(identity.kind, identity.uuid), identity.partition)
    try:
        body = yield from Get(keys.genesis)
    except ObjectMissing:
        body = yield from _begin_chain(keys, identity, full_every)
    genesis = Genesis.from_json(body)
    if (genesis.kind, genesis.uuid, genesis.partition) != (identity.kind, identity.uuid, identity.partition):
        raise PartitionStopped(f"{keys.genesis} is about another log ({genesis.kind} {genesis.uuid}); use another lake")
    return keys, genesis


def _begin_chain(keys: ChainKeys, identity: LogIdentity, full_every: int) -> Steps[bytes]:
    leftover = yield from _anything_of_this_log(keys)
    if leftover is not None:
        try:  # the other one may have begun the chain, and more, since we looked
            return (yield from Get(keys.genesis))
        except ObjectMissing:
            raise PartitionStopped(
                f"the lake holds {leftover}, but no {keys.genesis}: where that log was read up to is lost. "
                "Put the object back from a copy, or use another lake"
            ) from None
    predecessors, runs = yield from _predecessors(keys, identity, full_every)
    first, _ = yield from Bounds()
    genesis = Genesis(identity.kind, identity.name, identity.uuid, identity.partition, first, predecessors, runs)
    try:
        yield from PutIfAbsent(keys.genesis, genesis.to_json())
    except ObjectExists:
        return (yield from Get(keys.genesis))
    return genesis.to_json()


def _anything_of_this_log(keys: ChainKeys) -> Steps[str | None]:
    """A key that only a writer of this chain can have made, or None. Lists the whole table: once in a log's life."""
    for key in (yield from List(keys.prefix, limit=1)):
        return key
    name = f"/{keys.log}-{keys.partition}-"
    start_after = ""
    while page := (yield from List(f"{FLOWS}/", start_after, LIST_PAGE)):
        for key in page:
            if name in key:
                return key
        start_after = page[-1]
    return None


def _predecessors(
    keys: ChainKeys, identity: LogIdentity, full_every: int
) -> Steps[tuple[tuple[str, ...], dict[str, RunState]]]:
    """The other logs that people called the same, and what their chains know of the runs.

    A range that was begun and not finished counts as accepted: some of its rows may be there. All their partitions are
    asked, since a host may be on another partition of the new log.
    """
    logs: set[str] = set()
    runs: dict[str, RunState] = {}
    for other in (yield from _chains()):
        if other.log == keys.log:
            continue
        try:
            genesis = Genesis.from_json((yield from Get(other.genesis)))
        except ObjectMissing:
            continue
        if (genesis.kind, genesis.name) != (identity.kind, identity.name):
            continue
        tip = yield from find_tip(other, (yield from last_full(other, genesis, full_every)), told=False)
        state = tip.state if tip.unfinished is None else tip.state.apply(tip.unfinished.outcome.runs)
        logs.add(other.log)
        for run_id, run in state.runs.items():
            if run_id not in runs or runs[run_id].watermark < run.watermark:
                runs[run_id] = run
    return tuple(sorted(logs)), runs


def _chains() -> Steps[list[ChainKeys]]:
    """Every chain of the lake, one List for each: from the first key of one straight past its last."""
    chains: list[ChainKeys] = []
    start_after = RANGES_PREFIX
    while page := (yield from List(RANGES_PREFIX, start_after, 1)):
        log, _, rest = page[0].removeprefix(RANGES_PREFIX).partition("/")
        partition, slash, _ = rest.partition("/")
        if not (slash and partition.isdigit()):
            start_after = page[0]  # not a writer's; nobody's business here
            continue
        chains.append(ChainKeys(log, int(partition)))
        start_after = chains[-1].prefix.removesuffix("/") + "0"  # "0" is the character after "/"
    return chains


def last_full(keys: ChainKeys, genesis: Genesis, full_every: int) -> Steps[Tip]:
    """The tip as of the last done that holds the whole dedupe state, or as of the genesis.

    `_head` says where to start listing. It is a hint: a wrong one costs time, nothing else.
    """
    base = Tip(0, genesis.first, DedupeState(genesis.runs))
    hinted = yield from _hinted(keys)
    if hinted is None:
        listed_from, index = keys.prefix, 0
    else:
        base = Tip(hinted.index, hinted.first, base.state).after(hinted)
        listed_from, index = keys.intent(hinted.first), hinted.index + 1
    firsts = [keys.first_of_done(key) for key in (yield from List(keys.prefix, listed_from))]
    finished = [first for first in firsts if first is not None]
    last = (index + len(finished) - 1) // full_every * full_every - index
    if last < 0:
        return base
    done = yield from _full_done(keys, finished[last])
    return base if done is None else Tip(done.index, done.first, base.state).after(done)


def _hinted(keys: ChainKeys) -> Steps[Done | None]:
    try:
        head = Head.from_json((yield from Get(keys.head)))
    except (ObjectMissing, LakeError):
        return None
    return (yield from _full_done(keys, head.first))


def _full_done(keys: ChainKeys, first: int) -> Steps[Done | None]:
    try:
        done = Done.from_json((yield from Get(keys.done(first))))
    except ObjectMissing:
        return None
    return done if done.full else None


def find_tip(keys: ChainKeys, tip: Tip, *, told: bool) -> Steps[Tip]:
    """Walk on from a tip that was one, along the objects themselves: a listing may miss what is made meanwhile.

    told: whether the ranges walked over are news to this process, to be told as Finished (each once, so at the end).
    """
    news: list[Done] = []
    while True:
        try:
            done = Done.from_json((yield from Get(keys.done(tip.next))))
        except ObjectMissing:
            break
        tip = tip.after(done)
        news.append(done)
    try:
        tip = replace(tip, unfinished=Intent.from_json((yield from Get(keys.intent(tip.next)))))
    except ObjectMissing:
        tip = replace(tip, unfinished=None)
    for done in news if told else ():
        yield from Finished(done)
    return tip
