"""ML-KEM beside a classic key exchange (RFC 9242, RFC 9370): with strongSwan 6.1, and what 5.9.8 makes of the offer."""

from __future__ import annotations

import pytest
from support.daemon import GatewayDaemon
from support.pair import EDGE, ENDS, make_pair
from support.scene import Scene
from support.strongswan import log_of

pytestmark = [pytest.mark.interop]

HYBRID = "aes256gcm16-prfsha384-x25519-ke1_mlkem768"
ESP_HYBRID = "aes256gcm16-x25519-ke1_mlkem768"
TWO_ROUNDS = "aes256-sha384-ecp384-ke1_mlkem768-ke2_mlkem1024"
CHOSEN = {
    HYBRID: "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/CURVE_25519/KE1_ML_KEM_768",
    TWO_ROUNDS: "ECP_384/KE1_ML_KEM_768/KE2_ML_KEM_1024",
}


@pytest.mark.slow
@pytest.mark.parametrize("initiator", ENDS)
@pytest.mark.parametrize("ike", [HYBRID, TWO_ROUNDS], ids=["one round", "two rounds"])
def test_hybrid_key_exchange_is_rekeyed_by_both_without_loss(scene: Scene, ike: str, initiator: str) -> None:
    edge = EDGE.with_(proposals=ike, esp_proposals=ESP_HYBRID)
    pair = make_pair(scene, edge, initiator=initiator, release="14", connection='post_quantum = "require"')
    pair.establish(initiator)
    pair.rekeyed_by_both_without_loss()
    text = log_of(pair.charon).read_text()
    assert CHOSEN[ike] in text
    assert "IKE_INTERMEDIATE request 1" in text
    assert "IKE_FOLLOWUP_KE" in text
    assert _protection(pair.gateway)[0] == "ML_KEM_768"
    pair.no_clear_text()


def _protection(gateway: GatewayDaemon) -> tuple[str, str]:
    tunnel = gateway.tunnel()
    assert tunnel is not None
    return tunnel["post_quantum"], tunnel["post_quantum_policy"]


@pytest.mark.parametrize("initiator", ENDS)
def test_an_older_peer_gets_its_tunnel_and_the_downgrade_is_reported(scene: Scene, initiator: str) -> None:
    pair = make_pair(scene, EDGE, initiator=initiator, connection='post_quantum = "prefer"')
    pair.establish(initiator)
    assert _protection(pair.gateway) == ("", "prefer")
    assert pair.gateway.process is not None
    log = pair.gateway.process.log
    assert "no post-quantum key exchange" in log.read_text()
    assert 'gateway_ike_sa_post_quantum{policy="prefer",tunnel="site"} 0.0' in pair.gateway.http()[1]


@pytest.mark.slow
def test_an_older_peer_gets_no_tunnel_where_it_is_required(scene: Scene) -> None:
    pair = make_pair(scene, EDGE, initiator="gateway", connection='post_quantum = "require"')
    pair.start()
    said = pair.gateway.wait_failure()
    assert "NO_POST_QUANTUM" in said
