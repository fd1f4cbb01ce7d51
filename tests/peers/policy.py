"""What an emulated cloud peer accepts, offers and does, as data; the tables are in azure.py and aws.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gateway.ike.payloads import Transform
from gateway.ike.proposal import Offer, make_offer
from gateway.ike.registry import Protocol, TransformType

TRIPLE_DES = 3
"""ENCR_3DES, which gatewayd does not have: it is offered, and never chosen."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One peer. Times in seconds, as the service documents them; a test scales those it waits for."""

    name: str
    ike: tuple[Offer, ...]
    """Accepted and offered for an IKE_SA."""
    esp_accepted: tuple[Offer, ...]
    esp_offered: tuple[Offer, ...]
    """When it asks for the CHILD_SA or its rekey itself."""
    ike_at_rekey: tuple[Offer, ...] = ()
    """When it rekeys the IKE_SA itself; empty: as `ike`."""
    ike_life: float = 28_800
    child_life: float = 3_600
    dpd_delay: float = 10
    lowest_value: bool = False
    """Its own lowest numbers win, whatever the other end prefers and whichever KE it sent."""
    never_initiates: bool = False
    idle: float = 0
    """Closes an IKE_SA whose CHILD_SAs carried nothing for so long. 0: never."""
    vendor_ids: tuple[bytes, ...] = ()

    def with_(self, **changes: object) -> Policy:
        return replace(self, **changes)  # type: ignore[arg-type]


def ike(encryption: Iterable[tuple[str, int]], hashes: Iterable[str], groups: Iterable[str]) -> Offer:
    """One IKE proposal; the hashes are integrity and PRF, with AEAD the PRF alone."""
    ciphers, names = tuple(encryption), tuple(hashes)
    aead = ciphers[0][0] != "aes-cbc"
    return make_offer(Protocol.IKE, ciphers, () if aead else names, names, groups)


def esp(encryption: Iterable[tuple[str, int]], hashes: Iterable[str] = (), groups: Iterable[str] = ()) -> Offer:
    """One ESP proposal, without extended sequence numbers, as both services; a group `none` beside others: PFS or not."""
    return make_offer(Protocol.ESP, encryption, hashes, (), groups, (False,))


def triple_des(offer: Offer) -> Offer:
    """The same with 3DES in the place of the cipher."""
    kept = tuple(one for one in offer.transforms if one.type != TransformType.ENCRYPTION)
    return Offer(offer.protocol, (Transform.make(TransformType.ENCRYPTION, TRIPLE_DES), *kept))
