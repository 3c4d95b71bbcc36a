"""Settings of the sidecar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from settings import KiB, MiB, setting

PROBE_MODES = ("auto", "tp_btf", "raw_tracepoint")


@dataclass(frozen=True)
class SidecarConfig:
    """The per-host process"""

    interim_seconds: float = setting(
        60.0,
        "how often connections that stay open are reported, and listeners and network namespaces looked at",
        minimum=0.1,
    )
    batch_seconds: float = setting(
        1.0,
        "records wait at most so long for their batch; a second of them is lost if the process is killed",
        minimum=0.05,
    )
    batch_flows: int = setting(
        4096, "flows in one batch at most: about 400 kB, well under Kafka's usual bound of 1 MB a message", minimum=1
    )
    drain_seconds: float = setting(
        0.25, "how often the ring buffer is looked at; a ring that is half full wakes the sidecar at once", minimum=0.01
    )
    unspooled_bytes: int = setting(
        8 * MiB,
        "batches kept in memory while the spool's disk refuses them; beyond it the oldest go, counted",
        minimum=MiB,
    )
    probe_mode: str = setting(
        "auto", "auto, tp_btf or raw_tracepoint; auto takes tp_btf where the kernel has BTF", name="probe_mode"
    )
    probe_btf: Path | None = setting(None, "BTF file of the running kernel, where it has none of its own")
    probe_ring_bytes: int = setting(
        4 * MiB,
        "ring of final records, a power of two: 4 MiB hold 15,900, and half of that wakes the sidecar",
        minimum=4 * KiB,
    )
    probe_interim_ring_bytes: int = setting(
        2 * MiB, "ring of interim records, a power of two; it is drained while the sockets are walked", minimum=4 * KiB
    )
    network: str = setting("default", "name of the network that this host's routed addresses live in, such as a VPC")
    host_root: Path = setting(Path("/"), "where the host's root directory is mounted, if the sidecar is in a container")
    cluster: str | None = setting(None, "cluster of this host")
    region: str | None = setting(None, "region of this host")
    zone: str | None = setting(None, "zone of this host")
    account: str | None = setting(None, "cloud account of this host")

    def __post_init__(self) -> None:
        if self.probe_mode not in PROBE_MODES:
            raise ValueError(f"probe_mode is {self.probe_mode!r}, expected one of {', '.join(PROBE_MODES)}")
        for name in ("probe_ring_bytes", "probe_interim_ring_bytes"):
            size = getattr(self, name)
            if size & (size - 1):
                raise ValueError(f"{name} is {size}, expected a power of two (kernel/bpf/ringbuf.c)")
