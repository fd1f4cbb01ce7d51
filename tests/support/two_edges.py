r"""A site with two edge routers, as ExpressRoute sites are built: two strongSwans behind one BIRD router, and a gateway.

                                        / 203.0.113.2 edge1 192.168.91.1 \
    host -- gateway 198.51.100.2 -- wan                                    router -- site
    10.1.1.10                           \ 203.0.114.2 edge2 192.168.92.1 /           172.16.1.10

Both tunnels carry BGP (BIRD on each edge) and an in-tunnel probe. The WAN knows the way to the site in clear, by either edge,
and the edges hand on what comes in clear: a packet that leaks does arrive.
"""

from __future__ import annotations

import sys

from support.bird import Bird, Neighbor
from support.capture import Capture, Classified
from support.daemon import GatewayDaemon
from support.netns import End, Lab, Namespace
from support.process import wait_until
from support.strongswan import Connection, Strongswan
from support.traffic import Stream

GATEWAY_OUTER, GATEWAY_AS, ROUTER_AS, PSK = "198.51.100.2", 65010, 65100, "correct horse battery staple 42"
SITE, SITE_HOST, HOST, LAN = "172.16.1.0/24", "172.16.1.10", "10.1.1.10", "10.1.1.0/24"
OUTER = ("203.0.113.2", "203.0.114.2")
INNER = (("169.254.21.1", "169.254.21.2"), ("169.254.22.1", "169.254.22.2"))  # the gateway's, the edge's
NAMES = ("one", "two")

_HEAD = """
[gateway]
name = "gateway"
state_directory = "/run/gatewayd-state"
[bgp]
local_as = 65010
advertise = ["10.1.1.0/24"]
stale_time = "2s"
listen_port = 0
"""
_TUNNEL = """
[connection.{name}]
local_addrs = "198.51.100.2"
remote_addrs = "{outer}"
local_id = "gateway.example.net"
remote_id = "{name}.example.net"
psk.file = "site.psk"
proposals = ["aes256gcm16-prfsha384-ecp384"]
esp_proposals = ["aes256gcm16-ecp256"]
tunnel_address = ["{own}/30"]
protected = ["172.16.0.0/12"]
dpd_delay = 5
[connection.{name}.probe]
address = "{peer}"
interval = "100ms"
[bgp.neighbor.{name}]
address = "{peer}"
remote_as = {asn}
connection = "{name}"
"""
_FLOWS = """
import socket, sys
for port in range(20000, 20000 + int(sys.argv[1])):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("10.1.1.10", port))
    for _ in range(10):
        s.sendto(b"flow", ("172.16.1.10", 9))
    s.close()
"""
_KNOCK = """
import socket
header = bytes(17) + b"\\x20\\x25" + bytes(9)  # an INFORMATIONAL of no IKE_SA
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(header, ("198.51.100.2", 500))
"""


def configuration() -> str:
    tunnels = (
        _TUNNEL.format(name=name, outer=OUTER[at], own=INNER[at][0], peer=INNER[at][1], asn=65001 + at)
        for at, name in enumerate(NAMES)
    )
    return _HEAD + "".join(tunnels)


class TwoEdges:
    """The scene, with nothing started yet."""

    def __init__(self, lab: Lab) -> None:
        names = ("host", "gateway", "wan", "router", "site", "edge1", "edge2")
        self.host, self.gateway, self.wan, self.router, self.site, *edges = (lab.namespace(name) for name in names)
        self.edges: list[Namespace] = edges
        self._links(lab)
        self.charons = [self._charon(at) for at in (0, 1)]
        self.birds = [self._bird(at) for at in (0, 1)]
        sessions = [
            Neighbor(f"edge{at + 1}", f"192.168.9{at + 1}.2", f"192.168.9{at + 1}.1", 65001 + at) for at in (0, 1)
        ]
        self.router_bird = Bird(self.router, ROUTER_AS, "192.168.91.2", sessions, [SITE])
        self.daemon = GatewayDaemon(self.gateway, configuration(), {"site.psk": PSK})
        self.stream = Stream(self.host, HOST, self.site, SITE_HOST)
        self._captures = 0

    def start(self) -> None:
        """Until both tunnels carry BGP and probes, and packets arrive at the site."""
        for process in (*self.charons, *self.birds, self.router_bird, self.daemon):
            process.start()
        for name in NAMES:
            self.daemon.wait_bgp(name, 30)
        wait_until(lambda: self.ways() == {"gw-one", "gw-two"}, 20, "both ways are used", logs=[self.daemon.process])
        self.stream.start(rate=500)
        self.stream.wait_flowing(10)

    def ways(self) -> set[str]:
        """The devices the gateway's group for the site has."""
        rows = [row for row in self.gateway.routes("221") if row["dst"] == SITE]
        found = {hop["dev"] for row in rows for hop in row.get("nexthops", ()) if "dev" in hop}
        return found | {row["dev"] for row in rows if "dev" in row}

    def capture(self) -> Capture:
        """Of what passes the gateway's link to the WAN, begun."""
        self._captures += 1
        capture = Capture(self.wan, "gateway", f"wan-{self._captures}")
        capture.start()
        return capture

    def knock(self) -> None:
        """One datagram to the gateway that a capture sees whatever is up or dead: the proof that it looks."""
        self.wan.run(sys.executable, "-S", "-E", "-c", _KNOCK)

    def flows(self, count: int) -> dict[str, int]:
        """So many UDP flows of ten packets each; how many packets each tunnel took."""
        before = self._sent()
        self.host.run(sys.executable, "-S", "-E", "-c", _FLOWS, str(count))
        wait_until(lambda: sum(self._sent().values()) >= sum(before.values()) + count * 10, 10, "the counters")
        after = self._sent()
        return {name: after[name] - before[name] for name in NAMES}

    def _sent(self) -> dict[str, int]:
        status = self.daemon.status()
        return {row["name"]: row["packets_out"] for row in status["tunnels"]} if status else {}

    def _links(self, lab: Lab) -> None:
        link = lab.link
        link(End(self.host, "eth0", (f"{HOST}/24",)), End(self.gateway, "lan", ("10.1.1.1/24",)))
        link(End(self.gateway, "wan", (f"{GATEWAY_OUTER}/24",)), End(self.wan, "gateway", ("198.51.100.1/24",)))
        link(End(self.router, "site", ("172.16.1.1/24",)), End(self.site, "eth0", (f"{SITE_HOST}/24",)))
        self.host.batch("route add default via 10.1.1.1")
        self.site.batch("route add default via 172.16.1.1")
        self.gateway.batch("route add default via 198.51.100.1")
        for at, edge in enumerate(self.edges):
            net = OUTER[at].rsplit(".", 1)[0]
            link(End(self.wan, f"e{at + 1}", (f"{net}.1/24",)), End(edge, "wan", (f"{OUTER[at]}/24",)))
            inside = f"192.168.9{at + 1}"
            link(End(edge, "lan", (f"{inside}.1/30",)), End(self.router, f"e{at + 1}", (f"{inside}.2/30",)))
            edge.batch(f"route add default via {net}.1", "route add blackhole 10.0.0.0/8 metric 4000000")
            edge.batch(f"route add {SITE} via {inside}.2 metric 4000000")
        self.wan.batch(f"route add 172.16.0.0/16 nexthop via {OUTER[0]} nexthop via {OUTER[1]}")
        for router in (self.gateway, self.wan, self.router, *self.edges):
            router.forwarding()

    def _charon(self, at: int) -> Strongswan:
        connection = Connection(
            name="gateway",
            local=OUTER[at],
            remote=GATEWAY_OUTER,
            psk=PSK,
            local_id=f"{NAMES[at]}.example.net",
            remote_id="gateway.example.net",
        )
        return Strongswan(self.edges[at], [connection], tunnel_address=f"{INNER[at][1]}/30")

    def _bird(self, at: int) -> Bird:
        inside = f"192.168.9{at + 1}"
        sessions = [
            Neighbor("to_gateway", INNER[at][1], INNER[at][0], GATEWAY_AS),
            Neighbor("to_router", f"{inside}.1", f"{inside}.2", ROUTER_AS),
        ]
        return Bird(self.edges[at], 65001 + at, OUTER[at], sessions, [], transit=True)


def leaked(capture: Capture) -> tuple[int, Classified]:
    """Datagrams of the traffic in clear, and everything that was seen."""
    seen = capture.stop()
    return seen.markers, seen
