"""A next hop of BGP's through the whole node: asked of the kernel, not used while it leads nowhere, and why."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from support.exabgp_model import attribute, update
from support.glass import VNET, Glass, glass

from gateway.observe.looking_glass import look_up
from gateway.routing.model import InterfaceChanged, NextHopResolved, Resolution, Resolve, ViaNextHop

HOP = ip_address("10.0.7.7")
PREFIX = "10.50.0.0/16"
WAY = Resolution(ip_address("10.0.1.1"), 2)


def settle(made: Glass, answer: Resolution | None) -> int:
    """Carry out what the node wants; how often it asked for the next hop."""
    asked = 0
    pending = list(made.node.poll())
    while pending:
        for effect in pending:
            if effect == Resolve(HOP):
                asked += 1
                made.node.command(NextHopResolved(HOP, answer), 0.0)
        made.obey()
        pending = list(made.node.poll())
    return asked


def taught() -> Glass:
    made = glass()
    made.node.receive_bgp(update(VNET, {str(HOP): [PREFIX]}, attributes=attribute([65515])), 0.0)
    return made


def best(made: Glass) -> bool:
    assert made.node.speaker is not None
    return ip_network(PREFIX) in made.node.speaker.loc_rib.best


def test_a_next_hop_that_leads_nowhere_keeps_its_route_out_of_everything_until_it_does() -> None:
    made = taught()
    assert not best(made), "not before the kernel was asked"
    assert settle(made, None) == 1
    assert not best(made)
    fib = made.node.fib
    assert fib.state(ip_network(PREFIX)).target is None
    found = look_up(made.node, ip_address("10.50.1.1"), None, "")
    assert [(path.peer, path.best, path.reason) for path in found.paths] == [
        ("vnet", False, f"next hop {HOP} is not reachable")
    ]
    made.node.command(InterfaceChanged(), 0.0)
    assert settle(made, WAY) == 1
    assert best(made)
    assert fib.state(ip_network(PREFIX)).target == ViaNextHop(HOP)
    made.node.command(InterfaceChanged(), 0.0)
    settle(made, None)
    assert not best(made)
    assert fib.state(ip_network(PREFIX)).target is None
