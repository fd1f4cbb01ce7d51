"""What the kernel says by itself on a netlink socket, read on the event loop until there is nothing more."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Iterable, Iterator

from gateway.runtime.flood_filter import Instruction, attach

_OCTETS = 1 << 18
_LOAD_WORD, _LOAD_HALF, _EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06  # linux/filter.h
_TYPE, _PORT = 4, 12  # where in nlmsghdr
_ACCEPT, _DROP = 0x40000, 0


def spare(watch: socket.socket, port: int, kinds: Iterable[int]) -> None:
    """The kernel keeps messages of these kinds to itself where a request from `port` caused them: whoever installs ten thousand
    routes need not be told ten thousand times."""
    # Loads are big-endian, netlink is of the host's order
    code: list[Instruction] = [
        (_LOAD_WORD, 0, 0, _PORT),
        (_EQUAL, 1, 0, _as_loaded("=I", port)),
        (_RETURN, 0, 0, _ACCEPT),
    ]
    code.append((_LOAD_HALF, 0, 0, _TYPE))
    for kind in kinds:
        code += [(_EQUAL, 0, 1, _as_loaded("=H", kind)), (_RETURN, 0, 0, _DROP)]
    attach([watch], [*code, (_RETURN, 0, 0, _ACCEPT)])


def _as_loaded(layout: str, value: int) -> int:
    return int.from_bytes(struct.pack(layout, value), "big")


def waiting(watch: socket.socket, listen: Callable[[], None]) -> Iterator[bytes | None]:
    """Datagrams that have come; None where the kernel dropped some for want of room (ENOBUFS). `listen` adds the reader."""
    while True:
        try:
            datagram = watch.recv(_OCTETS)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            # libuv stops polling an fd that had an error pending, so the reader is registered anew
            asyncio.get_running_loop().remove_reader(watch)
            listen()
            yield None
            continue
        yield datagram
