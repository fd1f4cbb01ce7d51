"""Prefixes that overlap, found without comparing all with all."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.guard import Overlaps, guard

FOUR = st.builds(
    lambda bits, length: ip_network((bits << 24, length), strict=False), st.integers(0, 255), st.integers(0, 12)
)
SIX = st.builds(
    lambda bits, length: IPv6Network((bits << 120, length), strict=False), st.integers(0, 255), st.integers(0, 12)
)


@given(st.lists(FOUR | SIX, max_size=40, unique=True), FOUR | SIX)
def test_the_same_as_comparing_with_every_one(
    others: list[IPv4Network | IPv6Network], prefix: IPv4Network | IPv6Network
) -> None:
    wanted = [one for one in others if one.version == prefix.version and one.overlaps(prefix)]  # type: ignore[arg-type]
    wanted.sort(key=lambda one: (one.version, int(one.network_address), one.prefixlen))
    assert Overlaps(others).of(prefix) == wanted


def test_thousands_of_protected_prefixes_and_peers_are_checked_at_once() -> None:
    protected = [ip_network((0xAC10_0000 + (n << 8), 24)) for n in range(3000)]
    peers = [ip_network((0x0A09_0000 + n, 32)).network_address for n in range(3000)]
    inside = ip_network("172.16.5.7/32").network_address
    found = guard(protected, [ip_network("172.20.0.0/16")], [*peers, inside])
    assert len(found.routes) == 6000 + 4
    assert sum("which is connected to this host" in one for one in found.conflicts) == 256
