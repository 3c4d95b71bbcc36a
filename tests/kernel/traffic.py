"""Plans of TCP connections, the generator in C that makes them, and the truth about both ends as numpy arrays.

A plan names sizes and endings; `run_traffic` makes it happen in a network namespace of its own; `Truth.ends()` is what
the probe, the lake, anyone must say about each end. Ports are dealt out so that no tuple repeats within a plan.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from kernel.namespaces import Namespace, namespace, run
from numpy.typing import NDArray

from sidecar.close_reason import CloseReason
from sidecar.probe.abi import Role

DIRECTORY = Path(__file__).parent / "traffic"


class Ending(IntEnum):
    """enum ending of traffic.c, where each is explained."""

    CLIENT_CLOSES = 0
    CLIENT_SHUTS = 1
    SERVER_CLOSES = 2
    SERVER_SHUTS = 3
    CLIENT_STUCK = 4
    SERVER_STUCK = 5
    CLIENT_RESETS = 6
    SERVER_RESETS = 7
    CLIENT_UNREAD = 8
    SERVER_UNREAD = 9
    REFUSED = 10
    ABANDONED = 11


class Family(IntEnum):
    IPV4 = 0
    IPV6 = 1
    MAPPED = 2


# What the client's and the server's end say about each ending; None: there is no such end.
REASONS: dict[Ending, tuple[CloseReason, CloseReason | None]] = {
    Ending.CLIENT_CLOSES: (CloseReason.CLOSED_LOCAL, CloseReason.CLOSED_REMOTE),
    Ending.CLIENT_SHUTS: (CloseReason.CLOSED_LOCAL, CloseReason.CLOSED_REMOTE),
    Ending.SERVER_CLOSES: (CloseReason.CLOSED_REMOTE, CloseReason.CLOSED_LOCAL),
    Ending.SERVER_SHUTS: (CloseReason.CLOSED_REMOTE, CloseReason.CLOSED_LOCAL),
    Ending.CLIENT_STUCK: (CloseReason.CLOSED_BOTH, CloseReason.CLOSED_LOCAL),
    Ending.SERVER_STUCK: (CloseReason.CLOSED_LOCAL, CloseReason.CLOSED_BOTH),
    Ending.CLIENT_RESETS: (CloseReason.RESET_LOCAL, CloseReason.RESET_REMOTE),
    Ending.SERVER_RESETS: (CloseReason.RESET_REMOTE, CloseReason.RESET_LOCAL),
    Ending.CLIENT_UNREAD: (CloseReason.RESET_LOCAL, CloseReason.RESET_REMOTE),
    Ending.SERVER_UNREAD: (CloseReason.RESET_REMOTE, CloseReason.RESET_LOCAL),
    Ending.REFUSED: (CloseReason.REFUSED, None),
    Ending.ABANDONED: (CloseReason.ABANDONED, None),
}
ORDERLY = (Ending.CLIENT_CLOSES, Ending.CLIENT_SHUTS, Ending.SERVER_CLOSES, Ending.SERVER_SHUTS)
STUCK = (Ending.CLIENT_STUCK, Ending.SERVER_STUCK)
UNANSWERED = (Ending.REFUSED, Ending.ABANDONED)

ADDRESS = ("u1", (16,))
PLAN = np.dtype(
    [("client_address", *ADDRESS), ("server_address", *ADDRESS), ("client_port", "u2"), ("server_port", "u2"),
     ("family", "u1"), ("ending", "u1"), ("rounds", "u2"), ("up", "u4"), ("down", "u4"), ("extra", "u4")]
)  # fmt: skip
END = np.dtype([("sent", "u8"), ("received", "u8"), ("error", "i4"), ("pid", "u4"), ("finished", "u4"), ("pad", "u4")])
TRUTH = np.dtype([("client", END), ("server", END)])

# One row per end: what a record of that end must say. comm is the name of the process.
EXPECTED = np.dtype(
    [("connection", "u4"), ("role", "u1"), ("local_address", *ADDRESS), ("remote_address", *ADDRESS),
     ("local_port", "u2"), ("remote_port", "u2"), ("bytes_sent", "u8"), ("bytes_received", "u8"),
     ("bytes_unread", "u8"), ("close_reason", "u1"), ("pid", "u4"), ("comm", "S16")]
)  # fmt: skip

PORTS_PER_LISTENER = 50_000
FIRST_CLIENT_PORT = 10_000
FIRST_SERVER_PORT = 2_000
REFUSING_PORT, SILENT_PORT = 1_001, 1_002  # both times 8: more than one, since each serves 50,000 client ports
ADDRESSES: Mapping[Family, tuple[str, str]] = {  # of the client, of the server
    Family.IPV4: ("127.0.0.1", "127.0.0.1"),
    Family.IPV6: ("::1", "::1"),
    Family.MAPPED: ("::ffff:127.0.0.2", "::ffff:127.0.0.3"),
}


@dataclass(frozen=True)
class Truth:
    """plan: shape (n,), dtype PLAN. client, server: shape (n,), dtype END; zeros where there was no such end."""

    plan: NDArray[np.void]
    client: NDArray[np.void]
    server: NDArray[np.void]
    seconds: float

    def ends(self) -> NDArray[np.void]:
        """Each end of each connection, dtype EXPECTED, sorted by connection and role."""
        client = self._end(Role.CLIENT, self.client, ("client", "server"), Ending.CLIENT_UNREAD, b"fl-client")
        server = self._end(Role.SERVER, self.server, ("server", "client"), Ending.SERVER_UNREAD, b"fl-server")
        server = server[~np.isin(self.plan["ending"], UNANSWERED)]
        both = np.concatenate([client, server])
        return both[np.lexsort((both["role"], both["connection"]))]

    def _end(
        self, role: Role, end: NDArray[np.void], sides: tuple[str, str], leaves_unread: Ending, comm: bytes
    ) -> NDArray[np.void]:
        plan = self.plan
        rows = np.zeros(len(plan), EXPECTED)
        rows["connection"] = np.arange(len(plan))
        rows["role"] = role
        for side, name in zip(sides, ("local", "remote"), strict=True):
            rows[f"{name}_address"] = plan[f"{side}_address"]
            rows[f"{name}_port"] = plan[f"{side}_port"]
        rows["bytes_sent"] = end["sent"]
        rows["bytes_unread"] = np.where(plan["ending"] == leaves_unread, plan["extra"], 0)
        rows["bytes_received"] = end["received"] + rows["bytes_unread"]
        reasons = np.zeros(len(Ending), np.uint8)
        for ending, of_ends in REASONS.items():
            reasons[ending] = of_ends[role == Role.SERVER] or CloseReason.OPEN
        rows["close_reason"] = reasons[plan["ending"]]
        rows["pid"] = end["pid"]
        rows["comm"] = comm
        return rows


def plan(
    ending: NDArray[np.integer] | Ending,
    count: int,
    *,
    family: NDArray[np.integer] | Family = Family.IPV4,
    rounds: NDArray[np.integer] | int = 1,
    up: NDArray[np.integer] | int = 100,
    down: NDArray[np.integer] | int = 100,
    extra: NDArray[np.integer] | int = 100,
) -> NDArray[np.void]:
    """`count` connections; each argument is one value for all or one per connection. Deals out addresses and ports."""
    made = np.zeros(count, PLAN)
    for name, values in {"ending": ending, "rounds": rounds, "up": up, "down": down, "extra": extra}.items():
        made[name] = values
    made["extra"][np.isin(made["ending"], STUCK)] += 1 << 17  # more than a receiver takes that does not read
    unread = np.isin(made["ending"], (Ending.CLIENT_UNREAD, Ending.SERVER_UNREAD))
    made["extra"][unread] = np.minimum(made["extra"][unread], 4_000)  # what one surely takes that does not read
    # A client's last bytes are only surely acknowledged by the server's answer to them.
    silent_reset = (made["ending"] == Ending.CLIENT_RESETS) & (made["down"] == 0)
    made["up"][silent_reset] = 0
    families = np.broadcast_to(np.asarray(family), count)
    made["family"] = np.where(families == Family.IPV4, 4, 6)
    for number, (client_address, server_address) in ADDRESSES.items():
        of_family = families == number
        made["client_address"][of_family] = packed(client_address)
        made["server_address"][of_family] = packed(server_address)
        for unanswered, first_port, step in (
            (made["ending"] == Ending.REFUSED, REFUSING_PORT, 2),
            (made["ending"] == Ending.ABANDONED, SILENT_PORT, 2),
            (~np.isin(made["ending"], UNANSWERED), FIRST_SERVER_PORT, 1),
        ):
            chosen = np.flatnonzero(of_family & unanswered)
            nth = np.arange(len(chosen))
            made["client_port"][chosen] = FIRST_CLIENT_PORT + nth % PORTS_PER_LISTENER
            made["server_port"][chosen] = first_port + step * (nth // PORTS_PER_LISTENER)
    return made


def random_plan(seed: int, count: int, endings: tuple[Ending, ...] = tuple(Ending)) -> NDArray[np.void]:
    """Connections of every ending and family with sizes from nothing to 100 kB, mostly small."""
    random = np.random.default_rng(seed)
    # A stuck end has to fill the other's receive buffer first: few of them, they are large.
    weights = np.array([0.2 if ending in STUCK else 1.0 for ending in endings])

    def sizes() -> NDArray[np.integer]:
        return np.floor(np.exp(random.uniform(0, np.log(100_000), count)) - 1).astype(np.uint32)

    return plan(
        random.choice(np.array(endings), count, p=weights / weights.sum()),
        count,
        family=random.integers(0, len(Family), count),
        rounds=random.integers(0, 4, count),
        up=sizes(),
        down=sizes(),
        extra=sizes() + 1,
    )


def by_connection(rows: NDArray[np.void]) -> NDArray[np.intp]:
    """The order that sorts ends of connections, expected or recorded, by their tuples: both then stand side by side."""
    addresses = [np.ascontiguousarray(rows[name]).view(">u8") for name in ("local_address", "remote_address")]
    return np.lexsort((*addresses[0].T, *addresses[1].T, rows["remote_port"], rows["local_port"]))


def told(said: NDArray[np.void], ends: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which of the true ends have a row in what was said. Shape (len(ends),)."""
    seen = set(_tuples(said))
    return np.array([key in seen for key in _tuples(ends)], np.bool_)


def _tuples(rows: NDArray[np.void]) -> list[bytes]:
    """Both addresses and ports of each row, as 36 bytes."""
    ports = np.stack([rows["local_port"], rows["remote_port"]], axis=1).astype("<u2").view("u1").reshape(len(rows), 4)
    joined = np.concatenate([rows["local_address"], rows["remote_address"], ports], axis=1)
    return [row.tobytes() for row in joined]


def packed(address: str) -> NDArray[np.uint8]:
    """The 16 bytes of an address, IPv4 mapped into IPv6."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        parsed = ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + parsed.packed)
    return np.frombuffer(parsed.packed, np.uint8)


@contextmanager
def traffic_namespace() -> Iterator[Namespace]:
    """A namespace in which the generator's plans come true: silent ports stay silent, queues are long enough."""
    with namespace() as made:
        made.sysctl(tcp_max_syn_backlog=65536, ip_local_port_range="62000 65000")
        with made.entered():
            Path("/proc/sys/net/core/somaxconn").write_text("65535")
        silent = ", ".join(str(SILENT_PORT + 2 * n) for n in range(8))
        made.nft(f"tcp dport {{ {silent} }} drop")
        yield made


class Traffic:
    """A generator under way in a namespace; `finish` waits for it and reads the truth."""

    def __init__(self, where: Namespace, wanted: NDArray[np.void], *options: str) -> None:
        self._plan = wanted
        self._directory = tempfile.TemporaryDirectory(prefix="flowlake-traffic-")
        self._truth_path = Path(self._directory.name) / "truth"
        plan_path = Path(self._directory.name) / "plan"
        wanted.tofile(plan_path)
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", where.name, generator(), plan_path, self._truth_path, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._directory.cleanup()

    def wait_until_held(self) -> None:
        """Returns once every connection of a plan run with --hold rests before its ending."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == "held\n", f"the generator said {line!r} {self._process.communicate()[1]}"

    def release(self) -> None:
        """Let the held connections end."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def running(self) -> bool:
        return self._process.poll() is None

    def finish(self, meanwhile: Callable[[], object] = lambda: None, every_seconds: float = 0.01) -> Truth:
        """The truth, once all has happened as planned; fails where it did not.

        meanwhile: called again and again until then, to drain a probe for instance.
        """
        while self.running():
            meanwhile()
            time.sleep(every_seconds)
        printed, complaint = self._process.communicate()
        assert self._process.returncode == 0, complaint
        truth = np.fromfile(self._truth_path, TRUTH)
        answered = ~np.isin(self._plan["ending"], UNANSWERED)
        unplanned = (truth["client"]["finished"] == 0) | (answered & (truth["server"]["finished"] == 0))
        assert not unplanned.any(), f"not as planned: {self._plan[unplanned][:3]} {truth[unplanned][:3]}"
        seconds = int(printed.split()[-1]) / 1e9
        return Truth(self._plan, truth["client"], truth["server"], seconds)


def run_traffic(
    where: Namespace,
    wanted: NDArray[np.void],
    *,
    window: int = 1000,
    rate: int = 0,
    meanwhile: Callable[[], object] = lambda: None,
) -> Truth:
    """Make the plan's connections, at most `window` at once and `rate` per second (0: as fast as possible).

    meanwhile: called again and again until they are made.
    """
    with Traffic(where, wanted, "--window", str(window), "--rate", str(rate)) as traffic:
        return traffic.finish(meanwhile)


def generator() -> Path:
    """The generator's program, built when its source changed."""
    return build("traffic")


def build(name: str) -> Path:
    """Compile tests/kernel/traffic/<name>.c into the cache directory; the Makefile knows how."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "flowlake-tests"
    cache.mkdir(parents=True, exist_ok=True)
    run("make", "--silent", "-C", str(DIRECTORY), f"OUT={cache}", f"{cache}/{name}")
    return cache / name
