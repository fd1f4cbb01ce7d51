"""Every key exchange method behind one interface (RFC 7296 3.4, RFC 3526, RFC 5903, RFC 8031, ML-KEM).

The work is for `Compute`: `generate`, `answer` and `agree` are pure functions of their arguments apart from
finite-field key generation and ML-KEM encapsulation, which draw from libcrypto's own random source.

    initiator: generate -> public ->        -> answer at the responder
               agree    <- public <-        (with ML-KEM a ciphertext, of another length)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.asymmetric import dh, ec, mlkem, x25519

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
# draft-ietf-ipsecme-ikev2-mlkem: FIPS 203 sets whose keys `cryptography` has (512 it has not), and ciphertext octets
ML_KEM: dict[int, tuple[type[mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey], int]] = {
    KeyExchangeId.ML_KEM_768: (mlkem.MLKEM768PrivateKey, 1088),
    KeyExchangeId.ML_KEM_1024: (mlkem.MLKEM1024PrivateKey, 1568),
}
ML_KEM_PUBLIC: dict[int, tuple[type[mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey], int]] = {
    KeyExchangeId.ML_KEM_768: (mlkem.MLKEM768PublicKey, 1184),
    KeyExchangeId.ML_KEM_1024: (mlkem.MLKEM1024PublicKey, 1568),
}
ML_KEM_SEED = 64  # FIPS 203 7.1: d and z
PUBLIC_OCTETS: dict[int, int] = {
    **{method: (prime.bit_length() + 7) // 8 for method, prime in MODP_PRIMES.items()},
    # RFC 5903 7: x and y, without the leading 0x04
    **{method: 2 * octets for method, (_, octets) in CURVES.items()},
    KeyExchangeId.CURVE25519: 32,
    **{method: octets for method, (_, octets) in ML_KEM_PUBLIC.items()},
}
"""Octets of an initiator's KE payload."""
ANSWER_OCTETS: dict[int, int] = PUBLIC_OCTETS | {method: octets for method, (_, octets) in ML_KEM.items()}
"""Octets of a responder's."""
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
    def answer(self, method: int, peer_public: bytes, seed: bytes) -> tuple[bytes, bytes]: ...
    def agree(self, pair: KeyPair, peer_public: bytes) -> bytes: ...


def check_public(method: int, data: bytes, of_responder: bool = False) -> None:
    """RFC 7296 3.4: a KE payload whose length is not the method's is INVALID_SYNTAX."""
    if len(data) != (ANSWER_OCTETS if of_responder else PUBLIC_OCTETS).get(method, -1):
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
        if method in ML_KEM:
            private_key = ML_KEM[method][0].from_seed_bytes(seed[:ML_KEM_SEED])
            return KeyPair(method, private_key.public_key().public_bytes_raw(), private_key)
        return _generate_modp(method)

    def answer(self, method: int, peer_public: bytes, seed: bytes) -> tuple[bytes, bytes]:
        """The responder's KE payload and the shared secret, for what the initiator sent. PeerError as for `agree`."""
        if method in ML_KEM_PUBLIC:
            try:
                shared, ciphertext = ML_KEM_PUBLIC[method][0].from_public_bytes(peer_public).encapsulate()
            except ValueError as invalid:
                raise _refused(invalid) from None
            return ciphertext, shared
        pair = self.generate(method, seed)
        return pair.public, self.agree(pair, peer_public)

    def agree(self, pair: KeyPair, peer_public: bytes) -> bytes:
        """The shared secret g^ir; PeerError BAD_KEY_EXCHANGE for a value outside the group."""
        try:
            return _agree(pair, peer_public)
        except (ValueError, InvalidKey) as invalid:
            raise _refused(invalid) from None


def _refused(invalid: Exception) -> PeerError:
    return PeerError(Violation.BAD_KEY_EXCHANGE, str(invalid) or "invalid public value", NotifyType.INVALID_SYNTAX)


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
        # RFC 8031 3.2: the all-zero output is refused; `cryptography` raises ValueError for it
        return private.exchange(x25519.X25519PublicKey.from_public_bytes(peer_public))
    if isinstance(private, ec.EllipticCurvePrivateKey):
        # RFC 5903 7: the shared secret is the x coordinate; from_encoded_point checks that the point is on the curve
        peer = ec.EllipticCurvePublicKey.from_encoded_point(private.curve, b"\x04" + peer_public)
        return private.exchange(ec.ECDH(), peer)
    if isinstance(private, mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey):
        # FIPS 203 6.3: a wrong ciphertext of the right length gives another secret, and AUTH then fails
        return private.decapsulate(peer_public)
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
