"""From a difference between desired and installed to operations in an order that is safe at every step.

Exceptions and guard come first and go last; a nexthop before its group before its routes; new routes before
old ones go. Only what would leave in clear is deleted early. A group or nexthop is deleted when nothing in
the kernel uses it any more, so that the kernel never deletes routes along with it. While a blackhole of the
guard is missing or a leak open (an operation failed), nothing of that family is deleted that might stand in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from gateway.routing.dirty import Rank
from gateway.routing.mirror import Mirror
from gateway.routing.model import Entry, Group, Key, Nexthop, Op, Route, RouteKind, Verb


class Stage(IntEnum):
    """The order of operations in a batch."""

    GUARD = 1  # exceptions too: the longest prefix first, so that what lies inside a new entry is in place before it
    LEAK_DELETE = 2
    NEXTHOP = 3
    GROUP = 4
    ROUTE = 5
    ROUTE_DELETE = 6
    GROUP_DELETE = 7
    NEXTHOP_DELETE = 8
    GUARD_DELETE = 9
    THROW_DELETE = 10


_INSTALL = {RouteKind.THROW: Stage.GUARD, RouteKind.BLACKHOLE: Stage.GUARD, RouteKind.UNICAST: Stage.ROUTE}
_DELETE = {
    RouteKind.THROW: Stage.THROW_DELETE,
    RouteKind.BLACKHOLE: Stage.GUARD_DELETE,
    RouteKind.UNICAST: Stage.ROUTE_DELETE,
}


@dataclass(frozen=True, slots=True)
class Exposure:
    """What is not safe yet, and so limits what may be done."""

    missing: tuple[Route, ...]  # blackholes of the guard that are not installed
    leaks: Callable[[Route], bool]  # this installed, unwanted route lets a protected prefix out
    families: frozenset[int]  # 4, 6: where a blackhole is missing or a leak open


def rank(wanted: Entry | None, present: Entry | None, leaks: Callable[[Route], bool]) -> Rank:
    """When it is the turn of a key, of which at least one is not None."""
    if wanted is not None:
        stage = _install_stage(wanted)
        return Rank(stage, -wanted.prefix.prefixlen if stage is Stage.GUARD and isinstance(wanted, Route) else 0)
    assert present is not None
    return Rank(_delete_stage(present, leaks))


def plan(
    keys: Iterable[Key], desired: Mapping[Key, Entry], mirror: Mirror, exposure: Exposure, limit: int
) -> tuple[Op, ...]:
    """At most `limit` operations for these keys, which come by rank."""
    return tuple(_with_their_dependencies(_operations(keys, desired, mirror, exposure), mirror, limit))


def _operations(keys: Iterable[Key], desired: Mapping[Key, Entry], mirror: Mirror, exposure: Exposure) -> Iterator[Op]:
    for key in keys:
        wanted, present = desired.get(key), mirror.entry(key)
        if wanted is not None:
            if not _undermines(wanted, exposure):
                yield Op(Verb.ADD if present is None else Verb.REPLACE, wanted)
        elif present is not None and not (isinstance(key, int) and mirror.in_use(key)):
            exposed = isinstance(present, Route) and present.prefix.version in exposure.families
            if not exposed or _delete_stage(present, exposure.leaks) is Stage.LEAK_DELETE:
                yield Op(Verb.DELETE, present)


def _undermines(entry: Entry, exposure: Exposure) -> bool:
    """An exception around a blackhole that is missing: installed now, it would let that prefix out."""
    return (
        isinstance(entry, Route)
        and entry.kind is RouteKind.THROW
        and entry.prefix.prefixlen < entry.prefix.max_prefixlen
        and any(
            entry.prefix.overlaps(route.prefix) and entry.prefix.prefixlen < route.prefix.prefixlen
            for route in exposure.missing
        )
    )


def _with_their_dependencies(ops: Iterable[Op], mirror: Mirror, limit: int) -> list[Op]:
    """Leaves out what names a nexthop or group that neither exists nor comes earlier in this batch."""
    coming: set[int] = set()
    chosen: list[Op] = []
    for op in ops:
        if len(chosen) == limit:
            break
        if op.verb is not Verb.DELETE:
            if any(identifier not in mirror and identifier not in coming for identifier in _needs(op.entry)):
                continue
            if isinstance(op.entry, Nexthop | Group):
                coming.add(op.entry.id)
        chosen.append(op)
    return chosen


def _needs(entry: Entry) -> tuple[int, ...]:
    if isinstance(entry, Group):
        return entry.members
    return (entry.group,) if isinstance(entry, Route) and entry.group else ()


def _install_stage(entry: Entry) -> Stage:
    if isinstance(entry, Route):
        return _INSTALL[entry.kind]
    return Stage.GROUP if isinstance(entry, Group) else Stage.NEXTHOP


def _delete_stage(entry: Entry, leaks: Callable[[Route], bool]) -> Stage:
    if isinstance(entry, Route):
        return Stage.LEAK_DELETE if leaks(entry) else _DELETE[entry.kind]
    return Stage.GROUP_DELETE if isinstance(entry, Group) else Stage.NEXTHOP_DELETE
