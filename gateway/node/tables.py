"""The FIBs of a gateway: that of its own routing table, and one for each instance's.

Each has its connections, its protected prefixes and its kept ones; the kernel's news about links and next hops concern
all. An instance that is configured no longer leaves its table empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.node.instances import InstanceSettings
from gateway.node.settings import TunnelSettings
from gateway.routing.fib import Fib
from gateway.routing.model import (
    Address,
    Applied,
    ConnectionAdded,
    ConnectionGone,
    Effect,
    FibStatus,
    Prefix,
    Reconcile,
    RemoveRoute,
    SetProtected,
    SetThrows,
    Sweep,
    of_table,
)

OWN = ""
"""The name of no instance."""


class Tables:
    """By the name of the instance."""

    def __init__(self) -> None:
        self._fibs: dict[str, Fib] = {OWN: Fib()}
        self.settings: dict[str, InstanceSettings | None] = {OWN: None}
        self._leaving: dict[int, Fib] = {}  # by number
        self._sweep_at: float | None = None
        self._adopted = False

    def __getitem__(self, instance: str) -> Fib:
        return self._fibs[instance]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fibs)

    def get(self, instance: str) -> Fib | None:
        return self._fibs.get(instance)

    def adopt(self, instances: Iterable[InstanceSettings], now: float) -> list[str]:
        """The tables there shall be; the names of those that are new."""
        wanted = {one.name: one for one in instances}
        for name, fib in list(self._fibs.items()):
            if name and (name not in wanted or wanted[name].table != fib.table):
                del self._fibs[name]
                self._leaving[fib.table] = _emptied(fib.table, now)
        new = [name for name in wanted if name not in self._fibs]
        for name in new:
            self._leaving.pop(wanted[name].table, None)
            fib = self._fibs[name] = Fib(of_table(wanted[name].table))
            if self._adopted:
                # What is there may be another instance's, which had this number: nobody asks for it again
                fib.command(Sweep(), now)
        self._adopted = True
        self.settings = {OWN: None, **wanted}
        return new

    def leave_behind(self, numbers: Iterable[int], now: float) -> None:
        """Tables of instances that an earlier process had, and nobody has now: they are emptied."""
        known = {fib.table for fib in self._all()}
        self._leaving |= {number: _emptied(number, now) for number in numbers if number not in known}

    def sweep_later(self, at: float) -> None:
        """When what an earlier process left, and nobody asked for since, is removed."""
        self._sweep_at = at

    def enter(self, tunnel: TunnelSettings, interface: int, now: float) -> None:
        """A connection and the routes its configuration asks for; `interface`: of its TUN, 0 before there is one."""
        fib = self._fibs[tunnel.instance]
        if interface:
            fib.command(ConnectionAdded(tunnel.name, interface), now)
        for route in tunnel.candidates:
            fib.command(route, now)

    def leave(self, tunnel: TunnelSettings, wanted: TunnelSettings | None, now: float) -> None:
        """What it has in its table and shall not have any more; None: nothing."""
        fib = self._fibs.get(tunnel.instance)
        if fib is None:
            return  # the table is being emptied
        stays = wanted is not None and wanted.instance == tunnel.instance
        kept = {(route.prefix, route.source) for route in wanted.candidates} if wanted is not None and stays else set()
        for route in tunnel.candidates:
            if (route.prefix, route.source) not in kept:
                fib.command(RemoveRoute(route.prefix, route.source), now)
        if not stays:
            fib.command(ConnectionGone(tunnel.name), now)

    def protect(self, tunnels: Iterable[TunnelSettings], now: float) -> None:
        """The prefixes that must not leave in clear, each in its table. What one connection protects always yields to no
        other's circuit."""
        for name, fib in self._fibs.items():
            members = [tunnel for tunnel in tunnels if tunnel.instance == name]
            protected = {prefix for tunnel in members for prefix in tunnel.protected}
            yielding = {prefix for tunnel in members for prefix in tunnel.yielding}
            yielding -= {prefix for tunnel in members if not tunnel.backup for prefix in tunnel.protected}
            fib.command(SetProtected(frozenset(protected), frozenset(yielding)), now)

    def command(self, command: object, now: float) -> None:
        """An answer is for the FIB that asked, the kernel's news for all of them."""
        for fib in self._all():
            if not isinstance(command, Applied | Reconcile) or command.table == fib.table:
                fib.command(command, now)  # type: ignore[arg-type]

    def poll(self) -> Iterator[Effect]:
        for fib in self._all():
            yield from fib.poll()
        for number in [number for number, fib in self._leaving.items() if fib.settled]:
            del self._leaving[number]

    def next_deadline(self) -> float | None:
        deadlines = (self._sweep_at, *(fib.next_deadline() for fib in self._all()))
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        for fib in self._all():
            fib.handle_deadline(now)
        if self._sweep_at is not None and now >= self._sweep_at:
            self._sweep_at = None
            self.command(Sweep(), now)

    def set_throws(self, connected: frozenset[Prefix], endpoints: frozenset[Address], now: float) -> None:
        """What is reached beside the tunnels; of an instance that alone which lies on its own side."""
        self._fibs[OWN].command(SetThrows(connected, endpoints), now)
        for name, instance in self.settings.items():
            if instance is not None:
                near = frozenset(one for one in connected if any(one.overlaps(local) for local in instance.local))
                self._fibs[name].command(SetThrows(near), now)

    def kept(self) -> dict[str, tuple[Prefix, ...]]:
        """What is learned and stays closed, by instance."""
        return {name: tuple(fib.kept) for name, fib in self._fibs.items()}

    @property
    def synchronised(self) -> bool:
        """Whether every guard says what it holds."""
        return all(fib.synchronised for fib in self._fibs.values())

    @property
    def forwards(self) -> bool:
        """Whether the kernel is known to hold a route that leads anywhere."""
        return any(fib.view.forwards for fib in self._fibs.values())

    @property
    def guard_complete(self) -> bool:
        """Whether the kernel is known to hold every entry of every guard."""
        return all(fib.guard_complete for fib in self._fibs.values())

    def status(self) -> FibStatus:
        """Of all together; what is wrong in an instance's says so."""
        found = {name: fib.status() for name, fib in self._fibs.items()}
        if len(found) == 1:
            return found[OWN]
        problems = [
            f"instance {name}: {problem}" if name else problem
            for name, one in found.items()
            for problem in one.problems
        ]
        return FibStatus(
            desired=sum(one.desired for one in found.values()),
            installed=sum(one.installed for one in found.values()),
            failed=sum(one.failed for one in found.values()),
            stale=sum(one.stale for one in found.values()),
            guard=sum(one.guard for one in found.values()),
            guard_missing=sum(one.guard_missing for one in found.values()),
            kept=sum(one.kept for one in found.values()),
            problems=tuple(problems),
        )

    def _all(self) -> list[Fib]:
        return [*self._fibs.values(), *self._leaving.values()]


def _emptied(number: int, now: float) -> Fib:
    """A FIB of a table that shall hold nothing."""
    fib = Fib(of_table(number))
    fib.command(SetProtected(frozenset()), now)
    fib.command(Sweep(), now)
    return fib
