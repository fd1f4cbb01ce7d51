"""The policy language by itself: prefix lists, AS path patterns, communities, rules in order."""

from __future__ import annotations

import time
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bgp.path import Attributes
from gateway.bgp.route_policy import (
    Action,
    Changes,
    CommunityPattern,
    PrefixEntry,
    PrefixList,
    Route,
    RoutePolicy,
    Rule,
    apply,
)
from gateway.config.policies import parse_as_path

HOP = ip_address("192.0.2.1")


def route(prefix: str = "10.1.0.0/16", *as_path: int, neighbor: str = "edge", **more: Any) -> Route:
    attributes = Attributes(as_path=as_path, as_path_length=len(as_path), **more)
    return Route(ip_network(prefix), HOP, attributes, neighbor)


def entry(text: str, least: int = 0, most: int = 0, *, permit: bool = True) -> PrefixEntry:
    prefix = ip_network(text)
    return PrefixEntry(permit, prefix, least or prefix.prefixlen, most or least or prefix.prefixlen)


def decided(*rules: Rule, one: Route, default: Action = Action.REJECT) -> Route | None:
    return apply(RoutePolicy("p", rules, default), one).route


def test_the_first_entry_that_matches_decides() -> None:
    permits = PrefixList([entry("10.9.0.0/16", 16, 32, permit=False), entry("10.0.0.0/8", 9, 24)]).permits
    assert permits(ip_network("10.1.0.0/16"))
    assert not permits(ip_network("10.9.0.0/16"))
    assert not permits(ip_network("10.9.1.0/24"))
    assert not permits(ip_network("10.0.0.0/8")), "shorter than ge"
    assert not permits(ip_network("10.1.1.0/25")), "longer than le"
    assert not permits(ip_network("11.0.0.0/16"))
    assert not permits(ip_network("a00::/16")), "of the other family, whatever its bits"


networks = st.builds(
    lambda value, length: ip_network((value << 24, length), strict=False), st.integers(0, 3), st.integers(6, 10)
)


@given(
    st.lists(st.tuples(st.booleans(), networks, st.integers(6, 12), st.integers(6, 12)), max_size=8),
    st.integers(0, 0x3FFFFFF),
    st.integers(6, 12),
)
def test_a_list_decides_as_one_read_from_the_top(entries: list[Any], value: int, length: int) -> None:
    prefix = ip_network((value, length), strict=False)
    made = [PrefixEntry(*one) for one in entries]
    expected = next(
        (one.permit for one in made if prefix.subnet_of(one.prefix) and one.least <= length <= one.most),
        False,  # type: ignore[arg-type]
    )
    assert PrefixList(made).permits(prefix) == expected


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("_12076_", (65515, 12076, 65010), True),
        ("_12076_", (12076,), True),
        ("_12076_", (112076,), False),
        ("^65010$", (65010,), True),
        ("^65010$", (65010, 65010), False),
        ("^$", (), True),
        ("^$", (1,), False),
        ("^65010_65020_", (65010, 65020, 7), True),
        ("^(65010_)+$", (65010, 65010, 65010), True),
        ("_6501[0-9]_", (1, 65017, 2), True),
    ],
)
def test_as_path_patterns_know_whole_numbers(pattern: str, path: tuple[int, ...], matches: bool) -> None:
    rule = Rule("r", as_path=parse_as_path(pattern))
    assert (decided(rule, one=route("10.1.0.0/16", *path)) is not None) == matches


@pytest.mark.parametrize("pattern", ["(1+)+", "(.*_)*", "(1|2", "abc", r"\d+", "([0-9]+_)*$", "((1+)2)*", "(1*|2){5}"])
def test_patterns_that_are_wrong_or_could_take_for_ever_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"may stand|must not repeat|no regular"):
        parse_as_path(pattern)


def test_a_long_path_is_matched_in_no_time() -> None:
    """As of testing's class 12: a stranger chooses the path."""
    pattern = parse_as_path("^(65010_)*65020_65030$")
    began = time.process_time()
    assert pattern.search(" ".join(["65010"] * 4000)) is None
    assert time.process_time() - began < 0.05


def test_communities_of_both_kinds_match_with_wildcards() -> None:
    one = route(communities=("65010:100",), large_communities=("65010:1:2",))
    for parts, matches in (((65010, 100), True), ((65010, None), True), ((65010, 101), False), ((65010, None, 2), True),
                           ((None, None), True), ((65010, 1), False)):  # fmt: skip
        rule = Rule("r", communities=(CommunityPattern(parts),))
        assert (decided(rule, one=one) is not None) == matches, parts


def test_a_rule_changes_what_it_says_and_nothing_else() -> None:
    one = route("10.1.0.0/16", 65010, med=5, communities=("65010:100", "65010:200"), large_communities=("1:2:3",))
    changes = Changes(
        local_preference=200, med=7, prepend=2, next_hop=ip_address("192.0.2.9"), add=("65001:1", "9:9:9"),
        delete=(CommunityPattern((65010, 100)), CommunityPattern((1, None, None))),
    )  # fmt: skip
    changed = decided(Rule("r", changes=changes), one=one)
    assert changed is not None
    assert changed.attributes == Attributes(
        as_path=(65010,), as_path_length=1, med=7, local_preference=200, communities=("65010:200", "65001:1"),
        large_communities=("9:9:9",),
    )  # fmt: skip
    assert (changed.next_hop, changed.prepend, changed.prefix) == (ip_address("192.0.2.9"), 2, one.prefix)
    only = decided(Rule("r", changes=Changes(communities=("1:1", "1:1:1"))), one=one)
    assert only is not None
    assert (only.attributes.communities, only.attributes.large_communities) == (("1:1",), ("1:1:1",))


def test_rules_go_in_order_and_say_which_decided() -> None:
    policy = RoutePolicy(
        "to-azure",
        (
            Rule("tag", Action.CONTINUE, Changes(add=("1:1",), prepend=1)),
            Rule("bogus", Action.REJECT, prefixes=(PrefixList([entry("10.9.0.0/16", 16, 32)]),)),
            Rule("site", Action.ACCEPT, Changes(add=("1:2",), prepend=1), prefixes=(PrefixList([entry("10.0.0.0/8", 8, 32)]),)),
            Rule("never reached", Action.REJECT),
        ),
        Action.ACCEPT,
    )  # fmt: skip
    refused = apply(policy, route("10.9.1.0/24"))
    assert (refused.route, refused.why) == (None, "policy to-azure, rule bogus")
    accepted = apply(policy, route("10.1.0.0/24"))
    assert accepted.route is not None and accepted.why == "policy to-azure, rule site"
    assert (accepted.route.attributes.communities, accepted.route.prepend) == (("1:1", "1:2"), 2)
    assert apply(policy, route("192.168.0.0/24")).why == "policy to-azure, rule never reached"


@pytest.mark.parametrize("default", [Action.ACCEPT, Action.REJECT])
def test_where_no_rule_decides_the_default_does(default: Action) -> None:
    rule = Rule("other", learned_from=frozenset({"fabric"}), changes=Changes(med=1))
    assert (decided(rule, one=route(), default=default) is not None) == (default is Action.ACCEPT)


def test_where_a_route_was_learned_is_a_condition() -> None:
    rule = Rule("own", learned_from=frozenset({""}))
    assert decided(rule, one=route(neighbor="")) is not None
    assert decided(rule, one=route(neighbor="edge")) is None
