"""A slow way for the datagrams of a pair's heartbeat, for there is no netem everywhere: a TUN that holds each packet for a while.

    python slow_link.py DEVICE BASE JITTER PERIOD        seconds, as decimal fractions

Each packet comes out of the TUN as it went in, BASE and up to JITTER later, so that they overtake each other; with a PERIOD all
of one period come out at its end, at once. What leads packets into it is the caller's (`slowed`).
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from support.netns import Namespace
from support.process import wait_until

DEVICE, MARK, TABLE = "slow0", 0x51, 51
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
LONGEST = 65535


@contextmanager
def slowed(router: Namespace, match: str, *, base: float, jitter: float = 0.0, period: float = 0.0) -> Iterator[None]:
    """What this router forwards and nftables matches takes the slow way."""
    words = [sys.executable, "-P", __file__, DEVICE, str(base), str(jitter), str(period)]
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = router.start(f"slow-link-{time.monotonic_ns()}", words, env=paths)
    wait_until(lambda: bool(router.ip_json("link", "show", DEVICE)), 5, "the slow link is there", logs=[process])
    router.batch(f"link set {DEVICE} up", f"route add default dev {DEVICE} table {TABLE}")
    router.batch(f"rule add fwmark {MARK} lookup {TABLE}")
    rule = f'type filter hook prerouting priority mangle;\niifname != "{DEVICE}" {match} meta mark set {MARK}'
    router.run("nft", "-f", "-", stdin=f"table ip slow {{\nchain c {{\n{rule}\n}}\n}}\n")
    try:
        yield
    finally:
        router.run("nft", "delete", "table", "ip", "slow")
        router.batch(f"rule del fwmark {MARK} lookup {TABLE}")
        process.stop()
        wait_until(lambda: not router.ip_json("link", "show", DEVICE), 5, "the slow link is gone")


def main(device: str, base: float, jitter: float, period: float) -> None:
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("=16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
    held: list[tuple[float, int, bytes]] = []
    count = 0
    while True:
        left = held[0][0] - time.monotonic() if held else None
        ready, _, _ = select.select([tun], [], [], None if left is None else max(0.0, left))
        now = time.monotonic()
        if ready:
            due = now + base + random.uniform(0, jitter)
            if period:
                due = (due // period + 1) * period
            count += 1  # equal times keep their order
            heapq.heappush(held, (due, count, os.read(tun, LONGEST)))
        while held and held[0][0] <= now:
            os.write(tun, heapq.heappop(held)[2])


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:5]))
