"""What of the settings cannot be meant is said at start; what is secret is in no text."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import pytest
from services.certificates import Authority

from settings import load
from settings.errors import WrongUse
from transport.kafka_config import KafkaConfig, PublishConfig

SCRAM: dict[str, Any] = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "username": "sidecar",
    "password": "secret-of-mine",
}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"security_protocol": "TLS"}, "kafka_security_protocol is 'TLS', expected one of PLAINTEXT, SSL"),
        ({"sasl_mechanism": "PLAIN"}, "set that to SASL_SSL"),
        ({**SCRAM, "sasl_mechanism": "MD5"}, "kafka_sasl_mechanism is 'MD5', expected one of PLAIN"),
        ({**SCRAM, "username": None}, "give kafka_username"),
        ({**SCRAM, "password": None}, "kafka_password_file or FLOWLAKE_KAFKA_PASSWORD"),
        ({**SCRAM, "password_file": Path("/file")}, "both given"),
        ({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "AWS_MSK_IAM"}, "set kafka_security_protocol to"),
        ({"security_protocol": "SSL", "cert_file": Path("/file")}, "go together"),
    ],
)
def test_settings_that_cannot_be_meant_together_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        KafkaConfig(**settings)
    assert "secret-of-mine" not in str(refused.value)


@pytest.mark.parametrize("name", ["ca_file", "cert_file", "password_file"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    gone = tmp_path / "gone"
    config = {**SCRAM, name: gone}
    if name == "cert_file":
        config["key_file"] = gone
    if name == "password_file":
        config["password"] = None
    with pytest.raises(ValueError, match=f"kafka_{name} is {gone}.*no such file"):
        KafkaConfig(**config).client_options()


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(tmp_path: Path) -> None:
    certificate = Authority(tmp_path).sign("sidecar")
    encrypted = tmp_path / "encrypted.key"
    encrypt = ["openssl", "pkcs8", "-topk8", "-in", certificate.key, "-out", encrypted, "-passout", "pass:word"]
    subprocess.run(encrypt, check=True, capture_output=True)
    config = KafkaConfig(security_protocol="SSL", cert_file=certificate.cert, key_file=encrypted)
    with pytest.raises(ValueError, match="not encrypted"):
        config.client_options()


def test_secrets_are_in_no_text_and_the_last_newline_of_a_password_file_is_not_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret-of-mine \n")
    config = KafkaConfig(**{**SCRAM, "password": None, "password_file": file})
    assert config.client_options()["sasl_plain_password"] == "secret-of-mine "
    assert "secret-of-mine" not in repr(config) + repr(KafkaConfig(**SCRAM))


def test_msk_iam_passes_through() -> None:
    options = KafkaConfig(security_protocol="SASL_SSL", sasl_mechanism="AWS_MSK_IAM").client_options()
    assert options["sasl_mechanism"] == "AWS_MSK_IAM" and "sasl_plain_password" not in options


def test_they_load_from_the_environment_and_a_password_has_no_flag() -> None:
    environ = {
        "FLOWLAKE_KAFKA_BOOTSTRAP_SERVERS": "one:9093",
        "FLOWLAKE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "FLOWLAKE_KAFKA_SASL_MECHANISM": "PLAIN",
        "FLOWLAKE_KAFKA_USERNAME": "sidecar",
        "FLOWLAKE_KAFKA_PASSWORD": "secret-of-mine",
    }
    config = load(KafkaConfig, argparse.Namespace(), environ, known=[KafkaConfig, PublishConfig])
    assert (config.bootstrap_servers, config.password) == ("one:9093", "secret-of-mine")
    with pytest.raises(WrongUse, match="publish_compression is 'lz4', expected one of none, gzip, zstd"):
        load(PublishConfig, argparse.Namespace(), {"FLOWLAKE_PUBLISH_COMPRESSION": "lz4"}, known=[PublishConfig])
