"""The rest of an exchange that a process before this one began: its request is repeated until it is answered (RFC 7296 2.1).

What the request was for is lost with that process. What the peer made of it is of no use here: a CHILD_SA is deleted again, and
an IKE_SA, to which the peer has moved everything, gives way to a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike.errors import PeerError
from gateway.ike.exchanges.base import Exchange
from gateway.ike.message import Message
from gateway.ike.payloads import Delete
from gateway.ike.registry import ExchangeType, Protocol

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


class Recovered(Exchange):
    """Never queued: it is the current one from the beginning. `makes`: our SPIs of what it was to make."""

    def __init__(self, kind: ExchangeType, makes: tuple[int, ...], ike: bool) -> None:
        self.kind = kind
        self.makes = makes
        self.ike = ike

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        self._end(sa, message.error() is None, now)
        return True

    def give_up(self, sa: IkeSa, now: float) -> None:
        """The peer's member that was asked is gone (RFC 6311), and what it was asked nobody here knows: it may have made it."""
        self._end(sa, True, now)

    def _end(self, sa: IkeSa, made: bool, now: float) -> None:
        queue = list(sa.queue)
        sa.queue.clear()
        if made:
            undo(sa, self.makes, self.ike, now)
        # First the DELETEs: another request tells the peer that we have had its answer, and it sends on what it made
        sa.queue.extend(queue)
        sa.finish(now)

    def on_error(self, sa: IkeSa, error: PeerError, now: float) -> None:
        sa.finish(now, "failed")


def undo(sa: IkeSa, makes: tuple[int, ...], ike: bool, now: float) -> None:
    """The peer made something that nobody here has the keys of: CHILD_SAs with our SPIs `makes`, or another IKE_SA."""
    if ike:
        sa.notice(
            "warning", "ike-rekey-lost", "the peer rekeyed the IKE_SA with a process that is gone; setting up anew"
        )
        # Not INITIAL_CONTACT: the peer would drop what carries the traffic before we have anything else (RFC 7296 2.4). It finds
        # by its own liveness checks that nobody holds what it made
        sa.services.reauthenticate(sa, now)
    for spi in makes:
        sa.enqueue(DeleteUnknown(spi), now)


class DeleteUnknown(Exchange):
    """RFC 7296 1.4.1: by our inbound SPI, though nothing was ever installed under it."""

    kind = ExchangeType.INFORMATIONAL

    def __init__(self, spi_in: int) -> None:
        self.spi_in = spi_in

    def start(self, sa: IkeSa, now: float) -> None:
        sa.request(self.kind, (Delete(Protocol.ESP, (self.spi_in.to_bytes(4, "big"),)),), now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        sa.finish(now)
        return True

    def on_deleted(self, sa: IkeSa, now: float) -> None:
        """The CHILD_SAs went on with another IKE_SA, this one among them."""
        heir = sa.services.primary(sa.name)
        if heir is not None and heir is not sa:
            heir.enqueue(DeleteUnknown(self.spi_in), now)
