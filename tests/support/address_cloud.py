"""A cloud's network interfaces in memory, and gateways to which a lease gives their shared addresses, on a virtual clock.

Not a server: the calls of the cores are carried out after a latency of the seed's choosing, and fail as often as told. The real
protocols are played by the servers in `clouds/`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from support.fabric_cloud import Random01

from gateway.ha.address_fabric import AddressFabric
from gateway.ha.address_values import (
    AddressCall,
    AddressSettings,
    Assign,
    Event,
    Free,
    Interface,
    Outcome,
    Place,
    Placed,
    Places,
)
from gateway.ha.fabric_values import Done, Failed, Read, Why

ADDRESSES = ("10.0.1.10", "10.0.1.11")
NICS = {"gw-a": "nic-a", "gw-b": "nic-b"}


def settings(node: str, freed: bool = True, addresses: tuple[str, ...] = ADDRESSES, **other: object) -> AddressSettings:
    """Of one gateway; `freed`: as in Azure, else as in AWS."""
    peer = "gw-b" if node == "gw-a" else "gw-a"
    interface = Interface("wan", NICS[node], NICS[peer], addresses, frozenset(addresses if freed else ()))
    return replace(AddressSettings((interface,)), **other)  # type: ignore[arg-type]


@dataclass(order=True)
class _Due:
    at: float
    order: int
    node: str
    call: AddressCall
    takes_effect: bool
    outcome: Failed | None


class AddressCloud:
    """`where`: at which interface each address is; `fault(node, call)` gives a failure, and whether the write takes effect all the same."""

    def __init__(self, seed: int = 1, latency: tuple[float, float] = (0.01, 0.03)) -> None:
        self.now = 100.0
        self.where: dict[str, str] = {}
        self.first: dict[str, str] = {}
        """Interfaces' own first addresses."""
        self.gateways: dict[str, AddressFabric] = {}
        self.leases: dict[str, tuple[int, float]] = {}
        """By node: under which epoch it acts, and until when."""
        self.events: list[tuple[float, str, Event]] = []
        self.calls: list[tuple[float, str, AddressCall]] = []
        self.fault: Callable[[str, AddressCall], tuple[Failed, bool] | None] = lambda node, call: None
        self._random = Random01(seed)
        self._latency = latency
        self._order = count()
        self._due: list[_Due] = []

    def boot(self, node: str, **other: object) -> AddressFabric:
        fabric = self.gateways[node] = AddressFabric(settings(node, **other), self._random, self.now)  # type: ignore[arg-type]
        self.drain(node)
        return fabric

    def activate(self, node: str, epoch: int, lease: float = 1e6) -> None:
        self.leases[node] = (epoch, self.now + lease)
        self.gateways[node].activate(epoch, self.now + lease, self.now)
        self.drain(node)

    def deactivate(self, node: str) -> None:
        self.leases.pop(node, None)
        self.gateways[node].deactivate(self.now)
        self.drain(node)

    def run(self, seconds: float) -> None:
        end, steps = self.now + seconds, 0
        while (at := self._next()) is not None and at <= end:
            steps += 1
            assert steps < 20_000, "a deadline that does not move"
            self.now = max(self.now, at)
            self._step()
        self.now = end

    def said(self, node: str, kind: type[Event]) -> list[Event]:
        return [event for _, name, event in self.events if name == node and isinstance(event, kind)]

    def operations(self, node: str, since: float = 0.0) -> list[object]:
        return [call.operation for at, name, call in self.calls if name == node and at >= since]

    def writes(self, node: str, since: float = 0.0) -> list[object]:
        return [one for one in self.operations(node, since) if not isinstance(one, Read)]

    def all_at(self, node: str) -> bool:
        return all(self.where.get(address) == NICS[node] for address in ADDRESSES)

    def places(self, node: str) -> dict[str, str]:
        (interface,) = self.gateways[node].view().interfaces
        return {one.address: one.place.value for one in interface.addresses}

    def trouble(self, node: str) -> str:
        return self.gateways[node].view().interfaces[0].trouble

    def drain(self, node: str) -> None:
        for effect in self.gateways[node].poll():
            if not isinstance(effect, AddressCall):
                self.events.append((self.now, node, effect))
                continue
            self.calls.append((self.now, node, effect))
            fault = self.fault(node, effect)
            at = self.now + self._random.uniform(*self._latency)
            outcome, takes_effect = fault if fault is not None else (None, True)
            heapq.heappush(self._due, _Due(at, next(self._order), node, effect, takes_effect, outcome))

    def _next(self) -> float | None:
        times = [at for fabric in self.gateways.values() if (at := fabric.next_deadline()) is not None]
        return min(times + [due.at for due in self._due[:1]], default=None)

    def _step(self) -> None:
        while self._due and self._due[0].at <= self.now:
            due = heapq.heappop(self._due)
            done = self._carry_out(due.node, due.call) if due.takes_effect else None
            self.gateways[due.node].computed(due.call.ticket, due.outcome or done, self.now)
            self.drain(due.node)
        for node, fabric in self.gateways.items():
            if (at := fabric.next_deadline()) is not None and at <= self.now:
                fabric.handle_deadline(self.now)
                self.drain(node)

    def _carry_out(self, node: str, call: AddressCall) -> Outcome:
        interface = call.interface
        match call.operation:
            case Read():
                return Places(tuple(self._placed(interface, address) for address in interface.addresses))
            case Free(addresses):
                for address in addresses:
                    if self.where.get(address) == interface.theirs:
                        del self.where[address]
            case Assign(addresses):
                taken = [
                    one
                    for one in addresses
                    if one in interface.freed and self.where.get(one, interface.ours) != interface.ours
                ]
                if taken:
                    return Failed(Why.CONFLICT, f"{taken[0]} is allocated to {self.where[taken[0]]}")
                self.where |= dict.fromkeys(addresses, interface.ours)
        return Done()

    def _placed(self, interface: Interface, address: str) -> Placed:
        at = self.first.get(address) or self.where.get(address, "")
        if address in self.first:
            return Placed(address, Place.FIXED, at)
        known = {interface.ours: Place.OURS, interface.theirs: Place.PEER, "": Place.ABSENT}
        return Placed(address, known.get(at, Place.FOREIGN), at)
