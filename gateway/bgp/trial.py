"""A dry run: what other settings of one neighbor would make of the routes there are. Nothing is changed.

    import   every path of its adj-RIB-in, as received, judged as it would be; and who would have the best path then
    export   every prefix it is told or could be told, out of the loc-RIB as it is now

Not foreseen: what an import that changes would make others be told, the limits of prefixes, and paths that were refused
and not kept. Generators give one verdict a prefix, so that whoever asks may take a table of thousands in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.bgp.decision import decide
from gateway.bgp.instance import Instance
from gateway.bgp.outbound import Outbound
from gateway.bgp.path import Announcement, Path
from gateway.bgp.peer import Peer
from gateway.bgp.policy import accept, export_rule, import_rule
from gateway.bgp.prefixes import Prefix
from gateway.bgp.rib import Candidate
from gateway.bgp.settings import NeighborSettings, SpeakerSettings


@dataclass(frozen=True, slots=True)
class Side:
    """Settings on trial, or those in force."""

    settings: SpeakerSettings
    neighbor: NeighborSettings


@dataclass(frozen=True, slots=True)
class Verdict:
    """One prefix. `outcome`: same, accepted (is not now), rejected (is accepted now), changed; "": nothing to say yet, but
    time went by. The reasons name the rule that decides, then and now; `changes` says how the route would differ, `best`
    whose path would be used instead of whose."""

    prefix: str
    outcome: str
    reason: str = ""
    reason_now: str = ""
    changes: tuple[str, ...] = ()
    best: str = ""
    best_now: str = ""


def imports(instance: Instance, peer: Peer, now: Side, then: Side) -> Iterator[Verdict]:
    """What `then` would make of what the neighbor teaches us."""
    for prefix in tuple(peer.adj_in.entries):
        peer.adj_in.candidate(prefix)  # after a reload its verdict may be of another policy until somebody asks
        entry = peer.adj_in.entries.get(prefix)
        if entry is None:
            continue  # gone meanwhile
        used, rejected = accept(then.settings, then.neighbor, entry.path)
        if bool(rejected) == bool(entry.rejected) and (rejected or used == entry.used):
            yield Verdict(str(prefix), "same")
            continue
        yield Verdict(
            str(prefix),
            _outcome(not entry.rejected, not rejected),
            rejected or import_rule(then.neighbor, entry.path),
            entry.rejected or import_rule(now.neighbor, entry.path),
            () if rejected or entry.rejected else tuple(_path_changes(entry.used, used)),
            _best(instance, peer, prefix, None if rejected else used),
            _best(instance, peer, prefix, None if entry.rejected else entry.used),
        )


def exports(instance: Instance, peer: Peer, now: Side, then: Side) -> Iterator[Verdict]:
    """What `then` would tell the neighbor."""
    attraction = peer.outbound.attraction
    outbound = Outbound(then.settings, then.neighbor, instance.best_of, instance.underlay, attraction)
    best = tuple(instance.loc_rib.best)
    for prefix in best:
        if prefix.version == outbound.version and not outbound.plain:
            for _ in outbound.about(prefix):
                pass  # who contributes to which aggregate
            yield Verdict(str(prefix), "")
    told = (*outbound.standing(), *peer.outbound.standing(), *peer.adj_out.wanted, *peer.adj_out.held, *best)
    for prefix in dict.fromkeys(told):
        if prefix.version == outbound.version:
            yield _exported(instance, prefix, (now, peer.outbound), (then, outbound))


def _exported(instance: Instance, prefix: Prefix, now: tuple[Side, Outbound], then: tuple[Side, Outbound]) -> Verdict:
    before, after = now[1].told(prefix), then[1].told(prefix)
    if before == after:
        return Verdict(str(prefix), "same")
    changes = () if before is None or after is None else tuple(_changes(_told(before), _told(after)))
    return Verdict(
        str(prefix),
        _outcome(before is not None, after is not None),
        _why(instance, prefix, *then),
        _why(instance, prefix, *now),
        changes,
    )


def _why(instance: Instance, prefix: Prefix, side: Side, outbound: Outbound) -> str:
    best, source = instance.best_of(prefix)
    if outbound.exported(prefix, best, source) is None and outbound.told(prefix) is not None:
        return "stands for other routes"
    if outbound.exported(prefix, best, source) is not None and outbound.told(prefix) is None:
        return "part of an aggregate"
    return export_rule(side.settings, side.neighbor, prefix, best, source)


def _outcome(before: bool, after: bool) -> str:
    return "changed" if before and after else "accepted" if after else "rejected"


def _best(instance: Instance, peer: Peer, prefix: Prefix, used: Path | None) -> str:
    """The neighbor whose path to `prefix` is best when `peer` has this one."""
    found = [
        candidate
        for one in instance.peers.values()
        if one is not peer and (candidate := one.adj_in.candidate(prefix)) is not None
    ]
    if used is not None:
        found.append(Candidate(used, peer.adj_in.unreachable or prefix in peer.adj_in.lost))
    found = instance.eligible(prefix, found)
    return decide(found)[0].path.neighbor if found else ""


def _path_changes(before: Path, after: Path) -> Iterator[str]:
    old, new = before.attributes, after.attributes
    return _changes(
        (before.next_hop, old.as_path, old.med, old.local_preference, old.communities + old.large_communities),
        (after.next_hop, new.as_path, new.med, new.local_preference, new.communities + new.large_communities),
    )


def _told(one: Announcement) -> tuple[object, ...]:
    return (one.next_hop, one.as_path, one.med, one.local_preference, one.communities + one.large_communities)


_NAMES = ("next hop", "AS path", "MED", "local preference", "communities")


def _changes(before: tuple[object, ...], after: tuple[object, ...]) -> Iterator[str]:
    for name, old, new in zip(_NAMES, before, after, strict=True):
        if old != new:
            yield f"{name} {_text(old)} -> {_text(new)}"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
