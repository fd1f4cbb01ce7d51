"""The IKE core: every IKE_SA of the gateway behind one contract (gateway/contract.py).

    datagram -> header -> our SPI -> IkeSa            IKE_SA_INIT with responder SPI 0 -> a new half-open IkeSa

Nothing unauthenticated changes an established IKE_SA; what is refused is counted by reason.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator

from gateway.contract import Compute, Endpoint, Fetch, RandomSource
from gateway.deadlines import Deadlines
from gateway.ike import crash_detection, doubt, grammar, reconfiguration, renewal, succession, unprotected
from gateway.ike.bucket import Bucket
from gateway.ike.commands import (
    Abandon,
    CheckLiveness,
    Command,
    Configure,
    CreateChildSa,
    Drain,
    Initiate,
    PeerMoved,
    Rekey,
    SaExpired,
    Terminate,
    TrafficSeen,
)
from gateway.ike.crash_detection import Tokens
from gateway.ike.errors import LocalError, PeerError, Violation
from gateway.ike.events import ChildInstall, ExchangeFailed, IkeUp, Notice
from gateway.ike.exchanges import dispatch, mobike, rekey_ike, timers
from gateway.ike.exchanges.create_child import CreateChild
from gateway.ike.exchanges.delete import DeleteChild
from gateway.ike.exchanges.rekey_ike import RekeyIke
from gateway.ike.exchanges.sa_init import InitiateSa
from gateway.ike.exchanges.tell import Redirect
from gateway.ike.half_open import HalfOpen, begins, is_init
from gateway.ike.key_exchange import KeyExchanges
from gateway.ike.message import SEALED, Header, Message, parse_header, parse_rest
from gateway.ike.payloads import Nonce, Notify
from gateway.ike.recorder import Recorder, line_of
from gateway.ike.redirect import Redirects
from gateway.ike.registry import NotifyType
from gateway.ike.revocation_cache import RevocationCache
from gateway.ike.sa import IkeSa
from gateway.ike.services import Counts, Failed, Then, WallClock, since_1970
from gateway.ike.settings import ChildSettings, ConnectionSettings
from gateway.ike.states import IkeState, Standing
from gateway.ike.strangers import Strangers
from gateway.ike.uniqueness import elect

DUE_AT_ONCE = 8
"""Connections whose timers are served in one go; the rest are due still, and datagrams may come between."""

BEGINNING = (IkeState.CREATED, IkeState.CONNECTING)


class IkeEndpoint:
    """All IKE_SAs of the gateway. Implements `services.Services` for them."""

    def __init__(
        self,
        random: RandomSource,
        key_exchanges: KeyExchanges,
        wall: WallClock = since_1970,
        crash_secret: bytes = b"",
    ) -> None:
        self.random = random
        self.wall = wall
        self.key_exchanges = key_exchanges
        self.rejected: Counter[str] = Counter({violation.value: 0 for violation in Violation})
        self._connections: dict[str, ConnectionSettings] = {}
        self._by_ends: dict[tuple[str, str], ConnectionSettings] = {}
        self._sas: dict[int, IkeSa] = {}
        self._by_name: dict[str, dict[int, IkeSa]] = {}
        self._deadlines: Deadlines[str] = Deadlines(self._deadline_of)
        self._stirred: dict[str, None] = {}  # a set in order of insertion
        self._half_open = HalfOpen(random)
        self._primary: dict[str, IkeSa] = {}
        self._counts: dict[str, Counts] = {}
        self._tried: dict[str, object] = {}  # what was negotiated when rekeys were last tried, by connection
        self._effects: deque[object] = deque()
        self._tickets: dict[int, tuple[IkeSa, Then, Failed]] = {}
        self._next_ticket = 1
        self._child_spis: set[int] = set()
        self.tokens = Tokens(crash_secret)
        self._repeats = Bucket(per_second=10.0, most=10.0, left=10.0)
        self.redirects = Redirects()
        self.strangers = Strangers()
        self.recorder = Recorder()
        self.revocations = RevocationCache()
        self._now = 0.0

    # --- the contract -------------------------------------------------------------------------------------------

    def receive(self, data: bytes, local: Endpoint, remote: Endpoint, now: float) -> None:
        """One IKE datagram, without its non-ESP marker."""
        self._turn(now)
        try:
            self._receive(data, local, remote, now)
        except PeerError as error:
            self.rejected[error.why.value] += 1

    def _turn(self, now: float) -> None:
        """What time it is, before anything is heard: that nothing was, and something not done in time, tells of a stand-still."""
        if now > self._now + doubt.STOOD_STILL and doubt.missed(self._deadlines.earliest(), now):
            for sa in self._sas.values():
                doubt.suspect(sa)
                self._stir(sa.name)
        self._now = now

    def command(self, command: Command, now: float) -> None:
        self._turn(now)
        if not isinstance(command, Configure):
            self._stir(command.connection)
        match command:
            case Configure(connections):
                self._configure(connections, now)
            case Initiate(connection):
                self._initiate(self._settings(connection), now)
            case CreateChildSa(connection, child):
                self._create_child(connection, child, now)
            case Terminate(connection, child, reason):
                self._terminate(connection, child, reason, now)
            case Abandon(connection, reason):
                for sa in self.sas(connection):
                    sa.destroy(now, reason)
            case Rekey(connection, child):
                self._rekey(connection, child, now)
            case CheckLiveness(connection):
                timers.check_liveness(self.primary(connection), now)
            case Drain(connection, to):
                self.redirects.drain(connection, to)
                for sa in self.sas(connection) if to else ():
                    if sa.redirectable and sa.established:
                        sa.enqueue(Redirect(), now)
            case TrafficSeen(connection, spis, at):
                self._traffic_seen(connection, spis, now if at is None else at)
            case PeerMoved(connection, spi_in, remote):
                succession.follow(self.primary(connection), spi_in, remote)
            case SaExpired(connection, spi, hard):
                self._expired(connection, spi, hard, now)

    def computed(self, ticket: int, result: object, now: float) -> None:
        """The result of a Compute, or the exception its job raised; what a Fetch brought."""
        self._turn(now)
        waiting = self._tickets.pop(ticket, None)
        if waiting is None:
            return
        sa, then, failed = waiting
        self._stir(sa.name)
        if sa.state is IkeState.DESTROYING:
            return
        try:
            if isinstance(result, Exception) and not isinstance(result, PeerError):
                # A defect of ours; an IKE_SA that waits for ever would be worse than one that fails
                sa.notice("error", "compute-failed", f"public-key work failed: {result!r}")
                raise PeerError(Violation.MALFORMED, "public-key work on it failed")
            if isinstance(result, BaseException):
                raise result
            then(result, now)
        except PeerError as error:
            self.rejected[error.why.value] += 1
            failed(error, now)

    def poll(self) -> Iterator[object]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float | None:
        return self._deadlines.earliest()

    def handle_deadline(self, now: float) -> None:
        self._turn(now)
        for connection in self._deadlines.due(now, DUE_AT_ONCE):
            self._stir(connection)
            for sa in self.sas(connection):
                if sa.state is not IkeState.DESTROYING:
                    sa.handle_deadline(now)

    # --- views --------------------------------------------------------------------------------------------------

    def primary(self, connection: str) -> IkeSa | None:
        """The established IKE_SA that carries the connection."""
        return self._primary.get(connection)

    def sas(self, connection: str) -> list[IkeSa]:
        return list(self._by_name.get(connection, {}).values())

    def stirred(self) -> list[str]:
        """Connections whose IKE_SAs may have changed since this was last asked."""
        found, self._stirred = list(self._stirred), {}
        return found

    @property
    def has_news(self) -> bool:
        """Whether anything came of what it was last given."""
        return bool(self._effects or self._stirred)

    @property
    def hosts(self) -> set[str]:
        """Our addresses that some IKE_SA uses, also one that is on its way out."""
        return {host for sa in self._sas.values() for host in mobike.hosts(sa, self._now)}

    @property
    def half_open(self) -> int:
        return len(self._half_open)

    def counts(self, connection: str) -> Counts:
        return self._counts.setdefault(connection, Counts())

    # --- services for IKE_SAs -----------------------------------------------------------------------------------

    def emit(self, effect: object) -> None:
        self._effects.append(effect)
        match effect:
            case IkeUp(connection, _, _, rekeyed):
                self.recorder.outcome(connection, f"IKE_SA {'rekeyed' if rekeyed else 'established'}", self._now)
            case ChildInstall(connection, child):
                self.recorder.outcome(connection, f"CHILD_SA {child} installed", self._now)
            case ExchangeFailed(connection, child, reason):
                self.recorder.outcome(connection, f"refused: {reason}{f' ({child})' if child else ''}", self._now)

    def compute(self, sa: IkeSa, job: Callable[[], object], then: Then, failed: Failed) -> None:
        ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
        self._tickets[ticket] = (sa, then, failed)
        self.emit(Compute(ticket, job))

    def fetch(self, sa: IkeSa, url: str, body: bytes, media: str, limit: int, then: Then, failed: Failed) -> None:
        ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
        self._tickets[ticket] = (sa, then, failed)
        self.emit(Fetch(ticket, url, body, media, limit))

    def serve(self, sa: IkeSa, message: Message, now: float) -> None:
        dispatch.respond(sa, message, now)

    def tick(self, sa: IkeSa, now: float) -> None:
        timers.run(sa, now)

    def new_ike_spi(self) -> int:
        while True:
            spi = int.from_bytes(self.random.octets(8), "big")
            if spi and spi not in self._sas:
                return spi

    def new_child_spi(self, settings: ChildSettings | None = None) -> int:
        """RFC 4303 2.1: 1..255 are reserved. Unique over the gateway, also among recently used ones. What is for one worker
        has its number modulo those of all: by this the data plane spreads what arrives."""
        while True:
            spi = int.from_bytes(self.random.octets(4), "big")
            if settings is not None and settings.resource is not None:
                spi += settings.resource - spi % settings.resources
            if 255 < spi < 1 << 32 and spi not in self._child_spis:
                self._child_spis.add(spi)
                if len(self._child_spis) > 1_000_000:
                    self._child_spis = {child for sa in self._sas.values() for child in sa.children}
                return spi

    def adopt(self, sa: IkeSa) -> None:
        self._sas[_our_spi(sa)] = sa
        self._by_name.setdefault(sa.name, {})[_our_spi(sa)] = sa
        self._child_spis.update(sa.children)
        self._stir(sa.name)

    def has_other_sa(self, sa: IkeSa) -> bool:
        return any(other.established and other is not sa for other in self.sas(sa.name))

    def carries(self, sa: IkeSa, child: str) -> bool:
        primary = self._primary.get(sa.name)
        return primary is None or primary is sa or not primary.sends(child)

    def carried(self, connection: str, child: str) -> bool:
        return any(
            one.active and one.usable and one.settings.group == child
            for sa in self.sas(connection)
            for one in sa.children.values()
        )

    def covered(self, sa: IkeSa) -> bool:
        primary = self._primary.get(sa.name)
        return primary is None or all(
            primary.sends(child.settings.group) for child in sa.children.values() if child.active
        )

    def established(self, sa: IkeSa, initial_contact: bool, now: float) -> None:
        self._half_open.forget(_our_spi(sa))
        for other in self.sas(sa.name) if initial_contact else ():
            # One that the peer sent us to is another gateway's (RFC 5685)
            elsewhere = other.redirected_from and other.remote.host != sa.remote.host
            older = other.established_at is not None and other.established_at < sa.created_at
            if other.is_initiator and other.state in BEGINNING:
                # Its answer, if one is on its way, is of before, and what it made may have been lost since
                other.standing = Standing.ANSWERED
            if other is not sa and older and not elsewhere:
                # RFC 7296 2.4: the peer asserts that it holds no older IKE_SA with us
                other.destroy(now, "", forgotten=True)
        self._elect(sa.name, now)

    def proven(self, sa: IkeSa, now: float) -> None:
        self._elect(sa.name, now)

    def rekeys_are_unproven(self, settings: ConnectionSettings) -> bool:
        return self._tried.get(settings.name) != settings.negotiated

    def rekeys_are_tried(self, settings: ConnectionSettings) -> None:
        self._tried[settings.name] = settings.negotiated

    def reauthenticate(self, sa: IkeSa, now: float) -> bool:
        # One of our own on its way may still take this one's place
        beginning = any(one.is_initiator and one.state in BEGINNING for one in self.sas(sa.name))
        # Nor is who was sent elsewhere called back
        if self._primary.get(sa.name) is not sa or beginning or self.redirects.order_of(sa):
            return False
        sa.notice("info", "ike-reauthentication", "a new IKE_SA is set up beside the old one")
        self.begin(sa.settings, now)
        return True

    def replaced(self, old: IkeSa, new: IkeSa) -> None:
        new.close_at, old.close_at = old.close_at, None
        if self._primary.get(new.name) in (None, old):
            self._primary[new.name] = new

    def destroyed(self, sa: IkeSa, now: float) -> None:
        self._sas.pop(_our_spi(sa), None)
        siblings = self._by_name.get(sa.name, {})
        siblings.pop(_our_spi(sa), None)
        if not siblings:
            self._by_name.pop(sa.name, None)
        self._stir(sa.name)
        self._half_open.forget(_our_spi(sa))
        self._elect(sa.name, now)
        if (primary := self._primary.get(sa.name)) is not None:
            primary.activate_all(again=False)

    def _stir(self, connection: str) -> None:
        self._deadlines.touch(connection)
        self._stirred[connection] = None

    def _deadline_of(self, connection: str) -> float | None:
        sas = self._by_name.get(connection, {}).values()
        return min((deadline for sa in sas for deadline in timers.deadlines(sa)), default=None)

    def _elect(self, connection: str, now: float) -> None:
        before = self._primary.pop(connection, None)
        primary = elect(self.sas(connection), before, self.random, now)
        if primary is None:
            return
        self._primary[connection] = primary
        if primary is not before:
            primary.activate_all()
            succession.come_back(primary, now)

    # --- receiving ----------------------------------------------------------------------------------------------

    def _receive(self, data: bytes, local: Endpoint, remote: Endpoint, now: float) -> None:
        if begins(data) and self._asks_for_cookie(data, local, remote, now):
            return
        message = self._parse(data, local, remote)
        if is_init(message.header):
            self._receive_init(message, local, remote, now)
            return
        if (sa := self._sa_of(message.header)) is None:
            self._for_nobody(message, local, remote, now)
            raise unprotected.unknown(message.header)
        self._stir(sa.name)
        if crash_detection.claimed(sa, message):
            crash_detection.heed(sa, message, now)
            return
        doubt.hear(sa, message)
        sa.receive(message, local, remote, now)

    def _sa_of(self, header: Header) -> IkeSa | None:
        sa = self._sas.get(header.receiver_spi)
        return sa if sa is not None and sa.is_of(header) else None

    def _for_nobody(self, message: Message, local: Endpoint, remote: Endpoint, now: float) -> None:
        """From a peer, for an IKE_SA that it has and we have not yet, or that we may have had, before we lost all of them (RFC 6290 4.5)."""
        settings = self._by_ends.get((local.host, remote.host))
        rekey_ike.overtaken(self.sas(settings.name) if settings else (), message.header, self._repeats, now)
        if settings is None or not settings.quick_crash_detection:
            return
        # What costs little and bounds how often comes first: a stranger may write in the peer's name
        answer = self.tokens.answer(message, local, remote, now)
        if answer and not crash_detection.names_live_sa(message.header, iter(self._sas.values())):
            self._stir(settings.name)
            self.counts(settings.name).notifies["QUICK_CRASH_DETECTION out"] += 1
            self._answer_unprotected(message.header, local, remote, *answer)

    def _parse(self, data: bytes, local: Endpoint, remote: Endpoint) -> Message:
        try:
            read, first = parse_header(data)
            if not is_init(read) and first not in SEALED and self._sa_of(read) is None:
                # Nobody's, and nothing to be answered: what a stranger writes in clear is not read to its end
                raise unprotected.unknown(read)
            return parse_rest(data, read, first)
        except PeerError as error:
            if (header := unprotected.worth_an_answer(data, error.notify)) is not None:
                self._answer_unprotected(header, local, remote, Notify(error.notify or 0, error.data))
            raise

    def _receive_init(self, message: Message, local: Endpoint, remote: Endpoint, now: float) -> None:
        known = self._half_open.sa(remote, message.header.initiator_spi)
        if known is not None:
            self._stir(known.name)
            known.receive(message, local, remote, now)
            return
        grammar.check_envelope(message)
        if message.header.responder_spi:
            # RFC 7296 3.1: zero in the first message
            raise PeerError(Violation.UNKNOWN_SPI, f"IKE_SA_INIT for {message.header.responder_spi:016x}")
        settings = self._match_peer(local, remote, now)
        leaving = self._half_open.leaving(settings.name, now)
        try:
            # A refusal leaves nothing behind, so a corrected request starts afresh (RFC 7296 1.2, 2.7)
            sa = self._answer_init(message, settings, local, remote, now)
        except PeerError as error:
            if error.notify is not None:
                self._answer_unprotected(message.header, local, remote, Notify(error.notify, error.data))
                # RFC 7296 1.2: a group that was guessed wrong is asked for anew, and nothing is amiss
                if error.notify != NotifyType.INVALID_KE_PAYLOAD and self._half_open.may_say(now):
                    text = f"refused IKE_SA_INIT from {remote}: {error}"
                    self.emit(Notice("warning", "ike-init-refused", settings.name, text, error.why))
            raise
        if sa is not None:
            if leaving is not None:
                self.rejected[Violation.HALF_OPEN_LIMIT.value] += 1
                leaving.destroy(now, "HALF_OPEN_LIMIT")
            self.adopt(sa)
            self._half_open.add(sa, remote)

    def _answer_init(
        self, message: Message, settings: ConnectionSettings, local: Endpoint, remote: Endpoint, now: float
    ) -> IkeSa | None:
        """None: the answer is a cookie to come back with, or somewhere else to go."""
        grammar.check(message)
        nonce = message.first(Nonce)
        assert isinstance(nonce, Nonce)
        shown = message.notify(NotifyType.COOKIE)
        cookie = self._half_open.cookie(message.header, nonce.data, shown, remote, now)
        if cookie is not None:
            self._ask_for(cookie, message.header, local, remote)
            return None
        if elsewhere := self.redirects.refusal(settings.name, message):
            self._answer_unprotected(message.header, local, remote, *elsewhere)
            return None
        sa = IkeSa(
            self, settings, is_initiator=False, initiator_spi=message.header.initiator_spi,
            responder_spi=self.new_ike_spi(), local=local, remote=remote, now=now,
        )  # fmt: skip
        sa.record(line_of(message.header, message.payloads, now, False, len(message.octets)))
        sa.window.answering = True
        dispatch.respond(sa, message, now)
        return sa

    def _asks_for_cookie(self, data: bytes, local: Endpoint, remote: Endpoint, now: float) -> bool:
        settings = self._match_peer(local, remote, now)
        asked = self._half_open.cookie_unread(data, settings.name, remote, now)
        if asked is not None:
            self._ask_for(*asked, local, remote)
        return asked is not None

    def _ask_for(self, cookie: Notify, header: Header, local: Endpoint, remote: Endpoint) -> None:
        self.rejected[Violation.NO_COOKIE.value] += 1
        self._answer_unprotected(header, local, remote, cookie)

    def _match_peer(self, local: Endpoint, remote: Endpoint, now: float) -> ConnectionSettings:
        settings = self._by_ends.get((local.host, remote.host))
        if settings is None:
            if self.strangers.called(local.host, remote.host, now):
                here = (one.name for one in self._connections.values() if one.local.host == local.host)
                self._stirred.update(dict.fromkeys(name for name in here if name not in self._primary))
            raise PeerError(Violation.UNKNOWN_PEER, f"no connection between {local.host} and {remote.host}")
        return settings

    def _answer_unprotected(self, header: Header, local: Endpoint, remote: Endpoint, *notifies: Notify) -> None:
        self.emit(unprotected.answer(header, local, remote, notifies))

    # --- commands -----------------------------------------------------------------------------------------------

    def _settings(self, connection: str) -> ConnectionSettings:
        try:
            return self._connections[connection]
        except KeyError:
            raise LocalError(f"no connection {connection}") from None

    def _configure(self, connections: tuple[ConnectionSettings, ...], now: float) -> None:
        self._connections = {settings.name: settings for settings in connections}
        self.recorder.keep_only(self._connections)
        self.redirects.keep_only(self._connections)
        self._tried = {name: what for name, what in self._tried.items() if name in self._connections}
        # Of several between the same ends the first is meant
        self._by_ends = {(one.local.host, one.remote.host): one for one in reversed(connections)}
        for sa in list(self._sas.values()):
            settings = self._connections.get(sa.name)
            if settings is None:
                self._stir(sa.name)
                timers.close(sa, "REMOVED_FROM_CONFIGURATION", now)
            elif sa.settings is not settings:
                self._stir(sa.name)
                reconfiguration.apply(sa, settings, now)

    def _initiate(self, settings: ConnectionSettings, now: float) -> None:
        # A half-open one that somebody else started does not count, for nobody has authenticated it,
        # nor one that is closed already, whose end the peer may never confirm
        ours = [sa for sa in self.sas(settings.name) if sa.state is not IkeState.DELETING]
        if any(sa.is_initiator or sa.established for sa in ours):
            return
        self.begin(settings, now)

    def begin(self, settings: ConnectionSettings, now: float) -> None:
        remote, sent_by = self.redirects.beginning(settings)
        sa = IkeSa(
            self, settings, is_initiator=True, initiator_spi=self.new_ike_spi(), responder_spi=0,
            local=settings.local, remote=remote, now=now,
        )  # fmt: skip
        sa.redirected_from = sent_by
        self.adopt(sa)
        sa.enqueue(InitiateSa(), now)

    def _create_child(self, connection: str, child: str, now: float) -> None:
        sa, settings = self._primary.get(connection), self._settings(connection).child(child)
        if sa is not None and settings is not None:
            under_way = (sa.exchange, *sa.queue)
            if not any(isinstance(one, CreateChild) and one.settings.name == child for one in under_way):
                sa.enqueue(CreateChild(settings), now)

    def _terminate(self, connection: str, child: str, reason: str, now: float) -> None:
        if not child:
            for sa in self.sas(connection):
                timers.close(sa, reason, now)
            return
        primary = self._primary.get(connection)
        found = primary.usable_child(child) if primary is not None else None
        if primary is not None and found is not None:
            for member in [one for one in primary.children.values() if one.settings.group == child and one.usable]:
                primary.enqueue(DeleteChild(member, reason), now)

    def _rekey(self, connection: str, child: str, now: float) -> None:
        sa = self._primary.get(connection)
        if sa is None:
            return
        found = [one for one in sa.children.values() if one.settings.group == child and one.usable] if child else []
        for one in found:
            if one is sa.usable_child(one.name):
                timers.rekey_child(sa, one, now)
        if not child and not sa.has_exchange(RekeyIke):
            sa.enqueue(RekeyIke(), now)

    def _traffic_seen(self, connection: str, spis: frozenset[int], at: float) -> None:
        for sa in self.sas(connection):
            for child in list(sa.children.values()):
                if child.spi_in in spis:
                    sa.last_heard = max(sa.last_heard, at)
                    sa.confirm(child)

    def _expired(self, connection: str, spi: int, hard: bool, now: float) -> None:
        # What carries the traffic need not be the primary's
        for sa in self.sas(connection):
            child = sa.children.get(spi) or sa.child_by_spi_out(spi)
            if child is not None and hard:
                renewal.expired(sa, child, "CHILD_LIMIT_REACHED", now)
            elif child is not None:
                child.limited = True
                timers.rekey_child(sa, child, now)


def _our_spi(sa: IkeSa) -> int:
    return sa.initiator_spi if sa.is_initiator else sa.responder_spi
