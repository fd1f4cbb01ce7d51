"""One IKE_SA: its window, its keys, its CHILD_SAs and its timers (RFC 7296 2).

What the exchanges mean is in exchanges/, one file each; this file only carries messages to them,
keeps the clock and holds the state together.

    receive -> window -> keymat (ICV) -> grammar -> exchange -> states -> effects
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gateway.contract import Endpoint, Transmit
from gateway.ike import grammar, resources, succession, synchronisation
from gateway.ike.child import LINGER, ChildSa, Lingering
from gateway.ike.crash_detection import ANSWER_OCTETS
from gateway.ike.errors import AUTHENTICATION_REASONS, LocalError, PeerError, Violation
from gateway.ike.events import ChildActivate, ChildRemove, IkeDown, Notice
from gateway.ike.exchanges.base import Exchange
from gateway.ike.exchanges.followup import Pending
from gateway.ike.exchanges.mobike import Whereabouts
from gateway.ike.fragments import Reassembly
from gateway.ike.keymat import IkeKeys, open_fragment, open_message, seal_fragments
from gateway.ike.message import (
    MESSAGE_MAX,
    Header,
    Message,
    emit_chain,
    emit_message,
    intermediate_octets,
    parse_chain,
)
from gateway.ike.nat import NatResult
from gateway.ike.payloads import Notify, Payload
from gateway.ike.recorder import Line, line_of
from gateway.ike.registry import ExchangeType, Flags, NotifyType
from gateway.ike.renewal import Renewal
from gateway.ike.services import Failed, Services, Then
from gateway.ike.settings import IKE_PORT, NATT_PORT, ConnectionSettings
from gateway.ike.states import ChildInput, IkeInput, IkeState, Standing, admits, next_ike_state
from gateway.ike.uniqueness import REPLACED_LIFE, Origin
from gateway.ike.window import Datagrams, Request, Window

NON_ESP_MARKER = bytes(4)  # RFC 3948 2.2
IPV4_AND_UDP, IPV6_AND_UDP = 28, 48  # RFC 7383 2.5.1 counts them too
MARGIN = 0.1
"""What waits for a time waits a random part of this share less: rekeys, so that the two ends seldom collide, and
retransmissions (RFC 7296 2.4 leaves their times open), so that many that began together do not stay in step."""


class IkeSa:
    """An IKE_SA of one connection. Created by exchanges/sa_init.py or exchanges/rekey_ike.py."""

    def __init__(
        self,
        services: Services,
        settings: ConnectionSettings,
        *,
        is_initiator: bool,
        initiator_spi: int,
        responder_spi: int,
        local: Endpoint,
        remote: Endpoint,
        now: float,
    ) -> None:
        self.services, self.settings = services, settings
        self.is_initiator, self.initiator_spi, self.responder_spi = is_initiator, initiator_spi, responder_spi
        self.local, self.remote = local, remote
        self.state = IkeState.CREATED
        self.standing = Standing.HELD if is_initiator else Standing.ANSWERED
        self.window = Window()
        self.keys: IkeKeys | None = None
        self.offers = settings.offers  # what their suite was agreed on from
        self.answered_under: IkeKeys | None = None  # what the last request that we answered was sealed with
        self.nat = NatResult()
        # Both said in IKE_SA_INIT that they can (RFC 7383 2.3)
        self.fragments = False
        # Both have a PPK (RFC 8784); once established, whether its keys are mixed in
        self.ppk = False
        # We initiated, and the first CHILD_SA comes by CREATE_CHILD_SA (RFC 6023)
        self.childless = False
        # It is the peer, the initiator, that tells where it is (RFC 4555); and where the last request came to and from
        self.mobike = False
        self.whereabouts = Whereabouts()
        # Where traffic goes as long as nobody has proven to receive at `remote` (RFC 4555 3.7)
        self.traffic_remote: Endpoint | None = None
        self.asked_at = (local, remote)
        # Both of RFC 5685: the peer follows redirects of ours; from where we were sent here
        self.redirectable, self.redirected_from = False, ""
        # What the peer shows if it loses this IKE_SA (RFC 6290); empty: nothing
        self.peer_token = b""
        self.agreement = synchronisation.Agreement()
        # RFC 9593 3.1: what we put off to IKE_INTERMEDIATE; what the peer said there
        self.methods_owed: Notify | None = None
        self.methods_said: tuple[bytes, ...] = ()
        self.wire: tuple[int, int] | None = None  # octets and datagrams of the message just put together
        self.reassembly = {False: Reassembly(), True: Reassembly()}  # of requests, of responses
        self.children: dict[int, ChildSa] = {}
        self.lingering: list[Lingering] = []
        self.exchange: Exchange | None = None
        self.queue: deque[Exchange] = deque()
        # Of the first IKE_SA of a chain of rekeys: what both ends agree on for ever
        self.origin = Origin(initiator_spi, is_initiator)
        self.created_at = self.last_heard = self.last_sent = now
        self.established_at: float | None = None
        self.rekey_at: float | None = None
        self.planned_at = now  # when its lifetime asks for the rekey; `rekey_at` may be earlier
        self.reauth_at: float | None = None
        self.check_at: float | None = None  # when everything is rekeyed once, to see that it can be
        self.resources_at: float | None = None  # when per-resource CHILD_SAs are asked for (RFC 9611)
        self.renewal = Renewal()
        self.give_up_at: float | None = None
        self.close_at: float | None = None
        self.covered = False  # when that was looked at last, another one carried all
        # While it is the rival in a collision: the IKE_SA whose place it may take
        self.predecessor: IkeSa | None = None
        self.replaced: IkeSa | None = None  # until the peer, which asked for this rekey, is heard on this one
        # True while its end would be nobody's news: replaced by a rekey, or not yet in its predecessor's place
        self.quiet = False
        # A CREATE_CHILD_SA of the peer that further key exchanges are to complete (RFC 9370)
        self.followup: Pending | None = None
        self.init_request = self.init_response = self.ni = self.nr = b""
        # Why the attempt fails, if nothing better comes: nobody authenticated it (RFC 7296 2.21.1)
        self.hint: tuple[str, dict[str, str]] | None = None
        # What a stranger may have sent is shown once somebody proved to hold its keys
        self.unproven_lines: list[Line] | None = None if is_initiator else []

    # --- identity -----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def established(self) -> bool:
        return self.state in (IkeState.ESTABLISHED, IkeState.REKEYING)

    @property
    def spis(self) -> bytes:
        """SPIi | SPIr as the key derivation takes them."""
        return self.initiator_spi.to_bytes(8, "big") + self.responder_spi.to_bytes(8, "big")

    @property
    def encapsulate(self) -> bool:
        """Whether ESP goes in UDP: a NAT was seen, or the configuration forces it."""
        return self.settings.encap or self.nat.local or self.nat.remote

    def is_of(self, header: Header) -> bool:
        """Whether a message with that header is for this one."""
        if self.is_initiator and self.responder_spi == 0:
            return header.initiator_spi == self.initiator_spi and header.exchange == ExchangeType.IKE_SA_INIT
        return (header.initiator_spi, header.responder_spi) == (self.initiator_spi, self.responder_spi)

    def advance(self, event: IkeInput) -> None:
        self.state = next_ike_state(self.state, event)

    # --- sending ------------------------------------------------------------------------------------------------

    def _transmit_all(self, datagrams: Datagrams, now: float, ends: tuple[Endpoint, Endpoint] | None = None) -> None:
        self.last_sent = now
        self._emit_all(datagrams, ends)

    def _emit_all(self, datagrams: Datagrams, ends: tuple[Endpoint, Endpoint] | None = None) -> None:
        local, remote = ends or (self.local, self.remote)
        # RFC 7296 3.1, RFC 3948 2.2: on port 4500 the non-ESP marker precedes the header
        marker = NON_ESP_MARKER if local.port == NATT_PORT else b""
        for datagram in datagrams:
            self.services.emit(Transmit(marker + datagram, local, remote))

    @property
    def largest(self) -> int:
        """Octets of the largest message that may go whole."""
        if not self.fragments:
            return MESSAGE_MAX
        outside = (IPV6_AND_UDP if ":" in self.remote.host else IPV4_AND_UDP) + len(NON_ESP_MARKER)
        return self.settings.fragment_size - outside

    def encode(
        self, kind: ExchangeType, message_id: int, payloads: tuple[Payload, ...], response: bool, now: float
    ) -> Datagrams:
        flags = (Flags.INITIATOR if self.is_initiator else Flags(0)) | (Flags.RESPONSE if response else Flags(0))
        header = Header(self.initiator_spi, self.responder_spi, kind, flags, message_id)
        if kind == ExchangeType.IKE_INTERMEDIATE and self.keys is not None:
            self.keys.absorb(intermediate_octets(header, *emit_chain(payloads)), of_initiator=self.is_initiator)
        self.services.counts(self.name).notified(payloads, "out")
        if kind == ExchangeType.IKE_SA_INIT:
            datagrams: Datagrams = (emit_message(header, payloads),)
        elif self.keys is None:
            raise LocalError(f"{kind.name} before there are keys")
        else:
            # RFC 6290 4.5: whoever has lost this IKE_SA answers nothing that is shorter than the answer
            at_least = ANSWER_OCTETS if self.peer_token and not response else 0
            datagrams = seal_fragments(self.keys, header, payloads, self.services.random, self.largest, at_least)
        self.record(line_of(header, payloads, now, True, sum(map(len, datagrams)), len(datagrams)))
        return datagrams

    def record(self, line: Line) -> None:
        if self.unproven_lines is not None:
            self.unproven_lines.append(line)
        else:
            self.services.recorder.add(self.name, line)

    def request(
        self, kind: ExchangeType, payloads: tuple[Payload, ...], now: float, repeat_id: int | None = None
    ) -> Datagrams:
        """Sends a request of the current exchange and arms its retransmission; returns it as sent."""
        message_id = self.window.next_request if repeat_id is None else repeat_id
        return self._send(Request(message_id, (), 0.0, (kind, payloads)), now)

    def request_outside(self, payloads: tuple[Payload, ...], now: float) -> None:
        """An INFORMATIONAL with message ID 0 that no counter knows of (RFC 6311 5.1)."""
        self._send(Request(0, (), 0.0, (ExchangeType.INFORMATIONAL, payloads), outside=True), now)

    def _send(self, request: Request, now: float) -> Datagrams:
        kind, payloads = request.content
        request.datagrams = self.encode(kind, request.message_id, payloads, False, now)
        request.deadline = self.jittered(now, self.settings.retransmit_timeout)
        self.window.sent(request)
        self._transmit_all(request.datagrams, now)
        return request.datagrams

    def respond(self, kind: ExchangeType, payloads: tuple[Payload, ...], now: float) -> Datagrams:
        """Answers the request being worked on."""
        datagrams = self.encode(kind, self.window.expected, payloads, True, now)
        self.window.answered(datagrams)
        self.answered_under = self.keys
        # RFC 7296 2.11: to where it was asked from, which need not be where the peer was
        self._transmit_all(datagrams, now, self.asked_at)
        self.services.counts(self.name).answered(kind, payloads)
        return datagrams

    def respond_outside(self, payloads: tuple[Payload, ...], now: float) -> None:
        answer = self.encode(ExchangeType.INFORMATIONAL, 0, payloads, True, now)
        self._transmit_all(answer, now, self.asked_at)
        self.services.counts(self.name).answered(ExchangeType.INFORMATIONAL, payloads)

    def compute(self, job: Callable[[], object], then: Then, failed: Failed) -> None:
        self.services.compute(self, job, then, failed)

    # --- our exchanges ------------------------------------------------------------------------------------------

    def enqueue(self, exchange: Exchange, now: float) -> None:
        """Starts an exchange now or after the current one (window of one)."""
        self.queue.append(exchange)
        self._next_exchange(now)

    def finish(self, now: float, result: str = "ok") -> None:
        """The current exchange is over."""
        if self.exchange is not None:
            self.services.counts(self.name).exchanges[f"{self.exchange.kind.name} initiator {result}"] += 1
        self.exchange = None
        self._next_exchange(now)

    def _next_exchange(self, now: float) -> None:
        if self.window.used_up and self.exchange is None and self.queue:
            # RFC 7296 2.2: they never wrap
            self.destroy(now, "PROTOCOL_VIOLATION", {"detail": "the message IDs are used up"})
        while self.exchange is None and self.queue and self.state is not IkeState.DESTROYING:
            candidate = self.queue.popleft()
            if candidate.still_wanted(self):
                self.exchange = candidate
                candidate.start(self, now)

    def has_exchange(self, kind: type[Exchange]) -> bool:
        return isinstance(self.exchange, kind) or any(isinstance(exchange, kind) for exchange in self.queue)

    # --- receiving ----------------------------------------------------------------------------------------------

    def receive(self, message: Message, local: Endpoint, remote: Endpoint, now: float) -> None:
        """A message for this SA. PeerError when it was refused without an answer."""
        grammar.check_envelope(message)
        if message.header.from_original_initiator == self.is_initiator:
            # RFC 7296 3.1: the I flag tells which side made the SA; a reflected message has it wrong
            raise PeerError(Violation.GRAMMAR, "initiator flag")
        if message.header.is_response:
            self._receive_response(message, local, remote, now)
        else:
            self._receive_request(message, local, remote, now)

    def _receive_response(self, message: Message, local: Endpoint, remote: Endpoint, now: float) -> None:
        self.window.check_response(message.header.message_id)
        exchange = self.exchange
        if exchange is None or exchange.kind != message.header.exchange:
            raise PeerError(Violation.UNEXPECTED_RESPONSE, message.header.exchange.name)
        try:
            opened = self.opened(message)
        except PeerError as error:
            if error.notify is None or self.keys is None:
                raise
            # Authentic but malformed inside (RFC 7296 2.21.3)
            self.services.rejected[error.why.value] += 1
            self.window.pending = None
            exchange.on_error(self, error, now)
            return
        if opened is None:
            return
        if not exchange.expects(opened):
            raise PeerError(Violation.UNEXPECTED_RESPONSE, "an answer to something else")
        self.heard(opened, local, remote, now)
        pending, self.window.pending = self.window.pending, None
        try:
            grammar.check(opened)
            consumed = exchange.on_response(self, opened, now)
        except PeerError as error:
            if opened.header.exchange == ExchangeType.IKE_SA_INIT:
                # RFC 7296 2.21.1: nobody authenticated it, so it must not end the attempt
                self.window.pending = pending
                raise
            self.services.rejected[error.why.value] += 1
            exchange.on_error(self, error, now)
            return
        if not consumed:
            self.window.pending = pending

    def _receive_request(self, message: Message, local: Endpoint, remote: Endpoint, now: float) -> None:
        header = message.header
        if synchronisation.answer(self, message, local, remote, now):
            return
        if self.window.is_repeat(header.message_id):
            # Answered only when it verifies: a spoofed repeat must not make us an amplifier
            if header.exchange != ExchangeType.IKE_SA_INIT:
                if not self._verifies(message):
                    return
            elif message.octets != self.init_request:
                # RFC 7296 2.1: a repeat is the same octets; here nothing else tells it from a stranger's message
                raise PeerError(Violation.MESSAGE_ID, "another IKE_SA_INIT under the same SPI")
            assert self.window.cached_response is not None
            self.services.recorder.repeated(self.name, header.message_id, True)
            self._transmit_all(self.window.cached_response, now, (local, remote))
            return
        self.window.check_request(header.message_id)
        # One that we close because the peer did not prove itself never was an IKE_SA: to answer would claim that it is
        unproven = self.state is IkeState.DELETING and self.established_at is None
        if unproven or not admits(self.state, header.exchange, self.is_initiator):
            raise PeerError(Violation.OUT_OF_STATE, f"{header.exchange.name} in {self.state.value}")
        try:
            opened = self.opened(message)
        except PeerError as error:
            if error.notify is None or self.keys is None:
                raise
            self.window.answering = True
            self.services.rejected[error.why.value] += 1
            self._refuse(header.exchange, error, now)
            return
        if opened is None:
            return
        self.heard(opened, local, remote, now)
        self.confirm_children()
        self.window.answering = True
        try:
            grammar.check(opened)
            self.services.serve(self, opened, now)
        except PeerError as error:
            self.services.rejected[error.why.value] += 1
            self._refuse(header.exchange, error, now)
        # What changes something waits for its turn: both ends would be at it at once
        if self.exchange is not None and self.exchange.only_asks and self.window.overdue():
            self.repeat()

    def _refuse(self, kind: ExchangeType, error: PeerError, now: float) -> None:
        """RFC 7296 2.21: the answer to a request that verified but cannot be served."""
        notify = error.notify or NotifyType.INVALID_SYNTAX
        self.respond(kind, (Notify(int(notify), error.data),), now)
        if kind in (ExchangeType.IKE_AUTH, ExchangeType.IKE_INTERMEDIATE):
            reason = AUTHENTICATION_REASONS.get(error.why, f"{notify.name}_SENT")
            self.destroy(now, reason, {"detail": error.detail})
        elif notify == NotifyType.INVALID_SYNTAX:
            # RFC 7296 2.21.3: fatal for both peers
            self.destroy(now, "INVALID_SYNTAX_SENT", {"detail": error.detail})
        else:
            self.notice("warning", "ike-request-refused", f"answered {notify.name}: {error.detail}")

    def refuse_pending(self, kind: ExchangeType) -> Failed:
        """A `failed` callback for Compute while answering."""
        return lambda error, now: self._refuse(kind, error, now)

    def opened(self, message: Message) -> Message | None:
        """The message with what is in it; None when it is a fragment and others are still to come."""
        if message.header.exchange == ExchangeType.IKE_SA_INIT:
            return message
        keys, fragment = self._keys(), message.fragment
        if fragment is None:
            return open_message(keys, message)
        reassembly = self.reassembly[message.header.is_response]
        if not reassembly.wanted(message.header, fragment):
            return None
        whole = reassembly.add(message.header, fragment, self._open_fragment(message, keys))
        if whole is None:
            return None
        inner = (whole.first_inner, whole.plaintext)
        payloads = parse_chain(whole.plaintext, whole.first_inner)
        self.wire = (whole.octets, fragment.total)
        return Message(message.header, payloads, message.octets, inner)

    def _open_fragment(self, message: Message, keys: IkeKeys) -> bytes:
        assert message.fragment is not None
        if not self.fragments:
            raise PeerError(Violation.GRAMMAR, "a fragment, without both ends having said that they can")
        return open_fragment(keys, message, message.fragment)

    def _keys(self) -> IkeKeys:
        if self.keys is None:
            raise PeerError(Violation.OUT_OF_STATE, "sealed message before there are keys")
        return self.keys

    def _verifies(self, message: Message) -> bool:
        """Whether a repeated request is to be answered again; PeerError when it does not verify."""
        # An IKE_INTERMEDIATE that we answered changed the keys for what comes after it
        keys = self.answered_under or self._keys()
        if message.fragment is None:
            open_message(keys, message)
            return True
        # RFC 7383 2.6.1: one answer, not one for each fragment
        self._open_fragment(message, keys)
        return message.fragment.number == 1

    def heard(self, message: Message, local: Endpoint, remote: Endpoint, now: float) -> None:
        """Bookkeeping after the ICV verified, never before."""
        self.services.counts(self.name).notified(message.payloads, "in")
        octets, datagrams = self.wire or (len(message.octets), 1)
        self.wire = None
        if message.header.exchange != ExchangeType.IKE_SA_INIT:
            self._show_unproven()
        self.record(line_of(message.header, message.payloads, now, False, octets, datagrams))
        if message.header.exchange == ExchangeType.IKE_SA_INIT:
            return
        if message.header.exchange == ExchangeType.IKE_INTERMEDIATE:
            self._keys().absorb(intermediate_octets(message.header, *message.inner), of_initiator=not self.is_initiator)
        self.last_heard = now
        if self.replaced is not None:
            self.replaced.give_up_at, self.replaced = now + REPLACED_LIFE, None
        if not message.header.is_response:
            self.asked_at = (local, remote)
        if self.established and (message.header.is_response or not self.is_initiator):
            self._prove(now)
        # RFC 7296 2.23: a side that is not behind a NAT follows its peer's address; IKE_AUTH floats to 4500
        moved = (local, remote) != (self.local, self.remote) and not (self.nat.local and self.is_initiator)
        # Nobody goes back to 500, where a peer would take our ESP for IKE; some answer from there all the same
        back = self.local.port == NATT_PORT and IKE_PORT in (local.port, remote.port)
        if moved and not back and not self.mobike:
            self.local, self.remote = local, remote
            succession.moved(self, remote)

    def _show_unproven(self) -> None:
        lines, self.unproven_lines = self.unproven_lines or (), None
        for line in lines:
            self.services.recorder.add(self.name, line)

    def _prove(self, now: float) -> None:
        """Something after IKE_AUTH came that only a peer can send which knows of us."""
        if self.standing is not Standing.PROVEN:
            self.standing = Standing.PROVEN
            if not self.is_initiator:
                # It has our answer to IKE_AUTH. That it has one to a later request, only its next request says
                self.confirm_children()
            self.services.proven(self, now)

    # --- CHILD_SAs ----------------------------------------------------------------------------------------------

    def usable_child(self, name: str) -> ChildSa | None:
        """The CHILD_SA of that name which carries traffic, else one that could."""
        usable = [child for child in self.children.values() if child.name == name and child.usable]
        # Interop: some peers never delete what they have rekeyed; it is not what carries the traffic any more
        carrying = [child for child in usable if child.active and not (child.successor and child.successor.active)]
        return next(iter(carrying or usable), None)

    def sends(self, name: str) -> bool:
        """Whether a CHILD_SA of that name carries traffic here."""
        return any(child.active and child.usable for child in self.children.values() if child.name == name)

    def child_by_spi_out(self, spi: int) -> ChildSa | None:
        return next((child for child in self.children.values() if child.spi_out == spi), None)

    def activate(self, child: ChildSa) -> None:
        """Its traffic leaves on this SA from now on, or as soon as this IKE_SA carries the connection."""
        if not child.active and not child.left:
            child.active = True
            if self.services.carries(self, child.settings.group):
                self.services.emit(ChildActivate(self.name, child.settings.group, child.spi_out))

    def confirm(self, child: ChildSa) -> None:
        """The peer holds it: what we send may go there."""
        if not child.proven:
            child.proven = True
            if child.usable:
                self.activate(child)

    def confirm_children(self) -> None:
        """The peer asks for something new, so it has had our last answer, and with it the CHILD_SA that we made for it."""
        for child in self.children.values():
            if not self._is_successor(child):
                self.confirm(child)

    def activate_all(self, again: bool = True) -> None:
        """This IKE_SA carries the connection from now on. What a rekey holds back stays held back."""
        for child in self.children.values():
            waiting = not self.sends(child.name) and child.usable and not self._is_successor(child)
            # What works elsewhere is not left for one that the peer may not hold
            movable = (again and child.proven) or not self.services.carried(self.name, child.settings.group)
            if (waiting and movable) or (again and child.active):
                child.active = True
                self.services.emit(ChildActivate(self.name, child.settings.group, child.spi_out))

    def _is_successor(self, child: ChildSa) -> bool:
        return any(child is other.successor for other in self.children.values())

    def retire(self, child: ChildSa, now: float, linger: bool) -> None:
        """Removes a CHILD_SA: outbound at once, inbound after LINGER so that nothing on its way is lost."""
        self.children.pop(child.spi_in, None)
        child.advance(ChildInput.REMOVE)
        for other in self.children.values():
            if other.successor is child:
                # By what replaced it too, else as it was before
                other.successor = child.successor
        succession.succeed(self, child.successor)
        spi_in, spi_out = 0 if linger else child.spi_in, 0 if child.left else child.spi_out
        if linger:
            self.lingering.append(Lingering(child.settings.group, child.spi_in, now + LINGER))
        if spi_in or spi_out:
            self.services.emit(ChildRemove(self.name, child.settings.group, spi_in, spi_out))
        if child.successor is None:
            self.renewal.lost = True
            succession.leave_older(self, child)
            resources.lost(self, child, now)

    # --- timers -------------------------------------------------------------------------------------------------

    def handle_deadline(self, now: float) -> None:
        self.services.tick(self, now)

    def retransmit_due(self, now: float) -> None:
        """RFC 7296 2.1, 2.4: the same octets with back-off, then the peer counts as dead."""
        pending = self.window.pending
        if pending is None or now < pending.deadline:
            return
        if pending.tries >= self.settings.retransmit_tries:
            self.window.pending = None
            if self.exchange is not None:
                self.exchange.on_timeout(self, now)
            return
        pending.tries += 1
        anew = self.exchange and self.exchange.again(self, now)
        pending.datagrams = anew or pending.datagrams
        wait = self.settings.retransmit_timeout * self.settings.retransmit_base**pending.tries
        pending.deadline = self.jittered(now, wait)
        self.services.counts(self.name).retransmissions += 1
        if not anew:
            self.services.recorder.repeated(self.name, pending.message_id, False)
        self._transmit_all(pending.datagrams, now)

    def repeat(self) -> None:
        """The request that is under way, out of turn: nothing else follows from it."""
        if self.window.pending is not None:
            self._emit_all(self.window.pending.datagrams)

    def jittered(self, now: float, duration: float) -> float:
        return now + duration * self.services.random.uniform(1.0 - MARGIN, 1.0)

    # --- the end ------------------------------------------------------------------------------------------------

    def destroy(
        self, now: float, reason: str, context: dict[str, str] | None = None, *, forgotten: bool = False
    ) -> None:
        """Forgets the IKE_SA and its CHILD_SAs. `reason` "" when a successor took over; `forgotten`: the peer has none of it either."""
        if self.state is IkeState.DESTROYING:
            return
        self.queue.clear()
        replaced, self.replaced = self.replaced, None
        if replaced is not None:
            # Nothing ever came on this one, nor will on that
            replaced.destroy(now, "")
        for one in self.services.sas(self.name):
            if one.replaced is self:
                one.replaced = None
        self.exchange = self.followup = None
        self.window.pending = None
        if reason and not self.quiet and self.unproven_lines is None:
            self.services.recorder.outcome(self.name, f"IKE_SA ended: {reason}", now)
        self.advance(IkeInput.CLOSE)
        # Another IKE_SA, if there is one, carries the traffic before the CHILD_SAs of this one go
        self.services.destroyed(self, now)
        # What the peer sent before it knew still comes, if there is a peer
        lingers = reason in ("", "DELETED_BY_PEER") and not forgotten
        heir = self.services.primary(self.name) if lingers else None
        for child in list(self.children.values()):
            self.retire(child, now, linger=heir is not None)
        if heir is not None:
            heir.lingering += self.lingering
        else:
            for lingering in self.lingering:
                self.services.emit(ChildRemove(self.name, lingering.child, lingering.spi_in, 0))
        self.lingering = []
        self.services.emit(
            IkeDown(self.name, self.initiator_spi, "" if self.quiet else reason, context or {}, self.is_initiator)
        )

    def notice(self, level: str, event: str, text: str) -> None:
        self.services.emit(Notice(level, event, self.name, text))
