"""Choosing a suite, and holding an answer against what was offered (RFC 7296 2.7, 3.3)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.work import calls_while

from gateway.ike import proposal
from gateway.ike.errors import PeerError, Violation
from gateway.ike.payloads import PROPOSALS_MAX, Proposal, SecurityAssociation, Transform
from gateway.ike.proposal import (
    TOLD_MAX,
    Choice,
    Offer,
    accept,
    choice_of,
    is_lowest,
    key_exchange_methods,
    make_offer,
    select,
)
from gateway.ike.registry import NotifyType, Protocol, TransformType

ENCR, PRF, INTEG, KE, ESN = tuple(TransformType)[:5]
GCM, CBC = Transform.make(ENCR, 20, 256), Transform.make(ENCR, 12, 128)
SHA256, NO_INTEGRITY = Transform.make(INTEG, 12), Transform.make(INTEG, 0)
ECP256, ECP384, X25519, NO_KE = (Transform.make(KE, number) for number in (19, 20, 31, 0))
NO_ESN, WITH_ESN = Transform.make(ESN, 0), Transform.make(ESN, 1)
PRF256, PRF384 = Transform.make(PRF, 5), Transform.make(PRF, 6)
SPI = b"\1\2\3\4"


def esp(*transforms: Transform, number: int = 1) -> Proposal:
    return Proposal(number, Protocol.ESP, SPI, transforms)


def offer(*transforms: Transform, protocol: Protocol = Protocol.ESP) -> Offer:
    return Offer(protocol, transforms)


def chosen(
    offers: list[Offer], *proposals: Proposal, protocol: Protocol = Protocol.ESP, method: int | None = None
) -> Proposal:
    return select(offers, SecurityAssociation(proposals), protocol, method)


def refused(offers: list[Offer], *proposals: Proposal, protocol: Protocol = Protocol.ESP) -> bool:
    try:
        chosen(offers, *proposals, protocol=protocol)
    except PeerError as error:
        return (error.why, error.notify) == (Violation.NO_PROPOSAL, NotifyType.NO_PROPOSAL_CHOSEN)
    return False


# --- the responder --------------------------------------------------------------------------------------------------


def test_our_order_decides_among_proposals() -> None:
    ours = [offer(GCM, NO_ESN), offer(CBC, SHA256, NO_ESN)]
    theirs = (esp(CBC, SHA256, NO_ESN, number=1), esp(GCM, NO_ESN, number=2))
    assert chosen(ours, *theirs) == Proposal(2, Protocol.ESP, SPI, (GCM, NO_ESN))
    assert chosen(ours[::-1], *theirs).number == 1


def test_our_order_decides_among_transforms() -> None:
    assert chosen([offer(GCM, CBC, SHA256, NO_INTEGRITY)], esp(CBC, GCM, SHA256, NO_INTEGRITY)).transforms[0] == GCM


def test_the_initiator_s_ke_method_is_kept_where_we_allow_it() -> None:
    ours = [offer(GCM, ECP384, ECP256, X25519)]
    theirs = esp(GCM, X25519, ECP256, ECP384)
    assert [choice_of(chosen(ours, theirs, method=method)).key_exchange for method in (19, 20, 31)] == [19, 20, 31]
    assert choice_of(chosen(ours, theirs)).key_exchange == 20
    assert choice_of(chosen(ours, theirs, method=14)).key_exchange == 20


def test_an_aead_goes_with_integrity_none_named_or_absent() -> None:
    """RFC 7296 3.3.3: the two are the same; the reply repeats what the initiator wrote."""
    for ours in ((GCM,), (GCM, NO_INTEGRITY)):
        assert chosen([offer(*ours)], esp(GCM)).transforms == (GCM,)
        assert chosen([offer(*ours)], esp(GCM, NO_INTEGRITY)).transforms == (GCM, NO_INTEGRITY)
        assert refused([offer(*ours)], esp(GCM, SHA256))


def test_a_cipher_without_integrity_is_never_chosen() -> None:
    assert refused([offer(CBC, SHA256)], esp(CBC))
    assert refused([offer(CBC, SHA256)], esp(CBC, NO_INTEGRITY))


def test_absent_esn_means_no_esn() -> None:
    assert choice_of(chosen([offer(GCM, WITH_ESN, NO_ESN)], esp(GCM))).esn == 0
    assert refused([offer(GCM, WITH_ESN)], esp(GCM))
    assert choice_of(chosen([offer(GCM, WITH_ESN, NO_ESN)], esp(GCM, NO_ESN, WITH_ESN))).esn == 1
    assert chosen([offer(GCM)], esp(GCM, NO_ESN)).transforms == (GCM, NO_ESN)


def test_pfs_is_needed_when_one_side_insists() -> None:
    assert refused([offer(GCM, ECP256)], esp(GCM))
    assert refused([offer(GCM)], esp(GCM, ECP256))
    assert choice_of(chosen([offer(GCM, ECP256, NO_KE)], esp(GCM))).key_exchange == 0
    assert choice_of(chosen([offer(GCM)], esp(GCM, ECP256, NO_KE))).key_exchange == 0


def test_unknown_transforms_beside_known_ones_do_not_matter() -> None:
    camellia, brainpool = Transform.make(ENCR, 23, 256), Transform.make(KE, 29)
    assert chosen([offer(GCM, ECP256)], esp(camellia, GCM, brainpool, ECP256)).transforms == (GCM, ECP256)


def test_an_unknown_transform_type_makes_the_proposal_unacceptable() -> None:
    """RFC 7296 3.3.6, and only that proposal."""
    strange = Transform(6, 1)
    assert refused([offer(GCM)], esp(GCM, strange))
    assert chosen([offer(GCM)], esp(GCM, strange), esp(GCM, number=2)).number == 2


def test_attributes_belong_to_the_transform() -> None:
    """RFC 7296 3.3.6: another key length is another transform, and an attribute we do not know is not ours."""
    assert refused([offer(GCM)], esp(Transform.make(ENCR, 20, 128)))
    assert refused([offer(GCM)], esp(Transform(1, 20)))
    assert refused([offer(GCM)], esp(Transform(1, 20, GCM.attributes + b"\x80\x0f\0\1")))


def test_a_proposal_without_encryption_or_for_another_protocol_is_passed_over() -> None:
    assert refused([offer(GCM)], esp(NO_ESN))
    assert refused([offer(GCM)], Proposal(1, Protocol.AH, SPI, (GCM,)))
    assert refused([offer(GCM)])
    assert refused([], esp(GCM))


def test_the_reply_carries_the_initiator_s_spi_and_number() -> None:
    answer = chosen([offer(GCM)], Proposal(7, Protocol.ESP, b"spi!", (GCM,)))
    assert (answer.number, answer.spi) == (7, b"spi!")


def test_the_refusal_names_what_the_peer_offered_but_not_endlessly() -> None:
    many = SecurityAssociation(tuple(esp(CBC, number=number) for number in range(1, 200)))
    with pytest.raises(PeerError) as error:
        select([offer(GCM)], many, Protocol.ESP)
    assert error.value.detail.startswith("peer offers ESP:AES_CBC-128;")
    assert len(error.value.detail) < 400


def test_a_refusal_costs_in_proportion_to_what_is_offered() -> None:
    """Whoever forges a peer's address can have us refuse: two hundred proposals took 2 ms, and more with more of our own."""
    many = [offer(*(Transform.make(ENCR, 12, bits) for bits in (128, 192, 256, 512)), SHA256, PRF256, ECP256)] * 8
    nothing_of_ours = tuple(Transform.make(ENCR, number) for number in range(1000, 1250))
    assert calls_while(lambda: refused(many, esp(*nothing_of_ours))) < 12 * len(nothing_of_ours)
    nearly = [esp(CBC, SHA256, PRF256, ECP384)] * PROPOSALS_MAX
    assert refused(many, *nearly)
    assert calls_while(lambda: refused(many, *nearly)) < 40 * len(many) * len(nearly)


def test_a_refusal_tells_no_more_of_an_offer_than_people_read() -> None:
    one = esp(*(Transform.make(ENCR, number) for number in range(1000, 1250)))
    with pytest.raises(PeerError) as raised:
        chosen([offer(GCM)], *[one] * PROPOSALS_MAX)
    assert raised.value.detail.count("UNKNOWN") == TOLD_MAX
    assert raised.value.detail.endswith("/...")
    with pytest.raises(PeerError) as raised:
        chosen([offer(GCM)], esp(CBC, SHA256), esp(CBC, NO_INTEGRITY))
    assert raised.value.detail.count(";") == 1 and "..." not in raised.value.detail


# --- the initiator --------------------------------------------------------------------------------------------------

SENT = SecurityAssociation(
    (esp(GCM, ECP256, ECP384, WITH_ESN, NO_ESN, number=1), esp(CBC, SHA256, ECP256, NO_ESN, number=2))
)


def answer(*transforms: Transform, number: int = 1, protocol: int = Protocol.ESP) -> SecurityAssociation:
    return SecurityAssociation((Proposal(number, protocol, b"peer", transforms),))


@pytest.mark.parametrize(
    "good",
    [
        answer(GCM, ECP384, WITH_ESN),
        answer(GCM, ECP256, NO_ESN),
        answer(GCM, ECP256),
        answer(GCM, NO_INTEGRITY, ECP256, NO_ESN),
        answer(CBC, SHA256, ECP256, NO_ESN, number=2),
        # Interop: OpenIKED 7.2 answers a rekey with KE by a proposal without a group
        answer(GCM, WITH_ESN),
        answer(GCM, NO_KE, WITH_ESN),
    ],
)
def test_answers_inside_the_offer_are_accepted(good: SecurityAssociation) -> None:
    assert accept(SENT, good) == good.proposals[0]


@pytest.mark.parametrize(
    "bad",
    [
        SecurityAssociation(()),
        SecurityAssociation((esp(GCM, ECP256), esp(GCM, ECP256))),
        answer(CBC, SHA256, ECP256, NO_ESN, number=1),  # the number of another proposal
        answer(GCM, ECP256, number=3),
        answer(GCM, ECP256, protocol=Protocol.AH),
        answer(GCM, ECP256, protocol=Protocol.IKE),
        answer(GCM, X25519),
        answer(Transform.make(ENCR, 20, 128), ECP256),
        answer(GCM, GCM, ECP256),
        answer(GCM, ECP256, ECP384),
        answer(ECP256, NO_ESN),
        answer(GCM, SHA256, ECP256),
        answer(GCM, PRF256, ECP256),
        answer(GCM, ECP256, Transform(6, 1)),
        answer(),
        # Encryption without integrity, which implies "none" and was never offered
        answer(CBC, ECP256, NO_ESN, number=2),
        answer(CBC, NO_INTEGRITY, ECP256, NO_ESN, number=2),
        answer(CBC, SHA256, ECP256, WITH_ESN, number=2),
    ],
)
def test_answers_outside_the_offer_are_refused(bad: SecurityAssociation) -> None:
    with pytest.raises(PeerError) as error:
        accept(SENT, bad)
    assert (error.value.why, error.value.notify) == (Violation.NO_PROPOSAL, NotifyType.NO_PROPOSAL_CHOSEN)


def test_absent_esn_is_outside_an_offer_of_esn_alone() -> None:
    sent = SecurityAssociation((esp(GCM, WITH_ESN),))
    assert accept(sent, answer(GCM, WITH_ESN))
    for transforms in ((GCM,), (GCM, NO_ESN)):
        with pytest.raises(PeerError, match="did not offer"):
            accept(sent, answer(*transforms))


def test_an_ike_answer_needs_prf_integrity_and_ke() -> None:
    sent = proposal.payload([offer(CBC, PRF256, SHA256, ECP256, protocol=Protocol.IKE)], b"")
    assert accept(sent, answer(CBC, PRF256, SHA256, ECP256, protocol=Protocol.IKE))
    for transforms in itertools.combinations((CBC, PRF256, SHA256, ECP256), 3):
        with pytest.raises(PeerError, match="did not offer"):
            accept(sent, answer(*transforms, protocol=Protocol.IKE))


# --- both together --------------------------------------------------------------------------------------------------

esp_offers = st.builds(
    lambda encryption, esn, ke: offer(*encryption, *ke, *esn),
    st.sampled_from([(GCM,), (CBC, SHA256), (GCM, NO_INTEGRITY)]),
    st.sampled_from([(), (NO_ESN,), (WITH_ESN,), (WITH_ESN, NO_ESN)]),
    st.sampled_from([(), (ECP256,), (ECP384, ECP256), (NO_KE,), (X25519, NO_KE)]),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(esp_offers, min_size=1, max_size=3),
    st.lists(esp_offers, min_size=1, max_size=3),
    st.sampled_from([None, 19, 20, 31]),
)
def test_whatever_is_chosen_lies_within_both_offers_and_is_accepted(
    ours: list[Offer], theirs: list[Offer], method: int | None
) -> None:
    sent = proposal.payload(theirs, SPI)
    try:
        reply = select(ours, sent, Protocol.ESP, method)
    except PeerError:
        # Nothing common: no pair of offers has a choice in each type
        assert not any(_common(one, other) for one in ours for other in theirs)
        return
    assert accept(sent, SecurityAssociation((reply,))) == reply
    offered = sent.proposals[reply.number - 1]
    assert set(reply.transforms) <= set(offered.transforms)
    suite = choice_of(reply)
    assert any(
        suite.key_exchange in {t.id for t in one.of(KE)} | ({0} if not one.of(KE) else set())
        and suite.esn in {t.id for t in one.of(ESN)} | ({0} if not one.of(ESN) else set())
        and suite.encryption in {t.id for t in one.of(ENCR)}
        for one in ours
    )
    assert suite.encryption == 20 or suite.integrity


def _common(one: Offer, other: Offer) -> bool:
    return all(
        {t.id for t in one.of(kind)} & {t.id for t in other.of(kind)}
        or not (one.of(kind) or other.of(kind))
        or (0 in {t.id for t in (*one.of(kind), *other.of(kind))} and not (one.of(kind) and other.of(kind)))
        for kind in TransformType
    )


# --- offers ---------------------------------------------------------------------------------------------------------


def test_offers_from_the_configuration_s_names() -> None:
    made = make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["ecp384", "x25519"], [True])
    assert made.transforms == (GCM, PRF384, ECP384, X25519)  # ESN is not an IKE_SA's
    child = make_offer(Protocol.ESP, [("aes-cbc", 128)], ["sha256"], [], ["ecp256"], [True, False])
    assert child.transforms == (CBC, SHA256, ECP256, WITH_ESN, NO_ESN)
    assert child.without_key_exchange().transforms == (CBC, SHA256, WITH_ESN, NO_ESN)


def test_proposals_are_numbered_from_one_and_ke_methods_listed_once() -> None:
    offers = [offer(GCM, ECP384, ECP256), offer(CBC, SHA256, ECP256, X25519, NO_KE)]
    assert [one.number for one in proposal.payload(offers, SPI).proposals] == [1, 2]
    assert key_exchange_methods(offers) == (20, 19, 31)


def test_suites_read_as_the_registry_names_them() -> None:
    assert str(Choice(20, 256, prf=6, key_exchange=20)) == "AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384"
    assert str(Choice(12, 128, integrity=12, esn=1)) == "AES_CBC-128/HMAC_SHA2_256_128/ESN"


WIDE = make_offer(
    Protocol.IKE, [("aes-cbc", 256), ("aes-cbc", 128)], ["sha384", "sha256"], ["sha384", "sha256"], ["ecp384", "modp2048"]
)  # fmt: skip
FIRST = Choice(12, 256, 13, 6, 20)
LOWEST = Choice(12, 128, 12, 5, 14)


@pytest.mark.parametrize(("choice", "offers", "lowest"), [
    (LOWEST, (WIDE,), True),
    (FIRST, (WIDE,), False),
    (Choice(12, 256, 12, 5, 14), (WIDE,), False),  # not of every kind
    (Choice(12, 128, 12, 5, 19), (WIDE,), False),  # nothing that was offered
    (LOWEST, (make_offer(Protocol.IKE, [("aes-cbc", 128)], ["sha256"], ["sha256"], ["modp2048"]),), False),
    (Choice(20, 256, 0, 6, 20), (make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["x25519", "ecp384"]),), False),
    (LOWEST, (make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["ecp384"]), WIDE), True),
    (Choice(12, 128, 12), (make_offer(Protocol.ESP, [("aes-cbc", 256), ("aes-cbc", 128)], ["sha512", "sha256"], [], ["ecp384", "ecp256"]),), True),
])  # fmt: skip
def test_whether_the_peer_took_the_lowest_of_each_kind(choice: Choice, offers: tuple[Offer, ...], lowest: bool) -> None:
    assert is_lowest(choice, offers) is lowest
