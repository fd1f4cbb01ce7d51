"""The flight recorder: the last messages of every connection, decoded, always on.

    12:01:07.412  -->  IKE_SA_INIT request 0    SA KE No N(NAT_DETECTION_SOURCE_IP)      416 octets

Names only: no keys, nonces, addresses or identities. What nobody authenticated is kept only where it belongs to an
IKE_SA of ours, so a stranger cannot push out what matters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gateway.ike.message import Header
from gateway.ike.payloads import PAYLOAD_TYPES, Delete, Notify, Payload, SecurityAssociation, Unknown
from gateway.ike.registry import PayloadType

KEPT = 40
"""Lines of a connection: an hour of one with rekeys, or the last attempts of one that fails."""
_SHORT = {PayloadType.NONCE: "No", PayloadType.NOTIFY: "N", PayloadType.DELETE: "D", PayloadType.VENDOR_ID: "V"}


@dataclass(frozen=True, slots=True)
class Line:
    """One message, or with an empty `exchange` what came of it (`text`). `at`: the core's clock."""

    at: float
    outgoing: bool
    exchange: str
    response: bool
    message_id: int
    text: str
    octets: int = 0
    datagrams: int = 1
    repeated: int = 0


class Recorder:
    """By connection; the oldest lines go first."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Line]] = {}

    def add(self, connection: str, line: Line) -> None:
        self._lines.setdefault(connection, deque(maxlen=KEPT)).append(line)

    def repeated(self, connection: str, message_id: int, response: bool) -> None:
        """One of ours went out again: its line says how often."""
        lines = self._lines.get(connection, deque())
        for index in range(len(lines) - 1, -1, -1):
            line = lines[index]
            if line.outgoing and (line.message_id, line.response) == (message_id, response) and line.exchange:
                lines[index] = replace(line, repeated=line.repeated + 1)
                return

    def outcome(self, connection: str, text: str, now: float) -> None:
        """What came of the messages above."""
        self.add(connection, Line(now, True, "", False, 0, text))

    def lines(self, connection: str) -> tuple[Line, ...]:
        """Oldest first."""
        return tuple(self._lines.get(connection, ()))

    def keep_only(self, connections: Iterable[str]) -> None:
        for gone in self._lines.keys() - set(connections):
            del self._lines[gone]


def line_of(
    header: Header, payloads: Iterable[Payload], now: float, outgoing: bool, octets: int, datagrams: int = 1
) -> Line:
    """A message; `octets` of all its datagrams."""
    text = " ".join(_named(payload) for payload in payloads)
    return Line(now, outgoing, header.exchange.name, header.is_response, header.message_id, text, octets, datagrams)


def _named(payload: Payload) -> str:
    match payload:
        case Notify():
            return f"N({payload.name})"
        case SecurityAssociation(proposals):
            return "SA" if len(proposals) == 1 else f"SA({len(proposals)} proposals)"
        case Delete(_, spis):
            return f"D({len(spis)} SPIs)" if spis else "D(IKE_SA)"
        case Unknown(_, kind):
            return f"payload-{kind}"
        case _:
            kind = PAYLOAD_TYPES[type(payload)]
            return _SHORT.get(kind, kind.name)
