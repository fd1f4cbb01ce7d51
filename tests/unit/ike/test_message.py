"""Payload codecs and whole messages: the round-trip law, and octets that lie (RFC 7296 2.5, 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.work import calls_while

from gateway.ike.errors import PeerError, Violation
from gateway.ike.layout import emit, parse
from gateway.ike.message import (
    HEADER_OCTETS,
    INIT_REQUEST_MAX,
    PAYLOADS_MAX,
    Header,
    Message,
    emit_chain,
    emit_message,
    find_payload,
    parse_chain,
    parse_message,
)
from gateway.ike.payloads import (
    KNOWN_TYPES,
    PAYLOADS,
    PROPOSALS_MAX,
    Authentication,
    Delete,
    Encrypted,
    IdentificationInitiator,
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
from gateway.ike.registry import ExchangeType, Flags, NotifyType, PayloadType, Protocol, TransformType
from gateway.wire import Reader, Truncated, Writer

# --- the law: parse(emit(x)) == x -----------------------------------------------------------------------------------

u8, u16 = st.integers(0, 255), st.integers(0, 65535)
short = st.binary(max_size=40)
transforms = st.builds(Transform, u8, u16, short)
proposals = st.builds(Proposal, u8, u8, st.binary(max_size=8), st.lists(transforms, max_size=4).map(tuple))
selectors = st.builds(TrafficSelector, u8, u8, u16, u16, st.binary(max_size=33))
selector_lists = st.lists(selectors, max_size=4).map(tuple)
spis = st.integers(1, 9).flatmap(lambda size: st.lists(st.binary(min_size=size, max_size=size), max_size=5).map(tuple))

BY_TYPE: dict[int, st.SearchStrategy[Any]] = {
    PayloadType.SA: st.builds(SecurityAssociation, st.lists(proposals, max_size=4).map(tuple)),
    PayloadType.KE: st.builds(KeyExchange, u16, st.binary(max_size=300)),
    PayloadType.IDI: st.builds(PAYLOADS[PayloadType.IDI], u8, short),
    PayloadType.IDR: st.builds(PAYLOADS[PayloadType.IDR], u8, short),
    PayloadType.CERT: st.builds(PAYLOADS[PayloadType.CERT], u8, short),
    PayloadType.CERTREQ: st.builds(PAYLOADS[PayloadType.CERTREQ], u8, short),
    PayloadType.AUTH: st.builds(Authentication, u8, short),
    PayloadType.NONCE: st.builds(Nonce, st.binary(max_size=300)),
    PayloadType.NOTIFY: st.builds(Notify, u16, short, u8, st.binary(max_size=9)),
    PayloadType.DELETE: st.builds(Delete, u8, spis),
    PayloadType.VENDOR_ID: st.builds(VendorId, short),
    PayloadType.TSI: st.builds(PAYLOADS[PayloadType.TSI], selector_lists),
    PayloadType.TSR: st.builds(PAYLOADS[PayloadType.TSR], selector_lists),
}
unknown_types = st.integers(1, 255).filter(lambda number: number not in PAYLOADS)
UNKNOWN = st.builds(Unknown, short, unknown_types)
chains = st.lists(st.one_of(*BY_TYPE.values(), UNKNOWN), max_size=8).map(tuple)
# RFC 7296 3.1: an exchange type is 35..37 or anything; the initiator SPI is never zero
headers = st.builds(
    Header,
    st.integers(1, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    u8.map(ExchangeType),
    st.sampled_from([Flags(bits) for bits in (0, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38)]),
    st.integers(0, 2**32 - 1),
)


def encoded(value: Any) -> bytes:
    writer = Writer()
    emit(value, writer)
    return writer.done()


def test_every_registered_payload_is_under_the_law() -> None:
    assert set(BY_TYPE) | {PayloadType.SK, PayloadType.SKF} == set(PAYLOADS)


@pytest.mark.parametrize("number", sorted(BY_TYPE), ids=lambda number: PayloadType(number).name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_parsing_what_was_emitted_gives_the_same_value(number: int, data: st.DataObject) -> None:
    value = data.draw(BY_TYPE[number])
    reader = Reader(encoded(value))
    parsed = parse(PAYLOADS[number], reader)
    reader.expect_end()
    assert parsed == value
    assert type(parsed) is type(value) is PAYLOADS[number]


@settings(max_examples=150, deadline=None)
@given(header=headers, payloads=chains)
def test_whole_messages_round_trip(header: Header, payloads: tuple[Any, ...]) -> None:
    octets = emit_message(header, payloads)
    assert parse_message(octets) == Message(header, payloads, octets)
    assert parse_message(octets).header.is_response == bool(header.flags & Flags.RESPONSE)


def test_an_empty_message_is_only_a_header() -> None:
    header = Header(1, 2, ExchangeType.INFORMATIONAL, Flags.RESPONSE, 3)
    octets = emit_message(header, ())
    assert (len(octets), octets[16]) == (HEADER_OCTETS, 0)
    assert parse_message(octets).payloads == ()


# --- any octets -----------------------------------------------------------------------------------------------------

SAMPLE_SA = SecurityAssociation(
    (
        Proposal(
            1,
            Protocol.IKE,
            bytes(8),
            (Transform.make(TransformType.ENCRYPTION, 20, 256), Transform.make(TransformType.PRF, 5)),
        ),
        Proposal(
            2,
            Protocol.ESP,
            b"\1\2\3\4",
            (Transform.make(TransformType.ENCRYPTION, 12, 128), Transform(200, 65000, b"\0\1\0\0")),
        ),
    )
)
SAMPLES: tuple[Any, ...] = (
    SAMPLE_SA,
    KeyExchange(19, b"k" * 64),
    IdentificationInitiator(2, b"gateway.example"),
    Authentication(2, b"a" * 32),
    Nonce(b"n" * 32),
    Notify(NotifyType.REKEY_SA, b"data", 3, b"\1\2\3\4"),
    Delete(Protocol.ESP, (b"\1\2\3\4", b"\5\6\7\x08")),
    VendorId(b"vendor"),
    TrafficSelectorsInitiator(
        (TrafficSelector(7, 0, 0, 65535, bytes(4) + b"\xff" * 4), TrafficSelector(8, 6, 1, 2, bytes(32)))
    ),
    TrafficSelectorsResponder((TrafficSelector(9, 1, 2, 3, b""),)),
    Unknown(b"later", 99),
)
HEADER = Header(0x1122334455667788, 0x99AABBCCDDEEFF00, ExchangeType.IKE_AUTH, Flags.INITIATOR, 1)
INIT = Header(0x1122334455667788, 0, ExchangeType.IKE_SA_INIT, Flags.INITIATOR, 0)
SAMPLE = emit_message(HEADER, SAMPLES)


def outcome(data: bytes) -> Message | PeerError:
    """What parse_message made of it; any other exception is the test's failure."""
    try:
        return parse_message(data)
    except PeerError as error:
        return error


@settings(max_examples=400, deadline=None)
@given(data=st.binary(max_size=400))
@example(b"")
@example(bytes(28))
@example(b"\xff" * 4000)
def test_any_octets_are_a_message_or_a_peer_error(data: bytes) -> None:
    outcome(data)


@settings(max_examples=400, deadline=None)
@given(first=st.sampled_from(sorted(PAYLOADS)), body=st.binary(max_size=200))
def test_any_body_behind_a_good_header_is_a_message_or_a_peer_error(first: int, body: bytes) -> None:
    octets = emit_message(HEADER, ())
    outcome(octets[:16] + bytes([first]) + octets[17:24] + (28 + len(body)).to_bytes(4, "big") + body)


def test_any_single_octet_of_a_rich_message_may_take_any_value() -> None:
    for offset in range(len(SAMPLE)):
        for value in (0x00, 0x01, 0x03, 0x7F, 0x80, 0xFF, SAMPLE[offset] ^ 0x01, (SAMPLE[offset] + 1) & 0xFF):
            outcome(SAMPLE[:offset] + bytes([value]) + SAMPLE[offset + 1 :])


def test_truncated_at_every_octet_even_with_the_header_s_length_corrected() -> None:
    for length in range(len(SAMPLE)):
        assert isinstance(outcome(SAMPLE[:length]), PeerError)
        if length >= HEADER_OCTETS:
            shortened = SAMPLE[:24] + length.to_bytes(4, "big") + SAMPLE[28:length]
            refused = outcome(shortened)
            assert isinstance(refused, PeerError)
            assert refused.why is Violation.MALFORMED


def test_octets_after_the_end_are_refused() -> None:
    refused = outcome(SAMPLE + b"\0")
    assert isinstance(refused, PeerError)
    refused = outcome(SAMPLE[:24] + (len(SAMPLE) + 1).to_bytes(4, "big") + SAMPLE[28:] + b"\0")
    assert isinstance(refused, PeerError)
    assert "after the end" in refused.detail


def test_the_worst_datagrams_are_judged_with_little_work() -> None:
    """No input of 65,535 octets may cost more than in proportion."""
    chain = (bytes([PayloadType.VENDOR_ID, 0, 0, 4]) * 20000)[: 65535 - HEADER_OCTETS]
    transforms = b"\3\0\0\x08\1\0\0\0" * 8000
    proposal = b"\0\0" + (len(transforms) + 8).to_bytes(2, "big") + b"\1\1\0\xff" + transforms
    security = b"\0\0" + (len(proposal) + 4).to_bytes(2, "big") + proposal
    deletes = b"\0\0\xff\x00\3\1\xfe\xf8" + bytes(0xFEF8)
    selectors = b"\0\0" + (16 * 4000 + 8).to_bytes(2, "big") + b"\xff\0\0\0" + (b"\7\0\0\x10" + bytes(12)) * 4000
    for first, body in ((43, chain), (33, security), (42, deletes), (44, selectors)):
        octets = emit_message(HEADER, ())
        data = octets[:16] + bytes([first]) + octets[17:24] + (28 + len(body)).to_bytes(4, "big") + body
        assert calls_while(lambda data=data: outcome(data)) < 8 * len(data)  # type: ignore[misc]


def test_more_octets_than_anybody_needs_are_refused() -> None:
    """Of what is far cheaper to send than to take apart; all payloads of a kind together, so that many small ones do not do."""
    selector = TrafficSelector(8, 0, 0, 65535, bytes(16) + b"\xff" * 16)
    fits = TrafficSelectorsInitiator((selector,) * 255)
    offer = SecurityAssociation((Proposal(1, Protocol.ESP, b"spis", (Transform(1, 20),) * 200),))
    assert isinstance(outcome(emit_message(HEADER, (fits, offer))), Message)
    for payload, count in ((fits, 2), (Delete(3, (b"spis",) * 1000), 3), (offer, 3)):
        refused = outcome(emit_message(HEADER, (payload,) * count))
        assert isinstance(refused, PeerError)
        assert "octets of" in refused.detail


def test_more_payloads_than_the_limit_are_refused() -> None:
    many = tuple(VendorId(b"") for _ in range(PAYLOADS_MAX))
    assert len(parse_message(emit_message(HEADER, many)).payloads) == PAYLOADS_MAX
    refused = outcome(emit_message(HEADER, (*many, VendorId(b""))))
    assert isinstance(refused, PeerError)
    assert refused.detail == "too many payloads"


def test_more_proposals_than_the_limit_are_refused() -> None:
    one = Proposal(1, Protocol.IKE, b"", (Transform(1, 20),))
    assert isinstance(outcome(emit_message(INIT, (SecurityAssociation((one,) * PROPOSALS_MAX),))), Message)
    refused = outcome(emit_message(INIT, (SecurityAssociation((one,) * (PROPOSALS_MAX + 1)),)))
    assert isinstance(refused, PeerError)
    assert refused.why is Violation.MALFORMED
    assert f"more than {PROPOSALS_MAX} entries" in refused.detail


def test_a_first_request_larger_than_any_is_refused_unread() -> None:
    """It would be kept, for AUTH, for whoever sends one. Answers, and what is sealed, may be larger: they have CERTREQ and CERT."""
    room = INIT_REQUEST_MAX - HEADER_OCTETS - 4
    assert isinstance(outcome(emit_message(INIT, (VendorId(bytes(room)),))), Message)
    larger = (VendorId(bytes(room + 1)),)
    octets = emit_message(INIT, larger)
    refused = outcome(octets)
    assert isinstance(refused, PeerError)
    assert (refused.why, refused.notify) == (Violation.MALFORMED, None)
    assert calls_while(lambda: outcome(octets)) < 30
    assert isinstance(outcome(emit_message(replace(INIT, flags=Flags.RESPONSE), larger)), Message)
    assert isinstance(outcome(emit_message(HEADER, larger)), Message)


def test_a_payload_is_looked_for_among_as_many_as_a_message_may_have() -> None:
    """With CVE-2026-35328's kin: 16,000 empty payloads in front of it took 8 ms."""
    nonce = Nonce(bytes(32))
    for before, found in ((PAYLOADS_MAX - 1, nonce.data), (PAYLOADS_MAX, None), (16000, None)):
        octets = emit_message(INIT, (*(VendorId(b""),) * before, nonce))
        assert find_payload(octets, PayloadType.VENDOR_ID, PayloadType.NONCE) == found
    assert calls_while(lambda: find_payload(octets, PayloadType.VENDOR_ID, PayloadType.NONCE)) < 20 * PAYLOADS_MAX


# --- lengths and counts that lie ------------------------------------------------------------------------------------


def chain_of(number: int, body: bytes, length: int | None = None) -> tuple[Any, ...]:
    size = len(body) + 4 if length is None else length
    return parse_chain(b"\0\0" + size.to_bytes(2, "big") + body, number)


@pytest.mark.parametrize("number", [*sorted(PAYLOADS), 99])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 255, 65535])
def test_a_payload_length_below_its_header_or_beyond_the_message(number: int, length: int) -> None:
    with pytest.raises(PeerError, match="malformed"):
        chain_of(number, b"", length)


def test_a_notify_whose_spi_is_longer_than_the_payload() -> None:
    assert chain_of(41, b"\3\4\x40\x09\1\2\3\4")[0] == Notify(16393, b"", 3, b"\1\2\3\4")
    for size in (5, 8, 255):
        with pytest.raises(PeerError, match="malformed"):
            chain_of(41, bytes([3, size]) + b"\x40\x09\1\2\3\4")


@pytest.mark.parametrize(
    "body",
    [
        b"\3\0\0\1",  # one SPI of no octets
        b"\3\0\xff\xff",  # 65,535 SPIs of no octets
        b"\3\4\xff\xff\1\2\3\4",
        b"\3\4\0\2\1\2\3\4",  # two announced, one there
        b"\3\4\0\0\1\2\3\4",  # none announced, one there
        b"\3\xff\0\1\1\2\3\4",
        b"\3\4\0",
    ],
)
def test_delete_counts_and_sizes_that_lie(body: bytes) -> None:
    with pytest.raises(PeerError, match="malformed"):
        chain_of(42, body)


def test_a_delete_without_spis_has_any_spi_size() -> None:
    """RFC 7296 3.11: for the IKE_SA both are zero; the size is not looked at without SPIs."""
    assert chain_of(42, b"\1\0\0\0") == chain_of(42, b"\1\x08\0\0") == (Delete(1),)


TS = b"\7\0\0\x10\0\0\xff\xff" + bytes(4) + b"\xff" * 4


@pytest.mark.parametrize("length", [*range(16), 17, 255, 65535])
def test_traffic_selector_lengths_that_lie(length: int) -> None:
    """libreswan CVE-2023-23009, VPP: TS entry lengths. 8..15 end in the middle of what follows."""
    with pytest.raises(PeerError, match="malformed"):
        chain_of(44, b"\1\0\0\0" + TS[:2] + length.to_bytes(2, "big") + TS[4:])


@pytest.mark.parametrize("count", [0, 1, 3, 255])
def test_a_number_of_traffic_selectors_that_lies(count: int) -> None:
    assert len(chain_of(44, b"\2\0\0\0" + TS + TS)[0].selectors) == 2
    with pytest.raises(PeerError, match="announced"):
        chain_of(44, bytes([count]) + b"\0\0\0" + TS + TS)


def security_association(
    proposal_last: int = 0,
    transform_last: int = 0,
    count: int = 2,
    proposal_length: int = 24,
    lengths: tuple[int, int] = (8, 8),
) -> bytes:
    first = b"\3\0" + lengths[0].to_bytes(2, "big") + b"\1\0\0\x0c"
    second = bytes([transform_last]) + b"\0" + lengths[1].to_bytes(2, "big") + b"\2\0\0\5"
    return bytes([proposal_last, 0]) + proposal_length.to_bytes(2, "big") + bytes([1, 1, 0, count]) + first + second


def test_a_security_association_as_the_rfc_draws_it() -> None:
    parsed = chain_of(33, security_association())[0]
    assert parsed == SecurityAssociation((Proposal(1, 1, b"", (Transform(1, 12), Transform(2, 5))),))


@pytest.mark.parametrize(
    "lie",
    [
        {"proposal_last": 2},  # another one follows, but nothing does
        {"transform_last": 3},
        {"count": 0},
        {"count": 1},
        {"count": 3},
        {"count": 255},
        *({"proposal_length": length} for length in (0, 1, 3, 4, 7, 8, 16, 23, 25, 255, 65535)),
        *({"lengths": (length, 8)} for length in (0, 1, 4, 7, 9, 16, 255, 65535)),
        *({"lengths": (8, length)} for length in (0, 1, 4, 7, 9, 255, 65535)),
    ],
    ids=str,
)
def test_proposal_and_transform_fields_that_lie(lie: dict[str, Any]) -> None:
    with pytest.raises(PeerError, match="malformed"):
        chain_of(33, security_association(**lie))


def test_a_last_substructure_in_the_middle_is_refused() -> None:
    one = security_association()
    with pytest.raises(PeerError, match="last substructure"):
        chain_of(33, one + one)
    assert len(chain_of(33, b"\2" + one[1:] + one)[0].proposals) == 2


def test_an_spi_size_beyond_the_proposal() -> None:
    octets = bytearray(security_association())
    octets[6] = 255
    with pytest.raises(PeerError, match="malformed"):
        chain_of(33, bytes(octets))


# --- RFC 7296 2.5: versions, unknown payloads, reserved fields ------------------------------------------------------


@pytest.mark.parametrize("number", [1, 32, 49, 255])
def test_unknown_payloads_are_skipped_unless_critical(number: int) -> None:
    """The IPv6 Ready list's payload types, the first and the last that nobody assigned."""
    chain = bytes([number, 0, 0, 20]) + b"n" * 16 + b"\0\0\0\x07abc"
    assert parse_chain(chain, PayloadType.NONCE) == (Nonce(b"n" * 16), Unknown(b"abc", number))
    critical = bytes([number, 0, 0, 20]) + b"n" * 16 + b"\0\x80\0\x07abc"
    with pytest.raises(PeerError) as refused:
        parse_chain(critical, PayloadType.NONCE)
    assert refused.value.why is Violation.CRITICAL_PAYLOAD
    assert refused.value.notify is NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD
    # RFC 7296 2.5: the notification data is the one-octet payload type
    assert refused.value.data == bytes([number])


@pytest.mark.parametrize("number", sorted(KNOWN_TYPES))
def test_the_critical_bit_of_known_payloads_is_ignored(number: int) -> None:
    bodies = {33: security_association(), 34: b"\0\x13\0\0", 44: b"\1\0\0\0" + TS, 45: b"\1\0\0\0" + TS}
    body = bodies.get(number, b"\1\0\0\0")
    octets = b"\0\x80" + (len(body) + 4).to_bytes(2, "big") + body
    assert len(parse_chain(octets, number)) == 1


def test_every_payload_type_once_plain_and_critical() -> None:
    for number in range(256):
        for flags in (b"\0", b"\x80"):
            result = outcome(
                emit_message(HEADER, ())[:16]
                + bytes([number])
                + SAMPLE[17:24]
                + (32).to_bytes(4, "big")
                + b"\0"
                + flags
                + b"\0\4"
            )
            if number and number not in KNOWN_TYPES:
                assert isinstance(result, PeerError) == (flags == b"\x80")


@pytest.mark.parametrize("minor", range(16))
def test_a_higher_minor_version_is_accepted(minor: int) -> None:
    assert isinstance(outcome(SAMPLE[:17] + bytes([0x20 | minor]) + SAMPLE[18:]), Message)


@pytest.mark.parametrize("major", [0, 1, 3, 15])
def test_another_major_version_is_named(major: int) -> None:
    refused = outcome(SAMPLE[:17] + bytes([major << 4]) + SAMPLE[18:])
    assert isinstance(refused, PeerError)
    assert (refused.why, refused.notify) == (Violation.MAJOR_VERSION, NotifyType.INVALID_MAJOR_VERSION)


def test_reserved_fields_are_ignored() -> None:
    """RFC 7296 2.5: sent as zero, ignored on receipt. Every reserved octet and bit of the sample is set here."""
    reserved = [offset for offset in range(len(SAMPLE)) if _is_reserved(offset)]
    assert len(reserved) >= 30
    noisy = bytearray(SAMPLE)
    for offset in reserved:
        noisy[offset] |= 0x7F if offset in PAYLOAD_FLAGS else 0xFF
    # RFC 7296 3.1: X(reserved) bits of the header's flags
    noisy[19] |= 0xC7
    assert parse_message(bytes(noisy)).payloads == SAMPLES
    assert parse_message(bytes(noisy)).header == HEADER


def _payload_starts() -> list[tuple[int, Any]]:
    starts, offset = [], HEADER_OCTETS
    for payload in SAMPLES:
        starts.append((offset, payload))
        offset += int.from_bytes(SAMPLE[offset + 2 : offset + 4], "big")
    return starts


PAYLOAD_FLAGS = {offset + 1 for offset, _ in _payload_starts()}
# Offsets of reserved octets behind the generic header, by class; in substructures found by walking them
FIXED = {KeyExchange: (6, 7), IdentificationInitiator: (5, 6, 7), Authentication: (5, 6, 7)}
FIXED |= {TrafficSelectorsInitiator: (5, 6, 7), TrafficSelectorsResponder: (5, 6, 7)}


def _is_reserved(offset: int) -> bool:
    if offset in PAYLOAD_FLAGS:
        return True
    for start, payload in _payload_starts():
        if offset - start in FIXED.get(type(payload), ()):
            return True
        if isinstance(payload, SecurityAssociation):
            position = start + 4
            for proposal in payload.proposals:
                if offset == position + 1:
                    return True
                position += 8 + len(proposal.spi)
                for transform in proposal.transforms:
                    if offset in (position + 1, position + 5):
                        return True
                    position += 8 + len(transform.attributes)
    return False


def test_a_zero_initiator_spi_is_refused() -> None:
    refused = outcome(bytes(8) + SAMPLE[8:])
    assert isinstance(refused, PeerError)
    assert refused.why is Violation.MALFORMED


# --- SK -------------------------------------------------------------------------------------------------------------


def test_sk_ends_the_chain_and_names_the_first_payload_inside() -> None:
    parsed = parse_chain(bytes([PayloadType.IDI, 0, 0, 9]) + b"seals", PayloadType.SK)
    assert parsed == (Encrypted(b"seals", PayloadType.IDI),)
    message = Message(HEADER, (Nonce(b""), *parsed))
    assert message.encrypted == Encrypted(b"seals", PayloadType.IDI)
    assert Message(HEADER, (*parsed, Nonce(b""))).encrypted is None
    assert Message(HEADER, ()).encrypted is None
    with pytest.raises(PeerError, match="after the end"):
        parse_chain(bytes([PayloadType.NONCE, 0, 0, 9]) + b"seals" + b"\0\0\0\4", PayloadType.SK)


def test_messages_find_their_payloads() -> None:
    message = Message(HEADER, (*SAMPLES, Notify(14, b""), Notify(24, b"")))
    assert message.first(Nonce) == Nonce(b"n" * 32)
    assert message.first(Encrypted) is None
    assert message.error() == Notify(14, b"")
    assert message.notify(NotifyType.REKEY_SA) is SAMPLES[5]
    assert message.notify(NotifyType.COOKIE) is None
    assert len(list(message.notifies())) == 3


def test_emitted_chains_link_every_payload_to_the_next() -> None:
    first, octets = emit_chain((Nonce(b"n"), VendorId(b"v"), Unknown(b"", 200)))
    assert first == PayloadType.NONCE
    assert octets == bytes([43, 0, 0, 5]) + b"n" + bytes([200, 0, 0, 5]) + b"v" + b"\0\0\0\4"
    assert emit_chain(()) == (0, b"")


def test_a_structure_may_not_read_beyond_its_own_length() -> None:
    """The bound of a substructure holds even when more octets follow in the message."""
    with pytest.raises(Truncated):
        parse(Transform, Reader(b"\0\0\0\x07\1\0\0\x0c" + bytes(20)))
    with pytest.raises(Truncated):
        parse(Proposal, Reader(b"\0\0\0\x0a\1\1\4\0" + bytes(20)))


def test_transform_attributes_nobody_understands() -> None:
    assert Transform(1, 12, b"\x80\x0e\1\0").key_bits == 256
    assert Transform(1, 12).key_bits == 0
    for attributes in (b"\x80\x0e\1", b"\0\x0e\0\2\1\0", b"\x80\x0f\1\0", b"\x80\x0e\1\0\x80\x0e\1\0"):
        assert Transform(1, 12, attributes).key_bits == -1
    assert str(Transform.make(TransformType.ENCRYPTION, 20, 256)) == "AES_GCM_16-256"
    assert str(Transform(1, 12, b"odd")) == "AES_CBC"
    assert str(Transform(77, 5)) == "77:5"
    assert str(SAMPLE_SA.proposals[0]) == "IKE:AES_GCM_16-256/HMAC_SHA2_256"


def test_unassigned_numbers_have_names_and_compare_as_numbers() -> None:
    odd = NotifyType(12345)
    assert (odd, odd.name, odd.known, odd.is_error) == (12345, "UNKNOWN_12345", False, True)
    assert NotifyType(16393).known
    assert not NotifyType(40000).is_error
    assert Notify(14).name == "NO_PROPOSAL_CHOSEN"
    with pytest.raises(ValueError):
        NotifyType(-1)
    with pytest.raises(ValueError):
        NotifyType("COOKIE")
