"""Exactly once on a real S3 server: a spool, the real row maker, a proxy that does what networks do, from a seed."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from made_batches import HOUR_US, NOON_US, make_header, random_flows
from memory_world import Clock, Heard, HeldStop
from one_partition import Dies
from services import faulty_proxy as proxies
from services.faulty_proxy import Fault, FaultyProxy, Request, error
from services.versitygw import QUICK, ROOT, Versitygw

from enricher.gather import GatherConfig
from enricher.partition import partition
from enricher.perform import MemoryBudget, Performer
from enricher.range_writer import PartitionConfig
from enricher.row_maker import FlowRowMaker
from lake.config import S3Config
from lake.ranges import Done
from lake.s3_patience import Patience, Time
from lake.s3_place import S3Place
from lake.s3_store import S3Store
from lake.store import Store
from schemas.flow_batch import encode_flow_batch
from transport.spool import SpoolConfig, SpoolReader, SpoolWriter

pytestmark = pytest.mark.slow

BATCHES = 8
ROWS_PER_BATCH = 20
REPEATED = BATCHES // 2

FAULTS: tuple[Fault, ...] = (
    proxies.request_lost,
    proxies.answer_lost,
    proxies.answer_cut,
    proxies.answer_damaged,
    proxies.twice,
    error(503, "SlowDown"),
    error(500, "InternalError", happened=True),
    error(409, "ConditionalRequestConflict"),
    error(403, "AccessDenied"),
    error(400, "ExpiredToken"),
    proxies.page(502, b""),
)
# Gives up after a few tries, so that the protocol's own way of going on is taken as well.
IMPATIENT = Patience(2.0, 5.0, give_up_seconds=0.2, first_backoff_seconds=0.1, last_backoff_seconds=0.1)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versitygw]:
    with Versitygw(tmp_path_factory.mktemp("buckets")) as running:
        yield running


@pytest.fixture
def lake(gateway: Versitygw) -> Path:
    """An empty bucket: the directory in which the server keeps it."""
    directory = gateway.directory / f"lake-{len(list(gateway.directory.iterdir()))}"
    gateway.client().create_bucket(Bucket=directory.name)
    return directory


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def sent(spool: Path) -> Counter[tuple[int, int]]:
    """Fills the spool; every second batch is in it twice. Returns every flow once."""
    rng, flows_sent = np.random.default_rng(3), Counter[tuple[int, int]]()
    with SpoolWriter(SpoolConfig(directory=spool), clock_us=lambda: NOON_US) as writer:
        for number in range(BATCHES):
            flows = random_flows(rng, ROWS_PER_BATCH, NOON_US + number * HOUR_US // 2)
            flows_sent.update(zip(flows["flow_id"].tolist(), flows["sequence"].tolist(), strict=True))
            value = encode_flow_batch(make_header(number=number), flows)
            for _ in range(1 + number % 2):
                writer.append(b"id-alpha", value, ROWS_PER_BATCH)
    return flows_sent


def no_waiting() -> Time:
    """A clock of one thread's, moved by its waits."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return Time(lambda: now[0], sleep, lambda _, most: most)


def s3_store(gateway: Versitygw, url: str, lake: Path) -> S3Store:
    return S3Store(
        S3Place(lake.name, ""),
        S3Config(),
        patience=IMPATIENT,
        time=no_waiting(),
        connect=lambda patience: gateway.client(patience=patience, url=url),
    )


class Mortal:
    """A store whose process dies at every fifth new object or so, just before or after it."""

    def __init__(self, store: S3Store, rng: random.Random) -> None:
        self._store = store
        self._rng = rng
        self.put, self.get, self.list, self.delete = store.put, store.get, store.list, store.delete

    def put_if_absent(self, key: str, body: bytes) -> None:
        fate = self._rng.random()
        if fate < 0.1:
            raise Dies
        self._store.put_if_absent(key, body)
        if fate > 0.9:
            raise Dies


def enrich(store: Store, spool: Path, on_wait: Callable[[float], None] = lambda _: None) -> Heard:
    """One enricher's life: until all that is in the spool is written."""
    reader, heard, clock = SpoolReader(spool), Heard(), Clock((NOON_US + 10 * HOUR_US) / 1e6)
    clock.on_wait = on_wait
    stop = HeldStop(clock)
    stop.drain()
    config = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=0, range_bytes=6_000))
    world = Performer(store, reader, stop, MemoryBudget(1 << 30), heard, clock.us, clock.us)
    world.run(partition(reader.identity(), FlowRowMaker(), config, "lake"))
    return heard


def check(lake: Path, sent: Counter[tuple[int, int]]) -> int:
    """What the lake holds, read from the server's directory by Arrow alone. Returns how many ranges it has."""
    flows = ds.dataset(lake / "flows", partitioning=None).to_table(columns=["flow_id", "sequence"]).to_pydict()
    assert Counter(zip(flows["flow_id"], flows["sequence"], strict=True)) == sent
    edges = ds.dataset(lake / "edges", partitioning=None).to_table(columns=["records"])
    assert pc.sum(edges["records"]).as_py() == sum(sent.values())
    chain = [Done.from_json(path.read_bytes()) for path in sorted((lake / "_ranges").rglob("*.done.json"))]
    assert [done.first for done in chain] == [0, *(done.next for done in chain[:-1])]
    assert chain[-1].next == BATCHES + REPEATED
    assert sum(done.repeated_batches for done in chain) == REPEATED
    assert len(list((lake / "_ranges").rglob("*.range.json"))) == len(chain)
    return len(chain)


def faults_from(seed: int, share: float) -> Callable[[Request], Fault]:
    rng = random.Random(seed)
    return lambda _: rng.choice(FAULTS) if rng.random() < share else proxies.passed_on


@pytest.mark.parametrize("seed", range(6))
def test_every_flow_is_in_the_lake_once_whatever_the_network_does(
    gateway: Versitygw, lake: Path, spool: Path, sent: Counter[tuple[int, int]], seed: int
) -> None:
    with FaultyProxy(gateway.port, faults_from(seed, share=0.3)) as proxy:
        enrich(s3_store(gateway, proxy.url, lake), spool)
        assert len(proxy.requests) > 20
    assert check(lake, sent) > 3


@pytest.mark.parametrize("seed", range(3))
def test_two_enrichers_that_die_through_two_servers_write_every_flow_once(
    gateway: Versitygw, lake: Path, spool: Path, sent: Counter[tuple[int, int]], seed: int
) -> None:
    """Each dies at every fifth object or so, just before or after it, and is started again."""

    def live(number: int, server: Versitygw, barrier: threading.Barrier) -> int:
        rng, deaths = random.Random(seed * 2 + number), 0
        with FaultyProxy(server.port, faults_from(seed * 2 + number, share=0.15)) as proxy:
            barrier.wait()
            while True:
                try:
                    enrich(Mortal(s3_store(server, proxy.url, lake), rng), spool)
                    return deaths
                except Dies:
                    deaths += 1

    with Versitygw(gateway.directory) as second, ThreadPoolExecutor(2) as pool:
        barrier = threading.Barrier(2)
        lives = [pool.submit(live, number, server, barrier) for number, server in enumerate((gateway, second))]
        assert sum(life.result() for life in lives) > 0
    check(lake, sent)


def test_the_enricher_waits_until_bucket_and_keys_are_mended(
    gateway: Versitygw,
    spool: Path,
    sent: Counter[tuple[int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    credentials = tmp_path / "credentials"
    for name, value in {
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": gateway.url,
    }.items():
        monkeypatch.setenv(name, value)
    lake = gateway.directory / "lake-later"
    waits = 0

    def mend(_: float) -> None:
        nonlocal waits
        waits += 1
        secret = ROOT.secret if waits > 2 else "wrong-secret"
        credentials.write_text(f"[default]\naws_access_key_id={ROOT.access}\naws_secret_access_key={secret}\n")
        if waits == 4:
            gateway.client().create_bucket(Bucket=lake.name)

    heard = enrich(S3Store(S3Place(lake.name, ""), S3Config(), patience=QUICK), spool, mend)
    assert [line.partition(": ")[2].partition(";")[0] for line in heard.lines] == [
        "no usable AWS credentials (no credentials)",
        "the secret key is wrong",
        "the secret key is wrong",
        "there is no such bucket",
    ]
    check(lake, sent)
