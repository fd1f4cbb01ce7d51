"""Ten thousand routes announced: gatewayd beside a program that only keeps ExaBGP's window full, which is the limit.

What counts is the time from the first route that BIRD at the other end has to the last, so the reload that makes gatewayd
announce is not measured, nor the way to the peer.
"""

from __future__ import annotations

import random
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from support.daemon import GatewayDaemon
from support.netns import End, Lab
from support.process import LabError, wait_until

from benchmarks.background import background_share
from benchmarks.errors import BenchError
from benchmarks.report import write as say
from benchmarks.result import Goal, Result
from benchmarks.rounds import Quantities, Round, Settings, say_round
from benchmarks.route_sides import ask_bird, probe_of, start_bird, start_gatewayd
from benchmarks.two_ways import prefixes
from gateway.runtime import exabgp

_HERE = Path(__file__).parent
_NEAR, _FAR = "10.9.9.1", "10.9.9.2"
_INTERVAL, _SETTLED = 0.02, 120.0
_BIRD = f"""log stderr all;
router id {_FAR};
protocol device {{ }}
protocol bgp gateway1 {{ local {_FAR} as 65001; neighbor {_NEAR} as 65010; direct; connect retry time 1;
  error wait time 1, 2; ipv4 {{ import all; export none; }}; }}
"""
_GATEWAYD = f"""[gateway]
name = "gateway"
state_directory = "/run/gatewayd-state"
[connection.site]
local_addrs = "{_NEAR}"
remote_addrs = "{_FAR}"
psk.file = "site.psk"
start_action = "none"
tunnel_address = ["169.254.21.1/30"]
protected = ["172.16.0.0/16"]
[bgp]
local_as = 65010
listen_port = 0
advertise = [ROUTES]
[bgp.neighbor.far]
address = "{_FAR}"
remote_as = 65001
local_address = "{_NEAR}"
"""
_EXABGP = """process window {{ run {python} {window} {path} {far} {near}; encoder json; }}
neighbor {far} {{ local-address {near}; local-as 65010; peer-as 65001; router-id 10.9.9.1; hold-time 90; group-updates true;
 adj-rib-in true; adj-rib-out true; family {{ ipv4 unicast; }} capability {{ asn4 enable; route-refresh enable; }}
 api {{ processes [ window ]; }} }}
"""


class _Announcing(ABC):
    kind = ""

    def __init__(self, lab: Lab) -> None:
        self.near, self._far = lab.namespace("near"), lab.namespace("far")
        lab.link(End(self.near, "wan", (f"{_NEAR}/24",)), End(self._far, "wan", (f"{_FAR}/24",)))
        self._control = self._far.directory / "bird.ctl"

    def start(self) -> None:
        conf = self._far.directory / "bird.conf"
        conf.write_text(_BIRD)
        start_bird(self._far, conf, self._control)
        self._start()
        wait_until(
            lambda: "Established" in ask_bird(self._control, "show protocols gateway1")[1],
            30,
            f"session with {self.kind}",
        )
        time.sleep(1.0)  # ExaBGP says its End-of-RIB, and the speaker compares tables

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def announce(self, count: int) -> None:
        """These and no others."""

    def seconds(self, count: int) -> float:
        """From the first route that came, or went, to the last."""
        before = self._held()
        self.announce(count)
        first, end = 0.0, time.monotonic() + _SETTLED
        while (held := self._held()) != count:
            if not first and held != before:
                first = time.monotonic()
            if time.monotonic() > end:
                raise LabError(f"{self.kind}: {held} of {count} routes")
            time.sleep(_INTERVAL)
        return time.monotonic() - (first or time.monotonic() - _INTERVAL)

    def _held(self) -> int:
        answer = ask_bird(self._control, "show route count protocol gateway1")[1]
        return int(answer.split("-", 1)[1].split()[0])


class _Gatewayd(_Announcing):
    kind = "gatewayd"

    def _start(self) -> None:
        self.daemon = GatewayDaemon(
            self.near, _GATEWAYD.replace("ROUTES", ""), {"site.psk": "correct horse battery staple"}
        )
        start_gatewayd(self.daemon)

    def announce(self, count: int) -> None:
        self.daemon.config.write_text(_GATEWAYD.replace("ROUTES", ", ".join(f'"{one}"' for one in prefixes(count))))
        ok, text = self.daemon.operate("reload", "", 60)
        if not ok:
            raise BenchError(text[:300])


class _Window(_Announcing):
    kind = "ExaBGP, its window kept full"

    def _start(self) -> None:
        self._socket, conf = self.near.directory / "window.sock", self.near.directory / "exabgp.conf"
        words = {
            "python": sys.executable,
            "window": _HERE / "window.py",
            "path": self._socket,
            "near": _NEAR,
            "far": _FAR,
        }
        conf.write_text(_EXABGP.format(**words))
        # A shell would drop names with dots
        settings = [f"{name}={value}" for name, value in exabgp.environment().items()]
        self.near.start(
            "exabgp", ["env", *settings, sys.executable, "-I", str(exabgp.PROGRAM), "/nowhere", "server", str(conf)]
        )
        wait_until(self._socket.exists, 20, "the helper listens")
        self._count = 0

    def announce(self, count: int) -> None:
        verb, number = ("announce", count) if count else ("withdraw", self._count)
        self._count = count
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(self._socket))
            asking.sendall(f"{verb} {number}".encode())


_SIDES: Mapping[str, Callable[[Lab], _Announcing]] = {"ours": _Gatewayd, "peer": _Window}


@dataclass(frozen=True, slots=True)
class AnnounceCase:
    name: str
    about: str
    routes: int = 10_000

    def run(self, settings: Settings) -> list[Result]:
        with ExitStack() as stack:
            sides = {label: make(stack.enter_context(Lab())) for label, make in _SIDES.items()}
            for label, side in sides.items():
                side.start()
                say(f"   {label + ':':6} {side.kind}\n")
            rounds = [self._round(number, sides) for number in range(settings.rounds)]
        rows = (("", "announced", Goal("<=", 1.1)), ("-withdrawn", "withdrawn", Goal("<=", 1.1)))
        return [
            Result(self.name + name, "s", goal, tuple((one["ours"][what], one["peer"][what]) for one in rounds),
                   details=[dict(one) for one in rounds])
            for name, what, goal in rows
        ]  # fmt: skip

    def void(self, status: str, reason: str) -> list[Result]:
        return [Result(self.name, "s", Goal("<=", 1.1), status=status, reason=reason)]

    def _round(self, number: int, sides: Mapping[str, _Announcing]) -> Round:
        background = background_share()
        found: dict[str, Quantities] = {}
        for label in random.sample(list(sides), len(sides)):
            side = sides[label]
            if isinstance(side, _Gatewayd):
                probe_of(side.daemon)
            found[label] = {"announced": side.seconds(self.routes), "withdrawn": side.seconds(0)}
            if isinstance(side, _Gatewayd):
                found[label]["late_p99"] = probe_of(side.daemon)["late p99, ms"]
        say_round(number, found, background)
        return found | {"machine": {"background": background}}
