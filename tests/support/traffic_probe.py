"""A stream of numbered, time-stamped UDP datagrams: the sender and the receiver, run as processes of their own.

    traffic_probe.py send  LOCAL REMOTE PORT RATE PAYLOAD      until SIGTERM; prints how many it sent
    traffic_probe.py receive LOCAL PORT FILE                   until SIGTERM; appends one record per datagram

Standard library only, no import of ours: it starts fast. Times are CLOCK_MONOTONIC, which all namespaces of one host
share, so one-way delays are meaningful. The marker makes a leaked probe recognisable in a capture of the WAN.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
import threading
import time

MARKER = b"clear-text-probe"
HEADER = struct.Struct("!16sId")  # marker, sequence number, sent at
RECORD = struct.Struct("=Idd")  # sequence number, sent at, received at
_FLUSH_EVERY = 0.05

_stopped = threading.Event()


def _stop(_number: int, _frame: object) -> None:
    _stopped.set()


def send(local: str, remote: str, port: int, rate: float, payload: int) -> None:
    """One datagram every 1/rate seconds; after a stall the schedule is caught up, so that loss is never hidden."""
    stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    stream.bind((local, 0))
    padding = bytes(max(0, payload - HEADER.size))
    started = time.monotonic()
    number = refused = 0
    while not _stopped.is_set():
        due = started + number / rate
        now = time.monotonic()
        if now < due:
            time.sleep(due - now)
            continue
        try:
            stream.sendto(HEADER.pack(MARKER, number, now) + padding, (remote, port))
        except OSError:
            refused += 1  # unreachable: the datagram counts as sent and will be missing
        number += 1
    print(number, refused, flush=True)


def receive(local: str, port: int, path: str) -> None:
    """Write what arrives; the file is current to within 50 ms."""
    stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    stream.bind((local, port))
    stream.settimeout(_FLUSH_EVERY)
    pending = bytearray()
    flushed = time.monotonic()
    with open(path, "ab", buffering=0) as log:
        while not _stopped.is_set():
            try:
                data = stream.recv(65535)
                now = time.monotonic()
                marker, number, sent = HEADER.unpack_from(data)
                if marker == MARKER:
                    pending += RECORD.pack(number, sent, now)
            except TimeoutError:
                now = time.monotonic()
            if pending and now - flushed >= _FLUSH_EVERY:
                log.write(pending)
                pending.clear()
                flushed = now
        log.write(pending)


def main() -> None:
    signal.signal(signal.SIGTERM, _stop)
    role, *rest = sys.argv[1:]
    if role == "send":
        send(rest[0], rest[1], int(rest[2]), float(rest[3]), int(rest[4]))
    else:
        receive(rest[0], int(rest[1]), rest[2])


if __name__ == "__main__":
    main()
