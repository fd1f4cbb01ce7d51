"""The FIB against a model kernel: orders, failovers, failures, restarts."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from support.fib_shell import UNDERLAY, Shell
from support.kernel_model import Kernel

from gateway.routing.fib import Fib
from gateway.routing.guard import GUARD_METRIC
from gateway.routing.model import (
    Applied,
    ConnectionAdded,
    ConnectionDown,
    ConnectionGone,
    ConnectionUp,
    Dump,
    FibSettings,
    Group,
    InterfaceChanged,
    InterfaceGone,
    Liveness,
    Nexthop,
    Op,
    OpError,
    Prefix,
    Reconcile,
    RemoveRoute,
    Resync,
    Route,
    RouteKind,
    SetProtected,
    SetRoute,
    SetThrows,
    Sweep,
    Verb,
    ViaConnection,
    ViaNextHop,
    ViaTiers,
)

EDGE = ViaConnection("edge")
ROUTER = ViaNextHop(ip_address("10.0.1.1"))
ONPREM = ip_network("172.16.0.0/12")
VNET = ip_network("10.1.0.0/16")
SIX = ip_network("2001:db8:5::/48")
TUN = 7


def up(shell: Shell | None = None, name: str = "edge", index: int = TUN) -> Shell:
    shell = shell or Shell()
    shell.kernel.interfaces.add(index)
    shell.tell(SetProtected(frozenset({ONPREM, SIX})), ConnectionAdded(name, index), ConnectionUp(name))
    return shell


def many(count: int) -> list[IPv4Network | IPv6Network]:
    return [ip_network((0xAC10_0000 + (n << 8), 24)) for n in range(count)]


def verbs(ops: tuple[Op, ...]) -> list[tuple[str, str]]:
    return [(op.verb.value, type(op.entry).__name__) for op in ops]


def test_nothing_is_emitted_before_the_protected_prefixes_are_known() -> None:
    shell = Shell()
    shell.kernel.interfaces.add(TUN)
    shell.tell(ConnectionAdded("edge", TUN), ConnectionUp("edge"), SetRoute(ONPREM, EDGE))
    assert (shell.batches, shell.dumps) == ([], 0)
    shell.tell(SetProtected(frozenset({ONPREM})))
    assert shell.dumps == 1
    assert shell.kernel.lookup(ONPREM) == TUN


def test_the_guard_precedes_every_route_and_its_exceptions_precede_the_guard() -> None:
    shell = Shell()
    shell.kernel.interfaces.add(TUN)
    for command in (ConnectionAdded("edge", TUN), ConnectionUp("edge"), SetRoute(ONPREM, EDGE)):
        shell.fib.command(command, 0.0)
    shell.tell(SetProtected(frozenset({ONPREM})))
    first = [op.entry.kind if isinstance(op.entry, Route) else type(op.entry) for op in shell.batches[0]]
    assert first == [RouteKind.THROW] * 2 + [RouteKind.BLACKHOLE] + [Nexthop] * 2 + [Group, RouteKind.UNICAST]


def test_a_route_points_into_its_connections_tun_through_a_group_of_one() -> None:
    shell = up()
    shell.tell(SetRoute(ONPREM, EDGE), SetRoute(SIX, EDGE))
    assert shell.kernel.lookup(ONPREM) == TUN
    assert shell.kernel.lookup(SIX) == TUN
    families = {shell.kernel.nexthops[g.members[0]].family for g in shell.kernel.groups.values()}
    assert families == {4, 6}


@pytest.mark.parametrize(("event", "expected"), [(ConnectionDown("edge"), "blackhole"), (ConnectionUp("edge"), TUN)])
def test_a_tunnel_down_or_up_is_one_replacement_whatever_the_number_of_routes(event: object, expected: object) -> None:
    shell = up()
    shell.tell(*(SetRoute(prefix, EDGE) for prefix in many(1000)))
    if isinstance(event, ConnectionUp):
        shell.tell(ConnectionDown("edge"))
    shell.batches.clear()
    shell.tell(event)  # type: ignore[arg-type]
    assert [verbs(ops) for ops in shell.batches] == [[("replace", "Group")]]
    assert all(shell.kernel.lookup(prefix) == expected for prefix in many(1000))


def test_of_routes_that_follow_their_group_none_is_looked_at_but_those_with_an_alternative(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shell = up(up(), "second", 8)
    shell.tell(*(SetRoute(prefix, EDGE) for prefix in many(100)))
    other = SetRoute(many(100)[7], ViaConnection("second"), "static", 30)
    shell.tell(other)
    looked: list[Prefix] = []
    choose = Fib._choose
    monkeypatch.setattr(Fib, "_choose", lambda fib, prefix: looked.append(prefix) or choose(fib, prefix))
    shell.tell(ConnectionDown("edge"))
    assert looked == [other.prefix]
    assert shell.kernel.lookup(other.prefix) == 8
    shell.tell(RemoveRoute(other.prefix, "static"))
    looked.clear()
    shell.tell(ConnectionUp("edge"), ConnectionUp("edge"), ConnectionAdded("edge", TUN))
    assert looked == []
    assert all(shell.kernel.lookup(prefix) == TUN for prefix in many(100))
    shell.tell(ConnectionGone("edge"))
    assert sorted(looked) == sorted(many(100))
    assert not any(shell.fib.state(prefix).installed for prefix in many(100))


def test_a_deleted_tun_leaves_the_guard_and_its_routes_come_back_as_blackholes_then_through_the_new_tun() -> None:
    shell = up()
    shell.tell(SetRoute(ONPREM, EDGE))
    shell.kernel.delete_interface(TUN)
    assert shell.kernel.lookup(ONPREM) == "blackhole"
    assert [r.metric for r in shell.kernel.routes.values() if r.prefix == ONPREM] == [GUARD_METRIC]
    shell.fib.command(InterfaceGone(TUN), 0.0)
    assert not shell.fib.state(ONPREM).installed
    shell.settle()
    assert shell.kernel.lookup(ONPREM) == "blackhole"
    shell.kernel.interfaces.add(TUN + 1)
    shell.tell(ConnectionAdded("edge", TUN + 1))
    assert shell.kernel.lookup(ONPREM) == TUN + 1
    assert shell.fib.state(ONPREM).installed


def test_a_prefix_without_protection_fails_closed_too_while_its_connection_is_configured() -> None:
    shell = up()
    shell.tell(SetRoute(VNET, EDGE))
    shell.kernel.delete_interface(TUN)
    shell.tell(InterfaceGone(TUN))
    assert shell.kernel.lookup(VNET) == "blackhole"


def test_a_route_moves_to_another_connection_in_one_step() -> None:
    shell = up(up(), "second", 8)
    shell.tell(SetRoute(ONPREM, EDGE))
    shell.batches.clear()
    shell.tell(SetRoute(ONPREM, ViaConnection("second")))
    moves = [op for ops in shell.batches for op in ops if isinstance(op.entry, Route)]
    assert [op.verb for op in moves] == [Verb.REPLACE]
    assert shell.kernel.lookup(ONPREM) == 8
    assert len(shell.kernel.groups) == 1  # the first one's objects went when nothing used them


def test_the_usable_candidate_wins_then_the_lower_distance() -> None:
    shell = up(up(), "second", 8)
    shell.tell(SetRoute(ONPREM, EDGE, "static:edge", 1), SetRoute(ONPREM, ViaConnection("second")))
    assert shell.kernel.lookup(ONPREM) == TUN
    shell.tell(ConnectionDown("edge"))
    assert shell.kernel.lookup(ONPREM) == 8
    shell.tell(ConnectionDown("second"))
    assert shell.kernel.lookup(ONPREM) == "blackhole"
    shell.tell(ConnectionUp("edge"), ConnectionUp("second"))
    assert shell.kernel.lookup(ONPREM) == TUN
    shell.tell(RemoveRoute(ONPREM, "static:edge"))
    assert shell.kernel.lookup(ONPREM) == 8


def test_a_next_hop_is_resolved_and_one_group_serves_all_its_routes() -> None:
    shell = up()
    shell.tell(SetRoute(VNET, ROUTER), SetRoute(ip_network("10.2.0.0/16"), ROUTER))
    assert shell.kernel.lookup(VNET) == UNDERLAY
    assert len(shell.kernel.groups) == 1
    (nexthop,) = (n for n in shell.kernel.nexthops.values() if n.gateway)
    assert nexthop.gateway == ip_address("10.0.1.1")


def test_the_same_route_said_again_changes_nothing() -> None:
    shell = up()
    shell.tell(SetRoute(VNET, ROUTER))
    shell.batches.clear()
    shell.tell(SetRoute(VNET, ROUTER))
    assert shell.batches == []
    assert shell.kernel.lookup(VNET) == UNDERLAY


def test_an_unreachable_next_hop_is_named_and_tried_again_when_the_underlay_changes() -> None:
    shell = up()
    shell.resolver[ROUTER.address] = None
    shell.tell(SetRoute(VNET, ROUTER))
    assert shell.fib.state(VNET).error == "next hop 10.0.1.1 is not reachable through the main table"
    assert shell.fib.status().failed == 1
    del shell.resolver[ROUTER.address]
    shell.tell(InterfaceChanged())
    assert shell.kernel.lookup(VNET) == UNDERLAY


def test_a_next_hop_of_the_other_family_is_refused() -> None:
    shell = up()
    shell.tell(SetRoute(ip_network("2001:db8:9::/48"), ROUTER))
    assert "other address family" in shell.fib.state(ip_network("2001:db8:9::/48")).error


@pytest.mark.parametrize("prefix", ["172.16.0.0/12", "172.16.5.0/24"])
def test_a_protected_prefix_is_never_routed_to_the_underlay(prefix: str) -> None:
    shell = up()
    shell.tell(SetRoute(ip_network(prefix), ROUTER))
    assert shell.kernel.lookup(ip_network(prefix)) == "blackhole"
    assert (
        shell.fib.state(ip_network(prefix)).error == f"{prefix} is protected: next hop 10.0.1.1 would send it in clear"
    )


def test_a_wider_underlay_route_does_not_undo_the_guard() -> None:
    shell = up()
    shell.tell(SetRoute(ip_network("0.0.0.0/0"), ROUTER))
    assert shell.kernel.lookup(ip_network("0.0.0.0/0")) == UNDERLAY
    assert shell.kernel.lookup(ONPREM) == "blackhole"


def test_an_underlay_route_goes_at_once_when_its_prefix_becomes_protected() -> None:
    shell = up()
    shell.tell(SetRoute(VNET, ROUTER))
    shell.batches.clear()
    for prefix in many(600):
        shell.fib.command(SetRoute(prefix, EDGE), 0.0)
    shell.tell(SetProtected(frozenset({ONPREM, VNET})))
    late = [
        ops for ops in shell.batches if any(op.entry == Route(VNET, GUARD_METRIC, RouteKind.BLACKHOLE) for op in ops)
    ]
    assert verbs(late[0])[:2] == [("add", "Route"), ("delete", "Route")]
    assert shell.kernel.lookup(VNET) == "blackhole"


def test_a_removed_connection_takes_its_routes_and_objects_along_but_not_the_guard() -> None:
    shell = up()
    shell.tell(SetRoute(ONPREM, EDGE), SetRoute(SIX, EDGE), ConnectionGone("edge"))
    assert shell.kernel.lookup(ONPREM) == "blackhole"
    assert (shell.kernel.groups, shell.kernel.nexthops) == ({}, {})
    assert shell.fib.state(ONPREM).error == "connection edge does not exist"


def test_deletions_run_backwards_and_the_kernel_never_deletes_a_route_by_itself() -> None:
    shell = up()
    shell.tell(SetRoute(ONPREM, EDGE))
    shell.batches.clear()
    shell.tell(RemoveRoute(ONPREM))
    order = [op.entry for ops in shell.batches for op in ops]
    assert isinstance(order[0], Route)
    (group,) = (entry for entry in order if isinstance(entry, Group))
    (tun,) = (entry for entry in order if isinstance(entry, Nexthop) and entry.interface == TUN)
    assert order.index(group) < order.index(tun)
    assert (shell.kernel.groups, shell.kernel.nexthops) == ({}, {})


def test_a_prefix_no_longer_protected_loses_its_blackhole_after_everything_else() -> None:
    shell = up()
    shell.batches.clear()
    shell.tell(SetRoute(VNET, EDGE))
    shell.tell(SetProtected(frozenset({SIX})))
    assert shell.batches[-1][-1] == Op(Verb.DELETE, Route(ONPREM, GUARD_METRIC, RouteKind.BLACKHOLE))
    assert shell.kernel.lookup(ONPREM) == "main"


def test_a_failed_operation_is_named_and_tried_again_after_a_fresh_dump() -> None:
    shell = up()
    shell.faults = lambda op: (
        OpError(12, "Cannot allocate memory") if getattr(op.entry, "prefix", None) == VNET else None
    )
    shell.tell(SetRoute(VNET, ROUTER))
    assert shell.fib.state(VNET).error == "Cannot allocate memory"
    assert shell.fib.status().failed == 1
    dumps = shell.dumps
    shell.faults = lambda op: None
    shell.pass_time()
    assert shell.dumps == dumps + 1
    assert shell.fib.state(VNET).installed


def test_who_takes_a_nexthop_away_between_it_and_its_routes_does_not_make_them_wait() -> None:
    shell = up()

    def flushed(op: Op) -> OpError | None:
        if not isinstance(op.entry, Route) or op.entry.kind is not RouteKind.UNICAST:
            return None
        shell.faults = lambda op: None
        for nexthop in list(shell.kernel.nexthops.values()):
            shell.kernel.apply(Op(Verb.DELETE, nexthop))
        return None

    shell.faults = flushed
    shell.tell(SetRoute(ONPREM, EDGE))
    assert shell.fib.status().failed == 1, "the kernel knows no such nexthop"
    shell.tell(Resync())  # the kernel's news of it
    assert shell.fib.state(ONPREM).installed
    assert shell.kernel.lookup(ONPREM) == TUN


def test_a_failed_nexthop_explains_its_routes_which_fail_closed() -> None:
    shell = Shell()
    shell.tell(
        SetProtected(frozenset({ONPREM})), ConnectionAdded("edge", TUN), ConnectionUp("edge"), SetRoute(VNET, EDGE)
    )
    assert shell.kernel.lookup(VNET) == "blackhole"
    shell.kernel.interfaces.add(TUN)
    shell.pass_time()
    assert shell.kernel.lookup(VNET) == TUN


def test_a_foreign_route_in_our_table_is_never_replaced() -> None:
    shell = up()
    shell.kernel.foreign[(VNET, 20)] = Route(VNET, 20, RouteKind.BLACKHOLE)
    shell.tell(SetRoute(VNET, ROUTER))
    assert shell.fib.state(VNET).error == "File exists"
    shell.pass_time()
    assert not shell.fib.state(VNET).installed
    del shell.kernel.foreign[(VNET, 20)]
    shell.pass_time()
    assert shell.fib.state(VNET).installed


def test_what_somebody_deleted_comes_back() -> None:
    shell = up()
    shell.tell(SetRoute(ONPREM, EDGE), SetRoute(VNET, ROUTER))
    before = shell.kernel.dump()
    shell.kernel.routes.clear()
    shell.kernel.groups.clear()
    shell.tell(Resync())
    assert set(shell.kernel.dump().entries) == set(before.entries)


def test_a_restart_keeps_the_guard_and_routes_of_the_process_before_until_the_sweep() -> None:
    first = up()
    first.tell(SetRoute(VNET, ROUTER), SetRoute(ip_network("10.2.0.0/16"), ROUTER))
    first.kernel.delete_interface(TUN)
    second = Shell(first.kernel)
    second.tell(SetProtected(frozenset({ONPREM})), SetRoute(ip_network("10.2.0.0/16"), ROUTER))
    assert second.kernel.lookup(VNET) == UNDERLAY
    assert second.kernel.lookup(SIX) == "blackhole"
    assert second.fib.status().stale == 2
    second.tell(Sweep())
    assert second.kernel.lookup(VNET) == "main"
    assert second.kernel.lookup(SIX) == "main"
    assert second.kernel.lookup(ip_network("10.2.0.0/16")) == UNDERLAY
    assert second.kernel.lookup(ONPREM) == "blackhole"
    assert len(second.kernel.groups) == 1


def test_a_restart_removes_at_once_what_lets_a_protected_prefix_out() -> None:
    first = up()
    first.tell(SetRoute(VNET, ROUTER), SetThrows(frozenset({ip_network("10.7.0.0/24")})))
    second = Shell(first.kernel)
    second.tell(SetProtected(frozenset({VNET, ip_network("10.7.0.0/16")})))
    assert second.kernel.lookup(VNET) == "blackhole"
    assert second.kernel.lookup(ip_network("10.7.0.0/24")) == "blackhole"


def test_a_missing_guard_entry_is_a_named_problem() -> None:
    shell = Shell()
    shell.faults = lambda op: OpError(1, "Operation not permitted")
    shell.tell(SetProtected(frozenset({ONPREM})))
    status = shell.fib.status()
    assert status.guard == 0
    assert "clear-text guard: blackhole 172.16.0.0/12 is not installed: Operation not permitted" in status.problems


def test_answers_to_an_earlier_question_are_ignored() -> None:
    shell = up()
    shell.tell(Applied(999), Reconcile(999, Dump()))
    assert shell.fib.status().guard == 5


def test_ten_thousand_routes_fit_in_batches() -> None:
    shell = up()
    prefixes = [ip_network((0xAC10_0000 + (n << 4), 28)) for n in range(10_000)]
    for prefix in prefixes:
        shell.fib.command(SetRoute(prefix, EDGE), 0.0)
    shell.settle()
    assert max(len(ops) for ops in shell.batches) == FibSettings().batch
    status = shell.fib.status()
    assert (status.desired, status.installed, status.failed) == (10_000, 10_000, 0)


def test_a_kernel_that_forgets_its_interface_is_read_again_also_with_a_batch_under_way() -> None:
    shell = Shell(Kernel({UNDERLAY, TUN}))
    shell.tell(SetProtected(frozenset({ONPREM})), ConnectionAdded("edge", TUN), ConnectionUp("edge"))
    shell.fib.command(SetRoute(ONPREM, EDGE), 0.0)
    (batch,) = list(shell.fib.poll())
    for op in batch.ops:  # type: ignore[union-attr]
        shell.kernel.apply(op)
    shell.kernel.delete_interface(TUN)
    shell.fib.command(InterfaceGone(TUN), 0.0)
    shell.tell(Applied(batch.ticket))  # type: ignore[union-attr]
    assert shell.kernel.lookup(ONPREM) == "blackhole"
    assert {r.metric for r in shell.kernel.routes.values() if r.prefix == ONPREM} == {20, GUARD_METRIC}


def test_the_old_guard_stays_while_the_new_one_cannot_be_installed() -> None:
    shell = up()
    wide = ip_network("0.0.0.0/0")
    shell.faults = lambda op: (
        OpError(12, "Cannot allocate memory") if getattr(op.entry, "prefix", None) == wide else None
    )
    shell.tell(SetProtected(frozenset({wide})))
    assert shell.kernel.lookup(ONPREM) == "blackhole"
    shell.faults = lambda op: None
    shell.pass_time()
    assert {r.prefix for r in shell.kernel.routes.values() if r.metric == GUARD_METRIC} == {wide}


LEARNED = ip_network("192.168.7.0/24")


def test_a_route_into_a_tunnel_that_nothing_protects_leaves_a_blackhole_when_its_device_goes() -> None:
    shell = up()
    shell.tell(SetRoute(LEARNED, EDGE), SetRoute(VNET, ROUTER), SetRoute(ip_network("172.16.9.0/24"), EDGE))
    (batch,) = [ops for ops in shell.batches if any(getattr(op.entry, "prefix", None) == LEARNED for op in ops)]
    assert [op.entry.kind for op in batch if isinstance(op.entry, Route)] == [RouteKind.BLACKHOLE, RouteKind.UNICAST]
    shell.kernel.delete_interface(TUN)
    assert shell.kernel.lookup(LEARNED) == "blackhole"
    # A protected prefix covers one of the others, and the third leads nowhere near a tunnel.
    shadowed = {r.prefix for r in shell.kernel.routes.values() if r.metric == GUARD_METRIC} - {ONPREM, SIX}
    assert shadowed == {LEARNED}


def test_that_blackhole_goes_with_the_route_after_it_and_comes_and_goes_with_protection() -> None:
    shell = up()
    shell.tell(SetRoute(LEARNED, EDGE))
    shell.tell(SetProtected(frozenset({ip_network("192.168.0.0/16")})))
    assert (LEARNED, GUARD_METRIC) not in shell.kernel.routes
    shell.tell(SetProtected(frozenset({LEARNED})), SetProtected(frozenset()))
    assert (LEARNED, GUARD_METRIC) in shell.kernel.routes
    shell.batches.clear()
    shell.tell(RemoveRoute(LEARNED))
    gone = [op.entry.kind for ops in shell.batches for op in ops if isinstance(op.entry, Route)]
    assert gone == [RouteKind.UNICAST, RouteKind.BLACKHOLE]
    assert shell.kernel.lookup(LEARNED) == "main"


def test_that_blackhole_outlives_a_kill_until_the_sweep() -> None:
    before = up()
    before.tell(SetRoute(LEARNED, EDGE))
    before.kernel.delete_interface(TUN)
    shell = up(Shell(kernel=before.kernel), index=TUN + 1)
    assert shell.kernel.lookup(LEARNED) == "blackhole"
    shell.tell(Sweep())
    assert shell.kernel.lookup(LEARNED) == "main"


def test_what_a_liveness_check_gave_up_is_used_only_where_nothing_else_is() -> None:
    shell = Shell()
    for interface, name in ((10, "edge"), (11, "spare")):
        shell.kernel.interfaces.add(interface)
        shell.tell(ConnectionAdded(name, interface), ConnectionUp(name))
    backed = ViaTiers(((ViaConnection("edge"),), (ViaConnection("spare"),)))
    several = [ip_network(f"172.16.{number}.0/24") for number in range(100)]
    shell.tell(SetProtected(frozenset()), *(SetRoute(prefix, backed) for prefix in several))
    shell.tell(SetRoute(VNET, ViaConnection("edge")))
    shell.batches.clear()
    shell.tell(Liveness(ViaConnection("edge"), works=False))
    assert [op.verb for batch in shell.batches for op in batch] == [Verb.REPLACE]
    assert {shell.kernel.lookup(prefix) for prefix in several} == {11}
    assert shell.kernel.lookup(VNET) == 10
    shell.tell(ConnectionDown("spare"))
    assert {shell.kernel.lookup(prefix) for prefix in several} == {10}
    shell.tell(Liveness(ViaConnection("edge"), works=True), ConnectionUp("spare"))
    assert {shell.kernel.lookup(prefix) for prefix in several} == {10}


def test_no_way_in_clear_is_opened_around_a_blackhole_that_the_kernel_refuses() -> None:
    shell = up()
    inside = ip_network("10.1.5.0/24")
    shell.faults = lambda op: (
        OpError(12, "Cannot allocate memory")
        if op.entry == Route(inside, GUARD_METRIC, RouteKind.BLACKHOLE) and op.verb is Verb.ADD
        else None
    )
    shell.fib.command(SetProtected(frozenset({ONPREM, inside})), 0.0)
    shell.tell(SetRoute(VNET, ROUTER))
    assert shell.kernel.lookup(inside) == "main", "nothing of ours leads there: the host's own routes do"
    assert not [route for route in shell.kernel.routes.values() if route.prefix == VNET]
    assert not shell.fib.state(VNET).installed
    shell.faults = lambda op: None
    shell.pass_time()
    assert shell.kernel.lookup(inside) == "blackhole"
    assert shell.kernel.lookup(ip_network("10.1.9.0/24")) == UNDERLAY
