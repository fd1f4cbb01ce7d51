"""A third-party next hop, taught by BIRD: while it is nowhere its route is neither installed nor told, and each says why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.netns import Lab
from support.process import holds_for, wait_until
from support.two_fabrics import TwoFabrics

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

THIRD, PLAIN = "172.17.0.0/16", "172.16.0.0/16"
HOP = "10.77.0.9"


@pytest.fixture
def scene(lab: Lab) -> Iterator[TwoFabrics]:
    made = TwoFabrics(lab, bgp="", neighbor="")
    made.alpha.third_party = {THIRD: HOP}
    made.start(alpha=(THIRD, PLAIN))
    yield made
    made.close()


def test_a_next_hop_that_is_nowhere_keeps_its_route_out_of_everything_until_it_appears(scene: TwoFabrics) -> None:
    def reason() -> str:
        routes = (scene.daemon.status() or {}).get("routes", ())
        return next((str(row["reason"]) for row in routes if row["prefix"] == THIRD), "")

    logs = [scene.daemon.process]
    wait_until(lambda: reason() == f"next hop {HOP} is not reachable", 10, "the reason", logs=logs)
    assert not scene.learned(THIRD)
    assert scene.learned(PLAIN)
    assert not scene.beta.has(THIRD)
    for command in (("bgp", "learned"), ("lookup", "172.17.1.1")):
        said = " ".join(scene.daemon.ctl("-o", "wide", *command).stdout.split())
        assert f"next hop {HOP} is not reachable" in said

    scene.gateway.batch(
        "link add third type veth peer name other",
        "link set other up",
        "link set third up",
        "address add 10.77.0.1/24 dev third",
    )
    wait_until(lambda: scene.learned(THIRD) and scene.beta.has(THIRD), 10, "used and told", logs=logs)
    scene.beta.noticed()
    holds_for(lambda: scene.learned(THIRD) and scene.beta.has(THIRD), 1.0, "what is reached")
    assert scene.beta.noticed() == []

    scene.gateway.run("ip", "link", "delete", "third")
    wait_until(lambda: not scene.learned(THIRD) and not scene.beta.has(THIRD), 10, "withdrawn", logs=logs)
    (gone,) = [line for line in scene.beta.noticed() if "removed" in line]
    assert THIRD in gone, "and nothing else"
