"""Certificates of the test's own, by the openssl command: an authority, and whoever it vouches for."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from skipping import missing

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


@dataclass(frozen=True)
class Certificate:
    """cert and key as PEM."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates for 127.0.0.1, valid for two days. Its files lie in a directory of the test's."""

    def __init__(self, directory: Path, name: str = "flowlake-test-ca") -> None:
        if shutil.which("openssl") is None:
            missing("certificates need the openssl command")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = directory / "ca.key"
        self.cert = directory / "ca.pem"
        _openssl("req", "-x509", *_KEY, "-keyout", self._key, "-out", self.cert, "-subj", f"/CN={name}", "-days", "2")

    def sign(self, name: str, subject: str = "IP:127.0.0.1,DNS:localhost") -> Certificate:
        """A certificate with CN=name, for whom `subject` says (X.509's alternative names)."""
        key, request, cert, extension = (self._directory / f"{name}{end}" for end in (".key", ".csr", ".pem", ".ext"))
        extension.write_text(f"subjectAltName={subject}\n")
        _openssl("req", *_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signing = ["-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-days", "2", "-extfile", extension]
        _openssl("x509", "-req", "-in", request, "-out", cert, *signing)
        return Certificate(cert, key)

    def key_store(self, certificate: Certificate) -> Path:
        """Key, certificate and authority in one file, as Kafka's PEM key stores have it."""
        store = certificate.cert.with_suffix(".store")
        store.write_bytes(certificate.key.read_bytes() + certificate.cert.read_bytes() + self.cert.read_bytes())
        return store


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
