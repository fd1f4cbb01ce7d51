"""`post_quantum` of a connection: what is offered then, and what is said of an IKE_SA without it."""

from __future__ import annotations

import pytest
from support.ike_pair import IKE_OFFERS, Pair

from gateway.config.load import load_text
from gateway.ike.events import Notice
from gateway.ike.proposal import make_offer
from gateway.ike.registry import Protocol
from gateway.node.settings import Secrets, build

TEXT = """
[gateway]
name = "g"
[connection.c]
local_addrs = "10.0.0.1"
remote_addrs = "10.0.0.2"
psk.file = "psk"
protected = ["172.16.0.0/16"]
tunnel_address = ["169.254.21.1/30"]
proposals = ["aes256gcm16-prfsha384-x25519-ke1_mlkem1024", "aes256-sha256-ecp256"]
post_quantum = "{policy}"
"""
FIRST = "IKE:AES_GCM_16-256/PRF_HMAC_SHA2_384/CURVE25519/ML_KEM_1024"
HYBRID = "IKE:AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256/ML_KEM_768"
PLAIN = "IKE:AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256"


@pytest.mark.parametrize(
    ("policy", "offered"),
    [("off", [FIRST, PLAIN]), ("prefer", [FIRST, HYBRID, PLAIN]), ("require", [FIRST, HYBRID])],
)
def test_the_policy_decides_what_is_offered(policy: str, offered: list[str]) -> None:
    loaded = load_text(TEXT.replace("{policy}", policy))
    assert loaded.config is not None, loaded.diagnostics
    (tunnel,) = build(loaded.config, Secrets({"c": b"secret"})).tunnels
    methods = [
        [transform.id for transform in offer.transforms if transform.type in (4, 6)] for offer in tunnel.ike.offers
    ]
    numbers = {FIRST: [31, 37], HYBRID: [19, 36], PLAIN: [19]}
    assert methods == [numbers[one] for one in offered]
    assert tunnel.ike.post_quantum == policy


HYBRID_OFFER = make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["x25519"], (), [(1, ["mlkem768"])])


@pytest.mark.parametrize("policy", ["off", "prefer"])
@pytest.mark.parametrize("able", [False, True])
def test_a_downgrade_is_said_aloud(policy: str, able: bool) -> None:
    pair = Pair()
    pair.configure(pair.left, offers=(HYBRID_OFFER, *IKE_OFFERS), post_quantum=policy)
    pair.configure(pair.right, offers=(HYBRID_OFFER,) if able else IKE_OFFERS)
    pair.establish()
    said = [notice for notice in pair.left.seen(Notice) if notice.event == "post-quantum-not-used"]
    assert len(said) == (policy != "off" and not able)
    assert not said or "ECP_384" in said[0].text or "CURVE25519" in said[0].text
