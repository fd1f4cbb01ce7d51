"""Extended sequence numbers and ESP without UDP (protocol 50) between two gatewayds: traffic, rekeys, replays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.pair import nothing_lost
from support.process import wait_until
from support.scene import SITE_HOST, VNET_HOST, Scene
from support.traffic import Iperf, ping
from support.twins import Tap, Twins, make_twins

pytestmark = pytest.mark.system

SHAPES = {
    "GCM, ESN, protocol 50": ("aes256gcm16-esn-ecp256", False, "AES_GCM_16-256/ESN"),
    "CBC, ESN, protocol 50": ("aes256-sha256-esn-ecp256", False, "AES_CBC-256/HMAC_SHA2_256_128/ESN"),
    "ChaCha20, ESN, UDP": ("chacha20poly1305-esn", True, "CHACHA20_POLY1305/ESN"),
    "GCM, protocol 50": ("aes128gcm16-noesn", False, "AES_GCM_16-128"),
}
FIRST = next(iter(SHAPES))
SHAPE = pytest.mark.parametrize(
    ("proposals", "encap", "suite"),
    [pytest.param(*shape, id=name, marks=() if name == FIRST else pytest.mark.slow) for name, shape in SHAPES.items()],
)
REPLAYED = 200


@pytest.fixture
def tap(scene: Scene) -> Iterator[Tap]:
    """The WAN router's link to the gateway."""
    made = Tap(scene.wan, "gateway")
    yield made
    made.close()


@SHAPE
def test_traffic_crosses_and_rekeys_lose_nothing(scene: Scene, proposals: str, encap: bool, suite: str) -> None:
    twins = make_twins(scene, proposals, encap=encap)
    twins.establish()
    streams = twins.streams()
    twins.gateway.rekey_child()
    twins.edge.rekey_child()
    twins.gateway.rekey_ike()
    twins.edge.rekey_child()
    nothing_lost(streams.stop())
    for daemon in (twins.gateway, twins.edge):
        (child,) = daemon.wait_up()["children"]
        assert child["suite"] == suite
    assert ping(scene.site, VNET_HOST, 20, size=1300).lost == 0
    seen = twins.wire()
    used, unused = ("esp-4500", "esp-50") if encap else ("esp-50", "esp-4500")
    assert seen.counts[used] > 1000
    assert seen.counts[unused] == 0


@pytest.mark.slow
def test_bulk_tcp_crosses_protocol_50_with_esn(scene: Scene) -> None:
    """One datagram in one system call each way, and super-packets on both TUNs."""
    twins = make_twins(scene, "aes256gcm16-esn", encap=False)
    twins.establish()
    server = Iperf(scene.host, VNET_HOST)
    assert server.measure(scene.site, 1).gbit_per_s > 0.05
    assert server.measure(scene.site, 1, reverse=True).gbit_per_s > 0.05
    twins.wire()


@SHAPE
def test_captured_packets_are_rejected_when_they_come_again(
    scene: Scene, tap: Tap, proposals: str, encap: bool, suite: str
) -> None:
    twins = make_twins(scene, proposals, encap=encap)
    twins.establish()
    kind = "esp-4500" if encap else "esp-50"
    assert ping(scene.site, VNET_HOST, REPLAYED // 2, 0.005).lost == 0
    captured = tap.outgoing(kind)
    assert len(captured) >= REPLAYED // 2
    carried = delivered(twins)
    for frame in captured:
        tap.again(frame)
    wait_until(lambda: drops(twins).get("replay", 0) >= len(captured), 5, "replays are counted")
    assert delivered(twins) == carried, "nothing of them was delivered"
    assert drops(twins)["integrity"] == 0
    # After a rekey they belong to an SA that is gone, at the latest when its linger is over.
    twins.gateway.rekey_child()
    assert ping(scene.site, VNET_HOST, 10).lost == 0
    fresh = delivered(twins)
    for frame in captured:
        tap.again(frame)
    assert ping(scene.site, VNET_HOST, 10).lost == 0
    wait_until(lambda: refused(twins) >= 2 * len(captured), 5, f"replays of the old SA are counted: {drops(twins)}")
    assert delivered(twins) - fresh == 10


@pytest.mark.slow
def test_an_offer_without_esn_is_met_without_esn(scene: Scene) -> None:
    """RFC 7296 3.3.2: both may be offered; the responder's own list decides."""
    twins = make_twins(scene, "aes256gcm16", encap=False)
    text = twins.edge.config.read_text().replace('"aes256gcm16"', '"aes256gcm16-noesn"')
    twins.edge.config.write_text(text)
    twins.establish()
    for daemon in (twins.gateway, twins.edge):
        (child,) = daemon.wait_up()["children"]
        assert child["suite"] == "AES_GCM_16-256"
    assert ping(scene.host, SITE_HOST, 10).lost == 0
    twins.wire()


def drops(twins: Twins) -> dict[str, int]:
    """Of the gateway's tunnel."""
    found = twins.gateway.tunnel()
    assert found is not None
    named: dict[str, int] = found["drops"]
    return named


def refused(twins: Twins) -> int:
    """As replays, or for an SPI that no SA has any more."""
    status = twins.gateway.status()
    assert status is not None
    return drops(twins)["replay"] + int(status["drops"]["unknown_spi"])


def delivered(twins: Twins) -> int:
    found = twins.gateway.tunnel()
    assert found is not None
    return int(found["packets_in"])
