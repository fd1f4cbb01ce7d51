"""Many connections on one gateway: set up, at rest, looked at, reloaded, stopped, without holding up the loop.

What a connection may cost is stated here; what it does cost is printed. The loop's limits are on CPU time of its own
thread between two of its wake-ups, so that other work on the machine does not count.
"""

from __future__ import annotations

import pytest
from support.netns import Lab
from support.process import wait_until
from support.scale import (
    Fleet,
    Measured,
    devices,
    held_up,
    hub_connection,
    measure,
    reload,
    usage,
)

pytestmark = pytest.mark.system

SOME, MANY = 100, 1000


@pytest.fixture
def some(lab: Lab) -> Fleet:
    return Fleet(lab, SOME)


def check(found: Measured, connections: int) -> None:
    """Whatever the number of connections."""
    note = found.figures
    print(f"\n{connections} connections\n{found}")
    assert note["exit code"] == 0
    assert note["TUNs left"] == 0
    # Two queues of each TUN, and what every gateway has
    assert note["files"] < 2 * connections + 250
    for span in ("idle", "reload", "metrics", "status", "stop"):
        assert note[f"{span}: loop busy, ms"] < 40 + connections * 0.04, span


@pytest.mark.slow
def test_a_hundred_connections_with_two_child_sas_each(some: Fleet) -> None:
    found = measure(some, seconds=2.0)
    check(found, SOME)
    assert found.figures["start until all are up, s"] < 10
    assert found.figures["idle: CPU, % of a core"] < 20
    assert found.figures["stop, s"] < 5


def test_a_reload_that_adds_and_removes_many_leaves_the_others_alone(some: Fleet) -> None:
    """TUNs come and go by dozens while the rest keeps its SAs; every rule of those that are gone is gone."""
    hub = some.hub
    some.start(some.far)
    some.start(hub)
    wait_until(lambda: some.ups() == SOME, 30, "all up", interval=0.2, logs=[hub.process])
    before = spis(some)
    rules = len(some.hub_machine.ip_json("rule"))
    held_up(hub)
    half = [hub_connection(n) for n in range(SOME // 2)]
    reload(some, half)
    wait_until(lambda: devices(some.hub_machine) == SOME // 2, 10, "half of the TUNs", logs=[hub.process])
    wait_until(
        lambda: len(some.hub_machine.ip_json("rule")) == rules - SOME, 10, "half of the rules", logs=[hub.process]
    )
    assert spis(some) == {name: spi for name, spi in before.items() if int(name[-4:]) < SOME // 2}
    routes = {route["dst"] for route in some.hub_machine.routes("221") if route.get("type", "unicast") == "unicast"}
    assert len(routes) == SOME, "two for each that is left"
    reload(some, half + [hub_connection(n) for n in range(SOME // 2, SOME)])
    wait_until(lambda: some.ups() == SOME, 30, "all up again", interval=0.2, logs=[hub.process])
    after = spis(some)
    kept = [name for name in before if int(name[-4:]) < SOME // 2]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert held_up(hub)["busy, ms"] < 100
    assert hub.stop() == 0
    some.far.stop()


@pytest.mark.slow
def test_peers_that_do_not_answer_cost_little(lab: Lab) -> None:
    """Every connection tries again and again, and reaches its peer when there is one."""
    fleet = Fleet(lab, SOME, peers=False)
    hub = fleet.hub
    fleet.start(hub)
    wait_until(lambda: devices(fleet.hub_machine) == SOME, 15, "TUNs", logs=[hub.process])
    held_up(hub)
    before = usage(hub).cpu
    repeated = "they repeat their requests"
    wait_until(lambda: retransmissions(fleet) >= 2 * SOME, 15, repeated, interval=1.0, logs=[hub.process])
    assert usage(hub).cpu - before < 2.0
    assert held_up(hub)["busy, ms"] < 60
    fleet.start(fleet.far)
    wait_until(lambda: fleet.ups() == SOME, 60, "all up", interval=0.2, logs=[hub.process])
    assert hub.stop() == 0
    fleet.far.stop()


@pytest.mark.slow
def test_a_thousand_connections_with_two_child_sas_each(lab: Lab) -> None:
    found = measure(Fleet(lab, MANY), seconds=10.0)
    check(found, MANY)
    note = found.figures
    assert note["start until all are up, s"] < 60
    assert note["idle: CPU, % of a core"] < 30
    assert note["RSS, MB"] < 250
    assert note["stop, s"] < 15
    assert note["reload of one changed, s"] < 5


def spis(fleet: Fleet) -> dict[str, int]:
    status = fleet.hub.status()
    assert status is not None
    return {tunnel["name"]: tunnel["initiator_spi"] for tunnel in status["tunnels"]}


def retransmissions(fleet: Fleet) -> int:
    status = fleet.hub.status()
    return sum(tunnel["retransmissions"] for tunnel in status["tunnels"]) if status else 0
