"""A gateway with two tunnels to one site, for failovers that are measured: three gatewayds, BGP and BFD inside the tunnels.

                            +-- e1  203.0.113.1   edge1, gatewayd \
    host -- gateway -- wan -+                                      both have the site's host, 172.16.1.10
            10.1.1.1        +-- e2  203.0.114.1   edge2, gatewayd /
            198.51.100.2

The one path is preferred (its AS path is shorter). Sinks at both edges note when each of the host's packets arrives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from support.birds import Bird
from support.daemon import GatewayDaemon
from support.netns import End, Lab, Namespace
from support.process import Process, wait_until

GATEWAY_OUTER, SITE_HOST, PORT = "198.51.100.2", "172.16.1.10", 7002
EDGE_OUTER = ("203.0.113.2", "203.0.114.2")
INNER = (("169.254.21.1", "169.254.21.2"), ("169.254.22.1", "169.254.22.2"))
PSK = "correct horse battery staple 42"

_COMMON = """
[gateway]
name = "{name}"
state_directory = "/run/gatewayd-state"
[connection.{connection}]
local_addrs = "{local}"
remote_addrs = "{remote}"
psk.file = "site.psk"
dpd_delay = 5
tunnel_address = ["{inner}/30"]
protected = ["{protected}"]
start_action = "{start}"
{probe}
"""
_NEIGHBOR = """
[bgp.neighbor.{name}]
address = "{address}"
remote_as = {remote_as}
connection = "{name}"
hold_time = 30
max_prefixes = 20000
{passive}
{bfd}
"""

_FABRIC = """
[bgp.neighbor.fabric]
address = "10.1.1.10"
local_address = "10.1.1.1"
remote_as = 65515
multihop = 2
max_prefixes = 20000
"""
_BIRD = """
router id 10.1.1.10;
log stderr all;
protocol device {{ }}
protocol static {{ ipv4; {routes} }}
protocol bgp b4 {{ local 10.1.1.10 as 65515; neighbor 10.1.1.1 as 65010; multihop 2; hold time 90;
  connect retry time 1; ipv4 {{ import all; export all; }}; }}
"""

_SINK = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("172.16.1.10", %d))
while True:
    data = s.recv(64); print(int(data), time.monotonic(), flush=True)
"""
_SOURCE = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
number = 0
while True:
    try:
        s.sendto(str(number).encode(), ("172.16.1.10", %d))
    except OSError:
        pass
    number += 1; time.sleep(0.002)
"""


class TwoPaths:
    """`bfd`: the lines of the [bgp.neighbor.NAME.bfd] tables, "" for none; `probe`: of [connection.NAME.probe] at the gateway."""

    def __init__(self, lab: Lab, *, bfd: str = "", probe: str = "") -> None:
        self.lab = lab
        names = ("host", "gateway", "wan", "edge1", "edge2")
        self.host, self.gateway, self.wan, *edges = (lab.namespace(name) for name in names)
        self.edges: list[Namespace] = edges
        self._links()
        self.daemon = GatewayDaemon(
            self.gateway, _gateway(bfd, probe), {"site.psk": PSK, "bfd.key": "twenty octets it is"}
        )
        self.peers = [
            GatewayDaemon(edge, _edge(number, bfd), {"site.psk": PSK, "bfd.key": "twenty octets it is"})
            for number, edge in enumerate(self.edges)
        ]
        self.sinks: list[Process] = []

    def start(self) -> None:
        """Until both tunnels carry BGP and the host's packets take the first."""
        for daemon in (*self.peers, self.daemon):
            daemon.start()
        for name in ("one", "two"):
            self.daemon.wait_bgp(name, 30)
        for edge in self.edges:
            self.sinks.append(edge.start("sink", [sys.executable, "-S", "-E", "-c", _SINK % PORT]))
        self.host.start("source", [sys.executable, "-S", "-E", "-c", _SOURCE % PORT])
        wait_until(lambda: self.arrivals(0), 15, "packets arrive at the first edge", logs=[self.daemon.process])

    def arrivals(self, edge: int) -> list[tuple[int, float]]:
        """(number, when) at this edge."""
        rows = [line.split() for line in self.sinks[edge].log.read_text().splitlines()]
        return [(int(row[0]), float(row[1])) for row in rows if len(row) == 2]

    def cut(self, edge: int = 0) -> None:
        """Silently: nothing passes to or from this edge any more."""
        device = f"e{edge + 1}"
        rules = "\n".join(f'add rule ip cut both_ways {way} "{device}" drop' for way in ("iifname", "oifname"))
        chain = "add table ip cut\nadd chain ip cut both_ways { type filter hook forward priority 0; }\n"
        self.wan.run("nft", "-f", "-", stdin=chain + rules + "\n")

    def mend(self) -> None:
        self.wan.run("nft", "delete", "table", "ip", "cut")

    def fabric(self) -> Callable[[Sequence[str]], None]:
        """A route server on the host's network; what it is given it announces, from then on and nothing else."""
        bird = Bird(self.host.directory / "bird", self.host.full)
        bird.start(_BIRD.format(routes=""))

        def announce(prefixes: Sequence[str]) -> None:
            bird.reconfigure(_BIRD.format(routes="".join(f"route {prefix} blackhole; " for prefix in prefixes)))

        self.daemon.wait_bgp("fabric", 30)
        return announce

    def flaps(self) -> dict[str, int]:
        """Of every BFD session at every gateway, where there were any."""
        found = {}
        for daemon in (self.daemon, *self.peers):
            status = daemon.status()
            assert status is not None
            found |= {f"{status['name']} {row['name']}": row["flaps"] for row in status["liveness"] if row["flaps"]}
        return found

    def moved(self, seconds: float = 10.0) -> float:
        """How long between the last packet at the first edge and the first one after it at the second."""
        before = len(self.arrivals(1))
        wait_until(
            lambda: len(self.arrivals(1)) > before + 20,
            seconds,
            "packets arrive at the second edge",
            logs=[self.daemon.process],
        )
        last = self.arrivals(0)[-1]
        return next(at for number, at in self.arrivals(1) if number > last[0]) - last[1]

    def watch(self, name: str) -> dict[str, object]:
        status = self.daemon.status()
        rows = status["liveness"] if status else []
        return next((row for row in rows if row["name"] == name), {})

    def _links(self) -> None:
        link = self.lab.link
        link(End(self.host, "eth0", ("10.1.1.10/24",)), End(self.gateway, "lan", ("10.1.1.1/24",)))
        link(End(self.gateway, "wan", (f"{GATEWAY_OUTER}/24",)), End(self.wan, "gateway", ("198.51.100.1/24",)))
        for number, edge in enumerate(self.edges):
            net = EDGE_OUTER[number].rsplit(".", 1)[0]
            link(End(self.wan, f"e{number + 1}", (f"{net}.1/24",)), End(edge, "wan", (f"{net}.2/24",)))
            edge.batch(f"route add default via {net}.1", "link set lo up", f"address add {SITE_HOST}/32 dev lo")
        self.host.batch("route add default via 10.1.1.1")
        self.gateway.batch("route add default via 198.51.100.1")
        for router in (self.gateway, self.wan, *self.edges):
            router.forwarding()


def _gateway(bfd: str, probe: str) -> str:
    text, neighbors = "", ""
    for number, name in enumerate(("one", "two")):
        section = _COMMON.format(
            name="gateway", connection=name, local=GATEWAY_OUTER, remote=EDGE_OUTER[number], inner=INNER[number][0],
            protected="172.16.0.0/12", start="start", probe=_table(f"connection.{name}.probe", probe.format(INNER[number][1])),
        )  # fmt: skip
        text += section if not text else section[section.index("[connection") :]
        neighbors += _NEIGHBOR.format(
            name=name, address=INNER[number][1], remote_as=65001 + number, passive="",
            bfd=_table(f"bgp.neighbor.{name}.bfd", bfd),
        )  # fmt: skip
    # The second path is as good but for its length
    return f'{text}\n[bgp]\nlocal_as = 65010\nadvertise = ["10.1.1.0/24"]\nlisten_port = 0\n{neighbors}{_FABRIC}'


def _edge(number: int, bfd: str) -> str:
    text = _COMMON.format(
        name=f"edge{number + 1}", connection="gw", local=EDGE_OUTER[number], remote=GATEWAY_OUTER,
        inner=INNER[number][1], protected="10.1.1.0/24", start="none", probe="",
    )  # fmt: skip
    neighbor = _NEIGHBOR.format(
        name="gw",
        address=INNER[number][0],
        remote_as=65010,
        passive="passive = true",
        bfd=_table("bgp.neighbor.gw.bfd", bfd),
    )
    policy = '\n[bgp.policy.longer]\ndefault = "accept"\n[bgp.policy.longer.rule.all]\naction = "accept"\nprepend = 2\n'
    longer = 'export_policy = "longer"\n' if number else ""
    neighbor = neighbor.replace("hold_time = 30\n", f"hold_time = 30\n{longer}")
    return f'{text}\n[bgp]\nlocal_as = {65001 + number}\nadvertise = ["172.16.1.0/24"]\n{policy if number else ""}{neighbor}'


def _table(name: str, lines: str) -> str:
    return f"[{name}]\n{lines}\n" if lines else ""
