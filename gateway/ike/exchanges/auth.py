"""IKE_AUTH with a pre-shared key, and the first CHILD_SA (RFC 7296 1.2, 2.15, 2.21.2).

HDR, SK {IDi, [IDr], AUTH, [N(INITIAL_CONTACT)], SAi2, TSi, TSr}  -->
                              <--  HDR, SK {IDr, AUTH, SAr2, TSi, TSr}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike import ppk
from gateway.ike.authentication import AuthenticatedPeer, psk_signature, verify
from gateway.ike.errors import LocalError, PeerError
from gateway.ike.events import ExchangeFailed, IkeUp
from gateway.ike.exchanges import child_negotiation
from gateway.ike.exchanges.base import Exchange
from gateway.ike.exchanges.child_negotiation import ChildOffer
from gateway.ike.exchanges.create_child import CreateChild
from gateway.ike.exchanges.delete import DeleteIke
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.message import Message
from gateway.ike.payloads import (
    Authentication,
    Identification,
    IdentificationInitiator,
    IdentificationResponder,
    Notify,
    Payload,
    SecurityAssociation,
)
from gateway.ike.registry import ExchangeType, NotifyType
from gateway.ike.states import IkeInput, IkeState
from gateway.ike.uniqueness import Origin

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


class Authenticate(Exchange):
    """Our IKE_AUTH."""

    kind = ExchangeType.IKE_AUTH

    def __init__(self) -> None:
        self.offer: ChildOffer | None = None

    def still_wanted(self, sa: IkeSa) -> bool:
        return sa.state is IkeState.CONNECTING

    def start(self, sa: IkeSa, now: float) -> None:
        if sa.keys is None:
            raise LocalError("IKE_AUTH before there are keys")
        settings = sa.settings
        ours = IdentificationInitiator(settings.local_id.type, settings.local_id.data)
        theirs = IdentificationResponder(settings.remote_id.type, settings.remote_id.data)
        plain = psk_signature(sa.keys, settings.psk, sa.init_request, sa.nr, ours, True)
        auth = psk_signature(ppk.mixed(sa), settings.psk, sa.init_request, sa.nr, ours, True) if sa.ppk else plain
        payloads: list[Payload] = [ours, theirs, auth]
        if sa.ppk:
            payloads.append(ppk.identity(sa))
        if sa.ppk and settings.ppk is not None and not settings.ppk.required:
            # RFC 8784 3: for a responder that has another PPK than ours
            payloads.append(Notify(NotifyType.NO_PPK_AUTH, plain.data))
        if not sa.services.has_other_sa(sa):
            # RFC 7296 2.4: we know of no other IKE_SA with this peer, so the peer may drop what it has
            payloads.append(Notify(NotifyType.INITIAL_CONTACT))
        if settings.children:
            self.offer = child_negotiation.offer(sa, settings.children[0], with_key_exchange=False)
            payloads += [self.offer.sa, *self.offer.payloads]
        sa.request(self.kind, tuple(payloads), now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        identity, auth = message.first(IdentificationResponder), message.first(Authentication)
        error = message.error()
        if auth is None and error is not None:
            _refused(sa, error, now)
            return True
        assert sa.keys is not None
        if sa.ppk and message.notify(NotifyType.PPK_IDENTITY) is None:
            ppk.go_without(sa, "the peer did not use the PPK that we named")
        if sa.ppk:
            sa.keys = ppk.mixed(sa)
        proof = verify(
            sa.keys, sa.settings.psk, sa.settings.remote_id, sa.init_response, sa.ni,
            identity if isinstance(identity, Identification) else None,
            auth if isinstance(auth, Authentication) else None, False,
        )  # fmt: skip
        establish(sa, proof, initial_contact=False, now=now)
        self._first_child(sa, message, now)
        _begin(sa, now)
        for settings in sa.settings.children[1:]:
            sa.enqueue(CreateChild(settings), now)
        sa.finish(now)
        return True

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
            sa.services.emit(ExchangeFailed(sa.name, settings.name, refused.why.name, {"detail": refused.detail}))
            return
        child_negotiation.install(sa, terms, b"", (sa.ni, sa.nr), True, now)

    def on_error(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """The responder did not prove itself: say so and end (RFC 7296 2.21.2)."""
        if error.notify == NotifyType.AUTHENTICATION_FAILED:
            sa.finish(now, "failed")
            reason = "WRONG_PEER_IDENTITY" if error.why.name == "IDENTITY" else "AUTHENTICATION_FAILED_SENT"
            closing = DeleteIke(reason, {"detail": error.detail}, Notify(NotifyType.AUTHENTICATION_FAILED))
            sa.enqueue(closing, now)
        else:
            sa.destroy(now, "PROTOCOL_VIOLATION", {"detail": str(error)})

    def on_timeout(self, sa: IkeSa, now: float) -> None:
        sa.destroy(now, "NO_ANSWER_TO_IKE_AUTH", {"remote": str(sa.remote)})


def _refused(sa: IkeSa, error: Notify, now: float) -> None:
    context = {"ours": sa.settings.local_id.text, "remote_id": sa.settings.remote_id.text}
    sa.destroy(now, f"{error.name}_RECEIVED", context)


def establish(sa: IkeSa, proof: AuthenticatedPeer, initial_contact: bool, now: float) -> None:
    """The only way from CONNECTING to ESTABLISHED; `proof` comes from authentication.verify alone."""
    if proof.identity != sa.settings.remote_id:
        raise LocalError("a proof for another peer")
    sa.advance(IkeInput.AUTHENTICATED)
    sa.established_at = now
    sa.origin = Origin(sa.initiator_spi, sa.is_initiator, now)
    sa.rekey_at = sa.jittered(now, sa.settings.rekey_time)
    sa.give_up_at = None
    sa.services.emit(IkeUp(sa.name, sa.initiator_spi, sa.responder_spi, rekeyed=False))
    ppk.say_unused(sa)
    sa.services.established(sa, initial_contact, now)


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Our side of a peer's IKE_AUTH."""
    assert sa.keys is not None
    identity, auth = message.first(IdentificationInitiator), message.first(Authentication)
    if sa.ppk:
        auth = _with_ppk(sa, message, auth)
    proof = verify(
        sa.keys, sa.settings.psk, sa.settings.remote_id, sa.init_request, sa.nr,
        identity if isinstance(identity, Identification) else None,
        auth if isinstance(auth, Authentication) else None, True,
    )  # fmt: skip
    ours = IdentificationResponder(sa.settings.local_id.type, sa.settings.local_id.data)
    reply: list[Payload] = [ours, psk_signature(sa.keys, sa.settings.psk, sa.init_response, sa.ni, ours, False)]
    if sa.ppk:
        reply.append(Notify(NotifyType.PPK_IDENTITY))
    terms = None
    if message.first(SecurityAssociation) is not None:
        try:
            terms = child_negotiation.choose(sa, sa.settings.children, message, None)
            reply += child_negotiation.answer_payloads(terms)
        except PeerError as refused:
            # RFC 7296 1.2: refused without touching the IKE_SA
            notify = refused.notify or NotifyType.NO_PROPOSAL_CHOSEN
            reply.append(Notify(notify))
            name = f"{notify.name}_SENT"
            sa.services.emit(ExchangeFailed(sa.name, "", name, {"detail": refused.detail}))
    establish(sa, proof, message.notify(NotifyType.INITIAL_CONTACT) is not None, now)
    # RFC 7296 2.8: inbound stands before the answer leaves, so nothing the peer sends at once is lost
    if terms is not None:
        child_negotiation.install(sa, terms, b"", (sa.ni, sa.nr), False, now)
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
