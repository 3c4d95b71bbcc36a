"""`flowlake topics`: make the topics as they must be, or say what is wrong with those that a cluster has."""

from __future__ import annotations

import argparse
import os

from settings import add_flags, load
from settings.errors import WrongUse
from transport.kafka_client import Kafka
from transport.kafka_config import KafkaConfig
from transport.kafka_errors import KafkaRefused
from transport.kafka_topics import DEFINITIONS, check, create

PARTITIONS = 8  # of enrichers that may share the work; more can be added later, fewer never


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `flowlake topics`."""
    parser.add_argument("action", choices=("create", "check"), help="make what is missing, or only look")
    parser.add_argument(
        "--partitions", type=int, default=PARTITIONS, help=f"of a topic that is made; {PARTITIONS} unless told"
    )
    add_flags(parser, KafkaConfig)


def run(args: argparse.Namespace) -> int:
    """A line for each topic, and one for each fault. Returns 1 where a topic is missing or would lose data."""
    config = load(KafkaConfig, args, os.environ, known=args.known)
    if config.bootstrap_servers is None:
        raise WrongUse("FLOWLAKE_KAFKA_BOOTSTRAP_SERVERS is not set: give host:port of a broker")
    if args.partitions < 1:
        raise WrongUse(f"--partitions is {args.partitions}, expected at least 1")
    with Kafka(config) as kafka:
        sound = [_one(kafka, name, args) for name in DEFINITIONS]
    return 0 if all(sound) else 1


def _one(kafka: Kafka, name: str, args: argparse.Namespace) -> bool:
    """Make or look at one topic; True where it is as it must be."""
    definition = DEFINITIONS[name]
    made = args.action == "create" and create(kafka, definition, args.partitions)
    if made:
        print(f"{name}: made, {args.partitions} partitions")
        return True
    try:
        faults = check(kafka, definition)
    except KafkaRefused as error:
        print(f"{name}: {error}")
        return False
    for fault in faults:
        print(f"{name}: {fault.setting}={fault.value}, expected {fault.expected}: {fault.why}")
    if not faults:
        print(f"{name}: as it must be")
    return not faults
