"""IKE_INTERMEDIATE (RFC 9242) with one additional key exchange in each (RFC 9370 2.2.2), before IKE_AUTH.

    HDR, SK {KEi(n)}  -->
                        <--  HDR, SK {KEr(n)}

Both messages are sealed under the keys of the round before; the secret of this round is then mixed into all keys, and
AUTH covers what was said. What is exchanged here may be large: it can go in fragments, which IKE_SA_INIT cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike.errors import LocalError, PeerError, Violation
from gateway.ike.exchanges.base import Exchange
from gateway.ike.key_exchange import SEED_OCTETS, KeyPair, check_public
from gateway.ike.keymat import IkeKeys
from gateway.ike.message import Message
from gateway.ike.payloads import KeyExchange, Notify
from gateway.ike.registry import ExchangeType, NotifyType
from gateway.ike.states import IkeState

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


def capability(sa: IkeSa) -> tuple[Notify, ...]:
    """RFC 9242 3.1, RFC 9370 2.2.1: for who may choose or has chosen additional key exchanges."""
    wanted = any(offer.has_additional for offer in sa.settings.offers)
    return (Notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED),) if wanted else ()


def supported(message: Message) -> bool:
    """Whether the peer can."""
    return message.notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED) is not None


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
    if not left or not isinstance(exchange, KeyExchange) or exchange.method != left[0]:
        raise PeerError(Violation.WRONG_KE_GROUP, "IKE_INTERMEDIATE that was not agreed on", NotifyType.INVALID_SYNTAX)
    check_public(exchange.method, exchange.data)
    key_exchanges, seed = sa.services.key_exchanges, sa.services.random.octets(SEED_OCTETS)

    def work() -> tuple[bytes, bytes]:
        return key_exchanges.answer(exchange.method, exchange.data, seed)

    def then(result: tuple[bytes, bytes], now: float) -> None:
        public, shared = result
        sa.respond(ExchangeType.IKE_INTERMEDIATE, (KeyExchange(exchange.method, public),), now)
        sa.keys = _mixed(sa, shared)

    sa.compute(work, then, sa.refuse_pending(ExchangeType.IKE_INTERMEDIATE))
