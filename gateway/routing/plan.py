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
from functools import cache

from gateway.routing.dirty import Rank
from gateway.routing.mirror import Mirror
from gateway.routing.model import Entry, Group, Key, Op, Route, RouteKind, Verb

_ranked = cache(Rank)  # they are few, and asked for with every route


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


_ROUTE = _ranked(Stage.ROUTE, 0)
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
    in_clear: Callable[[Route], bool]  # this route leads out of our table, or to the underlay
    families: frozenset[int]  # 4, 6: where a blackhole is missing or a leak open


def rank(wanted: Entry | None, present: Entry | None, leaks: Callable[[Route], bool]) -> Rank:
    """When it is the turn of a key, of which at least one is not None."""
    if isinstance(wanted, Route):  # nearly all there are
        return _ROUTE if wanted.kind is RouteKind.UNICAST else _ranked(Stage.GUARD, -wanted.prefix.prefixlen)
    if wanted is not None:
        return _ranked(Stage.GROUP if isinstance(wanted, Group) else Stage.NEXTHOP, 0)
    assert present is not None
    return _ranked(_delete_stage(present, leaks), 0)


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
    """A way in clear around a blackhole that is missing: installed now, it would let that prefix out; the kernel may refuse
    the blackhole though it comes first."""
    return (
        bool(exposure.missing)
        and isinstance(entry, Route)
        and exposure.in_clear(entry)
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
            entry = op.entry
            if isinstance(entry, Route):  # nearly all there are
                if entry.group and entry.group not in mirror and entry.group not in coming:
                    continue
            elif isinstance(entry, Group) and any(one not in mirror and one not in coming for one in entry.members):
                continue
            else:
                coming.add(entry.id)
        chosen.append(op)
    return chosen


def _delete_stage(entry: Entry, leaks: Callable[[Route], bool]) -> Stage:
    if isinstance(entry, Route):
        return Stage.LEAK_DELETE if leaks(entry) else _DELETE[entry.kind]
    return Stage.GROUP_DELETE if isinstance(entry, Group) else Stage.NEXTHOP_DELETE
