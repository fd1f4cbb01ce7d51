"""Withdraws everything from everybody, without knowing what was announced: for whoever ends ExaBGP when the speaker is gone.

    show neighbor json -> clear adj-rib out -> show neighbor json, until two in a row count the same messages

ExaBGP answers `clear` before the withdrawals are on the wire, so the counters of its sessions are watched until they rest.
Not a speaker: it knows neither routes nor neighbors. RFC 4724 4.1: a peer that was promised a graceful restart keeps what is
not withdrawn before the session ends.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from gateway.bgp import messages
from gateway.bgp.link import Command, Kind, Link

LOOK = 0.1  # seconds between two looks at the counters
PATIENCE = 5.0  # for all of it


class Withdrawal:
    """Lines in, lines out; `done` when there is nothing left to do, or no more time."""

    def __init__(self, now: float) -> None:
        self.done = False
        self._link = Link()
        self._until = now + PATIENCE
        self._look_at: float | None = None
        self._cleared = False
        self._sent: dict[IPv4Address | IPv6Address, int] = {}
        self._looked: dict[IPv4Address | IPv6Address, int] | None = None

    def begin(self, generation: int, now: float) -> list[str]:
        """There is a (new) link."""
        self._link.open(generation)
        self._looked = None
        return self._ask(messages.SHOW_NEIGHBORS, Kind.NEIGHBORS, now)

    def receive(self, line: str, now: float) -> list[str]:
        """A line of ExaBGP's; what to say to that."""
        message = messages.parse_line(line)
        if isinstance(message, messages.NeighborList) and self._link.answering is Kind.NEIGHBORS:
            self._link.body(now)
            self._sent = {row.peer: row.sent for row in message.rows if row.up}
        if not isinstance(message, messages.Ack):
            return []
        answered = self._link.answered(now)
        if answered is None:
            return []
        if answered.kind is Kind.ROUTE:
            self._cleared = True
            return self._ask(messages.SHOW_NEIGHBORS, Kind.NEIGHBORS, now)
        if not self._sent:
            self.done = True
        elif not self._cleared:
            return self._ask(messages.CLEAR_ADJ_RIB_OUT, Kind.ROUTE, now)
        elif self._sent == self._looked:
            self.done = True
        else:
            self._looked = self._sent
            self._look_at = now + LOOK
        return []

    def next_deadline(self) -> float:
        return min(self._until, self._look_at) if self._look_at is not None else self._until

    def handle_deadline(self, now: float) -> list[str]:
        if now >= self._until:
            self.done = True
        elif self._look_at is not None and now >= self._look_at:
            self._look_at = None
            return self._ask(messages.SHOW_NEIGHBORS, Kind.NEIGHBORS, now)
        return []

    def _ask(self, text: str, kind: Kind, now: float) -> list[str]:
        self._link.sent(Command(kind, text), now)
        return [text]
