"""Liveness check (RFC 7296 2.4): an empty INFORMATIONAL whose answer is the sign of life."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike.exchanges.base import Exchange
from gateway.ike.message import Message
from gateway.ike.registry import ExchangeType

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


class Liveness(Exchange):
    kind = ExchangeType.INFORMATIONAL

    def start(self, sa: IkeSa, now: float) -> None:
        sa.request(self.kind, (), now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        sa.finish(now)
        return True
