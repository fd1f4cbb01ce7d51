"""A cloud's route tables in memory, and gateways that write into them, on a virtual clock.

Not a server: the calls of the cores are carried out after a latency of the seed's choosing, and fail as often as told. The real
protocols are played by the servers in `clouds/`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from itertools import count
from random import Random

from gateway.ha.fabric import Command, Fabric
from gateway.ha.fabric_values import (
    APPLIANCE,
    Call,
    Contents,
    Done,
    Effective,
    Event,
    FabricSettings,
    Failed,
    Hops,
    Mark,
    Outcome,
    Ownership,
    Put,
    Read,
    Remove,
    SeenRoute,
    Table,
    Verify,
    Why,
)

HOPS = {"gw-a": Hops("10.0.1.4", "fd00::4"), "gw-b": Hops("10.0.1.5", "fd00::5")}
PREFIXES = ("10.0.0.0/8", "172.16.0.0/12", "2001:db8::/32")


def settings(node: str, **other: object) -> FabricSettings:
    """Of one gateway of the pair, with two tables unless told otherwise."""
    peer = "gw-b" if node == "gw-a" else "gw-a"
    prefixes = tuple(ip_network(text) for text in PREFIXES)
    tables = tuple(Table(name, f"ref-{name}", prefixes) for name in ("users", "servers"))
    basic = FabricSettings("one", node, HOPS[node], HOPS[peer], tables)
    return replace(basic, **other)  # type: ignore[arg-type]


def foreign(prefix: str, hop: str = "10.9.9.9", name: str = "theirs", kind: str = APPLIANCE) -> SeenRoute:
    return SeenRoute(prefix, kind, hop, name)


@dataclass
class CloudTable:
    routes: dict[str, SeenRoute] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    subnets: tuple[str, ...] = ()

    def put(self, *routes: SeenRoute) -> None:
        self.routes |= {route.key: route for route in routes}

    def hops(self) -> dict[str, str]:
        return {route.prefix: route.hop for route in self.routes.values()}


class Random01(Random):
    """The cores' random source from a seed."""

    def octets(self, count: int) -> bytes:
        return self.randbytes(count)


class Cloud:
    """`fault(call)` gives a failure for a call, and whether its write took effect all the same."""

    def __init__(self, seed: int = 1, latency: tuple[float, float] = (0.01, 0.03)) -> None:
        self.now = 100.0
        self.tables: dict[str, CloudTable] = {f"ref-{name}": CloudTable() for name in ("users", "servers")}
        self.gateways: dict[str, Fabric] = {}
        self.events: list[tuple[float, str, Event]] = []
        self.calls: list[tuple[float, str, Call]] = []
        self.most_at_once: dict[str, int] = {}
        self.fault: Callable[[str, Call], tuple[Failed, bool] | None] = lambda node, call: None
        self.effective: tuple[SeenRoute, ...] = ()
        self._random = Random01(seed)
        self._latency = latency
        self._order = count()
        self._due: list[tuple[float, int, str, Call]] = []

    def boot(self, node: str, **other: object) -> Fabric:
        fabric = self.gateways[node] = Fabric(settings(node, **other), self._random, self.now)
        self._drain(node)
        return fabric

    def tell(self, node: str, command: Command) -> None:
        self.gateways[node].command(command, self.now)
        self._drain(node)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        steps = 0
        while (at := self._next()) is not None and at <= end:
            steps += 1
            assert steps < 20_000, "a deadline that does not move"
            self.now = max(self.now, at)
            self._step()
        self.now = end

    def said(self, node: str, kind: type[Event]) -> list[Event]:
        return [event for _, name, event in self.events if name == node and isinstance(event, kind)]

    def writes(self, node: str, since: float = 0.0) -> list[Call]:
        return [
            call
            for at, name, call in self.calls
            if name == node and at >= since and isinstance(call.operation, Put | Remove | Mark)
        ]

    def _next(self) -> float | None:
        times = [at for fabric in self.gateways.values() if (at := fabric.next_deadline()) is not None]
        return min(times + [entry[0] for entry in self._due[:1]], default=None)

    def _step(self) -> None:
        while self._due and self._due[0][0] <= self.now:
            _, _, node, call = heapq.heappop(self._due)
            self.gateways[node].computed(call.ticket, self._outcome(node, call), self.now)
            self._drain(node)
        for node, fabric in self.gateways.items():
            if (at := fabric.next_deadline()) is not None and at <= self.now:
                fabric.handle_deadline(self.now)
                self._drain(node)

    def _drain(self, node: str) -> None:
        for effect in self.gateways[node].poll():
            if isinstance(effect, Call):
                self.calls.append((self.now, node, effect))
                at = self.now + self._random.uniform(*self._latency)
                heapq.heappush(self._due, (at, next(self._order), node, effect))
                key = f"{node} {effect.table.name}"
                under_way = [
                    call for _, _, name, call in self._due if (name, call.table.name) == (node, effect.table.name)
                ]
                working = sum(not isinstance(call.operation, Verify) for call in under_way)
                self.most_at_once[key] = max(self.most_at_once.get(key, 0), working)
            else:
                self.events.append((self.now, node, effect))

    def _outcome(self, node: str, call: Call) -> Outcome:
        fault = self.fault(node, call)
        if fault is not None and not fault[1]:
            return fault[0]
        done = self._carry_out(node, call)
        return fault[0] if fault is not None else done

    def _carry_out(self, node: str, call: Call) -> Outcome:
        table = self.tables[call.table.reference]
        named = self.gateways[node].settings.ownership is Ownership.NAME
        match call.operation:
            case Read():
                return Contents(tuple(table.routes.values()), tuple(table.tags.items()), table.subnets)
            case Put(route, replaces):
                same = [
                    other for other in table.routes.values() if other.prefix == route.prefix and other.key != route.key
                ]
                if same or (not named and not replaces and route.key in table.routes):
                    return Failed(Why.CONFLICT, "a route with this prefix is there")
                table.routes[route.key] = route
            case Remove(route):
                table.routes.pop(route.key, None)
            case Mark(key, epoch):
                table.tags[key] = str(epoch)
            case Verify():
                return Effective(self.effective)
        return Done()
