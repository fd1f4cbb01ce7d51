"""What a bad WAN does to packets, as nftables rules in the WAN router's namespace: loss, cuts, PMTU holes, NAT.

    with loss(wan, percent=10): ...

Delay and reordering are not here: this needs queues nftables does not have. Each impairment is one table of its own,
removed on leaving the block.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from support.netns import Namespace

_numbers = itertools.count(1)


@contextmanager
def loss(router: Namespace, percent: int, *, match: str = "") -> Iterator[None]:
    """Random loss of forwarded packets, both ways."""
    with _table(router, "ip", f"{match} numgen random mod 100 < {percent} counter drop"):
        yield


@contextmanager
def blocked(router: Namespace, match: str) -> Iterator[None]:
    """A firewall: what matches is not forwarded, either way."""
    with _table(router, "ip", f"{match} counter drop"):
        yield


@contextmanager
def cut(router: Namespace, device: str) -> Iterator[None]:
    """One-way black hole: nothing that arrives on `device` is forwarded."""
    with _table(router, "ip", f'iifname "{device}" counter drop'):
        yield


@contextmanager
def doubled(router: Namespace, address: str, device: str, match: str) -> Iterator[None]:
    """What matches on its way to `address`, which is behind `device`, comes twice."""
    with _table(router, "ip", f'ip daddr {address} {match} dup to {address} device "{device}"', hook="prerouting"):
        yield


@contextmanager
def pmtu_hole(router: Namespace, size: int) -> Iterator[None]:
    """Packets longer than `size` vanish without an ICMP message."""
    with _table(router, "ip", f"ip length > {size} counter drop"):
        yield


@contextmanager
def source_nat(
    router: Namespace, source: str, out_device: str, address: str, *, random_ports: bool = True
) -> Iterator[None]:
    """`source` appears as `address`, from ports of the NAT's own choice."""
    ports = "random" if random_ports else ""
    with _table(
        router,
        "ip",
        f'ip saddr {source} oifname "{out_device}" snat to {address} {ports}',
        hook="postrouting",
        kind="nat",
    ):
        yield


@contextmanager
def _table(router: Namespace, family: str, rule: str, *, hook: str = "forward", kind: str = "filter") -> Iterator[None]:
    name = f"impair{next(_numbers)}"
    priority = "srcnat" if kind == "nat" else "filter"
    chain = f"type {kind} hook {hook} priority {priority};\n{rule}"
    router.run("nft", "-f", "-", stdin=f"table {family} {name} {{\nchain c {{\n{chain}\n}}\n}}\n")
    try:
        yield
    finally:
        router.run("nft", "delete", "table", family, name)
