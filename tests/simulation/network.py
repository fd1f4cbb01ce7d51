"""A hostile network on a virtual clock: loss, delay, reordering, duplication, damage, late replays, cuts, NAT.

It keeps what it did to every datagram, so that whoever misses one can be told whose fault that is. All its choices
come from one seeded source. It knows no protocol.

    send -> [NAT] -> copies: lost | cut | corrupted | intact, each with a time of arrival -> deliver
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from gateway.contract import Endpoint


@dataclass(frozen=True, slots=True)
class Weather:
    """Shares are per datagram (`loss`, `corrupt`: per copy); times in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    replay: float = 0.0
    straggle: float = 0.0
    delay: tuple[float, float] = (0.004, 0.006)
    straggle_delay: tuple[float, float] = (0.2, 1.2)
    replay_delay: tuple[float, float] = (2.0, 60.0)


CALM = Weather()
ROUGH = Weather(loss=0.10, duplicate=0.05, straggle=0.05, delay=(0.005, 0.060))


class Fate(Enum):
    INTACT = "ok"
    LOST = "lost"
    CUT = "cut"
    CORRUPTED = "corrupted"


@dataclass(slots=True)
class Copy:
    fate: Fate
    due: float
    data: bytes
    arrived: bool = False
    """Handed to a running node."""


@dataclass(slots=True)
class Passage:
    """One datagram on its way. `source` is as its receiver sees it, `target` as its sender addressed it."""

    number: int
    sent_at: float
    sender: str
    receiver: str
    source: Endpoint
    target: Endpoint
    data: bytes
    probe: int = 0
    copies: list[Copy] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """The network carried at least one good copy."""
        return any(copy.fate is Fate.INTACT for copy in self.copies)


Schedule = Callable[[float, Callable[[], None]], None]
Deliver = Callable[[Passage, Copy, Endpoint], None]


class Network:
    """`schedule(at, action)` belongs to the world; `deliver(passage, copy, local)` is how it gives a copy to a node."""

    def __init__(self, seed: int, schedule: Schedule, deliver: Deliver) -> None:
        self.weather = CALM
        self.chance = random.Random(seed)
        self._schedule, self._deliver = schedule, deliver
        self._hosts: dict[str, str] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._nats: dict[str, Nat] = {}
        self._sent = 0

    def attach(self, name: str, host: str, nat: str = "") -> None:
        """One of a node's outer addresses; with `nat`, the others see it at that address and at ports that the NAT chooses."""
        self._hosts[nat or host] = name
        if nat:
            self._nats[host] = Nat(host, nat)

    def detach(self, host: str) -> None:
        """Nobody has this address any more."""
        self._hosts.pop(host, None)

    def at(self, host: str) -> str:
        """The node that has this address or had it; "" when none has."""
        return self._hosts.get(host, "")

    def cut(self, sender: str, receiver: str) -> None:
        """From now on nothing passes in this direction."""
        self._cuts.add((sender, receiver))

    def is_cut(self, sender: str, receiver: str) -> bool:
        return (sender, receiver) in self._cuts

    def mend(self, sender: str, receiver: str) -> None:
        self._cuts.discard((sender, receiver))

    def heal(self) -> None:
        self._cuts.clear()

    def rebind(self) -> None:
        """Every NAT forgets its mappings: the next datagram out gets another port, what comes in to an old one is lost."""
        for nat in self._nats.values():
            nat.forget()

    def move(self, host: str, outside: str) -> None:
        """The NAT before a host is another one from now on: what comes in to the old one is lost."""
        nat = self._nats[host]
        self._hosts[outside] = self._hosts[nat.outside]
        nat.outside = outside
        nat.forget()

    def send(self, sender: str, data: bytes, local: Endpoint, remote: Endpoint, now: float, probe: int = 0) -> Passage:
        self._sent += 1
        nat = self._nats.get(local.host)
        source = nat.outward(local) if nat is not None else local
        receiver = self._hosts.get(remote.host, "")
        passage = Passage(self._sent, now, sender, receiver, source, remote, data, probe)
        for late in self._arrivals():
            passage.copies.append(self._copy(passage, now + late))
        for copy in passage.copies:
            if copy.fate in (Fate.INTACT, Fate.CORRUPTED):
                self._schedule(copy.due, lambda copy=copy: self.arrive(passage, copy))  # type: ignore[misc]
        return passage

    def inject(self, sender: str, data: bytes, source: Endpoint, target: Endpoint, now: float) -> Passage:
        """A forged datagram: it arrives, whatever the weather."""
        passage = Passage(0, now, sender, self._hosts.get(target.host, ""), source, target, data)
        passage.copies.append(Copy(Fate.CORRUPTED, now, data))
        self.arrive(passage, passage.copies[0])
        return passage

    def _arrivals(self) -> list[float]:
        """Delays of all copies of one datagram."""
        weather, chance = self.weather, self.chance
        delays = [chance.uniform(*weather.delay)]
        if weather.straggle and chance.random() < weather.straggle:
            delays = [chance.uniform(*weather.straggle_delay)]
        if weather.duplicate and chance.random() < weather.duplicate:
            delays.append(chance.uniform(*weather.delay) + chance.choice((0.0, weather.delay[1])))
        if weather.replay and chance.random() < weather.replay:
            delays.append(chance.uniform(*weather.replay_delay))
        return delays

    def _copy(self, passage: Passage, due: float) -> Copy:
        weather, chance = self.weather, self.chance
        if (passage.sender, passage.receiver) in self._cuts or not passage.receiver:
            return Copy(Fate.CUT, due, b"")
        if weather.loss and chance.random() < weather.loss:
            return Copy(Fate.LOST, due, b"")
        if weather.corrupt and chance.random() < weather.corrupt:
            return Copy(Fate.CORRUPTED, due, _flip(passage.data, chance))
        return Copy(Fate.INTACT, due, passage.data)

    def arrive(self, passage: Passage, copy: Copy) -> None:
        local: Endpoint | None = passage.target
        for nat in self._nats.values():
            if passage.target.host == nat.outside:
                local = nat.inward(passage.target)
            elif self._hosts.get(passage.target.host) == self._hosts[nat.outside]:
                local = None  # where it was before
        if local is None:
            copy.fate = Fate.CUT
            return
        self._deliver(passage, copy, local)


class Nat:
    """A port-translating NAT before one host."""

    def __init__(self, inside: str, outside: str) -> None:
        self.inside, self.outside = inside, outside
        self._next = 20000
        self._ports: dict[int, int] = {}

    def outward(self, local: Endpoint) -> Endpoint:
        if local.port not in self._ports:
            self._next += 1
            self._ports[local.port] = self._next
        return Endpoint(self.outside, self._ports[local.port])

    def inward(self, target: Endpoint) -> Endpoint | None:
        inside = next((port for port, mapped in self._ports.items() if mapped == target.port), None)
        return None if inside is None else Endpoint(self.inside, inside)

    def forget(self) -> None:
        self._ports.clear()


def _flip(data: bytes, chance: random.Random) -> bytes:
    """One bit is another."""
    if not data:
        return data
    damaged = bytearray(data)
    damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(damaged)
