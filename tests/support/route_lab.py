"""Two namespaces for routing tests: a gateway whose main table reaches everything in clear, and the world behind it.

    gw  va 10.0.1.4/24 -------- vb 10.0.1.1/24  world, which also answers for every address of ANSWERS

Code under test runs inside `gw` in a thread of its own (namespaces are per thread). Names start with `gwrt` and carry
the pid; nothing outside the two namespaces is touched.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from support.process import run, wait_until

from gateway.config.model import Gateway
from gateway.routing.fib import Fib
from gateway.routing.model import (
    Applied,
    Command,
    DumpRequest,
    NextHopResolved,
    Op,
    Reconcile,
    Resolve,
)
from gateway.runtime import tun
from gateway.runtime.netlink import Netlink

Value = TypeVar("Value")
ANSWERS = (
    "172.16.0.1",
    "172.16.9.1",
    "203.0.113.7",
    "169.254.169.254",
    "168.63.129.16",
    "2001:db8:5::1",
    "2001:db8:99::7",
)
SETTINGS = Gateway()
ONPREM, SIX = ip_network("172.16.0.0/12"), ip_network("2001:db8:5::/48")
INSIDE = (ip_interface("169.254.21.1/30"), ip_interface("fd00:21::1/64"))
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class RouteLab:
    """`with RouteLab() as lab`."""

    def __init__(self) -> None:
        self.gw, self.world = (f"gwrt{os.getpid()}-{name}" for name in ("gw", "world"))

    def __enter__(self) -> RouteLab:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self) -> None:
        for name in (self.gw, self.world):
            run(("ip", "netns", "add", name))
        self.batch(self.gw, "link set lo up", f"link add va type veth peer name vb netns {self.world}")
        self.batch(self.gw, "address add 10.0.1.4/24 dev va", "address add fd01::4/64 dev va nodad", "link set va up")
        self.batch(
            self.world, "link set lo up", "address add 10.0.1.1/24 dev vb", "address add fd01::1/64 dev vb nodad"
        )
        self.batch(self.world, "link set vb up", *(f"address add {a} dev lo" for a in ANSWERS))
        self.batch(self.gw, "route add default via 10.0.1.1", "route add ::/0 via fd01::1")

    def __exit__(self, *exception: object) -> None:
        for name in (self.gw, self.world):
            subprocess.run(("ip", "netns", "delete", name), check=False, capture_output=True)

    def batch(self, name: str, *lines: str) -> None:
        run(("ip", "-n", name, "-batch", "-"), stdin="\n".join(lines) + "\n")

    def ip(self, *arguments: str) -> list[dict[str, Any]]:
        """`ip -json` in the gateway; an absent table is empty."""
        done = subprocess.run(("ip", "-n", self.gw, "-json", *arguments), capture_output=True, text=True, check=False)
        return [entry for entry in json.loads(done.stdout or "[]") if entry]

    def state(self) -> dict[str, list[str]]:
        """Everything cleanup could leave behind or take too much of."""
        views = {
            "rules": ("rule",),
            "rules6": ("-6", "rule"),
            "routes": ("route", "show", "table", "all"),
            "routes6": ("-6", "route", "show", "table", "all"),
            "nexthops": ("nexthop",),
            "links": ("link",),
        }
        return {name: sorted(_stable(entry) for entry in self.ip(*view)) for name, view in views.items()}

    def wait_settled(self) -> None:
        """Until the kernel has noticed that the link is up, both families: on a busy machine that takes it a while."""

        def settled() -> bool:
            routes = (*self.ip("route", "show", "table", "all"), *self.ip("-6", "route", "show", "table", "all"))
            own = [row for row in routes if row["dst"].startswith("fe80:") and row.get("type") == "local"]
            return bool(own) and not any("linkdown" in row.get("flags", ()) for row in routes)

        wait_until(settled, 10, "the link is up")

    def table(self, family: str = "-4") -> list[tuple[str, str, int]]:
        """(type, prefix, metric) of our table, sorted."""
        routes = self.ip(family, "route", "show", "table", "221")
        return sorted((r.get("type", "unicast"), r["dst"], r.get("metric", 0)) for r in routes)

    def way(self, address: str, *options: str) -> str:
        """The device a packet would leave by, or "" if the lookup ends in a blackhole."""
        family = "-6" if ":" in address else "-4"
        found = self.ip(family, "route", "get", address, *options)
        return str(found[0]["dev"]) if found and found[0].get("type", "unicast") == "unicast" else ""

    def pings(self, address: str, *options: str) -> bool:
        command = ("ip", "netns", "exec", self.gw, "ping", "-n", "-c1", "-W3", *options, address)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def sync(self, work: Callable[[], Value], name: str = "") -> Value:
        """Run `work` in a thread inside the gateway's namespace, or another one of ours."""
        outcome: list[Value] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                with Path("/run/netns", name or self.gw).open() as namespace:
                    if _libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                outcome.append(work())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def run(self, main: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Run a coroutine function on uvloop inside the gateway's namespace."""
        return self.sync(lambda: uvloop.run(main()))


class Driver:
    """A Fib on the real kernel."""

    def __init__(self, netlink: Netlink) -> None:
        self.fib = Fib()
        self.netlink = netlink
        self.batches: list[tuple[Op, ...]] = []

    async def tell(self, *commands: Command) -> None:
        """All commands, then everything they cause."""
        for command in commands:
            self.fib.command(command, 0.0)
        while effects := list(self.fib.poll()):
            for effect in effects:
                self.fib.command(await self._answer(effect), 0.0)

    async def _answer(self, effect: object) -> Command:
        if isinstance(effect, Resolve):
            return NextHopResolved(effect.address, await self.netlink.interface_for(effect.address))
        if isinstance(effect, DumpRequest):
            return Reconcile(effect.ticket, await self.netlink.dump())
        self.batches.append(effect.ops)  # type: ignore[attr-defined]
        return Applied(effect.ticket, await self.netlink.apply(effect.ops))  # type: ignore[attr-defined]


class Tunnel:
    """A connection's TUN, configured and told to the FIB."""

    def __init__(self, netlink: Netlink, name: str = "gw-edge") -> None:
        self.netlink, self.name = netlink, name
        self.fds: list[int] = []

    async def open(self, queues: int = 1) -> int:
        self.fds = tun.open_tun(self.name, queues)
        return await self.netlink.configure_link(self.name, 1400, INSIDE)

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


def _stable(entry: dict[str, Any]) -> str:
    changing = ("expires", "ifindex", "link_index", "operstate", "txqlen")
    return json.dumps({key: value for key, value in entry.items() if key not in changing}, sort_keys=True)
