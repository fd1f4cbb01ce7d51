"""The scene every system test and the demo play in: a site, a WAN, a gateway and a VNet, six network namespaces.

    site host        edge router              WAN router             gateway            VNet router        VNet host
    172.16.1.10 -- 172.16.1.1  203.0.113.2 -- 203.0.113.1            198.51.100.2       10.1.0.1           10.1.1.10
                   strongSwan + BIRD          198.51.100.1  -------- gatewayd 10.1.0.4 -- BIRD  10.1.1.1 --
                   169.254.21.2 ============== ESP =================  169.254.21.1

The WAN router knows the way to the site and to the VNet in clear, and so does the gateway's main table: a packet that
leaks does arrive. The edge is not the thing under test; blackholes keep it from answering in clear.
"""

from __future__ import annotations

from collections.abc import Sequence

from support.bird import Bird, Neighbor
from support.netns import End, Lab
from support.strongswan import Connection, Strongswan

SITE_HOST, VNET_HOST = "172.16.1.10", "10.1.1.10"
EDGE_OUTER, GATEWAY_OUTER, NAT_OUTER = "203.0.113.2", "198.51.100.2", "198.51.100.1"
EDGE_INNER, GATEWAY_INNER = "169.254.21.2", "169.254.21.1"
GATEWAY_LAN, ROUTER_LAN = "10.1.0.4", "10.1.0.1"
EDGE_AS, GATEWAY_AS, VNET_AS = 65001, 65010, 65515
EDGE_ID, GATEWAY_ID = "edge.example.net", "gateway.example.net"
PSK = "correct horse battery staple 42"
SITE_PREFIXES = ("172.16.1.0/24", "172.16.2.0/24", "172.16.3.0/24")
VNET_PREFIXES = ("10.1.1.0/24", "10.1.2.0/24")
SESSION_GATEWAY = "to_gateway"  # the name both BIRDs give their session with the gateway

EDGE_CONNECTION = Connection(
    name="gateway",
    local=EDGE_OUTER,
    remote=GATEWAY_OUTER,
    psk=PSK,
    local_id=EDGE_ID,
    remote_id=GATEWAY_ID,
)


class Scene:
    """Six machines, linked and routed; the daemons on them are started by whoever plays."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.site = lab.namespace("site")
        self.edge = lab.namespace("edge")
        self.wan = lab.namespace("wan")
        self.gateway = lab.namespace("gateway")
        self.router = lab.namespace("router")
        self.host = lab.namespace("host")
        self._links()
        self._routes()
        self.charon: Strongswan | None = None

    def edge_charon(self, connection: Connection = EDGE_CONNECTION) -> Strongswan:
        """strongSwan on the edge router, not yet started."""
        self.charon = Strongswan(self.edge, [connection], tunnel_address=f"{EDGE_INNER}/30")
        return self.charon

    def edge_bird(self, prefixes: Sequence[str] = SITE_PREFIXES) -> Bird:
        """BIRD on the edge router with one session inside the tunnel."""
        session = Neighbor(SESSION_GATEWAY, EDGE_INNER, GATEWAY_INNER, GATEWAY_AS)
        return Bird(self.edge, EDGE_AS, EDGE_OUTER, [session], prefixes)

    def vnet_bird(self, prefixes: Sequence[str] = VNET_PREFIXES) -> Bird:
        """BIRD on the VNet router, in the route server's place."""
        session = Neighbor(SESSION_GATEWAY, ROUTER_LAN, GATEWAY_LAN, GATEWAY_AS, multihop=2)
        return Bird(self.router, VNET_AS, ROUTER_LAN, [session], prefixes)

    def stand_in(self, *, start_action: str = "start") -> tuple[Strongswan, Bird]:
        """A second strongSwan and a BIRD in the gateway's place, for the laboratory's own check."""
        connection = EDGE_CONNECTION.with_(
            name="site",
            local=GATEWAY_OUTER,
            remote=EDGE_OUTER,
            local_id=GATEWAY_ID,
            remote_id=EDGE_ID,
            start_action=start_action,
        )
        charon = Strongswan(self.gateway, [connection], tunnel_address=f"{GATEWAY_INNER}/30")
        sessions = [
            Neighbor("to_edge", GATEWAY_INNER, EDGE_INNER, EDGE_AS),
            Neighbor("to_vnet", GATEWAY_LAN, ROUTER_LAN, VNET_AS, multihop=2),
        ]
        return charon, Bird(self.gateway, GATEWAY_AS, GATEWAY_LAN, sessions, [], transit=True)

    def _links(self) -> None:
        link = self.lab.link
        link(End(self.site, "eth0", (f"{SITE_HOST}/24",)), End(self.edge, "lan", ("172.16.1.1/24",)))
        link(End(self.edge, "wan", (f"{EDGE_OUTER}/24",)), End(self.wan, "edge", ("203.0.113.1/24",)))
        link(End(self.wan, "gateway", (f"{NAT_OUTER}/24",)), End(self.gateway, "wan", (f"{GATEWAY_OUTER}/24",)))
        link(End(self.gateway, "lan", (f"{GATEWAY_LAN}/24",)), End(self.router, "gateway", (f"{ROUTER_LAN}/24",)))
        link(End(self.router, "hosts", ("10.1.1.1/24",)), End(self.host, "eth0", (f"{VNET_HOST}/24",)))
        for router in (self.edge, self.wan, self.gateway, self.router):
            router.forwarding()

    def _routes(self) -> None:
        self.site.batch("route add default via 172.16.1.1")
        self.host.batch("route add default via 10.1.1.1")
        self.router.batch(f"route add default via {GATEWAY_LAN}")
        # as a cloud's fabric gives it: the VNet's address space, and everything else towards the circuit
        self.gateway.batch(f"route add default via {NAT_OUTER}", f"route add 10.1.0.0/16 via {ROUTER_LAN}")
        self.wan.batch(f"route add 172.16.0.0/16 via {EDGE_OUTER}", f"route add 10.1.0.0/16 via {GATEWAY_OUTER}")
        self.edge.batch(
            "route add default via 203.0.113.1",
            "route add blackhole 10.0.0.0/8 metric 4000000",
            "route add blackhole 169.254.0.0/16 metric 4000000",
        )
