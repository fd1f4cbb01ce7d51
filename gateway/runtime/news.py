"""What the kernel says by itself on a netlink socket, read on the event loop until there is nothing more."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator

_OCTETS = 1 << 18


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
