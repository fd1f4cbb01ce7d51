"""The only holder of SK_*: key derivation (RFC 7296 2.13, 2.14, 2.17, 2.18) and the SK envelope (3.14).

SKEYSEED = prf(Ni | Nr, g^ir)                        first IKE_SA
SKEYSEED = prf(SK_d (old), g^ir | Ni | Nr)           rekeyed IKE_SA
SKEYSEED = prf(SK_d (old), g^ir | Ni | Nr | SK(1) | ... | SK(n))   with additional key exchanges (RFC 9370 2.2.4)
{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)
KEYMAT = prf+(SK_d, [g^ir |] Ni | Nr)                CHILD_SA
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from gateway.contract import RandomSource
from gateway.ike.errors import LocalError, PeerError, Violation
from gateway.ike.message import (
    HEADER_OCTETS,
    PAYLOAD_HEADER_OCTETS,
    Header,
    Message,
    emit_chain,
    parse_chain,
    sealed_prefix,
)
from gateway.ike.payloads import EncryptedFragment, Payload
from gateway.ike.proposal import Choice
from gateway.ike.registry import EncryptionId, IntegrityId, NotifyType, PrfId

PRF_HASH = {
    PrfId.HMAC_SHA1: "sha1",
    PrfId.HMAC_SHA2_256: "sha256",
    PrfId.HMAC_SHA2_384: "sha384",
    PrfId.HMAC_SHA2_512: "sha512",
}
PRF_OCTETS = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
# (hash, key octets, ICV octets): RFC 2404, RFC 4868
INTEGRITY = {
    IntegrityId.HMAC_SHA1_96: ("sha1", 20, 12),
    IntegrityId.HMAC_SHA2_256_128: ("sha256", 32, 16),
    IntegrityId.HMAC_SHA2_384_192: ("sha384", 48, 24),
    IntegrityId.HMAC_SHA2_512_256: ("sha512", 64, 32),
}
AEAD_SALT, AEAD_IV = 4, 8  # RFC 5282 4, 7.1; RFC 7634 3
AEAD_ICV = {
    EncryptionId.AES_GCM_16: 16,
    EncryptionId.AES_GCM_12: 12,
    EncryptionId.AES_GCM_8: 8,
    EncryptionId.CHACHA20_POLY1305: 16,
}
BLOCK = 16
PAD_MAX = 255  # RFC 7296 3.14
FRAGMENT_OCTETS = 4  # RFC 7383 2.5: number and total


def prf(method: int, key: bytes, data: bytes) -> bytes:
    """RFC 7296 2.13 with the HMAC PRFs."""
    return hmac.digest(key, data, PRF_HASH[PrfId(method)])


def check_nonce(method: int, nonce: bytes) -> None:
    """Against the PRF agreed on; that it has 16 to 256 octets is grammar.py's."""
    # RFC 7296 2.10: at least half the key size of the PRF, which for HMAC is what it gives (RFC 4868 2.1.2)
    least = PRF_OCTETS[PRF_HASH[PrfId(method)]] // 2
    if len(nonce) < least:
        text = f"nonce of {len(nonce)} octets, {PrfId(method).name} needs {least}"
        raise PeerError(Violation.BAD_NONCE, text, NotifyType.INVALID_SYNTAX)


def prf_plus(method: int, key: bytes, seed: bytes, count: int) -> bytes:
    """RFC 7296 2.13: prf+ (K,S) = T1 | T2 | ...; `count` octets of it."""
    output, block, index = b"", b"", 1
    while len(output) < count:
        block = prf(method, key, block + seed + bytes([index]))
        output += block
        index += 1
    return output[:count]


def encryption_key_octets(choice: Choice) -> int:
    """The cipher key plus an AEAD's salt (RFC 5282 7.1, RFC 7634 3)."""
    return choice.key_octets + (AEAD_SALT if choice.encryption in AEAD_ICV else 0)


def integrity_key_octets(choice: Choice) -> int:
    return INTEGRITY[IntegrityId(choice.integrity)][1] if choice.integrity else 0


@dataclass(slots=True)
class Envelope:
    """Seals or opens the SK payload in one direction."""

    choice: Choice
    encryption_key: bytes = field(repr=False)
    integrity_key: bytes = field(repr=False)
    sealed: int = 0

    @property
    def _aead(self) -> bool:
        return self.choice.encryption in AEAD_ICV

    @property
    def _icv_octets(self) -> int:
        if self._aead:
            return AEAD_ICV[EncryptionId(self.choice.encryption)]
        return INTEGRITY[IntegrityId(self.choice.integrity)][2]

    def overhead(self, plaintext_octets: int, least: int = 0) -> int:
        """Octets of IV, padding, pad length and ICV around a plaintext. `least`: an AEAD pads shorter ones up to that."""
        if self._aead:
            return AEAD_IV + _pad(plaintext_octets, least) + 1 + self._icv_octets
        padding = -(plaintext_octets + 1) % BLOCK
        return BLOCK + padding + 1 + self._icv_octets

    def capacity(self, octets: int) -> int:
        """The longest plaintext whose sealed form, IV and ICV included, takes no more than that."""
        if self._aead:
            return octets - self.overhead(0)
        return (octets - BLOCK - self._icv_octets) // BLOCK * BLOCK - 1

    def seal(self, prefix: bytes, plaintext: bytes, random: RandomSource, least: int = 0) -> bytes:
        """IV | ciphertext | ICV; `prefix` is everything of the message before the IV."""
        if self._aead:
            return self._seal_aead(prefix, plaintext, _pad(len(plaintext), least))
        padding = -(len(plaintext) + 1) % BLOCK
        iv = random.octets(BLOCK)
        encryptor = Cipher(algorithms.AES(self.encryption_key), modes.CBC(iv)).encryptor()
        body = iv + encryptor.update(plaintext + bytes(padding) + bytes([padding])) + encryptor.finalize()
        return body + self._icv(prefix + body)

    def _seal_aead(self, prefix: bytes, plaintext: bytes, pad: int) -> bytes:
        # RFC 5282 3.1: the IV is a counter, never repeated under one key
        self.sealed += 1
        iv = self.sealed.to_bytes(AEAD_IV, "big")
        # RFC 5282 3, RFC 7634 3: no padding is needed, any is taken
        text = plaintext + bytes(pad) + bytes([pad])
        # RFC 4106 6: a shorter ICV is the beginning of the long one
        return iv + self._cipher().encrypt(self._salt + iv, text, prefix)[: len(text) + self._icv_octets]

    def _cipher(self) -> AESGCM | ChaCha20Poly1305:
        key = self.encryption_key[:-AEAD_SALT]
        return ChaCha20Poly1305(key) if self.choice.encryption == EncryptionId.CHACHA20_POLY1305 else AESGCM(key)

    @property
    def _salt(self) -> bytes:
        return self.encryption_key[-AEAD_SALT:]

    def _icv(self, data: bytes) -> bytes:
        name, _, octets = INTEGRITY[IntegrityId(self.choice.integrity)]
        return hmac.digest(self.integrity_key, data, name)[:octets]

    def open(self, prefix: bytes, data: bytes) -> bytes:
        """The plaintext; PeerError BAD_ICV for anything that does not verify. One failure for all causes."""
        plaintext = self._open_aead(prefix, data) if self._aead else self._open_cbc(prefix, data)
        if not plaintext or plaintext[-1] >= len(plaintext):
            raise PeerError(Violation.MALFORMED, "padding of the SK payload")
        return plaintext[: len(plaintext) - 1 - plaintext[-1]]

    def _open_aead(self, prefix: bytes, data: bytes) -> bytes:
        if len(data) < AEAD_IV + self._icv_octets + 1:
            raise PeerError(Violation.BAD_ICV, "SK payload too short")
        nonce, sealed = self._salt + data[:AEAD_IV], data[AEAD_IV:]
        try:
            if self.choice.encryption in (EncryptionId.AES_GCM_12, EncryptionId.AES_GCM_8):
                return self._open_truncated(prefix, nonce, sealed)
            return self._cipher().decrypt(nonce, sealed, prefix)
        except InvalidTag:
            raise PeerError(Violation.BAD_ICV) from None

    def _open_truncated(self, prefix: bytes, nonce: bytes, sealed: bytes) -> bytes:
        octets = self._icv_octets
        mode = modes.GCM(nonce, sealed[-octets:], min_tag_length=octets)
        decryptor = Cipher(algorithms.AES(self.encryption_key[:-AEAD_SALT]), mode).decryptor()
        decryptor.authenticate_additional_data(prefix)
        return decryptor.update(sealed[:-octets]) + decryptor.finalize()

    def _open_cbc(self, prefix: bytes, data: bytes) -> bytes:
        octets = self._icv_octets
        body, icv = data[:-octets], data[-octets:]
        if len(body) < 2 * BLOCK or len(body) % BLOCK:
            raise PeerError(Violation.BAD_ICV, "SK payload of a wrong length")
        if not hmac.compare_digest(self._icv(prefix + body), icv):
            raise PeerError(Violation.BAD_ICV)
        decryptor = Cipher(algorithms.AES(self.encryption_key), modes.CBC(body[:BLOCK])).decryptor()
        return decryptor.update(body[BLOCK:]) + decryptor.finalize()


def _pad(octets: int, least: int) -> int:
    return min(max(0, least - octets), PAD_MAX)


RESUMED = 1 << 16
"""IVs left out by a process that resumes an IKE_SA: more than any step between what is kept and what is sent can use."""


@dataclass(frozen=True, slots=True)
class KeptKeys:
    """The keys of an established IKE_SA for the next process. `sealed`: how many IVs were used."""

    choice: Choice
    is_initiator: bool
    sealed: int
    sk_d: bytes = field(repr=False)
    sealing: tuple[bytes, bytes] = field(repr=False)
    opening: tuple[bytes, bytes] = field(repr=False)
    sk_p: tuple[bytes, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChildKeys:
    """RFC 7296 2.17: keys of one CHILD_SA by direction of the exchange that made it."""

    initiator_encryption: bytes = field(repr=False)
    initiator_integrity: bytes = field(repr=False)
    responder_encryption: bytes = field(repr=False)
    responder_integrity: bytes = field(repr=False)


class IkeKeys:
    """The keys of one IKE_SA, seen from one side."""

    __slots__ = (
        "_said", "_sk_d", "_sk_pi", "_sk_pr", "choice", "intermediates", "is_initiator", "opening", "rounds", "sealing"
    )  # fmt: skip

    def __init__(self, choice: Choice, skeyseed: bytes, nonces: bytes, spis: bytes, is_initiator: bool) -> None:
        method = choice.prf
        d, e, a = PRF_OCTETS[PRF_HASH[PrfId(method)]], encryption_key_octets(choice), integrity_key_octets(choice)
        material = prf_plus(method, skeyseed, nonces + spis, 3 * d + 2 * e + 2 * a)
        parts = []
        for octets in (d, a, a, e, e, d, d):
            parts.append(material[:octets])
            material = material[octets:]
        self._sk_d, ai, ar, ei, er, self._sk_pi, self._sk_pr = parts
        self.choice = choice
        self.is_initiator = is_initiator
        self.rounds = 0
        self.intermediates = 0
        """IKE_INTERMEDIATE exchanges that are over: a round each, and one more where there was something else to say."""
        self._said = {True: b"", False: b""}
        initiator, responder = Envelope(choice, ei, ai), Envelope(choice, er, ar)
        self.sealing, self.opening = (initiator, responder) if is_initiator else (responder, initiator)

    @classmethod
    def initial(cls, choice: Choice, shared: bytes, ni: bytes, nr: bytes, spis: bytes, is_initiator: bool) -> IkeKeys:
        """RFC 7296 2.14."""
        return cls(choice, prf(choice.prf, ni + nr, shared), ni + nr, spis, is_initiator)

    def rekeyed(
        self, choice: Choice, shared: bytes, ni: bytes, nr: bytes, spis: bytes, is_initiator: bool, later: bytes = b""
    ) -> IkeKeys:
        """RFC 7296 2.18: SKEYSEED with the *old* PRF, the rest with the new. `later`: SK(1) | ... (RFC 9370 2.2.4)."""
        seed = prf(self.choice.prf, self._sk_d, shared + ni + nr + later)
        return IkeKeys(choice, seed, ni + nr, spis, is_initiator)

    def after_intermediate(self, shared: bytes, ni: bytes, nr: bytes, spis: bytes) -> IkeKeys:
        """RFC 9370 2.2.2: SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr), and all keys from it."""
        keys = self.rekeyed(self.choice, shared, ni, nr, spis, self.is_initiator)
        keys.rounds, keys.intermediates, keys._said = self.rounds + 1, self.intermediates, self._said
        return keys

    def absorb(self, message: bytes, of_initiator: bool) -> None:
        """RFC 9242 3.3.2: IntAuth_i or IntAuth_r goes on by an IKE_INTERMEDIATE message (message.intermediate_octets)."""
        key = self._sk_pi if of_initiator else self._sk_pr
        said = prf(self.choice.prf, key, self._said[of_initiator] + message)
        self._said = self._said | {of_initiator: said}
        self.intermediates += not of_initiator

    def mixed(self, ppk: bytes) -> IkeKeys:
        """RFC 8784 3: SK_d, SK_pi and SK_pr from themselves and the PPK. What seals and opens stays the same."""
        keys = IkeKeys.__new__(IkeKeys)
        keys.choice, keys.is_initiator, keys.sealing, keys.opening = (
            self.choice, self.is_initiator, self.sealing, self.opening
        )  # fmt: skip
        keys.rounds, keys.intermediates, keys._said = self.rounds, self.intermediates, self._said
        keys._sk_d, keys._sk_pi, keys._sk_pr = (
            prf_plus(self.choice.prf, ppk, secret, len(secret)) for secret in (self._sk_d, self._sk_pi, self._sk_pr)
        )
        return keys

    def kept(self) -> KeptKeys:
        """Of an IKE_SA whose IKE_AUTH is over."""
        sealing, opening = self.sealing, self.opening
        return KeptKeys(
            self.choice, self.is_initiator, sealing.sealed, self._sk_d,
            (sealing.encryption_key, sealing.integrity_key), (opening.encryption_key, opening.integrity_key),
            (self._sk_pi, self._sk_pr),
        )  # fmt: skip

    @classmethod
    def resumed(cls, kept: KeptKeys) -> IkeKeys:
        """No IV of before is used again (RFC 5282 3.1)."""
        keys = cls.__new__(cls)
        keys.choice, keys.is_initiator = kept.choice, kept.is_initiator
        keys.rounds = keys.intermediates = 0
        keys._said = {True: b"", False: b""}
        keys._sk_d, (keys._sk_pi, keys._sk_pr) = kept.sk_d, kept.sk_p
        keys.sealing = Envelope(kept.choice, *kept.sealing, kept.sealed + RESUMED)
        keys.opening = Envelope(kept.choice, *kept.opening)
        return keys

    def child(self, choice: Choice, shared: bytes, ni: bytes, nr: bytes, later: bytes = b"") -> ChildKeys:
        """RFC 7296 2.17; `shared` is empty without PFS. `later`: SK(1) | ... (RFC 9370 2.2.4)."""
        e, a = encryption_key_octets(choice), integrity_key_octets(choice)
        material = prf_plus(self.choice.prf, self._sk_d, shared + ni + nr + later, 2 * (e + a))
        return ChildKeys(material[:e], material[e : e + a], material[e + a : 2 * e + a], material[2 * e + a :])

    def signed_octets(self, message: bytes, peer_nonce: bytes, identity: bytes, of_initiator: bool) -> bytes:
        """RFC 7296 2.15: RealMessage | NonceData | prf(SK_p, RestOfId) [| IntAuth]."""
        key = self._sk_pi if of_initiator else self._sk_pr
        return message + peer_nonce + prf(self.choice.prf, key, identity) + self._int_auth

    @property
    def _int_auth(self) -> bytes:
        """RFC 9242 3.3.2: IntAuth_iN | IntAuth_rN | IKE_AUTH_MID, once there was an IKE_INTERMEDIATE."""
        if not self.intermediates:
            return b""
        # RFC 7296 2.2: IKE_SA_INIT has message ID 0, each IKE_INTERMEDIATE the next, and then comes IKE_AUTH
        return self._said[True] + self._said[False] + (self.intermediates + 1).to_bytes(4, "big")

    def secrets_for_keylog(self) -> dict[str, bytes]:
        """For observe/keylog only, which the operator has to switch on."""
        first, second = (self.sealing, self.opening) if self.is_initiator else (self.opening, self.sealing)
        return {
            "SK_d": self._sk_d,
            "SK_ei": first.encryption_key,
            "SK_er": second.encryption_key,
            "SK_ai": first.integrity_key,
            "SK_ar": second.integrity_key,
            "SK_pi": self._sk_pi,
            "SK_pr": self._sk_pr,
        }


def seal_message(
    keys: IkeKeys, header: Header, payloads: tuple[Payload, ...], random: RandomSource, at_least: int = 0
) -> bytes:
    """A whole sealed message, of `at_least` so many octets."""
    first, plaintext = emit_chain(payloads)
    least = at_least - HEADER_OCTETS - PAYLOAD_HEADER_OCTETS - keys.sealing.overhead(0)
    length = len(plaintext) + keys.sealing.overhead(len(plaintext), least)
    prefix = sealed_prefix(header, first, length)
    sealed = keys.sealing.seal(prefix, plaintext, random, least)
    if len(sealed) != length:
        raise LocalError(f"sealed {len(sealed)} octets, announced {length}")
    return prefix + sealed


def seal_fragments(
    keys: IkeKeys,
    header: Header,
    payloads: tuple[Payload, ...],
    random: RandomSource,
    largest: int,
    at_least: int = 0,
) -> tuple[bytes, ...]:
    """The message in pieces of at most `largest` octets each (RFC 7383 2.5), or whole where it is no larger."""
    first, plaintext = emit_chain(payloads)
    if HEADER_OCTETS + PAYLOAD_HEADER_OCTETS + len(plaintext) + keys.sealing.overhead(len(plaintext)) <= largest:
        return (seal_message(keys, header, payloads, random, at_least),)
    room = keys.sealing.capacity(largest - HEADER_OCTETS - PAYLOAD_HEADER_OCTETS - FRAGMENT_OCTETS)
    pieces = [plaintext[start : start + room] for start in range(0, len(plaintext), room)]
    sealed = []
    for number, piece in enumerate(pieces, 1):
        octets = len(piece) + keys.sealing.overhead(len(piece))
        prefix = sealed_prefix(header, first if number == 1 else 0, octets, (number, len(pieces)))
        sealed.append(prefix + keys.sealing.seal(prefix, piece, random))
    return tuple(sealed)


def open_fragment(keys: IkeKeys, message: Message, fragment: EncryptedFragment) -> bytes:
    """The plaintext of one fragment. PeerError BAD_ICV changes nothing anywhere."""
    if len(message.payloads) != 1:
        raise PeerError(Violation.GRAMMAR, "payloads outside SKF")
    prefix = message.octets[: len(message.octets) - len(fragment.data)]
    return keys.opening.open(prefix, fragment.data)


def open_message(keys: IkeKeys, message: Message) -> Message:
    """The message with its inner payloads. PeerError BAD_ICV changes nothing anywhere."""
    envelope = message.encrypted
    if envelope is None:
        raise PeerError(Violation.GRAMMAR, "no SK payload")
    if len(message.payloads) != 1:
        raise PeerError(Violation.GRAMMAR, "payloads outside SK")
    prefix = message.octets[: len(message.octets) - len(envelope.data)]
    plaintext = keys.opening.open(prefix, envelope.data)
    inner = (envelope.first_inner, plaintext)
    return Message(message.header, parse_chain(plaintext, envelope.first_inner), message.octets, inner)
