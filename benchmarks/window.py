"""ExaBGP's limit: a helper of its that says nothing but announcements, 50 of them unanswered at any time.

    window.py SOCKET PEER NEXT_HOP      takes "announce COUNT" and "withdraw COUNT"

The window is that of gateway/bgp/link.py. It needs only the standard library.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

_WINDOW = 50


def main(path: str, peer: str, next_hop: str) -> None:
    """Until ExaBGP ends."""
    Path(path).unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    answers = _answers()
    while True:
        client, _ = server.accept()
        verb, count = client.recv(100).decode().split()
        rest = f" next-hop {next_hop} origin igp as-path [ 65010 ]" if verb == "announce" else ""
        client.close()
        unanswered = 0
        for number in range(int(count)):
            command = f"neighbor {peer} {verb} route 20.{number >> 8}.{number & 255}.0/24{rest}\n"
            os.write(1, command.encode())
            unanswered += 1
            while unanswered >= _WINDOW:
                unanswered -= next(answers)
        while unanswered > 0:
            unanswered -= next(answers)


def _answers() -> Iterator[int]:
    """How many came with each reading."""
    rest = b""
    os.set_blocking(0, True)
    while data := os.read(0, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        yield sum(line in (b"done", b"error") for line in lines)


if __name__ == "__main__":
    main(*sys.argv[1:4])
