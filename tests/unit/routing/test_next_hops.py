"""Next hops as the FIB follows them for BGP: told when known, again when another, and never gone while they are looked up."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from support.fib_shell import UNDERLAY, Shell

from gateway.routing.model import (
    FollowNextHop,
    InterfaceChanged,
    InterfaceGone,
    NextHopResolved,
    RemoveRoute,
    Resolution,
    Resolve,
    SetProtected,
    SetRoute,
    ViaNextHop,
)

HOP = ip_address("10.0.1.9")
VNET = ip_network("10.7.0.0/16")
WAY = Resolution(ip_address("10.0.1.1"), UNDERLAY)


def started() -> Shell:
    shell = Shell()
    shell.tell(SetProtected(frozenset()))
    return shell


def test_who_follows_is_told_once_for_each_answer_that_is_another() -> None:
    shell = started()
    shell.tell(FollowNextHop(HOP))
    assert shell.fib.next_hops.news() == {HOP: True}
    shell.tell(InterfaceChanged())
    assert shell.fib.next_hops.news() == {}, "asked again, and nothing new"
    shell.resolver[HOP] = None
    shell.tell(InterfaceChanged())
    assert shell.fib.next_hops.news() == {HOP: False}
    shell.resolver[HOP] = WAY
    shell.tell(InterfaceChanged())
    assert shell.fib.next_hops.news() == {HOP: True}


def test_a_link_that_goes_is_no_answer_yet() -> None:
    shell = started()
    shell.tell(FollowNextHop(HOP))
    shell.fib.next_hops.news()
    shell.fib.command(InterfaceGone(UNDERLAY), 0.0)
    assert shell.fib.next_hops.news() == {}
    assert Resolve(HOP) in list(shell.fib.poll())
    shell.fib.command(NextHopResolved(HOP, Resolution(ip_address("10.0.2.1"), 3)), 0.0)
    assert shell.fib.next_hops.news() == {}, "by another link it is reached all the same"


def test_what_a_route_asked_for_is_told_to_who_follows_later() -> None:
    shell = started()
    shell.tell(SetRoute(VNET, ViaNextHop(HOP)))
    shell.tell(FollowNextHop(HOP))
    assert shell.fib.next_hops.news() == {HOP: True}
    shell.tell(FollowNextHop(HOP))
    assert shell.fib.next_hops.news() == {HOP: True}, "asked once more it says so once more"
    nowhere = ip_address("10.0.1.10")
    shell.resolver[nowhere] = None
    shell.tell(SetRoute(VNET, ViaNextHop(nowhere)))
    shell.tell(FollowNextHop(nowhere))
    assert shell.fib.next_hops.news() == {nowhere: False}


def test_it_is_known_as_long_as_a_route_or_a_follower_needs_it() -> None:
    shell = started()
    shell.tell(FollowNextHop(HOP), SetRoute(VNET, ViaNextHop(HOP)))
    shell.fib.next_hops.news()
    shell.tell(RemoveRoute(VNET))
    assert HOP in shell.fib.next_hops.ways
    shell.tell(SetRoute(VNET, ViaNextHop(HOP)), FollowNextHop(HOP, wanted=False))
    assert shell.fib.state(VNET).installed
    shell.tell(InterfaceChanged())
    assert shell.fib.next_hops.news() == {}
    shell.tell(RemoveRoute(VNET))
    assert shell.fib.next_hops.ways == {}
    shell.tell(NextHopResolved(HOP, WAY))
    assert shell.fib.next_hops.ways == {}, "an answer to what nobody asks any more"
