"""IKE_AUTH with pre-shared keys or certificates, and the first CHILD_SA (RFC 7296 1.2, 2.15, 2.21.2).

HDR, SK {IDi, [CERT, ...,] [CERTREQ,] [IDr,] AUTH, [N(INITIAL_CONTACT)], SAi2, TSi, TSr}  -->
                              <--  HDR, SK {IDr, [CERT, ...,] AUTH, SAr2, TSi, TSr}

Signatures are made and checked in `Compute` jobs. Meanwhile the IKE_SA is CONNECTING: it answers nothing, and it may end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike import authentication, crash_detection, ppk, redirect, renewal, resources, synchronisation
from gateway.ike.authentication import AuthenticatedPeer, Proofs
from gateway.ike.errors import AUTHENTICATION_REASONS, LocalError, PeerError, Violation
from gateway.ike.events import ExchangeFailed, IkeUp
from gateway.ike.exchanges import child_negotiation, intermediate, mobike
from gateway.ike.exchanges.base import Exchange
from gateway.ike.exchanges.child_negotiation import ChildOffer
from gateway.ike.exchanges.create_child import CreateChild
from gateway.ike.exchanges.delete import DeleteIke
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.exchanges.recovered import DeleteUnknown
from gateway.ike.message import Message
from gateway.ike.payloads import (
    Authentication,
    Certificate,
    IdentificationInitiator,
    IdentificationResponder,
    Notify,
    Payload,
    SecurityAssociation,
)
from gateway.ike.registry import ExchangeType, IdType, NotifyType
from gateway.ike.services import Failed
from gateway.ike.settings import NATT_PORT, ConnectionSettings
from gateway.ike.states import IkeInput, IkeState
from gateway.ike.uniqueness import Origin, make_room
from gateway.ike.window import Datagrams

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


AUTH_MARGIN, AUTH_MARGIN_MIN = 0.1, 10.0
"""Reauthentication begins this share of the peer's AUTH_LIFETIME before its end, and at least so many seconds."""
UNFRAGMENTED_MAX = 1400
"""Octets of an IKE message that pass in one IP packet nearly everywhere."""
AUTH_LIFETIME_LEAST = 10.0
"""A peer that gives less gets a new IKE_SA no more often than this, in seconds."""


class Authenticate(Exchange):
    """Our IKE_AUTH."""

    kind = ExchangeType.IKE_AUTH

    def __init__(self) -> None:
        self.offer: ChildOffer | None = None
        self.datagrams: Datagrams = ()

    def still_wanted(self, sa: IkeSa) -> bool:
        return sa.state is IkeState.CONNECTING

    def start(self, sa: IkeSa, now: float) -> None:
        if sa.keys is None:
            raise LocalError("IKE_AUTH before there are keys")
        settings = sa.settings
        ours = IdentificationInitiator(settings.local_id.type, settings.local_id.data)
        keys = [ppk.mixed(sa) if sa.ppk else sa.keys]
        if sa.ppk and settings.ppk is not None and not settings.ppk.required:
            # RFC 8784 3: for a responder that has another PPK than ours
            keys.append(sa.keys)
        failed = self._unable(sa)
        init = authentication.init_of_peer(sa)

        def show(shown: tuple[Certificate, ...], now: float) -> None:
            authentication.prove(
                sa, settings, keys, ours, (),
                lambda proofs, now: self._send(sa, settings, (ours, *shown), proofs, now), failed, now,
            )  # fmt: skip

        try:
            authentication.shown(sa, settings, (init,), show, failed, now)
        except PeerError as error:
            failed(error, now)

    def _unable(self, sa: IkeSa) -> Failed:
        """We have no AUTH that the peer would take. It is told nothing, and forgets the IKE_SA by itself."""
        return lambda error, now: sa.destroy(
            now, AUTHENTICATION_REASONS.get(error.why, "PROTOCOL_VIOLATION"), {"detail": error.detail}
        )

    def _send(
        self, sa: IkeSa, settings: ConnectionSettings, ourselves: tuple[Payload, ...], proofs: Proofs, now: float
    ) -> None:
        payloads: list[Payload] = [*ourselves, *authentication.requests(settings)]
        if settings.remote_id.type != IdType.DER_ASN1_DN:
            # Interop: the same name in another string type is another name to strongSwan 5.9.8, so it goes without
            payloads.append(IdentificationResponder(settings.remote_id.type, settings.remote_id.data))
        payloads.append(proofs[0])
        if sa.ppk:
            payloads.append(ppk.identity(sa))
        payloads += [Notify(NotifyType.NO_PPK_AUTH, plain.data) for plain in proofs[1:]]
        payloads += (*crash_detection.token(sa), *mobike.offered(sa), *synchronisation.offered())
        if not sa.services.has_other_sa(sa):
            # RFC 7296 2.4: we know of no other IKE_SA with this peer, so the peer may drop what it has
            payloads.append(Notify(NotifyType.INITIAL_CONTACT))
        if sa.settings.children and not sa.childless:
            self.offer = child_negotiation.offer(sa, sa.settings.children[0], with_key_exchange=False)
            payloads += [self.offer.sa, *self.offer.payloads, *resources.info(self.offer.settings)]
        self.datagrams = sa.request(self.kind, tuple(payloads), now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        auth, error = message.first(Authentication), message.error()
        if auth is None and error is not None:
            sa.destroy(now, *(_refused(sa, error)))
            return True
        assert sa.keys is not None
        if sa.ppk and message.notify(NotifyType.PPK_IDENTITY) is None:
            ppk.go_without(sa, "the peer did not use the PPK that we named")
        if sa.ppk:
            sa.keys = ppk.mixed(sa)
        claim = authentication.claim_of(sa, message, IdentificationResponder, auth)
        authentication.check(
            sa, sa.keys, claim, lambda proof, now: self._proven(sa, message, proof, now),
            lambda error, now: self.on_error(sa, error, now), now,
        )  # fmt: skip
        return True

    def _proven(self, sa: IkeSa, message: Message, proof: AuthenticatedPeer, now: float) -> None:
        sa.peer_token = crash_detection.shown(sa, message)
        synchronisation.heed(sa, message)
        mobike.agree(sa, message)
        establish(sa, proof, initial_contact=False, now=now)
        _heed_lifetime(sa, message, now)
        if redirect.heed(sa, message, now) and message.first(SecurityAssociation) is None:
            # RFC 5685 6: there is nothing to be had here
            sa.finish(now)
            return
        self._first_child(sa, message, now)
        _begin(sa, now)
        for settings in sa.settings.children[0 if sa.childless else 1 :]:
            sa.enqueue(CreateChild(settings), now)
        sa.finish(now)

    def _first_child(self, sa: IkeSa, message: Message, now: float) -> None:
        """RFC 7296 1.2: the IKE_SA stands even when its first CHILD_SA was refused."""
        if self.offer is None:
            return
        error = message.error()
        settings = self.offer.settings
        if error is not None or message.first(SecurityAssociation) is None:
            name = error.name if error is not None else "NO_CHILD_SA"
            sa.services.emit(
                ExchangeFailed(
                    sa.name,
                    settings.name,
                    f"{name}_ESP" if name == "NO_PROPOSAL_CHOSEN" else name,
                    child_negotiation.context(settings),
                )
            )
            return
        try:
            terms = child_negotiation.accept(sa, self.offer, message)
        except PeerError as refused:
            # The peer has made it, and would send on it
            sa.enqueue(DeleteUnknown(self.offer.spi_in), now)
            sa.services.emit(ExchangeFailed(sa.name, settings.name, refused.why.name, {"detail": refused.detail}))
            return
        child = child_negotiation.install(sa, terms, (b"",), (sa.ni, sa.nr), True, now)
        resources.stands(sa, child, resources.told(message), now)

    def on_error(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """The responder did not prove itself: say so and end (RFC 7296 2.21.2)."""
        if error.notify == NotifyType.AUTHENTICATION_FAILED:
            sa.finish(now, "failed")
            reason = AUTHENTICATION_REASONS.get(error.why, "AUTHENTICATION_FAILED_SENT")
            closing = DeleteIke(reason, {"detail": error.detail}, Notify(NotifyType.AUTHENTICATION_FAILED))
            sa.enqueue(closing, now)
        else:
            sa.destroy(now, "PROTOCOL_VIOLATION", {"detail": str(error)})

    def on_timeout(self, sa: IkeSa, now: float) -> None:
        sa.destroy(now, *unanswered(sa, self.datagrams))


def unanswered(sa: IkeSa, datagrams: Datagrams) -> tuple[str, dict[str, str]]:
    """What most likely happened to an IKE_AUTH that nobody answers: its size and its port tell more than its silence."""
    context = {"remote": str(sa.remote), "octets": str(max(map(len, datagrams), default=0))}
    if len(datagrams) == 1 and len(datagrams[0]) > UNFRAGMENTED_MAX:
        return "IP_FRAGMENTS_LOST", context
    if len(datagrams) > 1:
        context["fragments"] = str(len(datagrams))
    floated = sa.local.port == NATT_PORT != sa.settings.local.port
    return ("NO_ANSWER_ON_4500" if floated else "NO_ANSWER_TO_IKE_AUTH"), context


def _refused(sa: IkeSa, error: Notify) -> tuple[str, dict[str, str]]:
    reason, context = authentication.refused_by_peer(sa.settings)
    return (reason if error.type == NotifyType.AUTHENTICATION_FAILED else f"{error.name}_RECEIVED"), context


def establish(sa: IkeSa, proof: AuthenticatedPeer, initial_contact: bool, now: float) -> None:
    """The only way from CONNECTING to ESTABLISHED; `proof` comes from authentication.py alone."""
    if proof.identity != sa.settings.remote_id:
        raise LocalError("a proof for another peer")
    sa.advance(IkeInput.AUTHENTICATED)
    sa.established_at = now
    sa.origin = Origin(sa.initiator_spi, sa.is_initiator, now)
    renewal.plan_rekey(sa, now)
    _plan(sa, now)
    sa.give_up_at = None
    sa.services.emit(IkeUp(sa.name, sa.initiator_spi, sa.responder_spi, rekeyed=False))
    ppk.say_unused(sa)
    intermediate.say_unused(sa)
    sa.services.established(sa, initial_contact, now)


def _heed_lifetime(sa: IkeSa, message: Message, now: float) -> None:
    """RFC 4478 3: the responder closes the IKE_SA after so many seconds, unless we have proven ourselves again."""
    notify = message.notify(NotifyType.AUTH_LIFETIME)
    seconds = int.from_bytes(notify.data, "big") if notify is not None and len(notify.data) == 4 else 0
    if seconds:
        margin = max(AUTH_MARGIN_MIN, AUTH_MARGIN * seconds)
        asked_at = now + max(seconds - margin, AUTH_LIFETIME_LEAST)
        sa.renewal.asked_at = asked_at
        sa.reauth_at = asked_at if sa.reauth_at is None else min(sa.reauth_at, asked_at)


def _plan(sa: IkeSa, now: float) -> None:
    """What is done once on this IKE_SA and those that rekeys put in its place."""
    settings = sa.settings
    if settings.reauth_time:
        sa.reauth_at = sa.jittered(now, settings.reauth_time)
    if settings.rekey_check and sa.services.rekeys_are_unproven(settings):
        sa.check_at = now + settings.rekey_check * sa.services.random.uniform(1.0, 2.0)


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Our side of a peer's IKE_AUTH."""
    assert sa.keys is not None
    if intermediate.rounds_left(sa):
        raise PeerError(Violation.OUT_OF_STATE, "IKE_AUTH before all key exchanges", NotifyType.INVALID_SYNTAX)
    auth = message.first(Authentication)
    if sa.ppk:
        auth = _with_ppk(sa, message, auth)
    claim = authentication.claim_of(sa, message, IdentificationInitiator, auth)
    failed = sa.refuse_pending(ExchangeType.IKE_AUTH)
    authentication.check(
        sa, sa.keys, claim, lambda proof, now: _prove_back(sa, message, proof, failed, now), failed, now
    )


def _prove_back(sa: IkeSa, message: Message, proof: AuthenticatedPeer, failed: Failed, now: float) -> None:
    """The peer is who it says; now our own AUTH."""
    assert sa.keys is not None
    settings, keys = sa.settings, sa.keys
    ours = IdentificationResponder(settings.local_id.type, settings.local_id.data)

    def show(shown: tuple[Certificate, ...], now: float) -> None:
        authentication.prove(
            sa, settings, [keys], ours, (message,), lambda proofs, now: then((*shown, proofs[0]), now), failed, now
        )

    def then(proof_of_ours: tuple[Payload, ...], now: float) -> None:
        if _terms(sa.settings) != _terms(settings):
            raise PeerError(
                Violation.AUTHENTICATION, "the configuration changed meanwhile", NotifyType.AUTHENTICATION_FAILED
            )
        _answer(sa, message, proof, (ours, *proof_of_ours), now)

    authentication.shown(sa, settings, (message,), show, failed, now)


def _terms(settings: ConnectionSettings) -> tuple[object, ...]:
    """What the proofs of both ends were made for."""
    return settings.local_id, settings.remote_id, settings.psk, settings.credentials, settings.trust


def _answer(sa: IkeSa, message: Message, proof: AuthenticatedPeer, ourselves: tuple[Payload, ...], now: float) -> None:
    if not make_room(sa, now):
        # RFC 7296 2.21.2: of what says no, only this one leaves no IKE_SA behind
        raise PeerError(
            Violation.TOO_MANY_SAS, "it has too many IKE_SAs that it does not end", NotifyType.AUTHENTICATION_FAILED
        )
    reply = [*ourselves, *crash_detection.token(sa), *mobike.agree(sa, message)]
    sa.peer_token = crash_detection.shown(sa, message)
    reply += synchronisation.agree(sa, message)
    if sa.ppk:
        reply.append(Notify(NotifyType.PPK_IDENTITY))
    terms, elsewhere = None, sa.services.redirects.order_of(sa)
    reply += elsewhere
    # RFC 5685 6: who is sent away gets no CHILD_SA here; that it deletes the IKE_SA is its own part
    if message.first(SecurityAssociation) is not None and not elsewhere:
        try:
            terms = child_negotiation.choose(sa, sa.settings.children, message, None)
            reply += (*child_negotiation.answer_payloads(terms), *resources.answer(terms.settings, message))
        except PeerError as refused:
            # RFC 7296 1.2: refused without touching the IKE_SA
            notify = refused.notify or NotifyType.NO_PROPOSAL_CHOSEN
            reply.append(Notify(notify))
            name = f"{notify.name}_SENT"
            sa.services.emit(ExchangeFailed(sa.name, "", name, {"detail": refused.detail}))
    establish(sa, proof, message.notify(NotifyType.INITIAL_CONTACT) is not None, now)
    # RFC 7296 2.8: inbound stands before the answer leaves, so nothing the peer sends at once is lost
    if terms is not None:
        child = child_negotiation.install(sa, terms, (b"",), (sa.ni, sa.nr), False, now)
        resources.stands(sa, child, resources.told(message), now)
    sa.respond(ExchangeType.IKE_AUTH, tuple(reply), now)
    _begin(sa, now)


def _with_ppk(sa: IkeSa, message: Message, auth: Payload | None) -> Payload | None:
    """RFC 8784 3: the keys that the initiator authenticates with, and its AUTH for those."""
    named, plain = message.notify(NotifyType.PPK_IDENTITY), message.notify(NotifyType.NO_PPK_AUTH)
    if ppk.is_ours(sa, named):
        sa.keys = ppk.mixed(sa)
        return auth
    ppk.go_without(sa, "the peer names another PPK" if named else "the peer names no PPK")
    if named is None or plain is None or not isinstance(auth, Authentication):
        return auth
    return Authentication(auth.method, plain.data)


def _begin(sa: IkeSa, now: float) -> None:
    """Sends on the first CHILD_SA if this IKE_SA carries the connection; beside another one, asks the peer for proof first."""
    if sa.services.primary(sa.name) is sa:
        sa.activate_all()
    if sa.services.has_other_sa(sa):
        sa.enqueue(Liveness(), now)
