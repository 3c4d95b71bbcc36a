"""A real S3 server on loopback: versitygw over a directory, as infra/build-test-servers builds it."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import boto3.session
from skipping import missing

from lake.s3_client import S3Client, client_config
from lake.s3_patience import Patience

VERSION = "v1.8.0"
START_SECONDS = 60.0  # never reached unless something is wrong

# Of a test's store: short, since a test's server answers at once or never.
QUICK = Patience(
    connect_seconds=2.0, read_seconds=1.0, give_up_seconds=1.0, first_backoff_seconds=0.01, last_backoff_seconds=0.5
)


@dataclass(frozen=True, slots=True)
class Keys:
    access: str
    secret: str


ROOT = Keys("test-root", "a-secret-of-tests")


def versitygw_program() -> Path:
    """The server's program. Ends the test where it was not built."""
    cache = Path(os.environ.get("FLOWLAKE_TEST_CACHE") or Path.home() / ".cache/flowlake")
    program = cache / f"versitygw-{VERSION}" / "versitygw"
    if not program.exists():
        missing("the S3 server of the tests is not built: run infra/build-test-servers")
    return program


class Versitygw:
    """A context manager: the server runs within, on a port of its own, over a directory of the test's.

    The directory's folders are the buckets, their files the objects. iam: where it keeps users other than root.
    """

    def __init__(self, directory: Path, iam: Path | None = None, flags: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.port = _free_port()
        self._flags = [part for name, value in (flags or {}).items() for part in (f"--{name}", value)]
        self._flags += ["--iam-dir", str(iam)] if iam else []
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        self._session = boto3.session.Session()  # one, since it reads the description of S3 anew for each
        self._session_lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._log.close()

    def start(self) -> None:
        """On the same port as before."""
        process = subprocess.Popen(
            [versitygw_program(), "--port", f"127.0.0.1:{self.port}", *self._flags, "posix", str(self.directory)],
            env={"PATH": os.environ["PATH"], "ROOT_ACCESS_KEY": ROOT.access, "ROOT_SECRET_KEY": ROOT.secret},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        self._process = process
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _listens(self.port):
                if process.poll() is not None or time.monotonic() > deadline:
                    self._log.seek(0)
                    raise AssertionError(f"versitygw does not run: {self._log.read()[-2000:]}")
                time.sleep(0.02)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """kill -9: what it has answered is on disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self, keys: Keys = ROOT, patience: Patience = QUICK, url: str = "") -> Any:
        """boto3's own client of it: for tests to arrange and compare with, and for stores."""
        with self._session_lock:
            return self._session.client(
                "s3",
                region_name="us-east-1",
                endpoint_url=url or self.url,
                aws_access_key_id=keys.access,
                aws_secret_access_key=keys.secret,
                config=client_config(patience),
            )

    def connect(self, patience: Patience) -> S3Client:
        """For S3Store."""
        client: S3Client = self.client(patience=patience)
        return client

    def add_user(self, keys: Keys) -> None:
        """A user who may do only what bucket policies allow. Needs iam."""
        self._admin("create-user", "--access", keys.access, "--secret", keys.secret, "--role", "user")

    def _admin(self, *arguments: str) -> None:
        done = subprocess.run(
            [versitygw_program(), "admin", "-a", ROOT.access, "-s", ROOT.secret, "-er", self.url, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
