"""Ways in that work, on a real broker; and every way that does not: its own line, which says what to do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from services.certificates import Authority
from services.kafka_bench import KafkaBench
from services.kafka_broker import USERS

from transport.kafka_client import Kafka
from transport.kafka_config import KafkaConfig
from transport.kafka_diagnosis import split_server
from transport.kafka_errors import KafkaAbsent, KafkaRefused
from transport.kafka_reader import KafkaReader
from transport.kafka_topics import require
from transport.log import LogError


def failure(config: KafkaConfig, topic: str = "any") -> LogError:
    """What asking for a topic raises. No secret is in it, nor in its traceback."""
    with Kafka(replace(config, connect_seconds=2, request_seconds=3)) as kafka, pytest.raises(LogError) as raised:
        kafka.topic(topic)
    text = "".join(traceback.format_exception(raised.value)) + repr(config)
    assert "\n" not in str(raised.value)
    assert not any(password in text for password in (*USERS.values(), "secret-of-mine"))
    return raised.value


def test_a_sidecar_needs_to_describe_and_write_and_nothing_else(kafka_bench: KafkaBench) -> None:
    for user, config in (("sidecar", kafka_bench.scram()), ("CN=sidecar-host", kafka_bench.mutual_tls())):
        topic = kafka_bench.topic()
        definition = replace(kafka_bench.definition(), name=topic)
        kafka_bench.allow(user, "DESCRIBE DESCRIBE_CONFIGS WRITE", topic)
        kafka = kafka_bench.kafka(config)
        require(kafka, definition)
        kafka.topic(topic)
        with pytest.raises(KafkaRefused, match="may not read from"):
            KafkaReader(kafka, topic, 0, commit=lambda _: None).read(
                0, stop_before=None, appended_before_us=None, max_bytes=1
            )


def test_an_enricher_needs_to_describe_and_read_and_nothing_else(kafka_bench: KafkaBench) -> None:
    topic = kafka_bench.topic()
    kafka_bench.write(topic, b"value")
    kafka_bench.allow("enricher", "DESCRIBE READ", topic)
    reader = KafkaReader(kafka_bench.kafka(kafka_bench.scram("enricher")), topic, 0, commit=lambda _: None)
    ((message,),) = (reader.read(0, stop_before=None, appended_before_us=None, max_bytes=1).messages,)
    assert message.value == b"value" and reader.bounds() == (0, 1)


def test_a_password_may_come_from_a_file_and_may_be_changed_there(kafka_bench: KafkaBench, tmp_path: Path) -> None:
    topic = kafka_bench.topic()
    kafka_bench.allow("sidecar", "DESCRIBE", topic)
    file = tmp_path / "password"
    file.write_text("secret-of-mine\n")
    config = kafka_bench.scram(password=None, password_file=file)
    with Kafka(config) as kafka:
        with pytest.raises(KafkaRefused, match="does not accept the credentials of sidecar"):
            kafka.topic(topic)
        file.write_text(USERS["sidecar"] + "\n")
        assert kafka.topic(topic).name == topic  # without a restart


def test_a_wrong_password_and_an_unknown_user_are_refused_credentials(kafka_bench: KafkaBench) -> None:
    for config in (kafka_bench.scram(password="secret-of-mine"), kafka_bench.scram("stranger")):
        error = failure(config)
        assert isinstance(error, KafkaRefused)
        assert f"does not accept the credentials of {config.username} (SCRAM-SHA-512)" in str(error)
        assert "FLOWLAKE_KAFKA_USERNAME" in str(error)


def test_an_unknown_authority_is_said_with_the_setting_that_mends_it(kafka_bench: KafkaBench, tmp_path: Path) -> None:
    other = Authority(tmp_path, "someone else")
    for config in (kafka_bench.scram(ca_file=other.cert), kafka_bench.scram(ca_file=None)):
        error = failure(config)
        assert isinstance(error, KafkaRefused)
        assert "is not trusted by" in str(error) and "Set FLOWLAKE_KAFKA_CA_FILE" in str(error)


def test_a_certificate_for_another_name_is_said_so(kafka_bench: KafkaBench, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = authority.sign("broker", subject="DNS:broker.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=_shake_hands, args=(listening, context))
        answering.start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        error = failure(kafka_bench.scram(bootstrap_servers=address, ca_file=authority.cert))
        answering.join()
    assert isinstance(error, KafkaRefused)
    assert f"the certificate of Kafka at {address} is not for 127.0.0.1; use a name that stands in it" in str(error)


def _shake_hands(listening: socket.socket, context: ssl.SSLContext) -> None:
    connection, _ = listening.accept()
    with connection, contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True):
        pass


def test_plaintext_to_a_port_with_tls_names_the_protocol_to_set(kafka_bench: KafkaBench) -> None:
    error = failure(kafka_bench.config(bootstrap_servers=kafka_bench.broker.at("MTLS")))
    assert isinstance(error, KafkaRefused)
    assert "speaks TLS, but FLOWLAKE_KAFKA_SECURITY_PROTOCOL is PLAINTEXT" in str(error)
    error = failure(
        kafka_bench.scram(security_protocol="SASL_PLAINTEXT", bootstrap_servers=kafka_bench.broker.at("SASL"))
    )
    assert "speaks TLS, but FLOWLAKE_KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT. Set it to SASL_SSL" in str(error)


def test_tls_to_a_port_without_it_is_said_so(kafka_bench: KafkaBench) -> None:
    error = failure(kafka_bench.scram(bootstrap_servers=kafka_bench.broker.servers))
    assert isinstance(error, KafkaRefused)
    assert "does not speak TLS, but FLOWLAKE_KAFKA_SECURITY_PROTOCOL is SASL_SSL" in str(error)


def test_a_missing_or_foreign_certificate_is_said_so(kafka_bench: KafkaBench, tmp_path: Path) -> None:
    foreign = Authority(tmp_path, "someone else").sign("stranger")
    shown: dict[str, Any] = {"cert_file": foreign.cert, "key_file": foreign.key}
    for settings in ({"cert_file": None, "key_file": None}, shown):
        error = failure(kafka_bench.mutual_tls(**settings))
        assert isinstance(error, KafkaRefused)
        assert "Set FLOWLAKE_KAFKA_CERT_FILE and FLOWLAKE_KAFKA_KEY_FILE" in str(error)


def test_a_host_that_does_not_exist_is_said_so(kafka_bench: KafkaBench) -> None:
    error = failure(kafka_bench.config(bootstrap_servers="no-such-host.invalid:9092"))
    assert isinstance(error, KafkaAbsent) and "there is no host no-such-host.invalid" in str(error)


def test_a_port_where_nobody_listens_is_said_so(kafka_bench: KafkaBench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    error = failure(kafka_bench.config(bootstrap_servers=f"127.0.0.1:{port}"))
    assert isinstance(error, KafkaAbsent) and f"nobody listens at 127.0.0.1:{port}" in str(error)


def test_a_server_that_is_silent_is_said_so(kafka_bench: KafkaBench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        for config in (kafka_bench.config(bootstrap_servers=address), kafka_bench.scram(bootstrap_servers=address)):
            error = failure(config)
            assert isinstance(error, KafkaAbsent) and "accepts connections but does not answer" in str(error)


def test_no_right_to_a_topic_says_which_right(kafka_bench: KafkaBench) -> None:
    topic = kafka_bench.topic()
    error = failure(kafka_bench.scram("nobody"), topic)
    assert isinstance(error, KafkaRefused)
    assert f"nobody may not describe topic {topic}" in str(error)
    assert f"--allow-principal User:nobody --operation Describe --topic {topic}" in str(error)


def test_one_server_of_several_is_enough(kafka_bench: KafkaBench) -> None:
    topic = kafka_bench.topic()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = f"127.0.0.1:{listening.getsockname()[1]}"
    kafka = kafka_bench.kafka(bootstrap_servers=f"{closed},{kafka_bench.broker.servers}")
    assert kafka.topic(topic).name == topic


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("broker:19092", ("broker", 19092)),
        ("broker", ("broker", 9092)),
        ("[::1]:19092", ("::1", 19092)),
        ("::1", ("::1", 9092)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
    ],
)
def test_a_server_is_split_as_people_write_it(server: str, expected: tuple[str, int]) -> None:
    assert split_server(server) == expected
