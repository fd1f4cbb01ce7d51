"""Where the protocol 50 of each connection leaves by packet socket: what is known, and what of it is programmed.

No system call is made here. `packet_sockets.py` looks up what is due, tells the kernel's news, and programs the data
plane. The rule: as soon as anything about a way is in doubt it is taken back, and the raw socket, whose way the kernel
finds for every packet, has the connection; it comes back with the next lookup.

    follow --> due --> lookup --> found --> programmed
                ^                               |
                +------- taken back <-- news ---+     a new link address alone is programmed at once
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.routing.model import Address
from gateway.runtime.rtneighbors import Link, Neighbor, State


@dataclass(frozen=True, slots=True)
class Pair:
    """The outer addresses of a connection."""

    local: Address
    remote: Address


@dataclass(frozen=True, slots=True)
class Way:
    """What a lookup found for a pair. `mtu`: of the link, the route and the path, the least."""

    interface: int
    next_hop: Address
    mtu: int
    hops: int
    flow_label: int = 0
    link_address: bytes | None = None  # None: not resolved

    @property
    def neighbor(self) -> tuple[int, Address]:
        return self.interface, self.next_hop


@dataclass(frozen=True, slots=True)
class Query:
    """A lookup that is due. Its answer counts only while nothing was heard meanwhile."""

    connection: int
    version: int
    pair: Pair


@dataclass(slots=True)
class _Path:
    pair: Pair
    version: int = 0
    way: Way | None = None
    programmed: Way | None = None


Program = Callable[[int, Pair, Way | None], None]
"""(connection, addresses, the way; None: the raw socket)."""


class EgressTable:
    """All connections that send protocol 50."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._paths: dict[int, _Path] = {}
        self._due: dict[int, None] = {}
        self._asked = False  # a lookup is under way
        self._heard: set[tuple[int, Address]] = set()  # neighbors of which there was news meanwhile
        self.stale: dict[tuple[int, Address], None] = {}
        """Neighbors the kernel should verify: packet sockets do not tell it that they are in use."""

    def follow(self, connection: int, pair: Pair) -> None:
        """From now on it sends between these addresses."""
        known = self._paths.get(connection)
        if known is not None and known.pair == pair:
            return
        if known is not None:
            self._take_back(connection, known)
        self._paths[connection] = _Path(pair, known.version + 1 if known else 0)
        self._due[connection] = None

    def forget(self, connection: int) -> None:
        """It is gone, or sends in UDP."""
        known = self._paths.pop(connection, None)
        self._due.pop(connection, None)
        if known is not None:
            self._take_back(connection, known)

    def local_of(self, connection: int) -> Address | None:
        """None where it is not followed."""
        known = self._paths.get(connection)
        return known.pair.local if known is not None else None

    # --- lookups ------------------------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        return bool(self._due)

    def ask(self) -> list[Query]:
        """Everything that is due; `found` must be called for each, then `answered`."""
        asked, self._due = self._due, {}
        self._asked = True
        return [Query(one, self._paths[one].version, self._paths[one].pair) for one in asked]

    def found(self, query: Query, way: Way | None) -> None:
        path = self._paths.get(query.connection)
        if path is None:
            return
        if path.version != query.version or (way is not None and way.neighbor in self._heard):
            self._due[query.connection] = None
            return
        path.way = way
        self._settle(query.connection, path)

    def answered(self) -> None:
        self._asked = False
        self._heard.clear()

    # --- the kernel's news --------------------------------------------------------------------------------------

    def verify(self) -> None:
        """Time to look again, though nothing was heard."""
        self._due.update(dict.fromkeys(self._paths))

    def doubt(self) -> None:
        """Rules changed, or news was lost: nothing is certain."""
        self._doubt(lambda path: True)

    def route_changed(self, length: int, network: bytes, octets: int) -> None:
        """A route to this prefix, of addresses of so many octets, came or went."""
        self._doubt(lambda path: _covers(length, network, octets, path.pair.remote.packed))

    def link_changed(self, link: Link) -> None:
        """Another way may have become the better one, too."""
        self._doubt(lambda path: path.way is not None and path.way.interface == link.index)
        if link.working:
            self.verify()

    def address_changed(self, address: Address) -> None:
        self._doubt(lambda path: path.pair.local == address)

    def path_changed(self, remote: bytes) -> None:
        """A router said something about packets to this address; anybody could have."""
        self._doubt(lambda path: path.pair.remote.packed == remote)

    def neighbor_changed(self, neighbor: Neighbor) -> None:
        key = (neighbor.interface, neighbor.address)
        if self._asked:
            self._heard.add(key)
        used = False
        for connection, path in self._paths.items():
            if path.way is not None and path.way.neighbor == key:
                path.way = replace(path.way, link_address=neighbor.link_address)
                self._settle(connection, path)
                used = True
        if used and neighbor.state == State.STALE:
            self.stale[key] = None

    def _doubt(self, concerned: Callable[[_Path], bool]) -> None:
        for connection, path in self._paths.items():
            if concerned(path):
                self._take_back(connection, path)
                self._due[connection] = None

    # --- the data plane -----------------------------------------------------------------------------------------

    def _take_back(self, connection: int, path: _Path) -> None:
        path.version += 1
        path.way = None
        self._settle(connection, path)

    def _settle(self, connection: int, path: _Path) -> None:
        wanted = path.way if path.way is not None and path.way.link_address is not None else None
        if wanted != path.programmed:
            path.programmed = wanted
            self._program(connection, path.pair, wanted)


def _covers(length: int, network: bytes, octets: int, address: bytes) -> bool:
    if octets != len(address):
        return False
    shift = octets * 8 - length
    return int.from_bytes(network or bytes(octets)) >> shift == int.from_bytes(address) >> shift
