"""NAT detection (RFC 7296 2.23)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from gateway.contract import Endpoint
from gateway.ike.message import Message
from gateway.ike.payloads import Notify
from gateway.ike.registry import NotifyType

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

HASH_OCTETS = 20


@dataclass(frozen=True, slots=True)
class NatResult:
    """`supported`: the peer sent NAT_DETECTION notifications at all."""

    supported: bool = False
    local: bool = False
    remote: bool = False

    def describe(self, forced: bool) -> str:
        if self.local and self.remote:
            return "both"
        if self.local or self.remote:
            return "local" if self.local else "remote"
        return "forced" if forced else ""


def detection_hash(initiator_spi: int, responder_spi: int, endpoint: Endpoint) -> bytes:
    """SHA-1 of SPIs, address and port; no security rests on it."""
    spis = initiator_spi.to_bytes(8, "big") + responder_spi.to_bytes(8, "big")
    octets = spis + ip_address(endpoint.host).packed + endpoint.port.to_bytes(2, "big")
    return hashlib.sha1(octets, usedforsecurity=False).digest()


def pretended_source(sa: IkeSa) -> bytes | None:
    """With `encap` the source hash is random, so that the peer sees a NAT and encapsulates (as strongSwan does)."""
    return sa.services.random.octets(HASH_OCTETS) if sa.settings.encap else None


def notifications(
    initiator_spi: int, responder_spi: int, local: Endpoint, remote: Endpoint, pretend: bytes | None
) -> tuple[Notify, Notify]:
    """Our two notifications. `pretend`: octets sent in place of the source hash, so that the peer sees a NAT and encapsulates."""
    source = pretend or detection_hash(initiator_spi, responder_spi, local)
    return (
        Notify(NotifyType.NAT_DETECTION_SOURCE_IP, source),
        Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, detection_hash(initiator_spi, responder_spi, remote)),
    )


def detect(message: Message, local: Endpoint, remote: Endpoint) -> NatResult:
    """What the peer's notifications say about the path; several source hashes are allowed, one must match."""
    header = message.header
    sources = [notify.data for notify in message.notifies() if notify.type == NotifyType.NAT_DETECTION_SOURCE_IP]
    targets = [notify.data for notify in message.notifies() if notify.type == NotifyType.NAT_DETECTION_DESTINATION_IP]
    if not sources or not targets:
        return NatResult()
    ours = detection_hash(header.initiator_spi, header.responder_spi, local)
    theirs = detection_hash(header.initiator_spi, header.responder_spi, remote)
    return NatResult(True, ours not in targets, theirs not in sources)
