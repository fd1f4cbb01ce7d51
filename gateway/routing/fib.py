"""The FIB: what our routing table must hold, what it holds, and the operations between the two.

Sans-IO and deterministic. It takes the configuration's static routes, BGP's best routes, the state of
connections and the protected prefixes; it emits `RouteOps`, and learns from `Applied` and `Reconcile`
what the kernel made of them. It does not choose between BGP paths (bgp/decision.py) and speaks no netlink
(runtime/netlink.py).

    commands --> candidates --> chosen target --> desired entries --+
                                                                    +--> plan --> RouteOps --> kernel
    Applied, Reconcile, InterfaceGone ----------> mirror -----------+

One batch or dump is under way at a time, and a dump is read in slices. A start reads the kernel first: the guard an earlier process left
stays in force, its routes stay as *stale* until `Sweep`. Failed operations are retried after a fresh dump.

Three rules keep protected prefixes out of clear text: the guard precedes everything (guard.py); a route
to the underlay inside a protected prefix is refused; a connection that is down or has lost its device
keeps its routes, as blackholes. The last holds for every prefix routed into a tunnel, for as long as it is: where
no protected prefix covers it, it has a blackhole of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import Any

from gateway.routing.candidates import Candidates
from gateway.routing.guard import GUARD_METRIC, PLATFORM, Guard, guard
from gateway.routing.identifiers import Identifiers
from gateway.routing.kept import Kept, closed
from gateway.routing.ledger import Ledger
from gateway.routing.mirror import Reader
from gateway.routing.model import (
    ENOENT,
    ESRCH,
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
    FollowNextHop,
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
    ViaCircuit,
    ViaConnection,
    ViaNextHop,
    encrypts,
    members_of,
)
from gateway.routing.next_hops import NextHops
from gateway.routing.targets import CROWDED, Connection, Targets
from gateway.routing.usage import Usage
from gateway.routing.views import View


class Fib:
    """Desired against installed, for one routing table."""

    def __init__(self, settings: FibSettings | None = None) -> None:
        self._settings = settings or FibSettings()
        self.next_hops = NextHops()
        ids = Identifiers(self._settings.first_id, self._settings.end_id)
        self._targets = Targets(ids, self.next_hops.ways)
        self._candidates = Candidates()
        self._chosen: dict[Prefix, Target] = {}
        self._usage = Usage()
        self._refused: dict[Prefix, str] = {}
        self._protected: frozenset[Prefix] | None = None
        self._yielding: frozenset[Prefix] = frozenset()
        self._throws = SetThrows()
        self._guard: Guard = guard(())
        self.kept = Kept()
        self._ledger = Ledger(self._settings.metric, self._leaks, self._in_clear)
        self._under_way: RouteOps | DumpRequest | None = None
        self._doubtful: set[int] = set()  # objects that the kernel may or may not hold
        self._ticket = 0
        self._dump_wanted = True
        self._synchronised = False  # the first dump has been read
        self._swept = False
        self._reading: Reader | None = None  # of a dump
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
        yield from self.next_hops.poll()
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
            self._ledger.retry()
            self._dump_wanted = True

    def status(self) -> FibStatus:
        """Counts for metrics; sentences for the operator."""
        if self._status is None:
            self._status = self.view.status(len(self._refused), self._guard.conflicts)
        return self._status

    def state(self, prefix: Prefix) -> PrefixState:
        """Is the route for `prefix` in the kernel as wanted, and if not, why."""
        target = self._chosen.get(prefix)
        if target is None:
            return PrefixState(False, None, self._refused.get(prefix, ""))
        key = (prefix, self._settings.metric)
        installed = self._ledger.installed(key)
        return PrefixState(installed, target, "" if installed else self._error(key, target, prefix.version))

    @property
    def view(self) -> View:
        """The table as people are shown it."""
        parts = (self._candidates, self._targets, self._ledger, self.kept)
        return View(self._settings.metric, parts, self._chosen, self.state, self._yielding)

    @property
    def guard_entries(self) -> tuple[Route, ...]:
        """What must be in the kernel whether or not we run."""
        return tuple(self._ledger.guarding.values())

    @property
    def guard_complete(self) -> bool:
        """Whether the kernel is known to hold every entry of the guard."""
        return self._synchronised and not (self._unguarded or self._unchosen or self._ledger.guard_differs)

    @property
    def table(self) -> int:
        return self._settings.table

    @property
    def settled(self) -> bool:
        """Whether the kernel is known to hold what it shall, and nothing is under way."""
        return self._synchronised and not self._comparing and not self._ledger.dirty and self._under_way is None

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
        if isinstance(command.target, ViaCircuit):
            change = self._targets.circuits.add if command.works else self._targets.circuits.discard
            change(command.target.connection)
            self._target_changed(command.target)
        elif (command.target in self._targets.failing) is command.works:
            self._targets.failing ^= {command.target}
            self._target_changed(command.target)

    def _set_route(self, command: SetRoute) -> None:
        replaced = self._candidates.put(command)
        for member in members_of(command.target):
            if isinstance(member, ViaNextHop):
                self.next_hops.name(member.address)
        self._choose(command.prefix)
        if replaced is not None:
            self._release(replaced)

    def _remove_route(self, command: RemoveRoute) -> None:
        removed = self._candidates.take(command.prefix, command.source)
        if removed is not None:
            self._choose(command.prefix)
            self._release(removed)

    def _set_protected(self, command: SetProtected) -> None:
        if (command.prefixes, command.yielding) != (self._protected, self._yielding):
            self._protected, self._yielding = command.prefixes, command.yielding
            self._guard_changed()

    def _keep_all(self, command: Keep) -> None:
        for prefix in command.prefixes:
            self.kept.add(prefix)
        self._guard_changed()
        for prefix in command.prefixes:
            self._choose(prefix)

    def _forget(self, command: Forget) -> None:
        gone = self.kept.forget(command.prefixes)
        self._guard_changed()
        for prefix in gone:
            self._choose(prefix)

    def _set_throws(self, command: SetThrows) -> None:
        if command != self._throws:
            self._throws = command
            self._guard_changed()

    def _follow_next_hop(self, command: FollowNextHop) -> None:
        self.next_hops.follow(command.address, command.wanted)

    def _next_hop_resolved(self, command: NextHopResolved) -> None:
        if self.next_hops.resolved(command.address, command.resolution):
            self._target_changed(ViaNextHop(command.address))

    def _interface_gone(self, command: InterfaceGone) -> None:
        for key in self._ledger.mirror.drop_interface(command.interface):
            self._ledger.stale.discard(key)
            self._ledger.mark(key)
        for name, connection in self._targets.connections.items():
            if connection.interface == command.interface:
                connection.interface = 0
                self._target_changed(ViaConnection(name))
        for address in self.next_hops.lost(command.interface):
            self._target_changed(ViaNextHop(address))
        # The kernel may not be through with it, and a batch under way may have met it halfway.
        self._dump_wanted = True

    def _interface_changed(self, command: InterfaceChanged) -> None:
        self.next_hops.ask_again()
        self._dump_wanted = True

    def _resync(self, command: Resync) -> None:
        self._dump_wanted = True

    def _sweep(self, command: Sweep) -> None:
        self._swept = True
        self._ledger.give_up_stale(self._ledger.stale)

    def _applied(self, command: Applied, now: float) -> None:
        if not isinstance(self._under_way, RouteOps) or command.ticket != self._under_way.ticket:
            return
        operations, self._under_way = self._under_way, None
        touched: dict[Target, None] = {}
        for position, op in enumerate(operations.ops):
            error = command.errors.get(position) if command.errors else None
            deleting, entry = op.verb is Verb.DELETE, op.entry
            if error is not None and not (deleting and error.number in (ENOENT, ESRCH)):
                self._fail(entry.key, error, now)
                continue
            if deleting:
                for gone in self._ledger.mirror.drop(entry.key):
                    self._ledger.mark(gone)
            else:
                self._ledger.took(entry)
            if not isinstance(entry, Route):
                self._doubtful.discard(entry.id)
                if (owner := self._targets.owner(entry.id)) is not None:
                    touched[owner] = None
        for target in touched:
            self._refresh_all(target)
        self._use_room()

    def _reconcile(self, command: Reconcile) -> None:
        if not isinstance(self._under_way, DumpRequest) or command.ticket != self._under_way.ticket:
            return
        self._under_way = None
        if not self._synchronised:
            self._targets.avoid(command.dump.used_ids)
        self._reading = self._ledger.mirror.reader(filter(self._ours, command.dump.entries))
        self._compare_some()

    def _reconciled(self, changed: Collection[Key]) -> None:
        """The dump is read, and these are others than they were known."""
        self._reading, first, self._synchronised = None, not self._synchronised, True
        self._doubtful.clear()
        self._ledger.stale.intersection_update(self._ledger.mirror)
        if first:
            self._unchosen = dict.fromkeys(self._candidates)
            self._guard_changed()
            self._compare_some()
        owners = {self._targets.owner(key) for key in changed if isinstance(key, int)}
        for target in [owner for owner in owners if owner is not None]:
            self._refresh_all(target)
        for key in changed:
            if first and not self._swept and self._ledger.wanted(key) is None and self._may_stay(key):
                self._ledger.stale.add(key)
            else:
                self._ledger.mark(key)
        self._ledger.forgive()
        self._targets.retire_unused(self._usage.needed, self._held)
        self._use_room()

    # From candidates to desired entries.

    @property
    def _comparing(self) -> bool:
        return bool(self._reading or self._unguarded or self._unchosen)

    def _compare_some(self) -> None:
        """Of thousands only so many at a time: whoever runs this has other things to do in between."""
        if self._reading is not None:
            if self._reading.read(self._settings.slice):
                self._reconciled(self._reading.changed)
            return
        for _ in range(min(self._settings.slice, len(self._unguarded))):
            key = self._unguarded.popleft()
            self._ledger.want(key, self._ledger.guarding.get(key))
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
        candidates = self._candidates.of(prefix)
        for candidate in candidates if len(candidates) == 1 else sorted(candidates, key=self._rank):
            refusal = self._refusal(candidate)
            if not refusal:
                chosen = candidate
                break
            self._refused.setdefault(prefix, refusal)
        if chosen is not None and self._refused:
            self._refused.pop(prefix, None)
        if chosen is not None and chosen.keep and encrypts(chosen.target) and prefix not in self.kept:
            self._keep(prefix)
        self._point(prefix, chosen.target if chosen else None)

    def _use_room(self) -> None:
        """Ids were given back: what was refused for want of them is chosen again, as far as they reach."""
        if not self._refused or not self._targets.room_again():
            return
        for prefix in [prefix for prefix, why in self._refused.items() if why == CROWDED]:
            self._choose(prefix)
            if self._refused.get(prefix) == CROWDED:
                break

    def _keep(self, prefix: Prefix) -> None:
        if not self._guard.protects(prefix) and self.kept.add(prefix):
            entry = closed(prefix)
            self._ledger.guarding[entry.key] = entry
            self._ledger.want(entry.key, entry)

    def _rank(self, candidate: SetRoute) -> tuple[bool, bool, int, str]:
        target = candidate.target
        return (not self._targets.usable(target), not self._targets.works(target), candidate.distance, candidate.source)

    def _refusal(self, candidate: SetRoute) -> str:
        prefix = candidate.prefix
        if not encrypts(candidate.target) and (prefix in self.kept or self._forbidden(prefix)):
            hops = ", ".join(str(one.address) for one in members_of(candidate.target) if isinstance(one, ViaNextHop))
            way = f"next hop {hops}" if hops else "the private circuit"
            since = f", since a tunnel led there (`gatewayctl guard forget {prefix}` ends it)"
            return f"{prefix} is protected{since if prefix in self.kept else ''}: {way} would send it in clear"
        refusal = self._targets.refusal(candidate.target, prefix.version)
        return refusal or self._targets.crowded(candidate.target, prefix.version)

    def _forbidden(self, prefix: Prefix) -> bool:
        """Whether no route may point out in clear, not even by choice."""
        return self._guard.protects(prefix) and not self._guard.yields(prefix)

    def _point(self, prefix: Prefix, target: Target | None) -> None:
        before = self._chosen.pop(prefix, None)
        if target is not None:
            self._chosen[prefix] = target
        if target is not None and not isinstance(target, ViaCircuit):
            for changed in self._usage.use(prefix, target, prefix.version):
                self._refresh(changed)
        metric = self._settings.metric
        self._ledger.want((prefix, metric), self._route(prefix, target))
        self._shadow(prefix, target)
        if before is not None and before != target and not isinstance(before, ViaCircuit):
            for changed in self._usage.leave(prefix, before, prefix.version):
                self._refresh(changed)

    def _route(self, prefix: Prefix, target: Target | None) -> Route | None:
        metric = self._settings.metric
        if target is None:
            return None
        if isinstance(target, ViaCircuit):
            return Route(prefix, metric, RouteKind.THROW)
        return Route(prefix, metric, RouteKind.UNICAST, self._targets.group(target, prefix.version))

    def _shadow(self, prefix: Prefix, target: Target | None) -> None:
        """A blackhole under a route into a tunnel that no protected prefix covers. The kernel drops that route together
        with its TUN, and while nobody withdrew it, its packets have no other way."""
        if prefix in self.kept or prefix in (self._protected or ()):
            return  # the guard's own
        covered = not encrypts(target) or self._guard.protects(prefix)
        self._ledger.want((prefix, GUARD_METRIC), None if covered else closed(prefix))

    def _target_changed(self, target: Target) -> None:
        self._refresh(target)
        for prefix in self._affected(target):
            self._choose(prefix)
        for tiers in self._candidates.tiers_of(target):
            self._target_changed(tiers)

    def _affected(self, target: Target) -> Collection[Prefix]:
        """Of the prefixes with a route this way those that may now take another, or this one. Where all take it and may go
        on, ten thousand of them are moved by their group and need not be looked at one by one."""
        refused = {family: bool(self._targets.refusal(target, family)) for family in (4, 6)}
        users = {family: self._usage.users(target, family) for family in (4, 6)}
        contested = self._candidates.contested(target)
        if sum(users.values()) == self._candidates.count(target) and not any(users[f] and refused[f] for f in refused):
            return contested
        return [
            prefix
            for prefix in self._candidates.through(target)
            if self._chosen.get(prefix) != target or prefix in contested or refused[prefix.version]
        ]

    def _refresh(self, target: Target) -> None:
        """Bring the desired nexthop objects of one target up to date, both families."""
        if not self._synchronised:
            return
        for family in (4, 6):
            wanted: dict[Key, Entry] = {}
            if needed := self._usage.needed(target, family):
                grouped = self._usage.grouped(target, family)
                objects = self._targets.objects(target, family, self._present)
                wanted = {entry.key: entry for entry in objects if grouped or not isinstance(entry, Group)}
            self._want_objects(target, family, wanted)
            if not needed:
                self._targets.retire(target, family, self._held)

    def _held(self, identifier: int) -> bool:
        """Whether the kernel may hold something by this id, or be about to."""
        known = not self._dump_wanted and not self._reading and not isinstance(self._under_way, DumpRequest)
        return not known or identifier in self._doubtful or identifier in self._ledger.mirror

    def _present(self, nexthop: Nexthop) -> bool:
        return self._ledger.mirror.entry(nexthop.id) == nexthop

    def _refresh_all(self, target: Target) -> None:
        """And of what it is a part of."""
        self._refresh(target)
        for tiers in self._candidates.tiers_of(target):
            self._refresh(tiers)

    def _want_objects(self, target: Target, family: int, wanted: dict[Key, Entry]) -> None:
        known = self._targets.known(target, family)
        for key in known:
            self._ledger.want(key, wanted.get(key))
        if isinstance(target, ViaConnection) and known:
            blackhole = self._targets.blackhole(family)
            self._ledger.want(blackhole.id, blackhole if self._usage.in_tunnels[family] else None)

    def _guard_changed(self) -> None:
        if not self._synchronised:
            return  # the first dump asks for all of it
        platform = PLATFORM if self._settings.platform else ()
        throws = self._throws
        former = self._guard
        self._guard = guard(self._protected or (), throws.connected, throws.endpoints, platform, self._yielding)
        before, entries = self._ledger.guarding, {route.key: route for route in self._guard.routes}
        self._ledger.guarding = self.kept.entries() | entries
        touched = before.keys() | self._ledger.guarding.keys()
        if self._unchosen:
            self._unguarded.extend(touched)
        else:
            for key in touched:
                self._ledger.want(key, self._ledger.guarding.get(key))
            differing = former.differing(self._guard)
            for prefix in [one for one in self._candidates if differing.longest_cover(one) >= 0]:
                self._choose(prefix)
        self._ledger.give_up_stale([key for key in self._ledger.stale if not self._may_stay(key)])
        self._ledger.judge_leaks_again()

    # From desired entries to operations.

    def _next_step(self) -> RouteOps | DumpRequest | None:
        self._ticket += 1
        if self._dump_wanted:
            self._dump_wanted = False
            return DumpRequest(self._ticket, self._settings.table)
        if not self._ledger.dirty:
            return None
        ops = self._ledger.plan(self._settings.batch)
        self._doubtful.update(op.entry.id for op in ops if not isinstance(op.entry, Route))
        return RouteOps(self._ticket, ops, self._settings.table) if ops else None

    def _leaks(self, route: Route) -> bool:
        """An unwanted entry that lets a protected prefix out: to the underlay, or out of our table."""
        return self._in_clear(route) and self._guard.protects(route.prefix)

    def _in_clear(self, route: Route) -> bool:
        if route.kind is RouteKind.UNICAST:
            return not encrypts(self._targets.owner(route.group))
        return route.kind is RouteKind.THROW

    def _may_stay(self, key: Key) -> bool:
        """May an earlier process's entry stay until the sweep? Nexthops go when nothing uses them."""
        entry = self._ledger.mirror.entry(key)
        if not isinstance(entry, Route) or entry.kind is RouteKind.THROW:
            return False
        return not self._guard.protects(entry.prefix) or not self._ledger.mirror.in_clear(entry)

    def _ours(self, entry: Entry) -> bool:
        """Nexthop objects belong to no table: those of other FIBs are dumped, too."""
        return isinstance(entry, Route) or self._settings.first_id <= entry.id < self._settings.end_id

    def _fail(self, key: Key, error: OpError, now: float) -> None:
        if self._ledger.fail(key, error):
            self._dump_wanted = True
        if self._retry_at is None:
            self._retry_at = now + self._settings.retry

    def _error(self, key: Key, target: Target, family: int) -> str:
        if failure := self._ledger.failure(key):
            return failure
        for identifier in self._targets.known(target, family):
            if failure := self._ledger.failure(identifier):
                return f"its nexthop is not installed: {failure}"
        return ""

    def _release(self, gone: SetRoute) -> None:
        """Forget what no candidate names any more."""
        for address in self._candidates.release(gone):
            self.next_hops.release(address)


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
    FollowNextHop: Fib._follow_next_hop,
    InterfaceGone: Fib._interface_gone,
    InterfaceChanged: Fib._interface_changed,
    Resync: Fib._resync,
    Sweep: Fib._sweep,
    Reconcile: Fib._reconcile,
}
