"""Which server to begin with; and why there is none, each cause in its own line.

The client library says "Unable to bootstrap" to all causes, and waits for ever where a server accepts a connection and
then says nothing. So before it is let loose, the servers are asked by hand: the name, the port, TLS, a first answer.
"""

from __future__ import annotations

import socket
import ssl
import struct

from kafka import errors

from transport.kafka_config import KafkaConfig
from transport.kafka_errors import KafkaAbsent, KafkaRefused
from transport.log import LogError

DEFAULT_PORT = 9092
_PROBE_SECONDS = 5.0  # or kafka_connect_seconds, where that is less
# ApiVersions v0, which every broker answers before anything else: length, key 18, version 0, correlation id, client id.
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)


def wrong_password(config: KafkaConfig) -> LogError:
    return KafkaRefused(
        f"Kafka at {config.bootstrap_servers} does not accept the credentials of {user_of(config)} "
        f"({config.sasl_mechanism}): check FLOWLAKE_KAFKA_USERNAME and the password, or add that user to the cluster"
    )


def user_of(config: KafkaConfig) -> str:
    """What to call whom we come as."""
    if config.username is not None:
        return config.username
    if config.sasl_mechanism is not None:
        return f"the {config.sasl_mechanism} identity"
    if config.cert_file is not None:
        return f"the certificate in {config.cert_file}"
    return "ANONYMOUS"


def find_server(config: KafkaConfig) -> str:
    """The first bootstrap server that answers. Raises the most telling of what is wrong with them: a refusal over an
    absence; ValueError that names a setting.
    """
    found: list[LogError] = []
    for server in (config.bootstrap_servers or "").split(","):
        wrong = _wrong_with(config, server.strip())
        if wrong is None:
            return server.strip()
        found.append(wrong)
    raise next((wrong for wrong in found if isinstance(wrong, KafkaRefused)), found[0])


def not_connected(config: KafkaConfig, server: str, error: Exception) -> LogError:
    """Why a server that answers did not take us. error: what the client library ran into."""
    # A broker says no and closes at once; the library sometimes sees the end before it has read the answer.
    refused = (errors.SaslAuthenticationFailedError, errors.KafkaConnectionError)
    if config.uses_sasl and isinstance(error, refused):
        return wrong_password(config)
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return KafkaRefused(
            f"Kafka at {server} does not take {config.sasl_mechanism}: set FLOWLAKE_KAFKA_SASL_MECHANISM to one that "
            "its listener has"
        )
    if isinstance(error, errors.KafkaTimeoutError):
        return _silent(server)
    who = f"as {user_of(config)} by {config.security_protocol}"
    return KafkaAbsent(f"Kafka at {server} closed the connection, to which we came {who}; does that listener take it?")


def split_server(server: str) -> tuple[str, int]:
    """(host, port) of host:port; an IPv6 address with a port is in brackets."""
    host, colon, port = server.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        return server.strip("[]"), DEFAULT_PORT
    return host.strip("[]"), int(port) if port.isdigit() else DEFAULT_PORT


def _wrong_with(config: KafkaConfig, server: str) -> LogError | None:
    host, port = split_server(server)
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4]
    except OSError as error:
        return KafkaAbsent(
            f"there is no host {host} (FLOWLAKE_KAFKA_BOOTSTRAP_SERVERS is {config.bootstrap_servers}): "
            f"{(error.strerror or 'not found').lower()}"
        )
    try:
        with socket.create_connection((str(address[0]), port), _probe_seconds(config)) as connection:
            if config.uses_tls:
                return _probe_tls(config, connection, server, host)
            return _probe_plaintext(config, connection, server)
    except TimeoutError:
        return KafkaAbsent(f"nobody answers at {server}: timed out; is a firewall between, or the host down?")
    except OSError as error:
        return KafkaAbsent(f"nobody listens at {server}: {(error.strerror or str(error)).lower()}; waiting for Kafka")


def _probe_tls(config: KafkaConfig, connection: socket.socket, server: str, host: str) -> LogError | None:
    try:
        with config.ssl_context().wrap_socket(connection, server_hostname=host) as secured:
            # With TLS 1.3 a broker refuses our certificate only after the handshake, by an alert in place of an answer.
            secured.sendall(_API_VERSIONS)
            return None if secured.recv(4) else _closed(server)
    except ssl.SSLCertVerificationError as error:
        return KafkaRefused(_untrusted(config, server, host, error))
    except TimeoutError:
        return _silent(server)
    except ssl.SSLError as error:
        reason = (error.reason or "").replace("_", " ").lower()
        if "alert" in reason:
            shown = f"the certificate in {config.cert_file}" if config.cert_file else "no certificate"
            return KafkaRefused(
                f"Kafka at {server} refuses us, who showed {shown}: {reason}. Set FLOWLAKE_KAFKA_CERT_FILE and "
                "FLOWLAKE_KAFKA_KEY_FILE to a certificate that its brokers trust"
            )
        return _not_tls(config, server)
    except OSError:  # a broker without TLS takes our hello for a request of nonsense, and closes
        return _not_tls(config, server)


def _untrusted(config: KafkaConfig, server: str, host: str, error: ssl.SSLCertVerificationError) -> str:
    why = error.verify_message
    if "mismatch" in why.lower() or "doesn't match" in why:
        return f"the certificate of Kafka at {server} is not for {host}; use a name that stands in it"
    trusted = config.ca_file or "the system's certificates"
    return (
        f"the certificate of Kafka at {server} is not trusted by {trusted}: {why}. Set FLOWLAKE_KAFKA_CA_FILE to the "
        "certificate of who signed it"
    )


def _not_tls(config: KafkaConfig, server: str) -> LogError:
    plain = "SASL_PLAINTEXT" if config.uses_sasl else "PLAINTEXT"
    return KafkaRefused(
        f"Kafka at {server} does not speak TLS, but FLOWLAKE_KAFKA_SECURITY_PROTOCOL is {config.security_protocol}. "
        f"Use the port of its TLS listener, or set {plain}"
    )


def _probe_plaintext(config: KafkaConfig, connection: socket.socket, server: str) -> LogError | None:
    """A TLS listener answers nonsense with a TLS alert (content type 21), or closes."""
    connection.sendall(_API_VERSIONS)
    try:
        answer = connection.recv(5)
    except TimeoutError:
        return _silent(server)
    except ConnectionError:
        answer = b""
    if answer[:2] == b"\x15\x03" or (not answer and _speaks_tls(config, server)):
        secure = "SASL_SSL" if config.uses_sasl else "SSL, or SASL_SSL"
        return KafkaRefused(
            f"Kafka at {server} speaks TLS, but FLOWLAKE_KAFKA_SECURITY_PROTOCOL is {config.security_protocol}. "
            f"Set it to {secure}"
        )
    return None if answer else _closed(server)


def _silent(server: str) -> LogError:
    return KafkaAbsent(f"Kafka at {server} accepts connections but does not answer; waiting for it")


def _closed(server: str) -> LogError:
    return KafkaAbsent(f"Kafka at {server} closes every connection; waiting for it")


def _probe_seconds(config: KafkaConfig) -> float:
    return min(_PROBE_SECONDS, config.connect_seconds)


def _speaks_tls(config: KafkaConfig, server: str) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only whether it does; nothing is sent over it
    host, port = split_server(server)
    try:
        with (
            socket.create_connection((host, port), _probe_seconds(config)) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return True
    except OSError:
        return False
