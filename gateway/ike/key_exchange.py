"""Every key exchange method behind one interface (RFC 7296 3.4, RFC 3526, RFC 5903, RFC 8031).

The work is for `Compute`: `generate` and `agree` are pure functions of their arguments apart from
finite-field key generation, which draws from libcrypto's own random source.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.asymmetric import dh, ec, x25519

from gateway.ike.errors import PeerError, Violation
from gateway.ike.modp import MODP_PRIMES
from gateway.ike.registry import KeyExchangeId, NotifyType

# Finite-field DH is announced to leave `cryptography`; this file is then the only one to change.
warnings.filterwarnings("ignore", message="Diffie-Hellman over finite fields")

CURVES: dict[int, tuple[type[ec.EllipticCurve], int]] = {
    KeyExchangeId.ECP_256: (ec.SECP256R1, 32),
    KeyExchangeId.ECP_384: (ec.SECP384R1, 48),
    KeyExchangeId.ECP_521: (ec.SECP521R1, 66),
}
PUBLIC_OCTETS: dict[int, int] = {
    **{method: (prime.bit_length() + 7) // 8 for method, prime in MODP_PRIMES.items()},
    # RFC 5903 7: x and y, without the leading 0x04
    **{method: 2 * octets for method, (_, octets) in CURVES.items()},
    KeyExchangeId.CURVE25519: 32,
}
SEED_OCTETS = 80
"""Randomness handed to `generate`: enough for P-521 with 64 bits of excess (FIPS 186-5 A.2.1)."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An ephemeral key: `public` as it goes into the KE payload."""

    method: int
    public: bytes
    private: object = field(repr=False)


class KeyExchanges(Protocol):
    """The seam for the simulator, which may use a cheap deterministic method."""

    def generate(self, method: int, seed: bytes) -> KeyPair: ...
    def agree(self, pair: KeyPair, peer_public: bytes) -> bytes: ...


def check_public(method: int, data: bytes) -> None:
    """RFC 7296 3.4: a KE payload whose length is not the group's is INVALID_SYNTAX."""
    if len(data) != PUBLIC_OCTETS.get(method, -1):
        raise PeerError(
            Violation.BAD_KEY_EXCHANGE, f"KE data of {len(data)} octets for method {method}", NotifyType.INVALID_SYNTAX
        )


class Libcrypto:
    """The real methods, on `cryptography`."""

    def generate(self, method: int, seed: bytes) -> KeyPair:
        """A fresh key pair; `seed` is SEED_OCTETS of randomness."""
        if method == KeyExchangeId.CURVE25519:
            private = x25519.X25519PrivateKey.from_private_bytes(seed[:32])
            return KeyPair(method, private.public_key().public_bytes_raw(), private)
        if method in CURVES:
            return _generate_ecp(method, seed)
        return _generate_modp(method)

    def agree(self, pair: KeyPair, peer_public: bytes) -> bytes:
        """The shared secret g^ir; PeerError BAD_KEY_EXCHANGE for a value outside the group."""
        try:
            return _agree(pair, peer_public)
        except (ValueError, InvalidKey) as invalid:
            raise PeerError(
                Violation.BAD_KEY_EXCHANGE, str(invalid) or "invalid public value", NotifyType.INVALID_SYNTAX
            ) from None


def _generate_ecp(method: int, seed: bytes) -> KeyPair:
    curve, octets = CURVES[method]
    order = _ORDERS[method]
    secret = int.from_bytes(seed, "big") % (order - 1) + 1
    private = ec.derive_private_key(secret, curve())
    numbers = private.public_key().public_numbers()
    return KeyPair(method, numbers.x.to_bytes(octets, "big") + numbers.y.to_bytes(octets, "big"), private)


def _modp_parameters(method: int) -> dh.DHParameters:
    return dh.DHParameterNumbers(MODP_PRIMES[method], 2).parameters()


def _generate_modp(method: int) -> KeyPair:
    private = _modp_parameters(method).generate_private_key()
    public = private.public_key().public_numbers().y.to_bytes(PUBLIC_OCTETS[method], "big")
    return KeyPair(method, public, private)


def _agree(pair: KeyPair, peer_public: bytes) -> bytes:
    private = pair.private
    if isinstance(private, x25519.X25519PrivateKey):
        # RFC 8031 5: the all-zero output is refused; `cryptography` raises ValueError for it
        return private.exchange(x25519.X25519PublicKey.from_public_bytes(peer_public))
    if isinstance(private, ec.EllipticCurvePrivateKey):
        # RFC 5903 7: the shared secret is the x coordinate; from_encoded_point checks that the point is on the curve
        peer = ec.EllipticCurvePublicKey.from_encoded_point(private.curve, b"\x04" + peer_public)
        return private.exchange(ec.ECDH(), peer)
    assert isinstance(private, dh.DHPrivateKey)
    prime = MODP_PRIMES[pair.method]
    value = int.from_bytes(peer_public, "big")
    # RFC 6989 2.1: 1 < value < p - 1
    if not 1 < value < prime - 1:
        raise ValueError("public value outside the group")
    public = dh.DHPublicNumbers(value, private.parameters().parameter_numbers()).public_key()
    return private.exchange(public).rjust(PUBLIC_OCTETS[pair.method], b"\0")


_ORDERS: dict[int, int] = {
    # FIPS 186-5, SP 800-186 3.2.1
    KeyExchangeId.ECP_256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    KeyExchangeId.ECP_384: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    KeyExchangeId.ECP_521: int(
        "01" + "F" * 65 + "A51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409", 16
    ),
}
