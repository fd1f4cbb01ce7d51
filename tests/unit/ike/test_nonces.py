"""The peer's nonce has at least half the key of the PRF agreed on (RFC 7296 2.10), in every exchange that has one, in either role."""

from __future__ import annotations

import pytest
from support.ike_pair import CHILD, NAME, Pair
from support.ike_stages import ESP_KE, IKE_KE, Stage, ask, esp_offer, ike_offer, reach, selectors

from gateway.ike.commands import Initiate, Rekey
from gateway.ike.errors import PeerError, Violation
from gateway.ike.events import ChildInstall
from gateway.ike.exchanges.base import NONCE_OCTETS
from gateway.ike.keymat import PRF_HASH, check_nonce
from gateway.ike.payloads import Nonce, Payload
from gateway.ike.proposal import make_offer
from gateway.ike.registry import ExchangeType, NotifyType, PrfId, Protocol

LEAST = {PrfId.HMAC_SHA1: 10, PrfId.HMAC_SHA2_256: 16, PrfId.HMAC_SHA2_384: 24, PrfId.HMAC_SHA2_512: 32}
CREATE = ExchangeType.CREATE_CHILD_SA
SHORT, ENOUGH = Nonce(b"\x77" * 23), Nonce(b"\x77" * 24)
"""The pair agrees on HMAC-SHA2-384."""


@pytest.mark.parametrize("method", LEAST)
def test_each_prf_wants_half_its_key(method: PrfId) -> None:
    assert set(LEAST) == set(PRF_HASH)
    check_nonce(method, bytes(LEAST[method]))
    with pytest.raises(PeerError) as refused:
        check_nonce(method, bytes(LEAST[method] - 1))
    assert (refused.value.why, refused.value.notify) == (Violation.BAD_NONCE, NotifyType.INVALID_SYNTAX)


def test_ours_is_enough_for_every_prf() -> None:
    assert max(LEAST.values()) <= NONCE_OCTETS
    offers = (make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha512"], ["x25519"]),)
    Pair(offers=offers).establish()


def test_a_first_request_with_a_short_one_leaves_nothing() -> None:
    pair = Pair()
    (answer,) = ask(pair, ike_offer(b""), IKE_KE, SHORT)
    assert [notify.name for notify in answer.notifies()] == ["INVALID_SYNTAX"]
    assert pair.right.sas == []
    assert pair.right.rejected == {"bad_nonce": 1}
    (answer,) = ask(pair, ike_offer(b""), IKE_KE, ENOUGH)
    assert answer.first(Nonce) is not None


def test_an_answer_with_a_short_one_does_not_end_the_attempt() -> None:
    """Nobody authenticated it (RFC 7296 2.21.1)."""
    pair = Pair()
    pair.right.random.scripted[NONCE_OCTETS] = [SHORT.data]
    pair.left.command(Initiate(NAME))
    pair.deliver()
    pair.deliver()
    (sa,) = pair.left.sas
    assert (sa.keys, sa.hint and sa.hint[0]) == (None, "BAD_ANSWER")
    assert sa.window.pending is not None


REQUESTS: dict[str, tuple[Payload, ...]] = {
    "CHILD_SA": (esp_offer(), ESP_KE, *selectors()),
    "IKE_SA": (ike_offer(b"\x0e" * 8), IKE_KE),
}


def asked(stage: Stage, kind: str, nonce: Nonce) -> str:
    first, *others = REQUESTS[kind]
    stage.deliver(stage.encode(CREATE, (first, nonce, *others), stage.request_id, False))
    return stage.outcome()


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_later_request_with_a_short_one_is_refused(kind: str) -> None:
    assert asked(reach("responder", "ESTABLISHED"), kind, SHORT) == (
        "DESTROYING <CREATE_CHILD_SA[INVALID_SYNTAX] -bad_nonce"
    )
    assert "CREATE_CHILD_SA[]" in asked(reach("responder", "ESTABLISHED"), kind, ENOUGH)


@pytest.mark.parametrize("child", ["", CHILD])
def test_a_later_answer_with_a_short_one_makes_nothing(child: str) -> None:
    pair = Pair()
    pair.establish()
    before = pair.left.seen(ChildInstall)
    spis = {sa.initiator_spi for sa in pair.left.sas}
    pair.left.command(Rekey(NAME, child))
    pair.right.random.scripted[NONCE_OCTETS] = [SHORT.data]
    pair.deliver()
    assert pair.right.random.scripted[NONCE_OCTETS] == []
    pair.deliver()
    assert pair.left.rejected == {"bad_nonce": 1}
    assert pair.left.seen(ChildInstall) == before
    assert {sa.initiator_spi for sa in pair.left.sas} <= spis
