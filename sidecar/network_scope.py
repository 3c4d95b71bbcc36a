"""Which network an address means something in: the same 10.0.0.1 may be two machines, and 127.0.0.1 always is.

| addresses | scope |
|---|---|
| routed | the network of the settings: a VPC, a cluster; "default" |
| loopback and link-local | host/<host id> |
| the same, in another network namespace | host/<host id>/<cookie of the namespace> |
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Octets = NDArray[np.uint8]

# An address as two big-endian words; IPv4 is mapped into ::ffff:0:0/96.
_LOOPBACK_4 = np.uint64(0xFFFF_7F00_0000), np.uint64(0xFFFF_FFFF_FF00_0000)  # 127.0.0.0/8
_LINK_LOCAL_4 = np.uint64(0xFFFF_A9FE_0000), np.uint64(0xFFFF_FFFF_FFFF_0000)  # 169.254.0.0/16
_LINK_LOCAL_6 = np.uint64(0xFE80_0000_0000_0000), np.uint64(0xFFC0_0000_0000_0000)  # fe80::/10
_LOOPBACK_6 = np.uint64(1)  # ::1


class NetworkScopes:
    """Names the scope of addresses on one host."""

    def __init__(self, network: str, host_id: str, host_netns: int) -> None:
        """network: of routed addresses. host_netns: cookie of the host's own network namespace."""
        self._network = network
        self._host_id = host_id
        self._host_netns = np.uint64(host_netns)

    def indices(
        self, local_address: Octets, remote_address: Octets, netns: NDArray[np.uint64], networks: list[str]
    ) -> NDArray[np.int32]:
        """The index of each row's scope in `networks`, to which names not yet in it are added.

        local_address, remote_address: (n, 16). A row is of the host where either of its addresses is.
        netns: (n,) cookies. Returns (n,).
        """
        on_host = is_host_only(local_address) | is_host_only(remote_address)
        index = np.empty(len(netns), np.int32)
        if not on_host.all():
            index[~on_host] = _index(networks, self._network)
        if on_host.any():
            namespaces, which = np.unique(netns[on_host], return_inverse=True)
            of_namespace = [_index(networks, self._host_scope(namespace)) for namespace in namespaces]
            index[on_host] = np.array(of_namespace, np.int32)[which]
        return index

    def _host_scope(self, namespace: np.uint64) -> str:
        host = f"host/{self._host_id}"
        return host if namespace == self._host_netns else f"{host}/{namespace}"


def is_host_only(address: Octets) -> NDArray[np.bool_]:
    """Whether each address (n, 16) is a loopback or link-local one. Returns (n,)."""
    words = np.ascontiguousarray(address).view(">u8").astype(np.uint64)
    high, low = words[:, 0], words[:, 1]
    ipv4 = high == 0
    loopback = ipv4 & ((low & _LOOPBACK_4[1] == _LOOPBACK_4[0]) | (low == _LOOPBACK_6))
    link_local = (ipv4 & (low & _LINK_LOCAL_4[1] == _LINK_LOCAL_4[0])) | (high & _LINK_LOCAL_6[1] == _LINK_LOCAL_6[0])
    return np.asarray(loopback | link_local)


def _index(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)
