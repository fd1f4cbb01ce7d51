"""How many prefixes are too many: the clouds end the session above their limits, so we must not get there.

Warned is at 80 %, and again only after it fell below 70 %.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.bgp.events import Level, LimitCrossed
from gateway.bgp.peer import Peer

NEAR, CALM = 80, 70  # percent


def watch_in(peer: Peer) -> Iterator[LimitCrossed]:
    """After the adj-RIB-in changed: what is to be said."""
    limit, count = peer.settings.max_prefixes, peer.adj_in.accepted
    over = peer.discarded > 0 or count > limit
    level = _level(peer.level_in, count, limit, over=over)
    changed, peer.level_in = level is not peer.level_in, level
    if changed:
        yield LimitCrossed(peer.name, "in", level, count + peer.discarded, limit)


def watch_out(peer: Peer) -> Iterator[LimitCrossed]:
    """After the adj-RIB-out changed: what is to be said."""
    limit, count = peer.adj_out.budget, len(peer.adj_out.wanted)
    held = len(peer.adj_out.held)
    level = _level(peer.level_out, count, limit, over=held > 0) if limit else Level.FINE
    changed, peer.level_out = level is not peer.level_out, level
    if changed:
        yield LimitCrossed(peer.name, "out", level, count + held, limit)


def _level(before: Level, count: int, limit: int, *, over: bool) -> Level:
    if over:
        return Level.OVER
    if before is Level.OVER and count * 100 >= limit * NEAR:
        return Level.NEAR
    threshold = CALM if before is not Level.FINE else NEAR
    return Level.NEAR if count * 100 >= limit * threshold else Level.FINE
