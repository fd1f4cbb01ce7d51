"""Nexthop ids are used again, the oldest first, and never one that the kernel may still hold."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network

import pytest
from support.fib_shell import UNDERLAY, Shell
from support.kernel_model import Kernel

from gateway.routing.identifiers import Identifiers
from gateway.routing.model import (
    ConnectionAdded,
    ConnectionUp,
    FibSettings,
    InterfaceChanged,
    InterfaceGone,
    Nexthop,
    NextHopResolved,
    Op,
    OpError,
    RemoveRoute,
    Resolution,
    RouteOps,
    SetProtected,
    SetRoute,
    Target,
    Verb,
    ViaConnection,
    ViaNextHop,
    ViaTiers,
    of_table,
)
from gateway.routing.targets import CROWDED

INSTANCE = of_table(301)
PREFIXES = [ip_network(f"10.{number}.0.0/16") for number in range(4)]
HOPS = [ViaNextHop(ip_address(f"10.0.1.{number}")) for number in range(1, 40)]
SITE = ViaConnection("site")


def test_two_hundred_thousand_are_handed_out_of_sixty_five_thousand_and_each_is_one_s_own() -> None:
    chance, ids = random.Random(6), Identifiers(INSTANCE.first_id, INSTANCE.end_id)
    used = frozenset(range(INSTANCE.first_id + 10, INSTANCE.first_id + 500, 7)) | {1, INSTANCE.end_id + 5}
    ids.avoid(used)
    held: dict[int, None] = {}
    for _ in range(200_000):
        identifier = ids.take()
        assert identifier not in held and identifier not in used
        assert INSTANCE.first_id <= identifier < INSTANCE.end_id
        held[identifier] = None
        while len(held) > chance.randrange(1, 3000):
            gone = next(iter(held))
            del held[gone]
            ids.give_back((gone,))


def test_what_was_never_used_comes_first_and_then_the_oldest() -> None:
    ids = Identifiers(100, 104)
    ids.avoid(frozenset({102}))
    assert ids.left(3) and not ids.left(4)
    first, second = ids.take(), ids.take()
    ids.give_back((second,))
    ids.give_back((first,))
    assert [ids.take() for _ in range(3)] == [103, second, first]
    assert not ids.left(1)


def narrow(count: int) -> FibSettings:
    return FibSettings(first_id=1000, end_id=1000 + count, batch=3)


def test_a_range_that_is_full_refuses_and_what_is_there_stays() -> None:
    shell = Shell(settings=narrow(9))
    shell.tell(SetProtected(frozenset()))
    for prefix, hop in zip(PREFIXES, HOPS, strict=False):
        shell.resolver[hop.address] = Resolution(hop.address, UNDERLAY)
        shell.tell(SetRoute(prefix, hop))
    states = [shell.fib.state(prefix) for prefix in PREFIXES]
    assert any(state.error == "no nexthop id is left for it in the range of this table" for state in states)
    assert {route.prefix for route in shell.kernel.routes.values() if route.group} == {
        prefix for prefix, state in zip(PREFIXES, states, strict=True) if state.installed
    }
    assert states[0].installed


def test_what_was_refused_for_want_of_ids_takes_those_that_are_given_back() -> None:
    """Nobody tells the route again: an operator would not know that there is room."""
    shell = Shell(settings=narrow(9))
    shell.tell(SetProtected(frozenset()))
    for prefix, hop in zip(PREFIXES, HOPS, strict=False):
        shell.resolver[hop.address] = Resolution(hop.address, UNDERLAY)
        shell.tell(SetRoute(prefix, hop))
    installed = [prefix for prefix in PREFIXES if shell.fib.state(prefix).installed]
    refused = [prefix for prefix in PREFIXES if shell.fib.state(prefix).error == CROWDED]
    assert refused
    shell.tell(RemoveRoute(installed[0]))
    assert [shell.fib.state(prefix).installed for prefix in refused] == [True, *[False] * (len(refused) - 1)]
    for prefix in installed[1:]:
        shell.tell(RemoveRoute(prefix))
    states = [shell.fib.state(prefix) for prefix in refused]
    assert [state.installed for state in states[: len(installed)]] == [True] * min(len(installed), len(refused))


def test_no_id_is_given_away_while_its_removal_is_under_way() -> None:
    shell = Shell(settings=narrow(9))
    shell.tell(SetProtected(frozenset()))
    first, second = HOPS[:2]
    shell.tell(SetRoute(PREFIXES[0], first))
    (held,) = shell.kernel.nexthops
    shell.fib.command(RemoveRoute(PREFIXES[0]), 0.0)
    for _ in range(10):
        shell.fib.command(SetRoute(PREFIXES[1], second), 0.0)
        shell.fib.command(NextHopResolved(second.address, Resolution(second.address, UNDERLAY)), 0.0)
        shell.fib.command(RemoveRoute(PREFIXES[1]), 0.0)
    operations = [effect for effect in shell.fib.poll() if isinstance(effect, RouteOps)]
    assert operations, "the removal of the first"
    added = {op.entry.id for one in operations for op in one.ops if isinstance(op.entry, Nexthop)}
    assert held not in added or all(op.verb is Verb.DELETE for one in operations for op in one.ops)


@pytest.mark.parametrize("seed", range(6))
def test_through_a_random_history_with_few_ids_the_kernel_never_has_one_of_two_meanings(seed: int) -> None:
    """With failures, dumps and links that go. The model refuses to add what is there, and a route goes where it shall."""
    chance = random.Random(seed)
    shell = Shell(Kernel({UNDERLAY, 7}), narrow(36))
    shell.resolver = {hop.address: Resolution(hop.address, UNDERLAY) for hop in HOPS}
    failing = False

    def fault(op: Op) -> OpError | None:
        return OpError(12, "Cannot allocate memory") if failing and chance.random() < 0.2 else None

    shell.faults = fault
    shell.tell(SetProtected(frozenset()), ConnectionAdded("site", 7), ConnectionUp("site"))
    wanted: dict[object, Target] = {}
    for step in range(300):
        prefix = chance.choice(PREFIXES)
        failing = chance.random() < 0.3
        if chance.random() < 0.7:
            several = ViaTiers((tuple(chance.sample(HOPS, 2)),))
            target = chance.choice([chance.choice(HOPS), chance.choice(HOPS), several, SITE])
            wanted[prefix] = target
            shell.tell(SetRoute(prefix, target))
        else:
            wanted.pop(prefix, None)
            shell.tell(RemoveRoute(prefix))
        if chance.random() < 0.05:
            shell.kernel.delete_interface(UNDERLAY)
            shell.kernel.interfaces.add(UNDERLAY)
            shell.tell(InterfaceGone(UNDERLAY), InterfaceChanged())
        if step % 20 == 19:
            failing = False
            while shell.fib.next_deadline() is not None:
                shell.pass_time()
            agree(shell, wanted)


def agree(shell: Shell, wanted: dict[object, Target]) -> None:
    kernel, targets = shell.kernel, shell.fib._targets
    assert {route.prefix for route in kernel.routes.values() if route.group} == wanted.keys()
    for prefix, target in wanted.items():
        (route,) = [one for one in kernel.routes.values() if one.prefix == prefix and one.group]
        found = {kernel.nexthops[one] for one in kernel.groups[route.group].members}
        members = target.members if isinstance(target, ViaTiers) else (target,)
        expected = {(7, None) if one == SITE else (UNDERLAY, one.address) for one in members}  # type: ignore[union-attr]
        assert {(one.interface, one.gateway) for one in found} == expected
    # nothing that nobody needs is held back for ever
    needed = {(target, 4) for target in wanted.values()}
    needed |= {(one, 4) for target in wanted.values() if isinstance(target, ViaTiers) for one in target.members}
    assert targets._ids.keys() - {(None, 4)} <= needed
