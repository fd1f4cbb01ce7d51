"""CREATE_CHILD_SA for CHILD_SAs: additional ones and rekeys (RFC 7296 1.3.1, 1.3.3, 2.8, 2.25.1).

    HDR, SK {[N(REKEY_SA)], SA, Ni, [KEi], TSi, TSr}  -->
                                  <--  HDR, SK {SA, Nr, [KEr], TSi, TSr}

Rekeying is make-before-break: both directions stand on both sides before anyone sends on them.

    initiator: install new -> send on new -> DELETE old -> (old inbound lingers)
    responder: install new -> answer -> old DELETEd -> send on new -> (old inbound lingers)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gateway.ike import proposal, renewal, resources, succession
from gateway.ike.child import ChildSa
from gateway.ike.errors import PeerError, Violation
from gateway.ike.events import ExchangeFailed
from gateway.ike.exchanges import child_negotiation
from gateway.ike.exchanges.base import NONCE_OCTETS, wanted_group
from gateway.ike.exchanges.child_negotiation import ChildOffer, ChildTerms
from gateway.ike.exchanges.delete import DeleteChild
from gateway.ike.exchanges.followup import CreateExchange, Secrets, expect
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.exchanges.recovered import DeleteUnknown
from gateway.ike.key_exchange import SEED_OCTETS, KeyPair, check_public
from gateway.ike.keymat import check_nonce
from gateway.ike.message import Message
from gateway.ike.payloads import KeyExchange, Nonce, Notify, Payload
from gateway.ike.registry import ExchangeType, NotifyType, Protocol
from gateway.ike.settings import ChildSettings
from gateway.ike.states import ChildInput, ChildState, IkeState

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

CHILD_SAS_MAX = 64
"""CHILD_SAs of one IKE_SA, for each configured one, beyond which the peer may make no more."""
RETRY_FAILED = 10.0
RETRY_EARLY = 300.0
"""Seconds until a refused rekey is asked for again whose time has not come yet (RETRY_FAILED when it has)."""
RETRY_TEMPORARY = 2.0  # RFC 7296 2.25: wait before trying again
RETRIED = (NotifyType.TEMPORARY_FAILURE.name, NotifyType.STATE_NOT_FOUND.name)
"""Refusals that say nothing against what was asked (RFC 7296 2.25, RFC 9370 2.2.4)."""


class CreateChild(CreateExchange):
    """Our request for a new CHILD_SA, or with `old` for the rekey of one."""

    def __init__(self, settings: ChildSettings, old: ChildSa | None = None) -> None:
        self.settings = settings
        self.old = old
        self.ni = b""
        self.pair: KeyPair | None = None
        self.offer: ChildOffer | None = None
        self.tried: list[int] = []
        self.agreed = False  # the peer answered with SA_RESOURCE_INFO
        # What the peer's simultaneous rekey of the same SA made: (child, Ni, Nr)
        self.rival: tuple[ChildSa, bytes, bytes] | None = None
        # What the peer deleted meanwhile, perhaps the CHILD_SA whose answer is still on its way
        self.deleted: set[int] = set()

    def still_wanted(self, sa: IkeSa) -> bool:
        if not sa.established:
            return False
        if self.old is None:
            missing = sa.usable_child(self.settings.name) is None
            return sa.close_at is None and missing and (not self.for_resource or resources.wanted(sa, self.settings))
        return self.old.state is ChildState.INSTALLED and self.old.successor is None

    @property
    def for_resource(self) -> bool:
        """Whether it is for one more beside another one (RFC 9611)."""
        return self.old is None and self.settings.resource is not None

    def makes(self, name: str) -> bool:
        """Whether this is for an additional CHILD_SA of that name."""
        return self.old is None and self.settings.name == name

    def start(self, sa: IkeSa, now: float) -> None:
        if self.old is not None:
            self.old.advance(ChildInput.REKEY)
        self.ni = sa.services.random.octets(NONCE_OCTETS)
        methods = proposal.key_exchange_methods(self.settings.offers)
        if methods:
            self._generate(sa, methods[0])
        else:
            self._send(sa, None, now)

    def _generate(self, sa: IkeSa, method: int) -> None:
        self.tried.append(method)
        seed = sa.services.random.octets(SEED_OCTETS)
        key_exchanges = sa.services.key_exchanges
        sa.compute(
            lambda: key_exchanges.generate(method, seed),
            lambda pair, now: self._send(sa, pair, now),
            lambda error, now: self.on_error(sa, error, now),
        )

    def _send(self, sa: IkeSa, pair: KeyPair | None, now: float) -> None:
        if self.old is not None and self.old.spi_in not in sa.children:
            # The peer deleted it while the key pair was made
            self._end(sa, now, "failed")
            return
        self.pair = pair
        asked = resources.as_common(sa, self.settings) if self.for_resource else self.settings
        self.offer = child_negotiation.offer(sa, asked, with_key_exchange=True)
        payloads: list[Payload] = []
        if self.old is not None:
            payloads.append(Notify(NotifyType.REKEY_SA, protocol=Protocol.ESP, spi=self.old.spi_in.to_bytes(4, "big")))
        payloads += [self.offer.sa, Nonce(self.ni)]
        if pair is not None:
            payloads.append(KeyExchange(pair.method, pair.public))
        sa.request(self.kind, (*payloads, *self.offer.payloads, *resources.info(self.settings)), now)

    # --- the answer ---------------------------------------------------------------------------------------------

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        error = message.error()
        if error is not None:
            self._on_refusal(sa, error, now)
            return True
        if self.rounds is not None:
            self.on_round(sa, self.rounds, message, now)
            return True
        assert self.offer is not None
        terms = child_negotiation.accept(sa, self.offer, message)
        nonce, exchange = message.first(Nonce), message.first(KeyExchange)
        assert isinstance(nonce, Nonce) and sa.keys is not None
        check_nonce(sa.keys.choice.prf, nonce.data)
        method, self.agreed = terms.choice.key_exchange, resources.told(message)
        if not method:
            self._install(sa, terms, (b"",), nonce.data, now)
            return True
        if (
            not isinstance(exchange, KeyExchange)
            or self.pair is None
            or not exchange.method == method == self.pair.method
        ):
            raise PeerError(Violation.WRONG_KE_GROUP, f"peer chose KE {method}")
        check_public(method, exchange.data, of_responder=True)
        pair, public = self.pair, exchange.data
        sa.compute(
            lambda: sa.services.key_exchanges.agree(pair, public),
            self.follow(
                sa,
                terms.choice.additional,
                message,
                lambda secrets, now: self._install(sa, terms, secrets, nonce.data, now),
            ),
            lambda error_, now: self.on_error(sa, error_, now),
        )
        return True

    def on_unknown_deleted(self, spi_out: int) -> None:
        self.deleted.add(spi_out)

    def _install(self, sa: IkeSa, terms: ChildTerms, secrets: Secrets, nr: bytes, now: float) -> None:
        if terms.spi_out in self.deleted or child_negotiation.spi_is_taken(sa, terms.spi_out):
            # Made and deleted by the peer before its answer came: nobody holds it. Or used for another one meanwhile
            self._failed(sa, NotifyType.TEMPORARY_FAILURE.name, {}, now)
            return
        old = self.old
        beside = sa.usable_child(self.settings.name) if old is None else None
        new = child_negotiation.install(sa, terms, secrets, (self.ni, nr), True, now)
        resources.stands(sa, new, self.agreed, now, old)
        common = sa.usable_child(new.settings.group) if self.for_resource else None
        if self.for_resource and (not self.agreed or common is None or not resources.alike(common, terms)):
            # Interop: who asked for one more of a kind has been given another one, or nobody knows what
            sa.enqueue(DeleteChild(new), now)
            self._no_more(sa, "the peer makes another one", now)
            self._end(sa, now, "ok")
            return
        if beside is not None:
            # The peer made it too while our request was on its way, and holds both: ours is one too many
            sa.enqueue(DeleteChild(new), now)
            self._end(sa, now, "ok")
            return
        self._hold_against_configuration(sa, new, now)
        if old is None:
            carried = sa.services.carried(sa.name, new.settings.group)
            sa.activate(new)
            renewal.renewed(sa)
            more = self.for_resource and any(isinstance(one, CreateChild) and one.for_resource for one in sa.queue)
            if sa.services.has_other_sa(sa) or (carried and not more):
                # The peer waits for proof before it leaves the CHILD_SA on the other one, or the common one for that of a
                # resource, or these for a new common one
                sa.enqueue(Liveness(), now)
            self._end(sa, now, "ok")
            return
        sa.services.counts(sa.name).child_rekeys_ok[new.settings.group] += 1
        renewal.renewed(sa)
        if self.rival is not None and self._is_redundant(nr):
            # RFC 7296 2.8.1: whoever made the SA with the lowest nonce deletes it; the peer deletes the old one,
            # and may have replaced its own by yet another before our answer came
            self._restore(sa)
            sa.enqueue(DeleteChild(new), now)
        else:
            sa.activate(new)
            self._replace(sa, old, new, now)
        self._end(sa, now, "ok")

    def _hold_against_configuration(self, sa: IkeSa, new: ChildSa, now: float) -> None:
        """It may have changed since we asked."""
        wanted = sa.settings.child(new.name)
        if wanted is None:
            sa.enqueue(DeleteChild(new, "REMOVED_FROM_CONFIGURATION"), now)
        elif wanted != self.settings:
            new.rekey_at = soon(sa, now)

    def _is_redundant(self, nr: bytes) -> bool:
        assert self.rival is not None
        _, rival_ni, rival_nr = self.rival
        return min(self.ni, nr) < min(rival_ni, rival_nr)

    def _replace(self, sa: IkeSa, old: ChildSa, new: ChildSa, now: float) -> None:
        if old.spi_in not in sa.children:
            return
        old.successor = new
        if self.rival is not None:
            self.rival[0].proven = True
        old.advance(ChildInput.REPLACED)
        sa.enqueue(DeleteChild(old), now)

    def _restore(self, sa: IkeSa) -> None:
        if self.old is not None and self.old.state is ChildState.REKEYING:
            self.old.advance(ChildInput.REKEY_FAILED)

    def _end(self, sa: IkeSa, now: float, result: str) -> None:
        sa.finish(now, result)

    # --- refusals -----------------------------------------------------------------------------------------------

    def _on_refusal(self, sa: IkeSa, error: Notify, now: float) -> None:
        method = int.from_bytes(error.data, "big")
        offered = proposal.key_exchange_methods(self.settings.offers)
        retry = self.rounds is None and method in offered and method not in self.tried
        if error.type == NotifyType.INVALID_KE_PAYLOAD and retry:
            # RFC 7296 1.3: a new exchange with the group the responder wants
            self._generate(sa, method)
            return
        self._failed(sa, error.name, child_negotiation.context(self.settings) | wanted_group(error), now)

    def on_error(self, sa: IkeSa, error: PeerError, now: float) -> None:
        if self.offer is not None:
            # The peer may have made what we cannot take, and send on it
            sa.enqueue(DeleteUnknown(self.offer.spi_in), now)
        self._failed(sa, error.why.name, {"detail": error.detail}, now)

    def _failed(self, sa: IkeSa, reason: str, context: dict[str, str], now: float) -> None:
        old = self.old
        self._restore(sa)
        if old is not None and old.spi_in in sa.children and old.successor is None:
            self._retry_rekey(sa, old, reason, context, now)
        elif self.for_resource:
            self._no_more(sa, reason, now)
        elif old is None and sa.usable_child(self.settings.name) is None:
            name = "NO_PROPOSAL_CHOSEN_ESP" if reason == "NO_PROPOSAL_CHOSEN" else reason
            sa.services.emit(ExchangeFailed(sa.name, self.settings.name, name, context))
            renewal.child_missing(sa, now)
        self._end(sa, now, "failed")

    def _no_more(self, sa: IkeSa, reason: str, now: float) -> None:
        """Of those beside another one; what waits to be asked for is of the same kind."""
        resources.refused(sa, self.settings, reason, now, for_now=reason in RETRIED)
        others = [one for one in sa.queue if not (isinstance(one, CreateChild) and one.for_resource)]
        sa.queue.clear()
        sa.queue.extend(others)

    def _retry_rekey(self, sa: IkeSa, old: ChildSa, reason: str, context: dict[str, str], now: float) -> None:
        busy = reason in RETRIED
        if busy and renewal.believed(sa, now):
            old.rekey_at = soon(sa, now)
            return
        if reason == NotifyType.CHILD_SA_NOT_FOUND.name and not old.proven:
            # The answer that made it may still reach the peer, which asks for it until it does: nothing is lost yet
            old.rekey_at = now + RETRY_FAILED * sa.services.random.uniform(1.0, 1.5)
            return
        sa.services.counts(sa.name).child_rekeys_failed[old.settings.group] += 1
        if reason == NotifyType.CHILD_SA_NOT_FOUND.name:
            # RFC 7296 2.25.1: the peer has lost it; so have we
            sa.retire(old, now, linger=False)
            if old.settings.resource is None:
                sa.services.emit(ExchangeFailed(sa.name, old.name, reason, context))
            return
        old.rekey_at = again(sa, now if old.limited else old.planned_at, now)
        renewal.child_refused(sa, old, now, at_once=busy)
        sa.services.emit(
            ExchangeFailed(
                sa.name, old.settings.group, f"REKEY_{reason}", context | {"seconds": f"{old.life_at - now:.0f}"}
            )
        )


def soon(sa: IkeSa, now: float) -> float:
    """When to ask for what nothing speaks against."""
    return now + RETRY_TEMPORARY * sa.services.random.uniform(0.5, 1.5)


def again(sa: IkeSa, planned_at: float, now: float) -> float:
    """When to ask for a refused rekey again: what was asked for early works on for long."""
    wait = RETRY_EARLY if planned_at > now + RETRY_EARLY else RETRY_FAILED
    return now + wait * sa.services.random.uniform(1.0, 1.5)


def rekey_target(message: Message) -> Notify | None:
    return message.notify(NotifyType.REKEY_SA)


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Our side of a peer's CREATE_CHILD_SA for a CHILD_SA."""
    kind = ExchangeType.CREATE_CHILD_SA
    _check_room(sa)
    if sa.state is IkeState.REKEYING:
        # RFC 7296 2.25.2
        raise PeerError(Violation.TEMPORARY, "IKE_SA is being rekeyed", NotifyType.TEMPORARY_FAILURE)
    old = _find_old(sa, message)
    if old is not None:
        _check_replaceable(sa, old)
    exchange, nonce = message.first(KeyExchange), message.first(Nonce)
    assert isinstance(nonce, Nonce) and sa.keys is not None
    check_nonce(sa.keys.choice.prf, nonce.data)
    method = exchange.method if isinstance(exchange, KeyExchange) else None
    # As in rekey_child: the configuration may have changed since the CHILD_SA was made
    candidates = (sa.settings.child(old.name) or old.settings,) if old is not None else sa.settings.children
    terms = child_negotiation.choose(sa, candidates, message, method)
    if old is None and resources.told(message):
        terms = resources.place(sa, terms, _asked_for(sa))
    _check_alone(sa, old, terms)
    nr, told = sa.services.random.octets(NONCE_OCTETS), resources.told(message)
    wanted = terms.choice.key_exchange
    if not wanted:
        _Answer(terms, old, (nonce.data, nr), told).conclude(sa, (b"",), kind, _payloads(terms, nr, None, told), now)
        return
    if method != wanted or not isinstance(exchange, KeyExchange):
        raise PeerError(
            Violation.WRONG_KE_GROUP,
            f"KE {method}, wanted {wanted}",
            NotifyType.INVALID_KE_PAYLOAD,
            wanted.to_bytes(2, "big"),
        )
    check_public(wanted, exchange.data)
    key_exchanges, seed, peer_public = sa.services.key_exchanges, sa.services.random.octets(SEED_OCTETS), exchange.data

    def work() -> tuple[bytes, bytes]:
        return key_exchanges.answer(wanted, peer_public, seed)

    def then(result: tuple[bytes, bytes], now: float) -> None:
        public, shared = result
        answer = _Answer(terms, old, (nonce.data, nr), told)
        answer.check(sa)
        payloads = _payloads(terms, nr, KeyExchange(wanted, public), told)
        expect(sa, terms.choice.additional, shared, payloads, partial(answer.conclude, sa), now)

    sa.compute(work, then, sa.refuse_pending(kind))


def _find_old(sa: IkeSa, message: Message) -> ChildSa | None:
    notify = rekey_target(message)
    if notify is None:
        return None
    old = (
        sa.child_by_spi_out(int.from_bytes(notify.spi, "big"))
        if len(notify.spi) == 4 and notify.protocol == Protocol.ESP
        else None
    )
    if old is None:
        # RFC 7296 2.25.1
        raise PeerError(Violation.CHILD_NOT_FOUND, f"REKEY_SA for {notify.spi.hex()}", NotifyType.CHILD_SA_NOT_FOUND)
    return old


def _check_replaceable(sa: IkeSa, old: ChildSa) -> None:
    deleted = [one.child for one in (sa.exchange, *sa.queue) if isinstance(one, DeleteChild)]
    usable = old.usable or succession.is_made_anew(sa, old)
    if not usable or old.successor is not None or any(child is old for child in deleted):
        # RFC 7296 2.25.1: being deleted, about to be (as the one too many of a collision), or already replaced
        raise PeerError(Violation.TEMPORARY, f"CHILD_SA is {old.state.value}", NotifyType.TEMPORARY_FAILURE)
    if any(child.successor is old for child in deleted):
        # Our DELETE of what it replaced is not answered. Interop: strongSwan 6.0 confounds the two then, and drops one unsaid
        raise PeerError(Violation.TEMPORARY, "what it replaced is not deleted yet", NotifyType.TEMPORARY_FAILURE)


def _check_room(sa: IkeSa) -> None:
    if not sa.established:
        # RFC 7296 2.25: the IKE_SA is being replaced or closed
        raise PeerError(Violation.TEMPORARY, f"IKE_SA is {sa.state.value}", NotifyType.TEMPORARY_FAILURE)
    configured = sum(1 + child.resources for child in sa.settings.children)
    if len(sa.children) + len(sa.lingering) >= CHILD_SAS_MAX * configured:
        # RFC 7296 1.3
        raise PeerError(Violation.TOO_MANY_SAS, f"{len(sa.children)} CHILD_SAs", NotifyType.NO_ADDITIONAL_SAS)


def _check_alone(sa: IkeSa, old: ChildSa | None, terms: ChildTerms) -> None:
    """Both ends make the same CHILD_SA at once: the IKE_SA's initiator makes it (RFC 7296 2.25 has the refusal)."""
    ours = sa.exchange
    if old is None and sa.is_initiator and isinstance(ours, CreateChild) and ours.makes(terms.settings.name):
        raise PeerError(Violation.TEMPORARY, "we are making the same CHILD_SA", NotifyType.TEMPORARY_FAILURE)


def _asked_for(sa: IkeSa) -> frozenset[str]:
    """Names of what we ask for ourselves."""
    ours = (sa.exchange, *sa.queue)
    return frozenset(one.settings.name for one in ours if isinstance(one, CreateChild) and one.old is None)


def _payloads(terms: ChildTerms, nr: bytes, exchange: KeyExchange | None, told: bool) -> tuple[Payload, ...]:
    reply_sa, tsi, tsr = child_negotiation.answer_payloads(terms)
    info = resources.info(terms.settings) if told else ()
    return reply_sa, Nonce(nr), *((exchange,) if exchange else ()), tsi, tsr, *info


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the responder agreed to, and makes as soon as all key exchanges are done."""

    terms: ChildTerms
    old: ChildSa | None
    nonces: tuple[bytes, bytes]
    told: bool  # SA_RESOURCE_INFO was in the request

    def check(self, sa: IkeSa) -> None:
        """Our own rekey or DELETE of it may have gone through while the public-key work was done."""
        if self.old is not None:
            _check_replaceable(sa, self.old)
        _check_room(sa)
        _check_alone(sa, self.old, self.terms)
        if self.told and self.old is None and sa.usable_child(self.terms.settings.name) is not None:
            # RFC 9611 3: one is the common one. Asked for beside it, this one came while there was none, or its place was free
            raise PeerError(Violation.TEMPORARY, "its place was taken meanwhile", NotifyType.TEMPORARY_FAILURE)
        if child_negotiation.spi_is_taken(sa, self.terms.spi_out):
            # RFC 4303 2.1: one SPI names one SA; another took it in between
            raise PeerError(Violation.NO_PROPOSAL, f"SPI {self.terms.spi_out:08x}", NotifyType.NO_PROPOSAL_CHOSEN)

    def conclude(
        self, sa: IkeSa, secrets: Secrets, kind: ExchangeType, payloads: tuple[Payload, ...], now: float
    ) -> None:
        self.check(sa)
        terms, old = self.terms, self.old
        carried = sa.services.carried(sa.name, terms.settings.group)
        if old is None:
            child = child_negotiation.install(sa, terms, secrets, self.nonces, False, now)
        else:
            child = child_negotiation.install_deferred(sa, terms, secrets, self.nonces, old, now)
            _remember_rival(sa, old, child, self.nonces)
            sa.services.counts(sa.name).child_rekeys_ok[child.settings.group] += 1
        renewal.renewed(sa)
        resources.stands(sa, child, self.told, now, old)
        sa.respond(kind, payloads, now)
        # The peer may not get our answer: where another CHILD_SA works, it is not left yet
        if old is None and not carried:
            sa.activate(child)


def _remember_rival(sa: IkeSa, old: ChildSa, child: ChildSa, nonces: tuple[bytes, bytes]) -> None:
    """RFC 7296 2.8.1: both ends rekey the same CHILD_SA; the nonces decide when our answer arrives."""
    ours = sa.exchange
    if isinstance(ours, CreateChild) and ours.old is old:
        ours.rival = (child, *nonces)
