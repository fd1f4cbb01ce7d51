"""One routing instance: neighbors that share a loc-RIB, what of it is to be decided, and what each of them is told.

Instances hear nothing of one another, so two customers may use the same prefixes. No sessions and no ExaBGP here; those
are the speaker's, which owns all instances. Prefixes that wait to be decided are taken in slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from gateway.bgp import views
from gateway.bgp.attraction import Attraction
from gateway.bgp.decision import select
from gateway.bgp.events import Attract, BestChanged, Close, FollowNextHop, LimitCrossed, NextHop, RouteStatus, Shutdown
from gateway.bgp.limits import watch_out
from gateway.bgp.next_hops import NextHops
from gateway.bgp.path import Path
from gateway.bgp.peer import Peer
from gateway.bgp.rib import Candidate, LocRib
from gateway.bgp.settings import InstanceSettings, Prefix, Role, SpeakerSettings
from gateway.bgp.underlay import Underlay, halves, is_of_a_gateway


class Instance:
    """`peers` by name; the speaker puts them here. `draining`: nobody is told anything any more; `attraction`: of a pair."""

    def __init__(self, name: str, *, draining: bool = False, attraction: Attraction | None = None) -> None:
        self.name = name
        self.loc_rib = LocRib()
        self.peers: dict[str, Peer] = {}
        self.draining = draining
        self.attraction = attraction
        self.underlay = Underlay()
        self.settings = InstanceSettings(name)
        self._local_as = 0
        self.next_hops = NextHops(name)
        self._undecided: dict[Prefix, None] = {}  # a set in order of insertion
        self._waiting: set[Prefix] = set()  # to be decided as soon as their next hops are known
        self._closed: set[Prefix] = set()  # to which only paths in tunnels are used
        self._untold: set[Prefix] = set()  # what is announced may differ though the best path does not

    @property
    def undecided(self) -> int:
        """How many prefixes can be decided."""
        return len(self._undecided)

    @property
    def settled(self) -> bool:
        """Whether everything is decided."""
        return not self._undecided and not self._waiting

    def adopt(self, settings: InstanceSettings, local_as: int) -> None:
        self.settings, self._local_as = settings, local_as

    def recompute(self, prefixes: Iterable[Prefix]) -> None:
        """The candidates for these are others now."""
        self._undecided.update(dict.fromkeys(prefixes))

    def tell_anew(self, prefixes: Iterable[Prefix]) -> None:
        """What is announced for these may be another thing, whether or not the best path is."""
        known = dict.fromkeys(prefixes)
        self._undecided.update(known)
        self._untold.update(known)

    def tell_again(self) -> None:
        """What is announced may be other than it was for every prefix there is: own ones first, then what has been told
        before what has not, so that a full budget is filled as it was."""
        known: dict[Prefix, None] = {}
        for peer in self.peers.values():
            known.update(dict.fromkeys((*peer.outbound.standing(), *peer.adj_out.wanted, *peer.adj_out.held)))
        known.update(dict.fromkeys(self.loc_rib.best))
        self.tell_anew(known)

    def command(self, command: Close | NextHop | Shutdown | Attract) -> None:
        match command:
            case NextHop():
                self.recompute(self.next_hops.learn(command.address, command.reached))
            case Close():
                self._close(command)
            case Shutdown():
                self.draining = True
                self.tell_again()
            case Attract(attraction):
                self.attraction = attraction
                for peer in self.peers.values():
                    peer.outbound.attraction = attraction
                self.tell_again()

    def _close(self, command: Close) -> None:
        change = self._closed.update if command.closed else self._closed.difference_update
        change(command.prefixes)
        # Where nobody offers a path in clear, as for most of what a tunnel taught us, nothing is to be decided anew
        clear = [peer.adj_in.entries for peer in self.peers.values() if not peer.settings.connection]
        self.recompute(prefix for prefix in command.prefixes if any(prefix in entries for entries in clear))

    def decide_some(self, limit: int, max_paths: int) -> Iterator[BestChanged | FollowNextHop | LimitCrossed]:
        """At most so many prefixes; and what must be known for them."""
        for prefix in list(islice(self._undecided, limit)):
            del self._undecided[prefix]
            candidates = self._candidates(prefix)
            if self.next_hops and not self.draining and not self.next_hops.known(candidates):
                self._waiting.add(prefix)
                continue
            if self._waiting:
                self._waiting.discard(prefix)
            best = select(candidates, max_paths)
            another, changed = self.loc_rib.replace(prefix, best)
            if changed and best is None:
                yield BestChanged(prefix, None, instance=self.name)
            elif changed and best is not None:
                yield BestChanged(prefix, best.path, best.others, best.backup, self.name)
            concerned = self._meets_underlay(prefix)
            if len(concerned) > 1:
                self.tell_anew(one for one in concerned if one != prefix)
            if another or concerned or prefix in self._untold:
                self._untold.discard(prefix)
                yield from self._announce(prefix)
        yield from self.next_hops.asks()

    def best(self) -> Iterator[BestChanged]:
        """Every best path there is, as if it were new."""
        for prefix, one in self.loc_rib.best.items():
            yield BestChanged(prefix, one.path, one.others, one.backup, self.name)

    def best_of(self, prefix: Prefix) -> tuple[Path | None, Role | None]:
        """The path that may be told to others, and the side it was learned on."""
        best = self.loc_rib.best.get(prefix)
        # Not yet decided anew, it may be of a neighbor that is configured no longer
        peer = self.peers.get(best.path.neighbor) if best is not None else None
        if best is None or peer is None or peer.adj_in.unreachable:
            return None, None
        return best.path, peer.role

    def carried(self, peer: Peer) -> list[Prefix]:
        """Protected prefixes that the neighbor's side would carry in clear, for it is told nothing longer."""
        carried, told = self.underlay.carried(peer.name), peer.adj_out.wanted
        return [one for one in carried if not (parts := halves(one)) or not all(part in told for part in parts)]

    def paths_status(self, prefix: Prefix) -> Iterator[RouteStatus]:
        """Every path to one prefix, see views.py."""
        refusal = views.refusal(prefix, self._closed, self.settings.protected_set)
        return views.paths(prefix, tuple(self.peers.values()), self.loc_rib, self.next_hops, refusal, self.name)

    def routes_status(self, limit: int | None = None) -> Iterator[RouteStatus]:
        """Every path, with why it is or is not used, see views.py."""
        closed, protected = self._closed, self.settings.protected_set
        return views.routes(self.peers.values(), self.loc_rib, closed, self.next_hops, limit, self.name, protected)

    def _candidates(self, prefix: Prefix) -> list[Candidate]:
        # Of a session that lives everything is a plain look-up: ten thousand times for every neighbor
        found = [
            candidate
            for peer in self.peers.values()
            if prefix in peer.adj_in.entries and (candidate := peer.adj_in.candidate(prefix)) is not None
        ]
        if self.next_hops or not all(one.path.connection for one in found):
            self.next_hops.note(prefix, found)
        return self.eligible(prefix, found)

    def eligible(self, prefix: Prefix, found: list[Candidate]) -> list[Candidate]:
        """Those of the paths to `prefix` among which is chosen."""
        if self.next_hops:
            # RFC 4271 9.1.2: not if its NEXT_HOP is not resolvable
            found = [one for one in found if not self.next_hops.leads_nowhere(one.path)]
        if prefix in self._closed:
            return [one for one in found if one.path.connection]
        if any(is_of_a_gateway(one.path) for one in found) and self.settings.protected_set.covers(prefix):
            # Each has its own tunnel; told to the site it would draw the site's own traffic here
            found = [one for one in found if one.path.connection or not is_of_a_gateway(one.path)]
        if len(found) > 1 and self.settings.protected_set.covers(prefix):
            # The FIB would refuse a path in clear, and then there is none
            return [one for one in found if one.path.connection] or found
        return found

    def _meets_underlay(self, prefix: Prefix) -> Sequence[Prefix]:
        """Where other neighbors than before would carry a protected prefix themselves: what that changes something for."""
        if not self.settings.protected_set.covers(prefix):
            return self.underlay.notice(prefix, {}) if self.underlay else ()
        found = {
            peer.name: entry.path.as_path[-1] if entry.path.as_path else entry.path.peer_as
            for peer in self.peers.values()
            if peer.role is Role.FABRIC
            and (entry := peer.adj_in.entries.get(prefix)) is not None
            and self._local_as not in entry.path.as_path  # our own announcement, come back
            and not is_of_a_gateway(entry.path)
        }
        return self.underlay.notice(prefix, found)

    def _announce(self, changed: Prefix) -> Iterator[LimitCrossed]:
        version, (path, role) = changed.version, self.best_of(changed)
        for peer in self.peers.values():
            outbound = peer.outbound
            if outbound.version != version:
                continue  # the session carries one family
            if outbound.plain:
                told = None if self.draining else outbound.attracting(outbound.exported(changed, path, role))
                if told is not None or changed in peer.adj_out:
                    peer.adj_out.want(changed, told, essential=outbound.essential(changed))
            else:
                for prefix in outbound.about(changed):
                    wanted = None if self.draining else outbound.told(prefix)
                    peer.adj_out.want(prefix, wanted, essential=outbound.essential(prefix))
            if peer.adj_out.budget or peer.level_out:
                yield from watch_out(peer)


def regrouped(before: Mapping[str, Instance], peers: Iterable[Peer], settings: SpeakerSettings) -> dict[str, Instance]:
    """The instances there shall be, still without their neighbors; all that these taught us is decided anew. What becomes
    of the routes of an instance that goes is its FIB's to say."""
    first = before.get("") or Instance("")
    instances = {
        name: before.get(name) or Instance(name, draining=first.draining, attraction=first.attraction)
        for name in ("", *(i.name for i in settings.instances))
    }
    for name, instance in instances.items():
        instance.peers = {}
        instance.adopt(settings.instances_by_name[name], settings.local_as)
        instance.next_hops.ask_again()
        instance.recompute(instance.loc_rib.best)
    for peer in peers:
        if peer.settings.instance in instances:
            instances[peer.settings.instance].recompute(peer.adj_in.entries)
    return instances
