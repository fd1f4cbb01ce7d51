"""`gatewayctl upgrade`: a new program takes over from the running one, which goes on where the new one is not fit for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.pair import Pair, make_pair
from support.scene import Scene
from system.test_restart import Wire, child_spis, devices, ike_spis, managed

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


@pytest.fixture
def pair(scene: Scene) -> Pair:
    return make_pair(scene)


@pytest.fixture
def wire(scene: Scene) -> Iterator[Wire]:
    made = Wire(scene)
    yield made
    made.tap.close()


def test_an_upgrade_keeps_all(pair: Pair, wire: Wire) -> None:
    manager = managed(pair)
    before, children, index, old = ike_spis(pair), child_spis(pair), devices(pair), manager.pid
    streams = pair.streams(port=7100)
    wire.gather()
    done, text = manager.upgrade()
    print(text, manager.events(), pair.gateway.process.tail() if pair.gateway.process else "")
    assert done, text
    assert manager.pid != old
    streams.wait_flowing(5)
    wire.gather()
    assert ike_spis(pair) == before
    assert child_spis(pair) == children
    assert devices(pair) == index
    pair.rekeyed_by_both_without_loss()
    gap = max(loss.max_gap for loss in streams.stop())
    print(f" [the longest gap: {gap * 1000:.0f} ms]", end=" ")
    wire.nothing_twice(at_least=500)
    pair.no_clear_text()
