"""A real Kafka broker of the test's own: KRaft, one node, loopback only, its memory bounded, gone with its test.

Needs Java 17 and the jars that infra/build-kafka-broker fetches once. The first start on a machine also formats a
directory and makes an archive of the loaded classes (AppCDS); both are kept, so that later starts take two seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skipping import missing

ROOT = Path(__file__).parents[2]
CLUSTER_ID = "Zmxvd2xha2UtdGVzdC0wMQ"
START_SECONDS = 90.0  # never reached unless something is wrong
# SCRAM users, made when the directory is formatted.
USERS = {"sidecar": "sidecar-password", "enricher": "enricher-password", "nobody": "nobody-password"}

_JAVA = ["java", "-Xmx288m", "-XX:MaxMetaspaceSize=96m", "-XX:ReservedCodeCacheSize=48m", "-XX:TieredStopAtLevel=1"]
_JAVA += ["-XX:+UseSerialGC", "-Xss512k", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
_SMALL = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
num.network.threads=2
num.io.threads=4
background.threads=2
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=2097152
broker.heartbeat.interval.ms=250
broker.session.timeout.ms=1000
"""


@dataclass
class Listener:
    """One of the broker's listeners beside PLAINTEXT."""

    name: str
    protocol: str
    settings: Mapping[str, str] = field(default_factory=dict)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def jars() -> Path:
    """Where the broker's jars are; ends the test where they cannot be had."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            missing(f"a Kafka broker needs {program}")
    done = subprocess.run([ROOT / "infra" / "build-kafka-broker"], capture_output=True, text=True, timeout=500)
    if done.returncode != 0:
        missing(f"the Kafka broker could not be fetched: {' '.join((done.stderr or done.stdout).split())[-300:]}")
    return Path(done.stdout.strip()) / "jars"


class KafkaBroker:
    """A context manager: the broker runs within, and nothing of it is left behind.

    authorized: who comes by another listener than PLAINTEXT may do only what an ACL allows.
    """

    def __init__(self, listeners: Sequence[Listener] = (), *, authorized: bool = False) -> None:
        self._jars = jars()
        self.directory = Path(tempfile.mkdtemp(prefix="flowlake-kafka-"))
        self.ports = {name: free_port() for name in ("PLAINTEXT", "CONTROLLER", *(one.name for one in listeners))}
        self._listeners = listeners
        self._authorized = authorized
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def servers(self) -> str:
        return self.at("PLAINTEXT")

    def at(self, listener: str) -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    @property
    def log(self) -> str:
        return (self.directory / "broker.log").read_text(errors="replace")

    def __enter__(self) -> KafkaBroker:
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        """Raises where it does not come up."""
        archive = self._jars.parent / "broker.jsa"
        sharing = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
        with (self.directory / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_JAVA, *sharing, "-cp", f"{self._jars}/*", "kafka.Kafka", str(self.directory / "server.properties")],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,
            )
        _wait_for_port(self._process, self.ports["PLAINTEXT"], self.directory / "broker.log")

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def revive(self) -> None:
        """Start it where it does not run."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its connections, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _prepare(self) -> None:
        formatted = _formatted(self._jars)
        shutil.copytree(formatted, self.directory / "data")
        (self.directory / "server.properties").write_text(self._properties())

    def _properties(self) -> str:
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        protocols |= {one.name: one.protocol for one in self._listeners}
        clients = [name for name in protocols if name != "CONTROLLER"]
        lines = [
            _SMALL,
            f"log.dirs={self.directory / 'data'}",
            f"controller.quorum.voters=1@{self.at('CONTROLLER')}",
            "inter.broker.listener.name=PLAINTEXT",
            "listeners=" + ",".join(f"{name}://{self.at(name)}" for name in protocols),
            "advertised.listeners=" + ",".join(f"{name}://{self.at(name)}" for name in clients),
            "listener.security.protocol.map=" + ",".join(f"{name}:{is_}" for name, is_ in protocols.items()),
        ]
        for one in self._listeners:
            lines += [f"listener.name.{one.name.lower()}.{key}={value}" for key, value in one.settings.items()]
        if self._authorized:
            lines.append("authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer")
            # The inter-broker listener is PLAINTEXT, where everybody is ANONYMOUS.
            lines.append("super.users=User:ANONYMOUS")
        return "\n".join(lines) + "\n"


def _formatted(jars: Path) -> Path:
    """A formatted log directory, and the class archive, made once on this machine."""
    formatted = jars.parent / f"formatted-{hashlib.sha256(repr((CLUSTER_ID, USERS)).encode()).hexdigest()[:8]}"
    with (jars.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not formatted.exists():
            with tempfile.TemporaryDirectory(dir=jars.parent, prefix="making-") as making:
                _make(jars, Path(making))
                (Path(making) / "formatted").rename(formatted)
    return formatted


def _make(jars: Path, making: Path) -> None:
    properties = making / "server.properties"
    broker, controller = free_port(), free_port()
    properties.write_text(
        f"{_SMALL}log.dirs={making}/data\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n"
        f"listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}\n"
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{broker}\n"
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
    )
    format_ = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties)]
    for user, password in USERS.items():
        format_ += ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
    subprocess.run([*_JAVA, "-cp", f"{jars}/*", *format_], check=True, capture_output=True, timeout=300)
    shutil.copytree(making / "data", making / "formatted")
    log = making / "broker.log"
    archive = making / "broker.jsa"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*_JAVA, f"-XX:ArchiveClassesAtExit={archive}", "-cp", f"{jars}/*", "kafka.Kafka", str(properties)],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for_port(process, broker, log)
        process.send_signal(signal.SIGTERM)
        process.wait(300)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if archive.exists():  # without it, a start only takes longer
        archive.rename(jars.parent / "broker.jsa")


def _wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the Kafka broker did not start:\n{log.read_text(errors='replace')[-3000:]}")
