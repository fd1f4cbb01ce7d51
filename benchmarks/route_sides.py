"""Who takes routes from an edge into its kernel: gatewayd through a tunnel, gatewayd behind a stand-in for ExaBGP, BIRD, FRR.

    edge: BIRD, `announce(COUNT)`  ---- BGP ----  gateway: the one that is measured ---- rtnetlink ---- route_watch.py

Each side is a laboratory of its own. The routes are 20.0.0.0/24 and so on, each with a community of its own, so that each
comes in an UPDATE of its own: the worst that a peer can do.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

from support.bgp_peers import FRR
from support.daemon import GatewayDaemon, binary, configuration
from support.netns import End, Lab, Namespace
from support.process import Process, wait_until
from support.scene import EDGE_CONNECTION, PSK, SESSION_GATEWAY, Scene

from benchmarks.errors import BenchError, Unavailable
from benchmarks.side import cpu_seconds

SETTLED = 120.0
_HERE = Path(__file__).parent
_MAIN, _OURS = 254, 221
_EDGE, _GATEWAY = "10.9.9.2", "10.9.9.1"
_EDGE_BIRD = f"""log stderr all;
router id {_EDGE};
protocol device {{ }}
protocol static own {{ ipv4;
include "ROUTES";
}}
protocol bgp {SESSION_GATEWAY} {{ local {_EDGE} as 65001; neighbor {_GATEWAY} as 65010; direct; connect retry time 1;
  ipv4 {{ import none; export all; next hop self; }}; }}
"""
_GATEWAY_BIRD = f"""log stderr all;
router id {_GATEWAY};
protocol device {{ }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol bgp edge {{ local {_GATEWAY} as 65010; neighbor {_EDGE} as 65001; direct; connect retry time 1;
  ipv4 {{ import all; export none; }}; }}
"""
_GATEWAY_FRR = f"""router bgp 65010
 bgp router-id {_GATEWAY}
 no bgp ebgp-requires-policy
 neighbor {_EDGE} remote-as 65001
 neighbor {_EDGE} timers connect 1
"""
_OWN = f"""[gateway]
name = "gateway"
state_directory = "/run/gatewayd-state"
[connection.site]
local_addrs = "{_GATEWAY}"
remote_addrs = "{_EDGE}"
psk.file = "site.psk"
start_action = "none"
tunnel_address = ["169.254.21.1/30"]
protected = ["172.16.0.0/16"]
[bgp]
local_as = 65010
[bgp.neighbor.edge]
address = "169.254.21.2"
remote_as = 65001
connection = "site"
max_prefixes = 200000
"""


class RouteSide(ABC):
    """`kind` for people; `table` where its routes are."""

    kind = ""
    table = _OURS
    machine: Namespace

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._watch: Process | None = None

    @abstractmethod
    def start(self) -> None:
        """Until the session stands."""

    @abstractmethod
    def announce(self, count: int) -> float:
        """These and no others, from now on; when that began."""

    @property
    @abstractmethod
    def measured(self) -> list[int]:
        """The processes whose CPU time is what it costs."""

    def watch(self) -> None:
        argv = [sys.executable, "-S", "-E", str(_HERE / "route_watch.py"), str(self.table)]
        self._watch = self.machine.start("watch", argv)
        wait_until(lambda: self._seen() != [], 10, "route_watch.py listens", logs=[self._watch])

    def taken(self, count: int) -> tuple[float, float]:
        """Seconds from what `announce` does until the kernel has so many; CPU seconds."""
        before = sum(map(cpu_seconds, self.measured))
        begun = self.announce(count)

        def there() -> float:
            at, held = self._seen()[-1]
            return at if held == count and at > begun else 0.0

        done = wait_until(there, SETTLED, f"{self.kind}: {count} routes", interval=0.1, logs=[self._watch])
        return done - begun, sum(map(cpu_seconds, self.measured)) - before

    def _seen(self) -> list[tuple[float, int]]:
        assert self._watch is not None
        rows = [line.split() for line in self._watch.log.read_text().splitlines()[-3:]]
        return [(float(row[0]), int(row[1])) for row in rows if len(row) == 2]


class EdgeBird:
    """BIRD with a file of routes that can be another one."""

    def __init__(self, machine: Namespace) -> None:
        self.machine = machine
        self.routes = machine.directory / "many.conf"
        self.routes.write_text("")
        self.socket = machine.directory / "bird.ctl"

    def start(self, text: str) -> None:
        conf = self.machine.directory / "bird.conf"
        conf.write_text(text)
        start_bird(self.machine, conf, self.socket)

    def announce(self, count: int) -> float:
        """BIRD reads the file in the time that is measured, some 4 us a route."""
        self.routes.write_text(
            "".join(
                f"route {20 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.0/24 blackhole {{ bgp_community.add(({65001 + (number >> 16)}, {number & 0xFFFF})); }};\n"
                for number in range(count)
            )
        )
        begun, answer = ask_bird(self.socket, "configure")
        if "Reconfig" not in answer:
            raise BenchError(f"BIRD: {answer}")
        return begun


class GatewaydRoutes(RouteSide):
    """As installed: ExaBGP, a tunnel with strongSwan at its other end, every learned prefix with its blackhole."""

    kind = "gatewayd, in a tunnel"

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.scene = Scene(lab)
        self.machine = self.scene.gateway
        self.edge = EdgeBird(self.scene.edge)
        text = configuration(EDGE_CONNECTION, bgp=True)
        text = text.replace('connection = "site"', 'connection = "site"\nmax_prefixes = 20000')
        self.daemon = GatewayDaemon(self.machine, text, {"site.psk": PSK})

    def start(self) -> None:
        self.scene.edge_charon().start()
        bird = self.scene.edge_bird(["172.16.0.0/16"])
        conf = self.scene.edge.directory / "bird.conf"
        text = conf.read_text().replace("blackhole;\n", f'blackhole;\ninclude "{self.edge.routes}";\n', 1)
        conf.write_text(text.replace("export where net ~ [ 172.16.0.0/16 ]", "export where source = RTS_STATIC"))
        bird.start()
        start_gatewayd(self.daemon)
        self.daemon.wait_up(30)
        bird.wait_established(SESSION_GATEWAY, 30, logs=[self.daemon.process])

    def announce(self, count: int) -> float:
        return self.edge.announce(count)

    @property
    def measured(self) -> list[int]:
        return [
            pid for word in ("route_daemon", "bgp_unit", "exabgp", "bgp_relay") for pid in self.machine.pids_of(word)
        ]


class OwnPart(RouteSide):
    """gatewayd with ExaBGP's place taken (benchmarks/standin): from ExaBGP's lines on it is all ours. The tunnel is down, so
    the routes' group holds a blackhole; the kernel is asked for the same."""

    kind = "gatewayd, from ExaBGP's lines on"

    def __init__(self, lab: Lab, text: str = _OWN) -> None:
        super().__init__(lab)
        self.machine = lab.namespace("gateway")
        lab.link(End(self.machine, "wan", (f"{_GATEWAY}/24",)), End(lab.namespace("edge"), "wan", (f"{_EDGE}/24",)))
        self.machine.forwarding()
        self.daemon = GatewayDaemon(self.machine, text, {"site.psk": PSK})
        self._count = 0

    def start(self) -> None:
        start_gatewayd(self.daemon, str(_HERE / "standin"))
        self.daemon.wait_bgp("edge", 30)

    def announce(self, count: int) -> float:
        verb, number = ("announce", count) if count else ("withdraw", self._count)
        self._count = count
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(self.machine.run_directory / "gatewayd" / "standin.sock"))
            asking.sendall(f"{verb} {number}".encode())
            return float(asking.recv(100))

    @property
    def measured(self) -> list[int]:
        return _pids(self.machine, "route_daemon", "bgp_unit", "bgp_relay")


class _Routed(RouteSide):
    """A router that does BGP itself, on one link."""

    table = _MAIN

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.machine = lab.namespace("gateway")
        edge = lab.namespace("edge")
        lab.link(End(self.machine, "wan", (f"{_GATEWAY}/24",)), End(edge, "wan", (f"{_EDGE}/24",)))
        self.edge = EdgeBird(edge)
        self._processes: list[Process] = []

    def announce(self, count: int) -> float:
        return self.edge.announce(count)

    def _start_edge(self) -> None:
        self.edge.start(_EDGE_BIRD.replace("ROUTES", str(self.edge.routes)))
        wait_until(
            lambda: "Established" in ask_bird(self.edge.socket, f"show protocols {SESSION_GATEWAY}")[1], 30,
            f"session with {self.kind}", logs=self._processes,
        )  # fmt: skip

    @property
    def measured(self) -> list[int]:
        return [process.pid for process in self._processes]


class BirdRoutes(_Routed):
    """BIRD with its kernel protocol."""

    kind = "BIRD"

    def start(self) -> None:
        conf = self.machine.directory / "gateway.conf"
        conf.write_text(_GATEWAY_BIRD)
        self._processes.append(start_bird(self.machine, conf, self.machine.directory / "gateway.ctl"))
        self._start_edge()


class FrrRoutes(_Routed):
    """bgpd and zebra."""

    kind = "FRR"

    def start(self) -> None:
        if not (FRR / "bgpd").exists():
            raise Unavailable("not available: FRR is not installed")
        directory = self.machine.directory / "frr"
        directory.mkdir()
        for name, text in (("zebra", ""), ("bgpd", _GATEWAY_FRR)):
            (directory / f"{name}.conf").write_text(text)
        for path in (directory, *directory.iterdir()):
            shutil.chown(path, "frr", "frr")
        for parent in (self.machine.directory, self.machine.directory.parent):
            parent.chmod(0o755)
        for name, more in (("zebra", []), ("bgpd", ["-S"])):
            argv = [str(FRR / name), "-f", str(directory / f"{name}.conf"), "-i", str(directory / f"{name}.pid"), *more]
            argv += ["-z", str(directory / "zserv"), "--vty_socket", str(directory), "--log", "stdout"]
            self._processes.append(self.machine.start(name, argv))
            wait_until((directory / f"{name}.vty").exists, 10, f"{name}'s socket", logs=self._processes)
        self._start_edge()


class Late:
    """What timers of this machine are late by when nobody does anything else in the process."""

    def __init__(self, machine: Namespace) -> None:
        self._output = machine.directory / "late.json"
        self._process = machine.start("late", [sys.executable, "-m", "benchmarks.late", str(self._output)])

    def read(self) -> dict[str, float]:
        """Since the last time; see tests/support/loop_probe.py."""
        return read_probe(self._process, self._output)


def read_probe(process: Process, output: Path) -> dict[str, float]:
    """What a loop probe saw since it was last asked."""
    output.unlink(missing_ok=True)
    process.signal(signal.SIGUSR2)
    wait_until(output.exists, 30, "the probe answers", logs=[process])
    found: dict[str, float] = json.loads(output.read_text())
    return found


def probe_of(daemon: GatewayDaemon) -> dict[str, float]:
    assert daemon.process is not None
    return read_probe(daemon.process, daemon.directory / "probe.json")


def start_gatewayd(daemon: GatewayDaemon, *more: str) -> None:
    """Under the loop probe. `more`: where its processes find modules first."""
    argv = [sys.executable, "-m", "benchmarks.route_daemon", str(daemon.directory / "probe.json")]
    argv += [str(binary("gatewayd")), "--config", str(daemon.config)]
    path = os.pathsep.join((*more, str(_HERE.parent)))
    daemon.process = daemon.machine.start("gatewayd", argv, env={"PYTHONPATH": path})
    wait_until(lambda: daemon.status() is not None, 20, "gatewayd answers", logs=[daemon.process])


def ask_bird(control: Path, line: str) -> tuple[float, str]:
    """When it was told, and the answer. Without starting birdc, which takes longer than what is measured."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(10)
        asking.connect(str(control))
        asking.recv(4096)
        begun = time.monotonic()
        asking.sendall(line.encode() + b"\n")
        return begun, asking.recv(65536).decode()


def _pids(machine: Namespace, *words: str) -> list[int]:
    return sorted({pid for word in words for pid in machine.pids_of(word)})


def start_bird(machine: Namespace, conf: Path, control: Path) -> Process:
    process = machine.start("bird", ["bird", "-f", "-c", str(conf), "-s", str(control), "-P", f"{control}.pid"])
    wait_until(control.exists, 5, "BIRD's control socket", logs=[process])
    return process
