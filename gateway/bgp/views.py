"""The RIBs as status shows them: every learned path, with why it is or is not used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import islice

from gateway.bgp.decision import decide
from gateway.bgp.events import RouteStatus
from gateway.bgp.peer import Peer
from gateway.bgp.prefixes import Prefix
from gateway.bgp.rib import LocRib

CLOSED = "in clear, and a tunnel led there: protected until `gatewayctl guard forget`"


def routes(
    peers: Iterable[Peer], loc_rib: LocRib, closed: AbstractSet[Prefix], limit: int | None = None
) -> Iterator[RouteStatus]:
    """Every path in every adj-RIB-in, ordered by prefix; of `limit` prefixes, whichever these are. It may be taken in
    pieces while the RIBs change. `closed`: prefixes to which only paths in tunnels are used."""
    everybody = tuple(peers)
    prefixes = dict.fromkeys(prefix for peer in everybody for prefix in peer.adj_in.entries)
    ordered = sorted(islice(prefixes, limit), key=lambda one: (one.version, int(one.network_address), one.prefixlen))
    for prefix in ordered:
        yield from _explain(prefix, everybody, loc_rib, prefix in closed)


def _explain(prefix: Prefix, peers: tuple[Peer, ...], loc_rib: LocRib, closed: bool) -> Iterator[RouteStatus]:
    found = [candidate for peer in peers if (candidate := peer.adj_in.candidate(prefix)) is not None]
    reasons = {one.path.neighbor: CLOSED for one in found if closed and not one.path.connection}
    found = [one for one in found if one.path.neighbor not in reasons]
    winner = ""
    if found:
        best, why, losers = decide(found)
        winner = best.path.neighbor
        reasons |= losers | {winner: why}
    chosen = loc_rib.best.get(prefix)
    beside = {path.neighbor for path in chosen.others} if chosen else set()
    backup = chosen.backup.neighbor if chosen and chosen.backup else ""
    for peer in peers:
        entry = peer.adj_in.entries.get(prefix)
        if entry is None:
            continue
        path, attributes = entry.used, entry.used.attributes
        yield RouteStatus(
            prefix=str(prefix),
            peer=peer.name,
            next_hop=str(path.next_hop),
            as_path=attributes.as_path,
            origin=attributes.origin,
            med=attributes.med,
            local_preference=attributes.local_preference,
            communities=attributes.communities + attributes.large_communities,
            best=peer.name == winner,
            reason=f"rejected: {entry.rejected}" if entry.rejected else reasons[peer.name],
            stale=prefix in peer.adj_in.stale,
            multipath=peer.name in beside,
            backup=peer.name == backup,
        )
