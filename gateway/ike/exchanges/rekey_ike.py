"""CREATE_CHILD_SA that rekeys the IKE_SA (RFC 7296 1.3.2, 2.8, 2.18, 2.25.2).

    HDR, SK {SA(new SPI), Ni, KEi}  -->
                                  <--  HDR, SK {SA(new SPI), Nr, KEr}

The new IKE_SA inherits the CHILD_SAs; the initiator of the rekey deletes the old one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from gateway.ike import crash_detection, proposal, renewal, resources
from gateway.ike.bucket import Bucket
from gateway.ike.errors import LocalError, PeerError, Violation
from gateway.ike.events import ExchangeFailed, IkeUp
from gateway.ike.exchanges import intermediate
from gateway.ike.exchanges.base import NONCE_OCTETS, Exchange, wanted_group
from gateway.ike.exchanges.create_child import RETRIED, CreateChild, again, soon
from gateway.ike.exchanges.delete import DeleteChild, DeleteIke
from gateway.ike.exchanges.followup import CreateExchange, Secrets, expect
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.exchanges.mobike import CheckAddress, may_move
from gateway.ike.exchanges.recovered import DeleteUnknown, Recovered
from gateway.ike.exchanges.tell import Redirect, Tell
from gateway.ike.key_exchange import SEED_OCTETS, KeyPair, check_public
from gateway.ike.keymat import check_nonce
from gateway.ike.message import Header, Message
from gateway.ike.payloads import KeyExchange, Nonce, Notify, Payload, Proposal, SecurityAssociation
from gateway.ike.proposal import Choice, Offer, choice_of
from gateway.ike.registry import ExchangeType, NotifyType, Protocol
from gateway.ike.states import ChildState, IkeInput, IkeState, Standing
from gateway.ike.uniqueness import REPLACED_LIFE, UNHEARD_LIFE, full

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


class RekeyIke(CreateExchange):
    """Our rekey of the IKE_SA."""

    def __init__(self) -> None:
        self.ni = b""
        self.spi = 0
        self.token = b""
        self.pair: KeyPair | None = None
        self.sent: SecurityAssociation | None = None
        self.offers: tuple[Offer, ...] = ()
        self.tried: list[int] = []
        # The IKE_SA that the peer's simultaneous rekey made, with its nonces
        self.rival: tuple[IkeSa, bytes, bytes] | None = None

    def still_wanted(self, sa: IkeSa) -> bool:
        return sa.state is IkeState.ESTABLISHED

    def start(self, sa: IkeSa, now: float) -> None:
        sa.advance(IkeInput.REKEY)
        self.ni = sa.services.random.octets(NONCE_OCTETS)
        self.spi = sa.services.new_ike_spi()
        self._generate(sa, _preferred_method(sa))

    def _generate(self, sa: IkeSa, method: int) -> None:
        self.tried.append(method)
        seed, key_exchanges = sa.services.random.octets(SEED_OCTETS), sa.services.key_exchanges
        sa.compute(
            lambda: key_exchanges.generate(method, seed),
            lambda pair, now: self._send(sa, pair, now),
            lambda error, now: self.on_error(sa, error, now),
        )

    def _send(self, sa: IkeSa, pair: KeyPair, now: float) -> None:
        self.pair = pair
        self.offers = sa.settings.offers
        self.sent = proposal.payload(self.offers, self.spi.to_bytes(8, "big"))
        sa.request(self.kind, (self.sent, Nonce(self.ni), KeyExchange(pair.method, pair.public)), now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        error = message.error()
        if error is not None:
            self._on_refusal(sa, error, now)
            return True
        self.token = crash_detection.shown(sa, message) or self.token
        if self.rounds is not None:
            self.on_round(sa, self.rounds, message, now)
            return True
        answer, exchange, nonce = message.first(SecurityAssociation), message.first(KeyExchange), message.first(Nonce)
        assert (
            isinstance(answer, SecurityAssociation)
            and isinstance(nonce, Nonce)
            and self.sent is not None
            and self.pair is not None
        )
        chosen = proposal.accept(self.sent, answer)
        choice = choice_of(chosen)
        if not isinstance(exchange, KeyExchange) or not exchange.method == choice.key_exchange == self.pair.method:
            raise PeerError(Violation.WRONG_KE_GROUP, f"peer chose KE {choice.key_exchange}")
        check_nonce(choice.prf, nonce.data)
        check_public(exchange.method, exchange.data, of_responder=True)
        peer_spi = _peer_spi(chosen)
        pair, public = self.pair, exchange.data
        sa.compute(
            lambda: sa.services.key_exchanges.agree(pair, public),
            self.follow(
                sa,
                choice.additional,
                message,
                lambda secrets, now: self._complete(sa, choice, peer_spi, secrets, nonce.data, now),
            ),
            lambda error_, now: self.on_error(sa, error_, now),
        )
        return True

    def _complete(self, sa: IkeSa, choice: Choice, peer_spi: int, secrets: Secrets, nr: bytes, now: float) -> None:
        new = make_successor(sa, choice, secrets, (self.ni, nr), (self.spi, peer_spi), True, now)
        new.peer_token, new.offers = self.token, self.offers
        sa.services.counts(sa.name).ike_rekeys_ok += 1
        if sa.state is IkeState.REKEYED:
            # We have followed the peer to the one it made
            sa.finish(now)
            new.enqueue(DeleteIke(""), now)
            return
        rival = self.standing_rival()
        if self.rival is not None and rival is not None and min(self.ni, nr) < min(self.rival[1:]):
            # RFC 7296 2.8.1: ours holds the lowest nonce, so we delete it; the peer deletes the old IKE_SA
            hand_over(sa, rival, now)
            sa.finish(now)
            new.enqueue(DeleteIke(""), now)
            return
        if rival is not None:
            # The peer made the lowest nonce and deletes its own; nothing was ever moved to it
            _supersede(rival, now)
        hand_over(sa, new, now)
        sa.finish(now)
        sa.enqueue(DeleteIke(""), now)

    def standing_rival(self) -> IkeSa | None:
        """The peer's new IKE_SA, unless the peer has deleted it or we have followed it there already."""
        return self.rival[0] if self.rival is not None and self.rival[0].established and self.rival[0].quiet else None

    def _on_refusal(self, sa: IkeSa, error: Notify, now: float) -> None:
        method = int.from_bytes(error.data, "big")
        if (
            self.rounds is None
            and error.type == NotifyType.INVALID_KE_PAYLOAD
            and method in proposal.key_exchange_methods(sa.settings.offers)
            and method not in self.tried
        ):
            self._generate(sa, method)
            return
        self._failed(sa, error.name, wanted_group(error), now)

    def on_error(self, sa: IkeSa, error: PeerError, now: float) -> None:
        self._failed(sa, error.why.name, {"detail": error.detail}, now)

    def on_deleted(self, sa: IkeSa, now: float) -> None:
        rival = self.standing_rival()
        if rival is not None:
            # RFC 7296 2.8.1: the peer's rekey won, and its DELETE of the old IKE_SA overtook its answer to ours
            hand_over(sa, rival, now)

    def on_timeout(self, sa: IkeSa, now: float) -> None:
        rival = self.standing_rival()
        if rival is not None:
            # Its own liveness check decides about the peer
            hand_over(sa, rival, now)
        sa.destroy(now, "DPD_TIMEOUT", {"exchange": "IKE_SA rekey", "seconds": f"{now - sa.last_heard:.0f}"})

    def _failed(self, sa: IkeSa, reason: str, context: dict[str, str], now: float) -> None:
        rival = self.standing_rival()
        if rival is not None:
            # The peer's own rekey stands
            hand_over(sa, rival, now)
        elif sa.state is IkeState.REKEYING:
            sa.advance(IkeInput.REKEY_FAILED)
            busy = reason in RETRIED
            believed = busy and renewal.believed(sa, now)
            sa.rekey_at = soon(sa, now) if believed else again(sa, sa.planned_at, now)
            if not believed:
                sa.services.counts(sa.name).ike_rekeys_failed += 1
                ours = "; ".join(str(offer.numbered(1, b"")) for offer in sa.settings.offers)
                sa.services.emit(ExchangeFailed(sa.name, "", f"IKE_REKEY_{reason}", context | {"ours": ours}))
                renewal.ike_refused(sa, now, at_once=busy)
        sa.finish(now, "failed")


def _supersede(sa: IkeSa, now: float) -> None:
    sa.quiet = True
    if sa.established:
        sa.advance(IkeInput.REPLACED)
        sa.give_up_at = now + REPLACED_LIFE


def _preferred_method(sa: IkeSa) -> int:
    """The group in use, which both sides are known to accept."""
    assert sa.keys is not None
    offered = proposal.key_exchange_methods(sa.settings.offers)
    current = sa.keys.choice.key_exchange
    return current if current in offered else offered[0]


def _peer_spi(chosen: Proposal) -> int:
    spi = int.from_bytes(chosen.spi, "big")
    if len(chosen.spi) != 8 or spi == 0:
        raise PeerError(Violation.MALFORMED, "IKE_SA rekey without a new SPI", NotifyType.INVALID_SYNTAX)
    return spi


def overtaken(sas: Iterable[IkeSa], header: Header, allowed: Bucket, now: float) -> None:
    """A message of an IKE_SA that nobody has: if it is the one that our rekey is to make, the answer to that was lost, and is asked
    for now rather than when our patience is at its end. It proves nothing, and changes nothing."""
    for sa in sas:
        if isinstance(sa.exchange, RekeyIke) and sa.exchange.spi == header.receiver_spi and allowed.take(now):
            sa.repeat()


def make_successor(
    sa: IkeSa,
    choice: Choice,
    secrets: Secrets,
    nonces: tuple[bytes, bytes],
    spis: tuple[int, int],
    we_initiated: bool,
    now: float,
) -> IkeSa:
    """The new IKE_SA, established by inheritance (RFC 7296 2.18): both ends already hold SK_d of the old one."""
    if sa.keys is None or sa.established_at is None:
        raise LocalError("a rekey of an IKE_SA that was never authenticated")
    renewal.renewed(sa)
    new = type(sa)(
        sa.services, sa.settings, is_initiator=we_initiated, initiator_spi=spis[0], responder_spi=spis[1],
        local=sa.local, remote=sa.remote, now=now,
    )  # fmt: skip
    new.nat, new.fragments, new.ppk, new.mobike = sa.nat, sa.fragments, sa.ppk, sa.mobike
    new.agreement = replace(sa.agreement, highest=-1)
    new.traffic_remote, new.whereabouts = sa.traffic_remote, sa.whereabouts
    new.redirectable, new.redirected_from = sa.redirectable, sa.redirected_from
    new.keys = sa.keys.rekeyed(choice, secrets[0], *nonces, new.spis, we_initiated, b"".join(secrets[1:]))
    new.advance(IkeInput.AUTHENTICATED)
    new.quiet = True
    new.standing = Standing.PROVEN
    new.origin = sa.origin
    new.established_at = now
    renewal.plan_rekey(new, now)
    new.reauth_at, new.check_at, new.renewal = sa.reauth_at, sa.check_at, sa.renewal
    sa.services.adopt(new)
    return new


def hand_over(old: IkeSa, new: IkeSa, now: float) -> None:
    """Moves CHILD_SAs and waiting exchanges to the successor."""
    new.children, old.children = old.children, {}
    new.lingering, old.lingering = old.lingering, []
    kinds = CreateChild | CheckAddress | Redirect | DeleteUnknown
    waiting: list[Exchange] = [one for one in old.queue if isinstance(one, kinds)]
    if isinstance(old.exchange, CheckAddress | Redirect):
        # The peer may delete the old one before it answers
        waiting.append(type(old.exchange)())
    if may_move(old) and old.has_exchange(Liveness):
        waiting.append(Liveness())
    # Whoever wanted to end the old one meant the connection
    deleting = [exchange for exchange in old.queue if isinstance(exchange, DeleteIke | DeleteChild)]
    old.queue.clear()
    _supersede(old, now)
    new.quiet, new.predecessor = False, None
    new.services.replaced(old, new)
    if new.offers != new.settings.offers:
        # The configuration changed while it was made
        new.rekey_at = soon(new, now)
    intermediate.say_unused(new)
    if (
        new.keys is not None
        and old.keys is not None
        and new.keys.choice.post_quantum
        and not old.keys.choice.post_quantum
    ):
        # Their keys come from those of before
        for child in new.children.values():
            child.rekey_at = min(child.rekey_at, now)
    new.resources_at = resources.handed_over(old, new, now)
    new.services.emit(IkeUp(new.name, new.initiator_spi, new.responder_spi, rekeyed=True))
    # RFC 6290 4.3: who answered the rekey has given its token with the answer
    token = crash_detection.token(new) if new.is_initiator else ()
    for exchange in (*deleting, *waiting, *map(Tell, token)):
        new.enqueue(exchange, now)


def follow_peer(sa: IkeSa, now: float) -> None:
    """The peer works with CHILD_SAs on its new IKE_SA: its rekey won, and it moved them. So do we, before we are told."""
    if sa.predecessor is not None and sa.predecessor.state is IkeState.REKEYING:
        hand_over(sa.predecessor, sa, now)
    sa.predecessor = None


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Our side of a peer's rekey of the IKE_SA."""
    _check_replaceable(sa)
    received, exchange, nonce = message.first(SecurityAssociation), message.first(KeyExchange), message.first(Nonce)
    assert isinstance(received, SecurityAssociation) and isinstance(nonce, Nonce)
    if not isinstance(exchange, KeyExchange):
        raise PeerError(Violation.GRAMMAR, "IKE_SA rekey without KE", NotifyType.INVALID_SYNTAX)
    offers = sa.settings.offers
    chosen = proposal.select(offers, received, Protocol.IKE, exchange.method)
    choice = choice_of(chosen)
    if choice.key_exchange != exchange.method:
        wanted = choice.key_exchange.to_bytes(2, "big")
        raise PeerError(Violation.WRONG_KE_GROUP, f"KE {exchange.method}", NotifyType.INVALID_KE_PAYLOAD, wanted)
    check_nonce(choice.prf, nonce.data)
    check_public(exchange.method, exchange.data)
    peer_spi = _peer_spi(chosen)
    key_exchanges, seed = sa.services.key_exchanges, sa.services.random.octets(SEED_OCTETS)

    def work() -> tuple[bytes, bytes]:
        return key_exchanges.answer(exchange.method, exchange.data, seed)

    def then(result: tuple[bytes, bytes], now: float) -> None:
        public, shared = result
        _check_replaceable(sa)
        nr, spi = sa.services.random.octets(NONCE_OCTETS), sa.services.new_ike_spi()
        reply = Proposal(chosen.number, chosen.protocol, spi.to_bytes(8, "big"), chosen.transforms)
        payloads = (SecurityAssociation((reply,)), Nonce(nr), KeyExchange(choice.key_exchange, public))
        answer = _Answer(offers, choice, (nonce.data, nr), (peer_spi, spi))
        expect(sa, choice.additional, shared, payloads, partial(answer.conclude, sa), now)

    sa.compute(work, then, sa.refuse_pending(ExchangeType.CREATE_CHILD_SA))


def _check_replaceable(sa: IkeSa) -> None:
    ours = sa.exchange
    if not sa.established:
        reason = f"IKE_SA is {sa.state.value}"
    elif isinstance(ours, CreateChild | DeleteUnknown | Recovered) or any(
        child.state is ChildState.DELETING for child in sa.children.values()
    ):
        # RFC 7296 2.25.2: our own CREATE_CHILD_SA or DELETE for a CHILD_SA is under way, here or begun by a process before this one
        reason = "a CHILD_SA exchange is under way"
    elif isinstance(ours, RekeyIke) and ours.standing_rival() is not None:
        reason = "it has been rekeyed already"
    elif full(sa.services.sas(sa.name)):
        reason = "the replaced IKE_SAs were not deleted"
    else:
        return
    raise PeerError(Violation.TEMPORARY, reason, NotifyType.TEMPORARY_FAILURE)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the responder agreed to, and makes as soon as all key exchanges are done."""

    offers: tuple[Offer, ...]
    choice: Choice
    nonces: tuple[bytes, bytes]
    spis: tuple[int, int]

    def conclude(
        self, sa: IkeSa, secrets: Secrets, kind: ExchangeType, payloads: tuple[Payload, ...], now: float
    ) -> None:
        # An exchange of our own may have begun since the request came
        _check_replaceable(sa)
        new = make_successor(sa, self.choice, secrets, self.nonces, self.spis, False, now)
        new.offers = self.offers
        sa.respond(kind, (*payloads, *crash_detection.token(new)), now)
        sa.services.counts(sa.name).ike_rekeys_ok += 1
        ours = sa.exchange
        if isinstance(ours, RekeyIke):
            # RFC 7296 2.8.1: simultaneous; decided when the answer to ours arrives
            ours.rival = (new, *self.nonces)
            new.predecessor = sa
        else:
            hand_over(sa, new, now)
            new.replaced, sa.give_up_at = sa, now + UNHEARD_LIFE
