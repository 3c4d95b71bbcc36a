"""The topics on a real broker: made as they must be; and each setting that would lose data is found, and named."""

from __future__ import annotations

import argparse
from dataclasses import replace

import pytest
from services.kafka_bench import KafkaBench

from flowlake import topics as command
from flowlake.config import known_configs
from transport import kafka_topics
from transport.kafka_config import KafkaConfig
from transport.kafka_errors import KafkaRefused
from transport.kafka_topics import DEFINITIONS, FLOWS, TopicUnsafe, check, create, require


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_topic_that_was_made_is_as_it_must_be(kafka_bench: KafkaBench, name: str) -> None:
    definition = replace(DEFINITIONS[name], name=f"{name}.test")
    kafka = kafka_bench.kafka()
    assert create(kafka, definition, 3)
    kafka_bench.admin.wait_for_topics([definition.name])
    assert not create(kafka, definition, 5)
    assert not check(kafka, definition)
    require(kafka, definition)
    assert len(kafka.topic(definition.name).leaders) == 3
    kafka_bench.admin.delete_topics([definition.name])


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("cleanup.policy", "compact", "the key is the host"),
        ("cleanup.policy", "compact,delete", "the key is the host"),
        ("retention.bytes", "1000000000", "a busy hour"),
        ("retention.ms", "3600000", "expire"),
        ("unclean.leader.election.enable", "true", "cut off"),
        ("message.timestamp.type", "CreateTime", "wrong clock"),
        ("max.message.bytes", "100000", "refused"),
    ],
)
def test_a_setting_that_would_lose_data_keeps_a_process_from_starting(
    kafka_bench: KafkaBench, setting: str, value: str, says: str
) -> None:
    definition = kafka_bench.definition()
    kafka = kafka_bench.kafka()
    create(kafka, definition, 1)
    kafka_bench.alter(definition.name, {setting: value})
    while not (faults := check(kafka, definition)):  # until the broker has heard of it
        continue
    (fault,) = faults
    assert (fault.setting, fault.value) == (setting, value) and says in fault.why
    with pytest.raises(TopicUnsafe) as refused:
        require(kafka, definition)
    assert f"topic {definition.name} has {setting}={value}, expected " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_copy_of_the_data_is_a_fault_unless_it_is_meant(kafka_bench: KafkaBench) -> None:
    definition = kafka_bench.definition()
    create(kafka_bench.kafka(), definition, 1)
    faults = check(kafka_bench.kafka(one_node=False), definition)
    assert [fault.setting for fault in faults] == ["replication.factor", "min.insync.replicas"]
    assert all("FLOWLAKE_KAFKA_ONE_NODE" in fault.why for fault in faults)
    assert not check(kafka_bench.kafka(one_node=True), definition)


def test_three_copies_cannot_be_made_on_one_broker_and_it_says_what_to_do(kafka_bench: KafkaBench) -> None:
    with pytest.raises(KafkaRefused, match=r"needs 3 brokers.*FLOWLAKE_KAFKA_ONE_NODE=true"):
        create(kafka_bench.kafka(one_node=False), kafka_bench.definition(), 1)


def test_a_missing_topic_says_how_to_make_it(kafka_bench: KafkaBench) -> None:
    with pytest.raises(KafkaRefused, match="flowlake topics create"):
        check(kafka_bench.kafka(), kafka_bench.definition())


def test_looking_at_a_topics_settings_needs_a_right_of_its_own(kafka_bench: KafkaBench) -> None:
    definition = kafka_bench.definition()
    create(kafka_bench.kafka(), definition, 1)
    kafka = kafka_bench.kafka(kafka_bench.scram("nobody"))
    kafka_bench.allow("nobody", "DESCRIBE", definition.name)
    with pytest.raises(KafkaRefused, match=r"nobody may not check topic .*--operation DescribeConfigs"):
        check(kafka, definition)
    kafka_bench.allow("nobody", "DESCRIBE_CONFIGS", definition.name)
    assert not check(kafka, definition)


def test_the_command_makes_them_then_finds_them_sound_then_names_what_is_wrong(
    kafka_bench: KafkaBench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWLAKE_KAFKA_BOOTSTRAP_SERVERS", kafka_bench.broker.servers)
    monkeypatch.setenv("FLOWLAKE_KAFKA_ONE_NODE", "true")

    def run(*words: str) -> tuple[int, list[str]]:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        args = parser.parse_args(words)
        args.known = [*known_configs(), KafkaConfig]
        return command.run(args), capsys.readouterr().out.splitlines()

    code, said = run("check")
    assert code == 1 and len(said) == len(DEFINITIONS) and all("flowlake topics create" in line for line in said)
    try:
        code, said = run("create", "--partitions", "2")
        assert (code, said) == (0, [f"{name}: made, 2 partitions" for name in DEFINITIONS])
        kafka_bench.admin.wait_for_topics(list(DEFINITIONS))
        for action in ("create", "check"):
            assert run(action) == (0, [f"{name}: as it must be" for name in DEFINITIONS])
        kafka_bench.alter(FLOWS, {"retention.bytes": "1000"})
        while (found := run("check"))[0] == 0:
            continue
        assert found[1][0].startswith(f"{FLOWS}: retention.bytes=1000, expected -1: ")
    finally:
        kafka_bench.admin.delete_topics(list(DEFINITIONS))


def test_a_chunk_of_the_publisher_fits_the_topic() -> None:
    from transport.kafka_config import PublishConfig

    assert PublishConfig().chunk_bytes * 2 <= kafka_topics.MESSAGE_BYTES
