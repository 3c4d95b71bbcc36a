"""What must hold of a lake after every operation, and once everyone has come to an end. Reads objects, not the code."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from protocol_model import Store
from protocol_writer import Violation
from toy_rows import edges_of, rows_of

from lake.layout import parse_file_key
from transport.log import Message


def _objects(store: Store, suffix: str) -> list[Any]:
    """The JSON objects of the one chain in the store, by first offset."""
    return [json.loads(body) for key, body in sorted(store.items()) if key.endswith(suffix)]


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)


def check_always(store: Store) -> None:
    """Everything that a reader relies on, at any moment."""
    intents, dones = _objects(store, ".range.json"), _objects(store, ".done.json")
    chain = _objects(store, "genesis.json")
    position = chain[0]["first"] if chain else None
    for index, intent in enumerate(intents):
        _demand(intent["first"] == position and intent["index"] == index, f"the chain has a hole before {intent}")
        position = intent["next"]
    finished = [(done["index"], done["first"], done["next"]) for done in dones]
    begun = [(intent["index"], intent["first"], intent["next"]) for intent in intents]
    _demand(finished in (begun, begun[:-1]), f"not only the tip lacks its done: {begun}, {finished}")

    rows = Counter(row for key, body in store.items() if key[:6] == "flows/" for _, row in json.loads(body)["rows"])
    _demand(not rows or max(rows.values()) == 1, f"rows twice: {rows.most_common(3)}")

    pinned = {key for intent in intents for key in intent["outcome"]["keys"]}
    files = {key for key in store if parse_file_key(key) is not None}
    _demand(files <= pinned, f"files that no intent knows: {files - pinned}")
    for intent, done in zip(intents, dones, strict=False):
        listed = {entry["key"]: entry for entry in done["files"]}
        _demand(set(listed) == set(intent["outcome"]["keys"]), f"done lists other files than its intent: {done}")
        _demand(set(listed) <= files, f"a range is done without its files: {set(listed) - files}")
        for key, entry in listed.items():
            identity = json.loads(store[key])["identity"]
            _demand((identity["rows"], identity["digest"]) == (entry["rows"], entry["digest"]), f"done lies of {key}")
        written = sum(len(json.loads(store[key])["rows"]) for key in listed if key.startswith("flows/"))
        accepted = intent["outcome"]["accepted_records"]
        _demand(done["written_records"] == written, f"done counts other rows than are stored: {done}")
        _demand(
            accepted == written + done["expired_records"] and done["expired_records"] >= 0, f"not conserved: {done}"
        )

    for key in files:
        if key.startswith("edges/"):
            flows = store.get(key.replace("edges/", "flows/"))
            _demand(flows is not None, f"{key} was derived before its flows were there")
            _demand(
                dict(json.loads(store[key])["rows"]) == edges_of([flows or b""]), f"{key} is not the sum of its flows"
            )


def check_end(store: Store, messages: Sequence[Message], log_first: int, log_next: int) -> None:
    """Everything is written or accounted for. messages: all that were ever in the log, by offset."""
    intents, dones = _objects(store, ".range.json"), _objects(store, ".done.json")
    _demand(len(intents) == len(dones), "a range was left unfinished")
    _demand(not intents or intents[-1]["next"] == log_next, f"not read to the end: {intents[-1:]}")
    _demand(bool(intents) or log_next == 0, "nothing was written")

    rows = {row for key, body in store.items() if key[:6] == "flows/" for _, row in json.loads(body)["rows"]}
    accepted: set[str] = set()
    lost_unread: set[str] = set()
    for intent in intents:
        for message in messages[intent["first"] : intent["next"]]:
            into = lost_unread if intent["gap"] else accepted
            into.update(row for _, row in rows_of(message.value))
    expired = sum(done["expired_records"] for done in dones)
    _demand(rows <= accepted, f"rows of nowhere: {rows - accepted}")
    _demand(len(accepted - rows) == expired, f"{accepted - rows} are missing, but {expired} are accounted as expired")
    if log_first == 0:
        _demand(not lost_unread and not expired, "something was lost though nothing expired")
