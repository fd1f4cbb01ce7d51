"""What is kept of the last picture of a connection is what a new one would show, also when nothing happens but time."""

from __future__ import annotations

from simulation.scenario import CONNECTION, HOSTS, Plan
from simulation.world import World

from gateway.contract import Endpoint
from gateway.ike.strangers import RECENT
from gateway.node import inputs
from gateway.observe.build import ShellFacts, build

STRANGER = Endpoint("192.0.2.99", 500)


def _explanations(world: World) -> tuple[str, str]:
    """As kept, and as drawn now."""
    shell, facts = world.shells["b"], ShellFacts(0.0, "")
    shell.command(inputs.Counters({}, {}))
    kept, fresh = (build(shell.node, facts, world.now, drawn).tunnels[0] for drawn in (shell.drawn, None))
    return kept.explanation, fresh.explanation


def test_a_strangers_call_fades_from_the_picture() -> None:
    world = World(1, Plan(starters="a")).start("b")
    world.partition()
    world.start("a").run(1.0)
    asked = next(line.octets for line in world.trace.lines if line.octets)
    kept, fresh = _explanations(world)
    assert kept == fresh != ""
    assert STRANGER.host not in kept
    world.inject(asked, STRANGER, Endpoint(HOSTS["b"], 500))
    world.run(0.5)
    kept, fresh = _explanations(world)
    assert kept == fresh
    assert STRANGER.host in kept
    world.run(RECENT)
    kept, fresh = _explanations(world)
    assert kept == fresh
    assert STRANGER.host not in kept


def test_a_habit_fades_from_the_picture() -> None:
    world = World(1, Plan(starters="a", options=("quick_crash_detection = false",))).start()
    tunnel = world.shells["b"].node.tunnels[CONNECTION]
    world.converge(30.0)
    world.run(0.1)
    for ago in (40.5, 30.5, 20.5):
        tunnel.endings.note(world.now - ago - 5.0, world.now - ago - 5.0, world.now - ago)
    world.shells["b"].node.redraw.add(CONNECTION)
    assert "3 times" in _explanations(world)[0]
    world.run(tunnel.endings.until - world.now - 0.001)
    assert "3 times" in _explanations(world)[0]
    world.run(0.001)
    kept, fresh = _explanations(world)
    assert kept == fresh == ""
