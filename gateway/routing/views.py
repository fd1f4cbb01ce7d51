"""The FIB as people are shown it: every entry of a table with its state, and the way to one address. Changes nothing.

An entry is *installed* when the kernel is known to hold it as wanted, *waiting* before that, *failed* when the kernel
said no, *refused* when it was not even asked for, *stale* when an earlier process left it and nobody asked for it yet.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TypeGuard

from gateway.routing.candidates import Candidates
from gateway.routing.guard import GUARD_METRIC, THROW_METRIC
from gateway.routing.kept import FULL, Kept
from gateway.routing.ledger import Ledger
from gateway.routing.model import (
    Address,
    FibStatus,
    Group,
    Key,
    Prefix,
    PrefixState,
    Route,
    RouteKind,
    Single,
    Target,
    ViaCircuit,
    ViaConnection,
    members_of,
)
from gateway.routing.targets import Targets

INSTALLED, WAITING, FAILED, REFUSED, STALE = "installed", "waiting", "failed", "refused", "stale"
DROPPED = "its tunnel is down: dropped"


@dataclass(frozen=True, slots=True)
class Way:
    """One target of a route. `used`: packets take it now. `circuit`: in clear, by the private circuit beside the connection."""

    connection: str
    next_hop: Address | None
    used: bool
    circuit: bool = False


@dataclass(frozen=True, slots=True)
class TableEntry:
    """`kind`: static, bgp, circuit, circuit-bgp (whoever asked), protected, learned (both blackholes of the guard), shadow (the blackhole
    under a route into a tunnel), throw (back to the main table), earlier (not, or not so, wanted: of an earlier process, or
    about to be replaced). `why`: what is not as it should be, or what becomes of packets when no way is used."""

    prefix: Prefix
    kind: str
    state: str
    metric: int
    ways: tuple[Way, ...] = ()
    why: str = ""

    @property
    def used(self) -> tuple[Way, ...]:
        return tuple(way for way in self.ways if way.used)


@dataclass(frozen=True, slots=True)
class Found:
    """The way to an address: the entry the kernel uses, None: the table says nothing. `over`: matches as long or
    longer that are wanted and not in the kernel. `guard`: the prefix that keeps it from leaving in clear, whether it
    was learned, and whether it yields to a private circuit."""

    entry: TableEntry | None
    over: tuple[TableEntry, ...] = ()
    guard: Prefix | None = None
    learned: bool = False
    yields: bool = False


class View:
    """Over the parts of one FIB. `chosen`, `state` and `yielding` are the FIB's."""

    def __init__(
        self,
        metric: int,
        parts: tuple[Candidates, Targets, Ledger, Kept],
        chosen: Mapping[Prefix, Target],
        state: Callable[[Prefix], PrefixState],
        yielding: Container[Prefix | None],
    ) -> None:
        self._metric = metric
        self._candidates, self._targets, self._ledger, self._kept = parts
        self._chosen = chosen
        self._state = state
        self._yielding = yielding

    def status(self, refused: int, conflicts: Iterable[str]) -> FibStatus:
        """Counts of all there is; `refused` routes have no entry."""
        ledger = self._ledger
        differing = [key[0] for key in ledger.dirty if self._is_route(key)]
        failed = sum(bool(self._state(prefix).error) for prefix in differing) if ledger.failing else 0
        missing = ledger.guard_missing
        problems = [*conflicts, *([FULL] if self._kept.full else [])]
        problems += [
            f"clear-text guard: {route.kind.name.lower()} {route.prefix} is not installed: "
            + (ledger.failure(route.key) or "not yet applied")
            for route in missing
        ]
        return FibStatus(
            desired=len(self._candidates),
            installed=len(self._chosen) - len(differing),
            failed=refused + failed,
            stale=len(ledger.stale),
            guard=len(ledger.guarding) - len(missing),
            guard_missing=len(missing),
            kept=len(self._kept),
            problems=tuple(problems),
        )

    def _is_route(self, key: Key) -> TypeGuard[tuple[Prefix, int]]:
        """Whether it is the entry of a chosen route."""
        return isinstance(key, tuple) and key[1] == self._metric and key[0] in self._chosen

    def entries(self) -> Iterator[TableEntry]:
        """Everything that is wanted in the table, and what is left there of an earlier process; in no order, and to be taken
        in pieces while it changes."""
        for prefix in tuple(self._candidates):
            if (route := self._route(prefix)) is not None:
                yield route
                if (shadow := self._shadow(prefix)) is not None:
                    yield shadow
        for guarding in tuple(self._ledger.guarding.values()):
            yield self._guarding(guarding)
        for key in tuple(self._ledger.stale):
            entry = self._ledger.mirror.entry(key)
            if isinstance(entry, Route):
                yield self._earlier(entry)

    @property
    def forwards(self) -> bool:
        """Whether the kernel is known to hold a route that leads anywhere, whoever asked for it."""
        mirror = self._ledger.mirror
        return any(isinstance(entry := mirror.entry(key), Route) and entry.kind is RouteKind.UNICAST for key in mirror)

    def find(self, address: Address) -> Found:
        """By the longest match, and of these by the lowest metric, as the kernel does it."""
        over: list[TableEntry] = []
        guard: Prefix | None = None
        found: TableEntry | None = None
        for length in range(address.max_prefixlen, -1, -1):
            prefix = _around(address, length)
            if guard is None and self._ledger.guarding.get((prefix, GUARD_METRIC)) is not None:
                guard = prefix
            if found is not None:
                if guard is not None:
                    break
                continue
            found = self._used(prefix)
            wanted = self._route(prefix)
            if wanted is not None and wanted.state in (WAITING, FAILED, REFUSED):
                over.append(wanted)
        return Found(found, tuple(over), guard, guard in self._kept, guard in self._yielding)

    def _used(self, prefix: Prefix) -> TableEntry | None:
        """What the kernel is known to hold for exactly this prefix, the lowest metric first."""
        for metric in (THROW_METRIC, self._metric, GUARD_METRIC):
            held = self._ledger.mirror.entry((prefix, metric))
            if not isinstance(held, Route):
                continue
            if metric != self._metric:
                return self._guarding(held) if held.key in self._ledger.guarding else self._dropping(held)
            route = self._route(prefix)
            return route if route is not None and route.state == INSTALLED else self._earlier(held)
        return None

    def _route(self, prefix: Prefix) -> TableEntry | None:
        """What was asked for, as it is chosen; None: nothing was."""
        asked = self._candidates.of(prefix)
        if not asked:
            return None
        state, target = self._state(prefix), self._chosen.get(prefix)
        if target is None:
            refused = min(asked, key=lambda one: (one.distance, one.source))
            ways = tuple(_way(one, frozenset()) for one in members_of(refused.target))
            standing = REFUSED if state.error else WAITING
            return TableEntry(prefix, refused.source, standing, self._metric, ways, state.error)
        source = min((one.distance, one.source) for one in asked if one.target == target)[1]
        used = self._carrying(self._targets.known(target, prefix.version))
        if isinstance(target, ViaCircuit) and state.installed:
            used = frozenset((target,))
        ways = tuple(_way(one, used) for one in members_of(target))
        standing = INSTALLED if state.installed else FAILED if state.error else WAITING
        why = state.error or ("" if used or not state.installed else DROPPED)
        return TableEntry(prefix, source, standing, self._metric, ways, why)

    def _shadow(self, prefix: Prefix) -> TableEntry | None:
        key = (prefix, GUARD_METRIC)
        wanted = self._ledger.wanted(key)
        if not isinstance(wanted, Route) or key in self._ledger.guarding:
            return None
        return TableEntry(prefix, "shadow", *self._standing(key))

    def _guarding(self, route: Route) -> TableEntry:
        kind = "throw" if route.kind is RouteKind.THROW else "learned" if route.prefix in self._kept else "protected"
        return TableEntry(route.prefix, kind, *self._standing(route.key))

    def _dropping(self, held: Route) -> TableEntry:
        """A blackhole or throw that is no part of the guard: the one under a route, or an earlier process's."""
        kind = "shadow" if self._ledger.wanted(held.key) is not None else "earlier"
        return TableEntry(held.prefix, kind, INSTALLED if kind == "shadow" else STALE, held.metric)

    def _standing(self, key: tuple[Prefix, int] | int) -> tuple[str, int, tuple[Way, ...], str]:
        """State, metric, no ways, and why."""
        error = self._ledger.failure(key)
        state = INSTALLED if self._ledger.installed(key) else FAILED if error else WAITING
        return state, key[1] if isinstance(key, tuple) else 0, (), error

    def _earlier(self, held: Route) -> TableEntry:
        """What the kernel holds and is not, or not so, wanted."""
        used = self._carrying((held.group,))
        ways = tuple(_way(one, used) for one in sorted(used, key=str))
        return TableEntry(held.prefix, "earlier", STALE, held.metric, ways)

    def _carrying(self, groups: tuple[Key, ...]) -> frozenset[Single]:
        """Where the kernel's groups lead now; a blackhole is nowhere."""
        found: set[Single] = set()
        for key in groups:
            group = self._ledger.mirror.entry(key)
            for member in group.members if isinstance(group, Group) else ():
                owner = self._targets.owner(member)
                if owner is not None:
                    found.update(members_of(owner))
        return frozenset(found)


def _way(target: Single, used: frozenset[Single]) -> Way:
    if isinstance(target, ViaCircuit):
        return Way(target.connection, None, target in used, circuit=True)
    if isinstance(target, ViaConnection):
        return Way(target.name, None, target in used)
    return Way("", target.address, target in used)


def _around(address: Address, length: int) -> Prefix:
    return ip_network((address, length), strict=False)
