"""RFC 5880 4: the Control packet and its authentication section, and the checks that need no session."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bfd.packet import (
    Authentication,
    AuthenticationType,
    ControlPacket,
    Diagnostic,
    Refusal,
    Refused,
    State,
    emit,
    parse,
    verify,
)

# What FRR 8.4.4 sends when its session is Up with 300 ms x 3, as Wireshark writes it
FRR_UP = bytes.fromhex("20c003181f0c5e32a4d38a11000493e0000493e00000c350")
DOWN = ControlPacket(State.DOWN, Diagnostic.NONE, 3, 1, 0, 1_000_000, 300_000)

u32 = st.integers(0, 2**32 - 1)
packets = st.builds(
    ControlPacket,
    state=st.sampled_from(State),
    diagnostic=st.sampled_from(Diagnostic),
    multiplier=st.integers(1, 255),
    my_discriminator=st.integers(1, 2**32 - 1),
    your_discriminator=st.integers(1, 2**32 - 1),
    desired_min_tx=u32,
    required_min_rx=u32,
    required_min_echo_rx=u32,
    poll=st.booleans(),
    final=st.booleans(),
    control_plane_independent=st.booleans(),
    demand=st.booleans(),
    authentication=st.none() | st.builds(Authentication, st.sampled_from(AuthenticationType), st.integers(0, 255), u32),
)


@given(packets)
def test_what_is_emitted_is_parsed(packet: ControlPacket) -> None:
    assert parse(emit(packet, b"secret")) == packet


@given(packets, st.binary(max_size=8))
def test_what_follows_the_packet_in_the_datagram_is_not_looked_at(packet: ControlPacket, rest: bytes) -> None:
    assert parse(emit(packet, b"secret") + rest) == packet


def test_a_packet_of_another_implementation_is_read_field_by_field() -> None:
    packet = parse(FRR_UP)
    assert (packet.state, packet.diagnostic, packet.multiplier) == (State.UP, Diagnostic.NONE, 3)
    assert (packet.my_discriminator, packet.your_discriminator) == (0x1F0C5E32, 0xA4D38A11)
    assert (packet.desired_min_tx, packet.required_min_rx, packet.required_min_echo_rx) == (300_000, 300_000, 50_000)
    assert not (packet.poll or packet.final or packet.demand or packet.authentication)
    assert emit(packet) == FRR_UP


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({0: 0x00}, Refusal.VERSION),
        ({0: 0x40}, Refusal.VERSION),
        ({3: 23}, Refusal.LENGTH),
        ({3: 25}, Refusal.LENGTH),
        ({1: 0xC4}, Refusal.LENGTH),  # authenticated, but only the mandatory section
        ({2: 0}, Refusal.MULTIPLIER),
        ({1: 0xC1}, Refusal.MULTIPOINT),
        ({4: 0, 5: 0, 6: 0, 7: 0}, Refusal.DISCRIMINATOR),
        ({8: 0, 9: 0, 10: 0, 11: 0}, Refusal.DISCRIMINATOR),
    ],
)
def test_rfc_5880_6_8_6_what_must_be_discarded_is(change: dict[int, int], why: Refusal) -> None:
    data = bytearray(FRR_UP)
    for at, value in change.items():
        data[at] = value
    with pytest.raises(Refused) as refused:
        parse(bytes(data))
    assert refused.value.why is why


@pytest.mark.parametrize("state", [State.DOWN, State.ADMIN_DOWN])
def test_without_your_discriminator_a_packet_may_only_say_down(state: State) -> None:
    data = bytearray(emit(DOWN))
    data[1] = state << 6
    assert parse(bytes(data)).state is state
    data[1] = State.INIT << 6
    with pytest.raises(Refused):
        parse(bytes(data))


@given(st.binary(max_size=80))
def test_any_octets_are_parsed_or_refused(data: bytes) -> None:
    try:
        packet = parse(data)
    except Refused:
        return
    assert packet.my_discriminator


def test_reserved_diagnostics_are_read_as_none() -> None:
    assert parse(bytes([0x20 | 31]) + FRR_UP[1:]).diagnostic is Diagnostic.NONE


def authenticated(key: bytes, **more: object) -> bytes:
    section = Authentication(AuthenticationType.METICULOUS_KEYED_SHA1, 7, 0x01020304)
    return emit(ControlPacket(State.UP, Diagnostic.NONE, 3, 1, 2, 300_000, 300_000, authentication=section), key)


def test_rfc_5880_6_7_4_the_hash_is_over_the_packet_with_the_padded_key_in_its_place() -> None:
    data = authenticated(b"secret")
    assert data[24:32] == bytes([5, 28, 7, 0, 1, 2, 3, 4])
    assert data[32:] == hashlib.sha1(data[:32] + b"secret" + bytes(14)).digest()
    assert verify(data, b"secret")


def test_another_key_or_any_changed_bit_does_not_verify() -> None:
    data = authenticated(b"secret")
    assert not verify(data, b"Secret")
    for at in range(len(data)):
        assert not verify(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], b"secret"), at


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (24, 1, Refusal.AUTHENTICATION),
        (24, 2, Refusal.AUTHENTICATION),
        (25, 27, Refusal.LENGTH),
        (3, 51, Refusal.LENGTH),
    ],
)
def test_other_kinds_of_authentication_and_wrong_lengths_are_refused(at: int, value: int, why: Refusal) -> None:
    data = bytearray(authenticated(b"secret"))
    data[at] = value
    with pytest.raises(Refused) as refused:
        parse(bytes(data))
    assert refused.value.why is why
