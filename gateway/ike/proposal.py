"""Negotiating a suite (RFC 7296 2.7, 3.3): what we offer, what we accept, what was chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from gateway.ike.errors import PeerError, Violation
from gateway.ike.payloads import Proposal, SecurityAssociation, Transform
from gateway.ike.registry import (
    ADDITIONAL_KEY_EXCHANGES,
    EncryptionId,
    EsnId,
    IntegrityId,
    KeyExchangeId,
    NotifyType,
    PrfId,
    Protocol,
    TransformType,
)

ENCRYPTION_NAMES = {
    "aes-gcm-16": EncryptionId.AES_GCM_16,
    "aes-gcm-12": EncryptionId.AES_GCM_12,
    "aes-gcm-8": EncryptionId.AES_GCM_8,
    "chacha20-poly1305": EncryptionId.CHACHA20_POLY1305,
    "aes-cbc": EncryptionId.AES_CBC,
}
# RFC 7296 3.3.5: a cipher of one key length has no Key Length attribute
FIXED_KEY_BITS = {EncryptionId.CHACHA20_POLY1305: 256}
INTEGRITY_NAMES = {
    "sha1": IntegrityId.HMAC_SHA1_96,
    "sha256": IntegrityId.HMAC_SHA2_256_128,
    "sha384": IntegrityId.HMAC_SHA2_384_192,
    "sha512": IntegrityId.HMAC_SHA2_512_256,
}
PRF_NAMES = {
    "sha1": PrfId.HMAC_SHA1,
    "sha256": PrfId.HMAC_SHA2_256,
    "sha384": PrfId.HMAC_SHA2_384,
    "sha512": PrfId.HMAC_SHA2_512,
}
KEY_EXCHANGE_NAMES = {
    "modp1024": KeyExchangeId.MODP_1024,
    "modp2048": KeyExchangeId.MODP_2048,
    "modp3072": KeyExchangeId.MODP_3072,
    "modp4096": KeyExchangeId.MODP_4096,
    "ecp256": KeyExchangeId.ECP_256,
    "ecp384": KeyExchangeId.ECP_384,
    "ecp521": KeyExchangeId.ECP_521,
    "x25519": KeyExchangeId.CURVE25519,
    "mlkem768": KeyExchangeId.ML_KEM_768,
    "mlkem1024": KeyExchangeId.ML_KEM_1024,
    "none": KeyExchangeId.NONE,
}
KEY_EXCHANGES = (TransformType.KEY_EXCHANGE, *ADDITIONAL_KEY_EXCHANGES)
"""In the order in which they are done (RFC 9370 2.2.2)."""
POST_QUANTUM = frozenset({KeyExchangeId.ML_KEM_512, KeyExchangeId.ML_KEM_768, KeyExchangeId.ML_KEM_1024})
TOLD_MAX = 128
"""Transforms of a refused offer that are told: all of strongSwan's default."""
_ALL_TYPES = tuple(TransformType)
_KNOWN_TYPES = frozenset(map(int, TransformType))
# RFC 7296 3.3.3: transform types that may be absent, with the number that absence means
IMPLIED = {
    TransformType.INTEGRITY: IntegrityId.NONE,
    TransformType.KEY_EXCHANGE: KeyExchangeId.NONE,
    TransformType.ESN: EsnId.NO_ESN,
    **dict.fromkeys(ADDITIONAL_KEY_EXCHANGES, KeyExchangeId.NONE),  # RFC 9370 2.2.1
}

_Alike = dict[tuple[int, bytes], Transform]
"""Transforms of one type in order, by all else that they say: to look for one costs no more where there are hundreds."""
_NONE: _Alike = {}
_IMPLIED: dict[int, _Alike] = {int(kind): {(int(one), b""): Transform.make(kind, one)} for kind, one in IMPLIED.items()}


@dataclass(frozen=True, slots=True)
class Offer:
    """One proposal of ours: transforms in order of preference, not yet numbered."""

    protocol: Protocol
    transforms: tuple[Transform, ...]

    def of(self, kind: TransformType) -> tuple[Transform, ...]:
        return tuple(transform for transform in self.transforms if transform.type == kind)

    def without_key_exchange(self) -> Offer:
        return Offer(self.protocol, tuple(one for one in self.transforms if one.type not in KEY_EXCHANGES))

    @property
    def has_additional(self) -> bool:
        """Whether it has key exchanges beside the first, which may all be optional (RFC 9370)."""
        return any(transform.type in ADDITIONAL_KEY_EXCHANGES for transform in self.transforms)

    def numbered(self, number: int, spi: bytes) -> Proposal:
        return Proposal(number, int(self.protocol), spi, self.transforms)


@dataclass(frozen=True, slots=True)
class Choice:
    """A suite both sides agreed on; 0 where a type does not apply, and for the key bits of a fixed-length cipher."""

    encryption: int
    key_bits: int
    integrity: int = 0
    prf: int = 0
    key_exchange: int = 0
    esn: int = 0
    additional: tuple[int, ...] = ()
    """Key exchange methods after the first, in their order (RFC 9370)."""

    @property
    def post_quantum(self) -> int:
        """The key exchange method that a quantum computer does not break; 0 if there is none."""
        return next((method for method in (self.key_exchange, *self.additional) if method in POST_QUANTUM), 0)

    @property
    def key_octets(self) -> int:
        """Of the cipher key alone, said in the proposal or not."""
        return (self.key_bits or FIXED_KEY_BITS.get(EncryptionId(self.encryption), 0)) // 8

    def __str__(self) -> str:
        name = EncryptionId(self.encryption).name
        parts = [f"{name}-{self.key_bits}" if self.key_bits else name]
        if self.integrity:
            parts.append(IntegrityId(self.integrity).name)
        if self.prf:
            parts.append("PRF_" + PrfId(self.prf).name)
        if self.key_exchange:
            parts.append(KeyExchangeId(self.key_exchange).name)
        parts += [KeyExchangeId(method).name for method in self.additional]
        if self.esn:
            parts.append("ESN")
        return "/".join(parts)


def make_offer(
    protocol: Protocol,
    encryption: Iterable[tuple[str, int]],
    integrity: Iterable[str] = (),
    prf: Iterable[str] = (),
    key_exchange: Iterable[str] = (),
    esn: Iterable[bool] = (),
    additional: Iterable[tuple[int, Iterable[str]]] = (),
) -> Offer:
    """An offer from the configuration's names (gateway/config/proposals.py)."""
    kinds = TransformType
    transforms = [Transform.make(kinds.ENCRYPTION, ENCRYPTION_NAMES[name], bits) for name, bits in encryption]
    transforms += [Transform.make(kinds.PRF, PRF_NAMES[name]) for name in prf]
    transforms += [Transform.make(kinds.INTEGRITY, INTEGRITY_NAMES[name]) for name in integrity]
    transforms += [Transform.make(kinds.KEY_EXCHANGE, KEY_EXCHANGE_NAMES[name]) for name in key_exchange]
    for number, names in additional:
        kind = ADDITIONAL_KEY_EXCHANGES[number - 1]
        transforms += [Transform.make(kind, KEY_EXCHANGE_NAMES[name]) for name in names]
    if protocol is Protocol.ESP:
        transforms += [Transform.make(kinds.ESN, int(flag)) for flag in esn]
    return Offer(protocol, tuple(transforms))


def payload(offers: Iterable[Offer], spi: bytes) -> SecurityAssociation:
    """RFC 7296 3.3.1: proposals are numbered from 1."""
    return SecurityAssociation(tuple(offer.numbered(index, spi) for index, offer in enumerate(offers, 1)))


def key_exchange_methods(offers: Iterable[Offer]) -> tuple[int, ...]:
    """Every method offered, in order, once."""
    methods = dict.fromkeys(transform.id for offer in offers for transform in offer.of(TransformType.KEY_EXCHANGE))
    return tuple(method for method in methods if method != KeyExchangeId.NONE)


def _with_implied(transforms: tuple[Transform, ...], kind: TransformType) -> tuple[Transform, ...]:
    present = tuple(transform for transform in transforms if transform.type == kind)
    if present or kind not in IMPLIED:
        return present
    return (Transform.make(kind, IMPLIED[kind]),)


def _kinds(*lists: tuple[Transform, ...]) -> list[TransformType]:
    """Types that somebody speaks of, in the order in which they are negotiated; of the others both have what is implied."""
    present = {transform.type for transforms in lists for transform in transforms}
    return [kind for kind in _ALL_TYPES if kind in present]


def _by_type(transforms: Iterable[Transform]) -> dict[int, _Alike]:
    found: dict[int, _Alike] = {}
    for one in transforms:
        found.setdefault(one.type, {})[one.id, one.attributes] = one
    return found


def _match(
    ours: dict[int, _Alike], theirs: dict[int, _Alike], preferred_method: int | None
) -> tuple[Transform, ...] | None:
    chosen: list[Transform] = []
    methods: set[int] = set()
    for kind in _ALL_TYPES:
        # Of one that neither speaks of both have what is implied
        if kind not in ours and kind not in theirs:
            continue
        implied = _IMPLIED.get(kind, _NONE)
        offered = theirs.get(kind, implied)
        common = [transform for key, transform in ours.get(kind, implied).items() if key in offered]
        if kind in ADDITIONAL_KEY_EXCHANGES:
            # RFC 9370 2.2.1: no method twice
            common = [one for one in common if one.id == KeyExchangeId.NONE or one.id not in methods]
        if not common:
            return None
        kept = [one for one in common if kind == TransformType.KEY_EXCHANGE and one.id == preferred_method]
        chosen.append((kept or common)[0])
        if kind in KEY_EXCHANGES:
            methods.add(chosen[-1].id)
    return tuple(chosen) if _begin_with_the_first(chosen) else None


def _begin_with_the_first(transforms: Iterable[Transform]) -> bool:
    """RFC 9370 2.2: additional key exchanges come after one."""
    done = {one.type for one in transforms if one.type in KEY_EXCHANGES and one.id != KeyExchangeId.NONE}
    return not done or TransformType.KEY_EXCHANGE in done


def select(
    offers: Iterable[Offer], received: SecurityAssociation, protocol: Protocol, preferred_method: int | None = None
) -> Proposal:
    """The responder's choice: our order decides, the initiator's KE method is kept where it fits.

    Returns the proposal for the reply, with the initiator's number and SPI and one transform of each type.
    """
    # RFC 7296 3.3.6: a type we do not know makes the proposal unacceptable
    of_it = [(one, _by_type(one.transforms)) for one in received.proposals if one.protocol == protocol]
    possible = [(one, theirs) for one, theirs in of_it if theirs.keys() <= _KNOWN_TYPES]
    for offer in offers:
        ours = _by_type(offer.transforms)
        for proposal, theirs in possible:
            transforms = _match(ours, theirs, preferred_method)
            if transforms is not None:
                # RFC 7296 3.3: the reply repeats only what the initiator's proposal contains
                kept = tuple(one for one in transforms if (one.id, one.attributes) in theirs.get(one.type, _NONE))
                return Proposal(proposal.number, proposal.protocol, proposal.spi, kept)
    raise PeerError(
        Violation.NO_PROPOSAL,
        "peer offers " + "; ".join(_told(received.proposals)),
        NotifyType.NO_PROPOSAL_CHOSEN,
    )


def _told(proposals: tuple[Proposal, ...]) -> Iterator[str]:
    """For people; who offers hundreds of transforms is not told of in whole, for that is work, and a long line."""
    room = TOLD_MAX
    for one in proposals[:8]:
        if room > 0:
            yield f"{replace(one, transforms=one.transforms[:room])}{'/...' if len(one.transforms) > room else ''}"
        room -= len(one.transforms)


def accept(sent: SecurityAssociation, received: SecurityAssociation) -> Proposal:
    """The initiator's check: exactly one proposal, inside what we sent (RFC 7296 2.7, 3.3)."""
    if len(received.proposals) != 1:
        raise PeerError(
            Violation.NO_PROPOSAL, f"{len(received.proposals)} proposals in the answer", NotifyType.NO_PROPOSAL_CHOSEN
        )
    answer = received.proposals[0]
    for proposal in sent.proposals:
        if proposal.protocol != answer.protocol or (proposal.number != answer.number and len(sent.proposals) > 1):
            continue
        if _lies_within(proposal, answer):
            return answer
    raise PeerError(
        Violation.NO_PROPOSAL, f"peer chose {answer}, which we did not offer", NotifyType.NO_PROPOSAL_CHOSEN
    )


def _lies_within(offered: Proposal, answered: Proposal) -> bool:
    """One transform of each type that was offered, an absent one counting as what it implies; nothing else."""
    if any(transform.type not in _ALL_TYPES for transform in answered.transforms):
        return False
    for kind in _kinds(offered.transforms, answered.transforms):
        inside, chosen = _with_implied(offered.transforms, kind), _with_implied(answered.transforms, kind)
        # Interop: OpenIKED 7.2 answers a CHILD_SA rekey that has KE transforms without one, hence without PFS
        if kind == TransformType.KEY_EXCHANGE and offered.protocol != Protocol.IKE:
            inside += _with_implied((), kind)
        if len(chosen) > 1 or not set(chosen) <= set(inside) or (inside and not chosen):
            return False
    methods = [one.id for one in answered.transforms if one.type in KEY_EXCHANGES and one.id != KeyExchangeId.NONE]
    return len(methods) == len(set(methods)) and _begin_with_the_first(answered.transforms)


def choice_of(proposal: Proposal) -> Choice:
    """The suite of a proposal with one transform of each type."""
    values = {transform.type: transform for transform in proposal.transforms}

    def number(kind: TransformType) -> int:
        return values[kind].id if kind in values else 0

    encryption = values[TransformType.ENCRYPTION]
    return Choice(
        encryption.id,
        encryption.key_bits,
        number(TransformType.INTEGRITY),
        number(TransformType.PRF),
        number(TransformType.KEY_EXCHANGE),
        number(TransformType.ESN),
        tuple(method for kind in ADDITIONAL_KEY_EXCHANGES if (method := number(kind)) != KeyExchangeId.NONE),
    )


def is_lowest(choice: Choice, offers: Iterable[Offer]) -> bool:
    """Whether the peer took the lowest number of each kind of which several were offered, and not what we prefer.

    Interop: AWS's default tunnel options, whatever the other end prefers."""
    offer = next((one for one in offers if _chosen_of(choice, one)), None)
    if offer is None:
        return False
    kinds = [(_values(offer, kind), chosen) for kind, chosen in _numbers(choice).items() if chosen[0]]
    open_ones = [(values, chosen) for values, chosen in kinds if len(values) > 1]
    # Of one kind alone it may be all that the peer has
    lowest = len(open_ones) > 1 and all(chosen == min(values) for values, chosen in open_ones)
    return lowest and any(chosen != values[0] for values, chosen in open_ones)


def _chosen_of(choice: Choice, offer: Offer) -> bool:
    return all(not chosen[0] or chosen in _values(offer, kind) for kind, chosen in _numbers(choice).items())


def _values(offer: Offer, kind: TransformType) -> list[tuple[int, int]]:
    """(number, key bits), in our order."""
    return [(int(one.id), one.key_bits or 0) for one in offer.of(kind)]


def _numbers(choice: Choice) -> dict[TransformType, tuple[int, int]]:
    return {
        TransformType.ENCRYPTION: (choice.encryption, choice.key_bits),
        TransformType.PRF: (choice.prf, 0),
        TransformType.INTEGRITY: (choice.integrity, 0),
        TransformType.KEY_EXCHANGE: (choice.key_exchange, 0),
    }
