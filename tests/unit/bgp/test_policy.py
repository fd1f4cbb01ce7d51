"""What is accepted, and who is told what."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from gateway.bgp import policy
from gateway.bgp.path import NO_ADVERTISE, NO_EXPORT, NO_EXPORT_SUBCONFED, Announcement, Attributes, Path
from gateway.bgp.policy import export, heard_sides, import_verdict
from gateway.bgp.prefixes import Prefix
from gateway.bgp.settings import NeighborSettings, Role, SpeakerSettings


def neighbor(name: str, number: int, remote_as: int, **more: Any) -> NeighborSettings:
    return NeighborSettings(name, ip_address(f"192.0.2.{number}"), remote_as, ip_address("192.0.2.254"), **more)


SITE = neighbor("site", 1, 65010, connection="tokyo")
SITE2 = neighbor("site2", 2, 65011, connection="osaka")
FABRIC = neighbor("fabric", 3, 65515)
FABRIC2 = neighbor("fabric2", 4, 65515)
PAIR = neighbor("pair", 5, 65001)
SITE_INTERNAL = neighbor("site-internal", 6, 65001, connection="kyoto")
OWN = ip_network("10.200.0.0/16")
SETTINGS = SpeakerSettings(
    local_as=65001,
    router_id=IPv4Address("192.0.2.254"),
    advertise=(OWN, ip_network("2001:db8:200::/48")),
    never=(ip_network("198.51.100.7/32"), ip_network("168.63.129.16/32")),
    neighbors=(SITE, SITE2, FABRIC, FABRIC2, PAIR, SITE_INTERNAL),
)
PREFIX = ip_network("172.16.0.0/16")


def path(source: NeighborSettings, prefix: str = "172.16.0.0/16", **more: Any) -> Path:
    as_path = more.pop("as_path", (source.remote_as,) if source.remote_as != 65001 else ())
    next_hop = ip_address(more.pop("next_hop", str(source.address)))
    attributes = Attributes(**{"origin": "igp", "as_path": as_path, "as_path_length": len(as_path), **more})
    external = source.remote_as != SETTINGS.local_as
    return Path(
        ip_network(prefix),
        source.name,
        source.connection,
        next_hop,
        attributes,
        source.address,
        source.remote_as,
        external,
    )


def told(target: NeighborSettings, source: NeighborSettings, **more: Any) -> Announcement | None:
    learned = path(source, **more)
    return export(SETTINGS, target, learned.prefix, learned, SETTINGS.role(source))


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("172.16.0.0/16", ""),
        ("0.0.0.0/8", policy.MARTIAN),
        ("0.1.0.0/16", policy.MARTIAN),
        ("127.0.0.1/32", policy.MARTIAN),
        ("169.254.0.0/16", policy.MARTIAN),
        ("169.254.169.254/32", policy.MARTIAN),
        ("224.0.0.0/4", policy.MARTIAN),
        ("239.1.0.0/16", policy.MARTIAN),
        ("240.0.0.0/8", policy.MARTIAN),
        ("::1/128", policy.MARTIAN),
        ("fe80::/64", policy.MARTIAN),
        ("ff02::/16", policy.MARTIAN),
        ("2001:db8::/32", ""),
        ("0.0.0.0/0", policy.DEFAULT_ROUTE),
        ("::/0", policy.DEFAULT_ROUTE),
        ("0.0.0.0/1", policy.DEFAULT_ROUTE),  # in pieces
        ("128.0.0.0/1", policy.DEFAULT_ROUTE),
        ("10.0.0.0/7", policy.DEFAULT_ROUTE),
        ("2000::/3", policy.DEFAULT_ROUTE),
        ("fc00::/6", policy.DEFAULT_ROUTE),
        ("fc00::/7", ""),
        ("198.51.100.7/32", policy.NEVER),
        ("168.63.129.16/32", policy.NEVER),
        ("198.51.100.0/24", ""),  # covers a tunnel's peer: our more specific route for it stays
        ("10.200.0.0/16", policy.OWN_PREFIX),
        ("10.200.3.0/24", policy.OWN_PREFIX),
        ("10.0.0.0/8", ""),
    ],
)
def test_what_a_site_may_teach_us(prefix: str, reason: str) -> None:
    assert import_verdict(SETTINGS, SITE, path(SITE, prefix)) == reason


def test_the_fabric_may_teach_us_parts_of_our_own_prefix() -> None:
    assert import_verdict(SETTINGS, FABRIC, path(FABRIC, "10.200.3.0/24")) == ""
    assert import_verdict(SETTINGS, FABRIC, path(FABRIC, "10.200.0.0/16")) == policy.OWN_PREFIX


def test_our_own_as_anywhere_in_the_path_is_a_loop() -> None:
    assert import_verdict(SETTINGS, SITE, path(SITE, as_path=(65010, 65001, 65020))) == policy.OWN_AS


def test_a_default_route_needs_permission_and_is_judged_like_any_other() -> None:
    allowed = replace(SITE, accept_default=True)
    for prefix in ("0.0.0.0/0", "::/0", "0.0.0.0/1", "2000::/3"):
        assert import_verdict(SETTINGS, allowed, path(SITE, prefix)) == ""
        assert import_verdict(SETTINGS, allowed, path(SITE, prefix, next_hop="192.0.2.254")) == policy.OWN_NEXT_HOP
        assert import_verdict(SETTINGS, allowed, path(SITE, prefix, as_path=())) == policy.EMPTY_PATH
    assert import_verdict(SETTINGS, allowed, path(SITE, "224.0.0.0/4")) == policy.MARTIAN


def test_our_own_address_is_no_next_hop() -> None:
    assert import_verdict(SETTINGS, SITE, path(SITE, next_hop="192.0.2.254")) == policy.OWN_NEXT_HOP
    assert import_verdict(SETTINGS, SITE, path(SITE, next_hop="0.0.0.0")) == policy.OWN_NEXT_HOP
    assert import_verdict(SETTINGS, SITE, path(SITE, next_hop=str(FABRIC.local_address))) == policy.OWN_NEXT_HOP


@pytest.mark.parametrize("next_hop", ["127.0.0.1", "224.0.0.5", "255.255.255.255", "240.0.0.1"])
def test_a_next_hop_that_is_no_hosts_is_refused(next_hop: str) -> None:
    assert import_verdict(SETTINGS, SITE, path(SITE, next_hop=next_hop)) == policy.BAD_NEXT_HOP


def test_another_as_stands_in_the_path_it_teaches_us() -> None:
    """Without, its path would be the shortest of all."""
    assert import_verdict(SETTINGS, SITE, path(SITE, as_path=())) == policy.EMPTY_PATH
    assert import_verdict(SETTINGS, PAIR, path(PAIR, as_path=())) == ""


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        (SITE, {"fabric", "fabric2", "pair"}),
        (SITE2, {"fabric", "fabric2", "pair"}),
        (FABRIC, {"site", "site2", "pair", "site-internal"}),
        (PAIR, set()),
        (SITE_INTERNAL, {"fabric", "fabric2"}),
    ],
)
def test_routes_pass_between_the_two_sides_only(source: NeighborSettings, targets: set[str]) -> None:
    assert {target.name for target in SETTINGS.neighbors if told(target, source) is not None} == targets


def test_towards_another_as_our_as_is_prepended_and_inner_attributes_are_left_out() -> None:
    announced = told(FABRIC, SITE, med=50, communities=("65010:7",), origin="egp")
    assert announced == Announcement(
        next_hop=ip_address("192.0.2.254"), as_path=(65001, 65010), origin="egp", communities=("65010:7",)
    )


def test_within_our_as_the_path_is_left_alone_and_local_preference_given() -> None:
    announced = told(PAIR, SITE, med=50)
    assert announced is not None
    assert (announced.as_path, announced.med, announced.local_preference) == ((65010,), 50, 100)


def test_nobody_is_told_a_path_with_their_own_as_in_it() -> None:
    assert told(FABRIC, SITE, as_path=(65010, 65515)) is None
    assert told(SITE, FABRIC, as_path=(65515, 65010)) is None


def test_nobody_is_told_what_they_said() -> None:
    assert told(SITE, SITE) is None


@pytest.mark.parametrize(
    ("community", "external", "internal"),
    [
        (NO_ADVERTISE, False, False),
        (NO_EXPORT, False, True),
        (NO_EXPORT_SUBCONFED, False, True),
        ("65010:1", True, True),
    ],
)
def test_well_known_communities_are_obeyed(community: str, external: bool, internal: bool) -> None:
    assert (told(FABRIC, SITE, communities=(community,)) is not None) is external
    assert (told(PAIR, SITE, communities=(community,)) is not None) is internal


def test_as_sets_are_not_passed_on() -> None:
    assert told(FABRIC, SITE, as_path=(65010, 1, 2), as_path_length=2) is None


def test_own_prefixes_go_to_everybody_of_their_family() -> None:
    for target in SETTINGS.neighbors:
        announced = export(SETTINGS, target, OWN, None, None)
        assert announced is not None
        internal = target.remote_as == 65001
        assert announced.as_path == (() if internal else (65001,))
        assert announced.local_preference == (100 if internal else None)
        assert export(SETTINGS, target, ip_network("2001:db8:200::/48"), None, None) is None


def test_a_neighbor_with_prefixes_of_its_own_gets_exactly_those() -> None:
    special = replace(FABRIC, advertise=(ip_network("10.9.0.0/16"),))
    assert export(SETTINGS, special, ip_network("10.9.0.0/16"), None, None) is not None
    assert export(SETTINGS, special, OWN, None, None) is None
    assert export(SETTINGS, special, PREFIX, path(SITE), Role.SITE) is None


@pytest.mark.parametrize("transit", [False, True])
@pytest.mark.parametrize("advertise", [None, (OWN,)])
def test_who_is_told_anything_hears_the_side_it_comes_from(transit: bool, advertise: tuple[Prefix, ...] | None) -> None:
    for target in SETTINGS.neighbors:
        asked = replace(target, transit=transit, advertise=advertise)
        heard = {SETTINGS.role(source) for source in SETTINGS.neighbors if told(asked, source) is not None}
        assert heard <= heard_sides(SETTINGS, asked)
        assert transit or heard == heard_sides(SETTINGS, asked)
