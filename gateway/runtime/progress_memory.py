"""How far each SA is, written by the data plane itself into memory that outlives the process: exact also after kill -9.

A memfd, sealed against resizing; place 0 is the header, then one place of 64 octets (a cache line) for each SA:

    number (8: the last sequence number used, or the window's top), 1 taken or 0 free (8), SPI (8), which SA (16)

Which SA: BLAKE2b-128 of the direction and its connection's device, since connections have other numbers in the next process.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Mapping

from gateway.esp.dataplane import Direction, SaParameters

PLACE = 64  # native/dataplane.h: SHARED_PLACE
FOR_EACH, LEAST = 16, 1024
"""Places: for each connection, both directions of its CHILD_SAs while they are rekeyed. Made once: reloads and restarts add none, and an SA without a
place goes on above its last grant after a crash (at an end in order what is kept is exact without one)."""
MAGIC = b"gwprog01"
_ENTRY = struct.Struct("<QQQ16s")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
Key = tuple[int, bytes]
"""SPI, which SA."""


class ProgressMemory:
    """Places for SAs. `found`: how far those were that a process before this one had."""

    def __init__(self, fd: int) -> None:
        """Of a memfd that `create` made; ValueError for any other."""
        self.fd = fd
        size = os.fstat(fd).st_size
        if size < PLACE or size % PLACE or fcntl.fcntl(fd, fcntl.F_GET_SEALS) != _SEALS:
            raise ValueError("not ours")
        self._map = mmap.mmap(fd, size)
        if self._map[: len(MAGIC)] != MAGIC:
            self._map.close()
            raise ValueError("of another release")
        self._taken: dict[tuple[Direction, int, int], int] = {}
        self._free: list[int] = []
        self.found: Mapping[Key, int] = self._find(size // PLACE)

    @classmethod
    def create(cls, connections: int) -> ProgressMemory:
        fd = os.memfd_create("gatewayd-progress", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, PLACE * max(LEAST, FOR_EACH * connections))
        os.pwrite(fd, MAGIC, 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return cls(fd)

    def take(self, sa: SaParameters, interface: str) -> int:
        """The place of a new SA; 0 where there is none left: then nobody knows how far it is after a crash."""
        if not self._free:
            return 0
        place = self._free.pop()
        self._taken[sa.direction, sa.connection, sa.spi] = place
        # Taken last: until then nobody takes the number for an SA's
        at = place * PLACE
        self._map[at : at + _ENTRY.size] = _ENTRY.pack(sa.sequence, 0, sa.spi, which(sa.direction, interface))
        self._map[at + 8 : at + 16] = (1).to_bytes(8, "little")
        return place

    def free(self, direction: Direction, connection: int, spi: int) -> None:
        """The data plane has let go of the SA."""
        place = self._taken.pop((direction, connection, spi), None)
        if place is not None:
            self._release(place)

    def free_connection(self, connection: int) -> None:
        """Of all its SAs."""
        for direction, number, spi in [key for key in self._taken if key[1] == connection]:
            self.free(direction, number, spi)

    def _release(self, place: int) -> None:
        at = place * PLACE
        self._map[at + 8 : at + 16] = bytes(8)
        self._free.append(place)

    def _find(self, places: int) -> dict[Key, int]:
        """Every place is free from then on: the SAs that go on take new ones."""
        found: dict[Key, int] = {}
        for place in range(places - 1, 0, -1):
            number, taken, spi, name = _ENTRY.unpack_from(self._map, place * PLACE)
            if taken == 1:
                # A process that was killed while it resumed may have left two; an SA never goes back
                found[spi, name] = max(number, found.get((spi, name), 0))
            self._free.append(place)
        return found

    def forget_found(self) -> None:
        """What goes on has taken a place of its own by now."""
        for place in self._free:
            self._map[place * PLACE + 8 : place * PLACE + 16] = bytes(8)


def which(direction: Direction, interface: str) -> bytes:
    return hashlib.blake2b(f"{direction.value} {interface}".encode(), digest_size=16).digest()
