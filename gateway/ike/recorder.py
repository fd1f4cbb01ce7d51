"""The flight recorder: the last messages of every connection, decoded, always on.

    12:01:07.412  -->  IKE_SA_INIT request 0    SA KE No N(NAT_DETECTION_SOURCE_IP)      416 octets

Names only: no keys, nonces, addresses or identities. What nobody authenticated is kept only where it belongs to an
IKE_SA of ours, so a stranger cannot push out what matters. Nor can liveness checks, which make most of an idle
tunnel's messages: of those in a row the last few stand alone, and those before them share one line.

    12:01:09.018  <->  INFORMATIONAL            358 empty ones, liveness checks and their answers      28640 octets
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gateway.ike.message import Header
from gateway.ike.payloads import PAYLOAD_TYPES, Delete, Notify, Payload, SecurityAssociation, Unknown
from gateway.ike.registry import ExchangeType, NotifyType, PayloadType

KEPT = 40
"""Lines of a connection: the last rekeys with what was between them, or the last attempts of one that fails."""
CHECKS_KEPT = 4
"""Liveness checks and their answers in a row that have lines of their own: the last one of either side."""
_CHECK = ExchangeType.INFORMATIONAL.name
_WHEREABOUTS = {
    f"N({kind.name})"
    for kind in (
        NotifyType.UPDATE_SA_ADDRESSES,
        NotifyType.NAT_DETECTION_SOURCE_IP,
        NotifyType.NAT_DETECTION_DESTINATION_IP,
        NotifyType.COOKIE2,
    )
}
"""What a liveness check may hold (exchanges/liveness.py)."""
_SHORT = {PayloadType.NONCE: "No", PayloadType.NOTIFY: "N", PayloadType.DELETE: "D", PayloadType.VENDOR_ID: "V"}


@dataclass(frozen=True, slots=True)
class Line:
    """One message, or with an empty `exchange` what came of it (`text`). `at`: the core's clock.

    With `folded`, so many liveness checks in a row, of both directions, from `at` on: `octets`, `datagrams` and `repeated` are
    those of all together, the rest is the last one's."""

    at: float
    outgoing: bool
    exchange: str
    response: bool
    message_id: int
    text: str
    octets: int = 0
    datagrams: int = 1
    repeated: int = 0
    folded: int = 0


class Recorder:
    """By connection; the oldest lines go first."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Line]] = {}
        self._checks: dict[str, int] = {}  # how many of the last lines are liveness checks with lines of their own

    def add(self, connection: str, line: Line) -> None:
        lines = self._lines.get(connection)
        if lines is None:
            lines = self._lines[connection] = deque(maxlen=KEPT)
        if line.exchange != _CHECK or not _WHEREABOUTS.issuperset(line.text.split()):
            self._checks[connection] = 0
        elif (checks := self._checks.get(connection, 0)) < CHECKS_KEPT:
            self._checks[connection] = checks + 1
        else:
            _fold(lines)
        lines.append(line)

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
            self._checks.pop(gone, None)


def _fold(lines: deque[Line]) -> None:
    """The oldest of the liveness checks at the end goes into the line before them, which is made for it if need be."""
    at = len(lines) - CHECKS_KEPT
    oldest, before = lines[at], lines[at - 1] if at else None
    if before is None or not before.folded:
        lines[at] = replace(oldest, folded=1)
        return
    lines[at - 1] = replace(
        oldest,
        at=before.at,
        octets=before.octets + oldest.octets,
        datagrams=before.datagrams + oldest.datagrams,
        repeated=before.repeated + oldest.repeated,
        folded=before.folded + 1,
    )
    del lines[at]


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
