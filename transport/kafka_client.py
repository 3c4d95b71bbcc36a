"""The way to a Kafka cluster: requests, answers, and a connection that is replaced whenever it fails.

Of the client library (kafka-python 3.0.12) this uses the protocol, the connections and the security, and neither its
producer nor its consumer. The producer hangs for good once a batch reaches delivery_timeout_ms while it is in flight,
and sends what comes after a failed batch before that batch is sent again, which the enricher would take for a
repetition; the consumer fetches by name and so reads on in a topic that was made anew under it. One request and its
answer has none of that: what failed is simply asked again, on a new connection.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from kafka import errors
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.protocol.metadata import MetadataRequest

from transport.kafka_config import KafkaConfig
from transport.kafka_diagnosis import find_server, not_connected, user_of, wrong_password
from transport.kafka_errors import KafkaAbsent, KafkaRefused, broker_error
from transport.log import LogError

# It logs every lost connection as an error, on its own. We say what it means, once.
logging.getLogger("kafka").addHandler(logging.NullHandler())

_DIRECT = "flowlake"
_TOPIC_IDS = 10  # Metadata version that tells topic ids (KIP-516, Kafka 2.8)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the cluster described it just now."""

    name: str
    cluster_id: str
    topic_id: uuid.UUID
    leaders: Mapping[int, int]  # by partition: the broker to ask; -1 where there is none just now

    @property
    def uuid(self) -> str:
        """What `LogIdentity.uuid` is: another one for a topic made anew, and on another cluster."""
        return f"{self.cluster_id}/{self.topic_id}"


class Kafka:
    """Requests to a cluster. For several threads at once. Connects when first asked; must be closed.

    with Kafka(config) as kafka:
        kafka.topic("flowlake.flows.v1").leaders
    """

    def __init__(self, config: KafkaConfig) -> None:
        self.config = config
        self.user = user_of(config)
        self.connections_made = 0
        self._lock = threading.Lock()
        self._session: _Session | None = None

    def __enter__(self) -> Kafka:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def ask(self, request: Any, node: int | None = None) -> Any:
        """The answer to a request, of one broker or of any. Raises KafkaAbsent, KafkaRefused.

        After an error the request may have been carried out all the same.
        """
        session = self._connected()
        try:
            return session.ask(request, node, self.config.request_seconds)
        except Exception as error:  # whatever the library ran into, a new connection is the remedy
            self._replace(session)
            raise self._explained(error, request, node) from error

    def topic(self, name: str, node: int | None = None) -> Topic:
        """As one broker, or any, knows it. Raises KafkaAbsent, KafkaRefused (also where there is no such topic)."""
        answer = self.ask(
            MetadataRequest(
                topics=[MetadataRequest.MetadataRequestTopic(name=name)],
                allow_auto_topic_creation=False,
                include_cluster_authorized_operations=False,
                include_topic_authorized_operations=False,
                min_version=_TOPIC_IDS,
            ),
            node,
        )
        (found,) = answer.topics
        if found.error_code:
            raise broker_error(found.error_code, topic=name, user=self.user, action="describe")
        leaders = {partition.partition_index: partition.leader_id for partition in found.partitions}
        return Topic(name, answer.cluster_id, found.topic_id, leaders)

    def _connected(self) -> _Session:
        with self._lock:
            if self._session is None:
                self._session = _Session(self.config)
                self.connections_made += 1
            return self._session

    def _replace(self, session: _Session) -> None:
        """Give up this session, unless another thread has already."""
        with self._lock:
            if self._session is session:
                self._session = None
        session.close()

    def _explained(self, error: Exception, request: Any, node: int | None) -> LogError:
        if isinstance(error, errors.SaslAuthenticationFailedError):  # of another broker than the first
            return wrong_password(self.config)
        if isinstance(error, errors.IncompatibleBrokerVersion):
            return KafkaRefused("Kafka: the broker is too old; flowlake needs Kafka 3.1 or newer")
        name = type(request).__name__.removesuffix("Request")
        broker = "a broker" if node is None else f"broker {node}"
        if isinstance(error, errors.RequestTimedOutError | errors.KafkaTimeoutError):
            seconds = self.config.request_seconds
            return KafkaAbsent(f"Kafka: {broker} did not answer within {seconds:g} s ({name}); connecting anew")
        return KafkaAbsent(f"Kafka: lost the connection to {broker} ({name}); connecting anew")


class _ClosingSocket(KafkaNetSocket):  # type: ignore[misc]
    """Closes the socket of a connection that failed; the library leaves that to the garbage collector.

    Registered under the scheme of a proxy, which is how the library lets one bring sockets of one's own.
    """

    SCHEMES = (_DIRECT,)

    async def sock_connect(self, net: Any, sock: Any, sockaddr: Any, timeout_at: float | None = None) -> Any:
        try:
            return await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise


class _Session:
    """A bootstrapped connection manager with its thread."""

    def __init__(self, config: KafkaConfig) -> None:
        try:
            server = find_server(config)
            options = config.client_options() | {"bootstrap_servers": [server]}
        except ValueError as error:
            raise KafkaRefused(str(error)) from None
        self._net = NetworkSelector(client_id=config.client_id)
        try:
            self._manager = KafkaConnectionManager(self._net, proxy_url=f"{_DIRECT}://", **options)
        except Exception:
            self._net.close()
            raise
        self._net.start()
        try:
            self._carry_out(self._connect, config.connect_seconds)
        except Exception as error:
            self.close()
            raise not_connected(config, server, error) from None
        except BaseException:
            self.close()
            raise

    async def _connect(self) -> None:
        """A first connection by hand: the library's bootstrap keeps to itself why one failed, and tries for ever."""
        (broker, *_) = self._manager.cluster.bootstrap_brokers()
        await self._manager.get_connection(broker.node_id, pop_on_close=False, refresh_metadata_on_err=False)
        await self._manager.bootstrap_async()

    def ask(self, request: Any, node: int | None, seconds: float) -> Any:
        # The connection's own timeout comes first and says more; this one also holds while it is being made.
        return self._carry_out(lambda: self._manager.send(request, node_id=node), seconds + 1)

    def _carry_out(self, work: Callable[[], Awaitable[Any]], seconds: float) -> Any:
        """The result of `work` on the library's thread. Raises KafkaTimeoutError: the library knows no bound for a
        TLS handshake, and its own way to wait has none either.
        """
        ended = threading.Event()
        results: list[Any] = []
        failures: list[BaseException] = []

        async def carry() -> None:
            try:
                results.append(await work())
            except BaseException as error:
                failures.append(error)
                if not isinstance(error, Exception):
                    raise
            finally:
                ended.set()

        self._manager.call_soon(carry)
        if not ended.wait(seconds):
            raise errors.KafkaTimeoutError(f"nothing within {seconds:g} s")
        if failures:
            raise failures[0]
        return results[0]

    def close(self) -> None:
        with contextlib.suppress(Exception):  # of a connection that is given up
            self._manager.close()
        with contextlib.suppress(Exception):
            self._net.close()
