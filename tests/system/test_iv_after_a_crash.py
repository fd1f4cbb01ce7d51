"""A GCM IV never repeats under a key, also not after a crash or a restart: the wire is read while gatewayd is killed,
stopped and started under traffic.

The SPI names the key: the receiver of an SA draws a new one for each (RFC 7296 2.8), and no key outlives a daemon.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from support.scene import Scene
from support.twins import Tap, make_twins

pytestmark = pytest.mark.system

ESP_AT = 14 + 20  # behind Ethernet and IPv4


@pytest.fixture
def tap(scene: Scene) -> Iterator[Tap]:
    """The WAN router's link to the edge: what the gateway sent."""
    made = Tap(scene.wan, "edge")
    yield made
    made.close()


def test_a_gcm_iv_never_repeats_under_a_key_after_a_crash_or_a_restart(scene: Scene, tap: Tap) -> None:
    twins = make_twins(scene, "aes256gcm16-esn", encap=False)
    twins.establish()
    streams = twins.streams()
    seen: list[tuple[bytes, bytes]] = []

    def gather() -> set[bytes]:
        """The SPIs of what left since the last time."""
        packets = [frame[ESP_AT:] for frame in tap.outgoing("esp-50")]
        seen.extend((packet[:4], packet[8:16]) for packet in packets)
        return {packet[:4] for packet in packets}

    spis = [gather()]
    for end in (twins.gateway.kill, twins.gateway.stop):
        end()
        gather()
        twins.gateway.start()
        twins.gateway.wait_up(20, logs=[twins.edge.process])
        streams.wait_flowing(20)
        spis.append(gather())
    twins.gateway.rekey_child()
    streams.wait_flowing(5)
    spis.append(gather())
    streams.stop()
    repeated = [pair for pair, count in Counter(seen).items() if count > 1]
    assert repeated == []
    assert len(seen) > 100
    assert len(set.union(*spis)) >= 4, "each time another key"
    twins.wire()
