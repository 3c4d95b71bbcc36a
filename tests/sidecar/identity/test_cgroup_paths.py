"""What paths name: examples as real hosts write them."""

from __future__ import annotations

import pytest

from sidecar.identity.paths import Container, Owner, Pod, Unit, parse_path

ID = "9e1dc3a5f4b6a7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6"
OTHER = ID[::-1]
UID = "0f3a1b2c-4d5e-6f70-8192-a3b4c5d6e7f8"
UID_ = UID.replace("-", "_")
STATIC = "8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d"
USER = "/user.slice/user-1000.slice/user@1000.service"

PATHS: dict[str, Owner | None] = {
    # Kubernetes, cgroupfs driver: each class of service, static pods, below a parent, pod only, systemd inside
    f"/kubepods/burstable/pod{UID}/{ID}": Pod(UID, ID),
    f"/kubepods/besteffort/pod{UID}/{ID}": Pod(UID, ID),
    f"/kubepods/pod{UID}/{ID}": Pod(UID, ID),
    f"/kubepods/burstable/pod{STATIC}/{ID}": Pod(STATIC, ID),
    f"/kubelet/kubepods/burstable/pod{UID}/{ID}": Pod(UID, ID),
    f"/kubepods/burstable/pod{UID}": Pod(UID, None),
    f"/kubepods/burstable/pod{UID}/{ID}/init.scope": Pod(UID, ID),
    f"/kubepods/burstable/pod{UID}/{ID}/system.slice/nginx.service": Pod(UID, ID),
    f"/kubepods/burstable/pod{UID}/crio-{ID}": Pod(UID, ID),
    "/kubepods/burstable": Container("containerd", "burstable", "kubepods", certain=False),
    # Kubernetes, systemd driver: every runtime, below a parent, containerd left on cgroupfs under a systemd kubelet
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope": Pod(
        UID, ID
    ),
    f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/crio-{ID}.scope": Pod(UID, ID),
    f"/kubepods.slice/kubepods-pod{UID_}.slice/docker-{ID}.scope": Pod(UID, ID),
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/cri-containerd-{ID}.scope": Pod(
        STATIC, ID
    ),
    f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UID_}.slice"
    f"/cri-containerd-{ID}.scope": Pod(UID, ID),
    f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}": Pod(UID, ID),
    f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope/container": Pod(UID, ID),
    f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope/docker/{OTHER}": Pod(UID, ID),
    f"/kubepods.slice/kubepods-pod{UID_}.slice": Pod(UID, None),
    f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-conmon-{ID}.scope": Unit(f"crio-conmon-{ID}.scope"),
    "/kubepods.slice": None,
    # A node in a container (kind): its pods are the workloads, its own services are the node's
    f"/docker/{OTHER}/kubelet/kubepods/burstable/pod{UID}/{ID}": Pod(UID, ID),
    f"/docker/{ID}/system.slice/kubelet.service": Container("docker", ID),
    # Seen from inside a cgroup namespace: what kind of thing lies two levels up cannot be told
    f"/../../pod{UID}/{ID}": None,
    f"/../{ID}": None,
    # Docker: drivers, nested, a parent of one's own, ECS, build steps
    f"/docker/{ID}": Container("docker", ID),
    f"/docker/{ID}/docker/{OTHER}": Container("docker", ID),
    f"/system.slice/docker-{ID}.scope": Container("docker", ID),
    f"/system.slice/docker-{ID}.scope/init.scope": Container("docker", ID),
    f"{USER}/user.slice/docker-{ID}.scope": Container("docker", ID),
    f"/my-batch/jobs/{ID}": Container("", ID),
    f"/my-batch/{ID}": Container("", ID, "my-batch"),
    f"/my.slice/docker-{ID}.scope": Container("docker", ID),
    f"/ecs/61f2a7d0c8e94a5f9b1e/{ID}": Container("", ID),
    f"/actions_job/{ID}": Container("", ID, "actions_job"),
    "/docker": None,
    "/docker/buildkit/qcdzbq9j5ly1nlcp5gmbrmr5w": Container("containerd", "buildkit", "docker", certain=False),
    "/system.slice/docker.service": Unit("docker.service"),
    # podman: rootful, rootless, cgroupfs, its monitor
    f"/machine.slice/libpod-{ID}.scope": Container("podman", ID),
    f"/machine.slice/libpod-{ID}.scope/container": Container("podman", ID),
    f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope": Container("podman", ID),
    f"/libpod_parent/libpod-{ID}": Container("podman", ID),
    f"{USER}/user.slice/libpod-{ID}.scope/container": Container("podman", ID),
    f"/machine.slice/libpod-conmon-{ID}.scope": Unit(f"libpod-conmon-{ID}.scope"),
    f"{USER}/user.slice/podman-1234.scope": Unit("podman-1234.scope", "1000"),
    # containerd: nerdctl makes up ids, `ctr run` takes what somebody typed
    f"/default/{ID}": Container("", ID, "default"),
    f"/system.slice/nerdctl-{ID}.scope": Container("containerd", ID),
    "/default/redis": Container("containerd", "redis", "default", certain=False),
    "/process_api/db615261f5a006386a13b2db1c9e65a3": Container(
        "containerd", "db615261f5a006386a13b2db1c9e65a3", "process_api", certain=False
    ),
    # LXC and LXD, nspawn
    "/lxc/web": Container("lxc", "web"),
    "/lxc.payload/web": Container("lxc", "web"),
    "/lxc.payload.web/system.slice/nginx.service": Container("lxc", "web"),
    "/lxc.payload.project_web/init.scope": Container("lxc", "project_web"),
    "/lxc.monitor.web": None,
    "/machine.slice/systemd-nspawn@build.service/payload/system.slice/ssh.service": Container("nspawn", "build"),
    r"/machine.slice/systemd-nspawn@my\x2dbuild.service/payload": Container("nspawn", "my-build"),
    "/machine.slice/systemd-nspawn@build.service/supervisor": Unit("systemd-nspawn@build.service"),
    r"/machine.slice/machine-debian\x2d12.scope/payload": Container("nspawn", "debian-12"),
    r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/vcpu0": Unit(r"machine-qemu\x2d1\x2dvm.scope"),
    # systemd
    "/system.slice/nginx.service": Unit("nginx.service"),
    "/system.slice/system-postgresql.slice/postgresql@14-main.service": Unit("postgresql@14-main.service"),
    "/system.slice/foo.service/worker/3": Unit("foo.service"),
    "/system.slice/systemd-udevd.service/udev": Unit("systemd-udevd.service"),
    "/a.slice/a-b.slice/a-b-c.slice/job.service": Unit("job.service"),
    r"/system.slice/dev\x2dsync.service": Unit(r"dev\x2dsync.service"),
    "/user.slice/user-1000.slice/session-3.scope": Unit("session-3.scope"),
    f"{USER}/app.slice/syncthing.service": Unit("syncthing.service", "1000"),
    f"{USER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-{UID}.scope": Unit(f"vte-spawn-{UID}.scope", "1000"),
    f"{USER}/init.scope": Unit("user@1000.service"),
    f"{USER}/session.slice/org.gnome.Shell@wayland.service": Unit("org.gnome.Shell@wayland.service", "1000"),
    "/init.scope": Unit("init.scope"),
    "/system.slice/run-u12.service": Unit("run-u12.service"),
    "/system.slice": None,
    # A systemd below something unknown is not the host's
    "/foo/bar.slice/nginx.service": Container("containerd", "bar.slice", "foo", certain=False),
    "/": None,
    "": None,
    "/..": None,
    "/batch": None,
    f"/{ID[:40]}": None,
    f"/x/{ID.upper()}": Container("containerd", ID.upper(), "x", certain=False),
    "/x/../../etc": None,
}


@pytest.mark.parametrize(("path", "owner"), PATHS.items())
def test_a_path_names_its_owner(path: str, owner: Owner | None) -> None:
    assert parse_path(path) == owner
