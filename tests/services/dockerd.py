"""A Docker daemon of the test's own: its data, its sockets and its cgroups apart from any other on the machine.

Needs the Debian packages docker.io (with containerd and runc) and busybox-static. There is no image registry: the one
image is busybox, imported. Containers get no network, so that nothing of the machine's own is touched.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
IMAGE = "flowlake-busybox"
START_SECONDS = 40


def missing_programs() -> list[str]:
    """What this machine lacks to run a daemon."""
    missing = [name for name in ("dockerd", "containerd", "runc", "docker") if shutil.which(name) is None]
    return missing if BUSYBOX.exists() else [*missing, str(BUSYBOX)]


class Dockerd:
    """A context manager: the daemon runs within, and nothing of it is left behind."""

    def __init__(self) -> None:
        # A socket's path has at most 107 bytes, so not pytest's own long directories.
        self.directory = Path(tempfile.mkdtemp(prefix="flowlake-dockerd-"))
        self.data_root = self.directory / "data"
        self._host = f"unix://{self.directory / 'docker.sock'}"
        self._process: subprocess.Popen[bytes] | None = None
        self._cgroups_before = set(_docker_cgroups())

    def __enter__(self) -> Dockerd:
        config = self.directory / "daemon.json"
        config.write_text(
            json.dumps(
                {
                    "data-root": str(self.data_root),
                    "exec-root": str(self.directory / "exec"),
                    "pidfile": str(self.directory / "docker.pid"),
                    "hosts": [self._host],
                    "bridge": "none",
                    "iptables": False,
                    "ip6tables": False,
                    "ip-forward": False,
                    "ip-masq": False,
                    "exec-opts": ["native.cgroupdriver=cgroupfs"],
                    # Where the machine forbids raising limits (no CAP_SYS_RESOURCE), ask for less.
                    "default-ulimits": {
                        "nofile": {"Name": "nofile", "Soft": 1024, "Hard": 1024},
                        "nproc": {"Name": "nproc", "Soft": 1024, "Hard": 1024},
                    },
                }
            )
        )
        log = (self.directory / "dockerd.log").open("wb")
        with log:
            self._process = subprocess.Popen(
                ["dockerd", "--config-file", str(config)], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self._wait_until_ready(self._process)
            self._import_busybox()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            if self._process.poll() is None and (containers := self.run("ps", "-aq", check=False).split()):
                self.run("rm", "-f", *containers, check=False)
            self._process.terminate()
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for mount in _mounts_below(self.directory):
            subprocess.run(["umount", "-l", mount], check=False)
        for cgroup in set(_docker_cgroups()) - self._cgroups_before:
            for directory, _, _ in os.walk(cgroup, topdown=False):
                Path(directory).rmdir()
        shutil.rmtree(self.directory)

    def run(self, *arguments: str, check: bool = True) -> str:
        """One `docker` command; its output without the final newline."""
        done = subprocess.run(
            ["docker", "--host", self._host, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=os.environ | {"DOCKER_CONFIG": str(self.directory / "client")},
        )
        if check and done.returncode:
            raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr}")
        return done.stdout.strip()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.run("version", "--format", "{{.Server.Version}}", check=False):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"dockerd does not run: {(self.directory / 'dockerd.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def _import_busybox(self) -> None:
        body = io.BytesIO()
        with tarfile.open(fileobj=body, mode="w") as archive:
            archive.add(BUSYBOX.resolve(), "bin/busybox")
            for name in ("sh", "sleep"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
        archive_file = self.directory / "busybox.tar"
        archive_file.write_bytes(body.getvalue())
        self.run("import", str(archive_file), IMAGE)


def _docker_cgroups() -> list[Path]:
    """The parents that the cgroupfs driver makes, in every hierarchy, and leaves behind."""
    return [path for path in (Path("/sys/fs/cgroup/docker"), *Path("/sys/fs/cgroup").glob("*/docker")) if path.is_dir()]


def _mounts_below(directory: Path) -> list[str]:
    mount_points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((path for path in mount_points if path.startswith(f"{directory}/")), reverse=True)
