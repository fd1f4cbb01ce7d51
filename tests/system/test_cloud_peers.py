"""gatewayd against emulated cloud gateways: set-up, traffic, rekeys of both kinds by either end, idleness, replacement.

What the services do is in tests/peers; the configurations are those that their users are told to write.
"""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from peers.cloud import CloudPeer
from support.daemon import GatewayDaemon, configuration
from support.pair import EDGE, nothing_lost
from support.process import wait_until
from support.scene import EDGE_OUTER, GATEWAY_OUTER, PSK, SITE_HOST, VNET_HOST, Scene
from support.traffic import Streams, ping

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "config"


def _written(file: str, connection: str) -> dict[str, str]:
    """The proposals of an example file."""
    section = tomllib.loads((EXAMPLES / file).read_text())["connection"][connection]
    return {key: section[key][0] for key in ("proposals", "esp_proposals")}


AZURE_DEFAULT = {"proposals": "aes256-sha256-modp1024", "esp_proposals": "aes256gcm16"}
AZURE_CUSTOM = _written("edge-to-azure.toml", "azure-0")
AWS = _written("edge-to-aws.toml", "aws-1")
NO_CHECK = "rekey_check = 0"
IMPATIENT = "retransmit_timeout = 0.3\nretransmit_tries = 3\nretransmit_base = 1.2\nrekey_check = 0"
RATE = 200.0
"""Packets a second: the peer's ESP is plain Python."""


def meet(
    scene: Scene,
    policy: str,
    wanted: dict[str, str],
    *,
    initiator: str = "gateway",
    lines: str = NO_CHECK,
    **options: Any,
) -> tuple[GatewayDaemon, CloudPeer]:
    """Both started; identities are addresses, as the services have them."""
    edge = EDGE.with_(local_id=EDGE_OUTER, remote_id=GATEWAY_OUTER, **wanted)
    action = "start" if initiator == "gateway" else "none"
    text = configuration(edge, start_action=action, connection=lines).replace("dpd_delay = 5", "dpd_delay = 1")
    daemon, peer = GatewayDaemon(scene.gateway, text, {"site.psk": PSK}), CloudPeer(scene.edge, policy, **options)
    peer.start()
    daemon.start()
    if initiator == "peer":
        assert peer.ask("initiate")
    return daemon, peer


def flowing(scene: Scene) -> Streams:
    streams = Streams(scene.site, SITE_HOST, scene.host, VNET_HOST, peer=scene.edge)
    streams.start(RATE)
    streams.wait_flowing(15)
    return streams


def rekeyed_by_both(scene: Scene, daemon: GatewayDaemon, peer: CloudPeer) -> None:
    """Each end rekeys the CHILD_SA and the IKE_SA, twice, and no packet is lost."""
    streams = flowing(scene)
    for _ in range(2):
        peer.rekey("child")
        peer.rekey("ike")
        daemon.rekey_child()
        daemon.rekey_ike()
    nothing_lost(streams.stop())
    assert peer.status()["ike_sas"] == 1


@pytest.mark.parametrize(
    ("policy", "wanted", "initiator"),
    [
        ("azure-default", AZURE_DEFAULT, "gateway"),
        ("azure-custom", AZURE_CUSTOM, "peer"),
        pytest.param("azure-default", AZURE_DEFAULT, "peer", marks=pytest.mark.slow),
        pytest.param("azure-custom", AZURE_CUSTOM, "gateway", marks=pytest.mark.slow),
    ],
)
def test_azure(scene: Scene, policy: str, wanted: dict[str, str], initiator: str) -> None:
    daemon, peer = meet(scene, policy, wanted, initiator=initiator)
    daemon.wait_up(logs=[peer.process])
    rekeyed_by_both(scene, daemon, peer)
    assert ("MODP_1024" if policy == "azure-default" else "ECP_384") in peer.status()["ike"]


def test_azure_default_policy_with_pfs_is_named_before_the_first_rekey_in_earnest(scene: Scene) -> None:
    wanted = AZURE_DEFAULT | {"esp_proposals": "aes256gcm16-modp2048"}
    daemon, peer = meet(scene, "azure-default", wanted, lines="rekey_check = 1")
    daemon.wait_up(logs=[peer.process])

    def told() -> str:
        sentence = str((daemon.tunnel() or {})["explanation"])
        return sentence if "refuses to rekey the CHILD_SA" in sentence else ""

    sentence = wait_until(told, 8, "the sentence about PFS", logs=[daemon.process])
    assert "the first CHILD_SA is made without a PFS group" in sentence
    assert "`esp_proposals` of connection site" in sentence
    assert ping(scene.site, VNET_HOST, 3).lost == 0, "what was refused works on"


def test_azure_may_ask_for_a_weaker_group_at_a_rekey_only_where_it_is_written_out(scene: Scene) -> None:
    esp = {"esp_proposals": "aes256-sha256"}
    daemon, peer = meet(scene, "azure-weaker-at-rekey", {"proposals": "aes256-sha256-modp2048", **esp})
    daemon.wait_up(logs=[peer.process])
    assert peer.ask("rekey_ike")

    def told() -> str:
        sentence = str((daemon.tunnel() or {})["explanation"])
        return sentence if "MODP_1024" in sentence else ""

    sentence = wait_until(told, 8, "the sentence about the group", logs=[daemon.process])
    assert "add " in sentence and "`proposals` of connection site" in sentence
    assert ping(scene.site, VNET_HOST, 3).lost == 0
    daemon.config.write_text(
        daemon.config.read_text().replace("aes256-sha256-modp2048", "aes256-sha256-modp2048-modp1024")
    )
    assert "1024-bit group" in daemon.ctl("reload").stdout
    wait_until(lambda: peer.status()["log"].count("rekeyed") >= 1, 5, "the gateway rekeys for the new proposals")
    peer.rekey("ike")
    assert "MODP_1024" in peer.status()["ike"]
    wait_until(lambda: not (daemon.tunnel() or {})["explanation"], 5, "nothing to explain", logs=[daemon.process])
    assert ping(scene.site, VNET_HOST, 3).lost == 0


@pytest.mark.slow
def test_aws_takes_its_lowest_values_and_rekeys_on(scene: Scene) -> None:
    wanted = {
        "proposals": "aes256-aes128-sha384-sha256-ecp384-modp2048",
        "esp_proposals": "aes256-aes128-sha256-ecp256-modp2048",
    }
    daemon, peer = meet(scene, "aws-default", wanted, changes={"idle": 0})
    tunnel = daemon.wait_up(logs=[peer.process])
    assert tunnel["suite"] == "AES_CBC-128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048"
    sentence = str(tunnel["explanation"])
    assert "takes the lowest of what we offer for the IKE_SA" in sentence
    assert "AES_CBC-128/HMAC_SHA2_256_128" in sentence and "AES_CBC-256" in sentence
    assert "one value of each kind in `proposals` of connection site" in sentence
    assert "modify-vpn-tunnel-options" in sentence
    rekeyed_by_both(scene, daemon, peer)
    assert peer.status()["group"] == "MODP_2048"


def test_aws_never_begins_and_a_replaced_endpoint_is_found_again(scene: Scene) -> None:
    daemon, peer = meet(scene, "aws-restricted", AWS, lines=IMPATIENT, changes={"idle": 0})
    daemon.wait_up(logs=[peer.process])
    streams = flowing(scene)
    assert not peer.ask("initiate")
    assert peer.ask("forget")
    assert not peer.status()["up"]
    peer.wait(lambda now: now["up"], 20, "up again")
    streams.wait_flowing(5)
    streams.stop()


@pytest.mark.slow
def test_aws_drops_what_is_idle_and_the_sentence_says_so(scene: Scene) -> None:
    daemon, peer = meet(scene, "aws-restricted", AWS, changes={"idle": 1.5})
    daemon.wait_up(logs=[peer.process])
    # As BGP's keepalives are, or a monitoring ping
    assert ping(scene.site, VNET_HOST, 8, interval=0.4).lost == 0
    assert peer.status()["idle_drops"] == 0
    wait_until(lambda: peer.status()["idle_drops"] >= 3, 15, "idle three times", logs=[daemon.process])

    def told() -> str:
        sentence = str((daemon.tunnel() or {})["explanation"])
        return sentence if "idle" in sentence else ""

    sentence = wait_until(told, 8, "the sentence about idleness", logs=[daemon.process])
    assert "carried nothing" in sentence


def test_both_ends_rekey_at_the_same_moment(scene: Scene) -> None:
    daemon, peer = meet(scene, "aws-restricted", AWS, changes={"idle": 0})
    daemon.wait_up(logs=[peer.process])
    streams = flowing(scene)
    for verb, target in (("rekey_child", "site/net"), ("rekey_ike", "site")) * 2:
        ours = threading.Thread(target=daemon.operate, args=("rekey", target, 0))
        ours.start()
        peer.ask(verb)
        ours.join()
        streams.wait_flowing(5)
        peer.wait(lambda now: now["up"] and now["ike_sas"] == 1, 10, "one IKE_SA")
    nothing_lost(streams.stop(), at_least=20)
    peer.wait(lambda now: now["ike_sas"] == 1, 5, "one IKE_SA")


@pytest.mark.slow
def test_a_peer_that_keeps_the_old_sa_after_its_rekey(scene: Scene) -> None:
    """As some firewalls do: the new CHILD_SA carries the traffic both ways, though nobody deletes the old one."""
    daemon, peer = meet(scene, "aws-restricted", AWS, changes={"idle": 0}, faults={"keeps_old": 1})
    daemon.wait_up(logs=[peer.process])
    streams = flowing(scene)
    for _ in range(3):
        peer.rekey("child")
        wait_until(
            lambda: _sends_on(daemon) == peer.status()["spi"], 5, "we send on the new one", logs=[daemon.process]
        )
    daemon.rekey_child()
    nothing_lost(streams.stop(), at_least=20)


def _sends_on(daemon: GatewayDaemon) -> int:
    return int((daemon.tunnel() or {})["children"][0]["spi_out"])
