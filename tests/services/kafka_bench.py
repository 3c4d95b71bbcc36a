"""A broker with every listener that the tests need, and what a test does with it: topics, writers, readers, ACLs.

What is written and read as an oracle goes through the client library's own producer and consumer, which flowlake does
not use.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)
from services.certificates import Authority, Certificate
from services.kafka_broker import USERS, KafkaBroker, Listener

from transport.kafka_client import Kafka
from transport.kafka_config import KafkaConfig
from transport.kafka_topics import DEFINITIONS, FLOWS, TopicDefinition, create

_numbers = itertools.count()


@contextmanager
def secured_broker(directory: Path) -> Iterator[KafkaBench]:
    """PLAINTEXT, where everything is allowed; SASL (SCRAM over TLS) and MTLS, where ACLs hold."""
    authority = Authority(directory / "ca")
    store = authority.key_store(authority.sign("broker"))
    tls = {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(store)}
    trust = {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(authority.cert)}
    module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    sasl = {"sasl.enabled.mechanisms": "SCRAM-SHA-512", "scram-sha-512.sasl.jaas.config": module}
    listeners = [
        Listener("SASL", "SASL_SSL", {**tls, **sasl}),
        Listener("MTLS", "SSL", {**tls, **trust, "ssl.client.auth": "required"}),
    ]
    with KafkaBroker(listeners, authorized=True) as broker:
        yield KafkaBench(broker, authority, authority.sign("sidecar-host"))


class KafkaBench:
    """What a test does with a broker."""

    def __init__(self, broker: KafkaBroker, authority: Authority, certificate: Certificate) -> None:
        self.broker = broker
        self.authority = authority
        self.certificate = certificate  # of CN=sidecar-host, which the broker trusts
        self._close = ExitStack()
        self._admin: KafkaAdminClient | None = None

    @contextmanager
    def for_one_test(self) -> Iterator[KafkaBench]:
        """The same broker; what is opened through it is closed with the test."""
        bench = KafkaBench(self.broker, self.authority, self.certificate)
        with bench._close:
            yield bench

    def config(self, **settings: Any) -> KafkaConfig:
        """Of the listener without security."""
        return KafkaConfig(**{"bootstrap_servers": self.broker.servers, "one_node": True, **settings})

    def scram(self, user: str = "sidecar", **settings: Any) -> KafkaConfig:
        """Of the listener with passwords, over TLS."""
        given = {
            "bootstrap_servers": self.broker.at("SASL"),
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "username": user,
            "password": USERS.get(user, "unknown"),
            "ca_file": self.authority.cert,
        }
        return self.config(**{**given, **settings})

    def mutual_tls(self, **settings: Any) -> KafkaConfig:
        """Of the listener that asks for certificates."""
        given = {
            "bootstrap_servers": self.broker.at("MTLS"),
            "security_protocol": "SSL",
            "ca_file": self.authority.cert,
            "cert_file": self.certificate.cert,
            "key_file": self.certificate.key,
        }
        return self.config(**{**given, **settings})

    def kafka(self, config: KafkaConfig | None = None, **settings: Any) -> Kafka:
        """Closed with the test."""
        return self._close.enter_context(Kafka(replace(config or self.config(), **settings)))

    def definition(self) -> TopicDefinition:
        """Of a topic of the flows' kind, under a name of its own."""
        return replace(DEFINITIONS[FLOWS], name=f"flowlake.flows.test{next(_numbers)}")

    def topic(self, partitions: int = 1, **configs: str) -> str:
        """The name of a new topic, made as flowlake makes it, then altered."""
        definition = self.definition()
        create(self.kafka(), definition, partitions)
        if configs:
            self.alter(definition.name, {name.replace("_", "."): value for name, value in configs.items()})
        self.admin.wait_for_topics([definition.name])
        return str(definition.name)

    def make_anew(self, topic: str, partitions: int = 1) -> None:
        self.admin.delete_topics([topic])
        self.make(topic, partitions)

    def make(self, topic: str, partitions: int = 1) -> None:
        """A topic of this name, as flowlake makes it."""
        definition = replace(self.definition(), name=topic)
        while not create(self.kafka(), definition, partitions):  # the old one may still be going
            pass
        self.admin.wait_for_topics([topic])

    def alter(self, topic: str, configs: Mapping[str, str]) -> None:

        self.admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, dict(configs))])

    def allow(self, user: str, operations: str, topic: str) -> None:
        """ACLs on a topic. operations: such as "READ DESCRIBE"."""
        pattern = ResourcePattern(ResourceType.TOPIC, topic)
        allow = ACLPermissionType.ALLOW
        self.admin.create_acls(
            [ACL(f"User:{user}", "*", ACLOperation[one], allow, pattern) for one in operations.split()]
        )

    @property
    def admin(self) -> KafkaAdminClient:
        """The client library's own."""
        if self._admin is None:
            self._admin = KafkaAdminClient(bootstrap_servers=self.broker.servers)
            self._close.callback(self._leave)
        return self._admin

    def kill(self) -> None:
        """kill -9 the broker."""
        self._leave()
        self.broker.kill()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The broker keeps its connections, and answers nothing."""
        self._leave()
        with self.broker.frozen():
            yield

    def _leave(self) -> None:
        """Close the library's client: with the broker away it would go on connecting, and leave sockets unclosed."""
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()

    def producer(self, **options: Any) -> Any:

        producer = KafkaProducer(bootstrap_servers=self.broker.servers, **options)
        self._close.callback(producer.close, timeout=5)
        return producer

    def write(self, topic: str, *values: bytes, key: bytes = b"host", partition: int = 0, **options: Any) -> None:
        """One record batch for each value."""
        producer = self.producer(**options)
        for value in values:
            producer.send(topic, key=key, value=value, partition=partition).get(30)
        producer.close()

    def written(self, topic: str, partition: int = 0) -> list[Any]:
        """All committed records of a partition, as the client library's consumer reads them."""
        place = TopicPartition(topic, partition)
        consumer = KafkaConsumer(
            bootstrap_servers=self.broker.servers,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            enable_auto_commit=False,
        )
        try:
            consumer.assign([place])
            (end,) = consumer.end_offsets([place]).values()
            records: list[Any] = []
            while consumer.position(place) < end:
                for found in consumer.poll(1000).values():
                    records += found
            return records
        finally:
            consumer.close()
