"""Processes that are killed and go on with what was kept: the invariants of all schedules hold, the IKE_SA is the same one, and no IV
is used twice by both processes together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from simulation import schedules
from simulation.schedules import compose
from simulation.world import World

from gateway.ike import keeping as ike_keeping
from gateway.node.keeping import FORWARDS_AFTER, KeptConnection


def stored(seed: int) -> World:
    """Both ends of this schedule's kind, with a manager that stores descriptors."""
    schedule = compose(seed)
    world = World(seed, schedule.plan, schedules.WEATHERS[schedule.weather], schedules.PACES[schedule.pace])
    for shell in world.shells.values():
        shell.stores = True
    world.start().converge(schedules.PATIENCE)
    return world


@pytest.mark.parametrize("seed", range(60))
def test_crashes_at_any_moment_amid_rekeys(seed: int) -> None:
    world = stored(seed)
    for _ in range(3):
        name = world.chance.choice(("a", "b"))
        world.disturb(world.chance.uniform(0.5, 5))
        world.crash(name)
        world.run(world.chance.uniform(0.05, 2))
        world.start(name)
        world.converge(schedules.PATIENCE)
    world.settle(schedules.PATIENCE)


def test_the_same_ike_sa_goes_on() -> None:
    world = stored(1)
    before = world.shells["a"].node.ike.primary("site")
    world.run(1)
    world.crash("a")
    world.run(1)
    world.start("a").run(1)
    after = world.shells["a"].node.ike.primary("site")
    assert before is not None
    assert after is not None
    assert (after.initiator_spi, after.responder_spi) == (before.initiator_spi, before.responder_spi)


def _early(kept: KeptConnection, _patch: pytest.MonkeyPatch) -> KeptConnection:
    """Before anybody knows of the IKE_SA."""
    return replace(kept, ike=replace(kept.ike, standing="of another release"))


def _late(kept: KeptConnection, patch: pytest.MonkeyPatch) -> KeptConnection:
    """When it carries already."""

    def fail(*_: object) -> None:
        raise AssertionError("a secret")

    patch.setattr(ike_keeping.resources, "resumed", fail)
    return kept


@pytest.mark.parametrize("damage", [_early, _late])
def test_what_nobody_can_go_on_from_begins_anew_and_the_gateway_is_whole(
    damage: Callable[[KeptConnection, pytest.MonkeyPatch], KeptConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = stored(1)
    world.damaged = True
    shell, before = world.shells["a"], world.shells["a"].node.ike.primary("site")
    world.crash("a")
    shell.kept["site"] = damage(shell.kept["site"], monkeypatch)
    world.start("a").run(1)
    assert not shell.node.keeper.forwards, "not all went on"
    world.converge(schedules.PATIENCE)
    after = shell.node.ike.primary("site")
    assert before is not None
    assert after is not None
    assert after.initiator_spi != before.initiator_spi
    (told,) = [line.text for line in world.trace.lines if "site ike-not-resumed" in line.text]
    assert "begins anew" in told
    assert "a secret" not in told
    world.settle(schedules.PATIENCE)


def test_whether_packets_go_where_they_went_before_the_start() -> None:
    """RFC 4724 4.1: so it is where SAs and routes were taken over; who begins from nothing says so only when that is long ago."""
    world = stored(1)
    shell = world.shells["a"]
    assert not shell.node.keeper.forwards
    world.run(FORWARDS_AFTER + 1)
    assert shell.node.keeper.forwards
    world.crash("a")
    world.start("a").run(1)
    assert shell.node.keeper.forwards
    shell.stores = False
    world.crash("a")
    world.start("a").run(1)
    assert not shell.node.keeper.forwards
    world.run(FORWARDS_AFTER)
    assert shell.node.keeper.forwards
