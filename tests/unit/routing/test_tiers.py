"""Routes over several tunnels or next hops: who carries, and how many messages a change costs."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from support.fib_shell import UNDERLAY, Shell
from support.kernel_model import Kernel

from gateway.routing.model import (
    ConnectionAdded,
    ConnectionDown,
    ConnectionUp,
    Group,
    InterfaceGone,
    SetProtected,
    SetRoute,
    ViaConnection,
    ViaNextHop,
    ViaTiers,
)

A, B, C = (ViaConnection(name) for name in "abc")
MANY = [ip_network((0xAC10_0000 + (n << 8), 24)) for n in range(600)]
SHARED = ViaTiers(((A, B), (C,)))


def shell(*, routes: int = len(MANY)) -> Shell:
    made = Shell(Kernel({UNDERLAY, 7, 8, 9}))
    made.tell(SetProtected(frozenset()))
    for number, name in enumerate("abc"):
        made.tell(ConnectionAdded(name, 7 + number), ConnectionUp(name))
    for prefix in MANY[:routes]:
        made.tell(SetRoute(prefix, SHARED))
    made.batches.clear()
    return made


def ways(made: Shell) -> set[object]:
    return {made.kernel.lookup(prefix) for prefix in MANY}


def test_equal_ways_share_and_the_backup_waits() -> None:
    made = shell()
    assert ways(made) == {frozenset({7, 8})}
    groups = {route.group for route in made.kernel.routes.values() if route.group}
    assert len(groups) == 1


def test_every_failure_moves_all_routes_by_one_message() -> None:
    made = shell()
    for command, expected in (
        (ConnectionDown("a"), 8),
        (ConnectionDown("b"), 9),
        (ConnectionDown("c"), "blackhole"),
        (ConnectionUp("b"), 8),
        (ConnectionUp("a"), frozenset({7, 8})),
    ):
        made.batches.clear()
        made.tell(command)
        assert ways(made) == {expected}
        assert [type(op.entry) for batch in made.batches for op in batch] == [Group]


def test_a_device_that_goes_leaves_the_others() -> None:
    made = shell()
    made.kernel.delete_interface(7)
    assert ways(made) == {8}, "the kernel does that by itself"
    made.tell(InterfaceGone(7))
    assert ways(made) == {8}
    made.kernel.interfaces.add(17)
    made.tell(ConnectionAdded("a", 17))
    assert ways(made) == {frozenset({17, 8})}


def test_a_next_hop_that_cannot_be_reached_is_left_out() -> None:
    made = Shell(Kernel({UNDERLAY}))
    here, away = ViaNextHop(ip_address("10.0.1.1")), ViaNextHop(ip_address("10.9.9.9"))
    made.resolver[away.address] = None
    made.tell(SetProtected(frozenset()), SetRoute(MANY[0], ViaTiers(((away, here),))))
    assert made.kernel.lookup(MANY[0]) == UNDERLAY
    (group,) = made.kernel.groups.values()
    assert len(group.members) == 1


def test_in_clear_is_refused_for_a_protected_prefix_whatever_the_tier() -> None:
    made = Shell(Kernel({UNDERLAY}))
    hops = ViaTiers(((ViaNextHop(ip_address("10.0.1.1")),), (ViaNextHop(ip_address("10.0.1.9")),)))
    made.tell(SetProtected(frozenset({MANY[0]})), SetRoute(MANY[0], hops))
    assert made.kernel.lookup(MANY[0]) == "blackhole"
    assert "10.0.1.1, 10.0.1.9" in made.fib.state(MANY[0]).error


def test_nothing_is_left_when_the_routes_go_elsewhere() -> None:
    made = shell(routes=3)
    for prefix in MANY[:3]:
        made.tell(SetRoute(prefix, A))
    assert len(made.kernel.groups) == 1
    assert {entry.interface for entry in made.kernel.nexthops.values()} == {0, 7}
