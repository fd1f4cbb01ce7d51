"""What time alone makes happen to an IKE_SA (RFC 7296 2.4, 2.8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway.contract import Transmit
from gateway.ike import doubt, renewal, resources
from gateway.ike.child import PROOF_PATIENCE
from gateway.ike.events import ChildRemove
from gateway.ike.exchanges import sa_init
from gateway.ike.exchanges.create_child import CreateChild
from gateway.ike.exchanges.delete import DeleteChild, DeleteIke
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.exchanges.mobike import may_move
from gateway.ike.exchanges.rekey_ike import RekeyIke
from gateway.ike.renewal import REAUTH_RETRY
from gateway.ike.settings import NAT_KEEPALIVE_INTERVAL
from gateway.ike.states import ChildState, IkeState, Standing

if TYPE_CHECKING:
    from gateway.ike.child import ChildSa
    from gateway.ike.sa import IkeSa

PROOF_WAIT = 2.0
"""Seconds between looks whether the peer has our answer."""
COVER_WAIT = 1.5
"""Seconds between two looks at a duplicate that is to be closed; at both it carries nothing any more."""
SAID_EVERY = 3
"""Times `dpd_delay`: so often at least the peer hears where we are behind a NAT."""
NAT_KEEPALIVE = b"\xff"  # RFC 3948 2.3


def run(sa: IkeSa, now: float) -> None:
    """Everything that is due."""
    _lingering(sa, now)
    sa.retransmit_due(now)
    doubt.act(sa, now)
    if sa.give_up_at is not None and now >= sa.give_up_at:
        sa.give_up_at = None
        _give_up(sa, now)
    if sa.close_at is not None and now >= sa.close_at:
        _close_covered(sa, now)
    for child in list(sa.children.values()):
        _child(sa, child, now)
    if sa.established:
        _established(sa, now)


def deadlines(sa: IkeSa) -> Iterator[float]:
    """When `run` has something to do."""
    if sa.window.pending is not None:
        yield sa.window.pending.deadline
    if sa.give_up_at is not None:
        yield sa.give_up_at
    if sa.close_at is not None:
        yield sa.close_at
    for lingering in sa.lingering:
        yield lingering.at
    for child in sa.children.values():
        yield from child.deadlines()
    if sa.established:
        if not sa.exchange:
            yield _check_at(sa)
        if sa.state is IkeState.ESTABLISHED and sa.rekey_at is not None and not sa.quiet:
            yield sa.rekey_at
        if sa.reauth_at is not None:
            yield sa.reauth_at
        if sa.check_at is not None:
            yield sa.check_at
        if sa.resources_at is not None:
            yield sa.resources_at
        if sa.nat.local:
            yield sa.last_sent + NAT_KEEPALIVE_INTERVAL


def _close_covered(sa: IkeSa, now: float) -> None:
    """A duplicate goes once nothing that it carries is on its way any more: the peer may be another gateway than that of the one
    that stays, and hold nothing of it after the DELETE."""
    # What is under way on it may still add to what it carries
    covered = sa.exchange is None and sa.services.covered(sa)
    if covered and sa.covered:
        sa.close_at = None
        close(sa, "", now)
        return
    for child in list(sa.children.values()) if covered else ():
        # One worker's traffic stays on its own CHILD_SA (RFC 9611) as long as there is one, and would leave with the DELETE of all
        if child.settings.resource is not None and child.usable:
            sa.enqueue(DeleteChild(child), now)
    sa.covered, sa.close_at = covered, now + COVER_WAIT


def _lingering(sa: IkeSa, now: float) -> None:
    for lingering in [entry for entry in sa.lingering if now >= entry.at]:
        sa.lingering.remove(lingering)
        sa.services.emit(ChildRemove(sa.name, lingering.child, lingering.spi_in, 0))


def _give_up(sa: IkeSa, now: float) -> None:
    if sa.state is IkeState.REKEYED:
        sa.destroy(now, "")
    elif sa.is_initiator:
        sa_init.give_up(sa, now)
    else:
        sa.destroy(now, "HALF_OPEN_TIMEOUT", {"remote": str(sa.remote)})


def _child(sa: IkeSa, child: ChildSa, now: float) -> None:
    if now >= child.life_at and child.state is not ChildState.DELETING:
        child.life_at = child.rekey_at = now + sa.settings.half_open_timeout
        renewal.expired(sa, child, "CHILD_LIFETIME_EXPIRED", now)
    elif now >= child.rekey_at and child.state is ChildState.INSTALLED:
        rekey_child(sa, child, now)


def rekey_child(sa: IkeSa, child: ChildSa, now: float) -> None:
    """Queues the rekey of a CHILD_SA once."""
    if not child.proven and now < child.installed_at + PROOF_PATIENCE:
        # A peer that has not had our answer could not find it. Of an IKE_SA that we initiated every unproven one comes from a
        # CREATE_CHILD_SA of the peer, and a liveness check says nothing of that answer
        if sa.standing is Standing.PROVEN or sa.is_initiator:
            child.rekey_at = now + PROOF_WAIT
            return
        if not sa.has_exchange(Liveness):
            sa.enqueue(Liveness(), now)
    if child.successor is not None:
        _delete_replaced(sa, child, child.successor, now)
        return
    waiting = [
        exchange for exchange in (sa.exchange, *sa.queue) if isinstance(exchange, CreateChild) and exchange.old is child
    ]
    child.rekey_at = child.life_at
    if not waiting:
        # The configuration may have changed since the CHILD_SA was made
        sa.enqueue(CreateChild(sa.settings.child(child.name) or child.settings, child), now)


def _delete_replaced(sa: IkeSa, child: ChildSa, successor: ChildSa, now: float) -> None:
    """The peer's to do (RFC 7296 2.8). One that does not may hold `child` no more, and what goes out on it is lost."""
    overdue_at = successor.installed_at + PROOF_PATIENCE
    if now < overdue_at:
        child.rekey_at = overdue_at
        return
    child.rekey_at = now + PROOF_PATIENCE
    if not any(isinstance(one, DeleteChild) and one.child is child for one in (sa.exchange, *sa.queue)):
        sa.notice(
            "warning", "replaced-not-deleted", f"the peer replaced CHILD_SA {child.name} and did not delete the old one"
        )
        sa.enqueue(DeleteChild(child), now)


def _established(sa: IkeSa, now: float) -> None:
    # RFC 7296 2.8.1: the rival in a collision is not rekeyed before it has its predecessor's place
    if sa.state is IkeState.ESTABLISHED and not sa.quiet and sa.rekey_at is not None and now >= sa.rekey_at:
        sa.rekey_at = None
        if not sa.has_exchange(RekeyIke):
            sa.enqueue(RekeyIke(), now)
    if sa.check_at is not None and now >= sa.check_at:
        sa.check_at = None
        _check_rekeys(sa, now)
    if sa.resources_at is not None and now >= sa.resources_at:
        for settings in resources.ask(sa, now):
            sa.enqueue(CreateChild(settings), now)
    if sa.reauth_at is not None and now >= sa.reauth_at:
        # Again if that fails; the one that succeeds has a time of its own
        sa.reauth_at = now + REAUTH_RETRY
        if renewal.proof_overdue(sa, now):
            close(sa, "REAUTHENTICATION_OVERDUE", now)
            return
        sa.services.reauthenticate(sa, now)
    # RFC 7296 2.4: a liveness check only after silence or a stand-still, and not beside another request
    if sa.exchange is None and now >= _check_at(sa):
        sa.enqueue(Liveness(), now)
    if sa.nat.local and now >= sa.last_sent + NAT_KEEPALIVE_INTERVAL:
        sa.last_sent = now
        sa.services.emit(Transmit(NAT_KEEPALIVE, sa.local, sa.remote))


def _check_at(sa: IkeSa) -> float:
    """When a liveness check is due. RFC 4555 3.8: where a NAT forgot us, answers come to where it sees us now, and ESP does not."""
    if sa.window.doubted:
        return sa.last_heard
    silent = sa.last_heard + sa.settings.dpd_delay
    if not may_move(sa) or not sa.nat.local:
        return silent
    said_at = max(sa.whereabouts.said_at, sa.established_at or 0.0)
    return min(silent, said_at + SAID_EVERY * sa.settings.dpd_delay)


def check_liveness(sa: IkeSa | None, now: float) -> None:
    """Now, unless a request of ours is under way, whose answer will tell as much."""
    if sa is not None and sa.exchange is None:
        sa.enqueue(Liveness(), now)


def _check_rekeys(sa: IkeSa, now: float) -> None:
    """A PFS group or a proposal that only a rekey negotiates shows at the first one: better now than in an hour."""
    if sa.services.primary(sa.name) is not sa or not sa.services.rekeys_are_unproven(sa.settings):
        return
    sa.services.rekeys_are_tried(sa.settings)
    for child in list(sa.children.values()):
        if child.usable and child.successor is None:
            rekey_child(sa, child, now)
    if not sa.has_exchange(RekeyIke):
        sa.enqueue(RekeyIke(), now)


def close(sa: IkeSa, reason: str, now: float) -> None:
    """Operator intent: end it, telling the peer where there is somebody to tell."""
    if sa.established:
        sa.queue.clear()
        sa.enqueue(DeleteIke(reason), now)
    elif sa.state is not IkeState.DELETING:  # else the peer is being told already
        sa.destroy(now, reason)
