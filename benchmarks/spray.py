"""One packet a millisecond, in turns to prefixes of a table, and where they come out: `spray.py send`, `spray.py take`.

    take    prints for each packet: which prefix, its number, when (monotonic)

The prefixes are spread over the table, the first and the last among them. It needs only the standard library.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

INTERVAL = 0.001
TARGETS, OF = 10, 10_000
_PORT = 7003


def send() -> None:
    """Until killed. Where there is no route the kernel says so; that is a packet lost like any other."""
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    number = 0
    while True:
        target = number % TARGETS
        chosen = target * (OF - 1) // (TARGETS - 1)
        with contextlib.suppress(OSError):
            sending.sendto(f"{target} {number}".encode(), (f"20.{chosen >> 8}.{chosen & 255}.10", _PORT))
        number += 1
        time.sleep(INTERVAL)


def take() -> None:
    """Until killed."""
    taking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taking.bind(("0.0.0.0", _PORT))
    while True:
        words = taking.recv(64).decode()
        sys.stdout.write(f"{words} {time.monotonic():.6f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    {"send": send, "take": take}[sys.argv[1]]()
