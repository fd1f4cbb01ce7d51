"""An INFORMATIONAL that tells the peer something and wants no more than to be heard (RFC 7296 1.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike.exchanges.base import Exchange
from gateway.ike.message import Message
from gateway.ike.payloads import Notify
from gateway.ike.registry import ExchangeType

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


class Tell(Exchange):
    kind = ExchangeType.INFORMATIONAL

    def __init__(self, *notifies: Notify) -> None:
        self.notifies = notifies

    def start(self, sa: IkeSa, now: float) -> None:
        sa.request(self.kind, self.notifies, now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        sa.finish(now)
        return True


class Redirect(Tell):
    """RFC 5685 5: to an initiator that is to go elsewhere, as long as it is. A rekey of the IKE_SA takes it along (rekey_ike.py)."""

    def still_wanted(self, sa: IkeSa) -> bool:
        return sa.established and bool(sa.services.redirects.order_of(sa))

    def start(self, sa: IkeSa, now: float) -> None:
        sa.request(self.kind, sa.services.redirects.order_of(sa), now)
