"""Exactly once: the protocol for one partition of a log (docs/exactly-once.md, whose numbers stand in the comments).

From messages with offsets to files in the lake: no row twice, none missing, whatever dies, pauses, repeats or lies
about having failed. Any number of enrichers may run it for the same partition at once; that wastes work, nothing
else. What makes it so: every object is created if absent, an intent pins all that decides the objects of its range, and
after an error nothing is believed but what the lake then says.
"""

from __future__ import annotations

from typing import TypeVar

from enricher.chain import Tip, find_tip, last_full, open_chain, open_lake
from enricher.gather import Gatherer
from enricher.operations import Buffered, Commit, Finished, Now, Steps, Stop, Wait, Warn
from enricher.range_writer import GoToStep2, PartitionConfig, RangeWriter
from enricher.rows import RowMaker
from lake.store import StoreUnavailable
from transport.log import LogError, LogIdentity

D = TypeVar("D")


def partition(identity: LogIdentity, rows: RowMaker[D], config: PartitionConfig, new_lake_uuid: str) -> Steps[None]:
    """Write the partition into the lake until asked to stop.

    new_lake_uuid: of the lake, should this be the first writer ever.
    Raises PartitionStopped, LakeError, or a StoreError that will not pass by itself.
    """
    gatherer = Gatherer(config.gather)
    writer: RangeWriter[D] | None = None
    tip: Tip | None = None
    failures = 0
    while True:
        yield from Buffered(0)
        try:
            if writer is None:
                # 1. Resolve the log; create genesis.
                yield from open_lake(new_lake_uuid)
                keys, genesis = yield from open_chain(identity, config.full_state_every)
                writer = RangeWriter(keys, rows, config)

            if tip is None:
                # 2. Find the tip of the chain by listing after `_head`.
                yield from writer.verify()
                known = yield from last_full(keys, genesis, config.full_state_every)
                tip = yield from find_tip(keys, known, told=False)
                yield from Commit(tip.next)  # the hint that a process owes which died before it gave it
            elif not writer.verified:
                # 2. Find it again, from where it was.
                yield from writer.verify()
                tip = yield from find_tip(keys, tip, told=True)

            if tip.unfinished is not None:
                # 3. Tip without done: adopt it.
                begun = yield from writer.adopt(tip, tip.unfinished)
            else:
                # 4. Read settled messages from tip.next.
                contents = yield from gatherer.next_range(tip.next)
                if contents is None:
                    return
                # 5. Create the intent.
                begun = yield from writer.begin(tip, contents)
                del contents

            # 6. to 9. Rows, files, rejected messages, done.
            done = yield from writer.finish(tip, begun)
            del begun
            tip = tip.after(done)
            yield from Finished(done)
            failures = 0

            # 9. The hints: where to start listing, and what the log may let go.
            if done.full:
                yield from writer.hint(done)
            yield from Commit(tip.next)

        except GoToStep2:
            # 10. Someone was first, or the tip was not verified for too long.
            if writer is not None:
                writer.doubt()
        except (StoreUnavailable, LogError) as error:
            # It may or may not have happened: the lake will tell.
            if writer is not None:
                writer.doubt()
            if (yield from Now()).stop is Stop.NOW:
                return
            yield from Warn(f"{error}; trying again")
            yield from Wait(min(config.first_backoff_seconds * 2.0**failures, config.last_backoff_seconds))
            failures = min(failures + 1, 16)
