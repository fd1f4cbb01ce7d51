"""Which CHILD_SA carries the traffic when another one goes.

What works elsewhere is not left for one that the peer may not hold; and whose DELETE goes out carries nothing any more, because the
answer, which may be lost, is the peer's leave to forget it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.contract import Endpoint
from gateway.ike.events import ChildMoved, ChildRemove
from gateway.ike.settings import IKE_PORT, NATT_PORT
from gateway.ike.states import ChildState, IkeState

if TYPE_CHECKING:
    from gateway.ike.child import ChildSa
    from gateway.ike.sa import IkeSa


def succeed(sa: IkeSa, successor: ChildSa | None) -> None:
    """The one that it replaces is gone."""
    if successor is None or successor.spi_in not in sa.children or sa.state is IkeState.DESTROYING:
        return
    if successor.proven or not sa.services.carried(sa.name, successor.settings.group):
        sa.activate(successor)


def leave_all(sa: IkeSa) -> None:
    """The IKE_SA is about to be deleted: what another one carries too leaves on that one alone."""
    primary = sa.services.primary(sa.name)
    if primary is not None and primary is not sa and sa.services.covered(sa):
        for child in sa.children.values():
            _leave(sa, child)


def leave(sa: IkeSa, child: ChildSa) -> None:
    """The CHILD_SA is about to be deleted: what replaced it, or for one worker's the common one (RFC 9611), carries its traffic."""
    # The successor may be gone again
    if child.successor is not None and sa.sends(child.name):
        _leave(sa, child)
        if sa.services.primary(sa.name) is not sa:
            # Beside another IKE_SA what replaced it carries nothing
            leave_older(sa, child)
    elif child.settings.resource is not None and sa.sends(child.settings.group):
        _leave(sa, child)
        leave_older(sa, child)


def leave_older(sa: IkeSa, child: ChildSa) -> None:
    """One for a worker alone carries nothing any more: the common one does, and not what the worker has on an IKE_SA that is being
    closed, and that the peer may have lost."""
    primary = sa.services.primary(sa.name)
    if child.settings.resource is None or primary is None or not primary.sends(child.settings.group):
        return
    for other in sa.services.sas(sa.name):
        for one in other.children.values():
            if one.name == child.name and one.active and other not in (sa, primary):
                _leave(other, one)


def come_back(sa: IkeSa, now: float) -> None:
    """It was going to be closed, and carries the connection after all: what left it cannot come back, and is made anew at once."""
    for child in sa.children.values():
        if child.left and child.state is ChildState.INSTALLED:
            child.rekey_at = now


def is_made_anew(sa: IkeSa, child: ChildSa) -> bool:
    """Whether it was left so. Both ends may have left it, and then both rekey it."""
    stands = child.state in (ChildState.INSTALLED, ChildState.REKEYING)
    return child.left and stands and sa.services.primary(sa.name) is sa


def moved(sa: IkeSa, remote: Endpoint, local: Endpoint | None = None) -> None:
    """What is sent on it goes there from now on; `local`: and from there."""
    for child in sa.children.values():
        if not child.left:
            sa.services.emit(ChildMoved(sa.name, child.spi_out, remote, local))


def follow(sa: IkeSa | None, spi_in: int, remote: Endpoint) -> None:
    """ESP that verified came from there (RFC 7296 2.23)."""
    if sa is None or spi_in not in sa.children or sa.nat.local or not sa.encapsulate or sa.remote == remote:
        return
    if sa.mobike:
        # RFC 4555 3.5: it tells us itself
        return
    if sa.local.port == IKE_PORT:
        # ESP in UDP comes to 4500 (RFC 3948 2); IKE, which stayed on 500 until now, goes with it
        sa.local = Endpoint(sa.local.host, NATT_PORT)
    sa.remote = remote
    sa.notice("info", "peer-moved", f"peer is now at {remote}")
    moved(sa, remote)


def _leave(sa: IkeSa, child: ChildSa) -> None:
    if not child.left:
        child.active, child.left = False, True
        sa.services.emit(ChildRemove(sa.name, child.settings.group, 0, child.spi_out))
