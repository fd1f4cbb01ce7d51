"""An IKE_SA brought to each of its states, in either role, with its peer's keys at hand.

stage = reach("responder", "REKEYING")
stage.send(KINDS["DELETE IKE"], stage.request_id)      what an authenticated peer could send
stage.outcome()                                        what the subject did about it, in one line
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from support.ike_pair import ESP_OFFERS, IKE_OFFERS, LEFT, NAME, RIGHT, Flight, Host, Pair

from gateway.contract import Endpoint
from gateway.ike import proposal
from gateway.ike.commands import Initiate, Rekey, Terminate
from gateway.ike.errors import PeerError
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.key_exchange import PUBLIC_OCTETS
from gateway.ike.keymat import IkeKeys, open_message, seal_message
from gateway.ike.message import Header, Message, emit_message, parse_message
from gateway.ike.payloads import (
    Authentication,
    Delete,
    IdentificationInitiator,
    IdentificationResponder,
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    SecurityAssociation,
    TrafficSelectorsInitiator,
    TrafficSelectorsResponder,
)
from gateway.ike.proposal import Choice
from gateway.ike.registry import EncryptionId, ExchangeType, Flags, IdType, NotifyType, PrfId, Protocol
from gateway.ike.sa import IkeSa
from gateway.ike.traffic_selector import from_range

ANY = from_range(bytes(4), b"\xff" * 4)
STRANGERS_KEYS = IkeKeys.initial(
    Choice(EncryptionId.AES_GCM_16, 256, 0, PrfId.HMAC_SHA2_384), b"x", b"n", b"n", b"s", True
)


def _public(method: int) -> bytes:
    return b"\x01" * PUBLIC_OCTETS[method]


def ike_offer(spi: bytes) -> SecurityAssociation:
    return proposal.payload(IKE_OFFERS, spi)


def esp_offer(spi: bytes = b"\x0c\x0b\x0a\x09") -> SecurityAssociation:
    return proposal.payload(ESP_OFFERS, spi)


def selectors() -> tuple[Payload, Payload]:
    return TrafficSelectorsInitiator((ANY,)), TrafficSelectorsResponder((ANY,))


NONCE = Nonce(b"\x77" * 32)
IKE_KE, ESP_KE = KeyExchange(20, _public(20)), KeyExchange(19, _public(19))
ID_I = IdentificationInitiator(IdType.IPV4_ADDR, b"\x0a\x00\x00\x01")
ID_R = IdentificationResponder(IdType.IPV4_ADDR, b"\x0a\x00\x00\x02")
AUTH = Authentication(2, bytes(48))


def rekey_notify(stage: Stage) -> Notify:
    """The subject's CHILD_SA named as its peer names it."""
    child = next(iter(stage.sa.children.values()), None)
    return Notify(
        NotifyType.REKEY_SA, protocol=Protocol.ESP, spi=child.spi_out.to_bytes(4, "big") if child else b"\0\0\0\1"
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of message: grammatical payloads for its exchange."""

    exchange: ExchangeType
    payloads: Callable[[Stage], tuple[Payload, ...]]


KINDS: dict[str, Kind] = {
    "IKE_SA_INIT": Kind(ExchangeType.IKE_SA_INIT, lambda _: (ike_offer(b""), IKE_KE, NONCE)),
    "IKE_AUTH": Kind(ExchangeType.IKE_AUTH, lambda s: (ID_R if s.role == "initiator" else ID_I, AUTH)),
    "NEW CHILD": Kind(ExchangeType.CREATE_CHILD_SA, lambda _: (esp_offer(), NONCE, ESP_KE, *selectors())),
    "REKEY CHILD": Kind(
        ExchangeType.CREATE_CHILD_SA, lambda s: (rekey_notify(s), esp_offer(), NONCE, ESP_KE, *selectors())
    ),
    "REKEY IKE": Kind(ExchangeType.CREATE_CHILD_SA, lambda _: (ike_offer(b"\x0e" * 8), NONCE, IKE_KE)),
    "LIVENESS": Kind(ExchangeType.INFORMATIONAL, lambda _: ()),
    "DELETE IKE": Kind(ExchangeType.INFORMATIONAL, lambda _: (Delete(Protocol.IKE),)),
    "AUTH FAILED": Kind(ExchangeType.INFORMATIONAL, lambda _: (Notify(NotifyType.AUTHENTICATION_FAILED),)),
    "IKE_INTERMEDIATE": Kind(ExchangeType.IKE_INTERMEDIATE, lambda _: ()),
    "UNKNOWN": Kind(ExchangeType(250), lambda _: ()),
}


@dataclass(slots=True)
class Stage:
    """`host` is the subject, `sa` its IKE_SA, `peer_keys` what its authenticated peer would seal with."""

    role: str
    pair: Pair
    host: Host
    sa: IkeSa
    peer_keys: IkeKeys | None
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def peer(self) -> Host:
        return self.pair.peer_of(self.host)

    @property
    def request_id(self) -> int:
        """The message ID the subject expects next."""
        return self.sa.window.expected

    @property
    def response_id(self) -> int:
        """The message ID of the subject's outstanding request, or of the next one."""
        pending = self.sa.window.pending
        return pending.message_id if pending is not None else self.sa.window.next_request

    def octets(self, kind: Kind, message_id: int, response: bool, keys: IkeKeys | None = None) -> bytes:
        """As the peer would send it; with other `keys`, as a stranger would."""
        return self.encode(kind.exchange, kind.payloads(self), message_id, response, keys)

    def encode(
        self,
        exchange: ExchangeType,
        payloads: tuple[Payload, ...],
        message_id: int,
        response: bool,
        keys: IkeKeys | None = None,
    ) -> bytes:
        head = header_of(self, exchange, message_id, response)
        if exchange == ExchangeType.IKE_SA_INIT:
            return emit_message(head, payloads)
        # A copy: what the test seals does not move the counters of the hosts
        used = copy.deepcopy(keys or self.peer_keys or STRANGERS_KEYS)
        return seal_message(used, head, payloads, self.peer.random)

    def mark(self) -> None:
        """From here on `outcome` counts."""
        self.rejected = self.host.core.rejected.copy()
        self.pair.in_flight.clear()

    def deliver(self, octets: bytes) -> None:
        self.mark()
        self.pair.receive(self.host, octets, self.sa.remote, self.sa.local)

    def answers(self) -> list[Flight]:
        return [flight for flight in self.pair.in_flight if flight.transmit is not None]

    def refusals(self) -> list[str]:
        """Reasons counted since the mark."""
        return list((self.host.core.rejected - self.rejected).elements())

    def outcome(self) -> str:
        """The state, what was sent with its error notifies, and "-reason" for each refusal."""
        refused = [f"-{reason}" for reason in self.refusals()]
        return " ".join([self.sa.state.name, *map(self._describe, self.answers()), *refused])

    def _describe(self, flight: Flight) -> str:
        message = parse_message(flight.octets)
        kind = message.header.exchange.name
        direction = "<" if message.header.is_response else ">"
        try:
            keys = self.peer_keys
            opened = open_message(keys, message) if keys is not None and message.encrypted is not None else message
        except PeerError:
            return f"{direction}{kind}[sealed]"
        errors = [notify.name for notify in opened.notifies() if notify.type < 16384]
        return f"{direction}{kind}[{','.join(errors)}]"


def header_of(stage: Stage, exchange: ExchangeType, message_id: int, response: bool) -> Header:
    """As the subject's peer writes it."""
    flags = Flags(Flags.INITIATOR * (not stage.sa.is_initiator) | Flags.RESPONSE * response)
    return Header(stage.sa.initiator_spi, stage.sa.responder_spi, exchange, flags, message_id)


ROLES = ("initiator", "responder")
STATES = ("INIT", "AUTH", "ESTABLISHED", "REKEYING", "REKEYED", "DELETING")
"""INIT and AUTH are the two halves of CONNECTING: without keys, and with keys that nobody has authenticated."""


def reach(role: str, state: str, **changes: object) -> Stage:
    """A subject in that state, with nothing in flight but lost."""
    pair = Pair(**changes)  # type: ignore[arg-type]
    subject, peer = (pair.left, pair.right) if role == "initiator" else (pair.right, pair.left)
    if state == "INIT":
        pair.defer = role == "responder"
        pair.left.command(Initiate(NAME))
        if pair.defer:
            pair.deliver()  # the initiator's own work; then its request arrives and the responder's work waits
            pair.deliver()
    elif state == "AUTH":
        pair.left.command(Initiate(NAME))
        pair.deliver()
        if role == "initiator":
            pair.deliver()
        else:
            pair.deliver(keep=True)  # the answer reaches the initiator, which has its keys; its IKE_AUTH is lost
    else:
        pair.establish()
        # A sign of life of the initiator, so that the responder knows it has the answer to IKE_AUTH
        pair.left.sa.enqueue(Liveness(), pair.now)
        pair.drain()
        pair.settle()
    sa = subject.sas[0]
    if state == "REKEYING":
        subject.command(Rekey(NAME))
    elif state == "DELETING":
        subject.command(Terminate(NAME))
    elif state == "REKEYED":
        peer.command(Rekey(NAME))
        pair.deliver()
    keys = next((other.keys for other in peer.sas if other.initiator_spi == sa.initiator_spi), None)
    pair.in_flight.clear()
    pair.now += 0.1
    return Stage(role, pair, subject, sa, None if state == "INIT" else keys)


# --- first requests ---------------------------------------------------------------------------------------------------

GOOD_REQUEST = (ike_offer(b""), IKE_KE, NONCE)


def ask(
    pair: Pair, *payloads: Payload, spi: int = 0xABC, remote: Endpoint | None = None, **header: int
) -> list[Message]:
    """A first request to the right host; gives its answers."""
    head = Header(
        spi, header.get("responder_spi", 0), ExchangeType.IKE_SA_INIT, Flags.INITIATOR, header.get("message_id", 0)
    )
    return ask_octets(pair, emit_message(head, payloads), remote)


def ask_octets(pair: Pair, octets: bytes, remote: Endpoint | None = None) -> list[Message]:
    pair.in_flight.clear()
    pair.receive(pair.right, octets, remote or Endpoint(LEFT, 500), Endpoint(RIGHT, 500))
    return [flight.message for flight in pair.in_flight]
