"""docs/schema.md, made from the table definitions and the wire schema.

python -m schemas.reference            write docs/schema.md
python -m schemas.reference --check    exit 1 where it is not what would be written
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schemas.table import Table
from schemas.tables import TABLES
from schemas.wire import CURRENT

PAGE = Path(__file__).parents[1] / "docs" / "schema.md"

INTRODUCTION = """# Schema reference

Made by `python -m schemas.reference` from `schemas/*.py` and `schemas/avro/FlowBatch.avsc`: edit those.

## The lake

Every table lies in `<lake>/<table>/date=YYYY-MM-DD/hour=HH/`; `date` and `hour` are strings, in UTC, and columns to
every engine. Times are microseconds UTC. Tables grow by columns at their end; none is ever renamed.
"""

TOPIC = """## The topic `flowlake.flows.v1`

Key: the host id. Value: Avro single-object encoding, that is `C3 01`, the schema's CRC-64-AVRO fingerprint (little
endian), and one `FlowBatch`. The current fingerprint is `{fingerprint}`. The spool holds the same bytes.
"""

MEANINGS = {
    "Role": {
        "unknown": "neither end is known to have asked",
        "client": "the local end connected",
        "server": "the local end accepted",
    },
    "WorkloadKind": {
        "pod": "a Kubernetes pod",
        "container": "a container outside Kubernetes",
        "unit": "a systemd unit",
        "process": "a process that is in none of them",
    },
    "OwnerSource": {
        "unknown": "the owner is not known",
        "listener": "inherited from the listener: no reader or closer was seen yet",
        "iterator": "found among a process's open files when the probe began",
        "connect": "the process that called connect",
        "read": "the first process that read from the socket",
        "close": "the process that closed the socket",
    },
    "CloseReason": {
        "open": "not a final record",
        "closed_local": "in order; this host sent its FIN first",
        "closed_remote": "in order; the peer sent its FIN first",
        "closed_both": "in order; the FINs crossed",
        "reset_local": "this end reset it",
        "reset_remote": "the peer reset it",
        "refused": "the peer answered the SYN with a refusal",
        "connect_timeout": "nothing answered the SYN",
        "unreachable": "a router or this host said that there is no way",
        "abandoned": "the application closed it before it was established",
        "not_sent": "not even a SYN left the host",
        "timed_out": "established, then the peer stopped answering",
        "half_open": "the client never completed the handshake",
        "aborted": "by an administrator",
        "unknown": "no rule fits",
    },
    "CloseDetail": {
        "none": "there is no finer reason; null in the lake",
        "reset": "by an RST",
        "icmp": "by an ICMP message",
        "retransmission": "data was sent again until the kernel gave up",
        "keepalive": "keepalive probes were not answered",
        "user_timeout": "TCP_USER_TIMEOUT ran out",
        "zero_window": "probes of a closed window were not answered",
        "unread_data": "closed with data unread",
        "linger": "closed with SO_LINGER 0, or disconnected",
        "never_accepted": "the listener was closed while it waited in the accept queue",
        "host_unreachable": "EHOSTUNREACH and its like",
        "net_unreachable": "ENETUNREACH",
        "prohibited": "administratively prohibited",
        "orphan": "the kernel killed it after its process had closed it",
        "no_port": "no local port was free",
        "fin_unacked": "our last FIN was never acknowledged",
        "other": "none of these",
    },
}
"""What the symbols of the wire's enums say. TcpState is the kernel's own."""


def reference() -> str:
    """The whole page."""
    parts = [INTRODUCTION, *(_table(table) for table in TABLES.values())]
    parts.append(TOPIC.format(fingerprint=CURRENT.fingerprint.hex()))
    records: list[dict[str, Any]] = []
    enums: list[dict[str, Any]] = []
    _collect(CURRENT.document, records, enums)
    parts += [_record(record) for record in records]
    parts.append("## Enums\n\nOn the wire a symbol is its place in this order, from 0; symbols are only ever added.\n")
    parts += [_enum(enum) for enum in enums]
    return "\n".join(parts)


def _table(table: Table) -> str:
    rows = (
        (f"`{column.name}`", f"{column.type}{', null' if column.nullable else ''}", column.meaning)
        for column in table.columns
    )
    partition = f"Partitioned by the UTC date and hour of `{table.partition_time}`."
    return f"### Table `{table.name}`\n\n{table.meaning}\n{partition}\n\n{_rows(('column', 'type', 'meaning'), rows)}"


def _record(record: dict[str, Any]) -> str:
    rows = ((f"`{field['name']}`", _type_name(field["type"]), field.get("doc", "")) for field in record["fields"])
    doc = f"{record['doc']}\n\n" if "doc" in record else ""
    return f"### Record `{record['name']}`\n\n{doc}{_rows(('field', 'type', 'meaning'), rows)}"


def _enum(enum: dict[str, Any]) -> str:
    if enum["name"] not in MEANINGS:
        symbols = ", ".join(f"`{symbol}`" for symbol in enum["symbols"])
        return f"### Enum `{enum['name']}`\n\n{enum['doc']}: {symbols}.\n"
    meanings = MEANINGS[enum["name"]]
    rows = ((str(code), f"`{symbol}`", meanings[symbol]) for code, symbol in enumerate(enum["symbols"]))
    return f"### Enum `{enum['name']}`\n\n{_rows(('code', 'symbol', 'meaning'), rows)}"


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _type_name(schema: Any) -> str:
    if isinstance(schema, list):
        return ", ".join(_type_name(branch) for branch in schema if branch != "null") + ", null"
    if isinstance(schema, str):
        return schema
    match schema["type"]:
        case "array":
            return f"array of {_type_name(schema['items'])}"
        case "map":
            return f"map of {_type_name(schema['values'])}"
        case "record" | "enum":
            return str(schema["name"])
        case "fixed":
            return f"{schema['name']} ({schema['size']} bytes)"
        case simple:
            return str(schema.get("logicalType", simple))


def _collect(schema: Any, records: list[dict[str, Any]], enums: list[dict[str, Any]]) -> None:
    """Every record and enum of the schema, in the order in which it defines them."""
    if isinstance(schema, list):
        for branch in schema:
            _collect(branch, records, enums)
    elif isinstance(schema, dict):
        if schema["type"] == "record":
            records.append(schema)
            for field in schema["fields"]:
                _collect(field["type"], records, enums)
        elif schema["type"] == "enum":
            enums.append(schema)
        _collect(schema.get("items"), records, enums)


def main(arguments: list[str]) -> int:
    """Write the page or check it; 1 where the check fails."""
    page = reference()
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page:
            return 0
        print("docs/schema.md is stale: run python -m schemas.reference", file=sys.stderr)
        return 1
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
