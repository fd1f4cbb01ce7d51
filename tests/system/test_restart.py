"""A restart, planned or not, drops no tunnel: the same IKE_SA, the same CHILD_SAs or their successors, the same device."""

from __future__ import annotations

import time

import pytest
from support.managed import Managed
from support.pair import Pair, make_pair
from support.process import wait_until
from support.scene import Scene

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture
def pair(scene: Scene) -> Pair:
    return make_pair(scene)


def managed(pair: Pair) -> Managed:
    """Established, under a manager."""
    pair.capture.start()
    pair.charon.start()
    found = Managed(pair.gateway)
    found.start()
    pair.wait_up()
    return found


def spis(pair: Pair) -> tuple[str, str]:
    tunnel = pair.gateway.tunnel()
    assert tunnel is not None
    return tunnel["initiator_spi"], tunnel["responder_spi"]


def device(pair: Pair) -> int:
    (found,) = [link["ifindex"] for link in pair.gateway.machine.ip_json("link", "show") if link["ifname"] == "gw-site"]
    return int(found)


def test_a_restart_keeps_the_tunnel(pair: Pair) -> None:
    manager = managed(pair)
    before, index = spis(pair), device(pair)
    since = pair.charon.sas()
    streams = pair.streams(port=7100)
    manager.restart()
    pair.wait_up(5)
    streams.there.wait_flowing(5)
    time.sleep(1)
    losses = streams.stop()
    assert spis(pair) == before
    assert device(pair) == index
    print(
        losses,
        since,
        (manager.directory / "events").read_text(),
        (pair.gateway.machine.directory / "gatewayd.log").read_text(),
    )
    pair.no_clear_text()


def test_a_crash_keeps_the_tunnel(pair: Pair) -> None:
    manager = managed(pair)
    before, index = spis(pair), device(pair)
    streams = pair.streams(port=7100)
    manager.crash()
    pair.wait_up(5)
    losses = streams.stop()
    assert spis(pair) == before
    assert device(pair) == index
    print(losses)
    pair.no_clear_text()
    wait_until(lambda: True, 1, "")
