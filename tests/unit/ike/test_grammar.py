"""Which payload may stand how often in which message; every exchange, both directions (RFC 7296 1.2 to 1.4, 3.9)."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.ike.errors import PeerError, Violation
from gateway.ike.grammar import ALWAYS_ALLOWED, ENCRYPTED_EXCHANGES, GRAMMAR, check, check_envelope
from gateway.ike.message import Header, Message
from gateway.ike.payloads import (
    PAYLOADS,
    Authentication,
    Delete,
    Encrypted,
    EncryptedFragment,
    IdentificationInitiator,
    IdentificationResponder,
    KeyExchange,
    Nonce,
    Notify,
    Proposal,
    SecurityAssociation,
    TrafficSelector,
    TrafficSelectorsInitiator,
    TrafficSelectorsResponder,
    Transform,
    Unknown,
    VendorId,
)
from gateway.ike.registry import ExchangeType, Flags, NotifyType, Protocol

SELECTOR = TrafficSelector(7, 0, 0, 65535, bytes(8))
GOOD: dict[type[Any], Any] = {
    SecurityAssociation: SecurityAssociation((Proposal(1, Protocol.ESP, bytes(4), (Transform(1, 20),)),)),
    KeyExchange: KeyExchange(19, bytes(64)),
    IdentificationInitiator: IdentificationInitiator(2, b"i"),
    IdentificationResponder: IdentificationResponder(2, b"r"),
    Authentication: Authentication(2, b"a"),
    Nonce: Nonce(bytes(32)),
    Delete: Delete(Protocol.ESP, (bytes(4),)),
    TrafficSelectorsInitiator: TrafficSelectorsInitiator((SELECTOR,)),
    TrafficSelectorsResponder: TrafficSelectorsResponder((SELECTOR,)),
}
FREE = (Notify(NotifyType.COOKIE), VendorId(b"v"), Unknown(b"u", 99))
CASES = list(GRAMMAR)
EVERY = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case[0].name} {'response' if case[1] else 'request'}"
)


def message(case: tuple[ExchangeType, bool], payloads: list[Any]) -> Message:
    return Message(Header(1, 2, case[0], Flags.RESPONSE if case[1] else Flags(0), 0), tuple(payloads))


def needed(case: tuple[ExchangeType, bool]) -> list[Any]:
    """The smallest legal message."""
    return [GOOD[kind] for kind, rule in GRAMMAR[case].items() for _ in range(rule.minimum)]


def violates(case: tuple[ExchangeType, bool], payloads: list[Any]) -> bool:
    try:
        check(message(case, payloads))
    except PeerError as error:
        return (error.why, error.notify) == (Violation.GRAMMAR, NotifyType.INVALID_SYNTAX)
    return False


def test_every_codec_has_a_sample() -> None:
    assert set(GOOD) | set(ALWAYS_ALLOWED) | {Encrypted, EncryptedFragment} == set(PAYLOADS.values()) | {Unknown}


@EVERY
def test_the_smallest_and_the_fullest_message_are_legal(case: tuple[ExchangeType, bool]) -> None:
    assert not violates(case, needed(case))
    full = [GOOD[kind] for kind, rule in GRAMMAR[case].items() for _ in range(rule.maximum)]
    assert not violates(case, full + [one for one in FREE for _ in range(3)])
    assert not violates(case, full[::-1])


@EVERY
def test_a_missing_payload(case: tuple[ExchangeType, bool]) -> None:
    for kind, rule in GRAMMAR[case].items():
        if rule.minimum:
            assert violates(case, [one for one in needed(case) if type(one) is not kind])


@EVERY
def test_a_payload_too_many(case: tuple[ExchangeType, bool]) -> None:
    for kind, rule in GRAMMAR[case].items():
        rest = [one for one in needed(case) if type(one) is not kind]
        assert violates(case, [*rest, *[GOOD[kind]] * (rule.maximum + 1)])


@EVERY
def test_a_payload_that_does_not_belong_there(case: tuple[ExchangeType, bool]) -> None:
    for kind, sample in GOOD.items():
        if kind not in GRAMMAR[case]:
            assert violates(case, [*needed(case), sample])
    assert violates(case, [*needed(case), Encrypted(b"nested")])


@EVERY
def test_an_error_notification_excuses_what_is_missing_in_a_response_only(case: tuple[ExchangeType, bool]) -> None:
    status, error = Notify(NotifyType.INITIAL_CONTACT), Notify(NotifyType.NO_PROPOSAL_CHOSEN)
    must = any(rule.minimum for rule in GRAMMAR[case].values())
    assert violates(case, [error]) == (must and not case[1])
    assert violates(case, [status]) == must
    # It excuses nothing that is there and should not be
    if case[0] != ExchangeType.INFORMATIONAL:
        assert violates(case, [error, GOOD[Delete]])


@pytest.mark.parametrize("exchange", [ExchangeType.IKE_SESSION_RESUME, ExchangeType(99)])
def test_exchanges_we_do_not_speak_have_no_grammar(exchange: ExchangeType) -> None:
    for response in (False, True):
        with pytest.raises(PeerError, match="exchange"):
            check(message((exchange, response), []))


def test_only_ike_sa_init_travels_in_clear() -> None:
    for exchange in ExchangeType:
        sealed, plain = message((exchange, False), [Encrypted(b"x")]), message((exchange, False), [])
        good, bad = (sealed, plain) if exchange in ENCRYPTED_EXCHANGES else (plain, sealed)
        check_envelope(good)
        with pytest.raises(PeerError) as refused:
            check_envelope(bad)
        # Nobody authenticated it, so nobody is answered
        assert refused.value.notify is None
    assert set(ExchangeType) - ENCRYPTED_EXCHANGES == {ExchangeType.IKE_SA_INIT}


# --- content --------------------------------------------------------------------------------------------------------

INIT = (ExchangeType.IKE_SA_INIT, False)
CREATE = (ExchangeType.CREATE_CHILD_SA, False)


def with_other(case: tuple[ExchangeType, bool], payload: Any) -> Message:
    return message(case, [one for one in needed(case) if type(one) is not type(payload)] + [payload])


@pytest.mark.parametrize(
    ("octets", "good"), [(0, False), (1, False), (15, False), (16, True), (256, True), (257, False), (65000, False)]
)
def test_nonces_have_16_to_256_octets(octets: int, good: bool) -> None:
    """RFC 7296 3.9."""
    if good:
        check(with_other(INIT, Nonce(bytes(octets))))
        return
    with pytest.raises(PeerError) as refused:
        check(with_other(INIT, Nonce(bytes(octets))))
    assert (refused.value.why, refused.value.notify) == (Violation.BAD_NONCE, NotifyType.INVALID_SYNTAX)


@pytest.mark.parametrize(
    "selectors",
    [
        (),
        (TrafficSelector(7, 0, 0, 0, b""),),
        (TrafficSelector(7, 0, 0, 0, bytes(4)),),
        (TrafficSelector(7, 0, 0, 0, bytes(7)),),
        (TrafficSelector(7, 0, 0, 0, bytes(32)),),
        (TrafficSelector(8, 0, 0, 0, bytes(8)),),
        (TrafficSelector(8, 0, 0, 0, bytes(33)),),
        (SELECTOR, TrafficSelector(8, 0, 0, 0, b"")),
    ],
)
def test_traffic_selectors_have_the_addresses_of_their_type(selectors: tuple[TrafficSelector, ...]) -> None:
    for kind in (TrafficSelectorsInitiator, TrafficSelectorsResponder):
        with pytest.raises(PeerError, match="traffic selector"):
            check(with_other(CREATE, kind(selectors)))


def test_traffic_selectors_of_an_unknown_type_have_any_length() -> None:
    check(with_other(CREATE, TrafficSelectorsInitiator((TrafficSelector(9, 0, 0, 0, b"odd"),))))


@pytest.mark.parametrize(
    ("protocol", "good"),
    [(Protocol.IKE, {0, 8}), (Protocol.ESP, {4}), (Protocol.AH, {4}), (Protocol(77), set(range(10)))],
)
def test_spi_sizes_of_proposals(protocol: Protocol, good: set[int]) -> None:
    for size in range(10):
        offer = with_other(CREATE, SecurityAssociation((Proposal(1, protocol, b"\1" * size, (Transform(1, 20),)),)))
        if size in good:
            check(offer)
        else:
            with pytest.raises(PeerError, match="SPI of"):
                check(offer)


def test_empty_offers() -> None:
    with pytest.raises(PeerError, match="no proposals"):
        check(with_other(CREATE, SecurityAssociation(())))
    with pytest.raises(PeerError, match="without transforms"):
        check(with_other(CREATE, SecurityAssociation((Proposal(1, Protocol.ESP, bytes(4), ()),))))
