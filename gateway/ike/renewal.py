"""When what an IKE_SA carries cannot be renewed on it (RFC 7296 2.8, 2.25).

    refused for good, or put off for minutes    a new IKE_SA is set up beside this one, and takes over once it stands
    the lifetime ends all the same              this one is closed with all that it carries, and begins anew

A first CHILD_SA is made in IKE_AUTH without a key exchange of its own, so a new IKE_SA often does what no rekey can. Both ends have
agreed to IKE_AUTH once; whether they agree to a CREATE_CHILD_SA shows after an hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.ike.exchanges.delete import DeleteChild, DeleteIke

if TYPE_CHECKING:
    from gateway.ike.child import ChildSa
    from gateway.ike.sa import IkeSa

REAUTH_RETRY = 60.0
"""Seconds until a reauthentication that did not come to its end is begun again."""
BUSY_FOR = 180.0
"""Seconds for which TEMPORARY_FAILURE is believed (RFC 7296 2.25: several minutes)."""
BUSY_APART = 60.0
"""Seconds between two of them that are not of the same state any more."""
MISSING = 3
"""Refusals of a CHILD_SA that was here before."""
LIFE_SHARE, LIFE_LEAST = 0.1, 300.0
"""How long an IKE_SA whose rekeys are refused goes on after `rekey_time`, as a share of it and in seconds at least."""
PROOF_SHARE, PROOF_LEAST = 0.1, 300.0
"""The same after `reauth_time`, for a peer that does not prove itself again."""


@dataclass(slots=True)
class Renewal:
    """Of one IKE_SA and those that rekeys put in its place. Times on the core's clock."""

    busy_since: float | None = None
    busy_at: float = 0.0
    lost: bool = False
    """A CHILD_SA that it had is gone, and nothing came in its place."""
    missing: int = 0
    """How often another one was refused since."""
    wanted_at: float | None = None
    """Since when a new IKE_SA is wanted for what is refused on this one; without it there would be one at `planned`."""
    planned: float | None = None
    proof_due: float | None = None
    """When the peer was to prove itself again, as `reauth_time` wants it, and when that was looked at last."""
    proof_at: float = 0.0
    asked_at: float | None = None
    """When the peer wants us to prove ourselves again (RFC 4478), whatever `reauth_time` says."""


def plan_rekey(sa: IkeSa, now: float) -> None:
    """Of the IKE_SA, after `rekey_time` as said."""
    sa.rekey_at = sa.planned_at = sa.jittered(now, sa.settings.rekey_time)


def replan(sa: IkeSa, now: float) -> None:
    """`reauth_time` was changed."""
    ours = sa.jittered(now, sa.settings.reauth_time) if sa.settings.reauth_time else None
    asked_at = sa.renewal.asked_at
    sa.reauth_at = min((at for at in (ours, asked_at) if at is not None), default=None)
    sa.renewal = Renewal(asked_at=asked_at)


def believed(sa: IkeSa, now: float) -> bool:
    """TEMPORARY_FAILURE came: whether to go on asking. RFC 7296 2.25: after several minutes both ends' states do not fit any more."""
    one = sa.renewal
    if one.busy_since is None or now > one.busy_at + BUSY_APART:
        one.busy_since = now
    one.busy_at = now
    return now < one.busy_since + BUSY_FOR


def renewed(sa: IkeSa) -> None:
    """A CREATE_CHILD_SA of either end did what it was for."""
    one = sa.renewal
    one.busy_since, one.lost, one.missing = None, False, 0
    if one.wanted_at is not None:
        one.wanted_at, sa.reauth_at = None, one.planned


def child_refused(sa: IkeSa, child: ChildSa, now: float, *, at_once: bool) -> None:
    """Its rekey was, and is asked for again at `rekey_at`. RFC 7296 2.8: what cannot be rekeyed is replaced before it expires."""
    child.refused = True
    if at_once or child.limited or child.rekey_at >= (child.planned_at + child.life_at) / 2:
        give_way(sa, now)


def child_missing(sa: IkeSa, now: float) -> None:
    """One that is wanted was refused."""
    one = sa.renewal
    if one.lost and not any(child.usable for child in sa.children.values()):
        one.missing += 1
        if one.missing >= MISSING:
            give_way(sa, now)


def ike_refused(sa: IkeSa, now: float, *, at_once: bool) -> None:
    """The rekey of the IKE_SA was."""
    life, wanted_at = max(LIFE_SHARE * sa.settings.rekey_time, LIFE_LEAST), sa.renewal.wanted_at
    if now >= sa.planned_at + life and wanted_at is not None and now >= wanted_at + REAUTH_RETRY:
        _close(sa, "IKE_LIFETIME_EXPIRED", now)
    elif at_once or (sa.rekey_at or now) >= sa.planned_at + life / 2:
        give_way(sa, now)


def give_way(sa: IkeSa, now: float) -> None:
    """To a new IKE_SA, which is begun again until it stands; where that fails, this one works on until something of it expires."""
    one = sa.renewal
    if one.wanted_at is None:
        one.wanted_at, one.planned, sa.reauth_at = now, sa.reauth_at, now


def proof_overdue(sa: IkeSa, now: float) -> bool:
    """Asked when a reauthentication is due. One that fails may be an attacker's doing, and is tried again; one that fails for long
    leaves a peer inside that may have been shut out since."""
    one, reauth_time, services = sa.renewal, sa.settings.reauth_time, sa.services
    # While a new IKE_SA is wanted for other reasons it is asked for more often
    early = one.wanted_at is not None and (one.planned is None or now < one.planned)
    if early or not reauth_time:
        return False
    if one.proof_due is None or now > one.proof_at + 2 * REAUTH_RETRY:
        # The first look, or nobody was here meanwhile
        one.proof_due = now
    one.proof_at = now
    if services.primary(sa.name) is not sa or services.redirects.order_of(sa):
        # Nobody asks it to
        one.proof_due = None
        return False
    return now >= one.proof_due + max(PROOF_SHARE * reauth_time, PROOF_LEAST)


def expired(sa: IkeSa, child: ChildSa, reason: str, now: float) -> None:
    """RFC 7296 2.8: where rekeys fail the IKE_SA goes with the last that it carried, and is set up anew; others work on. Without a
    refusal another CHILD_SA is asked for first; after a stand-still the peer is, whether it still has this one (doubt.py)."""
    carries = any(other.usable for other in sa.children.values() if other is not child)
    if (
        child.refused
        and not sa.window.doubted
        and child.successor is None
        and not carries
        and sa.services.primary(sa.name) is sa
    ):
        _close(sa, reason, now)
    else:
        sa.enqueue(DeleteChild(child, reason if child.successor is None else ""), now)


def _close(sa: IkeSa, reason: str, now: float) -> None:
    sa.queue.clear()
    sa.enqueue(DeleteIke(reason), now)
