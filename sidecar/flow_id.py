"""One 64-bit name for a connection, from what the kernel knows it by."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


def flow_ids(boot_id: str, cookie: NDArray[np.uint64], generation: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The flow_id of each connection, the same in every run of the sidecar during one boot.

    boot_id: /proc/sys/kernel/random/boot_id, so that two hosts, or two boots, never share a sequence.
    cookie: (n,) the socket's, unique during a boot. generation: (n,) connections that the socket began before.
    Returns (n,). Within one boot and generation no two cookies collide: each step is a bijection.
    """
    seed = np.frombuffer(hashlib.blake2b(boot_id.encode(), digest_size=8).digest(), "<u8")[0]
    mixed = splitmix64((cookie ^ seed) + _GOLDEN)
    return splitmix64(mixed + generation.astype(np.uint64) * _GOLDEN).view(np.int64)


def splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014)."""
    mixed = (state ^ (state >> _30)) * _MIX_1
    mixed = (mixed ^ (mixed >> _27)) * _MIX_2
    return np.asarray(mixed ^ (mixed >> _31))
