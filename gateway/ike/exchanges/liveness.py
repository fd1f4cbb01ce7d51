"""Liveness check (RFC 7296 2.4): an INFORMATIONAL whose answer is the sign of life; empty, unless MOBIKE has it say where we are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.contract import Endpoint
from gateway.ike.exchanges import mobike
from gateway.ike.exchanges.base import Exchange
from gateway.ike.exchanges.delete import DeleteIke
from gateway.ike.message import Message
from gateway.ike.registry import ExchangeType

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


class Liveness(Exchange):
    kind = ExchangeType.INFORMATIONAL
    only_asks = True

    def __init__(self) -> None:
        self.local = Endpoint("", 0)

    def start(self, sa: IkeSa, now: float) -> None:
        self.local = sa.local
        sa.request(self.kind, mobike.whereabouts(sa), now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        # RFC 4555 3.5: of where we have left meanwhile the answer says nothing; another check is in the queue
        refusal = mobike.heed(sa, message, now) if mobike.may_move(sa) and sa.local == self.local else ""
        sa.finish(now)
        if refusal:
            sa.enqueue(DeleteIke("ADDRESS_REFUSED", {"local": str(sa.local), "theirs": refusal}), now)
        return True
