"""Routes by a private circuit: in clear only by choice, only where every protection yields, and only while it works."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from support.fib_shell import UNDERLAY, Shell

from gateway.routing.model import (
    ConnectionAdded,
    ConnectionDown,
    ConnectionUp,
    Keep,
    Liveness,
    SetProtected,
    SetRoute,
    ViaCircuit,
    ViaConnection,
    ViaNextHop,
)

SITE, INSIDE, TUN = ip_network("172.16.0.0/12"), ip_network("172.16.1.0/24"), 7
EDGE, CIRCUIT, ROUTER = ViaConnection("edge"), ViaCircuit("edge"), ViaNextHop(ip_address("10.0.1.1"))


def shell(*, yielding: bool = True) -> Shell:
    made = Shell()
    made.kernel.interfaces.add(TUN)
    made.tell(
        SetProtected(frozenset({SITE}), frozenset({SITE} if yielding else ())),
        ConnectionAdded("edge", TUN),
        ConnectionUp("edge"),
        SetRoute(SITE, EDGE, "static", 10),
        SetRoute(SITE, CIRCUIT, "circuit", 5),
        SetRoute(INSIDE, EDGE, "bgp", 20),
        SetRoute(INSIDE, CIRCUIT, "circuit-bgp", 5),
    )
    return made


def ways(made: Shell) -> list[object]:
    return [made.kernel.lookup(prefix) for prefix in (SITE, INSIDE)]


def test_the_circuit_is_used_while_it_works_and_the_tunnel_else() -> None:
    made = shell()
    assert ways(made) == [TUN, TUN], "nobody has heard of it yet"
    made.tell(Liveness(CIRCUIT, True))
    assert ways(made) == ["main", "main"]
    made.tell(Liveness(CIRCUIT, False))
    assert ways(made) == [TUN, TUN]
    assert made.fib.state(SITE).error == ""


def test_with_neither_circuit_nor_tunnel_nothing_leaves() -> None:
    made = shell()
    made.tell(Liveness(CIRCUIT, True), ConnectionDown("edge"))
    assert ways(made) == ["main", "main"]
    made.tell(Liveness(CIRCUIT, False))
    assert ways(made) == ["blackhole", "blackhole"]


def test_what_another_connection_protects_always_follows_no_circuit() -> None:
    made = shell(yielding=False)
    made.tell(Liveness(CIRCUIT, True))
    assert ways(made) == [TUN, TUN]
    made.tell(SetProtected(frozenset({SITE, INSIDE}), frozenset({SITE})))
    assert ways(made) == ["main", TUN], "the longest protected prefix decides"
    made.tell(SetProtected(frozenset({SITE, INSIDE}), frozenset({SITE, INSIDE})))
    assert ways(made) == ["main", "main"]
    made.tell(SetProtected(frozenset({SITE})))
    assert ways(made) == [TUN, TUN]


def test_what_was_learned_under_protection_follows_no_circuit_until_it_is_forgotten() -> None:
    made = shell()
    made.tell(Keep((INSIDE,)), Liveness(CIRCUIT, True))
    assert ways(made) == ["main", TUN]


def test_a_next_hop_in_clear_is_a_choice_too() -> None:
    made = shell()
    other = ip_network("172.17.0.0/16")
    made.tell(SetRoute(other, ROUTER, "bgp", 20))
    assert made.kernel.lookup(other) == UNDERLAY
    made.tell(SetProtected(frozenset({SITE})))
    assert made.kernel.lookup(other) in (TUN, "blackhole")
