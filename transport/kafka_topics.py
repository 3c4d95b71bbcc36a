"""The topics: what they are called, how they must be set up, and what is wrong with those that a cluster has.

A topic that loses data without anyone's noticing is worse than none. So a process checks before it begins, and says
which setting would lose what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from kafka.protocol.metadata import MetadataRequest

from settings.errors import FlowlakeError
from transport.kafka_client import Kafka
from transport.kafka_errors import KafkaRefused, broker_error

FLOWS = "flowlake.flows.v1"
OWNERSHIP = "flowlake.ownership.v1"
ENRICHED = "flowlake.enriched.v1"
REJECTED = "flowlake.rejected.v1"

HOUR_MS = 3_600_000
MESSAGE_BYTES = 1_048_588  # Kafka's own default; a chunk of the publisher is half of it
REPLICAS = 3
IN_SYNC = 2

_TOPIC_RESOURCE = 2  # DescribeConfigs: resource type of a topic
_EXISTS = 36  # TOPIC_ALREADY_EXISTS


class TopicUnsafe(FlowlakeError):
    """A topic is set up so that it would lose data."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A setting of a topic that is not as it must be."""

    topic: str
    setting: str
    value: str
    expected: str
    why: str

    def __str__(self) -> str:
        return f"topic {self.topic} has {self.setting}={self.value}, expected {self.expected}: {self.why}"


@dataclass(frozen=True, slots=True)
class TopicDefinition:
    """How a topic is made. keep_ms: how long messages stay."""

    name: str
    keep_ms: int
    compacted: bool = False

    @property
    def configs(self) -> Mapping[str, str]:
        configs = {
            "message.timestamp.type": "LogAppendTime",
            "cleanup.policy": "compact,delete" if self.compacted else "delete",
            "retention.ms": str(self.keep_ms),
            "retention.bytes": "-1",
            "unclean.leader.election.enable": "false",
            "max.message.bytes": str(MESSAGE_BYTES),
        }
        if self.compacted:
            configs["min.compaction.lag.ms"] = str(HOUR_MS)
        return configs


# Ownership outlives flows and what waits in spools: a late flow is named by the claims of its time.
DEFINITIONS = {
    definition.name: definition
    for definition in (
        TopicDefinition(FLOWS, 24 * HOUR_MS),
        TopicDefinition(OWNERSHIP, 7 * 24 * HOUR_MS, compacted=True),
        TopicDefinition(ENRICHED, 24 * HOUR_MS),
        TopicDefinition(REJECTED, 7 * 24 * HOUR_MS),
    )
}


def create(kafka: Kafka, definition: TopicDefinition, partitions: int) -> bool:
    """Make a topic as it must be; False where there is one already. Raises KafkaAbsent, KafkaRefused."""
    name, one_node = definition.name, kafka.config.one_node
    configs = {**definition.configs, "min.insync.replicas": str(1 if one_node else IN_SYNC)}
    topic = CreateTopicsRequest.CreatableTopic(
        name=name,
        num_partitions=partitions,
        replication_factor=1 if one_node else REPLICAS,
        assignments=[],
        configs=[CreateTopicsRequest.CreatableTopic.CreatableTopicConfig(name=k, value=v) for k, v in configs.items()],
    )
    seconds = kafka.config.request_seconds
    request = CreateTopicsRequest(topics=[topic], timeout_ms=int(seconds * 1000), validate_only=False)
    (result,) = kafka.ask(request, _controller(kafka)).topics
    if result.error_code == _EXISTS:
        return False
    if result.error_code:
        if result.error_message and "replication" in result.error_message.lower():
            raise KafkaRefused(
                f"Kafka: topic {name} needs {REPLICAS} brokers: {' '.join(result.error_message.split())} "
                "With one broker, for a trial, set FLOWLAKE_KAFKA_ONE_NODE=true"
            )
        raise broker_error(result.error_code, topic=name, user=kafka.user, action="create")
    return True


def check(kafka: Kafka, definition: TopicDefinition) -> Sequence[Fault]:
    """What is wrong with a topic. Raises KafkaAbsent, KafkaRefused (also where there is none)."""
    name = definition.name
    configs = describe(kafka, name)
    faults = list(_faults(definition, configs))
    if not kafka.config.one_node:
        replicas = min(_replicas(kafka, name))
        if replicas < REPLICAS:
            faults.append(
                Fault(
                    name,
                    "replication.factor",
                    str(replicas),
                    f"at least {REPLICAS}",
                    "what a broker's disk holds goes with it (one broker on purpose: FLOWLAKE_KAFKA_ONE_NODE=true)",
                )
            )
        if int(configs["min.insync.replicas"]) < IN_SYNC:
            faults.append(
                Fault(
                    name,
                    "min.insync.replicas",
                    configs["min.insync.replicas"],
                    f"at least {IN_SYNC}",
                    "a message counts as kept while one broker has it (FLOWLAKE_KAFKA_ONE_NODE=true waives this)",
                )
            )
    return faults


def require(kafka: Kafka, definition: TopicDefinition) -> None:
    """For a process, before it begins. Raises TopicUnsafe with the first fault there is; KafkaAbsent, KafkaRefused."""
    for fault in check(kafka, definition):
        raise TopicUnsafe(f"{fault}. Mend it (kafka-configs --alter, kafka-reassign-partitions), then start again")


def describe(kafka: Kafka, name: str) -> Mapping[str, str]:
    """The settings of a topic, as they hold now. Raises KafkaAbsent, KafkaRefused."""
    resource = DescribeConfigsRequest.DescribeConfigsResource(
        resource_type=_TOPIC_RESOURCE, resource_name=name, configuration_keys=None
    )
    request = DescribeConfigsRequest(resources=[resource], include_synonyms=False, include_documentation=False)
    (result,) = kafka.ask(request).results
    if result.error_code:
        raise broker_error(result.error_code, topic=name, user=kafka.user, action="check")
    return {config.name: config.value for config in result.configs}


def _faults(definition: TopicDefinition, configs: Mapping[str, str]) -> Sequence[Fault]:
    at_least: Callable[[int], Callable[[str], bool]] = lambda least: lambda value: int(value) >= least  # noqa: E731
    policy = ",".join(sorted(definition.configs["cleanup.policy"].split(",")))
    rules: Sequence[tuple[str, str, Callable[[str], bool], str]] = (
        (
            "cleanup.policy",
            definition.configs["cleanup.policy"],
            lambda value: ",".join(sorted(value.split(","))) == policy,
            "compaction keeps one message of a key, and the key is the host"
            if not definition.compacted
            else "claims of the past are needed for a while, and no longer",
        ),
        (
            "retention.bytes",
            "-1",
            lambda value: int(value) < 0,
            "a busy hour would push out messages that nobody has read yet",
        ),
        (
            "retention.ms",
            f"at least {definition.keep_ms}, or -1",
            lambda value: int(value) < 0 or int(value) >= definition.keep_ms,
            "messages would expire while a reader is away for less than a day",
        ),
        (
            "unclean.leader.election.enable",
            "false",
            lambda value: value == "false",
            "a replica that lags may become the leader, and cut off what it has not got",
        ),
        (
            "message.timestamp.type",
            "LogAppendTime",
            lambda value: value == "LogAppendTime",
            "a host with a wrong clock would decide when its messages expire, and when they are settled",
        ),
        (
            "max.message.bytes",
            f"at least {MESSAGE_BYTES}",
            at_least(MESSAGE_BYTES),
            "batches that are larger would be refused, and dropped",
        ),
    )
    return [
        Fault(definition.name, setting, configs[setting], expected, why)
        for setting, expected, holds, why in rules
        if not holds(configs[setting])
    ]


def _replicas(kafka: Kafka, name: str) -> Sequence[int]:
    """How many replicas each partition has."""
    answer = _metadata(kafka, [MetadataRequest.MetadataRequestTopic(name=name)])
    (found,) = answer.topics
    if found.error_code:
        raise broker_error(found.error_code, topic=name, user=kafka.user, action="describe")
    return [len(partition.replica_nodes) for partition in found.partitions]


def _controller(kafka: Kafka) -> int:
    return int(_metadata(kafka, []).controller_id)


def _metadata(kafka: Kafka, topics: Sequence[Any]) -> Any:
    return kafka.ask(
        MetadataRequest(
            topics=topics,
            allow_auto_topic_creation=False,
            include_cluster_authorized_operations=False,
            include_topic_authorized_operations=False,
            min_version=1,
        )
    )
