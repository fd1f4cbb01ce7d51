r"""A gateway with two customers that use the same prefixes: an instance, a LAN and an edge router each, one WAN.

    host blue 10.1.1.10 -- lan-blue \                                / 203.0.113.2  edge blue: charon, BIRD
                                     gateway 198.51.100.2 -- wan ----
    host red  10.2.1.10 -- lan-red  /                                \ 203.0.114.2  edge red:  charon, BIRD

Behind either edge lies 172.16.1.0/24, with a host 172.16.1.10 that tells whose it is. The WAN knows the way to blue's in
clear, and the gateway's main table the way to the WAN: what leaks does arrive.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

from support.bird import Bird, Neighbor
from support.daemon import GatewayDaemon
from support.netns import End, Lab, Namespace
from support.process import Process, wait_until
from support.strongswan import Connection, Strongswan

GATEWAY_OUTER, GATEWAY_AS, PSK = "198.51.100.2", 65010, "correct horse battery staple 42"
SITE, SITE_HOST, PORT = "172.16.1.0/24", "172.16.1.10", 7010
SESSION = "to_gateway"


@dataclass(frozen=True, slots=True)
class Customer:
    """`inner`: the gateway's address in the tunnel, and the edge's."""

    name: str
    table: int
    lan: str  # the first three octets
    outer: str
    inner: tuple[str, str]
    asn: int


BLUE = Customer("blue", 301, "10.1.1", "203.0.113.2", ("169.254.21.1", "169.254.21.2"), 65001)
RED = Customer("red", 302, "10.2.1", "203.0.114.2", ("169.254.22.1", "169.254.22.2"), 65002)

_ANSWER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("172.16.1.10", %d))
while True:
    data, who = s.recvfrom(64)
    try:
        s.sendto(sys.argv[1].encode(), who)
    except OSError:
        pass  # The edge learns its way back a moment after the gateway learned the way here: a blackhole until then.
"""
_ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(float(sys.argv[3]))
s.sendto(b"?", (sys.argv[1], int(sys.argv[2])))
try:
    print(s.recv(64).decode())
except OSError:
    pass
"""
_SECTION = """
[instance.{name}]
table = {table}
interfaces = ["lan-{name}"]
local = ["{lan}.0/24"]
[connection.{name}]
instance = "{name}"
local_addrs = "198.51.100.2"
remote_addrs = "{outer}"
local_id = "gateway.example.net"
remote_id = "{name}.example.net"
psk.file = "site.psk"
proposals = ["aes256gcm16-prfsha384-ecp384"]
esp_proposals = ["aes256gcm16-ecp256"]
tunnel_address = ["{own}/30"]
protected = ["172.16.0.0/12"]
[bgp.neighbor.{name}]
address = "{peer}"
remote_as = {asn}
connection = "{name}"
"""


def sections(customer: Customer) -> str:
    """What a customer's part of the configuration is."""
    return _SECTION.format(
        name=customer.name,
        table=customer.table,
        lan=customer.lan,
        outer=customer.outer,
        own=customer.inner[0],
        peer=customer.inner[1],
        asn=customer.asn,
    )


def configuration(*customers: Customer) -> str:
    head = '[gateway]\nname = "gateway"\nstate_directory = "/run/gatewayd-state"\n[bgp]\nlocal_as = 65010\nstale_time = 1\nlisten_port = 0\n'
    return head + "".join(sections(customer) for customer in customers)


class Customers:
    """The scene, with nothing started yet."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.gateway, self.wan = lab.namespace("gateway"), lab.namespace("wan")
        self.hosts: dict[str, Namespace] = {}
        self.edges: dict[str, Namespace] = {}
        self.charons: dict[str, Strongswan] = {}
        self.birds: dict[str, Bird] = {}
        self.answers: list[Process] = []
        lab.link(End(self.gateway, "wan", (f"{GATEWAY_OUTER}/24",)), End(self.wan, "gateway", ("198.51.100.1/24",)))
        self.gateway.batch("route add default via 198.51.100.1")
        for customer in (BLUE, RED):
            self._customer(customer)
        for router in (self.gateway, self.wan, *self.edges.values()):
            router.forwarding()
        self.wan.batch(f"route add 172.16.0.0/16 via {BLUE.outer}")
        self.daemon = GatewayDaemon(self.gateway, configuration(BLUE, RED), {"site.psk": PSK})

    def start(self) -> None:
        """Until both tunnels carry BGP, and each host hears its own site."""
        for customer in (BLUE, RED):
            self.charons[customer.name].start()
            self.birds[customer.name].start()
        self.daemon.start()
        for customer in (BLUE, RED):
            self.daemon.wait_bgp(customer.name, 30)
            wait_until(
                lambda c=customer: self.hears(c) == c.name,
                20,
                f"{customer.name} hears its site",
                logs=[self.daemon.process],
            )

    def hears(self, customer: Customer, seconds: float = 1.0) -> str:
        """Whose host answers 172.16.1.10, asked from the customer's LAN; "" for nobody."""
        return self.ask(self.hosts[customer.name], SITE_HOST, seconds)

    def ask(self, machine: Namespace, address: str, seconds: float = 1.0) -> str:
        command = machine.argv([sys.executable, "-S", "-E", "-c", _ASK, address, str(PORT), str(seconds)])
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 20).stdout.strip()

    def _customer(self, customer: Customer) -> None:
        name = customer.name
        host, edge = self.lab.namespace(f"host-{name}"), self.lab.namespace(f"edge-{name}")
        self.hosts[name], self.edges[name] = host, edge
        self.lab.link(
            End(host, "eth0", (f"{customer.lan}.10/24",)), End(self.gateway, f"lan-{name}", (f"{customer.lan}.1/24",))
        )
        net = customer.outer.rsplit(".", 1)[0]
        self.lab.link(End(self.wan, name, (f"{net}.1/24",)), End(edge, "wan", (f"{customer.outer}/24",)))
        host.batch(f"route add default via {customer.lan}.1")
        edge.batch(f"route add default via {net}.1", "link set lo up", f"address add {SITE_HOST}/32 dev lo")
        edge.batch("route add blackhole 10.0.0.0/8 metric 4000000")
        connection = Connection(
            name="gateway",
            local=customer.outer,
            remote=GATEWAY_OUTER,
            psk=PSK,
            local_id=f"{name}.example.net",
            remote_id="gateway.example.net",
        )
        self.charons[name] = Strongswan(edge, [connection], tunnel_address=f"{customer.inner[1]}/30")
        session = Neighbor(SESSION, customer.inner[1], customer.inner[0], GATEWAY_AS)
        self.birds[name] = Bird(edge, customer.asn, customer.outer, [session], [SITE])
        self.answers.append(edge.start("answer", [sys.executable, "-S", "-E", "-c", _ANSWER % PORT, name]))
        self.answers.append(
            host.start(
                "answer",
                [
                    sys.executable,
                    "-S",
                    "-E",
                    "-c",
                    _ANSWER.replace("172.16.1.10", f"{customer.lan}.10") % PORT,
                    f"lan of {name}",
                ],
            )
        )
