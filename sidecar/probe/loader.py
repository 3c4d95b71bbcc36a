"""From an object file to attached programs: opens, sizes the maps, writes the settings, loads, attaches.

What differs between kernels is decided by their own type information, never by their version.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from settings.errors import FlowlakeError
from sidecar.probe.abi import SETTINGS
from sidecar.probe.btf import KERNEL_BTF, Btf
from sidecar.probe.libbpf import (
    IterOptions,
    LibbpfError,
    OpenOptions,
    ProgramInfo,
    forget_messages,
    library,
    number,
    pointer,
)

ITERATORS: Final = frozenset({"walk", "adopt_listeners", "adopt_connections", "adopt_orphans"})


class Mode(StrEnum):
    """How the programs are attached."""

    TP_BTF = "tp_btf"
    RAW_TRACEPOINT = "raw_tracepoint"

    @property
    def object_name(self) -> str:
        """The file that bpf/Makefile builds for it."""
        return "flowlake.bpf.o" if self is Mode.TP_BTF else "flowlake_raw.bpf.o"


class ProbeError(FlowlakeError):
    """The probe cannot be loaded. `log` is what libbpf and the verifier said, whole."""

    def __init__(self, message: str, log: str = "") -> None:
        self.log = log
        super().__init__(message)


@dataclass(frozen=True)
class ObjectSettings:
    """What is fixed before the programs are loaded."""

    map_sizes: dict[str, int]  # bytes of ring buffers, entries of hash maps, by map name
    final_ring_bytes: int
    jiffies_per_second: int
    cgroup_v1_controller: str | None  # whose v1 hierarchy names owners


@dataclass(frozen=True)
class ProgramStats:
    """What one program did and cost; the times are counted while kernel.bpf_stats_enabled is 1."""

    name: str
    run_count: int
    run_time_ns: int
    recursion_misses: int  # calls left out because the program was running on that CPU already


@dataclass
class LoadedObject:
    """A loaded and attached object; close() detaches and frees all of it."""

    mode: Mode
    handle: int
    links: dict[str, int] = field(default_factory=dict)

    def map_fd(self, name: str) -> int:
        """The descriptor of a map, which stays the object's. Raises ProbeError if the object has none of that name."""
        found = library().bpf_object__find_map_by_name(self.handle, name.encode())
        if not found:
            raise ProbeError(f"the probe's object has no map {name}: it belongs to another version, build it again")
        return number(library().bpf_map__fd(found), f"cannot use the map {name}")

    def iterate(self, program: str) -> int:
        """A new descriptor that runs an iterator from its beginning as it is read; the caller closes it."""
        return number(
            library().bpf_iter_create(library().bpf_link__fd(self.links[program])), f"cannot run the iterator {program}"
        )

    def run(self, program: str) -> None:
        """Runs an iterator that writes nothing, once over everything."""
        fd = self.iterate(program)
        try:
            while os.read(fd, 4096):
                pass
        finally:
            os.close(fd)

    def statistics(self) -> list[ProgramStats]:
        """Of every program."""
        statistics = []
        for name, program in programs(self.handle):
            info = ProgramInfo()
            length = ctypes.c_uint32(ctypes.sizeof(info))
            number(
                library().bpf_obj_get_info_by_fd(
                    library().bpf_program__fd(program), ctypes.byref(info), ctypes.byref(length)
                ),
                f"cannot ask the kernel about the program {name}",
            )
            statistics.append(ProgramStats(name, info.run_count, info.run_time_ns, info.recursion_misses))
        return statistics

    def detach(self) -> None:
        """Stops every program; the maps stay."""
        for link in self.links.values():
            library().bpf_link__destroy(link)
        self.links.clear()

    def close(self) -> None:
        """Detaches and unloads."""
        self.detach()
        library().bpf_object__close(self.handle)


def programs(handle: int) -> Iterator[tuple[str, int]]:
    """Name and handle of every program of an opened object."""
    lib = library()
    program = lib.bpf_object__next_program(handle, None)
    while program:
        yield lib.bpf_program__name(program).decode(), program
        program = lib.bpf_object__next_program(handle, program)


def load(mode: Mode, path: Path, btf_path: Path | None, settings: ObjectSettings) -> LoadedObject:
    """Opens, loads and attaches the object at `path`.

    btf_path: BTF of the running kernel where that has none of its own. Raises ProbeError.
    """
    if not path.exists():
        raise ProbeError(f"cannot load the probe: {path} is not there. Build it with: make -C bpf")
    lib = library()
    forget_messages()
    try:
        with Btf(btf_path or KERNEL_BTF) as btf:
            options = OpenOptions(sz=ctypes.sizeof(OpenOptions))
            options.btf_custom_path = str(btf_path).encode() if btf_path else None
            handle = pointer(
                lib.bpf_object__open_file(str(path).encode(), ctypes.byref(options)), f"cannot open {path}"
            )
            loaded = LoadedObject(mode, handle)
            try:
                _settle(handle, btf, settings)
                number(lib.bpf_object__load(handle), "this kernel refuses the probe's programs")
                _attach(loaded)
            except BaseException:
                loaded.close()
                raise
    except LibbpfError as error:
        raise ProbeError(f"cannot load the probe ({mode}): {error}", error.log) from error
    return loaded


def _settle(handle: int, btf: Btf, settings: ObjectSettings) -> None:
    """Sizes the maps and writes the settings."""
    lib = library()
    for name, size in settings.map_sizes.items():
        found = lib.bpf_object__find_map_by_name(handle, name.encode())
        if found:  # the raw object has fewer
            number(lib.bpf_map__set_max_entries(found, size), f"cannot size the map {name}")
    _write_settings(handle, btf, settings)


def _write_settings(handle: int, btf: Btf, settings: ObjectSettings) -> None:
    subsystem = None
    if settings.cgroup_v1_controller is not None:
        subsystem = btf.enum_value("cgroup_subsys_id", f"{settings.cgroup_v1_controller}_cgrp_id")
    size = ctypes.c_size_t()
    found = library().bpf_object__find_map_by_name(handle, b".rodata.settings")
    where = library().bpf_map__initial_value(found, ctypes.byref(size)) if found else None
    if not where or size.value != SETTINGS.itemsize:
        raise ProbeError("the probe's object has other settings: it belongs to another version, build it again")
    value: NDArray[np.void] = np.zeros(1, SETTINGS)
    value["final_ring_bytes"] = settings.final_ring_bytes
    value["jiffies_per_second"] = settings.jiffies_per_second
    value["cgroup_v1_subsys"] = -1 if subsystem is None else subsystem
    ctypes.memmove(where, value.tobytes(), size.value)


def _attach(loaded: LoadedObject) -> None:
    lib = library()
    for name, program in programs(loaded.handle):
        what = f"cannot attach the program {name}"
        if name not in ITERATORS:
            loaded.links[name] = pointer(lib.bpf_program__attach(program), what)
            continue
        options = IterOptions(sz=ctypes.sizeof(IterOptions))
        if name == "walk":
            map_fd = ctypes.c_uint32(loaded.map_fd("conns"))  # union bpf_iter_link_info
            options.link_info = ctypes.cast(ctypes.byref(map_fd), ctypes.c_void_p)
            options.link_info_len = ctypes.sizeof(map_fd)
        loaded.links[name] = pointer(lib.bpf_program__attach_iter(program, ctypes.byref(options)), what)
