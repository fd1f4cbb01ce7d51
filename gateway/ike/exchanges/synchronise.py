"""We took an IKE_SA over from another member of a cluster: both ends agree anew on message IDs (RFC 6311 5.1), and the peer leaves out
sequence numbers that our replay windows may know of already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike.errors import PeerError, Violation
from gateway.ike.exchanges.base import Exchange
from gateway.ike.message import Message
from gateway.ike.payloads import Notify
from gateway.ike.registry import ExchangeType, NotifyType
from gateway.ike.synchronisation import LAST_ID, NONCE_OCTETS, Counters, counters_of
from gateway.ike.window import Datagrams

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

AHEAD = 16
"""Message IDs left out at each try: our predecessor may have used some that we do not know of."""


class Synchronise(Exchange):
    """`delta`: sequence numbers that the peer is to leave out on every CHILD_SA; 0 or a peer that cannot: none."""

    kind = ExchangeType.INFORMATIONAL

    def __init__(self, delta: int = 0) -> None:
        self.delta = delta
        self.asked: list[Counters] = []

    def still_wanted(self, sa: IkeSa) -> bool:
        return sa.established and sa.agreement.message_ids and sa.window.expected <= LAST_ID

    def start(self, sa: IkeSa, now: float) -> None:
        sa.request_outside(self._payloads(sa), now)

    def again(self, sa: IkeSa, now: float) -> Datagrams | None:
        """The same octets would be a replay to a peer that had them and whose answer was lost."""
        return sa.encode(self.kind, 0, self._payloads(sa), False, now)

    def expects(self, message: Message) -> bool:
        """Many a response has message ID 0. A recorded one would be a sign of life, and its sender's address the peer's."""
        return self._asked(counters_of(message)) is not None

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        told = counters_of(message)
        asked = self._asked(told)
        if told is None or asked is None:
            return False
        # RFC 6311 5.1: M2 >= M1, P2 >= P1
        if told.receive < asked.send or told.send < asked.receive:
            raise PeerError(Violation.MESSAGE_ID, f"synchronised to {told.receive} and {told.send}")
        window = sa.window
        window.moved(max(window.next_request, told.receive), max(window.expected, told.send))
        sa.finish(now)
        return True

    def _asked(self, told: Counters | None) -> Counters | None:
        return next((one for one in self.asked if told is not None and one.nonce == told.nonce), None)

    def _payloads(self, sa: IkeSa) -> tuple[Notify, ...]:
        window = sa.window
        window.next_request += AHEAD
        asked = Counters(sa.services.random.octets(NONCE_OCTETS), window.next_request, window.expected)
        self.asked.append(asked)
        # RFC 6311 5.2: eight octets where a CHILD_SA has extended sequence numbers
        octets = 8 if any(child.choice.esn for child in sa.children.values()) else 4
        wanted = self.delta if sa.agreement.counters else 0
        delta = (Notify(NotifyType.IPSEC_REPLAY_COUNTER_SYNC, wanted.to_bytes(octets, "big")),) if wanted else ()
        return (asked.notify(), *delta)
