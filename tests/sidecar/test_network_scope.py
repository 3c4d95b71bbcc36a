"""Which network an address belongs to; Python's ipaddress is the oracle."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.network_scope import NetworkScopes, is_host_only

ADDRESSES = [
    "127.0.0.1", "127.255.255.255", "126.255.255.255", "128.0.0.0", "169.254.169.254", "169.253.255.255", "169.255.0.0",
    "10.0.0.1", "0.0.0.0", "255.255.255.255", "::1", "::", "::2", "fe80::1", "febf::1", "fec0::1", "fe7f::1", "fd00::1",
    "2001:db8::1", "::127.0.0.1", "::ffff:0:127.0.0.1",
]  # fmt: skip


def octets(*texts: str) -> np.ndarray:
    """Addresses as the kernel's records have them."""
    addresses = (ip_address(text) for text in texts)
    mapped = [a.packed if a.version == 6 else bytes(10) + b"\xff\xff" + a.packed for a in addresses]
    return np.frombuffer(b"".join(mapped), np.uint8).reshape(-1, 16)


def oracle(packed: bytes) -> bool:
    address = IPv6Address(packed)
    meant = address.ipv4_mapped or address
    return meant.is_loopback or meant.is_link_local


@pytest.mark.parametrize("text", ADDRESSES)
def test_a_known_address_is_of_the_host_alone_as_ipaddress_says(text: str) -> None:
    packed = octets(text)
    assert is_host_only(packed).tolist() == [oracle(packed.tobytes())]


@given(
    st.lists(st.one_of(st.ip_addresses(), st.ip_addresses(network="126.0.0.0/7"), st.ip_addresses(network="fe00::/8")))
)
def test_any_address_is_of_the_host_alone_as_ipaddress_says(addresses: list) -> None:
    packed = octets(*(str(address) for address in addresses))
    assert is_host_only(packed).tolist() == [oracle(row.tobytes()) for row in packed]


def test_scopes_are_named_once_and_only_those_that_occur() -> None:
    scopes = NetworkScopes("vpc-1", "host-a", host_netns=1)
    local = octets("127.0.0.1", "10.0.0.1", "127.0.0.1", "fe80::1", "127.0.0.9")
    netns = np.array([1, 77, 77, 1, 2**64 - 1], np.uint64)
    networks: list[str] = []
    index = scopes.indices(local, local, netns, networks)
    assert index.dtype == np.int32
    assert [networks[i] for i in index] == [
        "host/host-a", "vpc-1", "host/host-a/77", "host/host-a", f"host/host-a/{2**64 - 1}",
    ]  # fmt: skip
    assert len(networks) == len(set(networks)) == 4
    assert scopes.indices(local[1:2], local[1:2], netns[1:2], networks).tolist() == [networks.index("vpc-1")]
    assert len(networks) == 4


def test_one_end_that_is_of_the_host_is_enough() -> None:
    scopes = NetworkScopes("default", "host-a", host_netns=1)
    networks: list[str] = []
    scopes.indices(octets("10.0.0.1"), octets("169.254.1.1"), np.array([1], np.uint64), networks)
    assert networks == ["host/host-a"]


def test_no_addresses_name_no_network() -> None:
    networks: list[str] = []
    empty = np.empty((0, 16), np.uint8)
    index = NetworkScopes("default", "host-a", 1).indices(empty, empty, np.empty(0, np.uint64), networks)
    assert (index.tolist(), networks) == ([], [])
