"""Key derivation against strongSwan's own log (tests/vectors/ike_keymat), and the SK envelope of every suite."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from pathlib import Path
from typing import Any

import pytest

from gateway.ike import authentication, keymat
from gateway.ike.errors import PeerError, Violation
from gateway.ike.keymat import Envelope, IkeKeys, open_message, seal_message
from gateway.ike.message import HEADER_OCTETS, Header, parse_chain, parse_message
from gateway.ike.payloads import IdentificationInitiator, Nonce, Notify
from gateway.ike.proposal import ENCRYPTION_NAMES, INTEGRITY_NAMES, KEY_EXCHANGE_NAMES, PRF_NAMES, Choice
from gateway.ike.registry import ExchangeType, Flags

VECTORS = Path(__file__).parents[2] / "vectors" / "ike_keymat"
FILES = sorted(VECTORS.glob("*.json"))
RECORDS = {path.stem: json.loads(path.read_text()) for path in FILES}
SUITES = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())


class Octets:
    """A seeded random source."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def octets(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


def choice_of(names: dict[str, Any]) -> Choice:
    return Choice(
        ENCRYPTION_NAMES[names["encryption"]],
        names["key_bits"],
        INTEGRITY_NAMES[names["integrity"]] if "integrity" in names else 0,
        PRF_NAMES[names["prf"]] if "prf" in names else 0,
        KEY_EXCHANGE_NAMES[names["key_exchange"]] if "key_exchange" in names else 0,
    )


def octets_of(entry: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(entry[name]) for name in names]


def all_keys(record: dict[str, Any], is_initiator: bool) -> list[IkeKeys]:
    """Both IKE_SAs of a record: the first, and its rekey."""
    choice = choice_of(record["ike"])
    first, second = record["ike_sas"]
    shared, ni, nr, spi_i, spi_r = octets_of(first, "shared", "ni", "nr", "initiator_spi", "responder_spi")
    initial = IkeKeys.initial(choice, shared, ni, nr, spi_i + spi_r, is_initiator)
    shared, ni, nr, spi_i, spi_r = octets_of(second, "shared", "ni", "nr", "initiator_spi", "responder_spi")
    return [initial, initial.rekeyed(choice, shared, ni, nr, spi_i + spi_r, is_initiator)]


def test_there_are_vectors_of_aead_and_cbc_suites_with_every_prf() -> None:
    assert len(RECORDS) >= 6
    assert {record["ike"]["prf"] for record in RECORDS.values()} == {"sha1", "sha256", "sha384", "sha512"}
    assert {record["ike"]["encryption"] for record in RECORDS.values()} == set(ENCRYPTION_NAMES)
    assert {"key_exchange" in record["esp"] for record in RECORDS.values()} == {True, False}


@SUITES
@pytest.mark.parametrize("is_initiator", [True, False])
def test_sk_keys_of_the_first_ike_sa_and_of_its_rekey(record: dict[str, Any], is_initiator: bool) -> None:
    for keys, entry in zip(all_keys(record, is_initiator), record["ike_sas"], strict=True):
        derived = {name.lower(): octets.hex() for name, octets in keys.secrets_for_keylog().items()}
        expected = {name: entry.get(name, "") for name in derived}
        assert derived == expected
        assert set(derived) == {"sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr"}


@SUITES
def test_skeyseed_of_the_first_ike_sa(record: dict[str, Any]) -> None:
    entry = record["ike_sas"][0]
    shared, ni, nr, skeyseed = octets_of(entry, "shared", "ni", "nr", "skeyseed")
    assert keymat.prf(choice_of(record["ike"]).prf, ni + nr, shared) == skeyseed


@SUITES
@pytest.mark.parametrize("is_initiator", [True, False])
def test_child_keys_of_ike_auth_of_a_rekey_and_under_the_rekeyed_ike_sa(
    record: dict[str, Any], is_initiator: bool
) -> None:
    sas = all_keys(record, is_initiator)
    choice = choice_of(record["esp"])
    assert [entry["ike_sa"] for entry in record["child_sas"]] == [0, 0, 1]
    for entry in record["child_sas"]:
        shared, ni, nr = octets_of(entry, "shared", "ni", "nr")
        made = sas[entry["ike_sa"]].child(choice, shared, ni, nr)
        for name in ("initiator_encryption", "initiator_integrity", "responder_encryption", "responder_integrity"):
            assert getattr(made, name).hex() == entry.get(name, "")
    with_pfs = [bool(entry["shared"]) for entry in record["child_sas"]]
    assert with_pfs == [False, bool(choice.key_exchange), bool(choice.key_exchange)]


@SUITES
def test_auth_payloads_of_both_sides(record: dict[str, Any]) -> None:
    keys = all_keys(record, True)[0]
    first = record["ike_sas"][0]
    for entry, of_initiator in zip(first["auth"], (True, False), strict=True):
        octets, identity, auth = octets_of(entry, "octets", "identity", "auth")
        message = octets[: int.from_bytes(octets[24:28], "big")]
        nonce = bytes.fromhex(first["nr" if of_initiator else "ni"])
        payload = IdentificationInitiator(identity[0], identity[4:])
        assert keys.signed_octets(message, nonce, identity, of_initiator) == octets
        made = authentication.psk_signature(keys, record["psk"].encode(), message, nonce, payload, of_initiator)
        assert made.data == auth


@SUITES
@pytest.mark.parametrize("is_initiator", [True, False])
def test_opens_what_strongswan_sealed(record: dict[str, Any], is_initiator: bool) -> None:
    opened = 0
    for keys, entry in zip(all_keys(record, is_initiator), record["ike_sas"], strict=True):
        for line in entry["messages"]:
            if line["sent"] == is_initiator:
                continue
            sealed, plain = octets_of(line, "octets", "plain")
            message = parse_message(sealed)
            assert message.encrypted is not None
            payloads = open_message(keys, message).payloads
            assert payloads == parse_chain(plain, message.encrypted.first_inner)
            opened += 1
    assert opened >= 5


@SUITES
def test_seals_octet_for_octet_what_strongswan_sealed(record: dict[str, Any]) -> None:
    """With strongSwan's IV in place of ours. Its CBC padding is random, so that is an AEAD's test."""
    if record["ike"]["encryption"] == "aes-cbc":
        return
    for keys, entry in zip(all_keys(record, True), record["ike_sas"], strict=True):
        for line in entry["messages"]:
            sealed, plain = octets_of(line, "octets", "plain")
            envelope = keys.sealing if line["sent"] else keys.opening
            # RFC 5282 3.1: each sender makes its IVs as it likes; ours is a counter
            envelope.sealed = int.from_bytes(sealed[32:40], "big") - 1
            assert sealed[:32] + envelope.seal(sealed[:32], plain, Octets()) == sealed


def test_a_rekey_takes_skeyseed_from_the_old_prf_and_the_rest_from_the_new() -> None:
    """RFC 7296 2.18, written out by hand."""
    old = Choice(ENCRYPTION_NAMES["aes-gcm-16"], 256, prf=PRF_NAMES["sha256"])
    new = Choice(ENCRYPTION_NAMES["aes-cbc"], 128, INTEGRITY_NAMES["sha1"], PRF_NAMES["sha512"])
    keys = IkeKeys.initial(old, b"s" * 32, b"i" * 32, b"r" * 32, bytes(16), True)
    sk_d = keys.secrets_for_keylog()["SK_d"]
    skeyseed = hmac.digest(sk_d, b"G" * 32 + b"I" * 16 + b"R" * 16, "sha256")
    seed, block, material = b"I" * 16 + b"R" * 16 + b"\1" * 16, b"", b""
    for index in range(1, 6):
        block = hmac.digest(skeyseed, block + seed + bytes([index]), "sha512")
        material += block
    made = keys.rekeyed(new, b"G" * 32, b"I" * 16, b"R" * 16, b"\1" * 16, False).secrets_for_keylog()
    joined = b"".join(made[name] for name in ("SK_d", "SK_ai", "SK_ar", "SK_ei", "SK_er", "SK_pi", "SK_pr"))
    assert joined == material[: 3 * 64 + 2 * 20 + 2 * 16]


def test_chacha20_poly1305_takes_36_octets_a_direction_and_no_integrity_key() -> None:
    """RFC 7634 2 and 3: 32 octets of key, 4 of salt; nothing for SK_a."""
    choice = Choice(ENCRYPTION_NAMES["chacha20-poly1305"], 0, prf=PRF_NAMES["sha256"])
    keys = IkeKeys.initial(choice, b"s" * 32, b"i" * 32, b"r" * 32, bytes(16), True)
    made = keys.secrets_for_keylog()
    assert (len(made["SK_ei"]), len(made["SK_er"]), made["SK_ai"], made["SK_ar"]) == (36, 36, b"", b"")
    child = keys.child(choice, b"", b"i" * 32, b"r" * 32)
    material = keymat.prf_plus(PRF_NAMES["sha256"], made["SK_d"], b"i" * 32 + b"r" * 32, 72)
    assert (child.initiator_encryption, child.responder_encryption) == (material[:36], material[36:])


def test_prf_plus_is_a_prefix_of_itself() -> None:
    """RFC 7296 2.13; 255 blocks are its end, more than anything here needs."""
    whole = keymat.prf_plus(PRF_NAMES["sha1"], b"key", b"seed", 700)
    assert whole[:20] == hmac.digest(b"key", b"seed\x01", hashlib.sha1)
    assert all(
        keymat.prf_plus(PRF_NAMES["sha1"], b"key", b"seed", count) == whole[:count] for count in (0, 1, 19, 20, 21, 699)
    )


# --- the envelope ---------------------------------------------------------------------------------------------------

CHOICES = [Choice(ENCRYPTION_NAMES[f"aes-gcm-{icv}"], bits) for icv in (16, 12, 8) for bits in (128, 256)]
CHOICES += [Choice(ENCRYPTION_NAMES["chacha20-poly1305"], 0)]
CHOICES += [
    Choice(ENCRYPTION_NAMES["aes-cbc"], bits, INTEGRITY_NAMES[name]) for bits in (128, 256) for name in INTEGRITY_NAMES
]
EVERY_CHOICE = pytest.mark.parametrize("choice", CHOICES, ids=str)
HEADER = Header(0x1122334455667788, 0x99AABBCCDDEEFF00, ExchangeType.INFORMATIONAL, Flags.INITIATOR, 7)


def pair(choice: Choice) -> tuple[IkeKeys, IkeKeys]:
    """Initiator's and responder's keys of one IKE_SA."""
    full = Choice(choice.encryption, choice.key_bits, choice.integrity, PRF_NAMES["sha256"])
    made = [
        IkeKeys.initial(full, b"secret" * 8, b"i" * 32, b"r" * 32, bytes(range(16)), side) for side in (True, False)
    ]
    return made[0], made[1]


@EVERY_CHOICE
def test_sealed_messages_of_every_length_open(choice: Choice) -> None:
    initiator, responder = pair(choice)
    for length in range(50):
        payloads = (Notify(16384, bytes(length)),)
        sealed = seal_message(initiator, HEADER, payloads, Octets())
        assert open_message(responder, parse_message(sealed)).payloads == payloads
    sealed = seal_message(initiator, HEADER, (), Octets())
    assert open_message(responder, parse_message(sealed)).payloads == ()


@EVERY_CHOICE
def test_one_changed_bit_anywhere_is_one_and_the_same_failure(choice: Choice) -> None:
    initiator, responder = pair(choice)
    sealed = seal_message(initiator, HEADER, (Nonce(b"n" * 20),), Octets())
    reasons = set()
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 0x80 >> bit % 8
        try:
            # Bits that the header's own rules refuse never reach the envelope
            message = parse_message(bytes(damaged))
        except PeerError:
            assert bit // 8 in (16, 17, *range(24, 28), 30, 31)
            continue
        if message.encrypted is None or len(message.payloads) != 1:
            assert bit // 8 == 16
            continue
        with pytest.raises(PeerError) as refused:
            open_message(responder, message)
        assert refused.value.notify is None
        reasons.add((refused.value.why, refused.value.detail))
    assert reasons == {(Violation.BAD_ICV, "")}


@EVERY_CHOICE
def test_the_other_direction_s_keys_do_not_open_a_reflected_message(choice: Choice) -> None:
    initiator, _ = pair(choice)
    sealed = seal_message(initiator, HEADER, (Nonce(b"n" * 20),), Octets())
    with pytest.raises(PeerError, match="bad_icv"):
        open_message(initiator, parse_message(sealed))


@EVERY_CHOICE
def test_every_truncation_is_refused_without_an_answer(choice: Choice) -> None:
    initiator, responder = pair(choice)
    envelope = responder.opening
    sealed = seal_message(initiator, HEADER, (Nonce(b"n" * 20),), Octets())
    prefix, body = sealed[: HEADER_OCTETS + 4], sealed[HEADER_OCTETS + 4 :]
    for length in range(len(body)):
        with pytest.raises(PeerError) as refused:
            envelope.open(prefix, body[:length])
        assert refused.value.why is Violation.BAD_ICV
        assert refused.value.notify is None


@EVERY_CHOICE
def test_no_iv_is_used_twice(choice: Choice) -> None:
    initiator, _ = pair(choice)
    octets = 16 if choice.encryption == ENCRYPTION_NAMES["aes-cbc"] else 8
    source = Octets()
    ivs = {seal_message(initiator, HEADER, (), source)[32 : 32 + octets] for _ in range(500)}
    assert len(ivs) == 500


def test_the_chacha20_poly1305_message_of_its_rfc() -> None:
    """RFC 7634 B: an INFORMATIONAL answer with one Notify."""
    key, salt = bytes(range(0x80, 0xA0)), bytes.fromhex("a0a1a2a3")
    prefix = bytes.fromhex("c0c1c2c3c4c5c6c7d0d1d2d3d4d5d6d72e202500000000090000004529000029")
    plain, iv = bytes.fromhex("0000000c000040010000000a"), bytes.fromhex("1011121314151617")
    sealed = bytes.fromhex("610394701f8d017f7c12924889")
    tag = bytes.fromhex("6b71bfe25236efd7cdc67066906315b2")
    envelope = Envelope(Choice(ENCRYPTION_NAMES["chacha20-poly1305"], 0), key + salt, b"")
    assert envelope.open(prefix, iv + sealed + tag) == plain
    envelope.sealed = int.from_bytes(iv, "big") - 1
    assert envelope.seal(prefix, plain, Octets()) == iv + sealed + tag


def test_padding_that_lies_is_refused_after_it_verified() -> None:
    """RFC 7296 3.14: the pad length is the last octet; a longer one than the plaintext is an authentic mistake."""
    choice = Choice(ENCRYPTION_NAMES["aes-cbc"], 128, INTEGRITY_NAMES["sha256"])
    envelope = Envelope(choice, b"k" * 16, b"a" * 32)
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    def sealed(plaintext: bytes) -> bytes:
        encryptor = Cipher(algorithms.AES(b"k" * 16), modes.CBC(bytes(16))).encryptor()
        body = bytes(16) + encryptor.update(plaintext) + encryptor.finalize()
        return body + hmac.digest(b"a" * 32, b"prefix" + body, "sha256")[:16]

    assert envelope.open(b"prefix", sealed(b"0123456789abcde\x00")) == b"0123456789abcde"
    assert envelope.open(b"prefix", sealed(b"0123456789abcde\x0f")) == b""
    for lie in (0x10, 0x11, 0xFF):
        with pytest.raises(PeerError) as refused:
            envelope.open(b"prefix", sealed(b"0123456789abcde" + bytes([lie])))
        assert (refused.value.why, refused.value.notify) == (Violation.MALFORMED, None)


def test_payloads_beside_the_sk_payload_are_refused() -> None:
    initiator, responder = pair(CHOICES[0])
    sealed = seal_message(initiator, HEADER, (), Octets())
    message = parse_message(sealed)
    assert message.encrypted is not None
    doubled = type(message)(message.header, (Nonce(b"n" * 16), message.encrypted), message.octets)
    with pytest.raises(PeerError, match="outside SK"):
        open_message(responder, doubled)
    with pytest.raises(PeerError, match="no SK"):
        open_message(responder, type(message)(message.header, (), message.octets))


def test_keys_are_not_in_any_repr() -> None:
    initiator, _ = pair(CHOICES[-1])
    secrets = [secret for secret in initiator.secrets_for_keylog().values() if secret]
    child = initiator.child(CHOICES[-1], b"", b"i" * 32, b"r" * 32)
    shown = repr(initiator) + repr(initiator.sealing) + repr(child)
    assert not any(secret.hex() in shown or repr(secret) in shown for secret in secrets)
    assert repr(child.initiator_encryption) not in shown
