"""Sealing and opening in Python: published vectors, scapy as a third implementation, damage, the replay window."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw
from support.esp_material import ALL_SUITES, SeededRandom, keys_for, suite_name, udp4, udp6

from gateway.esp.dataplane import Encryption, Integrity, Suite
from gateway.esp.mtu import icv_octets
from gateway.esp.packet import Drop, EspKeys, Opened, ReplayWindow, open_packet, seal

FOLDER = Path(__file__).parents[2] / "vectors"
GCM_VECTORS = json.loads((FOLDER / "esp_gcm.json").read_text())["vectors"]
CHACHA_VECTORS = json.loads((FOLDER / "esp_chacha20_poly1305.json").read_text())["vectors"]
every_suite = pytest.mark.parametrize("suite", ALL_SUITES, ids=suite_name)
GCM = Suite(Encryption.AES_GCM_16, 16)
CHACHA = Suite(Encryption.CHACHA20_POLY1305, 32)
SHA256 = Suite(Encryption.AES_CBC, 32, Integrity.HMAC_SHA2_256_128)


# ---- published vectors ----


@pytest.mark.parametrize("encryption", [Encryption.AES_GCM_16, Encryption.AES_GCM_12, Encryption.AES_GCM_8])
@pytest.mark.parametrize("vector", GCM_VECTORS, ids=lambda vector: vector["key"][:8] + vector["aad"][-8:])
def test_published_gcm_packets_verify(vector: dict[str, str], encryption: Encryption) -> None:
    """NIST SP 800-38D 7.1: a shorter tag is the beginning of the long one."""
    published_packet_verifies(vector, encryption)
    octets = {name: bytes.fromhex(value) for name, value in vector.items()}
    assert AESGCM(octets["key"]).encrypt(octets["nonce"], octets["text"], octets["aad"]) == octets["sealed"]


@pytest.mark.parametrize("vector", CHACHA_VECTORS)
def test_the_published_chacha20_poly1305_packet_opens_and_is_made(vector: dict[str, str]) -> None:
    """RFC 7634 A, whose trailer is a tunnel's."""
    keys, packet, sequence = published(vector, Encryption.CHACHA20_POLY1305)
    inner = bytes.fromhex(vector["text"])[:84]
    assert open_packet(keys, packet, sequence) == Opened(inner, 4)
    damaged = packet[:-1] + bytes([packet[-1] ^ 1])
    assert open_packet(keys, damaged, sequence) is Drop.INTEGRITY
    # The document's IV is no sequence number; with ours the same key and text give the same as the library.
    made = seal(keys, int(vector["aad"][:8], 16), sequence, inner, 4, SeededRandom())
    nonce = keys.encryption_key[-4:] + sequence.to_bytes(8, "big")
    text, aad = bytes.fromhex(vector["text"]), bytes.fromhex(vector["aad"])
    assert made[16:] == ChaCha20Poly1305(keys.encryption_key[:-4]).encrypt(nonce, text, aad)


def published(vector: dict[str, str], encryption: Encryption) -> tuple[EspKeys, bytes, int]:
    octets = {name: bytes.fromhex(value) for name, value in vector.items()}
    suite = Suite(encryption, len(octets["key"]), esn=len(octets["aad"]) == 12)
    header = octets["aad"][:4] + octets["aad"][-4:]
    sealed = octets["sealed"][: len(octets["text"]) + icv_octets(suite)]
    keys = EspKeys(suite, octets["key"] + octets["nonce"][:4], b"")
    return keys, header + octets["nonce"][4:] + sealed, int.from_bytes(octets["aad"][4:], "big")


def published_packet_verifies(vector: dict[str, str], encryption: Encryption) -> None:
    """Their trailers name transport-mode protocols, so a good ICV ends in BAD_TRAILER, a bad one in INTEGRITY."""
    keys, packet, sequence = published(vector, encryption)
    assert open_packet(keys, packet, sequence) is Drop.BAD_TRAILER
    assert open_packet(keys, packet[:-1] + bytes([packet[-1] ^ 1]), sequence) is Drop.INTEGRITY


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("short", [Encryption.AES_GCM_12, Encryption.AES_GCM_8])
def test_a_packet_with_a_short_icv_is_a_cut_one_with_a_long_icv(short: Encryption, esn: bool) -> None:
    key = SeededRandom().octets(36)
    made = [
        seal(EspKeys(Suite(encryption, 32, esn=esn), key, b""), SPI, 9, udp4("10.0.0.1", "10.1.0.1"), 4, SeededRandom())
        for encryption in (Encryption.AES_GCM_16, short)
    ]
    assert made[1] == made[0][: len(made[1])]
    assert len(made[0]) - len(made[1]) == (8 if short is Encryption.AES_GCM_8 else 4)
    # The ICV's length is the suite's: neither a longer one nor a shorter one is taken.
    assert open_packet(EspKeys(Suite(short, 32, esn=esn), key, b""), made[0], 9) is Drop.INTEGRITY
    assert open_packet(EspKeys(Suite(Encryption.AES_GCM_16, 32, esn=esn), key, b""), made[1], 9) is Drop.INTEGRITY


# ---- scapy ----

SCAPY_INTEGRITY = {
    Integrity.NONE: None,
    Integrity.HMAC_SHA1_96: "HMAC-SHA1-96",
    Integrity.HMAC_SHA2_256_128: "SHA2-256-128",
    Integrity.HMAC_SHA2_384_192: "SHA2-384-192",
    Integrity.HMAC_SHA2_512_256: "SHA2-512-256",
}
SCAPY_ENCRYPTION = {
    Encryption.AES_GCM_16: "AES-GCM",
    Encryption.CHACHA20_POLY1305: "CHACHA20-POLY1305",
    Encryption.AES_CBC: "AES-CBC",
}
# It has no AES-GCM with a shorter ICV.
scapy_suite = pytest.mark.parametrize(
    "suite", [s for s in ALL_SUITES if s.encryption in SCAPY_ENCRYPTION], ids=suite_name
)
SPI = 0x1234ABCD
HIGH = 5


def scapy_sa(keys: EspKeys, encapsulated: bool) -> SecurityAssociation:
    return SecurityAssociation(
        ESP,
        spi=SPI,
        crypt_algo=SCAPY_ENCRYPTION[keys.suite.encryption],
        crypt_key=keys.encryption_key,
        auth_algo=SCAPY_INTEGRITY[keys.suite.integrity],
        auth_key=keys.integrity_key or None,
        tunnel_header=IP(src="192.0.2.1", dst="198.51.100.1"),
        nat_t_header=UDP(sport=4500, dport=4500) if encapsulated else None,
        esn_en=keys.suite.esn,
        esn=HIGH if keys.suite.esn else 0,
    )


@scapy_suite
@pytest.mark.parametrize("encapsulated", [False, True])
@pytest.mark.parametrize("length", [0, 1, 13, 100, 1400])
def test_scapy_opens_what_is_sealed_here(suite: Suite, encapsulated: bool, length: int) -> None:
    keys = keys_for(suite)
    inner = udp4("10.0.0.1", "10.1.0.1", (bytes(range(256)) * 6)[:length])
    sequence = 77 + (HIGH << 32 if suite.esn else 0)
    packet = seal(keys, SPI, sequence, inner, 4, SeededRandom())
    outer = IP(src="192.0.2.1", dst="198.51.100.1")
    outer = outer / UDP(sport=4500, dport=4500) / ESP(packet) if encapsulated else outer / ESP(packet)
    outer = IP(bytes(outer))
    assert bytes(scapy_sa(keys, encapsulated).decrypt(outer)) == inner


@scapy_suite
@pytest.mark.parametrize("encapsulated", [False, True])
@pytest.mark.parametrize("length", [0, 1, 13, 100, 1400])
def test_what_scapy_seals_opens_here(suite: Suite, encapsulated: bool, length: int) -> None:
    keys = keys_for(suite)
    inner = IP(src="10.0.0.1", dst="10.1.0.1") / UDP(sport=1, dport=2) / Raw(b"x" * length)
    outer = scapy_sa(keys, encapsulated).encrypt(inner, seq_num=99)
    packet = bytes(outer[ESP])
    opened = open_packet(keys, packet, 99 + (HIGH << 32 if suite.esn else 0))
    assert opened == Opened(bytes(inner), 4)


@pytest.mark.parametrize("suite", [GCM, CHACHA, SHA256], ids=suite_name)
def test_ipv6_inside_is_understood_by_scapy(suite: Suite) -> None:
    keys = keys_for(suite)
    inner = udp6("fd00::1", "fd01::1")
    packet = seal(keys, SPI, 3, inner, 41, SeededRandom())
    opened = scapy_sa(keys, False).decrypt(IP(bytes(IP(src="192.0.2.1", dst="198.51.100.1") / ESP(packet))))
    assert isinstance(opened, IPv6)
    assert bytes(opened) == inner


# ---- round trips and damage ----


@given(
    st.sampled_from(ALL_SUITES),
    st.binary(max_size=300),
    st.integers(1, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from([4, 41, 59]),
)
def test_what_is_sealed_opens(suite: Suite, payload: bytes, low: int, high: int, next_header: int) -> None:
    keys = keys_for(suite)
    sequence = low + (high << 32 if suite.esn else 0)
    packet = seal(keys, SPI, sequence, payload, next_header, SeededRandom())
    assert packet[:8] == SPI.to_bytes(4, "big") + low.to_bytes(4, "big")
    assert open_packet(keys, packet, sequence) == Opened(payload, next_header)


@given(st.sampled_from(ALL_SUITES), st.binary(max_size=40), st.data())
def test_one_flipped_bit_fails_the_icv(suite: Suite, payload: bytes, data: st.DataObject) -> None:
    keys = keys_for(suite)
    packet = bytearray(seal(keys, SPI, 9, payload, 4, SeededRandom()))
    bit = data.draw(st.integers(0, len(packet) * 8 - 1))
    packet[bit // 8] ^= 1 << bit % 8
    assert open_packet(keys, bytes(packet), 9) is Drop.INTEGRITY


@given(st.sampled_from(ALL_SUITES), st.binary(max_size=200))
def test_any_octets_are_refused_without_an_exception(suite: Suite, octets: bytes) -> None:
    assert open_packet(keys_for(suite), octets, 1) in (Drop.TOO_SHORT, Drop.INTEGRITY)


@every_suite
def test_every_truncation_is_refused(suite: Suite) -> None:
    keys = keys_for(suite)
    packet = seal(keys, SPI, 1, bytes(60), 4, SeededRandom())
    for length in range(len(packet)):
        assert open_packet(keys, packet[:length], 1) in (Drop.TOO_SHORT, Drop.INTEGRITY)
    assert open_packet(keys, packet[: len(packet) // 4], 1) is Drop.TOO_SHORT


@every_suite
def test_the_high_half_is_authenticated_with_esn_only(suite: Suite) -> None:
    keys = keys_for(suite)
    packet = seal(keys, SPI, 9, b"payload", 4, SeededRandom())
    expected = Drop.INTEGRITY if suite.esn else Opened(b"payload", 4)
    assert open_packet(keys, packet, 9 + 2**32) == expected


@pytest.mark.parametrize("suite", [GCM, SHA256], ids=suite_name)
@pytest.mark.parametrize("next_header", [0, 1, 6, 17, 50, 255])
def test_other_next_headers_are_refused(suite: Suite, next_header: int) -> None:
    keys = keys_for(suite)
    assert open_packet(keys, seal(keys, SPI, 9, b"payload", next_header, SeededRandom()), 9) is Drop.BAD_TRAILER


@pytest.mark.parametrize("tail", [b"\x09\x01\x04", b"\x01\x01\x02\x04", b"\x02\x01\x02\x04", b"\xff\x04", b"\x40\x04"])
def test_bad_padding_behind_a_good_icv_is_refused(tail: bytes) -> None:
    keys = keys_for(GCM)
    text = bytes(16 - len(tail)) + tail
    header = SPI.to_bytes(4, "big") + (9).to_bytes(4, "big")
    iv = (9).to_bytes(8, "big")
    sealed = AESGCM(keys.encryption_key[:-4]).encrypt(keys.encryption_key[-4:] + iv, text, header)
    assert open_packet(keys, header + iv + sealed, 9) is Drop.BAD_TRAILER


def test_gcm_ivs_are_the_sequence_number_and_cbc_ivs_are_random() -> None:
    assert seal(keys_for(GCM), SPI, 7, b"", 4, SeededRandom())[8:16] == (7).to_bytes(8, "big")
    random = SeededRandom()
    ivs = {seal(keys_for(SHA256), SPI, 7, b"", 4, random)[8:24] for _ in range(50)}
    assert len(ivs) == 50


@every_suite
def test_numbers_outside_the_counter_are_refused(suite: Suite) -> None:
    keys = keys_for(suite)
    for sequence in (0, -1, 2**64) + (() if suite.esn else (2**32,)):
        with pytest.raises(ValueError, match="sequence"):
            seal(keys, SPI, sequence, b"", 4, SeededRandom())


@every_suite
def test_keys_that_do_not_fit_are_refused(suite: Suite) -> None:
    good = keys_for(suite)
    with pytest.raises(ValueError, match="encryption key"):
        EspKeys(suite, good.encryption_key[1:], good.integrity_key)
    with pytest.raises(ValueError, match="integrity key"):
        EspKeys(suite, good.encryption_key, good.integrity_key + b"x")


def test_encryption_without_integrity_does_not_exist() -> None:
    with pytest.raises(ValueError, match="integrity"):
        EspKeys(Suite(Encryption.AES_CBC, 16), bytes(16), b"")


@pytest.mark.parametrize("octets", [16, 24])
def test_chacha20_has_one_key_length(octets: int) -> None:
    with pytest.raises(ValueError, match="encryption key"):
        EspKeys(Suite(Encryption.CHACHA20_POLY1305, octets), bytes(octets + 4), b"")


def test_keys_do_not_show_in_repr() -> None:
    keys = keys_for(SHA256)
    assert keys.encryption_key.hex() not in repr(keys)
    assert "encryption_key" not in repr(keys)


# ---- anti-replay ----


@pytest.mark.parametrize("size", [64, 1024])
def test_the_edges_of_the_window_are_exact(size: int) -> None:
    window = ReplayWindow(size, esn=False)
    assert window.accept(5000)
    assert not window.check(5000 - size)
    assert window.accept(5000 - size + 1)
    assert not window.accept(5000 - size + 1)
    assert window.accept(5001)
    assert not window.check(5001 - size)


def test_checking_moves_nothing() -> None:
    window = ReplayWindow(64, esn=False)
    assert window.check(2**31)
    assert window.top == 0
    assert window.accept(1)


@pytest.mark.parametrize(
    ("top", "low", "expected"),
    [
        (3 * 2**32 + 1000, 937, 3 * 2**32 + 937),
        (3 * 2**32 + 1000, 936, 4 * 2**32 + 936),
        (3 * 2**32 + 62, 2**32 - 1, 3 * 2**32 - 1),
        (3 * 2**32 + 62, 2**32 - 2, 4 * 2**32 - 2),
        (10, 2**32 - 1, 2**32 - 1),
        (0, 1, 1),
    ],
)
def test_esn_is_inferred_as_in_appendix_a2(top: int, low: int, expected: int) -> None:
    window = ReplayWindow(64, esn=True)
    window.top = top
    assert window.infer(low) == expected


def test_numbers_do_not_wrap_without_esn() -> None:
    window = ReplayWindow(64, esn=False)
    assert window.accept(2**32 - 1)
    assert not window.accept(2**32)
    assert not window.accept(0)


@given(st.lists(st.integers(-80, 80), max_size=300))
def test_no_number_is_accepted_twice(steps: list[int]) -> None:
    window = ReplayWindow(64, esn=True)
    accepted: set[int] = set()
    position = 2**32 - 100
    for step in steps:
        position += step
        number = window.infer(position % 2**32)
        if window.accept(number):
            assert number not in accepted
            accepted.add(number)
