"""The RIBs as status shows them: every learned path, with why it is or is not used; what each neighbor is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from heapq import heapify, heappop
from itertools import islice

from gateway.bgp.decision import decide
from gateway.bgp.events import AdvertisedStatus, RouteStatus
from gateway.bgp.next_hops import NextHops
from gateway.bgp.path import Announcement
from gateway.bgp.peer import Peer
from gateway.bgp.prefixes import Prefix, PrefixSet
from gateway.bgp.rib import LocRib
from gateway.bgp.underlay import is_of_a_gateway

PROTECTED = "in clear, and the prefix is protected: a path in a tunnel comes first"
CLOSED = "in clear, and a tunnel led there: protected until `gatewayctl guard forget`"

ANOTHER_S = "another gateway's, in clear to there, and the prefix is protected"


def routes(
    peers: Iterable[Peer],
    loc_rib: LocRib,
    closed: AbstractSet[Prefix],
    next_hops: NextHops,
    limit: int | None = None,
    instance: str = "",
    protected: PrefixSet | None = None,
) -> Iterator[RouteStatus]:
    """Every path in every adj-RIB-in, ordered by prefix; of `limit` prefixes, whichever these are. It may be taken in
    pieces while the RIBs change. `closed`: prefixes to which only paths in tunnels are used;
    `protected`: those to which such paths come first."""
    everybody = tuple(peers)
    prefixes = dict.fromkeys(prefix for peer in everybody for prefix in peer.adj_in.entries)
    # Of thousands, to sort them at once would take longer than all else until the first path
    heap = [(one.version, int(one.network_address), one.prefixlen, one) for one in islice(prefixes, limit)]
    heapify(heap)
    while heap:
        prefix = heappop(heap)[-1]
        yield from paths(prefix, everybody, loc_rib, next_hops, refusal(prefix, closed, protected), instance)


def refusal(prefix: Prefix, closed: AbstractSet[Prefix], protected: PrefixSet | None) -> str:
    """Why a path to it in clear is not used, "" if it may be."""
    return CLOSED if prefix in closed else PROTECTED if protected and protected.covers(prefix) else ""


def advertised(peer: Peer) -> Iterator[AdvertisedStatus]:
    """What a neighbor is told and will be told, in no order. It may be taken in pieces while the RIB changes."""
    out = peer.adj_out
    for prefix in tuple(out.wanted):
        wanted = out.wanted.get(prefix)
        if wanted is not None:
            state = "down" if not peer.up else "sent" if out.sent.get(prefix) == wanted else "waiting"
            yield _advertised(peer, prefix, wanted, state)
    for prefix in tuple(out.held):
        held = out.held.get(prefix)
        if held is not None:
            yield _advertised(peer, prefix, held, "held-back")
    for prefix in tuple(out.sent) if peer.up else ():
        sent = out.sent.get(prefix)
        if isinstance(sent, Announcement) and prefix not in out:
            yield _advertised(peer, prefix, sent, "withdrawing")


def _advertised(peer: Peer, prefix: Prefix, told: Announcement, state: str) -> AdvertisedStatus:
    return AdvertisedStatus(
        prefix=str(prefix),
        peer=peer.name,
        next_hop=str(told.next_hop),
        as_path=told.as_path,
        origin=told.origin,
        med=told.med,
        local_preference=told.local_preference,
        communities=told.communities + told.large_communities,
        state=state,
        instance=peer.settings.instance,
    )


def paths(
    prefix: Prefix,
    peers: tuple[Peer, ...],
    loc_rib: LocRib,
    next_hops: NextHops,
    clear: str = "",
    instance: str = "",
) -> Iterator[RouteStatus]:
    """Every path to one prefix; `clear`: the refusal of those in clear."""
    found = [candidate for peer in peers if (candidate := peer.adj_in.candidate(prefix)) is not None]
    hidden = clear == CLOSED or (clear == PROTECTED and any(one.path.connection for one in found))
    reasons = {one.path.neighbor: clear for one in found if hidden and not one.path.connection}
    for one in found:
        if clear == PROTECTED and not one.path.connection and is_of_a_gateway(one.path):
            reasons[one.path.neighbor] = ANOTHER_S
        if next_hops.leads_nowhere(one.path):
            reasons[one.path.neighbor] = f"next hop {one.path.next_hop} is not reachable"
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
            instance=instance,
            accepted=not entry.rejected,
        )
