"""Which file answers which request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.ike import redirect
from gateway.ike.exchanges import auth, create_child, delete, followup, intermediate, mobike, rekey_ike, sa_init
from gateway.ike.message import Message
from gateway.ike.payloads import Delete, SecurityAssociation
from gateway.ike.registry import ExchangeType, Protocol

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


def _create_child_sa(sa: IkeSa, message: Message, now: float) -> None:
    rekey_ike.follow_peer(sa, now)
    # RFC 7296 1.3: the protocol of the proposals tells an IKE_SA rekey from a CHILD_SA
    offer = message.first(SecurityAssociation)
    assert isinstance(offer, SecurityAssociation)
    rekeys_ike = offer.proposals[0].protocol == Protocol.IKE
    (rekey_ike if rekeys_ike else create_child).respond(sa, message, now)


def _informational(sa: IkeSa, message: Message, now: float) -> None:
    if any(isinstance(payload, Delete) and payload.protocol == Protocol.ESP for payload in message.payloads):
        rekey_ike.follow_peer(sa, now)
    delete.respond(sa, message, mobike.answer(sa, message), now)
    if mobike.wants_move(sa, message) and sa.remote == sa.asked_at[1]:
        sa.enqueue(mobike.CheckAddress(), now)
    redirect.heed(sa, message, now)


RESPONDERS: dict[ExchangeType, Callable[[IkeSa, Message, float], None]] = {
    ExchangeType.IKE_SA_INIT: sa_init.respond,
    ExchangeType.IKE_INTERMEDIATE: intermediate.respond,
    ExchangeType.IKE_AUTH: auth.respond,
    ExchangeType.CREATE_CHILD_SA: _create_child_sa,
    ExchangeType.IKE_FOLLOWUP_KE: followup.respond,
    ExchangeType.INFORMATIONAL: _informational,
}


def respond(sa: IkeSa, message: Message, now: float) -> None:
    RESPONDERS[message.header.exchange](sa, message, now)
