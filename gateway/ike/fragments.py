"""Fragments of sealed messages (RFC 7383): who was sent how much of which message.

A message that is larger than the path takes goes in pieces, each sealed by itself, so that no piece is believed before
it verified. With a window of one there is one message to put together in each direction.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.ike.errors import PeerError, Violation
from gateway.ike.message import HEADER_OCTETS, MESSAGE_MAX, PAYLOAD_HEADER_OCTETS, Header
from gateway.ike.payloads import EncryptedFragment

OUTSIDE = HEADER_OCTETS + PAYLOAD_HEADER_OCTETS + 4
FRAGMENTS_MAX = 128
"""At 500 octets each they fill the largest message."""


@dataclass(slots=True)
class Whole:
    """A message put together: its plaintext and the type of the first payload in it."""

    first_inner: int
    plaintext: bytes
    octets: int
    """Of all its datagrams."""


@dataclass(slots=True)
class Reassembly:
    """One message on its way in. Only fragments whose ICV verified come here."""

    header: Header | None = None
    total: int = 0
    octets: int = 0
    sealed: int = 0
    first_inner: int = 0
    plaintexts: dict[int, bytes] = field(default_factory=dict)

    def wanted(self, header: Header, fragment: EncryptedFragment) -> bool:
        """RFC 7383 2.6: asked before anything is deciphered. PeerError for one that can be of no message."""
        if not 1 <= fragment.number <= fragment.total <= FRAGMENTS_MAX:
            raise PeerError(Violation.MALFORMED, f"fragment {fragment.number} of {fragment.total}")
        if header != self.header:
            return True
        return fragment.total > self.total or (fragment.total == self.total and fragment.number not in self.plaintexts)

    def add(self, header: Header, fragment: EncryptedFragment, plaintext: bytes) -> Whole | None:
        """Takes a verified fragment; the whole message with the last of them. PeerError when it grows too large."""
        if header != self.header or fragment.total > self.total:
            # RFC 7383 2.6: the peer began again with smaller ones
            self.forget()
            self.header, self.total = header, fragment.total
        self.plaintexts[fragment.number] = plaintext
        if fragment.number == 1:
            self.first_inner = fragment.first_inner
        self.octets += len(plaintext)
        self.sealed += len(fragment.data) + OUTSIDE
        if self.octets > MESSAGE_MAX:
            self.forget()
            raise PeerError(Violation.MALFORMED, "fragments of more than the largest message")
        if len(self.plaintexts) < self.total:
            return None
        whole = Whole(self.first_inner, b"".join(self.plaintexts[n] for n in range(1, self.total + 1)), self.sealed)
        self.forget()
        return whole

    def forget(self) -> None:
        self.header, self.total, self.octets, self.sealed, self.first_inner = None, 0, 0, 0, 0
        self.plaintexts.clear()
