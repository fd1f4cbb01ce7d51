"""IKE_SA_INIT (RFC 7296 1.2, 2.6, 2.7): nothing in it is authenticated yet.

HDR(SPIi,0), [N(COOKIE)], SAi1, KEi, Ni, N(NATD_S), N(NATD_D)   -->
                              <--  HDR, SAr1, KEr, Nr, N(NATD_S), N(NATD_D)
                              <--  HDR, N(COOKIE) | N(INVALID_KE_PAYLOAD) | error
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gateway.contract import Endpoint
from gateway.ike import authentication, nat, ppk, proposal, redirect
from gateway.ike.errors import LocalError, PeerError, Violation
from gateway.ike.exchanges import intermediate
from gateway.ike.exchanges.auth import Authenticate
from gateway.ike.exchanges.base import NONCE_OCTETS, Exchange, wanted_group
from gateway.ike.key_exchange import SEED_OCTETS, KeyPair, check_public
from gateway.ike.keymat import IkeKeys, check_nonce
from gateway.ike.message import Message
from gateway.ike.payloads import KeyExchange, Nonce, Notify, Payload, SecurityAssociation
from gateway.ike.proposal import Choice, choice_of
from gateway.ike.registry import ExchangeType, NotifyType, Protocol
from gateway.ike.services import Failed
from gateway.ike.settings import NATT_PORT
from gateway.ike.states import IkeInput, IkeState
from gateway.ike.window import Request

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

COOKIES_MAX = 5
GROUPS_MAX = 3
BAD_VALUES_MAX = 3
HINT_PATIENCE = 4.0
"""Seconds to wait for a better answer after an error that nobody authenticated (RFC 7296 2.21.1)."""
COOKIE_MAX = 64  # RFC 7296 2.6


class InitiateSa(Exchange):
    """Our IKE_SA_INIT; ends by handing over to Authenticate."""

    kind = ExchangeType.IKE_SA_INIT

    def __init__(self) -> None:
        self.cookie: bytes | None = None
        self.cookies = 0
        self.tried: list[int] = []
        self.bad_values = 0
        self.pair: KeyPair | None = None
        self.sent: SecurityAssociation | None = None
        self.payloads: tuple[Payload, ...] = ()

    def still_wanted(self, sa: IkeSa) -> bool:
        return sa.state is IkeState.CREATED

    def start(self, sa: IkeSa, now: float) -> None:
        sa.advance(IkeInput.START)
        sa.ni = sa.services.random.octets(NONCE_OCTETS)
        self._generate(sa, proposal.key_exchange_methods(sa.settings.offers)[0])

    def _generate(self, sa: IkeSa, method: int) -> None:
        self.tried.append(method)
        seed = sa.services.random.octets(SEED_OCTETS)
        sa.compute(
            lambda: sa.services.key_exchanges.generate(method, seed),
            lambda pair, now: self._send(sa, pair, now),
            self._failed(sa),
        )

    def _failed(self, sa: IkeSa) -> Failed:
        return lambda error, now: self.on_error(sa, error, now)

    def _send(self, sa: IkeSa, pair: KeyPair, now: float) -> None:
        self.pair = pair
        self.sent = proposal.payload(sa.settings.offers, b"")
        detection = nat.notifications(sa.initiator_spi, 0, sa.local, sa.remote, nat.pretended_source(sa))
        self.payloads = (
            self.sent,
            KeyExchange(pair.method, pair.public),
            Nonce(sa.ni),
            *detection,
            *_fragmentation(sa),
            *ppk.capability(sa),
            *authentication.capability(sa),
            *intermediate.capability(sa),
            *redirect.capability(sa),
        )
        self._request(sa, now)

    def _request(self, sa: IkeSa, now: float) -> None:
        # RFC 7296 2.6: the cookie first, all else unchanged
        cookie = (Notify(NotifyType.COOKIE, self.cookie),) if self.cookie is not None else ()
        (sa.init_request,) = sa.request(self.kind, (*cookie, *self.payloads), now, repeat_id=0)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        cookie, other_group = message.notify(NotifyType.COOKIE), message.notify(NotifyType.INVALID_KE_PAYLOAD)
        if cookie is not None and message.first(SecurityAssociation) is None:
            return self._on_cookie(sa, cookie.data, now)
        if other_group is not None:
            return self._on_other_group(sa, other_group, now)
        error = message.error()
        if error is not None:
            return self._on_unauthenticated_error(sa, error, now)
        elsewhere = message.notify(NotifyType.REDIRECT)
        if elsewhere is not None and message.first(SecurityAssociation) is None:
            return self._on_redirect(sa, elsewhere, now)
        answer, exchange, nonce = message.first(SecurityAssociation), message.first(KeyExchange), message.first(Nonce)
        if not (
            isinstance(answer, SecurityAssociation) and isinstance(exchange, KeyExchange) and isinstance(nonce, Nonce)
        ):
            return False
        if message.header.responder_spi == 0:
            return False
        if ppk.missing(sa, message):
            return self._refused(sa, "USE_PPK_IKE", "offers no post-quantum preshared key, which is required here", now)
        try:
            choice = self._check(answer, exchange, nonce)
            if choice.additional and not intermediate.supported(message):
                raise PeerError(Violation.NO_PROPOSAL, "additional key exchanges without IKE_INTERMEDIATE")
        except PeerError as error_:
            # Nobody authenticated this answer: a forged one must not end the attempt
            sa.notice("warning", "ike-init-ignored", f"IKE_SA_INIT response ignored: {error_}")
            sa.hint = sa.hint or ("BAD_ANSWER", {"detail": error_.detail})
            return False
        self._agree(sa, message, choice, exchange.data, nonce.data)
        return True

    def _check(self, answer: SecurityAssociation, exchange: KeyExchange, nonce: Nonce) -> Choice:
        if self.sent is None or self.pair is None:
            raise LocalError("a response before the request")
        choice = choice_of(proposal.accept(self.sent, answer))
        if not choice.key_exchange == exchange.method == self.pair.method:
            raise PeerError(
                Violation.WRONG_KE_GROUP,
                f"chose {choice.key_exchange}, sent {exchange.method}, ours {self.pair.method}",
            )
        check_nonce(choice.prf, nonce.data)
        check_public(exchange.method, exchange.data, of_responder=True)
        return choice

    def _on_cookie(self, sa: IkeSa, cookie: bytes, now: float) -> bool:
        self.cookies += 1
        if not 1 <= len(cookie) <= COOKIE_MAX or self.cookies > COOKIES_MAX or self.pair is None:
            return False
        self.cookie = cookie
        self._request(sa, now)
        return True

    def _on_redirect(self, sa: IkeSa, elsewhere: Notify, now: float) -> bool:
        try:
            redirect.heed_init(sa, elsewhere, now)
        except PeerError as error:
            sa.services.rejected[error.why.value] += 1
            sa.hint = sa.hint or ("REDIRECT_REFUSED", {"detail": error.detail})
            sa.give_up_at = sa.give_up_at or now + HINT_PATIENCE
            return False
        return True

    def _on_other_group(self, sa: IkeSa, notify: Notify, now: float) -> bool:
        """RFC 7296 1.2: again with the group the responder wants, if it is one we offered and not yet tried."""
        method = int.from_bytes(notify.data, "big") if len(notify.data) == 2 else -1
        if (
            method not in proposal.key_exchange_methods(sa.settings.offers)
            or len(self.tried) >= GROUPS_MAX
            or method in self.tried
        ):
            return self._on_unauthenticated_error(sa, notify, now)
        self._generate(sa, method)
        return True

    def _on_unauthenticated_error(self, sa: IkeSa, error: Notify, now: float) -> bool:
        name = error.name
        if error.type == NotifyType.NO_PROPOSAL_CHOSEN and sa.settings.post_quantum == "require":
            name = "NO_POST_QUANTUM"
        wanted = wanted_group(error)
        return self._refused(
            sa, f"{name}_IKE", f"answered {error.name} to IKE_SA_INIT (not authenticated)", now, wanted
        )

    def _refused(
        self, sa: IkeSa, reason: str, text: str, now: float, context: Mapping[str, str] = MappingProxyType({})
    ) -> bool:
        """RFC 7296 2.21.1: only a hint; wait a little for a good answer, then fail by this name."""
        if sa.give_up_at is None:
            ours = "; ".join(str(offer.numbered(1, b"")) for offer in sa.settings.offers)
            sa.hint = (reason, {"ours": ours, **context})
            sa.give_up_at = now + HINT_PATIENCE
            sa.notice("warning", "ike-init-refused", f"peer {text}")
        return False

    def _agree(self, sa: IkeSa, message: Message, choice: Choice, public: bytes, nonce: bytes) -> None:
        pair = self.pair
        assert pair is not None
        sa.init_response, sa.nr = message.octets, nonce
        sa.nat = nat.detect(message, sa.local, sa.remote)
        sa.fragments, sa.ppk = _fragments(sa, message), ppk.agreed(sa, message)
        # RFC 6023 3
        sa.childless = sa.settings.childless and message.notify(NotifyType.CHILDLESS_IKEV2_SUPPORTED) is not None

        def then(shared: bytes, now: float) -> None:
            sa.responder_spi = message.header.responder_spi
            sa.hint, sa.give_up_at = None, None
            sa.keys = IkeKeys.initial(choice, shared, sa.ni, sa.nr, sa.spis, True)
            float_to_natt(sa)
            sa.queue.extendleft((Authenticate(), *reversed(intermediate.asking(sa, message, choice.additional))))
            sa.finish(now)

        def refused(error: PeerError, now: float) -> None:
            self.bad_values += 1
            if self.bad_values > BAD_VALUES_MAX:
                self.on_error(sa, error, now)
                return
            # RFC 7296 2.21.1: nobody authenticated this answer, so the good one may still come
            sa.notice("warning", "ike-init-ignored", f"IKE_SA_INIT response ignored: {error}")
            deadline = sa.jittered(now, sa.settings.retransmit_timeout)
            sa.window.sent(Request(0, (sa.init_request,), deadline, (self.kind, ())))

        sa.compute(lambda: sa.services.key_exchanges.agree(pair, public), then, refused)

    def on_error(self, sa: IkeSa, error: PeerError, now: float) -> None:
        sa.destroy(now, "BAD_KEY_EXCHANGE", {"detail": str(error)})

    def on_timeout(self, sa: IkeSa, now: float) -> None:
        give_up(sa, now)


def give_up(sa: IkeSa, now: float) -> None:
    """The attempt ends without a usable answer: by the hint if there was one."""
    if sa.hint is not None:
        sa.destroy(now, *sa.hint)
    else:
        sa.destroy(now, "PEER_UNREACHABLE", {"remote": str(sa.remote)})


def _fragmentation(sa: IkeSa) -> tuple[Notify, ...]:
    """RFC 7383 2.3: we can."""
    return (Notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED),) if sa.settings.fragment_size else ()


def _fragments(sa: IkeSa, message: Message) -> bool:
    return bool(sa.settings.fragment_size) and message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None


def float_to_natt(sa: IkeSa) -> None:
    """RFC 7296 2.23: the initiator moves to port 4500 when a NAT was found, or encapsulation is forced."""
    if sa.encapsulate and sa.local.port != NATT_PORT:
        sa.local, sa.remote = Endpoint(sa.local.host, NATT_PORT), Endpoint(sa.remote.host, NATT_PORT)


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Our side of a peer's IKE_SA_INIT. `sa.responder_spi` is already ours."""
    offer, exchange, nonce = message.first(SecurityAssociation), message.first(KeyExchange), message.first(Nonce)
    assert isinstance(offer, SecurityAssociation) and isinstance(exchange, KeyExchange) and isinstance(nonce, Nonce)
    sa.advance(IkeInput.START)
    chosen = proposal.select(sa.settings.offers, offer, Protocol.IKE, exchange.method)
    choice = choice_of(chosen)
    if choice.additional and not intermediate.supported(message):
        # RFC 9370 2.2.1
        raise PeerError(
            Violation.NO_PROPOSAL, "additional key exchanges without IKE_INTERMEDIATE", NotifyType.NO_PROPOSAL_CHOSEN
        )
    if choice.key_exchange != exchange.method:
        # RFC 7296 1.2: tell the group we want; nothing of this attempt is kept
        wanted = choice.key_exchange.to_bytes(2, "big")
        raise PeerError(
            Violation.WRONG_KE_GROUP,
            f"KE {exchange.method}, wanted {choice.key_exchange}",
            NotifyType.INVALID_KE_PAYLOAD,
            wanted,
        )
    check_nonce(choice.prf, nonce.data)
    check_public(exchange.method, exchange.data)
    sa.ni, sa.nr = nonce.data, sa.services.random.octets(NONCE_OCTETS)
    sa.init_request, sa.redirectable = message.octets, redirect.can(message)
    sa.nat = nat.detect(message, sa.local, sa.remote)
    sa.fragments, sa.ppk = _fragments(sa, message), ppk.agreed(sa, message)
    if ppk.missing(sa, message):
        raise PeerError(
            Violation.PPK,
            "the peer offers no post-quantum preshared key, which is required here",
            NotifyType.NO_PROPOSAL_CHOSEN,
        )
    sa.give_up_at = now + sa.settings.half_open_timeout
    seed = sa.services.random.octets(SEED_OCTETS)
    key_exchanges = sa.services.key_exchanges

    def work() -> tuple[bytes, bytes]:
        return key_exchanges.answer(exchange.method, exchange.data, seed)

    def then(result: tuple[bytes, bytes], now: float) -> None:
        public, shared = result
        sa.keys = IkeKeys.initial(choice, shared, sa.ni, sa.nr, sa.spis, False)
        detection = nat.notifications(sa.initiator_spi, sa.responder_spi, sa.local, sa.remote, nat.pretended_source(sa))
        # RFC 7383 2.3: only to who can
        extensions = (
            *detection,
            *(_fragmentation(sa) if sa.fragments else ()),
            *(ppk.capability(sa) if sa.ppk else ()),
            Notify(NotifyType.CHILDLESS_IKEV2_SUPPORTED),
            *authentication.capability(sa),
            *(intermediate.capability(sa) if choice.additional else ()),
        )
        answer: tuple[Payload, ...] = (SecurityAssociation((chosen,)), KeyExchange(choice.key_exchange, public))
        payloads = intermediate.put_off(sa, message, (*answer, Nonce(sa.nr), *extensions))
        (sa.init_response,) = sa.respond(ExchangeType.IKE_SA_INIT, payloads, now)

    sa.compute(work, then, lambda error, now: sa.destroy(now, "BAD_KEY_EXCHANGE", {"detail": str(error)}))
