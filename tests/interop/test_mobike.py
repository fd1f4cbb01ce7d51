"""MOBIKE (RFC 4555) with strongSwan: the initiator's address changes, or the port that a NAT gives it, and traffic goes on."""

from __future__ import annotations

import pytest
from support.impair import source_nat
from support.pair import EDGE, Pair, make_pair
from support.process import wait_until
from support.scene import EDGE_OUTER, GATEWAY_OUTER, NAT_OUTER, SITE_HOST, Scene
from support.strongswan import log_of
from support.traffic import ping

pytestmark = pytest.mark.interop

NEW, OURS = "203.0.113.7", "198.51.100.7"


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


def test_our_own_address_changes(scene: Scene) -> None:
    """A reload under traffic: the same IKE_SA, nothing that we send is lost, and strongSwan sends to where we are now."""
    pair = make_pair(scene, EDGE.with_(mobike=True), connection="mobike = true")
    pair.establish("gateway")
    before = pair.charon.wait_established().spis
    scene.gateway.batch(f"address add {OURS}/32 dev wan")
    streams = pair.streams()
    text = pair.gateway.config.read_text()
    pair.gateway.config.write_text(text.replace(f'local_addrs = "{GATEWAY_OUTER}"', f'local_addrs = "{OURS}"'))
    pair.gateway.ctl("reload")
    logs = [pair.gateway.process, pair.charon.process]
    wait_until(
        lambda: str((pair.gateway.tunnel() or {}).get("local", "")).startswith(OURS), 15, "we are there", logs=logs
    )
    told = f"remote endpoint changed from {GATEWAY_OUTER}[4500] to {OURS}[4500]"
    wait_until(lambda: told in log_of(pair.charon).read_text(), 15, "strongSwan is told", logs=logs)
    there, back = streams.stop()
    # strongSwan cannot move an SA of its library, and now and then loses a packet of its own while it replaces it
    assert (back.lost, there.lost <= 2) == (0, True), f"missing {there.missing} {back.missing}"
    # What is sent to the old address is nobody's now
    scene.gateway.batch(
        f"address del {GATEWAY_OUTER}/24 dev wan",
        f"route add {NAT_OUTER}/32 dev wan",
        f"route replace default via {NAT_OUTER} dev wan",
    )
    wait_until(lambda: passes(scene), 15, "traffic goes on", logs=logs)
    assert pair.charon.wait_established().spis == before
    pair.rekeyed_by_both_without_loss()
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
