"""Which file answers which request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.ike import redirect
from gateway.ike.errors import PeerError, Violation
from gateway.ike.events import ExchangeFailed
from gateway.ike.exchanges import (
    auth,
    child_negotiation,
    create_child,
    delete,
    followup,
    intermediate,
    mobike,
    rekey_ike,
    sa_init,
)
from gateway.ike.message import Message
from gateway.ike.payloads import Delete, SecurityAssociation
from gateway.ike.registry import ExchangeType, NotifyType, Protocol

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

REFUSALS = {
    Violation.NO_PROPOSAL: NotifyType.NO_PROPOSAL_CHOSEN,
    Violation.TRAFFIC_SELECTORS: NotifyType.TS_UNACCEPTABLE,
}
"""What a configuration is at fault for; the rest passes, or is a defect."""


def _create_child_sa(sa: IkeSa, message: Message, now: float) -> None:
    rekey_ike.follow_peer(sa, now)
    # RFC 7296 1.3: the protocol of the proposals tells an IKE_SA rekey from a CHILD_SA
    offer = message.first(SecurityAssociation)
    assert isinstance(offer, SecurityAssociation)
    rekeys_ike = offer.proposals[0].protocol == Protocol.IKE
    try:
        (rekey_ike if rekeys_ike else create_child).respond(sa, message, now)
    except PeerError as error:
        if error.why in REFUSALS:
            sa.services.emit(_refused(sa, message, rekeys_ike, error))
        raise


def _refused(sa: IkeSa, message: Message, rekeys_ike: bool, error: PeerError) -> ExchangeFailed:
    """What works still ends with the peer's lifetime, so it is told why the peer cannot replace it."""
    name, detail = REFUSALS[error.why].name, {"detail": error.detail}
    if rekeys_ike:
        ours = "; ".join(str(offer.numbered(1, b"")) for offer in sa.settings.offers)
        return ExchangeFailed(sa.name, "", f"PEER_IKE_REKEY_{name}", detail | {"ours": ours})
    target = create_child.rekey_target(message)
    old = sa.child_by_spi_out(int.from_bytes(target.spi, "big")) if target is not None else None
    if old is None:
        return ExchangeFailed(sa.name, "", f"{name}_SENT", detail)
    ours_now = sa.settings.child(old.name) or old.settings
    return ExchangeFailed(sa.name, old.name, f"PEER_REKEY_{name}", detail | child_negotiation.context(ours_now))


def _informational(sa: IkeSa, message: Message, now: float) -> None:
    if any(isinstance(payload, Delete) and payload.protocol == Protocol.ESP for payload in message.payloads):
        rekey_ike.follow_peer(sa, now)
    delete.respond(sa, message, mobike.answer(sa, message), now)
    moved = mobike.wants_move(sa, message) and sa.remote == sa.asked_at[1] and sa.traffic_remote is not None
    # The one under way may be of the address before
    if moved and not any(isinstance(one, mobike.CheckAddress) for one in sa.queue):
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
