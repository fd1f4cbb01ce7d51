"""What a reload does to an IKE_SA that stands: other ends or identities need a new one, other algorithms or selectors a rekey."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike import crash_detection, renewal, resources
from gateway.ike.exchanges import mobike, timers
from gateway.ike.exchanges.delete import DeleteChild
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.exchanges.rekey_ike import RekeyIke
from gateway.ike.exchanges.tell import Tell
from gateway.ike.settings import ConnectionSettings
from gateway.ike.states import IkeState

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


def apply(sa: IkeSa, settings: ConnectionSettings, now: float) -> None:
    before, sa.settings = sa.settings, settings
    if before == settings:
        return
    if sa.state is IkeState.CONNECTING:
        # What it agreed on so far was agreed on for other settings
        sa.destroy(now, "CONFIGURATION_CHANGED")
    if not sa.established:
        return
    if _agreed(before) != _agreed(settings):
        timers.close(sa, "CONFIGURATION_CHANGED", now)
        return
    if before.local != settings.local:
        if before.local.port != settings.local.port or not (settings.mobike and mobike.may_move(sa)):
            timers.close(sa, "CONFIGURATION_CHANGED", now)
            return
        _move(sa, settings, now)
    if before.reauth_time != settings.reauth_time:
        renewal.replan(sa, now)
    _children(sa, before, now)
    # One that is not in its predecessor's place yet is rekeyed when it is (RFC 7296 2.8.1)
    if before.offers != settings.offers and not sa.quiet and not sa.has_exchange(RekeyIke):
        sa.enqueue(RekeyIke(), now)


def _agreed(settings: ConnectionSettings) -> tuple[object, ...]:
    """What holds for as long as there is an IKE_SA: what both ends know of each other, and whether the other gateway has it, too,
    where its SAs must not send."""
    return settings.remote, settings.local_id, settings.remote_id, settings.encap, settings.shared


def _move(sa: IkeSa, settings: ConnectionSettings, now: float) -> None:
    mobike.move(sa, settings.local.host, now)
    sa.enqueue(Liveness(), now)
    # RFC 6290 4.3: our crash tokens are of our address
    for notify in crash_detection.token(sa):
        sa.enqueue(Tell(notify), now)


def _children(sa: IkeSa, before: ConnectionSettings, now: float) -> None:
    for child in list(sa.children.values()):
        wanted = sa.settings.child(child.name)
        if wanted is None:
            sa.enqueue(DeleteChild(child, "REMOVED_FROM_CONFIGURATION"), now)
        elif wanted != before.child(child.name) and child.usable:
            timers.rekey_child(sa, child, now)
    resources.changed(sa, before, now)
