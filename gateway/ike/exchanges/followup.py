"""IKE_FOLLOWUP_KE (RFC 9370 2.2.4): the additional key exchanges of a CREATE_CHILD_SA, after its first.

    CREATE_CHILD_SA  ...             -->
                                     <--  ..., N(ADDITIONAL_KEY_EXCHANGE)(link1)
    HDR, SK {KEi(1), N(ADDITIONAL_KEY_EXCHANGE)(link1)}  -->
                                     <--  HDR, SK {KEr(1), N(ADDITIONAL_KEY_EXCHANGE)(link2)}
    HDR, SK {KEi(n), N(ADDITIONAL_KEY_EXCHANGE)(linkn)}  -->
                                     <--  HDR, SK {KEr(n)}

The SA is made with the last of them; nothing is installed before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.ike.errors import PeerError, Violation
from gateway.ike.exchanges.base import Exchange
from gateway.ike.key_exchange import SEED_OCTETS, KeyPair, check_public
from gateway.ike.message import Message
from gateway.ike.payloads import KeyExchange, Notify, Payload
from gateway.ike.registry import ExchangeType, NotifyType

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

LINK_OCTETS = 16
LINK_MAX = 256
PATIENCE = 60.0
"""Seconds that a responder waits for the next round."""

Secrets = tuple[bytes, ...]
"""SK(0), SK(1) ...: of the first key exchange, empty without one, and of those after it."""


@dataclass(slots=True)
class Rounds:
    """What the initiator still has to do before `done`."""

    methods: tuple[int, ...]
    link: bytes
    secrets: Secrets = field(repr=False)
    done: Callable[[Secrets, float], None]
    pair: KeyPair | None = None


class CreateExchange(Exchange):
    """A CREATE_CHILD_SA of ours with the rounds that follow it."""

    kind = ExchangeType.CREATE_CHILD_SA
    rounds: Rounds | None = None

    def follow(
        self, sa: IkeSa, methods: tuple[int, ...], message: Message, done: Callable[[Secrets, float], None]
    ) -> Callable[[bytes, float], None]:
        """What to do with the secret of the first key exchange: the rounds after it, and then `done`."""
        link = _link(message) if methods else b""

        def then(shared: bytes, now: float) -> None:
            if not methods:
                done((shared,), now)
                return
            self.kind = ExchangeType.IKE_FOLLOWUP_KE
            self.rounds = Rounds(methods, link, (shared,), done)
            self._generate_round(sa, self.rounds)

        return then

    def _generate_round(self, sa: IkeSa, rounds: Rounds) -> None:
        seed, key_exchanges = sa.services.random.octets(SEED_OCTETS), sa.services.key_exchanges
        sa.compute(
            lambda: key_exchanges.generate(rounds.methods[0], seed),
            lambda pair, now: self._send_round(sa, rounds, pair, now),
            lambda error, now: self.on_error(sa, error, now),
        )

    def _send_round(self, sa: IkeSa, rounds: Rounds, pair: KeyPair, now: float) -> None:
        rounds.pair = pair
        link = Notify(NotifyType.ADDITIONAL_KEY_EXCHANGE, rounds.link)
        sa.request(self.kind, (KeyExchange(pair.method, pair.public), link), now)

    def on_round(self, sa: IkeSa, rounds: Rounds, message: Message, now: float) -> None:
        """The answer to one of them, free of errors."""
        answer, pair = message.first(KeyExchange), rounds.pair
        if pair is None or not isinstance(answer, KeyExchange) or answer.method != pair.method:
            raise PeerError(Violation.WRONG_KE_GROUP, f"IKE_FOLLOWUP_KE without key exchange {rounds.methods[0]}")
        check_public(answer.method, answer.data, of_responder=True)
        left = rounds.methods[1:]
        link = _link(message) if left else b""

        def then(shared: bytes, now: float) -> None:
            rounds.methods, rounds.link, rounds.secrets = left, link, (*rounds.secrets, shared)
            if left:
                self._generate_round(sa, rounds)
            else:
                rounds.done(rounds.secrets, now)

        sa.compute(
            lambda: sa.services.key_exchanges.agree(pair, answer.data),
            then,
            lambda error, now: self.on_error(sa, error, now),
        )


def _link(message: Message) -> bytes:
    notify = message.notify(NotifyType.ADDITIONAL_KEY_EXCHANGE)
    if notify is None or not 1 <= len(notify.data) <= LINK_MAX:
        raise PeerError(Violation.GRAMMAR, "additional key exchanges without a link", NotifyType.INVALID_SYNTAX)
    return notify.data


Conclude = Callable[[Secrets, ExchangeType, tuple[Payload, ...], float], None]
"""Makes the SA and answers the last request with these payloads; PeerError when it can no longer be made."""


@dataclass(slots=True)
class Pending:
    """What the responder keeps between the rounds. One at a time: a peer that begins another has given this one up."""

    methods: tuple[int, ...]
    link: bytes
    secrets: Secrets = field(repr=False)
    conclude: Conclude
    until: float


def expect(
    sa: IkeSa, methods: tuple[int, ...], shared: bytes, payloads: tuple[Payload, ...], conclude: Conclude, now: float
) -> None:
    """The responder's answer to CREATE_CHILD_SA: at once the last one, or the first of several."""
    if not methods:
        conclude((shared,), ExchangeType.CREATE_CHILD_SA, payloads, now)
        return
    pending = Pending(methods, sa.services.random.octets(LINK_OCTETS), (shared,), conclude, now + PATIENCE)
    sa.followup = pending
    link = Notify(NotifyType.ADDITIONAL_KEY_EXCHANGE, pending.link)
    sa.respond(ExchangeType.CREATE_CHILD_SA, (*payloads, link), now)


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Our side of a peer's IKE_FOLLOWUP_KE."""
    pending, exchange = sa.followup, message.first(KeyExchange)
    if pending is None or _link(message) != pending.link or now > pending.until:
        # RFC 9370 2.2.4: the initiator begins anew
        raise PeerError(Violation.TEMPORARY, "IKE_FOLLOWUP_KE of nothing begun here", NotifyType.STATE_NOT_FOUND)
    if not isinstance(exchange, KeyExchange) or exchange.method != pending.methods[0]:
        sa.followup = None
        raise PeerError(
            Violation.WRONG_KE_GROUP, f"IKE_FOLLOWUP_KE without {pending.methods[0]}", NotifyType.INVALID_SYNTAX
        )
    check_public(exchange.method, exchange.data)
    key_exchanges, seed = sa.services.key_exchanges, sa.services.random.octets(SEED_OCTETS)

    def work() -> tuple[bytes, bytes]:
        return key_exchanges.answer(exchange.method, exchange.data, seed)

    def then(result: tuple[bytes, bytes], now: float) -> None:
        _answer(sa, pending, exchange.method, result, now)

    sa.compute(work, then, sa.refuse_pending(ExchangeType.IKE_FOLLOWUP_KE))


def _answer(sa: IkeSa, pending: Pending, method: int, result: tuple[bytes, bytes], now: float) -> None:
    public, shared = result
    answer, secrets = KeyExchange(method, public), (*pending.secrets, shared)
    if len(pending.methods) == 1:
        sa.followup = None
        pending.conclude(secrets, ExchangeType.IKE_FOLLOWUP_KE, (answer,), now)
        return
    pending.methods, pending.secrets = pending.methods[1:], secrets
    pending.link, pending.until = sa.services.random.octets(LINK_OCTETS), now + PATIENCE
    link = Notify(NotifyType.ADDITIONAL_KEY_EXCHANGE, pending.link)
    sa.respond(ExchangeType.IKE_FOLLOWUP_KE, (answer, link), now)
