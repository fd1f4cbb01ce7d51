"""Key exchange methods: published answers, the groups' own definitions, and values outside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dh, ec, x25519

from gateway.ike.errors import PeerError, Violation
from gateway.ike.key_exchange import (
    _ORDERS,
    ANSWER_OCTETS,
    CURVES,
    ML_KEM,
    PUBLIC_OCTETS,
    SEED_OCTETS,
    KeyPair,
    Libcrypto,
    check_public,
)
from gateway.ike.modp import MODP_PRIMES
from gateway.ike.proposal import KEY_EXCHANGE_NAMES
from gateway.ike.registry import KeyExchangeId, NotifyType

ANSWERS = json.loads((Path(__file__).parents[2] / "vectors" / "ecdh_rfc5903.json").read_text())
METHODS = sorted(PUBLIC_OCTETS)
SYMMETRIC = sorted(set(PUBLIC_OCTETS) - set(ML_KEM))
LIBCRYPTO = Libcrypto()


def pair_of(name: str, secret: bytes) -> KeyPair:
    """A key pair with a given private value."""
    method = KEY_EXCHANGE_NAMES[name]
    private: Any
    if name == "x25519":
        private = x25519.X25519PrivateKey.from_private_bytes(secret)
        return KeyPair(method, private.public_key().public_bytes_raw(), private)
    curve, octets = CURVES[method]
    private = ec.derive_private_key(int.from_bytes(secret, "big"), curve())
    numbers = private.public_key().public_numbers()
    return KeyPair(method, numbers.x.to_bytes(octets, "big") + numbers.y.to_bytes(octets, "big"), private)


@pytest.mark.parametrize("name", ["ecp256", "ecp384", "ecp521", "x25519"])
def test_the_published_answers(name: str) -> None:
    answer = {key: bytes.fromhex(value) for key, value in ANSWERS[name].items()}
    initiator, responder = pair_of(name, answer["i"]), pair_of(name, answer["r"])
    assert (initiator.public, responder.public) == (answer["gi"], answer["gr"])
    assert LIBCRYPTO.agree(initiator, responder.public) == answer["gir"]
    assert LIBCRYPTO.agree(responder, initiator.public) == answer["gir"]


@pytest.mark.parametrize("name", ["ecp256", "ecp384", "ecp521"])
def test_a_seed_gives_the_private_value_modulo_the_order(name: str) -> None:
    """FIPS 186-5 A.2.1: d = (seed mod (n - 1)) + 1."""
    answer = {key: bytes.fromhex(value) for key, value in ANSWERS[name].items()}
    seed = (int.from_bytes(answer["i"], "big") - 1).to_bytes(SEED_OCTETS, "big")
    made = LIBCRYPTO.generate(KEY_EXCHANGE_NAMES[name], seed)
    assert made.public == answer["gi"]
    order = _ORDERS[KEY_EXCHANGE_NAMES[name]]
    wrapped = (order - 1 + int.from_bytes(answer["i"], "big") - 1).to_bytes(SEED_OCTETS, "big")
    assert LIBCRYPTO.generate(KEY_EXCHANGE_NAMES[name], wrapped).public == answer["gi"]


@pytest.mark.parametrize("name", ["ecp256", "ecp384", "ecp521"])
def test_the_orders_are_the_curves_own(name: str) -> None:
    """n - 1 times G is -G: the same x as G itself."""
    method = KEY_EXCHANGE_NAMES[name]
    curve, _ = CURVES[method]
    generator = ec.derive_private_key(1, curve()).public_key().public_numbers()
    negative = ec.derive_private_key(_ORDERS[method] - 1, curve()).public_key().public_numbers()
    assert negative.x == generator.x
    assert negative.y != generator.y


# First and last 64 bits of each prime are all ones (RFC 2409 6.2, RFC 3526); the words after and before as printed there
PRINTED = {
    2: (
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74",
        "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF",
    ),
    14: (
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74",
        "DE2BCBF6955817183995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    ),
    15: ("FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74", "4B82D120A93AD2CAFFFFFFFFFFFFFFFF"),
    16: ("FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74", "4DF435C934063199FFFFFFFFFFFFFFFF"),
}


@pytest.mark.parametrize("method", sorted(MODP_PRIMES))
def test_modp_primes_are_safe_primes_and_read_as_printed(method: int) -> None:
    prime = MODP_PRIMES[method]
    first, last = PRINTED[method]
    text = f"{prime:X}"
    assert text.startswith(first)
    assert text.endswith(last)
    assert prime.bit_length() == {2: 1024, 14: 2048, 15: 3072, 16: 4096}[method]
    assert _probably_prime(prime)
    assert _probably_prime(prime // 2)


def _probably_prime(number: int) -> bool:
    """Miller-Rabin for the first bases; a mistyped digit does not survive one of them."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3):
        value = pow(base, odd, number)
        if value in (1, number - 1):
            continue
        for _ in range(twos - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True


@pytest.mark.parametrize("method", METHODS, ids=lambda method: KeyExchangeId(method).name)
def test_initiator_and_responder_agree(method: int) -> None:
    pair = LIBCRYPTO.generate(method, bytes(range(SEED_OCTETS)))
    public, shared = LIBCRYPTO.answer(method, pair.public, bytes(range(1, SEED_OCTETS + 1)))
    check_public(method, pair.public)
    check_public(method, public, of_responder=True)
    assert LIBCRYPTO.agree(pair, public) == shared
    _, another = LIBCRYPTO.answer(method, pair.public, bytes(range(2, SEED_OCTETS + 2)))
    assert another != shared


@pytest.mark.parametrize("method", sorted(ML_KEM), ids=lambda method: KeyExchangeId(method).name)
def test_ml_kem_has_32_octets_and_its_lengths_are_those_of_fips_203(method: int) -> None:
    """FIPS 203 table 3."""
    pair = LIBCRYPTO.generate(method, bytes(SEED_OCTETS))
    ciphertext, shared = LIBCRYPTO.answer(method, pair.public, b"")
    expected = {KeyExchangeId.ML_KEM_768: (1184, 1088), KeyExchangeId.ML_KEM_1024: (1568, 1568)}[KeyExchangeId(method)]
    assert (len(pair.public), len(ciphertext), len(shared)) == (*expected, 32)
    assert pair.public == LIBCRYPTO.generate(method, bytes(SEED_OCTETS)).public


@pytest.mark.parametrize("method", sorted(ML_KEM), ids=lambda method: KeyExchangeId(method).name)
def test_an_encapsulation_key_out_of_range_is_refused(method: int) -> None:
    """FIPS 203 7.2: the modulus check; coefficients of 12 bits that are not below q."""
    with pytest.raises(PeerError) as refused:
        LIBCRYPTO.answer(method, b"\xff" * PUBLIC_OCTETS[method], b"")
    assert (refused.value.why, refused.value.notify) == (Violation.BAD_KEY_EXCHANGE, NotifyType.INVALID_SYNTAX)


@pytest.mark.parametrize("method", sorted(ML_KEM), ids=lambda method: KeyExchangeId(method).name)
def test_a_changed_ciphertext_gives_another_secret_and_no_error(method: int) -> None:
    """FIPS 203 6.3, implicit rejection: no oracle."""
    pair = LIBCRYPTO.generate(method, bytes(SEED_OCTETS))
    ciphertext, shared = LIBCRYPTO.answer(method, pair.public, b"")
    changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert len(LIBCRYPTO.agree(pair, changed)) == 32
    assert LIBCRYPTO.agree(pair, changed) != shared


@pytest.mark.parametrize("method", SYMMETRIC, ids=lambda method: KeyExchangeId(method).name)
def test_both_sides_agree(method: int) -> None:
    left = LIBCRYPTO.generate(method, bytes(range(SEED_OCTETS)))
    right = LIBCRYPTO.generate(method, bytes(range(1, SEED_OCTETS + 1)))
    assert len(left.public) == PUBLIC_OCTETS[method]
    assert left.public != right.public
    shared = LIBCRYPTO.agree(left, right.public)
    assert shared == LIBCRYPTO.agree(right, left.public)
    octets = PUBLIC_OCTETS[method]
    # RFC 7296 2.14: as long as the group; RFC 5903 7: the x coordinate
    assert len(shared) == (octets // 2 if method in CURVES else octets)
    assert repr(left.private) not in repr(left)


def test_a_modp_secret_with_leading_zeros_keeps_its_length() -> None:
    """RFC 7296 2.14: padded with zeros to the length of the modulus. The peer's value is chosen so that zeros lead."""
    prime = MODP_PRIMES[2]
    parameters = dh.DHParameterNumbers(prime, 2)
    private = dh.DHPrivateNumbers(2, dh.DHPublicNumbers(4, parameters)).private_key()
    value = 1 << 300  # its square has 601 bits
    shared = LIBCRYPTO.agree(KeyPair(2, (4).to_bytes(128, "big"), private), value.to_bytes(128, "big"))
    assert shared == pow(value, 2, prime).to_bytes(128, "big")
    assert shared[0] == 0


def test_the_modp_secret_is_plain_modular_arithmetic() -> None:
    pair = LIBCRYPTO.generate(KeyExchangeId.MODP_2048, b"")
    assert isinstance(pair.private, dh.DHPrivateKey)
    exponent, prime = pair.private.private_numbers().x, MODP_PRIMES[14]
    assert int.from_bytes(pair.public, "big") == pow(2, exponent, prime)
    assert LIBCRYPTO.agree(pair, (12345).to_bytes(256, "big")) == pow(12345, exponent, prime).to_bytes(256, "big")


@pytest.mark.parametrize("method", sorted(MODP_PRIMES))
@pytest.mark.parametrize("offset", ["0", "1", "p-1", "p", "p+1", "all ones"])
def test_modp_values_outside_the_group_are_refused(method: int, offset: str) -> None:
    """RFC 6989 2.1; libreswan CVE-2015-3240."""
    prime, octets = MODP_PRIMES[method], PUBLIC_OCTETS[method]
    value = {"0": 0, "1": 1, "p-1": prime - 1, "p": prime, "p+1": prime + 1, "all ones": (1 << 8 * octets) - 1}[offset]
    with pytest.raises(PeerError) as refused:
        LIBCRYPTO.agree(LIBCRYPTO.generate(method, b""), value.to_bytes(octets, "big"))
    assert (refused.value.why, refused.value.notify) == (Violation.BAD_KEY_EXCHANGE, NotifyType.INVALID_SYNTAX)


@pytest.mark.parametrize("method", sorted(CURVES))
def test_points_that_are_not_on_the_curve_are_refused(method: int) -> None:
    """RFC 5903 7, RFC 6989 2.3: without this check the private key leaks bit by bit."""
    _, octets = CURVES[method]
    pair = LIBCRYPTO.generate(method, bytes(SEED_OCTETS))
    good = LIBCRYPTO.generate(method, b"\1" * SEED_OCTETS).public
    off = bytearray(good)
    off[-1] ^= 1
    twist = (5).to_bytes(octets, "big") + (1).to_bytes(octets, "big")
    for public in (bytes(off), bytes(2 * octets), b"\xff" * 2 * octets, twist, good[octets:] + good[:octets]):
        with pytest.raises(PeerError, match="bad_key_exchange"):
            LIBCRYPTO.agree(pair, public)


# RFC 7748 6.1: values of small order lead to the all-zero secret. 0, 1, the two of order 8, p - 1, p, p + 1
SMALL_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    *((2**255 - 19 + offset).to_bytes(32, "little") for offset in (-1, 0, 1)),
]


@pytest.mark.parametrize("public", SMALL_ORDER, ids=range(len(SMALL_ORDER)))
def test_x25519_values_of_small_order_are_refused(public: bytes) -> None:
    """RFC 8031 3.2."""
    with pytest.raises(PeerError, match="bad_key_exchange"):
        LIBCRYPTO.agree(LIBCRYPTO.generate(KeyExchangeId.CURVE25519, bytes(range(SEED_OCTETS))), public)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: KeyExchangeId(method).name)
@pytest.mark.parametrize("of_responder", [False, True], ids=["initiator", "responder"])
def test_ke_data_of_another_length_is_refused(method: int, of_responder: bool) -> None:
    """strongSwan CVE-2023-41913."""
    octets = (ANSWER_OCTETS if of_responder else PUBLIC_OCTETS)[method]
    check_public(method, bytes(octets), of_responder)
    for length in {0, 1, octets - 1, octets + 1, 2 * octets, 65000} - {octets}:
        with pytest.raises(PeerError) as refused:
            check_public(method, bytes(length), of_responder)
        assert (refused.value.why, refused.value.notify) == (Violation.BAD_KEY_EXCHANGE, NotifyType.INVALID_SYNTAX)


def test_no_length_is_right_for_a_group_we_do_not_know() -> None:
    for method in range(65536):
        if method not in PUBLIC_OCTETS:
            with pytest.raises(PeerError, match="bad_key_exchange"):
                check_public(method, bytes(32))
