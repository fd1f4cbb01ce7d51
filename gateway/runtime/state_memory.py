"""Memory that outlives the process: what is kept of each connection, keys included, so never a file.

A memfd, sealed against resizing only. Each connection has a place, and each place two halves that are written in turn, with a
checksum each: whoever is killed while writing leaves the older half as it was.

    | header | place 0: half, half | place 1: half, half | ...
    half: generation (8), length (4), BLAKE2b-128 (16), octets; length 0: nothing is kept
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

MAGIC = b"gwstate\0"
VERSION = 2
"""Of what is inside: one more whenever `KeptConnection`, or what it is made of, changes. An unknown one is a clean start."""
HALF = 32 << 10
"""Octets; pages nobody wrote take no memory. What does not fit is not kept, and begins anew."""
LEAST_PLACES = 64
_HEADER = struct.Struct("<8sIIIII")  # magic, version, places, octets of a half, whether it ended in order, starts
_CLEAN_AT, _STARTS_AT = _HEADER.size - 8, _HEADER.size - 4
_HALF = struct.Struct("<QI16s")
_PAGE = 4096
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class UnknownStateError(ValueError):
    """Not ours, or of another release."""


@dataclass(slots=True)
class _Place:
    number: int
    generation: int
    half: int  # that holds the newest


class StateMemory:
    """By name of a connection some octets, or none."""

    def __init__(self, fd: int) -> None:
        """Of a memfd that `create` made, here or in a process before this one; UnknownStateError for any other."""
        self.fd = fd
        size = os.fstat(fd).st_size
        if size < _PAGE or fcntl.fcntl(fd, fcntl.F_GET_SEALS) != _SEALS:
            raise UnknownStateError("no state memory")
        self._map = mmap.mmap(fd, size)
        magic, version, places, half, clean, starts = _HEADER.unpack_from(self._map)
        if magic != MAGIC or version != VERSION or half != HALF or size != _PAGE + places * 2 * HALF:
            self._map.close()
            raise UnknownStateError(f"state of version {version}, this release has {VERSION}")
        # Secrets reach no core file
        self._map.madvise(mmap.MADV_DONTDUMP)
        self._places: dict[str, _Place] = {}
        self._free: list[_Place] = []
        self.clean = bool(clean)
        """Whether the process before ended in order, after its last packet."""
        self.starts = starts
        """Processes that began with this and did not come to `settled`."""
        self._find(places)
        self._set(_CLEAN_AT, 0)
        self._set(_STARTS_AT, starts + 1)

    @classmethod
    def create(cls, connections: int) -> StateMemory:
        """With room for twice as many connections."""
        places = max(LEAST_PLACES, 2 * connections)
        fd = os.memfd_create("gatewayd-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _PAGE + places * 2 * HALF)
        os.pwrite(fd, _HEADER.pack(MAGIC, VERSION, places, HALF, 1, 0), 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return cls(fd)

    @property
    def room(self) -> int:
        """Connections that still fit."""
        return len(self._free)

    def write(self, name: str, content: bytes) -> bool:
        """Whether it is kept now; where it is not, nothing is."""
        octets = len(name.encode()).to_bytes(2, "big") + name.encode() + content
        if not self.fits(name, content) or (name not in self._places and not self._free):
            self.erase(name)
            return False
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = self._free.pop()
        self._put(place, octets)
        return True

    def erase(self, name: str) -> None:
        """Nothing is kept of it. What was is overwritten, in both halves."""
        place = self._places.pop(name, None)
        if place is None:
            return
        for _ in range(2):
            self._put(place, b"")
            at = self._at(place)
            self._map[at + _HALF.size : at + HALF] = bytes(HALF - _HALF.size)
        self._free.append(place)

    def fits(self, name: str, content: bytes) -> bool:
        return 2 + len(name.encode()) + len(content) <= HALF - _HALF.size

    def settled(self) -> None:
        """What was found did not end this process."""
        self._set(_STARTS_AT, 0)

    def end(self) -> None:
        """The last word of a process that ends in order."""
        self._set(_CLEAN_AT, 1)
        self.settled()

    def wipe(self) -> None:
        """No key is left in it, and whoever holds a copy of the descriptor takes it for none of ours. It is closed."""
        for name in list(self._places):
            self.erase(name)
        self._map[: _HEADER.size] = bytes(_HEADER.size)
        self.close()

    def close(self) -> None:
        self._map.close()
        with suppress(OSError):
            os.close(self.fd)

    def _put(self, place: _Place, octets: bytes) -> None:
        place.half ^= 1
        place.generation += 1
        at = self._at(place)
        # Keys of before stand at the end of what was longer
        rest = max(0, _HALF.unpack_from(self._map, at)[1] - len(octets))
        self._map[at + _HALF.size : at + _HALF.size + len(octets) + rest] = octets + bytes(rest)
        digest = _digest(place.generation, octets)
        self._map[at : at + _HALF.size] = _HALF.pack(place.generation, len(octets), digest)

    def _at(self, place: _Place) -> int:
        return _PAGE + (2 * place.number + place.half) * HALF

    def _set(self, at: int, value: int) -> None:
        self._map[at : at + 4] = value.to_bytes(4, "little")

    def contents(self) -> Mapping[str, bytes]:
        """By name."""
        found: dict[str, bytes] = {}
        for name, place in self._places.items():
            read = self._read(place.number, place.half)
            if read is not None:
                found[name] = _parts(read[1])[1]
        return found

    def _find(self, places: int) -> None:
        for number in range(places):
            halves = [(*read, half) for half in (0, 1) if (read := self._read(number, half)) is not None]
            generation, octets, half = max(halves, default=(0, b"", 1))
            place = _Place(number, generation, half)
            if octets:
                self._places[_parts(octets)[0]] = place
            else:
                self._free.append(place)

    def _read(self, number: int, half: int) -> tuple[int, bytes] | None:
        """None where nothing whole stands."""
        at = _PAGE + (2 * number + half) * HALF
        generation, length, digest = _HALF.unpack_from(self._map, at)
        if generation == 0 or length > HALF - _HALF.size:
            return None
        octets = self._map[at + _HALF.size : at + _HALF.size + length]
        return (generation, octets) if _digest(generation, octets) == digest else None


def _parts(octets: bytes) -> tuple[str, bytes]:
    """Name, content."""
    length = int.from_bytes(octets[:2], "big")
    return octets[2 : 2 + length].decode(), octets[2 + length :]


def _digest(generation: int, octets: bytes) -> bytes:
    return hashlib.blake2b(generation.to_bytes(8, "big") + octets, digest_size=16).digest()
