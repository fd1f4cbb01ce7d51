"""IKE_SA_INIT: nothing in it is authenticated, so nothing in it is final (RFC 7296 1.2, 2.5, 2.6, 2.6.1, 2.7, 2.21.1)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from support.ike_pair import IKE_OFFERS, LEFT, NAME, RIGHT, Flight, Host, Pair
from support.ike_stages import GOOD_REQUEST, IKE_KE, NONCE, ask, ask_octets, ike_offer, reach

from gateway.contract import Endpoint
from gateway.ike import proposal
from gateway.ike.commands import Initiate
from gateway.ike.events import IkeDown, Notice
from gateway.ike.exchanges.sa_init import COOKIE_MAX, COOKIES_MAX, GROUPS_MAX, HINT_PATIENCE
from gateway.ike.message import Header, Message, emit_chain, emit_header, emit_message
from gateway.ike.payloads import KeyExchange, Nonce, Notify, Payload, Proposal, SecurityAssociation, Transform, Unknown
from gateway.ike.proposal import make_offer
from gateway.ike.registry import ExchangeType, Flags, KeyExchangeId, NotifyType, Protocol

ECP384, X25519 = int(KeyExchangeId.ECP_384), int(KeyExchangeId.CURVE25519)
INIT = ExchangeType.IKE_SA_INIT


def connecting(**changes: Any) -> tuple[Pair, list[Flight]]:
    """The left host has sent its first request; requests it sends are collected, and delivered by the test."""
    pair = Pair(**changes)
    pair.left.command(Initiate(NAME))
    return pair, pair.in_flight


def say(pair: Pair, *payloads: Payload, responder_spi: int = 0, message_id: int = 0, to: Host | None = None) -> None:
    """A response that anybody who saw the request could send."""
    sa = (to or pair.left).sas[0]
    header = Header(sa.initiator_spi, responder_spi, INIT, Flags.RESPONSE, message_id)
    pair.receive(pair.left, emit_message(header, payloads), Endpoint(RIGHT, 500), Endpoint(LEFT, 500))


def cookie(octets: bytes) -> Notify:
    return Notify(NotifyType.COOKIE, octets)


def wanted(group: int) -> Notify:
    return Notify(NotifyType.INVALID_KE_PAYLOAD, group.to_bytes(2, "big"))


def last_request(pair: Pair) -> Message:
    return pair.in_flight[-1].message


def key_exchange(message: Message) -> KeyExchange:
    found = message.first(KeyExchange)
    assert isinstance(found, KeyExchange)
    return found


# --- the initiator: COOKIE and INVALID_KE_PAYLOAD -----------------------------------------------------------------------

ANSWERS: dict[str, Notify] = {
    "C": cookie(b"first cookie"),
    "c": cookie(b"\0" * COOKIE_MAX),
    "K": wanted(X25519),
    "k": wanted(ECP384),
}
ORDERS = ["".join(order) for length in range(1, 5) for order in itertools.product("CcKk", repeat=length)]


def test_cookie_and_other_group_in_every_order() -> None:
    """RFC 7296 2.6.1. Whatever came before, the last request is complete, and with it the IKE_SA comes up."""
    for order in ORDERS:
        pair, in_flight = connecting()
        first = last_request(pair)
        current, group = None, ECP384
        for letter in order:
            before = len(in_flight)
            say(pair, ANSWERS[letter])
            took = len(in_flight) == before + 1
            if letter in "Cc":
                assert took
                current = ANSWERS[letter].data
            elif letter == "K" and group == ECP384:
                assert took
                group = X25519
            else:
                assert not took  # the group was tried already: only a hint
            request = last_request(pair)
            header = request.header
            assert (header.message_id, header.responder_spi) == (0, 0)
            assert header.initiator_spi == first.header.initiator_spi
            assert request.first(Nonce) == first.first(Nonce)
            assert request.first(SecurityAssociation) == first.first(SecurityAssociation)
            assert key_exchange(request).method == group
            # RFC 7296 2.6: the cookie is the first payload, and stays when another group is asked for
            if current is None:
                assert request.notify(NotifyType.COOKIE) is None
            else:
                assert request.payloads[0] == cookie(current)
        del in_flight[:-1]
        pair.settle()
        pair.assert_agreed()


def test_a_cookie_alone_changes_nothing_else() -> None:
    """RFC 7296 2.6: "with the cookie as the first payload and all other payloads unchanged"."""
    pair, _ = connecting()
    first = last_request(pair)
    say(pair, cookie(b"x"))
    assert last_request(pair).payloads == (cookie(b"x"), *first.payloads)


def test_another_group_means_another_public_value() -> None:
    pair, _ = connecting()
    first = last_request(pair)
    say(pair, wanted(X25519))
    assert key_exchange(last_request(pair)).data != key_exchange(first).data


@pytest.mark.parametrize("length", [0, COOKIE_MAX + 1, 1000])
def test_a_cookie_of_a_wrong_length_is_ignored(length: int) -> None:
    pair, in_flight = connecting()
    say(pair, cookie(bytes(length)))
    assert len(in_flight) == 1
    pair.settle()
    pair.assert_agreed()


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0", b"\0\x0e", b"\xff\xff", b"\0\x14\0", b"\0\x1f\0\0"])
def test_a_group_we_did_not_offer_or_cannot_read_is_only_a_hint(data: bytes) -> None:
    """strongSwan CVE-2014-9221 in its class: any group number, any length."""
    pair, in_flight = connecting()
    say(pair, Notify(NotifyType.INVALID_KE_PAYLOAD, data))
    assert len(in_flight) == 1
    pair.settle()
    pair.assert_agreed()


def test_every_group_number_once() -> None:
    for group in range(0, 65536, 7):
        pair, in_flight = connecting()
        say(pair, wanted(group))
        assert len(in_flight) == (2 if group == X25519 else 1)


def test_cookies_without_end_are_bounded() -> None:
    """RFC 7296 2.6: a responder (or a stranger) that always asks for another cookie."""
    pair, _ = connecting()
    for number in range(50):
        say(pair, cookie(b"cookie %d" % number))
    assert len(pair.sent) == 1 + COOKIES_MAX
    pair.silence(200)
    assert pair.left.seen(IkeDown)[0].reason == "PEER_UNREACHABLE"
    assert pair.left.sas == []


def test_groups_without_end_are_bounded() -> None:
    groups = ["ecp256", "ecp384", "ecp521", "x25519", "modp2048", "modp3072"]
    offers = (make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], groups),)
    pair, _ = connecting(offers=offers)
    for _ in range(10):
        for method in proposal.key_exchange_methods(offers):
            say(pair, wanted(method))
    assert len(pair.sent) == GROUPS_MAX
    assert len({key_exchange(flight.message).method for flight in pair.sent}) == GROUPS_MAX


def test_both_without_end_are_bounded_and_end_by_name() -> None:
    pair, _ = connecting()
    for number in range(100):
        say(pair, cookie(bytes([number + 1])), responder_spi=number)
        say(pair, wanted((X25519, ECP384)[number % 2]))
    assert len(pair.sent) <= 1 + COOKIES_MAX + GROUPS_MAX
    pair.silence(HINT_PATIENCE + 0.1)
    assert pair.left.seen(IkeDown)[0].reason == "INVALID_KE_PAYLOAD_IKE"


# --- the initiator: answers nobody authenticated ------------------------------------------------------------------------

ERRORS = [kind for kind in NotifyType if kind.is_error and kind != NotifyType.INVALID_KE_PAYLOAD]


@pytest.mark.parametrize("error", ERRORS, ids=lambda kind: kind.name)
def test_an_error_nobody_authenticated_is_only_a_hint(error: NotifyType) -> None:
    """RFC 7296 2.21.1; TAHI 1.1.3: continue as if it had not come, for a while."""
    pair, _ = connecting()
    say(pair, Notify(error))
    assert pair.left.seen(IkeDown) == []
    pair.now += HINT_PATIENCE - 0.01
    pair.settle()
    pair.assert_agreed()
    pair.run(60)
    assert pair.left.seen(IkeDown) == []


@pytest.mark.parametrize("error", [*ERRORS, NotifyType(8191)], ids=lambda kind: kind.name)
def test_without_a_better_answer_the_attempt_ends_by_the_hint_s_name(error: NotifyType) -> None:
    pair, _ = connecting()
    say(pair, Notify(error))
    pair.silence(HINT_PATIENCE - 0.1)
    assert pair.left.seen(IkeDown) == []
    pair.silence(0.2)
    assert [event.reason for event in pair.left.seen(IkeDown)] == [f"{error.name}_IKE"]
    assert pair.left.core.next_deadline() is None


def test_a_flood_of_errors_does_not_put_off_the_end_nor_fill_the_journal() -> None:
    pair, _ = connecting()
    for _ in range(40):
        say(pair, Notify(NotifyType.NO_PROPOSAL_CHOSEN))
        pair.silence(0.1)
    assert len([event for event in pair.left.seen(Notice) if event.event == "ike-init-refused"]) == 1
    pair.silence(0.1)
    assert len(pair.left.seen(IkeDown)) == 1


def status_only(pair: Pair) -> tuple[Payload, ...]:
    return (Notify(NotifyType.SET_WINDOW_SIZE, bytes(4)),)


def good(pair: Pair) -> tuple[Payload, ...]:
    chosen = ike_offer(b"").proposals[0]
    kept = {transform.type: transform for transform in reversed(chosen.transforms)}
    return SecurityAssociation((Proposal(1, 1, b"", tuple(kept[kind] for kind in sorted(kept))),)), IKE_KE, NONCE


def changed(**parts: Callable[[Any], Any]) -> Callable[[Pair], tuple[Payload, ...]]:
    def make(pair: Pair) -> tuple[Payload, ...]:
        sa, exchange, nonce = good(pair)
        answer = (parts.get("sa", same)(sa), parts.get("ke", same)(exchange), parts.get("nonce", same)(nonce))
        return tuple(payload for payload in answer if payload is not None)

    return make


def same(value: Any) -> Any:
    return value


def transforms(sa: SecurityAssociation, *extra: Transform, drop: int = 0, number: int = 1, protocol: int = 1) -> Any:
    kept = tuple(transform for transform in sa.proposals[0].transforms if transform.type != drop)
    return SecurityAssociation((Proposal(number, protocol, b"", kept + extra),))


FORGED: dict[str, Callable[[Pair], tuple[Payload, ...]]] = {
    "nothing in it": lambda _: (),
    "only a status": status_only,
    "no SA": changed(sa=lambda _: None),
    "no KE": changed(ke=lambda _: None),
    "no nonce": changed(nonce=lambda _: None),
    "two proposals": changed(sa=lambda sa: SecurityAssociation(sa.proposals * 2)),
    "two SAs": lambda pair: (good(pair)[0], *good(pair)),
    "two nonces": lambda pair: (NONCE, *good(pair)),
    "a short nonce": changed(nonce=lambda _: Nonce(bytes(15))),
    "a long nonce": changed(nonce=lambda _: Nonce(bytes(257))),
    "a cipher we did not offer": changed(sa=lambda sa: transforms(sa, Transform.make(1, 12, 128), drop=1)),  # type: ignore[arg-type]
    "two ciphers": changed(sa=lambda sa: transforms(sa, Transform.make(1, 20, 128))),  # type: ignore[arg-type]
    "no cipher": changed(sa=lambda sa: transforms(sa, drop=1)),
    "no PRF": changed(sa=lambda sa: transforms(sa, drop=2)),
    "no group": changed(sa=lambda sa: transforms(sa, drop=4)),
    "a transform type nobody knows": changed(sa=lambda sa: transforms(sa, Transform(99, 1))),
    "proposals of ESP": changed(sa=lambda sa: transforms(sa, protocol=3)),
    "a group other than the KE's": changed(sa=lambda sa: transforms(sa, Transform(4, X25519), drop=4)),
    "a KE of another group": changed(ke=lambda _: KeyExchange(X25519, bytes(32))),
    "a KE too short": changed(ke=lambda ke: KeyExchange(ke.method, ke.data[:-1])),
    "a KE too long": changed(ke=lambda ke: KeyExchange(ke.method, ke.data + b"\1")),
    "an empty KE": changed(ke=lambda ke: KeyExchange(ke.method, b"")),
    "a value outside the group": changed(ke=lambda ke: KeyExchange(ke.method, b"\xff" * len(ke.data))),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_a_forged_answer_does_not_end_the_attempt(forged: Callable[[Pair], tuple[Payload, ...]]) -> None:
    """RFC 7296 2.21.1: the true answer comes later, and is taken."""
    pair, _ = connecting()
    say(pair, *forged(pair), responder_spi=0x77)
    assert [sa.state.name for sa in pair.left.sas] == ["CONNECTING"]
    assert pair.left.sas[0].keys is None
    assert len(pair.in_flight) == 1
    pair.settle()
    pair.assert_agreed()


def test_an_answer_with_a_zero_spi_is_ignored() -> None:
    pair, _ = connecting()
    say(pair, *good(pair), responder_spi=0)
    assert pair.left.sas[0].keys is None
    pair.settle()
    pair.assert_agreed()


def test_a_peer_whose_public_value_stays_outside_the_group_is_given_up_by_name() -> None:
    pair, _ = connecting()
    for _ in range(10):
        if pair.left.sas:
            say(pair, *FORGED["a value outside the group"](pair), responder_spi=0x77)
    assert [event.reason for event in pair.left.seen(IkeDown)] == ["BAD_KEY_EXCHANGE"]
    assert pair.left.rejected == {"bad_key_exchange": 4}


@pytest.mark.parametrize("message_id", [1, 2, 2**32 - 1])
def test_an_answer_to_another_message_id(message_id: int) -> None:
    pair, _ = connecting()
    say(pair, *good(pair), responder_spi=0x77, message_id=message_id)
    assert pair.left.rejected == {"unexpected_response": 1}


def test_a_critical_payload_nobody_knows_in_an_answer_is_not_the_end() -> None:
    pair, _ = connecting()
    sa = pair.left.sas[0]
    octets = critical(Header(sa.initiator_spi, 0x77, INIT, Flags.RESPONSE, 0))
    pair.receive(pair.left, octets, Endpoint(RIGHT, 500), Endpoint(LEFT, 500))
    assert pair.left.rejected == {"critical_payload": 1}
    assert len(pair.in_flight) == 1  # and it is not answered
    pair.settle()
    pair.assert_agreed()


# --- the responder ------------------------------------------------------------------------------------------------------


def critical(header: Header, kind: int = 200) -> bytes:
    """A message whose only payload is critical and unknown."""
    first, body = emit_chain((Unknown(bytes(60), kind),))
    return emit_header(header, first, 28 + len(body)) + body[:1] + b"\x80" + body[2:]


REFUSED: dict[str, tuple[tuple[Payload, ...], NotifyType, bytes]] = {
    "another group": ((ike_offer(b""), KeyExchange(19, bytes(64)), NONCE), NotifyType.INVALID_KE_PAYLOAD, b"\0\x14"),
    "a group we never heard of": (
        (ike_offer(b""), KeyExchange(1025, bytes(64)), NONCE),
        NotifyType.INVALID_KE_PAYLOAD,
        b"\0\x14",
    ),
    "no suite of ours": (
        (
            proposal.payload((make_offer(Protocol.IKE, [("aes-cbc", 128)], ["sha1"], ["sha1"], ["ecp384"]),), b""),
            IKE_KE,
            NONCE,
        ),
        NotifyType.NO_PROPOSAL_CHOSEN,
        b"",
    ),
    "a short KE": ((ike_offer(b""), KeyExchange(20, bytes(95)), NONCE), NotifyType.INVALID_SYNTAX, b""),
    "a short nonce": ((ike_offer(b""), IKE_KE, Nonce(bytes(15))), NotifyType.INVALID_SYNTAX, b""),
    "no nonce": ((ike_offer(b""), IKE_KE), NotifyType.INVALID_SYNTAX, b""),
    "no SA": ((IKE_KE, NONCE), NotifyType.INVALID_SYNTAX, b""),
    "two KEs": ((ike_offer(b""), IKE_KE, IKE_KE, NONCE), NotifyType.INVALID_SYNTAX, b""),
}


@pytest.mark.parametrize(("payloads", "notify", "data"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_request_is_answered_and_leaves_nothing(
    payloads: tuple[Payload, ...], notify: NotifyType, data: bytes
) -> None:
    """RFC 7296 1.2, 2.7: no state; the corrected request of the same SPI is served."""
    pair = Pair()
    (answer,) = ask(pair, *payloads)
    assert answer.payloads == (Notify(notify, data),)
    head = answer.header
    assert (head.exchange, head.initiator_spi, head.message_id) == (INIT, 0xABC, 0)
    assert head.responder_spi == 0
    assert (head.is_response, head.from_original_initiator) == (True, False)
    assert (pair.right.sas, pair.right.core.half_open, pair.right.core.next_deadline()) == ([], 0, None)
    (served,) = ask(pair, *GOOD_REQUEST)
    assert served.first(SecurityAssociation) is not None
    assert pair.right.core.half_open == 1


def test_a_public_value_outside_the_group_leaves_nothing() -> None:
    pair = Pair()
    assert ask(pair, ike_offer(b""), KeyExchange(20, b"\xff" * 96), NONCE) == []
    assert (pair.right.sas, pair.right.core.half_open, pair.right.core.next_deadline()) == ([], 0, None)
    assert pair.right.rejected == {"bad_key_exchange": 1}


def test_a_repeated_request_gets_the_same_octets_and_no_other_state() -> None:
    """RFC 7296 2.1."""
    pair = Pair()
    (first,) = ask(pair, *GOOD_REQUEST)
    for _ in range(3):
        (again,) = ask(pair, *GOOD_REQUEST)
        assert again.octets == first.octets
    assert len(pair.right.sas) == 1


def test_another_request_under_the_same_spi_gets_nothing() -> None:
    """Neither a long answer to a short stranger's message, nor an answer to what was not asked."""
    pair = Pair()
    ask(pair, *GOOD_REQUEST)
    for other in ((), (NONCE,), (ike_offer(b""), IKE_KE, Nonce(b"other" * 8)), (cookie(b"x"), *GOOD_REQUEST)):
        assert ask(pair, *other) == []
    assert pair.right.rejected == {"message_id": 4}
    assert len(pair.right.sas) == 1


def test_the_same_spi_from_another_port_is_another_initiator() -> None:
    pair = Pair()
    answers = [ask(pair, *GOOD_REQUEST, remote=Endpoint(LEFT, port))[0] for port in (500, 4500, 12345)]
    assert len({answer.header.responder_spi for answer in answers}) == 3


@pytest.mark.parametrize("responder_spi", [1, 2**64 - 1])
def test_a_first_request_that_names_a_responder_spi(responder_spi: int) -> None:
    """RFC 7296 3.1: it must be zero."""
    pair = Pair()
    assert ask(pair, *GOOD_REQUEST, responder_spi=responder_spi) == []
    assert (pair.right.sas, pair.right.rejected) == ([], {"unknown_spi": 1})


def test_a_stranger_s_address_is_not_answered() -> None:
    pair = Pair()
    assert ask(pair, *GOOD_REQUEST, remote=Endpoint("192.0.2.77", 500)) == []
    assert pair.right.rejected == {"unknown_peer": 1}


# --- versions, critical payloads, reserved bits -------------------------------------------------------------------------


def request_octets(**header: int) -> bytes:
    return emit_message(Header(0xABC, header.get("responder_spi", 0), INIT, Flags.INITIATOR, 0), GOOD_REQUEST)


@pytest.mark.parametrize("major", [3, 4, 15])
def test_a_higher_major_version_is_answered_in_clear(major: int) -> None:
    """RFC 7296 2.5."""
    pair = Pair()
    octets = request_octets()
    (answer,) = ask_octets(pair, octets[:17] + bytes([major << 4]) + octets[18:])
    assert [notify.type for notify in answer.notifies()] == [NotifyType.INVALID_MAJOR_VERSION]
    assert len(answer.octets) <= len(octets)
    assert pair.right.sas == []
    assert pair.right.rejected == {"major_version": 1}
    # Not a response, and nothing so short that the answer would be longer
    for silent in (
        octets[:17] + b"\x30" + octets[18:19] + b"\x20" + octets[20:],
        octets[:17] + b"\x30" + octets[18:28],
    ):
        assert ask_octets(pair, silent) == []


@pytest.mark.parametrize("minor", range(1, 16))
def test_a_higher_minor_version_is_served(minor: int) -> None:
    pair = Pair()
    octets = request_octets()
    (answer,) = ask_octets(pair, octets[:17] + bytes([0x20 | minor]) + octets[18:])
    assert answer.first(SecurityAssociation) is not None
    assert answer.octets[17] == 0x20


@pytest.mark.parametrize("bits", [0x01, 0x02, 0x04, 0x40, 0x80, 0xC7, 0x10])
def test_reserved_and_version_flags_of_the_header_are_ignored(bits: int) -> None:
    pair = Pair()
    octets = request_octets()
    (answer,) = ask_octets(pair, octets[:19] + bytes([octets[19] | bits]) + octets[20:])
    assert answer.first(SecurityAssociation) is not None
    assert answer.octets[19] == Flags.RESPONSE


@pytest.mark.parametrize("kind", [1, 32, 49, 200, 255])
def test_unknown_payloads_in_a_first_request(kind: int) -> None:
    """RFC 7296 2.5, as the IPv6 Ready list has it: ignored, or named when critical."""
    pair = Pair()
    (refused,) = ask_octets(pair, critical(Header(0xABC, 0, INIT, Flags.INITIATOR, 0), kind))
    assert refused.payloads == (Notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes([kind])),)
    assert pair.right.sas == []
    (served,) = ask(pair, Unknown(b"anything", kind), *GOOD_REQUEST)
    assert served.first(SecurityAssociation) is not None


def test_unknown_notifies_and_vendor_ids_in_a_first_request_are_ignored() -> None:
    pair = Pair()
    noise = tuple(Notify(kind, b"noise") for kind in (16383 + 1, 30000, 40960, 65535) if NotifyType(kind).name)
    (served,) = ask(pair, *GOOD_REQUEST, *noise)
    assert served.first(SecurityAssociation) is not None


def test_the_first_request_of_either_side_survives_the_noise_strongswan_makes() -> None:
    """All its status notifies at once, and a request from port 4500."""
    pair = Pair()
    known = tuple(Notify(kind, b"") for kind in NotifyType if not kind.is_error)
    (served,) = ask(pair, *GOOD_REQUEST, *known, remote=Endpoint(LEFT, 4500))
    assert served.first(SecurityAssociation) is not None


def test_offers_are_the_ones_of_the_configuration() -> None:
    pair, _ = connecting()
    assert last_request(pair).first(SecurityAssociation) == proposal.payload(IKE_OFFERS, b"")


def test_an_initiator_in_init_is_reached() -> None:
    assert reach("initiator", "INIT").sa.keys is None
