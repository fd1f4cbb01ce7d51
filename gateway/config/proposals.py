"""Proposal strings in strongSwan's spelling, as values that name no wire format.

`aes256gcm16-prfsha384-ecp384`, `aes256-sha256-modp2048`: keywords joined by `-`, several of a kind
allowed, the first of a kind preferred. What they become on the wire is `ike/proposal.py`'s business.
`ke1_mlkem768` to `ke7_...` are key exchanges after the first (RFC 9370); `ke1_none` beside it makes that one optional.

RFC 7296 3.3 (proposals and transforms), RFC 8247 and RFC 8221 (which algorithms are still advisable).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from gateway.config.guess import did_you_mean

T = TypeVar("T")


class ProposalError(ValueError):
    """A proposal string that means nothing, or nothing safe; the text says what to write."""


@dataclass(frozen=True, slots=True)
class ProposalSpec:
    """One proposal: the transforms offered of each type, preferred first."""

    encryption: tuple[tuple[str, int], ...]
    """(name, key bits): "aes-gcm-16" | "aes-gcm-12" | "aes-gcm-8" | "chacha20-poly1305", or "aes-cbc"; never an AEAD
    and CBC in one proposal. Key bits are 0 where the cipher has one key length only (RFC 7296 3.3.5)."""
    integrity: tuple[str, ...] = ()
    """sha1 | sha256 | sha384 | sha512; empty for AEAD."""
    prf: tuple[str, ...] = ()
    """Same names as integrity; empty for ESP."""
    key_exchange: tuple[str, ...] = ()
    """modp1024 | modp2048 | modp3072 | modp4096 | ecp256 | ecp384 | ecp521 | x25519; empty for ESP means no PFS."""
    esn: tuple[bool, ...] = ()
    """Extended sequence numbers, preferred first; empty for IKE."""
    additional: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """(1 to 7, names) of key exchanges after the first; names as in key_exchange, and mlkem768 | mlkem1024 | none."""

    @property
    def aead(self) -> bool:
        """Whether encryption brings its own integrity."""
        return self.encryption[0][0] != CBC

    @property
    def post_quantum(self) -> bool:
        """Whether it cannot be chosen without ML-KEM."""
        return any(set(names) <= set(_ML_KEM) for _, names in self.additional)

    def with_ml_kem(self) -> ProposalSpec:
        """The same with ML-KEM-768 after its other key exchanges."""
        if self.post_quantum:
            return self
        free = next(number for number in range(1, 8) if number not in dict(self.additional))
        return replace(self, additional=tuple(sorted((*self.additional, (free, ("mlkem768",))))))


CBC = "aes-cbc"
CHACHA = "chacha20-poly1305"

_AES_BITS = (128, 192, 256)
_ENCRYPTION: dict[str, tuple[str, int]] = {
    **{f"aes{bits}": (CBC, bits) for bits in _AES_BITS},
    **{f"aes{bits}gcm{icv}": (f"aes-gcm-{icv}", bits) for icv in (16, 12, 8) for bits in _AES_BITS},
    "chacha20poly1305": (CHACHA, 0),
}
# The same with the length of the integrity check value in bits.
_ENCRYPTION_ALIASES = {f"aes{bits}gcm{8 * icv}": (f"aes-gcm-{icv}", bits) for icv in (16, 12, 8) for bits in _AES_BITS}
_ANY_ENCRYPTION = _ENCRYPTION | _ENCRYPTION_ALIASES
_HASHES = {
    "sha1": "sha1",
    "sha": "sha1",
    "sha256": "sha256",
    "sha2_256": "sha256",
    "sha384": "sha384",
    "sha2_384": "sha384",
    "sha512": "sha512",
    "sha2_512": "sha512",
}
_PRF = {f"prfsha{bits}": f"sha{bits}" for bits in (1, 256, 384, 512)}
_GROUPS = ("ecp256", "ecp384", "ecp521", "x25519", "modp2048", "modp3072", "modp4096", "modp1024")
_KEY_EXCHANGE = {group: group for group in _GROUPS} | {"curve25519": "x25519"}
_ML_KEM = ("mlkem768", "mlkem1024")
_ADDITIONAL = {
    f"ke{number}_{name}": (number, method)
    for number in range(1, 8)
    for name, method in (_KEY_EXCHANGE | {name: name for name in (*_ML_KEM, "none")}).items()
}
_ESN = {"esn": True, "noesn": False}

# What other implementations know and this one refuses, with the reason.
_REFUSED = {
    "3des": "64-bit blocks (RFC 8221 5)",
    "des": "56-bit keys (RFC 8221 5)",
    "null": "it does not encrypt",
    "md5": "MD5 is broken (RFC 8221 6)",
    "prfmd5": "MD5 is broken (RFC 8247 2.2)",
    "modp768": "a 768-bit group can be broken (RFC 8247 2.4)",
    **{
        name: f"alone it would be all that protects, in a message that cannot be fragmented; write x25519-ke1_{name}"
        for name in _ML_KEM
    },
    **{f"ke{number}_mlkem512": "the library has no ML-KEM-512; use mlkem768" for number in range(1, 8)},
    "modp1536": "a 1536-bit group is too weak; use modp2048 (RFC 8247 2.4)",
}
_WEAK = {
    **{
        f"aes-gcm-{icv}": f"gcm{icv} cuts the integrity check value to {icv} octets: forged packets pass more easily than "
        f"with 16, for {16 - icv} octets saved a packet (RFC 4106 6, RFC 8221 5); use gcm16 as soon as the peer can"
        for icv in (12, 8)
    },
    "modp1024": "modp1024 is a 1024-bit group, within reach of a state-sized attacker (RFC 8247 2.4); "
    "use modp2048 or ecp256 as soon as the peer can",
}


def parse_ike_proposal(text: str) -> ProposalSpec:
    """An IKE proposal: encryption, integrity unless AEAD, PRF, key exchange."""
    spec = _parse(text)
    if spec.esn:
        raise ProposalError(f"'{text}': esn and noesn belong in esp_proposals; IKE has no sequence numbers of ESP")
    if not spec.key_exchange:
        raise ProposalError(f"'{text}' lacks a key exchange method, e.g. '{text}-ecp256'; one of {', '.join(_GROUPS)}")
    if spec.prf:
        return spec
    if spec.aead:
        raise ProposalError(
            f"'{text}' lacks a PRF, which AEAD cannot imply, e.g. '{_with_prf(text)}'; one of {', '.join(_PRF)}"
        )
    return replace(spec, prf=spec.integrity)


def parse_esp_proposal(text: str) -> ProposalSpec:
    """An ESP proposal: encryption, integrity unless AEAD, optionally key exchange (PFS) and ESN."""
    spec = _parse(text)
    if spec.additional and not spec.key_exchange:
        raise ProposalError(f"'{text}': ke{spec.additional[0][0]}_... comes after a first key exchange, e.g. x25519")
    if spec.prf:
        raise ProposalError(f"'{text}': ESP has no PRF; remove {', '.join(f'prf{name}' for name in spec.prf)}")
    # RFC 7296 3.3.2: both ESN values may be offered; without a word we prefer ESN and accept its absence.
    return ProposalSpec(
        spec.encryption, spec.integrity, (), spec.key_exchange, spec.esn or (True, False), spec.additional
    )


def weaknesses(spec: ProposalSpec) -> tuple[str, ...]:
    """What is weak in a proposal that is allowed all the same."""
    names = dict.fromkeys([*(name for name, _ in spec.encryption), *spec.key_exchange])
    return tuple(_WEAK[name] for name in names if name in _WEAK)


def keywords() -> dict[str, tuple[str, ...]]:
    """Every keyword by transform type, aliases left out, for messages and the reference."""
    return {
        "encryption": tuple(_ENCRYPTION),
        "integrity": tuple(dict.fromkeys(_HASHES.values())),
        "PRF": tuple(_PRF),
        "key exchange": _GROUPS,
        "key exchanges after it": (*(f"ke1_{name}" for name in (*_ML_KEM, "GROUP", "none")), "...", "ke7_none"),
        "ESN": tuple(_ESN),
    }


def _parse(text: str) -> ProposalSpec:
    tokens = text.strip().lower().split("-")
    if tokens == [""]:
        raise ProposalError("the proposal is empty; write it as 'aes256gcm16-prfsha384-ecp384'")
    for token in tokens:
        _check_known(text, token)
    spec = ProposalSpec(
        _unique(_ANY_ENCRYPTION[t] for t in tokens if t in _ANY_ENCRYPTION),
        _unique(_HASHES[t] for t in tokens if t in _HASHES),
        _unique(_PRF[t] for t in tokens if t in _PRF),
        _unique(_KEY_EXCHANGE[t] for t in tokens if t in _KEY_EXCHANGE),
        _unique(_ESN[t] for t in tokens if t in _ESN),
        _rounds(tokens),
    )
    _check_encryption(text, spec)
    _check_rounds(text, spec)
    return spec


def _check_known(text: str, token: str) -> None:
    if token in _REFUSED:
        raise ProposalError(f"'{text}': {token} is not supported: {_REFUSED[token]}")
    known = [*_ENCRYPTION, *_HASHES, *_PRF, *_KEY_EXCHANGE, *_ADDITIONAL, *_ESN]
    if token in known or token in _ENCRYPTION_ALIASES:
        return
    if token == "":
        raise ProposalError(f"'{text}': a keyword is missing beside '-'")
    allowed = "; ".join(f"{kind} {' '.join(names)}" for kind, names in keywords().items())
    raise ProposalError(f"'{text}': unknown keyword '{token}'; allowed: {allowed}{did_you_mean(token, known)}")


def _rounds(tokens: list[str]) -> tuple[tuple[int, tuple[str, ...]], ...]:
    pairs = [_ADDITIONAL[token] for token in tokens if token in _ADDITIONAL]
    return tuple((number, _unique(name for n, name in pairs if n == number)) for number in sorted(dict(pairs)))


def _check_encryption(text: str, spec: ProposalSpec) -> None:
    kinds = {kind for kind, _ in spec.encryption}
    combined = " and ".join(dict.fromkeys(_spoken(kind) for kind, _ in spec.encryption if kind != CBC))
    if not kinds:
        raise ProposalError(f"'{text}' lacks an encryption algorithm, e.g. 'aes256gcm16-{text}'")
    # RFC 7296 3.3: AEAD and other ciphers must be offered in separate proposals.
    if combined and CBC in kinds:
        raise ProposalError(f"'{text}' mixes {combined} with AES-CBC; write two proposals, one for each")
    if combined and spec.integrity:
        names, meant = ", ".join(spec.integrity), ", ".join(f"prf{name}" for name in spec.integrity)
        raise ProposalError(
            f"'{text}': {combined} has its own integrity; remove {names} (if the PRF is meant: {meant})"
        )
    if kinds == {CBC} and not spec.integrity:
        raise ProposalError(f"'{text}' lacks an integrity algorithm, e.g. sha256")


def _check_rounds(text: str, spec: ProposalSpec) -> None:
    """RFC 9370 2.2.1: no method twice; two ends that both insist on it never agree."""
    named = [*spec.key_exchange, *(name for _, names in spec.additional for name in names if name != "none")]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise ProposalError(f"'{text}': {twice} is named for two key exchanges; each has to be another one (RFC 9370)")


def _spoken(kind: str) -> str:
    return "ChaCha20-Poly1305" if kind == CHACHA else "AES-GCM"


def _with_prf(text: str) -> str:
    tokens = text.strip().lower().split("-")
    last = max(index for index, token in enumerate(tokens) if token in _ANY_ENCRYPTION)
    return "-".join([*tokens[: last + 1], "prfsha384", *tokens[last + 1 :]])


def _unique(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))
