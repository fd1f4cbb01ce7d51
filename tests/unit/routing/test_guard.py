"""The guard as a pure function: which blackholes, which exceptions, which conflicts."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.guard import GUARD_METRIC, THROW_METRIC, PrefixSet, guard
from gateway.routing.model import Route, RouteKind

ONPREM = ip_network("172.16.0.0/12")


def entries(*arguments: object) -> set[tuple[str, str, int]]:
    return {(r.kind.name, str(r.prefix), r.metric) for r in guard(*arguments).routes}  # type: ignore[arg-type]


def test_every_protected_prefix_has_a_blackhole_below_every_route() -> None:
    found = entries([ONPREM, ip_network("2001:db8::/32")])
    assert ("BLACKHOLE", "172.16.0.0/12", GUARD_METRIC) in found
    assert ("BLACKHOLE", "2001:db8::/32", GUARD_METRIC) in found


def test_connected_prefixes_peers_and_platform_addresses_are_exempt() -> None:
    found = entries([ip_network("0.0.0.0/0")], [ip_network("10.0.1.0/24")], [ip_address("203.0.113.7")])
    exempt = {prefix for kind, prefix, metric in found if kind == "THROW" and metric == THROW_METRIC}
    assert exempt == {"10.0.1.0/24", "203.0.113.7/32", "169.254.169.254/32", "168.63.129.16/32"}


def test_exceptions_stand_without_a_protected_prefix_because_a_learned_default_route_could_capture_them() -> None:
    assert ("THROW", "10.0.1.0/24", THROW_METRIC) in entries([], [ip_network("10.0.1.0/24")])


def test_link_local_ipv6_is_exempt_where_ipv6_is_used_only() -> None:
    assert ("THROW", "fe80::/10", THROW_METRIC) in entries([ip_network("::/0")])
    assert not any(":" in prefix for _, prefix, _ in entries([ONPREM]))


def test_an_exception_equal_to_a_protected_prefix_loses_and_is_named() -> None:
    made = guard([ip_network("10.0.1.0/24")], [ip_network("10.0.1.0/24")])
    assert Route(ip_network("10.0.1.0/24"), THROW_METRIC, RouteKind.THROW) not in made.routes
    assert made.conflicts == (
        "protected prefix 10.0.1.0/24 overlaps 10.0.1.0/24, which is connected to this host: "
        "correct `protected` or the host's address",
    )


def test_a_protected_peer_address_is_named() -> None:
    made = guard([ip_network("203.0.113.7/32")], [], [IPv4Address("203.0.113.7")])
    assert "203.0.113.7/32 is a peer's outer address" in made.conflicts[0]


def test_a_protected_prefix_around_or_inside_a_connected_one_is_a_conflict_but_a_default_route_is_not() -> None:
    link = [ip_network("10.0.1.0/24")]
    assert len(guard([ip_network("10.0.0.0/8")], link).conflicts) == 1
    assert len(guard([ip_network("10.0.1.128/25")], link).conflicts) == 1
    assert guard([ip_network("0.0.0.0/0")], link).conflicts == ()


def test_a_connected_ipv6_prefix_opens_nothing_that_was_named() -> None:
    site, advertised, ours = (ip_network(t) for t in ("2001:db8:5::/48", "2001:db8:5:1::/64", "2001:db8:a::/64"))
    made = guard([site], [advertised, ours])
    assert [str(r.prefix) for r in made.routes if r.kind is RouteKind.THROW and r.prefix.version == 6] == [
        "2001:db8:a::/64",
        "fe80::/10",
    ]
    assert made.protects(advertised)
    assert len(made.conflicts) == 1
    # A protected default route is around every link there is.
    assert Route(advertised, THROW_METRIC, RouteKind.THROW) in guard([ip_network("::/0")], [advertised]).routes


def test_the_longest_cover_decides_what_is_protected() -> None:
    made = guard([ip_network("10.0.0.0/8"), ip_network("10.0.1.64/26")], [ip_network("10.0.1.0/24")])
    assert made.protects(ip_network("10.2.0.0/16"))
    assert not made.protects(ip_network("10.0.1.0/25"))
    assert made.protects(ip_network("10.0.1.64/27"))
    assert not made.protects(ip_network("0.0.0.0/0"))


_prefixes = st.builds(
    lambda value, length: ip_network((value >> (32 - length) << (32 - length), length)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


@given(st.lists(_prefixes, max_size=6), _prefixes)
def test_longest_cover_agrees_with_ipaddress(members: list[object], prefix: object) -> None:
    covers = [m.prefixlen for m in members if prefix.subnet_of(m)]  # type: ignore[attr-defined]
    assert PrefixSet(members).longest_cover(prefix) == max(covers, default=-1)  # type: ignore[arg-type]


def test_where_two_guards_differ_is_all_that_has_to_be_judged_again() -> None:
    """Of a prefix that nothing of it covers, both say the same."""
    chance = random.Random(5)
    pool = [
        ip_network((10 << 24 | chance.getrandbits(12) << 12, 32 - bits), strict=False)
        for bits in (8, 12, 16)
        for _ in range(9)
    ]
    for _ in range(60):
        first, second = (
            guard(chance.sample(pool, 6), chance.sample(pool, 3), (), (), chance.sample(pool, 2)) for _ in range(2)
        )
        differing = first.differing(second)
        for prefix in pool:
            if differing.longest_cover(prefix) < 0:
                assert first.protects(prefix) == second.protects(prefix)
                assert first.yields(prefix) == second.yields(prefix)
        assert not first.differing(first).members
