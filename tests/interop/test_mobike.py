"""MOBIKE with strongSwan as initiator (RFC 4555): its address changes, or the port that a NAT gives it, and traffic goes on."""

from __future__ import annotations

import pytest
from support.impair import source_nat
from support.pair import EDGE, Pair, make_pair
from support.process import wait_until
from support.scene import EDGE_OUTER, NAT_OUTER, SITE_HOST, Scene
from support.strongswan import log_of
from support.traffic import ping

pytestmark = pytest.mark.interop

NEW = "203.0.113.7"


def remote(pair: Pair) -> str:
    return str((pair.gateway.tunnel() or {}).get("remote", ""))


def passes(scene: Scene) -> bool:
    return ping(scene.host, SITE_HOST, 3).lost == 0


def test_the_peer_changes_its_address(scene: Scene) -> None:
    pair = make_pair(
        scene,
        EDGE.with_(mobike=True, local="%any"),
        initiator="edge",
        gateway_sees=EDGE_OUTER,
        connection="mobike = true",
    )
    pair.establish("edge")
    assert passes(scene)
    before = pair.charon.wait_established().spis
    scene.edge.batch(
        f"address del {EDGE_OUTER}/24 dev wan",
        f"address add {NEW}/24 dev wan",
        "route add default via 203.0.113.1",
    )
    wait_until(
        lambda: remote(pair).startswith(NEW),
        15,
        "the IKE_SA is at the new address",
        logs=[pair.gateway.process, pair.charon.process],
    )
    wait_until(lambda: passes(scene), 15, "traffic goes on", logs=[pair.gateway.process, pair.charon.process])
    assert pair.charon.wait_established().spis == before
    assert pair.gateway.process is not None
    assert f"peer is now at {NEW}:4500" in pair.gateway.process.log.read_text()
    pair.no_clear_text()


@pytest.mark.slow
def test_the_nat_gives_another_port(scene: Scene) -> None:
    """What a pair of strongSwans did not recover from: here the answer to the liveness check tells the peer its new port."""
    with source_nat(scene.wan, EDGE_OUTER, "gateway", NAT_OUTER):
        edge = EDGE.with_(mobike=True, dpd_delay=3)
        pair = make_pair(scene, edge, initiator="edge", gateway_sees=NAT_OUTER, connection="mobike = true")
        pair.establish("edge")
        logs = [pair.gateway.process, pair.charon.process]
        _forgetful(scene, 1)
        assert passes(scene)
        before, spis = remote(pair), pair.charon.wait_established().spis
        wait_until(lambda: remote(pair) != before, 20, "the IKE_SA is at the new port", logs=logs)
        _forgetful(scene, 120)
        wait_until(lambda: passes(scene), 20, "traffic goes on", logs=logs)
        assert remote(pair).startswith(f"{NAT_OUTER}:")
        assert pair.charon.wait_established().spis == spis
        assert "detected changes in NAT mappings, initiating MOBIKE update" in log_of(pair.charon).read_text()
        pair.no_clear_text()


def _forgetful(scene: Scene, seconds: int) -> None:
    """How long the NAT keeps a mapping that nobody uses."""
    keys = ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream")
    scene.wan.sysctl({f"net.netfilter.{key}": seconds for key in keys})
