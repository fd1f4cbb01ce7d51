from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ha.message import (
    LONGEST,
    VERSION,
    Advertised,
    Echo,
    Message,
    Refused,
    Rejection,
    Role,
    derive_key,
    open_,
    seal,
)

KEY = derive_key(b"sixteen octets!!", 7)
octets16, u64 = st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1)
messages = st.builds(
    Message,
    cluster=st.integers(0, 2**32 - 1),
    name=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=32),
    boot=octets16,
    sequence=u64,
    sent_us=u64,
    challenge=octets16,
    echo=st.builds(Echo, octets16, u64, u64, st.integers(0, 2**32 - 1), octets16),
    advertised=st.builds(
        Advertised, st.sampled_from(Role), st.integers(0, 65535), u64, st.binary(min_size=32, max_size=32)
    ),
)
SAMPLE = Message(7, "gw-a", bytes(range(16)), 1, 2)


def refused(data: bytes, key: bytes = KEY) -> Rejection:
    with pytest.raises(Refused) as caught:
        open_(data, key)
    return caught.value.why


@given(messages)
def test_what_is_sealed_opens_to_the_same(message: Message):
    data = seal(message, KEY)
    assert open_(data, KEY) == message
    assert len(data) == 169 + len(message.name) <= LONGEST


@given(st.integers(0, 172 * 8 - 1))
def test_no_bit_can_be_changed(bit: int):
    data = bytearray(seal(SAMPLE, KEY))
    data[bit // 8] ^= 1 << bit % 8
    expected = Rejection.MALFORMED if bit < 32 else Rejection.BAD_VERSION if bit < 40 else Rejection.BAD_MAC
    assert refused(bytes(data)) is expected


@given(st.binary(max_size=400))
def test_noise_is_refused_and_never_raises_anything_else(noise: bytes):
    refused(noise)
    refused(b"GWHB" + bytes([VERSION]) + noise)


def test_other_secrets_and_other_clusters_do_not_verify():
    assert refused(seal(SAMPLE, KEY), derive_key(b"sixteen octets!?", 7)) is Rejection.BAD_MAC
    assert refused(seal(SAMPLE, KEY), derive_key(b"sixteen octets!!", 8)) is Rejection.BAD_MAC


def test_an_authentic_datagram_with_an_impossible_body_is_malformed():
    for data in (seal(SAMPLE, KEY)[:-16] + b"extra", seal(SAMPLE, KEY)[:100]):
        assert refused(_authenticated(data)) is Rejection.MALFORMED
    control = seal(Message(7, "a\x1b[2J", bytes(16), 1, 2), KEY)
    assert refused(control) is Rejection.MALFORMED


def test_a_short_secret_is_refused_before_it_is_used():
    with pytest.raises(ValueError, match="at least 16 octets"):
        derive_key(b"short", 0)


def _authenticated(body: bytes) -> bytes:
    import hmac

    return body + hmac.digest(KEY, body, "sha256")[:16]
