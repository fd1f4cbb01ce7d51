"""Prefixes that know their hash are in every other respect those of `ipaddress`."""

from __future__ import annotations

import pickle
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.bgp.prefixes import Prefix, PrefixSet, parse_prefix, swift

NETWORKS4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda one: IPv4Network(one, strict=False))
NETWORKS6 = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda one: IPv6Network(one, strict=False))
NETWORKS = NETWORKS4 | NETWORKS6
FACTS = [
    "version", "max_prefixlen", "prefixlen", "network_address", "netmask", "hostmask", "broadcast_address",
    "num_addresses", "with_netmask", "is_private", "is_multicast", "is_link_local", "is_unspecified", "exploded",
    "reverse_pointer",
]  # fmt: skip


@given(NETWORKS, NETWORKS)
@example(ip_network("0.0.0.0/0"), ip_network("::/0"))
@example(ip_network("10.0.0.0/31"), ip_network("10.0.0.1/32"))
@example(ip_network("20.0.0.0/24"), ip_network("20.0.0.128/25"))
def test_a_parsed_prefix_is_what_ipaddress_makes(network: Prefix, other: Prefix) -> None:
    made, again = parse_prefix(str(network)), swift(network)
    assert made == network == again == made
    assert network == made
    assert type(again) is type(made) is not type(network)
    assert swift(again) is again
    assert (made == swift(other), swift(other) == made) == (network == other, network == other)
    assert (hash(made), str(made), len({made, network})) == (hash(network), str(network), 1)
    assert [getattr(made, fact) for fact in FACTS] == [getattr(network, fact) for fact in FACTS]
    assert (made == other, made.overlaps(other)) == (network == other, network.overlaps(other))
    assert pickle.loads(pickle.dumps(made)) == network
    if network.prefixlen < network.max_prefixlen:
        assert list(made.subnets()) == list(network.subnets())
    if made.version == 4 and other.version == 4:
        assert (made < other, made.subnet_of(other)) == (network < other, network.subnet_of(other))
    if network.num_addresses <= 16:
        assert list(made.hosts()) == list(network.hosts())


@given(st.text("0123456789./: af", max_size=20))
@example("20.0.0.1/24")
@example("20.0.0.00/24")
@example("020.0.0.0/24")
@example("20.0.0/24")
@example("20.0.0.0.0/24")
@example("256.0.0.0/24")
@example("20.0.0.0/33")
@example("20.0.0.0/024")
@example("20.0.0.0/")
def test_what_ipaddress_refuses_is_refused(text: str) -> None:
    try:
        expected = ip_network(text)
    except ValueError as refused:
        with pytest.raises(type(refused)):
            parse_prefix(text)
    else:
        assert parse_prefix(text) == expected


@given(st.lists(NETWORKS, max_size=6), NETWORKS)
def test_a_set_covers_what_lies_inside_a_member(members: list[Prefix], prefix: Prefix) -> None:
    alike = [one for one in members if one.version == prefix.version]
    expected = any(prefix.subnet_of(one) for one in alike)  # type: ignore[arg-type]
    assert PrefixSet(members).covers(prefix) is expected
    for one in alike:
        assert PrefixSet(members).covers(one)
