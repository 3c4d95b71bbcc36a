"""Settings of the way to Kafka, the same for every process."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings import KiB, MiB, setting

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
PASSWORD_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
MECHANISMS = (*PASSWORD_MECHANISMS, "AWS_MSK_IAM")


@dataclass(frozen=True)
class KafkaConfig:
    """How to reach Kafka, and as whom"""

    bootstrap_servers: str | None = setting(
        None,
        "brokers to ask first, host:port with commas between; without it the spool itself is the log",
        name="kafka_bootstrap_servers",
    )
    security_protocol: str = setting("PLAINTEXT", f"one of {', '.join(PROTOCOLS)}", name="kafka_security_protocol")
    sasl_mechanism: str | None = setting(
        None,
        f"one of {', '.join(MECHANISMS)}, with SASL_...; AWS_MSK_IAM takes the AWS credentials of its surroundings",
        name="kafka_sasl_mechanism",
    )
    username: str | None = setting(None, "user of PLAIN and SCRAM", name="kafka_username")
    password: str | None = setting(None, "password of that user", name="kafka_password", secret=True)
    password_file: Path | None = setting(
        None, "file that holds the password and nothing else; read anew at every connection", name="kafka_password_file"
    )
    ca_file: Path | None = setting(None, "certificates to trust (PEM) in place of the system's", name="kafka_ca_file")
    cert_file: Path | None = setting(
        None, "certificate to show (PEM, with its chain), for mutual TLS", name="kafka_cert_file"
    )
    key_file: Path | None = setting(None, "key of that certificate (PEM, not encrypted)", name="kafka_key_file")
    client_id: str = setting("flowlake", "name of this client in the brokers' logs and quotas", name="kafka_client_id")
    one_node: bool = setting(
        False,
        "topics need no replicas: for a cluster of one broker, whose disk then holds the only copy",
        name="kafka_one_node",
    )
    connect_seconds: float = setting(
        10.0,
        "how long to look for a broker before saying that there is none",
        name="kafka_connect_seconds",
        minimum=0.1,
    )
    request_seconds: float = setting(
        30.0,
        "a broker that is silent for so long is taken for gone: the connection is replaced, and the request repeated",
        name="kafka_request_seconds",
        minimum=0.5,
    )
    fetch_bytes: int = setting(
        MiB,
        "bytes in one fetch from a partition; what a reader holds at most, unless one batch is larger",
        name="kafka_fetch_bytes",
        minimum=KiB,
    )

    def __post_init__(self) -> None:
        _expect("kafka_security_protocol", self.security_protocol, PROTOCOLS)
        if self.uses_sasl:
            _expect("kafka_sasl_mechanism", self.sasl_mechanism, MECHANISMS)
        elif self.sasl_mechanism is not None:
            raise ValueError(
                f"kafka_sasl_mechanism is {self.sasl_mechanism}, but kafka_security_protocol is "
                f"{self.security_protocol}: set that to SASL_SSL"
            )
        if self.sasl_mechanism in PASSWORD_MECHANISMS:
            if self.username is None or (self.password is None and self.password_file is None):
                raise ValueError(
                    f"kafka_sasl_mechanism is {self.sasl_mechanism}: give kafka_username, and kafka_password_file or "
                    "FLOWLAKE_KAFKA_PASSWORD"
                )
            if self.password is not None and self.password_file is not None:
                raise ValueError("kafka_password and kafka_password_file are both given; one of them is meant")
        if self.sasl_mechanism == "AWS_MSK_IAM" and self.security_protocol != "SASL_SSL":
            raise ValueError("kafka_sasl_mechanism is AWS_MSK_IAM: set kafka_security_protocol to SASL_SSL")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("kafka_cert_file and kafka_key_file go together; one of them is missing")

    @property
    def uses_tls(self) -> bool:
        return self.security_protocol in ("SSL", "SASL_SSL")

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL_")

    def ssl_context(self) -> ssl.SSLContext:
        """What to trust and what to show. Raises ValueError that names the setting."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"kafka_ca_file is {self.ca_file}, expected certificates as PEM: {_why(error)}") from error
        if self.cert_file is not None and self.key_file is not None:
            try:
                # A password that is never right: or OpenSSL would ask for one on the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password="")
            except (OSError, ssl.SSLError) as error:
                raise ValueError(
                    f"kafka_cert_file is {self.cert_file} and kafka_key_file {self.key_file}, expected a certificate "
                    f"and its key as PEM, not encrypted: {_why(error)}"
                ) from error
        return context

    def client_options(self) -> dict[str, Any]:
        """The client library's options for one connection. Raises ValueError that names the setting."""
        options: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in (self.bootstrap_servers or "").split(",")],
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "request_timeout_ms": int(self.request_seconds * 1000),
            "socket_connection_setup_timeout_ms": int(self.connect_seconds * 1000),
            "reconnect_backoff_max_ms": 1000,  # the library's 30 s make a broker's return last 16
            # One fetch, or one batch that is larger: the library's guard against a length that is nonsense.
            "receive_message_max_bytes": max(100 * MiB, 2 * self.fetch_bytes),
        }
        if self.uses_tls:
            options["ssl_context"] = self.ssl_context()
        if self.uses_sasl:
            options["sasl_mechanism"] = self.sasl_mechanism
        if self.sasl_mechanism in PASSWORD_MECHANISMS:
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = self._password()
        return options

    def _password(self) -> str | None:
        if self.password_file is None:
            return self.password
        try:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"kafka_password_file is {self.password_file}: {_why(error)}") from None


@dataclass(frozen=True)
class PublishConfig:
    """From the spool to Kafka"""

    chunk_bytes: int = setting(
        512 * KiB,
        "batches sent at once, and so what is unacknowledged at most; must fit the topic's max.message.bytes",
        name="publish_chunk_bytes",
        minimum=KiB,
    )
    backlog_bytes: int = setting(
        16 * MiB,
        "of a backlog, so many bytes are sent in a second at most: five times what a busy host makes",
        name="publish_backlog_bytes",
        minimum=KiB,
    )
    backlog_after_seconds: float = setting(
        15.0, "batches older than this are a backlog", name="publish_backlog_after_seconds"
    )
    compression: str = setting("zstd", "none, gzip or zstd", name="publish_compression")

    def __post_init__(self) -> None:
        _expect("publish_compression", self.compression, ("none", "gzip", "zstd"))


def _expect(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")


def _why(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
    return str(reason).lower()
