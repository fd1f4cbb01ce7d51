"""Bounds-checked reading and writing of network byte order.

The only place of the project that does offset arithmetic on bytes from the network. Codecs declare
their layout and call these two classes; a short or over-long input is one exception, `Truncated`,
which every codec turns into its own protocol's error.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import Any


class Truncated(ValueError):
    """The input ended before the field did, or went on after the last one."""


class Reader:
    """Consumes a buffer front to back; never copies until asked for bytes."""

    __slots__ = ("_end", "_offset", "_view")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(data)
        self._offset = 0
        self._end = len(self._view)

    @property
    def offset(self) -> int:
        """Octets consumed so far."""
        return self._offset

    @property
    def remaining(self) -> int:
        """Octets not yet consumed."""
        return self._end - self._offset

    def _take(self, count: int) -> memoryview:
        if count < 0 or count > self._end - self._offset:
            raise Truncated(f"needed {count} octets, {self.remaining} left")
        start = self._offset
        self._offset = start + count
        return self._view[start : self._offset]

    def uint(self, octets: int) -> int:
        """An unsigned integer of `octets` octets."""
        return int.from_bytes(self._take(octets), "big")

    def unpack(self, fields: Struct) -> tuple[Any, ...]:
        """Several at once."""
        start = self._offset
        if fields.size > self._end - start:
            raise Truncated(f"needed {fields.size} octets, {self.remaining} left")
        self._offset = start + fields.size
        return fields.unpack_from(self._view, start)

    def u8(self) -> int:
        return self.uint(1)

    def u16(self) -> int:
        return self.uint(2)

    def u24(self) -> int:
        return self.uint(3)

    def u32(self) -> int:
        return self.uint(4)

    def u64(self) -> int:
        return self.uint(8)

    def take(self, count: int) -> bytes:
        """Exactly `count` octets, copied."""
        return bytes(self._take(count))

    def rest(self) -> bytes:
        """All that is left, copied."""
        start, self._offset = self._offset, self._end
        return bytes(self._view[start : self._end])

    def sub(self, count: int) -> Reader:
        """A reader over the next `count` octets, which this one skips."""
        return Reader(self._take(count))

    def expect_end(self) -> None:
        """Raises `Truncated` when octets are left over."""
        if self.remaining:
            raise Truncated(f"{self.remaining} octets after the end")


class Writer:
    """Builds a buffer front to back; lengths that are known late are patched in."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __len__(self) -> int:
        return len(self._buffer)

    def uint(self, value: int, octets: int) -> None:
        """Appends an unsigned integer; OverflowError when it does not fit."""
        self._buffer += value.to_bytes(octets, "big")

    def u8(self, value: int) -> None:
        self.uint(value, 1)

    def u16(self, value: int) -> None:
        self.uint(value, 2)

    def u24(self, value: int) -> None:
        self.uint(value, 3)

    def u32(self, value: int) -> None:
        self.uint(value, 4)

    def u64(self, value: int) -> None:
        self.uint(value, 8)

    def pack(self, fields: Struct, *values: int) -> None:
        """Appends several at once; OverflowError when one does not fit."""
        self._buffer += packed(fields, *values)

    def put(self, data: bytes | bytearray | memoryview) -> None:
        """Appends octets as they are."""
        self._buffer += data

    def patch(self, offset: int, value: int, octets: int) -> None:
        """Overwrites an integer written earlier at `offset`."""
        if offset < 0 or offset + octets > len(self._buffer):
            raise Truncated(f"patch of {octets} octets at {offset} of {len(self._buffer)}")
        self._buffer[offset : offset + octets] = value.to_bytes(octets, "big")

    def done(self) -> bytes:
        """The finished octets."""
        return bytes(self._buffer)


def packed(fields: Struct, *values: int) -> bytes:
    """The octets of several integers; OverflowError when one does not fit."""
    try:
        return fields.pack(*values)
    except struct.error as error:
        raise OverflowError(str(error)) from None
