"""Which CHILD_SA carries the traffic when another one goes.

What works elsewhere is not left for one that the peer may not hold; and whose DELETE goes out carries nothing any more, because the
answer, which may be lost, is the peer's leave to forget it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike.events import ChildMoved, ChildRemove
from gateway.ike.states import IkeState

if TYPE_CHECKING:
    from gateway.contract import Endpoint
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
    replaced = child.successor is not None and sa.sends(child.name)
    if replaced or (child.settings.resource is not None and sa.sends(child.settings.group)):
        _leave(sa, child)


def moved(sa: IkeSa, remote: Endpoint) -> None:
    """What is sent on it goes there from now on."""
    for child in sa.children.values():
        if not child.left:
            sa.services.emit(ChildMoved(sa.name, child.spi_out, remote))


def follow(sa: IkeSa | None, spi_in: int, remote: Endpoint) -> None:
    """ESP that verified came from there (RFC 7296 2.23)."""
    if sa is None or spi_in not in sa.children or sa.nat.local or not sa.encapsulate or sa.remote == remote:
        return
    if sa.mobike:
        # RFC 4555 3.5: it tells us itself
        return
    sa.remote = remote
    sa.notice("info", "peer-moved", f"peer is now at {remote}")
    moved(sa, remote)


def _leave(sa: IkeSa, child: ChildSa) -> None:
    if not child.left:
        child.active, child.left = False, True
        sa.services.emit(ChildRemove(sa.name, child.settings.group, 0, child.spi_out))
