"""Message IDs, retransmission and cached responses (RFC 7296 2.1 to 2.3); a window of one each way."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.ike.errors import LocalError, PeerError, Violation
from gateway.ike.payloads import Payload
from gateway.ike.registry import ExchangeType

Datagrams = tuple[bytes, ...]
"""A message as it was sent: whole, or in fragments (RFC 7383)."""
LAST_BEGUN = 0xFFFFF000
"""No exchange of ours begins beyond this message ID; one that begins before may have many requests."""


@dataclass(slots=True)
class Request:
    """Our outstanding request: the same octets until it is answered (RFC 7296 2.1)."""

    message_id: int
    datagrams: Datagrams
    deadline: float
    content: tuple[ExchangeType, tuple[Payload, ...]] = field(repr=False)
    tries: int = 0
    outside: bool = False
    """RFC 6311: of message ID 0, whatever the counters say."""
    doubted_from: int | None = None
    """From which of its repetitions on the peer may be without the IKE_SA (doubt.py). None: there is no doubt."""
    heard_after: int = 0
    """The last of its repetitions after which a request of the peer came."""


class Window:
    """The two counters of an IKE_SA and what belongs to them."""

    __slots__ = ("answering", "cached_id", "cached_response", "doubted", "expected", "next_request", "pending")

    def __init__(self, next_request: int = 0, expected: int = 0) -> None:
        self.next_request = next_request
        self.expected = expected
        self.pending: Request | None = None
        self.cached_response: Datagrams | None = None
        self.cached_id = -1
        self.answering = False
        self.doubted = False  # whether to ask at once if the peer still has the IKE_SA (doubt.py)

    def sent(self, request: Request) -> None:
        """Our request went out."""
        if self.pending is not None:
            raise LocalError("a second request outside the window")
        self.pending = request
        if self.doubted:
            request.doubted_from, self.doubted = 0, False
        if not request.outside:
            self.next_request = request.message_id + 1

    def overdue(self) -> bool:
        """The peer asks something, so it is there: whether to repeat now what it did not answer, before the last wait ends.

        Once after each repetition.
        """
        pending = self.pending
        if pending is None or pending.heard_after == pending.tries:
            return False
        pending.heard_after = pending.tries
        return True

    def moved(self, next_request: int, expected: int) -> Request | None:
        """RFC 6311 5.1: both counters are further on now; handed back is our request that nobody is left to answer."""
        self.next_request, self.expected = next_request, expected
        self.cached_response, self.cached_id = None, -1
        pending = self.pending
        if pending is None or pending.outside:
            return None
        self.pending = None
        return pending

    def anew(self, deadline: float) -> None:
        """All its repetitions are still to come: it goes another way from now on."""
        if self.pending is not None:
            self.pending.tries = self.pending.heard_after = 0
            self.pending.deadline = deadline
            if self.pending.doubted_from is not None:
                self.pending.doubted_from = 0

    @property
    def used_up(self) -> bool:
        """Whether no message ID is left for another exchange of ours."""
        return self.next_request > LAST_BEGUN

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
