"""The FIB: what our routing table must hold, what it holds, and the operations between the two.

Sans-IO and deterministic. It takes the configuration's static routes, BGP's best routes, the state of
connections and the protected prefixes; it emits `RouteOps`, and learns from `Applied` and `Reconcile`
what the kernel made of them. It does not choose between BGP paths (bgp/decision.py) and speaks no netlink
(runtime/netlink.py).

    commands --> candidates --> chosen target --> desired entries --+
                                                                    +--> plan --> RouteOps --> kernel
    Applied, Reconcile, InterfaceGone ----------> mirror -----------+

One batch or dump is under way at a time. A start reads the kernel first: the guard an earlier process left
stays in force, its routes stay as *stale* until `Sweep`. Failed operations are retried after a fresh dump.

Three rules keep protected prefixes out of clear text: the guard precedes everything (guard.py); a route
to the underlay inside a protected prefix is refused; a connection that is down or has lost its device
keeps its routes, as blackholes. The last holds for every prefix routed into a tunnel, for as long as it is: where
no protected prefix covers it, it has a blackhole of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeGuard

from gateway.routing.candidates import Candidates
from gateway.routing.dirty import Dirty
from gateway.routing.guard import GUARD_METRIC, Guard, guard
from gateway.routing.kept import FULL, Kept, closed
from gateway.routing.mirror import Mirror
from gateway.routing.model import (
    EEXIST,
    ENOENT,
    ESRCH,
    Address,
    Applied,
    Command,
    ConnectionAdded,
    ConnectionDown,
    ConnectionGone,
    ConnectionUp,
    DumpRequest,
    Effect,
    Entry,
    FibSettings,
    FibStatus,
    Forget,
    Group,
    InterfaceChanged,
    InterfaceGone,
    Keep,
    Key,
    Liveness,
    Nexthop,
    NextHopResolved,
    OpError,
    Prefix,
    PrefixState,
    Reconcile,
    RemoveRoute,
    Resolve,
    Resync,
    Route,
    RouteKind,
    RouteOps,
    SetProtected,
    SetRoute,
    SetThrows,
    Sweep,
    Target,
    Verb,
    ViaConnection,
    ViaNextHop,
    encrypts,
    members_of,
)
from gateway.routing.plan import Exposure, Stage, plan, rank
from gateway.routing.targets import Connection, Targets
from gateway.routing.usage import Usage


class Fib:
    """Desired against installed, for one routing table."""

    def __init__(self, settings: FibSettings | None = None) -> None:
        self._settings = settings or FibSettings()
        self._targets = Targets(self._settings.first_id)
        self._candidates = Candidates()
        self._chosen: dict[Prefix, Target] = {}
        self._usage = Usage()
        self._refused: dict[Prefix, str] = {}
        self._protected: frozenset[Prefix] | None = None
        self._throws = SetThrows()
        self._guard: Guard = guard(())
        self._guarding: dict[Key, Route] = {}  # its entries, and those of what is kept
        self.kept = Kept()
        self._desired: dict[Key, Entry] = {}
        self._mirror = Mirror()
        self._dirty = Dirty()
        self._guard_dirty: dict[Key, None] = {}  # of these: entries of the guard
        self._stale: set[Key] = set()
        self._failed: dict[Key, OpError] = {}
        self._to_resolve: dict[Address, None] = {}
        self._under_way: RouteOps | DumpRequest | None = None
        self._ticket = 0
        self._dump_wanted = True
        self._synchronised = False  # the first dump has been read
        self._swept = False
        # After the first dump: what is still to be compared, in this order
        self._unguarded: deque[Key] = deque()
        self._unchosen: dict[Prefix, None] = {}  # a set in order of insertion
        self._now = 0.0
        self._retry_at: float | None = None
        self._status: FibStatus | None = None  # until something happens

    def command(self, command: Command, now: float) -> None:
        """Intent, news from the kernel, or the answer to an effect."""
        self._status = None
        self._now = now
        if isinstance(command, Applied):
            self._applied(command, now)
        else:
            _COMMANDS[type(command)](self, command)

    def poll(self) -> Iterator[Effect]:
        """What must happen; poll again after every command and deadline."""
        while self._to_resolve:
            address = next(iter(self._to_resolve))
            del self._to_resolve[address]
            yield Resolve(address)
        # Nothing is taken from the kernel before it is known whether it is wanted
        if self._under_way is None and self._protected is not None and not self._comparing:
            self._under_way = self._next_step()
            if self._under_way is not None:
                yield self._under_way

    def next_deadline(self) -> float | None:
        return self._now if self._comparing else self._retry_at

    def handle_deadline(self, now: float) -> None:
        """Go on with the first comparison; try again what failed, from a fresh view of the kernel."""
        self._now = now
        if self._comparing:
            self._status = None
            self._compare_some()
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._status = None
            failed, self._failed = self._failed, {}
            for key in failed:
                self._mark(key)
            self._dump_wanted = True

    def status(self) -> FibStatus:
        """Counts for metrics; sentences for the operator."""
        if self._status is None:
            self._status = self._counted()
        return self._status

    def _counted(self) -> FibStatus:
        differing = [key[0] for key in self._dirty if self._routes(key)]
        failed = sum(bool(self.state(prefix).error) for prefix in differing) if self._failed else 0
        missing = self._guard_missing()
        problems = [*self._guard.conflicts, *([FULL] if self.kept.full else [])]
        problems += [
            f"clear-text guard: {r.kind.name.lower()} {r.prefix} is not installed: {self._why(r.key)}" for r in missing
        ]
        return FibStatus(
            desired=len(self._candidates),
            installed=len(self._chosen) - len(differing),
            failed=len(self._refused) + failed,
            stale=len(self._stale),
            guard=len(self._guarding) - len(self._guard_dirty),
            guard_missing=len(missing),
            kept=len(self.kept),
            problems=tuple(problems),
        )

    def _routes(self, key: Key) -> TypeGuard[tuple[Prefix, int]]:
        """Whether it is the entry of a chosen route."""
        return isinstance(key, tuple) and key[1] == self._settings.metric and key[0] in self._chosen

    def state(self, prefix: Prefix) -> PrefixState:
        """Is the route for `prefix` in the kernel as wanted, and if not, why."""
        target = self._chosen.get(prefix)
        if target is None:
            return PrefixState(False, None, self._refused.get(prefix, ""))
        key = (prefix, self._settings.metric)
        wanted = self._desired.get(key)
        installed = wanted is not None and self._mirror.entry(key) == wanted
        return PrefixState(installed, target, "" if installed else self._error(key, target, prefix.version))

    @property
    def guard_entries(self) -> tuple[Route, ...]:
        """What must be in the kernel whether or not we run."""
        return tuple(self._guarding.values())

    @property
    def guard_complete(self) -> bool:
        """Whether the kernel is known to hold every entry of the guard."""
        return self._synchronised and not self._comparing and not self._guard_dirty

    @property
    def synchronised(self) -> bool:
        """Whether the kernel has been read since the start."""
        return self._synchronised

    # Commands.

    def _connection_added(self, command: ConnectionAdded) -> None:
        connection = self._targets.connections.setdefault(command.name, Connection())
        connection.interface = command.interface
        self._target_changed(ViaConnection(command.name))

    def _connection_up(self, command: ConnectionUp) -> None:
        self._targets.connections.setdefault(command.name, Connection()).up = True
        self._target_changed(ViaConnection(command.name))

    def _connection_down(self, command: ConnectionDown) -> None:
        self._targets.connections.setdefault(command.name, Connection()).up = False
        self._target_changed(ViaConnection(command.name))

    def _connection_gone(self, command: ConnectionGone) -> None:
        self._targets.connections.pop(command.name, None)
        self._targets.failing.discard(ViaConnection(command.name))
        self._target_changed(ViaConnection(command.name))

    def _liveness(self, command: Liveness) -> None:
        if (command.target in self._targets.failing) is command.works:
            self._targets.failing ^= {command.target}
            self._target_changed(command.target)

    def _set_route(self, command: SetRoute) -> None:
        replaced = self._candidates.put(command)
        for member in members_of(command.target):
            if isinstance(member, ViaNextHop) and member.address not in self._targets.next_hops:
                self._targets.next_hops[member.address] = None
                self._to_resolve[member.address] = None
        self._choose(command.prefix)
        if replaced is not None:
            self._release(replaced)

    def _remove_route(self, command: RemoveRoute) -> None:
        removed = self._candidates.take(command.prefix, command.source)
        if removed is not None:
            self._choose(command.prefix)
            self._release(removed)

    def _set_protected(self, command: SetProtected) -> None:
        if command.prefixes != self._protected:
            self._protected = command.prefixes
            self._guard_changed()

    def _keep_all(self, command: Keep) -> None:
        for prefix in command.prefixes:
            self.kept.add(prefix)
        self._guard_changed()

    def _forget(self, command: Forget) -> None:
        gone = self.kept.forget(command.prefixes)
        self._guard_changed()
        for prefix in gone:
            self._choose(prefix)

    def _set_throws(self, command: SetThrows) -> None:
        if command != self._throws:
            self._throws = command
            self._guard_changed()

    def _next_hop_resolved(self, command: NextHopResolved) -> None:
        if command.address in self._targets.next_hops:
            self._targets.next_hops[command.address] = command.resolution
            self._target_changed(ViaNextHop(command.address))

    def _interface_gone(self, command: InterfaceGone) -> None:
        for key in self._mirror.drop_interface(command.interface):
            self._stale.discard(key)
            self._mark(key)
        for name, connection in self._targets.connections.items():
            if connection.interface == command.interface:
                connection.interface = 0
                self._target_changed(ViaConnection(name))
        for address, resolution in list(self._targets.next_hops.items()):
            if resolution is not None and resolution.interface == command.interface:
                self._targets.next_hops[address] = None
                self._to_resolve[address] = None
                self._target_changed(ViaNextHop(address))
        # The kernel may not be through with it, and a batch under way may have met it halfway.
        self._dump_wanted = True

    def _interface_changed(self, command: InterfaceChanged) -> None:
        self._to_resolve.update(dict.fromkeys(self._targets.next_hops))
        self._dump_wanted = True

    def _resync(self, command: Resync) -> None:
        self._dump_wanted = True

    def _sweep(self, command: Sweep) -> None:
        self._swept = True
        stale, self._stale = self._stale, set()
        for key in stale:
            self._mark(key)

    def _applied(self, command: Applied, now: float) -> None:
        if not isinstance(self._under_way, RouteOps) or command.ticket != self._under_way.ticket:
            return
        operations, self._under_way = self._under_way, None
        touched: dict[Target, None] = {}
        for position, op in enumerate(operations.ops):
            key, error = op.entry.key, command.errors.get(position)
            deleting = op.verb is Verb.DELETE
            if error is None or (deleting and error.number in (ENOENT, ESRCH)):
                for gone in self._mirror.drop(key) if deleting else ():
                    self._mark(gone)
                if not deleting:
                    self._mirror.put(op.entry)
                    self._mark(key)
                owner = self._targets.owner(key) if isinstance(key, int) else None
                if owner is not None:
                    touched[owner] = None
            else:
                self._fail(key, error, now)
        for target in touched:
            self._refresh_all(target)

    def _reconcile(self, command: Reconcile) -> None:
        if not isinstance(self._under_way, DumpRequest) or command.ticket != self._under_way.ticket:
            return
        self._under_way = None
        changed = self._mirror.load(command.dump.entries)
        first, self._synchronised = not self._synchronised, True
        self._stale.intersection_update(self._mirror)
        if first:
            self._targets.avoid(command.dump.used_ids)
            self._unchosen = dict.fromkeys(self._candidates)
            self._guard_changed()
            self._compare_some()
        owners = {self._targets.owner(key) for key in changed if isinstance(key, int)}
        for target in [owner for owner in owners if owner is not None]:
            self._refresh_all(target)
        for key in changed:
            if first and not self._swept and key not in self._desired and self._may_stay(key):
                self._stale.add(key)
            else:
                self._mark(key)
        for key in [key for key in self._failed if key in self._mirror or key not in self._desired]:
            del self._failed[key]

    # From candidates to desired entries.

    @property
    def _comparing(self) -> bool:
        return bool(self._unguarded or self._unchosen)

    def _compare_some(self) -> None:
        """Of thousands at a start only so many at a time: whoever runs this has other things to do in between."""
        for _ in range(min(self._settings.slice, len(self._unguarded))):
            key = self._unguarded.popleft()
            self._want(key, self._guarding.get(key))
        if not self._unguarded:
            for prefix in list(islice(self._unchosen, self._settings.slice)):
                del self._unchosen[prefix]
                self._choose(prefix)

    def _choose(self, prefix: Prefix) -> None:
        """Pick the target of one prefix: usable ones first, then by distance, then by name."""
        if not self._synchronised:
            return  # ids are assigned after the first dump
        if self._refused:
            self._refused.pop(prefix, None)
        chosen: SetRoute | None = None
        for candidate in sorted(self._candidates.of(prefix), key=self._rank):
            refusal = self._refusal(candidate)
            if not refusal:
                chosen = candidate
                break
            self._refused.setdefault(prefix, refusal)
        if chosen is not None and self._refused:
            self._refused.pop(prefix, None)
        if chosen is not None and chosen.keep and encrypts(chosen.target) and not self._guard.protects(prefix):
            self._keep(prefix)
        self._point(prefix, chosen.target if chosen else None)

    def _keep(self, prefix: Prefix) -> None:
        if self.kept.add(prefix):
            entry = closed(prefix)
            self._guarding[entry.key] = entry
            self._want(entry.key, entry)

    def _rank(self, candidate: SetRoute) -> tuple[bool, bool, int, str]:
        target = candidate.target
        return (not self._targets.usable(target), not self._targets.works(target), candidate.distance, candidate.source)

    def _refusal(self, candidate: SetRoute) -> str:
        prefix = candidate.prefix
        if not encrypts(candidate.target) and (prefix in self.kept or self._guard.protects(prefix)):
            hops = ", ".join(str(one.address) for one in members_of(candidate.target) if isinstance(one, ViaNextHop))
            why = (
                f", since a tunnel led there (`gatewayctl guard forget {prefix}` ends it)"
                if prefix in self.kept
                else ""
            )
            return f"{prefix} is protected{why}: next hop {hops} would send it in clear"
        return self._targets.refusal(candidate.target, candidate.prefix.version)

    def _point(self, prefix: Prefix, target: Target | None) -> None:
        before = self._chosen.pop(prefix, None)
        if target is not None:
            self._chosen[prefix] = target
            for changed in self._usage.use(prefix, target, prefix.version):
                self._refresh(changed)
        metric = self._settings.metric
        route = (
            Route(prefix, metric, RouteKind.UNICAST, self._targets.group(target, prefix.version)) if target else None
        )
        self._want((prefix, metric), route)
        self._shadow(prefix, target)
        if before is not None and before != target:
            for changed in self._usage.leave(prefix, before, prefix.version):
                self._refresh(changed)

    def _shadow(self, prefix: Prefix, target: Target | None) -> None:
        """A blackhole under a route into a tunnel that no protected prefix covers. The kernel drops that route together
        with its TUN, and while nobody withdrew it, its packets have no other way."""
        if prefix in self.kept or prefix in (self._protected or ()):
            return  # the guard's own
        covered = not encrypts(target) or self._guard.protects(prefix)
        self._want((prefix, GUARD_METRIC), None if covered else closed(prefix))

    def _target_changed(self, target: Target) -> None:
        self._refresh(target)
        refused = {family: bool(self._targets.refusal(target, family)) for family in (4, 6)}
        for prefix in self._candidates.through(target):
            if self._chosen.get(prefix) != target or len(self._candidates.of(prefix)) > 1 or refused[prefix.version]:
                self._choose(prefix)
        for tiers in self._candidates.tiers_of(target):
            self._target_changed(tiers)

    def _refresh(self, target: Target) -> None:
        """Bring the desired nexthop objects of one target up to date, both families."""
        if not self._synchronised:
            return
        for family in (4, 6):
            wanted: dict[Key, Entry] = {}
            if self._usage.needed(target, family):
                grouped = self._usage.grouped(target, family)
                objects = self._targets.objects(target, family, self._present)
                wanted = {entry.key: entry for entry in objects if grouped or not isinstance(entry, Group)}
            self._want_objects(target, family, wanted)

    def _present(self, nexthop: Nexthop) -> bool:
        return self._mirror.entry(nexthop.id) == nexthop

    def _refresh_all(self, target: Target) -> None:
        """And of what it is a part of."""
        self._refresh(target)
        for tiers in self._candidates.tiers_of(target):
            self._refresh(tiers)

    def _want_objects(self, target: Target, family: int, wanted: dict[Key, Entry]) -> None:
        known = self._targets.known(target, family)
        for key in known:
            self._want(key, wanted.get(key))
        if isinstance(target, ViaConnection) and known:
            blackhole = self._targets.blackhole(family)
            self._want(blackhole.id, blackhole if self._usage.in_tunnels[family] else None)

    def _guard_changed(self) -> None:
        if not self._synchronised:
            return  # the first dump asks for all of it
        self._guard = guard(self._protected or (), self._throws.connected, self._throws.endpoints)
        before, entries = self._guarding, {route.key: route for route in self._guard.routes}
        self._guarding = self.kept.entries() | entries
        touched = before.keys() | self._guarding.keys()
        if self._unchosen:
            self._unguarded.extend(touched)
        else:
            for key in touched:
                self._want(key, self._guarding.get(key))
            for prefix in self._candidates:
                self._choose(prefix)
        for key in [key for key in self._stale if not self._may_stay(key)]:
            self._stale.discard(key)
            self._mark(key)
        # What leaks is another question now
        for key in [key for key in self._dirty if key not in self._desired]:
            self._mark(key)

    # From desired entries to operations.

    def _next_step(self) -> RouteOps | DumpRequest | None:
        self._ticket += 1
        if self._dump_wanted:
            self._dump_wanted = False
            return DumpRequest(self._ticket)
        if not self._dirty:
            return None
        keys = (key for key in self._dirty if key not in self._failed) if self._failed else self._dirty
        ops = plan(keys, self._desired, self._mirror, self._exposure(), self._settings.batch)
        return RouteOps(self._ticket, ops) if ops else None

    def _want(self, key: Key, entry: Entry | None) -> None:
        before = self._desired.get(key)
        if entry is None:
            self._desired.pop(key, None)
        elif before != entry:
            self._desired[key] = entry
        # A prefix is slow to hash: what is usually empty is not asked
        if before != entry and self._failed:
            self._failed.pop(key, None)
        if entry is not None and self._stale:
            self._stale.discard(key)
        self._compare(key, entry)

    def _mark(self, key: Key) -> None:
        """Dirty if the kernel differs from what is wanted."""
        self._compare(key, self._desired.get(key))

    def _compare(self, key: Key, wanted: Entry | None) -> None:
        present = self._mirror.entry(key)
        differs = present != wanted and not (self._stale and key in self._stale)
        if differs:
            self._dirty.put(key, rank(wanted, present, self._leaks))
        elif self._dirty:
            self._dirty.discard(key)
        if not isinstance(key, int) and key[1] != self._settings.metric:
            if differs and key in self._guarding:
                self._guard_dirty[key] = None
            elif self._guard_dirty:
                self._guard_dirty.pop(key, None)

    def _leaks(self, route: Route) -> bool:
        """An unwanted entry that lets a protected prefix out: to the underlay, or out of our table."""
        if route.kind is RouteKind.BLACKHOLE or not self._guard.protects(route.prefix):
            return False
        return route.kind is RouteKind.THROW or not encrypts(self._targets.owner(route.group))

    def _may_stay(self, key: Key) -> bool:
        """May an earlier process's entry stay until the sweep? Nexthops go when nothing uses them."""
        entry = self._mirror.entry(key)
        if not isinstance(entry, Route) or entry.kind is RouteKind.THROW:
            return False
        return entry.kind is RouteKind.BLACKHOLE or not self._guard.protects(entry.prefix)

    def _fail(self, key: Key, error: OpError, now: float) -> None:
        self._failed[key] = error
        if self._retry_at is None:
            self._retry_at = now + self._settings.retry
        # Something is there that we did not know of: ours after all, or somebody else's. The dump tells.
        if error.number == EEXIST:
            self._dump_wanted = True

    def _error(self, key: Key, target: Target, family: int) -> str:
        if key in self._failed:
            return self._failed[key].text
        for identifier in self._targets.known(target, family):
            if identifier in self._failed:
                return f"its nexthop is not installed: {self._failed[identifier].text}"
        return ""

    def _exposure(self) -> Exposure:
        missing = tuple(route for route in self._guard_missing() if route.kind is RouteKind.BLACKHOLE)
        entries = (self._mirror.entry(key) for key in self._dirty.of_stage(Stage.LEAK_DELETE))
        leaking = [entry for entry in entries if isinstance(entry, Route)]
        return Exposure(missing, self._leaks, frozenset(route.prefix.version for route in (*missing, *leaking)))

    def _guard_missing(self) -> list[Route]:
        return [self._guarding[key] for key in self._guard_dirty]

    def _why(self, key: Key) -> str:
        return self._failed[key].text if key in self._failed else "not yet applied"

    def _release(self, gone: SetRoute) -> None:
        """Forget what no candidate names any more."""
        for address in self._candidates.release(gone):
            self._targets.next_hops.pop(address, None)
            self._to_resolve.pop(address, None)


_COMMANDS: dict[type[Any], Callable[[Fib, Any], None]] = {
    ConnectionAdded: Fib._connection_added,
    ConnectionUp: Fib._connection_up,
    ConnectionDown: Fib._connection_down,
    ConnectionGone: Fib._connection_gone,
    Liveness: Fib._liveness,
    SetRoute: Fib._set_route,
    RemoveRoute: Fib._remove_route,
    SetProtected: Fib._set_protected,
    Keep: Fib._keep_all,
    Forget: Fib._forget,
    SetThrows: Fib._set_throws,
    NextHopResolved: Fib._next_hop_resolved,
    InterfaceGone: Fib._interface_gone,
    InterfaceChanged: Fib._interface_changed,
    Resync: Fib._resync,
    Sweep: Fib._sweep,
    Reconcile: Fib._reconcile,
}
