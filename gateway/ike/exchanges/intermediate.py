"""IKE_INTERMEDIATE (RFC 9242) with one additional key exchange in each (RFC 9370 2.2.2), before IKE_AUTH.

    HDR, SK {KEi(n)}  -->
                        <--  HDR, SK {KEr(n)}

Both messages are sealed under the keys of the round before; the secret of this round is then mixed into all keys, and
AUTH covers what was said. What is exchanged here may be large: it can go in fragments, which IKE_SA_INIT cannot. So what would
make IKE_SA_INIT too large is put off to here (RFC 9593 3.1), to the last round, or where there is none to an exchange of its own:

    HDR, SK {}  -->
                        <--  HDR, SK {N(SUPPORTED_AUTH_METHODS)}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike.errors import LocalError, PeerError, Violation
from gateway.ike.exchanges.base import Exchange
from gateway.ike.key_exchange import SEED_OCTETS, KeyPair, check_public
from gateway.ike.keymat import IkeKeys
from gateway.ike.message import HEADER_OCTETS, Message, emit_chain
from gateway.ike.payloads import KeyExchange, Notify, Payload
from gateway.ike.registry import ExchangeType, NotifyType
from gateway.ike.states import IkeState

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


def capability(sa: IkeSa) -> tuple[Notify, ...]:
    """RFC 9242 3.1, RFC 9370 2.2.1: for who may choose or has chosen additional key exchanges; RFC 9593 3.1: and for who
    signs, and so has a use for what the responder may put off."""
    wanted = any(offer.has_additional for offer in sa.settings.offers)
    wanted = wanted or (sa.is_initiator and sa.settings.credentials is not None)
    return (Notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED),) if wanted else ()


def supported(message: Message) -> bool:
    """Whether the peer can."""
    return message.notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED) is not None


def put_off(sa: IkeSa, message: Message, answer: tuple[Payload, ...]) -> tuple[Payload, ...]:
    """Our answer to that IKE_SA_INIT, without the methods of authentication that we take where it could not go in one datagram."""
    announced = next((one for one in answer if _announces(one)), None)
    whole = HEADER_OCTETS + len(emit_chain(answer)[1])
    if not isinstance(announced, Notify) or not supported(message) or whole <= sa.largest:
        return answer
    sa.methods_owed = announced
    # RFC 9593 3.1: empty, it says that they will be told
    shorter = tuple(Notify(announced.type) if one is announced else one for one in answer)
    said = Notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED)
    return shorter if said in shorter else (*shorter, said)


def _announces(payload: Payload) -> bool:
    return isinstance(payload, Notify) and payload.type == NotifyType.SUPPORTED_AUTH_METHODS


def asking(sa: IkeSa, message: Message, additional: tuple[int, ...]) -> list[Exchange]:
    """The IKE_INTERMEDIATE exchanges that follow that answer to our IKE_SA_INIT."""
    announced = message.notify(NotifyType.SUPPORTED_AUTH_METHODS)
    put_off_to_us = announced is not None and not announced.data and supported(message) and bool(capability(sa))
    if put_off_to_us and not additional:
        return [AskMethods()]
    return [Intermediate(method) for method in additional]


def say_unused(sa: IkeSa) -> None:
    """A downgrade does not pass in silence."""
    if sa.keys is not None and sa.settings.post_quantum != "off" and not sa.keys.choice.post_quantum:
        sa.notice("warning", "post-quantum-not-used", f"no post-quantum key exchange: agreed on {sa.keys.choice}")


class Intermediate(Exchange):
    """Our IKE_INTERMEDIATE for the key exchange of one round."""

    kind = ExchangeType.IKE_INTERMEDIATE

    def __init__(self, method: int) -> None:
        self.method = method
        self.pair: KeyPair | None = None

    def still_wanted(self, sa: IkeSa) -> bool:
        return sa.state is IkeState.CONNECTING

    def start(self, sa: IkeSa, now: float) -> None:
        seed, key_exchanges = sa.services.random.octets(SEED_OCTETS), sa.services.key_exchanges
        sa.compute(
            lambda: key_exchanges.generate(self.method, seed),
            lambda pair, now: self._send(sa, pair, now),
            lambda error, now: self.on_error(sa, error, now),
        )

    def _send(self, sa: IkeSa, pair: KeyPair, now: float) -> None:
        self.pair = pair
        sa.request(self.kind, (KeyExchange(pair.method, pair.public),), now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        error, answer, pair = message.error(), message.first(KeyExchange), self.pair
        if error is not None:
            sa.destroy(now, f"{error.name}_IKE", {"exchange": self.kind.name})
            return True
        if pair is None or not isinstance(answer, KeyExchange) or answer.method != self.method:
            raise PeerError(Violation.WRONG_KE_GROUP, f"IKE_INTERMEDIATE without key exchange {self.method}")
        check_public(answer.method, answer.data, of_responder=True)
        _hear_methods(sa, message)

        def then(shared: bytes, now: float) -> None:
            sa.keys = _mixed(sa, shared)
            sa.finish(now)

        sa.compute(
            lambda: sa.services.key_exchanges.agree(pair, answer.data),
            then,
            lambda refused, now: self.on_error(sa, refused, now),
        )
        return True

    def on_error(self, sa: IkeSa, error: PeerError, now: float) -> None:
        sa.destroy(now, "BAD_KEY_EXCHANGE", {"detail": str(error)})

    def on_timeout(self, sa: IkeSa, now: float) -> None:
        sa.destroy(now, "NO_ANSWER_TO_IKE_INTERMEDIATE", {"remote": str(sa.remote)})


class AskMethods(Exchange):
    """Our IKE_INTERMEDIATE that only lets the responder say which methods of authentication it takes."""

    kind = ExchangeType.IKE_INTERMEDIATE

    def still_wanted(self, sa: IkeSa) -> bool:
        return sa.state is IkeState.CONNECTING

    def start(self, sa: IkeSa, now: float) -> None:
        sa.request(self.kind, (), now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        error = message.error()
        if error is not None:
            sa.destroy(now, f"{error.name}_IKE", {"exchange": self.kind.name})
            return True
        if message.first(KeyExchange) is not None:
            raise PeerError(Violation.WRONG_KE_GROUP, "IKE_INTERMEDIATE with a key exchange that nobody began")
        _hear_methods(sa, message)
        sa.finish(now)
        return True

    def on_timeout(self, sa: IkeSa, now: float) -> None:
        sa.destroy(now, "NO_ANSWER_TO_IKE_INTERMEDIATE", {"remote": str(sa.remote)})


def _hear_methods(sa: IkeSa, message: Message) -> None:
    sa.methods_said += tuple(one.data for one in message.notifies() if _announces(one) and one.data)


def _mixed(sa: IkeSa, shared: bytes) -> IkeKeys:
    if sa.keys is None:
        raise LocalError("IKE_INTERMEDIATE before there are keys")
    return sa.keys.after_intermediate(shared, sa.ni, sa.nr, sa.spis)


def rounds_left(sa: IkeSa) -> tuple[int, ...]:
    """Methods of the key exchanges still to be done before IKE_AUTH."""
    return sa.keys.choice.additional[sa.keys.rounds :] if sa.keys is not None else ()


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Our side of a peer's IKE_INTERMEDIATE."""
    left, exchange = rounds_left(sa), message.first(KeyExchange)
    # RFC 9593 3.1: in the last one before IKE_AUTH
    owed = (sa.methods_owed,) if sa.methods_owed is not None and len(left) <= 1 else ()
    if owed and not left and exchange is None:
        sa.methods_owed = None
        sa.respond(ExchangeType.IKE_INTERMEDIATE, owed, now)
        return
    if not left or not isinstance(exchange, KeyExchange) or exchange.method != left[0]:
        raise PeerError(Violation.WRONG_KE_GROUP, "IKE_INTERMEDIATE that was not agreed on", NotifyType.INVALID_SYNTAX)
    check_public(exchange.method, exchange.data)
    key_exchanges, seed = sa.services.key_exchanges, sa.services.random.octets(SEED_OCTETS)

    def work() -> tuple[bytes, bytes]:
        return key_exchanges.answer(exchange.method, exchange.data, seed)

    def then(result: tuple[bytes, bytes], now: float) -> None:
        public, shared = result
        sa.methods_owed = None if owed else sa.methods_owed
        sa.respond(ExchangeType.IKE_INTERMEDIATE, (KeyExchange(exchange.method, public), *owed), now)
        sa.keys = _mixed(sa, shared)

    sa.compute(work, then, sa.refuse_pending(ExchangeType.IKE_INTERMEDIATE))
