"""An IKE_SA that the peer may have lost is asked about at once, and does not have to be found dead before another one is begun.

Doubt comes from our own clock: this process or its machine stood still, long enough for a peer to have given us up; what arrived
meanwhile and is read now says nothing of that. Or from an INVALID_IKE_SPI in clear, in answer to what we ask (RFC 7296 2.21.4), which
anybody on the way may have written. Neither ends anything: the request that is under way is repeated as ever (RFC 7296 2.4), and
while it stays unanswered a new IKE_SA is set up beside the old one, by a peer that proves itself, or by nobody.

    stood still -> liveness check -> no answer -> again -> no answer -> again, and IKE_SA_INIT beside it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike.message import Message
from gateway.ike.registry import NotifyType

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

STOOD_STILL = 5.0
"""Seconds without a turn, and by which a deadline was missed, when a process was stopped or its machine suspended, not merely busy."""
TRIES = 2
"""Repetitions without an answer after which a new IKE_SA is begun beside the doubted one."""


def missed(deadline: float | None, now: float) -> bool:
    """Whether nobody was here when the earliest deadline came."""
    return deadline is not None and now > deadline + STOOD_STILL


def suspect(sa: IkeSa) -> None:
    """We stood still: the peer is asked at once, or right after what is under way, whose answer may be from before. Whatever is
    asked next will do."""
    if not sa.established:
        return
    sa.window.doubted = True
    if sa.window.pending is not None:
        sa.window.pending.doubted_from = sa.window.pending.tries


def hear(sa: IkeSa, message: Message) -> None:
    """RFC 7296 2.21.4: a hint, in answer to the request that is under way and to no other; it takes nothing down and stops nothing."""
    pending, header = sa.window.pending, message.header
    asked = pending is not None and header.is_response and header.message_id == pending.message_id
    sealed = message.encrypted is not None or message.fragment is not None
    if pending is None or not asked or sealed or not sa.established:
        return
    if message.notify(NotifyType.INVALID_IKE_SPI) is not None:
        pending.doubted_from = 0


def act(sa: IkeSa, now: float) -> None:
    """After a repetition: another IKE_SA is begun if the doubt lasts, once for each doubt, and not beside another attempt."""
    pending = sa.window.pending
    if pending is None or pending.doubted_from is None or pending.tries < pending.doubted_from + TRIES:
        return
    pending.doubted_from = None
    if sa.established and sa.services.reauthenticate(sa, now):
        text = f"{sa.remote} may have lost this IKE_SA, and does not answer; a new one is tried beside it"
        sa.notice("warning", "ike-doubted", text)
