r"""A pair of gateways between a VNet and a site with two edge routers; a witness in the VNet's place.

    host -- vnet ----- a 198.51.100.2 --\        / 203.0.113.2 edge1 \
           10.1.4.1 \-- b 198.51.101.2 --- wan --                      router -- site
           (BIRD)    \- witness 10.1.9.9         \ 203.0.114.2 edge2 /

Each gateway has a tunnel of its own, to an edge of its own, with BGP in it; both speak BGP with the VNet's router, which stands for a
route server. The WAN knows the way to the site in clear. Which gateway carries is decided by what the two announce.
"""

from __future__ import annotations

import time
from itertools import pairwise

from support.bird import Bird, Neighbor
from support.daemon import GatewayDaemon
from support.netns import End, Lab, Namespace
from support.process import Process, wait_until
from support.strongswan import Connection, Strongswan
from support.traffic import Stream, Streams
from support.witness_machine import start_witness

PSK, SECRET = "correct horse battery staple 42", "the secret of this pair of gateways"
GATEWAY_AS, ROUTER_AS, VNET_AS = 65010, 65100, 65515
SITE, SITE_HOST, LAN, HOST = "172.16.1.0/24", "172.16.1.10", "10.1.1.0/24", "10.1.1.10"
OUTER = ("198.51.100.2", "198.51.101.2")
EDGE_OUTER = ("203.0.113.2", "203.0.114.2")
INNER = (("169.254.21.1", "169.254.21.2"), ("169.254.22.1", "169.254.22.2"))  # the gateway's, the edge's
FABRIC = ("10.1.4.4", "10.1.5.5")
WITNESS = "10.1.9.9"
NAMES = ("a", "b")

_CONFIG = """
[gateway]
name = "gw-{name}"
state_directory = "/run/gatewayd-state"
[bgp]
local_as = 65010
advertise = ["10.1.1.0/24"]
stale_time = "2s"
listen_port = 0
[connection.site]
local_addrs = "{outer}"
remote_addrs = "{edge}"
local_id = "gw-{name}.example.net"
remote_id = "edge-{name}.example.net"
psk.file = "site.psk"
proposals = ["aes256gcm16-prfsha384-ecp384"]
esp_proposals = ["aes256gcm16-ecp256"]
tunnel_address = ["{own}/30"]
protected = ["172.16.0.0/12"]
dpd_delay = 5
[connection.site.probe]
address = "{peer}"
interval = "50ms"
[bgp.neighbor.edge]
address = "{peer}"
remote_as = {edge_as}
connection = "site"
hold_time = 9
[bgp.neighbor.vnet]
address = "{router}"
remote_as = 65515
hold_time = 9
[ha]
local_address = "{fabric}"
remote_address = "{other}"
secret.file = "pair.secret"
interval = "{interval}"
dead_after = 3
{ha}
"""
_WITNESSED = """
[ha.witness]
address = "10.1.9.9"
ttl = "{ttl}"
"""


def longest_gap(stream: Stream, since: float) -> float:
    """Of what arrived since then, in seconds; what is still silent counts."""
    arrivals = sorted(received for _, _, received in stream.records() if received >= since - 0.1)
    return max((after - before for before, after in pairwise([*arrivals, time.monotonic()])), default=float("inf"))


class TwoGateways:
    """The scene, with nothing started yet. `ha`: more keys of [ha]; `ttl`: of the lease, "" for no witness node; `more`: further
    sections, in which {name}, {fabric} and {other} are a gateway's name, its own address and the other's. `multipath`: both routers
    use equally good paths side by side."""

    def __init__(
        self,
        lab: Lab,
        *,
        ha: str = "",
        interval: str = "50ms",
        ttl: str = "200ms",
        more: str = "",
        multipath: bool = False,
    ) -> None:
        names = ("host", "vnet", "gwa", "gwb", "wan", "router", "site", "edge1", "edge2", "witness")
        self.host, self.vnet, gateway_a, gateway_b, self.wan, self.router, self.site, *rest = map(lab.namespace, names)
        self.gateways: list[Namespace] = [gateway_a, gateway_b]
        self.edges, self.witness = rest[:2], rest[2]
        self.ttl, self._multipath = ttl, multipath
        self._links(lab)
        self.charons = [self._charon(at) for at in (0, 1)]
        self.birds = [self._edge_bird(at) for at in (0, 1)]
        self.birds.append(self._router_bird())
        self.route_server = self._vnet_bird()
        keys = ha + (_WITNESSED.format(ttl=ttl) if ttl else "") + more
        self.daemons = [self._daemon(at, keys, interval) for at in (0, 1)]
        self.witness_process: Process | None = None
        self.streams = Streams(self.host, HOST, self.site, SITE_HOST)

    def start(self) -> None:
        """Until both tunnels carry BGP, both gateways are a pair, and packets pass in both directions."""
        if self.ttl:
            self.start_witness()
        for process in (*self.charons, *self.birds, self.route_server, *self.daemons):
            process.start()
        for daemon in self.daemons:
            daemon.wait_bgp("edge", 30)
            daemon.wait_bgp("vnet", 30)
        logs = [daemon.process for daemon in self.daemons]
        wait_until(lambda: sorted(self.roles()) == ["active", "standby"], 20, "one is active", logs=logs)

    def start_witness(self) -> None:
        """`gatewayd --witness` on a machine of its own."""
        self.witness_process = start_witness(self.witness, WITNESS, self.ttl, SECRET)

    def roles(self) -> list[str]:
        """Of a and b; "" for one that does not answer."""
        return [self.role(at) for at in (0, 1)]

    def role(self, at: int) -> str:
        status = self.daemons[at].status()
        return str(status["ha"]["role"]) if status and status.get("ha") else ""

    def active(self) -> int:
        """Which one is."""
        return self.roles().index("active")

    def wait_role(self, at: int, role: str, seconds: float = 20.0) -> None:
        logs = [daemon.process for daemon in self.daemons]
        wait_until(lambda: self.role(at) == role, seconds, f"gw-{NAMES[at]} is {role}", logs=logs)

    def carrier(self) -> str:
        """By which gateway the VNet's router reaches the site; "" by none."""
        found = [row for row in self.vnet.routes() if row["dst"] == SITE]
        return NAMES[FABRIC.index(found[0]["gateway"])] if found and found[0].get("gateway") in FABRIC else ""

    # --- faults, and their ends ---------------------------------------------------------------------------------

    def cut_circuit(self, at: int) -> None:
        """Its way to its edge; the gateway lives, and the other is heard."""
        self.wan.batch(f"link set gw{NAMES[at]} down")

    def restore_circuit(self, at: int) -> None:
        self.wan.batch(f"link set gw{NAMES[at]} up")

    def power_off(self, at: int) -> None:
        """As seen from outside: all its links are dead."""
        self.gateways[at].batch("link set lan down", "link set wan down")

    def power_on(self, at: int) -> None:
        fabric, outer = (text.rsplit(".", 1)[0] for text in (FABRIC[at], OUTER[at]))
        self.gateways[at].batch("link set lan up", "link set wan up")
        self.gateways[at].batch(f"route replace default via {outer}.1", f"route replace 10.1.0.0/16 via {fabric}.1")

    def cut_heartbeats(self, *sources: str) -> None:
        """Those of one gateway or of both, between the two; both still reach the witness."""
        rules = "".join(f"    ip saddr {source} udp dport 4780 drop\n" for source in sources or FABRIC)
        chain = f"  chain forward {{\n    type filter hook forward priority 0;\n{rules}  }}\n"
        self.vnet.run("nft", "-f", "-", stdin=f"table ip cut {{\n{chain}}}\n")

    def join_heartbeats(self) -> None:
        self.vnet.run("nft", "delete", "table", "ip", "cut")

    def wait_whole(self, seconds: float = 60.0) -> None:
        """Both work again: one is active, the other would take over, and all sessions stand."""

        def whole() -> bool:
            found = [daemon.status() for daemon in self.daemons]
            if not all(status and status["ha"] for status in found):
                return False  # one that has just begun is no pair yet
            states = [status["ha"] for status in found if status]
            sessions = all(peer["state"] == "Established" for status in found if status for peer in status["peers"])
            healthy = all(state["health"] == 1000 and state["peer_up"] for state in states)
            levels = sorted(state["level"] for state in states)
            roles = sorted(state["role"] for state in states)
            return sessions and healthy and roles == ["active", "standby"] and levels == ["active", "standby"]

        wait_until(whole, seconds, "the pair is whole", logs=[daemon.process for daemon in self.daemons])

    # --- what arrived -------------------------------------------------------------------------------------------

    def lost(self, since: float) -> tuple[int, int]:
        """Datagrams sent since then that did not arrive: to the site, and back."""
        # Counted between two that arrived
        begin, end = since - 0.2, time.monotonic() - 0.3
        return self.streams.there.lost_between(begin, end), self.streams.back.lost_between(begin, end)

    def gap(self, since: float) -> float:
        """The longest silence at either end since then, in seconds; what is still silent counts."""
        return max(longest_gap(stream, since) for stream in (self.streams.there, self.streams.back))

    # --- the scene ----------------------------------------------------------------------------------------------

    def _links(self, lab: Lab) -> None:
        link = lab.link
        link(End(self.host, "eth0", (f"{HOST}/24",)), End(self.vnet, "hosts", ("10.1.1.1/24",)))
        link(End(self.router, "site", ("172.16.1.1/24",)), End(self.site, "eth0", (f"{SITE_HOST}/24",)))
        link(End(self.witness, "eth0", (f"{WITNESS}/24",)), End(self.vnet, "witness", ("10.1.9.1/24",)))
        self.host.batch("route add default via 10.1.1.1")
        self.site.batch("route add default via 172.16.1.1")
        self.witness.batch("route add default via 10.1.9.1")
        for at, gateway in enumerate(self.gateways):
            fabric, outer = (text.rsplit(".", 1)[0] for text in (FABRIC[at], OUTER[at]))
            link(End(gateway, "lan", (f"{FABRIC[at]}/24",)), End(self.vnet, f"gw{NAMES[at]}", (f"{fabric}.1/24",)))
            link(End(gateway, "wan", (f"{OUTER[at]}/24",)), End(self.wan, f"gw{NAMES[at]}", (f"{outer}.1/24",)))
            gateway.batch(f"route add default via {outer}.1", f"route add 10.1.0.0/16 via {fabric}.1")
        for at, edge in enumerate(self.edges):
            net, inside = EDGE_OUTER[at].rsplit(".", 1)[0], f"192.168.9{at + 1}"
            link(End(self.wan, f"e{at + 1}", (f"{net}.1/24",)), End(edge, "wan", (f"{EDGE_OUTER[at]}/24",)))
            link(End(edge, "lan", (f"{inside}.1/30",)), End(self.router, f"e{at + 1}", (f"{inside}.2/30",)))
            edge.batch(f"route add default via {net}.1", "route add blackhole 10.0.0.0/8 metric 4000000")
            edge.batch(f"route add {SITE} via {inside}.2 metric 4000000")
        self.wan.batch(f"route add 172.16.0.0/16 nexthop via {EDGE_OUTER[0]} nexthop via {EDGE_OUTER[1]}")
        for router in (self.vnet, self.wan, self.router, *self.gateways, *self.edges):
            router.forwarding()

    def _daemon(self, at: int, keys: str, interval: str) -> GatewayDaemon:
        text = _CONFIG.format(
            name=NAMES[at],
            outer=OUTER[at],
            edge=EDGE_OUTER[at],
            own=INNER[at][0],
            peer=INNER[at][1],
            edge_as=65001 + at,
            router=f"{FABRIC[at].rsplit('.', 1)[0]}.1",
            fabric=FABRIC[at],
            other=FABRIC[1 - at],
            interval=interval,
            ha=keys.format(name=NAMES[at], fabric=FABRIC[at], other=FABRIC[1 - at]),
        )
        return GatewayDaemon(self.gateways[at], text, {"site.psk": PSK, "pair.secret": SECRET})

    def _charon(self, at: int) -> Strongswan:
        connection = Connection(
            name="gateway",
            local=EDGE_OUTER[at],
            remote=OUTER[at],
            psk=PSK,
            local_id=f"edge-{NAMES[at]}.example.net",
            remote_id=f"gw-{NAMES[at]}.example.net",
        )
        return Strongswan(self.edges[at], [connection], tunnel_address=f"{INNER[at][1]}/30")

    def _edge_bird(self, at: int) -> Bird:
        inside = f"192.168.9{at + 1}"
        sessions = [
            Neighbor("to_gateway", INNER[at][1], INNER[at][0], GATEWAY_AS),
            Neighbor("to_router", f"{inside}.1", f"{inside}.2", ROUTER_AS),
        ]
        return Bird(self.edges[at], 65001 + at, EDGE_OUTER[at], sessions, [], transit=True)

    def _router_bird(self) -> Bird:
        sessions = [
            Neighbor(f"edge{at + 1}", f"192.168.9{at + 1}.2", f"192.168.9{at + 1}.1", 65001 + at) for at in (0, 1)
        ]
        return Bird(self.router, ROUTER_AS, "192.168.91.2", sessions, [SITE], multipath=self._multipath)

    def _vnet_bird(self) -> Bird:
        sessions = [
            Neighbor(f"gw_{NAMES[at]}", f"{FABRIC[at].rsplit('.', 1)[0]}.1", FABRIC[at], GATEWAY_AS) for at in (0, 1)
        ]
        return Bird(self.vnet, VNET_AS, "10.1.1.1", sessions, [LAN], multipath=self._multipath)
