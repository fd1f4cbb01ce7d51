"""Learned prefixes that stay protected when their route goes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from support.fib_shell import UNDERLAY, Shell
from support.kernel_model import Kernel

from gateway.routing import kept
from gateway.routing.model import (
    ConnectionAdded,
    ConnectionUp,
    Forget,
    Keep,
    RemoveRoute,
    Resync,
    SetProtected,
    SetRoute,
    Sweep,
    ViaConnection,
    ViaNextHop,
)

EDGE, ROUTER = ViaConnection("edge"), ViaNextHop(ip_address("10.0.1.1"))
LEARNED, INSIDE = ip_network("192.168.0.0/16"), ip_network("192.168.7.0/24")
TUN = 7


def shell(kernel: Kernel | None = None) -> Shell:
    made = Shell(kernel or Kernel({UNDERLAY, TUN}))
    made.kernel.interfaces.add(TUN)
    made.tell(SetProtected(frozenset()), ConnectionAdded("edge", TUN), ConnectionUp("edge"))
    return made


def taught(made: Shell) -> Shell:
    made.tell(SetRoute(LEARNED, EDGE, keep=True))
    assert made.kernel.lookup(LEARNED) == TUN
    return made


def test_a_withdrawn_route_leaves_a_blackhole() -> None:
    made = taught(shell())
    made.tell(RemoveRoute(LEARNED))
    assert made.kernel.lookup(LEARNED) == "blackhole"
    assert made.fib.status().kept == 1


def test_without_the_switch_it_follows_the_main_table_again() -> None:
    made = shell()
    made.tell(SetRoute(LEARNED, EDGE), RemoveRoute(LEARNED))
    assert made.kernel.lookup(LEARNED) == "main"


def test_no_route_in_clear_takes_its_place_and_it_is_said_why() -> None:
    made = taught(shell())
    made.tell(SetRoute(LEARNED, ROUTER, keep=True))
    assert made.kernel.lookup(LEARNED) == "blackhole"
    assert "gatewayctl guard forget 192.168.0.0/16" in made.fib.state(LEARNED).error


def test_what_lies_inside_may_lead_elsewhere() -> None:
    """A VNet's prefix inside a site's aggregate."""
    made = taught(shell())
    made.tell(SetRoute(INSIDE, ROUTER, keep=True))
    assert made.kernel.lookup(INSIDE) == UNDERLAY
    assert made.fib.status().kept == 1


def test_the_operator_forgets_it() -> None:
    made = taught(shell())
    made.tell(SetRoute(LEARNED, ROUTER, keep=True), Forget((LEARNED, INSIDE)))
    assert made.kernel.lookup(LEARNED) == UNDERLAY
    made.tell(RemoveRoute(LEARNED))
    assert made.kernel.lookup(LEARNED) == "main"
    assert made.fib.status().kept == 0


def test_forgetting_what_is_still_learned_keeps_it_again() -> None:
    made = taught(shell())
    made.tell(Forget((LEARNED,)))
    assert made.kernel.lookup(LEARNED) == TUN
    made.tell(RemoveRoute(LEARNED))
    assert made.kernel.lookup(LEARNED) == "blackhole"


def test_the_next_process_has_it_before_anything_else_and_keeps_it_past_the_sweep() -> None:
    old = taught(shell())
    fresh = Shell(old.kernel)
    fresh.fib.command(Keep((LEARNED,)), 0.0)
    fresh.kernel.routes.clear()  # a reboot
    assert not fresh.fib.guard_complete
    fresh.tell(SetProtected(frozenset()))
    assert fresh.fib.guard_complete
    assert fresh.kernel.lookup(LEARNED) == "blackhole"
    fresh.tell(Sweep())
    assert fresh.kernel.lookup(LEARNED) == "blackhole"


def test_a_missing_blackhole_of_one_is_a_missing_piece_of_the_guard() -> None:
    made = taught(shell())
    made.fib.command(RemoveRoute(LEARNED), 0.0)
    (key,) = [key for key in made.kernel.routes if key[0] == LEARNED and key[1] != 20]
    made.kernel.routes.pop(key)
    made.tell(Resync())
    assert made.kernel.lookup(LEARNED) == "blackhole"


def test_news_are_told_once() -> None:
    made = taught(shell())
    assert made.fib.kept.news() == [LEARNED]
    made.tell(SetRoute(LEARNED, EDGE, keep=True))
    assert made.fib.kept.news() == []


def test_there_is_an_end_to_what_is_kept_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "LIMIT", 2)
    made = shell()
    for number in range(3):
        made.tell(SetRoute(ip_network(f"172.{16 + number}.0.0/16"), EDGE, keep=True))
    assert made.fib.status().kept == 2
    assert any("no room for more" in problem for problem in made.fib.status().problems)
    made.tell(RemoveRoute(ip_network("172.16.0.0/16")), Forget((ip_network("172.16.0.0/16"),)))
    assert not made.fib.status().problems
