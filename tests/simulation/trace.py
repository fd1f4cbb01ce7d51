"""What went over the wire: the message ladder of a failure, and the two rules about octets that only a tap can see.

    message IDs: in one IKE_SA the same ID, in the same direction and role, means the same octets   (RFC 7296 2.1)
    GCM IVs: never twice under one key, in IKE and in ESP                                           (RFC 5282 3.1, RFC 4106 3.1)

IKE messages are opened with the keys of every IKE_SA that ever stood on either side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from simulation.network import Fate, Passage

from gateway.ike.errors import PeerError
from gateway.ike.keymat import Envelope, IkeKeys
from gateway.ike.message import HEADER_OCTETS, PAYLOAD_HEADER_OCTETS, Header, Message, parse_chain, parse_message
from gateway.ike.payloads import Delete, Encrypted, EncryptedFragment, KeyExchange, Notify, Payload, SecurityAssociation
from gateway.ike.registry import ExchangeType, NotifyType, Protocol
from gateway.ike.sa import IkeSa

IV_OCTETS = 8
FRAGMENT_OCTETS = 4
LADDER_LINES = 70

MessageName = tuple[str, int, int, bool, int, int]
"""Sender, SPIs, whether a response, message ID, number of the fragment (0: whole)."""


class Broken(AssertionError):
    """An invariant does not hold. The world adds the ladder."""


@dataclass(slots=True)
class Sent:
    """One IKE message, each time it was sent."""

    octets: bytes
    header: Header
    connection: str
    passages: list[Passage]


@dataclass(frozen=True, slots=True)
class Line:
    at: float
    passage: Passage | None
    header: Header | None
    octets: bytes
    again: bool
    text: str
    connection: str = ""


class Trace:
    """Everything worth printing, and the tap."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.messages: dict[MessageName, Sent] = {}
        self.answered: set[MessageName] = set()
        self._pieces: dict[MessageName, set[int]] = {}  # fragments of a response that arrived
        # Of every IKE_SA in the order they were made: each IKE_INTERMEDIATE gives it others (RFC 9370 2.2.2)
        self._keys: dict[tuple[int, int], list[IkeKeys]] = {}
        self._agreed: dict[tuple[int, int], object] = {}
        self._sealed: list[tuple[str, Message]] = []  # whose IVs are still to be looked at
        self._ivs: dict[tuple[bytes, bytes], bytes] = {}
        self._esp: dict[bytes, int] = {}

    # --- the tap ------------------------------------------------------------------------------------------------

    def note(self, at: float, who: str, text: str) -> None:
        self.lines.append(Line(at, None, None, b"", False, f"{who:<4} {text}"))

    def ike(self, sender: str, connection: str, octets: bytes, passage: Passage) -> None:
        """An IKE message leaves a node; `octets` are without the marker."""
        message = parse_message(octets)
        header = message.header
        if _is_outside(message):
            self.note(passage.sent_at, sender, "answers in clear, outside every window")
            return
        number = message.fragment.number if message.fragment is not None else 0
        name = (sender, header.initiator_spi, header.responder_spi, header.is_response, header.message_id, number)
        before = self.messages.get(name)
        again = before is not None and before.octets == octets
        if before is None or (not again and header.exchange is ExchangeType.IKE_SA_INIT):
            # RFC 7296 2.6: IKE_SA_INIT is repeated under message ID 0 with a cookie or another group
            before = self.messages[name] = Sent(octets, header, connection, [])
        before.passages.append(passage)
        self.lines.append(Line(passage.sent_at, passage, header, octets, again, "", connection))
        if not again and before.octets != octets:
            raise Broken(
                f"{sender} used message ID {header.message_id} of IKE_SA {header.initiator_spi:016x} twice, with other octets"
            )
        if header.exchange is not ExchangeType.IKE_SA_INIT and not again:
            self._sealed.append((sender, message))

    def check_ivs(self) -> None:
        """Of what was sent since, once the keys it was sealed with are known."""
        for sender, message in self._sealed:
            envelope = self._opened(message)[1]
            start = HEADER_OCTETS + PAYLOAD_HEADER_OCTETS + (FRAGMENT_OCTETS if message.fragment is not None else 0)
            iv = message.octets[start : start + IV_OCTETS]
            key = envelope.encryption_key if envelope is not None else b"%x" % message.header.initiator_spi
            if self._ivs.setdefault((key, iv), message.octets) != message.octets:
                raise Broken(f"{sender} used GCM IV {iv.hex()} twice in IKE_SA {message.header.initiator_spi:016x}")
        self._sealed.clear()

    def esp(self, sender: str, key: bytes, datagram: bytes) -> None:
        """An ESP datagram leaves a data plane under an encryption key: its IV only ever rises."""
        iv = int.from_bytes(datagram[8 : 8 + IV_OCTETS], "big")
        if iv <= self._esp.get(key, 0):
            raise Broken(f"{sender} used GCM IV {iv} again under the key of SPI {datagram[:4].hex()}")
        self._esp[key] = iv

    def arrived(self, receiver: str, octets: bytes) -> None:
        """An intact IKE message reached a node: who asked and got an answer may not blame the network."""
        try:
            message = parse_message(octets)
        except PeerError:
            return
        header, fragment = message.header, message.fragment
        if not header.is_response or _is_outside(message):
            return
        name = (receiver, header.initiator_spi, header.responder_spi, False, header.message_id, 0)
        if fragment is not None:
            pieces = self._pieces.setdefault(name, set())
            pieces.add(fragment.number)
            if len(pieces) < fragment.total:
                return
        self.answered.add(name)

    def learn(self, sa: IkeSa) -> None:
        """Keeps the keys of an IKE_SA; both ends of an authenticated one must hold the same."""
        spis = (sa.initiator_spi, sa.responder_spi)
        if sa.keys is None:
            return
        known = self._keys.setdefault(spis, [])
        if not any(one is sa.keys for one in known):
            known.append(sa.keys)
        if sa.established:
            secrets = sa.keys.secrets_for_keylog()
            if self._agreed.setdefault(spis, secrets) != secrets:
                raise Broken(f"the two ends of IKE_SA {spis[0]:016x} hold different keys")

    # --- whose fault --------------------------------------------------------------------------------------------

    def unanswered(self, sender: str, connection: str, tries: int) -> Sent | None:
        """A request the node repeated to the end and whose answer the network never brought."""
        for name, sent in reversed(self.messages.items()):
            if sent.connection != connection:
                continue
            exhausted = len(sent.passages) > tries or sent.header.exchange is ExchangeType.IKE_SA_INIT
            if name[0] == sender and not name[3] and exhausted and (*name[:5], 0) not in self.answered:
                return sent
        return None

    def hindered(self, sender: str, sa: IkeSa, message_id: int) -> bool:
        """Whether the network kept a copy of this request of an IKE_SA, or of the answer to it."""
        spis = (sa.initiator_spi, sa.responder_spi, message_id)
        messages = (sent for name, sent in self.messages.items() if (*name[1:3], name[4]) == spis)
        ours = (one for one in messages if (one.passages[0].sender == sender) is not one.header.is_response)
        return any(copy.fate is not Fate.INTACT for one in ours for passage in one.passages for copy in passage.copies)

    # --- the ladder ---------------------------------------------------------------------------------------------

    def ladder(self, limit: int = LADDER_LINES) -> str:
        """The last lines, newest at the end; `limit` 0 is all."""
        shown = self.lines[-limit:] if limit else self.lines
        text = "\n".join(self._line(line) for line in shown)
        return text if len(shown) == len(self.lines) else f"... {len(self.lines) - len(shown)} lines before\n{text}"

    def _line(self, line: Line) -> str:
        if line.passage is None or line.header is None:
            return f"{line.at:10.3f}  {line.text}"
        header, passage = line.header, line.passage
        role = ("<- " if header.is_response else "-> ") + f"{passage.sender}>{passage.receiver}"
        names = ", ".join(self._names(line.octets))
        mark = "  RETRANSMISSION" if line.again else ""
        spi = f"{header.initiator_spi >> 48:04x}"
        what = f"{header.exchange.name} {line.connection} {spi}/{header.message_id}"
        return f"{line.at:10.3f}  {role} {what} {{{names}}}{mark}  [{_fates(passage)}]"

    def _names(self, octets: bytes) -> Iterable[str]:
        message = parse_message(octets)
        return [_name(payload) for payload in self._inside(message)]

    def _inside(self, message: Message) -> tuple[Payload, ...]:
        return self._opened(message)[0]

    def _opened(self, message: Message) -> tuple[tuple[Payload, ...], Envelope | None]:
        """What is in it, and what opened it; a message that nothing opens is shown as it is."""
        sealed, header = message.encrypted or message.fragment, message.header
        if sealed is None:
            return message.payloads, None
        for keys in self._keys.get((header.initiator_spi, header.responder_spi), ()):
            initiator, responder = (keys.sealing, keys.opening) if keys.is_initiator else (keys.opening, keys.sealing)
            envelope = initiator if header.from_original_initiator else responder
            try:
                inside = envelope.open(message.octets[: -len(sealed.data)], sealed.data)
                whole = parse_chain(inside, sealed.first_inner) if message.fragment is None else message.payloads
            except PeerError:
                continue
            return whole, envelope
        return message.payloads, None


OUTSIDE = {NotifyType.INVALID_MAJOR_VERSION, NotifyType.INVALID_IKE_SPI}


def _is_outside(message: Message) -> bool:
    """RFC 7296 2.5, 2.21.4: in clear and outside every window, for what a damaged header makes look like version 3, or for an IKE_SA that
    is gone. It answers nothing."""
    return any(one.type in OUTSIDE for one in message.payloads if isinstance(one, Notify))


def _fates(passage: Passage) -> str:
    return ", ".join(f"{copy.due:.3f}" if copy.fate is Fate.INTACT else copy.fate.value for copy in passage.copies)


def _name(payload: Payload) -> str:
    match payload:
        case Notify():
            return f"N({payload.name}{' ' + payload.spi.hex() if payload.spi else ''})"
        case Delete(protocol, spis):
            return "D(IKE)" if protocol == Protocol.IKE else f"D({' '.join(spi.hex() for spi in spis)})"
        case SecurityAssociation(proposals):
            return f"SA({proposals[0].spi.hex()})" if proposals and proposals[0].spi else "SA"
        case KeyExchange(method, _):
            return f"KE{method}"
        case Encrypted():
            return "SK, not opened"
        case EncryptedFragment():
            return f"SKF {payload.number} of {payload.total}"
    return type(payload).__name__
