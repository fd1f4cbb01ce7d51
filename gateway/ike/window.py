"""Message IDs, retransmission and cached responses (RFC 7296 2.1 to 2.3); a window of one each way."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.ike.errors import LocalError, PeerError, Violation

Datagrams = tuple[bytes, ...]
"""A message as it was sent: whole, or in fragments (RFC 7383)."""


@dataclass(slots=True)
class Pending:
    """Our outstanding request: the same octets until it is answered (RFC 7296 2.1)."""

    message_id: int
    datagrams: Datagrams
    deadline: float
    tries: int = 0


class Window:
    """The two counters of an IKE_SA and what belongs to them."""

    __slots__ = ("answering", "cached_id", "cached_response", "expected", "next_request", "pending")

    def __init__(self, next_request: int = 0, expected: int = 0) -> None:
        self.next_request = next_request
        self.expected = expected
        self.pending: Pending | None = None
        self.cached_response: Datagrams | None = None
        self.cached_id = -1
        self.answering = False

    def sent(self, datagrams: Datagrams, deadline: float, repeat_id: int | None = None) -> None:
        """Our request went out. `repeat_id`: IKE_SA_INIT again with message ID 0 (RFC 7296 2.6)."""
        if self.pending is not None:
            raise LocalError("a second request outside the window")
        message_id = self.next_request if repeat_id is None else repeat_id
        self.pending = Pending(message_id, datagrams, deadline)
        self.next_request = message_id + 1

    def check_response(self, message_id: int) -> None:
        if self.pending is None or self.pending.message_id != message_id:
            raise PeerError(Violation.UNEXPECTED_RESPONSE, f"response {message_id}")

    def is_repeat(self, message_id: int) -> bool:
        """The last request again: its cached response is the answer."""
        return message_id == self.cached_id and self.cached_response is not None

    def check_request(self, message_id: int) -> None:
        # RFC 7296 2.3: outside the window, and a request we are still working on, are ignored
        if message_id != self.expected or self.answering:
            raise PeerError(Violation.MESSAGE_ID, f"request {message_id}, expected {self.expected}")

    def answered(self, datagrams: Datagrams) -> None:
        """Our response to request `expected` went out; kept for its retransmissions."""
        self.cached_response = datagrams
        self.cached_id = self.expected
        self.expected += 1
        self.answering = False
