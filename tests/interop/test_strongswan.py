"""gatewayd against strongSwan 5.9.8 (charon-systemd, user-space ESP): set-up, rekeys, refusals, restarts, NAT.

Real daemons in namespaces, real traffic while things happen; loss is counted by sequence numbers, and in every test the
WAN is captured and must carry nothing in clear.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import support.noise
from support.impair import source_nat
from support.pair import EDGE, ENDS, Pair, make_pair, nothing_lost
from support.process import wait_until
from support.scene import EDGE_OUTER, GATEWAY_OUTER, NAT_OUTER, SITE_HOST, VNET_HOST, Scene
from support.strongswan import log_of
from support.traffic import Streams, ping

pytestmark = pytest.mark.interop

SUITES = {
    "gcm": ("aes256gcm16-prfsha384-ecp384", "aes256gcm16", "ecp256"),
    "cbc": ("aes256-sha256-ecp256", "aes256-sha256", "ecp256"),
    "chacha20": ("chacha20poly1305-prfsha256-x25519", "chacha20poly1305", "x25519"),
    "gcm12": ("aes256gcm12-prfsha384-ecp384", "aes128gcm12", "ecp384"),
    "gcm8": ("aes128gcm8-prfsha256-ecp256", "aes128gcm8", "ecp256"),
}
PEER_NAMES = {
    "gcm": ("AES_GCM_16/256", ""),
    "cbc": ("AES_CBC/256", "HMAC_SHA2_256_128"),
    "chacha20": ("CHACHA20_POLY1305", ""),
    "gcm12": ("AES_GCM_12/128", ""),
    "gcm8": ("AES_GCM_8/128", ""),
}
GATEWAY_NAMES = {
    "gcm": "AES_GCM_16-256",
    "cbc": "AES_CBC-256",
    "chacha20": "CHACHA20_POLY1305",
    "gcm12": "AES_GCM_12-128",
    "gcm8": "AES_GCM_8-128",
}


def _matrix() -> Iterator[Any]:
    """Every pair of values for the two suites that most tunnels use; of the others one case, and the rest where there is time."""
    for suite, initiator, rekeyed_by, pfs in itertools.product(sorted(SUITES), ENDS, ENDS, (True, False)):
        even = ((suite == "cbc") + (initiator == "edge") + (rekeyed_by == "edge") + pfs) % 2 == 1
        usual = (suite in ("gcm", "cbc") and even) or (initiator, rekeyed_by, pfs) == ("gateway", "edge", True)
        name = f"{suite}-{initiator}-{rekeyed_by}-{'pfs' if pfs else 'no-pfs'}"
        yield pytest.param(suite, initiator, rekeyed_by, pfs, id=name, marks=() if usual else pytest.mark.slow)


@pytest.mark.parametrize(("suite", "initiator", "rekeyed_by", "pfs"), list(_matrix()))
def test_psk_tunnel_is_rekeyed_under_traffic_without_loss(
    scene: Scene, suite: str, initiator: str, rekeyed_by: str, pfs: bool
) -> None:
    ike, esp, group = SUITES[suite]
    pair = make_pair(
        scene, EDGE.with_(proposals=ike, esp_proposals=f"{esp}-{group}" if pfs else esp), initiator=initiator
    )
    pair.establish(initiator)
    streams = pair.streams()
    child, ike_sa = pair.rekeyers(rekeyed_by)
    child()
    ike_sa()
    child()
    nothing_lost(streams.stop())
    _agree(pair, suite, pfs=pfs, initiator=initiator, rekeyed_by=rekeyed_by)
    pair.no_clear_text()


def _agree(pair: Pair, suite: str, *, pfs: bool, initiator: str, rekeyed_by: str) -> None:
    """Both ends tell the same about the tunnel after CHILD, IKE and CHILD rekeys."""
    tunnel = pair.gateway.wait_up()
    peer = pair.charon.wait_established()
    newest = peer.installed()[-1]
    algorithm, integrity = PEER_NAMES[suite]
    assert newest.suite.startswith(algorithm)
    assert integrity in newest.suite
    assert newest.encap
    # strongSwan shows the group of the exchange that made the CHILD_SA: only a rekey with PFS has one
    assert bool(newest.group) == pfs
    (child,) = tunnel["children"]
    assert child["suite"].startswith(GATEWAY_NAMES[suite])
    assert (f"{child['spi_in']:08x}", f"{child['spi_out']:08x}") == (newest.spi_out, newest.spi_in)
    assert (child["rekeys_ok"], tunnel["ike_rekeys_ok"]) == (2, 1)
    # RFC 7296 2.8: the initiator of the rekey becomes the original initiator of the new IKE_SA
    assert tunnel["role"] == ("initiator" if rekeyed_by == "gateway" else "responder"), initiator
    spis = (f"{tunnel['initiator_spi']:016x}", f"{tunnel['responder_spi']:016x}")
    assert spis == peer.spis


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("suite", "initiator"),
    [
        pytest.param("gcm", "gateway"),
        pytest.param("cbc", "edge"),
        pytest.param("gcm", "edge", marks=SLOW),
        pytest.param("cbc", "gateway", marks=SLOW),
    ],
)
def test_messages_larger_than_the_path_takes_go_in_fragments(scene: Scene, suite: str, initiator: str) -> None:
    """RFC 7383. Fragments of fragments' size 300 both ways: IKE_AUTH takes some, a rekey with a large KE more."""
    ike, esp, _ = SUITES[suite]
    edge = EDGE.with_(proposals=ike, esp_proposals=f"{esp}-modp3072")
    pair = make_pair(
        scene, edge, initiator=initiator, connection="fragment_size = 300", settings=["fragment_size = 300"]
    )
    pair.establish(initiator)
    pair.rekeyed_by_both_without_loss()
    text = log_of(pair.charon).read_text()
    assert "received fragment #1 of" in text
    assert re.search(r"splitting IKE message .* into \d+ fragments", text)
    pair.no_clear_text()


PPK = "a secret of which no quantum computer has ever heard, nor will"


@pytest.mark.parametrize(
    ("required", "initiator"),
    [
        pytest.param(True, "gateway"),
        pytest.param(False, "edge"),
        pytest.param(True, "edge", marks=SLOW),
        pytest.param(False, "gateway", marks=SLOW),
    ],
)
def test_a_post_quantum_preshared_key_is_mixed_in(scene: Scene, initiator: str, required: bool) -> None:
    """RFC 8784."""
    word = "yes" if required else "no"
    edge = EDGE.with_(ppk=("quantum", PPK), extra={"ppk_id": "quantum", "ppk_required": word})
    text = f'ppk.file = "site.ppk"\nppk_id = "quantum"\nppk_required = {str(required).lower()}'
    pair = make_pair(scene, edge, initiator=initiator, connection=text, secrets={"site.ppk": PPK})
    pair.establish(initiator)
    pair.rekeyed_by_both_without_loss()
    assert "using PPK for PPK_ID 'quantum'" in log_of(pair.charon).read_text()
    assert not [line for line in pair.gateway.process.log.read_text().splitlines() if "ppk-not-used" in line]  # type: ignore[union-attr]
    pair.no_clear_text()


@pytest.mark.slow
def test_a_peer_without_the_post_quantum_key_is_let_in_only_where_it_is_not_required(scene: Scene) -> None:
    text = 'ppk.file = "site.ppk"\nppk_id = "quantum"'
    pair = make_pair(scene, connection=text, secrets={"site.ppk": PPK})
    pair.start()
    assert "USE_PPK" in pair.gateway.wait_failure()
    assert "ppk_required" in (pair.gateway.tunnel() or {})["explanation"]
    pair.gateway.config.write_text(pair.gateway.config.read_text().replace(text, f"{text}\nppk_required = false"))
    pair.gateway.ctl("reload")
    pair.gateway.wait_up()
    assert pair.gateway.process is not None
    assert "no post-quantum protection" in pair.gateway.process.log.read_text()
    pair.no_clear_text()


def test_wrong_psk_is_named_and_nothing_is_forwarded(scene: Scene) -> None:
    pair = make_pair(scene, EDGE.with_(psk="not the secret of the gateway"))
    pair.start()
    assert "AUTHENTICATION_FAILED" in pair.gateway.wait_failure()
    tunnel = pair.gateway.tunnel()
    assert tunnel is not None
    assert not tunnel["up"]
    assert tunnel["explanation"]
    assert ping(scene.host, SITE_HOST, 5).lost == 5
    pair.no_clear_text()


def test_the_trace_shows_what_passed_and_why_it_failed(scene: Scene) -> None:
    pair = make_pair(scene, EDGE.with_(esp_proposals="aes256gcm16"))
    pair.establish("gateway")
    pair.charon.rekey_child()
    ladder = pair.gateway.ctl("trace", "site").stdout
    for rung in (
        r"-->  IKE_SA_INIT request 0 +SA KE No N\(NAT_DETECTION_SOURCE_IP\)",
        r"<--  IKE_SA_INIT response 0 .* octets, \+\d+ ms\)",
        r"-->  IKE_AUTH request 1 +IDI IDR AUTH .*SA TSI TSR",
        r"<--  IKE_AUTH response 1 +IDR AUTH SA TSI TSR",
        r"IKE_SA established",
        r"<--  CREATE_CHILD_SA request 0 +N\(REKEY_SA\) SA No .*TSI TSR",
        r"-->  CREATE_CHILD_SA response 0 +SA No .*TSI TSR",
        r"<--  INFORMATIONAL request 1 +D\(1 SPIs\)",
    ):
        assert re.search(rung, ladder), f"{rung}\n{ladder}"
    assert EDGE.psk not in ladder


def test_wrong_psk_of_an_initiating_peer_is_refused(scene: Scene) -> None:
    pair = make_pair(scene, EDGE.with_(psk="not the secret of the gateway"), initiator="edge")
    pair.start()
    said = pair.charon.swanctl("--initiate", "--child", "net", "--timeout", "5", check=False)
    assert "AUTHENTICATION_FAILED" in said or "AUTH_FAILED" in said
    assert not pair.gateway.up()
    assert pair.charon.established() is None
    pair.no_clear_text()


def test_no_common_ike_proposal_is_named(scene: Scene) -> None:
    pair = make_pair(scene)
    pair.charon.connections = [EDGE.with_(proposals="aes128-sha256-modp2048")]
    pair.charon.write()
    pair.start()
    assert "NO_PROPOSAL_CHOSEN" in pair.gateway.wait_failure()
    assert not pair.gateway.up()
    pair.no_clear_text()


def test_no_common_esp_proposal_is_named_and_fails_closed(scene: Scene) -> None:
    pair = make_pair(scene)
    pair.charon.connections = [EDGE.with_(esp_proposals="aes128-sha256")]
    pair.charon.write()
    pair.start()
    assert "NO_PROPOSAL_CHOSEN" in pair.gateway.wait_failure()
    assert not pair.gateway.up()
    assert ping(scene.host, SITE_HOST, 5).lost == 5
    pair.no_clear_text()


def test_malformed_datagrams_do_not_disturb_a_tunnel(scene: Scene) -> None:
    pair = make_pair(scene)
    pair.establish("gateway")
    before = pair.gateway.tunnel()
    assert before is not None
    process = pair.gateway.process
    assert process is not None
    spis = [
        f"{before['initiator_spi']:016x}",
        f"{before['responder_spi']:016x}",
        f"{before['children'][0]['spi_in']:08x}",
    ]
    streams = pair.streams()
    for attacker, seed in ((scene.wan, 1), (scene.edge, 2)):
        argv = [
            sys.executable,
            "-S",
            "-E",
            str(Path(support.noise.__file__)),
            GATEWAY_OUTER,
            "3000",
            "3000",
            str(seed),
            *spis,
        ]
        assert attacker.run(*argv, timeout=30).strip() == "3000"
    nothing_lost(streams.stop())
    after = pair.gateway.tunnel()
    assert after is not None
    assert process.running
    assert after["up"]
    assert after["established_at"] == before["established_at"]
    assert after["remote"] == before["remote"]
    status = pair.gateway.status()
    assert status is not None
    assert sum(status["ike_rejected"].values()) > 0
    # the SA of the tunnel was tried with forged packets, and each one was refused by its ICV or by the window
    child = after["children"][0]
    assert child["integrity_failures"] + child["replay_drops"] > 0
    assert "Traceback" not in process.log.read_text()


@pytest.mark.parametrize("who_returns", [pytest.param("gateway", marks=SLOW), "edge"])
def test_a_peer_killed_and_started_again_converges(scene: Scene, who_returns: str) -> None:
    # liveness checks give up after 5 s of silence and 1 + 1.6 + 2.6 + 4.1 s of retransmissions
    pair = make_pair(scene, initiator=who_returns, connection="retransmit_tries = 3")
    pair.establish(who_returns)
    streams = pair.streams(200)
    pair.charon.kill()
    pair.charon.start()
    if who_returns == "edge":
        pair.charon.initiate()
    # by INITIAL_CONTACT of the edge at once, by liveness checks of the gateway otherwise
    streams.wait_flowing(30)
    streams.stop()
    wait_until(lambda: len(pair.charon.sas()) == 1, 10, "one IKE_SA is left")
    pair.wait_up()
    nothing_lost(pair.streams(500, port=7010).stop(), at_least=0)
    pair.no_clear_text()


def test_an_edge_behind_a_nat_is_followed(scene: Scene) -> None:
    with source_nat(scene.wan, EDGE_OUTER, "gateway", NAT_OUTER):
        pair = make_pair(scene, initiator="edge", gateway_sees=NAT_OUTER)
        pair.establish("edge")
        streams = pair.streams()
        pair.gateway.rekey_child()
        pair.charon.rekey_ike()
        pair.gateway.rekey_ike()
        nothing_lost(streams.stop())
        tunnel = pair.gateway.tunnel()
        assert tunnel is not None
        address, _, port = tunnel["remote"].rpartition(":")
        assert address == NAT_OUTER
        assert port != "4500"
        assert tunnel["nat"] in ("remote", "both")
        pair.no_clear_text()


@pytest.mark.parametrize("encap", [True, False], ids=["forced", "not-forced"])
def test_esp_is_in_udp_4500_with_and_without_forcing(scene: Scene, encap: bool) -> None:
    """libipsec knows nothing else, and says so by NAT_DETECTION hashes that never match."""
    pair = make_pair(scene, EDGE.with_(encap=encap), connection=f"encap = {str(encap).lower()}")
    pair.establish("gateway")
    nothing_lost(pair.streams().stop(), at_least=0)
    tunnel = pair.gateway.tunnel()
    assert tunnel is not None
    assert tunnel["remote"] == f"{EDGE_OUTER}:4500"
    assert tunnel["nat"] in ("forced", "remote", "both")
    pair.no_clear_text()


def test_terminate_and_initiate_by_the_operator(scene: Scene) -> None:
    pair = make_pair(scene)
    pair.establish("gateway")
    pair.gateway.ctl("terminate", "site")
    pair.gateway.wait_down()
    wait_until(lambda: pair.charon.sas() == [], 5, "the edge has no IKE_SA")
    assert ping(scene.host, SITE_HOST, 5).lost == 5
    pair.gateway.ctl("initiate", "site", "--wait", "10")
    pair.wait_up()
    streams = Streams(scene.site, SITE_HOST, scene.host, VNET_HOST)
    streams.start(200)
    streams.wait_flowing(10)
    nothing_lost(streams.stop(), at_least=0)
    pair.no_clear_text()
