"""How Kafka can fail, told apart by who has to do something about it.

LogError
  KafkaAbsent       nobody answers, or a broker cannot just now: passes by itself, try again
  KafkaRefused      a broker said no, and goes on saying so until someone mends a setting, an ACL or a topic; the cause
                    may be mended while we run, so trying again is right, only slower
  MessageRefused    the message is the reason: it will never be taken
FlowlakeError
  LogReplaced       the topic was made anew: another log, to be opened as such
"""

from __future__ import annotations

from kafka import errors

from settings.errors import FlowlakeError
from transport.log import LogError


class KafkaAbsent(LogError):
    """No broker answers, or the one that should cannot just now. Passes by itself."""


class KafkaRefused(LogError):
    """A broker answered, and said no. Someone has to change something; then it goes on without a restart."""


class MessageRefused(LogError):
    """A broker will never take this message."""


class LogReplaced(FlowlakeError):
    """The topic of this name is another one now. Not a LogError: trying again will not help, opening anew will."""


OUT_OF_RANGE = errors.OffsetOutOfRangeError.errno
UNKNOWN_TOPIC_ID = errors.UnknownTopicIdError.errno
NOT_AUTHORIZED = errors.TopicAuthorizationFailedError.errno

# error code -> what to do about it, where `{topic}` and `{user}` stand for themselves.
_REFUSED = {
    errors.UnknownTopicOrPartitionError.errno: (
        "there is no topic {topic}; make it with `flowlake topics create`, or give {user} the right to describe it"
    ),
    errors.TopicAuthorizationFailedError.errno: (
        "{user} may not {action} topic {topic}; give it that right (kafka-acls --add --allow-principal User:{user} "
        "--operation {operation} --topic {topic})"
    ),
    errors.ClusterAuthorizationFailedError.errno: "{user} may not {action} the cluster; give it that right",
    errors.GroupAuthorizationFailedError.errno: "{user} may not {action} the consumer group; give it that right",
    errors.InvalidTopicError.errno: "{topic} is no name for a topic",
    errors.UnsupportedVersionError.errno: "the broker is too old; flowlake needs Kafka 3.1 or newer",
    errors.PolicyViolationError.errno: "the cluster's policy forbids to {action} topic {topic}",
    errors.UnsupportedCompressionTypeError.errno: (
        "topic {topic} does not take this compression; set FLOWLAKE_PUBLISH_COMPRESSION to gzip or none"
    ),
}
_MESSAGE = {
    errors.MessageSizeTooLargeError.errno: "it is larger than max.message.bytes of topic {topic}",
    errors.RecordListTooLargeError.errno: "it is larger than segment.bytes of topic {topic}",
    errors.InvalidRecordError.errno: "topic {topic} does not take such a message",
}
_ABSENT = {
    errors.NotEnoughReplicasError.errno: (
        "topic {topic} has fewer replicas in sync than min.insync.replicas asks for; waiting for its brokers"
    ),
    errors.NotEnoughReplicasAfterAppendError.errno: (
        "topic {topic} has fewer replicas in sync than min.insync.replicas asks for; waiting for its brokers"
    ),
}
# What a user may not do is called by its verb for people, and by its name for kafka-acls.
_OPERATIONS = {"write to": "Write", "read from": "Read", "describe": "Describe", "check": "DescribeConfigs"}


def broker_error(code: int, *, topic: str, user: str, action: str) -> LogError:
    """The error of a code in a broker's answer.

    action: what was to be done to the topic, as a verb: "write to", "read from", "describe", "check", "create".
    """
    facts = {"topic": topic, "user": user, "action": action, "operation": _OPERATIONS.get(action, action)}
    for kind, texts in ((KafkaRefused, _REFUSED), (MessageRefused, _MESSAGE), (KafkaAbsent, _ABSENT)):
        if code in texts:
            return kind(f"Kafka: {texts[code].format(**facts)}")
    name = errors.for_code(code).__name__.removesuffix("Error")
    if code in errors.kafka_errors and not issubclass(errors.for_code(code), errors.RetriableError):
        return KafkaRefused(f"Kafka refuses to {action} topic {topic}: {name} (error {code} of the protocol)")
    return KafkaAbsent(f"Kafka cannot {action} topic {topic} just now: {name} (error {code} of the protocol)")
