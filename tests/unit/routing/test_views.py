"""The FIB as people see it: every entry with its state, and the way to an address by longest match and metric."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from support.fib_shell import Shell
from support.kernel_model import Kernel

from gateway.routing.model import (
    ConnectionAdded,
    ConnectionDown,
    ConnectionGone,
    ConnectionUp,
    Liveness,
    OpError,
    RemoveRoute,
    Route,
    SetProtected,
    SetRoute,
    SetThrows,
    ViaCircuit,
    ViaConnection,
    ViaNextHop,
    ViaTiers,
)
from gateway.routing.views import Found, TableEntry, Way

EDGE, SECOND = ViaConnection("edge"), ViaConnection("second")
ROUTER = ViaNextHop(ip_address("10.0.1.1"))
ONPREM = ip_network("172.16.0.0/12")
SITE = ip_network("172.16.1.0/24")
LEARNED = ip_network("192.168.7.0/24")
VNET = ip_network("10.1.0.0/16")
LINK = ip_network("10.0.1.0/24")
EDGE_WAY = Way("edge", None, True)


def started() -> Shell:
    shell = Shell(Kernel({2, 7, 8}))
    shell.tell(
        SetProtected(frozenset({ONPREM})),
        SetThrows(frozenset({LINK})),
        ConnectionAdded("edge", 7),
        ConnectionUp("edge"),
        ConnectionAdded("second", 8),
        ConnectionUp("second"),
    )
    return shell


def entries(shell: Shell) -> dict[tuple[str, str], TableEntry]:
    return {(str(one.prefix), one.kind): one for one in shell.fib.view.entries()}


def find(shell: Shell, address: str) -> Found:
    return shell.fib.view.find(ip_address(address))


def test_every_entry_of_the_table_has_its_kind_state_and_ways():
    shell = started()
    shell.tell(
        SetRoute(SITE, EDGE),
        SetRoute(LEARNED, EDGE, keep=True),
        SetRoute(VNET, ROUTER),
        SetRoute(ip_network("172.17.0.0/16"), EDGE, "static", 10),
        SetRoute(ip_network("192.168.9.0/24"), EDGE),
    )
    found = entries(shell)
    assert {key: one.state for key, one in found.items()} == dict.fromkeys(found, "installed")
    assert set(found) == {
        ("172.16.0.0/12", "protected"),
        ("10.0.1.0/24", "throw"),
        ("169.254.169.254/32", "throw"),
        ("168.63.129.16/32", "throw"),
        ("172.16.1.0/24", "bgp"),
        ("192.168.7.0/24", "bgp"),
        ("192.168.7.0/24", "learned"),
        ("10.1.0.0/16", "bgp"),
        ("172.17.0.0/16", "static"),
        ("192.168.9.0/24", "bgp"),
        ("192.168.9.0/24", "shadow"),
    }
    assert found["172.16.1.0/24", "bgp"].ways == (EDGE_WAY,)
    assert found["10.1.0.0/16", "bgp"].ways == (Way("", ROUTER.address, True),)
    # exactly what the kernel has
    held = {(str(one.prefix), one.metric) for one in shell.kernel.dump().entries if isinstance(one, Route)}
    assert held == {(str(one.prefix), one.metric) for one in found.values()}


def test_what_would_leave_in_clear_is_refused_and_what_the_kernel_refuses_failed():
    shell = started()
    shell.faults = lambda op: OpError(22, "Invalid argument") if getattr(op.entry, "prefix", None) == VNET else None
    shell.tell(SetRoute(SITE, ROUTER), SetRoute(VNET, ROUTER))
    found = entries(shell)
    refused, failed = found["172.16.1.0/24", "bgp"], found["10.1.0.0/16", "bgp"]
    assert (refused.state, refused.ways) == ("refused", (Way("", ROUTER.address, False),))
    assert "would send it in clear" in refused.why
    assert (failed.state, failed.why) == ("failed", "Invalid argument")
    over = find(shell, "172.16.1.9")
    assert over.entry is not None
    assert (over.entry.kind, over.guard) == ("protected", ONPREM)
    assert [one.state for one in over.over] == ["refused"]


def test_before_the_first_look_at_the_kernel_everything_waits():
    shell = Shell()
    shell.fib.command(SetRoute(SITE, EDGE), 0.0)
    assert {one.state for one in shell.fib.view.entries()} == {"waiting"}
    assert find(shell, "172.16.1.9").entry is None


def test_a_tunnel_that_is_down_keeps_its_routes_and_uses_none_of_its_ways():
    shell = started()
    shell.tell(SetRoute(SITE, ViaTiers(((EDGE,), (SECOND,)))))
    assert entries(shell)["172.16.1.0/24", "bgp"].ways == (EDGE_WAY, Way("second", None, False))
    shell.tell(ConnectionDown("edge"))
    assert entries(shell)["172.16.1.0/24", "bgp"].ways == (Way("edge", None, False), Way("second", None, True))
    shell.tell(ConnectionDown("second"))
    dropped = entries(shell)["172.16.1.0/24", "bgp"]
    assert (dropped.used, dropped.state, dropped.why) == ((), "installed", "its tunnel is down: dropped")


def test_the_longest_match_wins_and_the_guard_is_named_beneath_it():
    shell = started()
    shell.tell(SetRoute(SITE, EDGE), SetRoute(ip_network("0.0.0.0/0"), SECOND), SetRoute(LEARNED, EDGE, keep=True))
    into = find(shell, "172.16.1.9")
    assert into.entry is not None and into.entry.prefix == SITE
    assert (into.entry.used, into.guard, into.learned) == ((EDGE_WAY,), ONPREM, False)
    beside = find(shell, "172.16.2.9")
    assert beside.entry is not None
    assert (beside.entry.kind, beside.entry.prefix) == ("protected", ONPREM)
    link = find(shell, "10.0.1.77")
    assert link.entry is not None and link.entry.kind == "throw"
    other = find(shell, "8.8.8.8")
    assert other.entry is not None and (other.entry.used[0].connection, other.guard) == ("second", None)
    learned = find(shell, "192.168.7.1")
    assert (learned.guard, learned.learned) == (LEARNED, True)
    shell.tell(RemoveRoute(LEARNED))
    gone = find(shell, "192.168.7.1")
    assert gone.entry is not None and (gone.entry.kind, gone.entry.ways) == ("learned", ())
    assert find(shell, "2001:db8::1").entry is None


def test_what_an_earlier_process_left_is_shown_as_such():
    first = started()
    first.tell(SetRoute(VNET, ROUTER))
    second = Shell(first.kernel)
    second.tell(SetProtected(frozenset({ONPREM})), ConnectionGone("edge"))
    found = entries(second)
    assert found["10.1.0.0/16", "earlier"].state == "stale"
    held = find(second, "10.1.2.3")
    assert held.entry is not None and held.entry.kind == "earlier"


def test_what_a_private_circuit_carries_is_in_clear_by_choice_and_says_so():
    shell = started()
    shell.tell(
        SetProtected(frozenset({ONPREM}), frozenset({ONPREM})),
        SetRoute(SITE, EDGE, "static", 10),
        SetRoute(SITE, ViaCircuit("edge"), "circuit", 5),
    )
    into = find(shell, "172.16.1.9")
    assert into.entry is not None and (into.entry.kind, into.yields) == ("static", True)
    shell.tell(Liveness(ViaCircuit("edge"), True))
    beside = find(shell, "172.16.1.9")
    assert beside.entry is not None
    assert (beside.entry.kind, beside.entry.state) == ("circuit", "installed")
    assert beside.entry.used == (Way("edge", None, True, circuit=True),)
