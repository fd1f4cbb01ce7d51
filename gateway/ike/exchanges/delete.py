"""INFORMATIONAL with DELETE (RFC 7296 1.4.1): an IKE_SA with all it carries, or single CHILD_SAs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike import crash_detection, succession
from gateway.ike.authentication import refused_by_peer
from gateway.ike.child import ChildSa
from gateway.ike.errors import PeerError
from gateway.ike.events import ExchangeFailed
from gateway.ike.exchanges.base import Exchange
from gateway.ike.message import Message
from gateway.ike.payloads import Delete, Notify, Payload
from gateway.ike.registry import ExchangeType, Protocol
from gateway.ike.states import ChildInput, ChildState, IkeInput, IkeState

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


class DeleteIke(Exchange):
    """Ends an IKE_SA; whatever the peer answers, it is gone afterwards. `reason` "" when a successor took over."""

    kind = ExchangeType.INFORMATIONAL

    def __init__(self, reason: str, context: dict[str, str] | None = None, notify: Notify | None = None) -> None:
        self.reason = reason
        self.context = context or {}
        self.notify = notify

    def still_wanted(self, sa: IkeSa) -> bool:
        return sa.state not in (IkeState.DELETING, IkeState.DESTROYING, IkeState.CREATED)

    def start(self, sa: IkeSa, now: float) -> None:
        sa.advance(IkeInput.DELETE)
        succession.leave_all(sa)
        payload: Payload = self.notify or Delete(Protocol.IKE)
        sa.request(self.kind, (payload,), now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        sa.destroy(now, self.reason, self.context)
        return True

    def on_error(self, sa: IkeSa, error: PeerError, now: float) -> None:
        sa.destroy(now, self.reason, self.context)

    def on_timeout(self, sa: IkeSa, now: float) -> None:
        sa.destroy(now, self.reason, self.context)


class DeleteChild(Exchange):
    """Ends one CHILD_SA. A replaced one lingers inbound; else `reason` is reported, unless another one carries its traffic (RFC 9611)."""

    kind = ExchangeType.INFORMATIONAL

    def __init__(self, child: ChildSa, reason: str = "") -> None:
        self.child = child
        self.reason = reason

    def still_wanted(self, sa: IkeSa) -> bool:
        return (
            self.child.spi_in in sa.children
            and self.child.state not in (ChildState.DELETING, ChildState.DELETED)
            and sa.state
            in (
                IkeState.ESTABLISHED,
                IkeState.REKEYING,
            )
        )

    def start(self, sa: IkeSa, now: float) -> None:
        self.child.advance(ChildInput.DELETE)
        succession.leave(sa, self.child)
        sa.request(self.kind, (Delete(Protocol.ESP, (self.child.spi_in.to_bytes(4, "big"),)),), now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        if self.child.spi_in in sa.children:
            sa.retire(self.child, now, linger=True)
        if self.reason and self.child.settings.resource is None:
            sa.services.emit(ExchangeFailed(sa.name, self.child.name, self.reason))
        sa.finish(now)
        return True


def respond(sa: IkeSa, message: Message, told: tuple[Notify, ...], now: float) -> None:
    """Our side of a peer's INFORMATIONAL: deletes, liveness checks, notifications (RFC 7296 1.4, 2.4). `told`: what else
    is in our answer."""
    deletes = [payload for payload in message.payloads if isinstance(payload, Delete)]
    if any(delete.protocol == Protocol.IKE for delete in deletes):
        if sa.exchange is not None:
            # First what takes its place: that one does not leave
            sa.exchange.on_deleted(sa, now)
        # Our answer is the peer's word that nothing more comes on it: what another one can carry moves there first
        sa.destroy(now, "" if sa.state is IkeState.REKEYED else "DELETED_BY_PEER")
        sa.respond(ExchangeType.INFORMATIONAL, (), now)
        return
    error = message.error()
    if error is not None and error.name == "AUTHENTICATION_FAILED":
        # RFC 7296 2.21.2: the initiator found that our AUTH does not verify
        sa.respond(ExchangeType.INFORMATIONAL, (), now)
        sa.destroy(now, *refused_by_peer(sa.settings))
        return
    # RFC 6290 4.3, 4.4: a token of a new IKE_SA, or another one of this
    sa.peer_token = crash_detection.shown(sa, message) or sa.peer_token
    spis = [int.from_bytes(spi, "big") for delete in deletes if delete.protocol == Protocol.ESP for spi in delete.spis]
    named = [child for spi in spis if (child := _child(sa, spi)) is not None]
    gone = list({child.spi_in: child for child in named}.values())  # once, however often it is named
    # RFC 7296 1.4.1: we answer with the other halves, except of those we are deleting ourselves
    halves = tuple(child.spi_in.to_bytes(4, "big") for child in gone if child.state is not ChildState.DELETING)
    lost = []
    for child in gone:
        if child.state is ChildState.DELETING:
            continue
        replaced = child.successor is not None or child.state is ChildState.REKEYED
        if not replaced and child.settings.resource is None:
            lost.append(child)
        if child.successor is not None:
            # Who deletes the old one holds the new one
            sa.confirm(child.successor)
        sa.retire(child, now, linger=True)
    sa.respond(ExchangeType.INFORMATIONAL, (*((Delete(Protocol.ESP, halves),) if halves else ()), *told), now)
    for child in lost:
        if sa.usable_child(child.name) is None:
            sa.services.emit(ExchangeFailed(sa.name, child.name, "CHILD_DELETED_BY_PEER"))


def _child(sa: IkeSa, spi_out: int) -> ChildSa | None:
    child = sa.child_by_spi_out(spi_out)
    if child is None and sa.exchange is not None:
        sa.exchange.on_unknown_deleted(spi_out)
    return child
