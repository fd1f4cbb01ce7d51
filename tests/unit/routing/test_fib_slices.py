"""The first comparison with the kernel, in slices: nothing is asked of the kernel before it is done, and the outcome is the same."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from gateway.routing.fib import Fib
from gateway.routing.model import (
    Applied,
    ConnectionAdded,
    ConnectionUp,
    Dump,
    DumpRequest,
    Entry,
    FibSettings,
    Group,
    Nexthop,
    Reconcile,
    RemoveRoute,
    Resync,
    Route,
    RouteKind,
    RouteOps,
    SetProtected,
    SetRoute,
    SetThrows,
    Sweep,
    Verb,
    ViaConnection,
)

COUNT = 50
PREFIXES = [ip_network(f"172.16.{n}.0/24") for n in range(COUNT)]


def begun(size: int) -> tuple[Fib, DumpRequest]:
    fib = Fib(FibSettings(slice=size))
    fib.command(SetThrows(frozenset(), frozenset({ip_address("192.0.2.1")})), 0.0)
    fib.command(SetProtected(frozenset(PREFIXES)), 0.0)
    for number, prefix in enumerate(PREFIXES):
        fib.command(ConnectionAdded(f"c{number}", 10 + number), 0.0)
        fib.command(ConnectionUp(f"c{number}"), 0.0)
        fib.command(SetRoute(prefix, ViaConnection(f"c{number}"), "static", 1), 0.0)
    (wanted,) = fib.poll()
    assert isinstance(wanted, DumpRequest)
    return fib, wanted


def finish(fib: Fib) -> dict[object, Entry]:
    """Slice by slice, then all operations; what the kernel holds at the end."""
    kernel: dict[object, Entry] = {}
    while not (steps := list(fib.poll())):
        assert fib.next_deadline() == 5.0, "due at once, by the clock it was last told"
        assert not fib.guard_complete
        fib.handle_deadline(5.0)
    while steps:
        (step,) = steps
        assert isinstance(step, RouteOps)
        for op in step.ops:
            if op.verb is Verb.DELETE:
                kernel.pop(op.entry.key, None)
            else:
                kernel[op.entry.key] = op.entry
        fib.command(Applied(step.ticket, {}), 6.0)
        steps = list(fib.poll())
    assert fib.guard_complete and fib.next_deadline() is None
    return kernel


def test_a_later_dump_is_read_in_slices_and_what_others_removed_comes_back() -> None:
    """The guard counts as complete meanwhile: it is what it was known to be until the dump says otherwise."""
    fib, wanted = begun(1000)
    fib.command(Reconcile(wanted.ticket, Dump((), frozenset())), 5.0)
    kernel = finish(fib)
    there = tuple(kernel.values())
    gone = there[-3:]
    small, wanted = begun(7)
    small.command(Reconcile(wanted.ticket, Dump((), frozenset())), 5.0)
    assert list(finish(small).values()) == list(there)
    small.command(Resync(), 6.0)
    (wanted,) = small.poll()
    assert isinstance(wanted, DumpRequest)
    used = frozenset(entry.key for entry in there if isinstance(entry.key, int))
    small.command(Reconcile(wanted.ticket, Dump(there[:-3], used)), 6.0)
    slices = 0
    while small.next_deadline() is not None:
        assert small.guard_complete and not small.settled and not list(small.poll())
        small.handle_deadline(6.0)
        slices += 1
    assert slices >= len(there) // 7 - 1
    (step,) = small.poll()
    assert isinstance(step, RouteOps)
    assert {op.entry.key for op in step.ops} == {entry.key for entry in gone}


@pytest.mark.parametrize("in_clear", [False, True])
def test_a_learned_route_inside_the_guard_stays_over_a_restart_where_it_leads_into_a_tunnel(in_clear: bool) -> None:
    """Nobody has asked for it yet: who taught it is only asked again. What leads beside the tunnels goes before all else."""
    learned = ip_network("172.16.3.128/25")
    assert any(learned.subnet_of(prefix) for prefix in PREFIXES)
    one, other = FibSettings().first_id + 900, FibSettings().first_id + 901
    hop = Nexthop(one, 4, 7, ip_address("192.0.2.1") if in_clear else None)
    route = Route(learned, FibSettings().metric, RouteKind.UNICAST, other)
    fib, wanted = begun(4)
    fib.command(Reconcile(wanted.ticket, Dump((hop, Group(other, (one,)), route), frozenset({one, other}))), 5.0)
    assert fib.view.forwards
    deleted = []
    for _ in range(3 * COUNT):
        for step in fib.poll():
            assert isinstance(step, RouteOps)
            deleted += [op.entry for op in step.ops if op.verb is Verb.DELETE]
            fib.command(Applied(step.ticket, {}), 6.0)
        fib.handle_deadline(6.0)
    assert (route in deleted) is in_clear
    fib.command(Sweep(), 7.0)
    swept = [op.entry for step in fib.poll() if isinstance(step, RouteOps) for op in step.ops]
    assert (route in swept) is not in_clear


def test_the_outcome_does_not_depend_on_the_size_of_the_slices() -> None:
    found = []
    for size in (1, 7, 1000):
        fib, wanted = begun(size)
        fib.command(Reconcile(wanted.ticket, Dump((), frozenset())), 5.0)
        found.append(finish(fib))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) >= 2 * COUNT


@pytest.mark.parametrize("after", [0, 3, 12])
def test_what_changes_meanwhile_counts(after: int) -> None:
    """A reload in the middle takes a prefix out of the guard and withdraws its route."""
    fib, wanted = begun(4)
    fib.command(Reconcile(wanted.ticket, Dump((), frozenset())), 5.0)
    for _ in range(after):
        fib.handle_deadline(5.0)
    fib.command(SetProtected(frozenset(PREFIXES[1:])), 5.0)
    fib.command(RemoveRoute(PREFIXES[0], "static"), 5.0)
    kernel = finish(fib)
    assert not [key for key in kernel if isinstance(key, tuple) and key[0] == PREFIXES[0]]
    assert len([key for key in kernel if isinstance(key, tuple) and key[0] in PREFIXES]) == 2 * (COUNT - 1)


def test_what_an_earlier_process_left_stays_until_all_is_compared() -> None:
    before, wanted = begun(1000)
    before.command(Reconcile(wanted.ticket, Dump((), frozenset())), 5.0)
    left = tuple(finish(before).values())
    fib, wanted = begun(3)
    used = frozenset(entry.key for entry in left if isinstance(entry.key, int))
    fib.command(Reconcile(wanted.ticket, Dump(left, used)), 5.0)
    steps = []
    while fib.next_deadline() is not None and not steps:
        fib.handle_deadline(5.0)
        steps = list(fib.poll())
    assert not steps or isinstance(steps[0], RouteOps)
    deleted = [op.entry for op in (steps[0].ops if steps else ()) if op.verb is Verb.DELETE]
    assert not [entry for entry in deleted if isinstance(entry.key, tuple)], "every route of before is wanted again"
