"""RFC 4271 9.1.2: a path whose NEXT_HOP is not resolvable is not used, and told to nobody; one that is not yet known waits."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.exabgp_model import ExabgpModel, attribute
from support.speaker import EDGE, EDGE2, FABRIC, SETTINGS, best, connected, neighbor, of

from gateway.bgp.decision import decide
from gateway.bgp.events import BestChanged, Close, FollowNextHop, Reconfigure, Shutdown

HERE, THERE = ip_address(FABRIC), ip_address("10.9.2.77")
SECOND = "10.9.3.2"
PREFIX = "10.50.0.0/16"
CLEAR = replace(
    SETTINGS,
    advertise=(),
    neighbors=(*SETTINGS.neighbors[:3], neighbor("second", SECOND, "10.9.3.1", 65516, transit=True)),
)


def reasons(model: ExabgpModel) -> dict[str, str]:
    return {route.peer: route.reason for route in model.speaker.routes_status()}


def told(model: ExabgpModel) -> set[str]:
    return {line for line in model.sent if " route " in line}


def test_a_path_to_nowhere_is_neither_used_nor_told_and_says_so() -> None:
    model = connected()
    model.nowhere.add(THERE)
    model.announce(FABRIC, PREFIX, str(THERE), attribute([65515]))
    model.settle()
    assert of(model, BestChanged) == []
    assert told(model) == set()
    assert reasons(model) == {"fabric": f"next hop {THERE} is not reachable"}
    (route,) = model.speaker.routes_status()
    assert not route.best
    model.reach(THERE, reached=True)
    model.settle()
    assert best(model) == {PREFIX: "fabric"}
    assert any(f"{EDGE} announce route {PREFIX}" in line for line in told(model))


def test_when_a_next_hop_goes_its_routes_are_withdrawn_and_no_others_are_looked_at() -> None:
    model = connected()
    model.announce(FABRIC, PREFIX, str(THERE), attribute([65515]))
    for number in range(20):
        model.announce(FABRIC, f"10.60.{number}.0/24", FABRIC, attribute([65515]))
    model.settle()
    model.effects.clear()
    model.sent.clear()
    model.reach(THERE, reached=False)
    model.settle()
    assert of(model, BestChanged) == [BestChanged(ip_network(PREFIX), None)]
    assert told(model) == {f"neighbor {one} withdraw route {PREFIX}" for one in (EDGE, EDGE2)}
    instance = model.speaker.instances[""]
    assert instance.next_hops.learn(THERE, True) == (ip_network(PREFIX),)


def test_another_path_takes_over_also_a_worse_one() -> None:
    model = connected(CLEAR)
    model.announce(FABRIC, PREFIX, str(THERE), attribute([65515]))
    model.announce(SECOND, PREFIX, SECOND, attribute([65516, 1, 2, 3]))
    assert best(model) == {PREFIX: "fabric"}
    model.reach(THERE, reached=False)
    assert best(model) == {PREFIX: "second"}
    assert reasons(model) == {"fabric": f"next hop {THERE} is not reachable", "second": "only path"}
    model.reach(THERE, reached=True)
    assert best(model) == {PREFIX: "fabric"}


def test_what_is_not_yet_known_leaves_what_was_decided_alone() -> None:
    """Else each new next hop of a route would withdraw it for a moment."""
    model = connected()
    model.announce(FABRIC, PREFIX, FABRIC, attribute([65515]))
    model.settle()
    model.effects.clear()
    model.sent.clear()
    model.unknown.add(THERE)
    model.announce(FABRIC, PREFIX, str(THERE), attribute([65515]))
    model.settle()
    assert of(model, BestChanged) == []
    assert told(model) == set()
    assert not model.speaker.instances[""].settled
    model.reach(THERE, reached=True)
    (change,) = of(model, BestChanged)
    assert change.path is not None and change.path.next_hop == THERE
    assert model.speaker.instances[""].settled


def test_a_path_in_a_tunnel_needs_nothing_of_the_underlay() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", "192.0.2.1", attribute([65010]))
    assert best(model) == {"172.16.0.0/16": "edge"}
    assert model.followed == set()
    assert of(model, FollowNextHop) == []


def test_a_closed_prefix_waits_for_no_path_in_clear() -> None:
    """Else the tunnel's own would come late, for a path that may not be used."""
    model = connected()
    model.unknown.add(THERE)
    model.command(Close((ip_network(PREFIX),)))
    model.announce(FABRIC, PREFIX, str(THERE), attribute([65515]))
    model.announce(EDGE, PREFIX, EDGE, attribute([65010, 1, 2, 3]))
    assert best(model) == {PREFIX: "edge"}


def test_what_nobody_needs_any_more_is_followed_no_longer() -> None:
    model = connected()
    for prefix in (PREFIX, "10.51.0.0/16"):
        model.announce(FABRIC, prefix, str(THERE), attribute([65515]))
    assert model.followed == {(THERE, "")}
    model.withdraw(FABRIC, PREFIX)
    assert model.followed == {(THERE, "")}
    model.announce(FABRIC, "10.51.0.0/16", FABRIC, attribute([65515]))
    assert model.followed == {(HERE, "")}
    model.command(Reconfigure(replace(SETTINGS, neighbors=SETTINGS.neighbors[:2])))
    model.settle()
    assert model.followed == set()


def test_a_shutdown_waits_for_nobody() -> None:
    model = connected()
    model.announce(FABRIC, PREFIX, FABRIC, attribute([65515]))
    model.settle()
    model.unknown.add(THERE)
    model.announce(FABRIC, PREFIX, str(THERE), attribute([65515]))
    model.sent.clear()
    model.command(Shutdown())
    model.settle()
    assert any(line == f"neighbor {EDGE} withdraw route {PREFIX}" for line in model.sent)


HOPS = [FABRIC, str(THERE), SECOND]
STEPS = st.one_of(
    st.tuples(
        st.just("announce"),
        st.sampled_from([EDGE, FABRIC, SECOND]),
        st.sampled_from([PREFIX, "10.51.0.0/16", "10.52.0.0/16"]),
        st.sampled_from(HOPS),
        st.integers(0, 3),
    ),
    st.tuples(
        st.just("withdraw"),
        st.sampled_from([EDGE, FABRIC, SECOND]),
        st.sampled_from([PREFIX, "10.51.0.0/16", "10.52.0.0/16"]),
    ),
    st.tuples(st.just("reach"), st.sampled_from(HOPS), st.booleans()),
    st.tuples(st.just("forget"), st.sampled_from(HOPS)),
    st.tuples(st.just("bounce"), st.sampled_from([EDGE, FABRIC, SECOND])),
    st.tuples(st.just("reconfigure"), st.sampled_from([0, 1])),
    st.tuples(st.just("close"), st.booleans()),
)


def play(model: ExabgpModel, step: tuple[Any, ...]) -> None:
    kind, *args = step
    if kind == "announce" and args[0] in model.peers:
        model.announce(args[0], args[1], args[2], attribute([65010, *range(100, 100 + args[3])]))
    elif kind == "withdraw":
        model.withdraw(args[0], args[1])
    elif kind == "reach":
        model.reach(ip_address(args[0]), reached=args[1])
    elif kind == "forget":
        model.unknown.add(ip_address(args[0]))  # from the next time it is asked for
    elif kind == "bounce":
        model.peer_down(args[0])
        model.peer_up(args[0])
    elif kind == "reconfigure":
        variant = CLEAR if args[0] else replace(CLEAR, neighbors=(*CLEAR.neighbors[:2], *CLEAR.neighbors[3:]))
        model.command(Reconfigure(variant))
    elif kind == "close":
        model.command(Close((ip_network(PREFIX),), closed=args[0]))


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_after_any_history_only_what_is_reached_is_used_and_just_that_is_followed(steps: list[tuple[Any, ...]]) -> None:
    model = connected(CLEAR)
    for step in steps:
        play(model, step)
        check(model)
    model.settle(90)
    for address in HOPS:
        model.reach(ip_address(address), reached=True)
    model.settle()
    check(model)
    assert model.speaker.instances[""].settled, "when all is known, all is decided"


def check(model: ExabgpModel) -> None:
    speaker = model.speaker
    instance = speaker.instances[""]
    found: dict[Any, list[Any]] = {}
    for peer in speaker._peers.values():
        for prefix in peer.adj_in.entries:
            if (candidate := peer.adj_in.candidate(prefix)) is not None:
                found.setdefault(prefix, []).append(candidate)
    needed = {one.path.next_hop for paths in found.values() for one in paths if not one.path.connection}
    assert model.followed == {(address, "") for address in needed}
    waiting = set(instance._waiting)
    for prefix in {*found, *speaker.loc_rib.best} - waiting:
        usable = [one for one in found.get(prefix, []) if one.path.connection or one.path.next_hop not in model.nowhere]
        if prefix in instance._closed:
            usable = [one for one in usable if one.path.connection]
        chosen = speaker.loc_rib.best.get(prefix)
        assert (chosen.path if chosen else None) == (decide(usable)[0].path if usable else None)
    for prefix in waiting:
        assert any(one.path.next_hop in model.unknown for one in found[prefix])
