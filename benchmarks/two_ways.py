"""Who has ten thousand routes by two ways, and how it leaves the one: gatewayd over two tunnels, BIRD and FRR over two links.

    host: spray.py send ---- gateway: the one that is measured ==== edge1, edge2: the same routes, spray.py take

The first way is preferred (its AS path is shorter). It ends in order (`leave`) or silently (`cut`: BFD finds out).
"""

from __future__ import annotations

import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from support.bgp_peers import FRR
from support.netns import End, Lab, Namespace
from support.process import Process, wait_until
from support.two_paths import TwoPaths

from benchmarks.errors import BenchError, Unavailable
from benchmarks.route_sides import ask_bird, start_bird, start_gatewayd
from benchmarks.side import cpu_seconds

SETTLED = 120.0
_HERE = Path(__file__).parent
_GATEWAY_BIRD = """log stderr all;
router id 10.9.1.1;
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol bfd {{ interface "*" {{ interval {interval} ms; multiplier 3; }}; }}
protocol bgp edge1 {{ local 10.9.1.1 as 65010; neighbor 10.9.1.2 as 65001; direct; bfd on; connect retry time 1; error wait time 1, 2;
  ipv4 {{ import all; export none; }}; }}
protocol bgp edge2 {{ local 10.9.2.1 as 65010; neighbor 10.9.2.2 as 65002; direct; bfd on; connect retry time 1; error wait time 1, 2;
  ipv4 {{ import all; export none; }}; }}
"""
_EDGE_BIRD = """log stderr all;
router id 10.9.{number}.2;
protocol device {{ scan time 1; }}
protocol bfd {{ interface "*" {{ interval {interval} ms; multiplier 3; }}; }}
protocol static {{ ipv4;
{routes}
}}
protocol bgp upstream {{ local 10.9.{number}.2 as 6500{number}; neighbor 10.9.{number}.1 as 65010; direct; bfd on;
  connect retry time 1; error wait time 1, 2; ipv4 {{ import none; export filter {{ {prepend} accept; }}; next hop self; }}; }}
"""
_GATEWAY_FRR = """router bgp 65010
 bgp router-id 10.9.1.1
 no bgp ebgp-requires-policy
 neighbor 10.9.1.2 remote-as 65001
 neighbor 10.9.1.2 timers connect 1
 neighbor 10.9.1.2 bfd 3 {interval} {interval}
 neighbor 10.9.2.2 remote-as 65002
 neighbor 10.9.2.2 timers connect 1
 neighbor 10.9.2.2 bfd 3 {interval} {interval}
"""


def prefixes(count: int) -> Iterable[str]:
    return (f"20.{number >> 8}.{number & 255}.0/24" for number in range(count))


class TwoWays(ABC):
    """`interval` of BFD in milliseconds; its multiplier is 3."""

    kind = ""
    host: Namespace
    gateway: Namespace
    edges: list[Namespace]

    def __init__(self) -> None:
        self._takers: list[tuple[Process, int]] = []

    @abstractmethod
    def start(self) -> None:
        """Until both ways are there and the first is used."""

    @abstractmethod
    def leave(self) -> None:
        """Give the first way up, in order."""

    @abstractmethod
    def come_back(self) -> None:
        """And take it again, after `leave`."""

    @abstractmethod
    def cut(self) -> None:
        """Nothing passes to or from the first edge any more."""

    @abstractmethod
    def mend(self) -> None: ...

    @property
    @abstractmethod
    def measured(self) -> list[int]:
        """The processes whose CPU time is what it costs."""

    @property
    def cpu(self) -> float:
        return sum(map(cpu_seconds, self.measured))

    def spray(self) -> None:
        for edge in self.edges:
            edge.batch("link set lo up", "route add local 20.0.0.0/7 dev lo")
            self._takers.append((edge.start("take", [sys.executable, "-S", "-E", str(_HERE / "spray.py"), "take"]), 0))
        self.host.start("send", [sys.executable, "-S", "-E", str(_HERE / "spray.py"), "send"])
        self.wait_for(0)

    def wait_for(self, edge: int) -> None:
        """Until packets to all prefixes come out there, and there alone."""

        def alone() -> bool:
            self.forget()
            wait_until(
                lambda: sum(map(len, self.taken(edge).values())) > 100, SETTLED, f"{self.kind}: packets at edge {edge}"
            )
            return not self.taken(1 - edge)

        wait_until(alone, SETTLED, f"{self.kind}: all packets at edge {edge}")

    def forget(self) -> None:
        """What came out so far."""
        self._takers = [(taker, taker.log.stat().st_size) for taker, _ in self._takers]

    def taken(self, edge: int) -> dict[int, list[tuple[int, float]]]:
        """By prefix: number and when of each packet that came out there."""
        taker, begin = self._takers[edge]
        found: dict[int, list[tuple[int, float]]] = {}
        with taker.log.open() as lines:
            lines.seek(begin)
            for line in lines:
                words = line.split()
                if len(words) == 3 and line.endswith("\n"):
                    found.setdefault(int(words[0]), []).append((int(words[1]), float(words[2])))
        return found


class Tunnels(TwoWays):
    """gatewayd, BGP and BFD inside two tunnels to two gatewayds."""

    kind = "gatewayd, two tunnels"

    def __init__(self, lab: Lab, interval: int, count: int) -> None:
        super().__init__()
        self.paths = TwoPaths(lab, bfd=f'interval = "{interval}ms"')
        self.host, self.gateway, self.edges = self.paths.host, self.paths.gateway, self.paths.edges
        many = ", ".join(f'"{prefix}"' for prefix in prefixes(count))
        for peer in self.paths.peers:
            text = peer.config.read_text()
            peer.config.write_text(text.replace('advertise = ["172.16.1.0/24"]', f"advertise = [{many}]"))
        self._count = count

    def start(self) -> None:
        for peer in self.paths.peers:
            peer.start()
        daemon = self.paths.daemon
        start_gatewayd(daemon)
        for name in ("one", "two"):
            daemon.wait_bgp(name, 60)
        wait_until(lambda: self._learned() == [self._count] * 2, SETTLED, "both ways are learned", interval=0.5)
        for name in ("bfd one", "bfd two"):
            wait_until(lambda name=name: self.paths.watch(name).get("state") == "UP", 30, name)  # type: ignore[misc]
        self.spray()

    def _learned(self) -> list[int]:
        neighbors = [self.paths.daemon.neighbor(name) for name in ("one", "two")]
        return [one["prefixes"]["accepted"] for one in neighbors if one is not None]

    def leave(self) -> None:
        ok, text = self.paths.daemon.operate("terminate", "one")
        if not ok:
            raise BenchError(text)

    def come_back(self) -> None:
        ok, text = self.paths.daemon.operate("initiate", "one", 30)
        if not ok:
            raise BenchError(text)

    def cut(self) -> None:
        self.paths.cut()

    def mend(self) -> None:
        self.paths.mend()

    @property
    def measured(self) -> list[int]:
        return [
            pid for word in ("route_daemon", "bgp_unit", "exabgp", "bgp_relay") for pid in self.gateway.pids_of(word)
        ]


class Links(TwoWays):
    """A router on two links, with BIRD at their other ends."""

    def __init__(self, lab: Lab, interval: int, count: int) -> None:
        super().__init__()
        self.host, self.gateway = lab.namespace("host"), lab.namespace("gateway")
        self.edges = [lab.namespace(f"edge{number}") for number in (1, 2)]
        lab.link(End(self.host, "eth0", ("10.1.1.10/24",)), End(self.gateway, "lan", ("10.1.1.1/24",)))
        for number, edge in enumerate(self.edges, 1):
            near, far = (f"10.9.{number}.1/24",), (f"10.9.{number}.2/24",)
            lab.link(End(self.gateway, f"e{number}", near), End(edge, "wan", far))
            edge.batch(f"route add default via 10.9.{number}.1")
        self.host.batch("route add default via 10.1.1.1")
        self.gateway.forwarding()
        self._interval, self._count = interval, count
        self._processes: list[Process] = []

    def start(self) -> None:
        routes = "\n".join(f"route {prefix} blackhole;" for prefix in prefixes(self._count))
        for number, edge in enumerate(self.edges, 1):
            conf = edge.directory / "bird.conf"
            prepend = "bgp_path.prepend(65002); bgp_path.prepend(65002);" if number == 2 else ""
            conf.write_text(_EDGE_BIRD.format(number=number, interval=self._interval, routes=routes, prepend=prepend))
            start_bird(edge, conf, edge.directory / "bird.ctl")
        self._start_gateway()
        self.spray()

    @abstractmethod
    def _start_gateway(self) -> None: ...

    def cut(self) -> None:
        hooks = "".join(
            f"add chain inet cut {hook} {{ type filter hook {hook} priority 0; policy drop; }}\n"
            for hook in ("input", "output")
        )
        self.edges[0].run("nft", "-f", "-", stdin=f"add table inet cut\n{hooks}")

    def mend(self) -> None:
        self.edges[0].run("nft", "delete", "table", "inet", "cut")

    @property
    def measured(self) -> list[int]:
        return [process.pid for process in self._processes]


class BirdLinks(Links):
    kind = "BIRD, two links"

    def _start_gateway(self) -> None:
        conf = self.gateway.directory / "gateway.conf"
        conf.write_text(_GATEWAY_BIRD.format(interval=self._interval))
        self._processes.append(start_bird(self.gateway, conf, self._control))

    @property
    def _control(self) -> Path:
        return self.gateway.directory / "gateway.ctl"

    def leave(self) -> None:
        ask_bird(self._control, "disable edge1")

    def come_back(self) -> None:
        ask_bird(self._control, "enable edge1")


class FrrLinks(Links):
    kind = "FRR, two links"

    def _start_gateway(self) -> None:
        if not (FRR / "bfdd").exists() or shutil.which("vtysh") is None:
            raise Unavailable("not available: FRR is not installed")
        directory = self._directory
        directory.mkdir()
        texts = {"zebra": "", "bfdd": "", "bgpd": _GATEWAY_FRR.format(interval=self._interval)}
        for name, text in texts.items():
            (directory / f"{name}.conf").write_text(text)
        for path in (directory, *directory.iterdir()):
            shutil.chown(path, "frr", "frr")
        for parent in (self.gateway.directory, self.gateway.directory.parent):
            parent.chmod(0o755)
        more = {"zebra": [], "bfdd": ["--bfdctl", str(directory / "bfdd.sock")], "bgpd": ["-S"]}
        for name in texts:
            argv = [
                str(FRR / name),
                "-f",
                str(directory / f"{name}.conf"),
                "-i",
                str(directory / f"{name}.pid"),
                *more[name],
            ]
            argv += ["-z", str(directory / "zserv"), "--vty_socket", str(directory), "--log", "stdout"]
            self._processes.append(self.gateway.start(name, argv))
            wait_until((directory / f"{name}.vty").exists, 10, f"{name}'s socket", logs=self._processes)

    @property
    def _directory(self) -> Path:
        return self.gateway.directory / "frr"

    def leave(self) -> None:
        self._tell("neighbor 10.9.1.2 shutdown")

    def come_back(self) -> None:
        self._tell("no neighbor 10.9.1.2 shutdown")

    def _tell(self, line: str) -> None:
        commands = [word for command in ("configure terminal", "router bgp 65010", line) for word in ("-c", command)]
        self.gateway.run("vtysh", "--vty_socket", str(self._directory), *commands)
