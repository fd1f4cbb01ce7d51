"""The heartbeat's octets: what goes in comes out, no bit can be changed, secrets and versions roll over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ha.message import (
    LONGEST,
    Advertised,
    Echo,
    Handover,
    Level,
    Message,
    Refused,
    Rejection,
    Role,
    Standing,
    keyring,
    open_,
    seal,
)
from gateway.ha.sealed import HEADER_OCTETS, MAJOR, TAG_OCTETS, Keyring

SECRET = b"sixteen octets!!"
KEYS = keyring([SECRET], 7)
octets16, u64, u16 = st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1), st.integers(0, 65535)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=32)
messages = st.builds(
    Message,
    name=texts,
    boot=octets16,
    sequence=u64,
    sent_us=u64,
    challenge=octets16,
    echo=st.builds(Echo, octets16, u64, u64, st.integers(0, 2**32 - 1), octets16),
    advertised=st.builds(
        Advertised,
        role=st.sampled_from(Role),
        priority=u16,
        epoch=u64,
        config_hash=st.binary(min_size=32, max_size=32),
        level=st.sampled_from(Level),
        standing=st.sampled_from(Standing),
        handover=st.sampled_from(Handover),
        ready=st.booleans(),
        health=u16,
        reasons=st.integers(0, 2**32 - 1),
        claim=u64,
        yields=u64,
        software=texts,
    ),
    revision=u64,
    path=st.integers(0, 255),
)
SAMPLE = Message("gw-a", bytes(range(16)), 1, 2)


def refused(data: bytes, keys: Keyring = KEYS) -> Rejection:
    with pytest.raises(Refused) as caught:
        open_(data, keys)
    return caught.value.why


@given(messages)
def test_what_is_sealed_opens_to_the_same(message: Message):
    data = seal(message, KEYS)
    assert open_(data, KEYS) == message
    assert len(data) == 207 + len(message.name) + len(message.advertised.software) <= LONGEST


@given(st.integers(0, 211 * 8 - 1))
def test_no_bit_can_be_changed(bit: int):
    data = bytearray(seal(SAMPLE, KEYS))
    assert len(data) == 211
    data[bit // 8] ^= 1 << bit % 8
    expected = Rejection.MALFORMED if bit < 32 else Rejection.BAD_VERSION if bit < 40 else Rejection.BAD_MAC
    assert refused(bytes(data)) is expected


@given(st.binary(max_size=600))
def test_noise_is_refused_and_never_raises_anything_else(noise: bytes):
    refused(noise)
    refused(b"GWHB" + bytes([MAJOR]) + noise)


@given(st.binary(max_size=200))
def test_whatever_the_holder_of_the_key_seals_is_read_or_refused_by_name(body: bytes):
    data = KEYS.seal(bytes(16), 0, 1, body)
    try:
        read = open_(data, KEYS)
    except Refused as error:
        why = error.why
    else:
        assert read.boot == bytes(16)
        return
    assert why is Rejection.MALFORMED


def test_the_body_is_not_readable_without_the_key():
    assert b"gw-a" not in seal(SAMPLE, KEYS)


def test_other_secrets_and_other_clusters_do_not_verify():
    assert refused(seal(SAMPLE, KEYS), keyring([b"sixteen octets!?"], 7)) is Rejection.BAD_MAC
    assert refused(seal(SAMPLE, KEYS), keyring([SECRET], 8)) is Rejection.BAD_MAC


def test_a_secret_rolls_over_one_gateway_after_the_other():
    old, new = b"the secret of last year", b"the secret of this year"
    before, between, after = keyring([old]), keyring([old, new]), keyring([new, old])
    for sender, receiver, index in ((before, between, 0), (between, after, 1), (after, between, 1), (after, after, 0)):
        data = seal(SAMPLE, sender)
        assert open_(data, receiver) == SAMPLE
        assert receiver.open(data).secret == index
    assert refused(seal(SAMPLE, after), before) is Rejection.BAD_MAC


def test_what_a_later_minor_version_appends_is_not_looked_at():
    body = KEYS.open(seal(SAMPLE, KEYS)).body
    later = KEYS.seal(SAMPLE.boot, 0, 1, body + b"fields of a later version")
    assert open_(later, KEYS) == SAMPLE


def test_a_higher_major_version_is_refused_by_name_before_anything_is_opened():
    for major in (1, MAJOR + 1):
        data = bytearray(seal(SAMPLE, KEYS))
        data[4] = major
        assert refused(bytes(data)) is Rejection.BAD_VERSION


def test_bits_of_a_later_version_are_kept():
    told = Advertised(reasons=0x80000001)
    assert open_(seal(Message("a", bytes(16), 1, 2, advertised=told), KEYS), KEYS).advertised.reasons == 0x80000001


def test_every_boot_and_every_path_has_a_key_of_its_own():
    """Equal nonces under different keys: the same body never gives the same octets."""
    sealed = {
        KEYS.seal(boot, path, 1, bytes(64))[HEADER_OCTETS:] for boot in (bytes(16), b"\1" * 16) for path in (0, 1)
    }
    assert len(sealed) == 4
    assert all(len(one) == 64 + TAG_OCTETS for one in sealed)


def test_what_others_send_pushes_no_key_out():
    keys = keyring([SECRET])
    data = seal(SAMPLE, keys)
    for number in range(100):
        forged = bytearray(data)
        forged[12:28] = number.to_bytes(16, "big")
        assert refused(bytes(forged), keys) is Rejection.BAD_MAC
    assert list(keys._kept) == [(0, SAMPLE.boot, 0)]


def test_an_authentic_datagram_with_an_impossible_body_is_malformed():
    body = KEYS.open(seal(SAMPLE, KEYS)).body
    control = body.replace(b"gw-a", b"g\x1b[a")
    role = body[:84] + b"\x09" + body[85:]
    for one in (body[:-1], b"", control, role):
        assert refused(KEYS.seal(bytes(16), 0, 1, one)) is Rejection.MALFORMED


def test_a_short_secret_is_refused_before_it_is_used():
    with pytest.raises(ValueError, match="at least 16 octets"):
        keyring([SECRET, b"short"])
    with pytest.raises(ValueError, match="at most 4"):
        keyring([SECRET] * 5)


def test_a_name_that_cannot_be_shown_is_not_sent():
    for name in ("a\x1b[2J", "x" * 33, "ä"):
        with pytest.raises(ValueError, match="printable ASCII"):
            seal(Message(name, bytes(16), 1, 2), KEYS)
