r"""A pair whose outer address goes from gateway to gateway, an edge that knows of one gateway only, and a witness.

    host 10.1.4.50 --\         / a 10.1.4.4   198.51.100.2 \
    witness 10.1.4.9 -- vnet --                              -- wan -- edge 198.51.100.100: charon, 172.16.1.10
                               \ b 10.1.4.5   198.51.100.3 /
                                 active: 10.1.4.10, 198.51.100.10

Both networks are switches: neighbors learn where an address is from what is announced, as on a link of one's own.
"""

from __future__ import annotations

import time

from support.daemon import GatewayDaemon
from support.netns import End, Lab, Namespace
from support.process import Process, wait_until
from support.strongswan import Connection, Strongswan
from support.traffic import Streams
from support.two_gateways import PSK, SECRET, longest_gap
from support.witness_machine import start_witness

SHARED, ROUTER = "198.51.100.10", "10.1.4.10"
EDGE, SITE_HOST, HOST, WITNESS = "198.51.100.100", "172.16.1.10", "10.1.4.50", "10.1.4.9"
OUTER, FABRIC = ("198.51.100.2", "198.51.100.3"), ("10.1.4.4", "10.1.4.5")
SITE_TS, VNET_TS = "172.16.1.0/24", "10.1.4.0/24"

_CONFIG = """
[gateway]
name = "gw-{name}"
state_directory = "/run/gatewayd-state"
[connection.site]
local_addrs = "198.51.100.10"
remote_addrs = "198.51.100.100"
local_id = "gateway.example.net"
remote_id = "edge.example.net"
psk.file = "site.psk"
proposals = ["aes256gcm16-prfsha384-ecp384"]
esp_proposals = ["aes256gcm16-ecp256"]
protected = ["172.16.1.0/24"]
local_ts = ["10.1.4.0/24"]
remote_ts = ["172.16.1.0/24"]
dpd_delay = 5
{connection}
[ha]
local_address = "{own}"
remote_address = "{other}"
secret.file = "pair.secret"
interval = "50ms"
dead_after = 3
drain_time = "500ms"
shared_addresses = ["198.51.100.10", "10.1.4.10"]
{ha}
[ha.witness]
address = "10.1.4.9"
ttl = "{ttl}"
{witness}
{fabric}
"""


class SharedAddress:
    """The scene, with nothing started yet."""

    def __init__(
        self, lab: Lab, *, ttl: str = "1s", ha: str = "", connection: str = "", witness: str = "", fabric: str = ""
    ) -> None:
        names = ("host", "vnet", "gwa", "gwb", "wan", "edge", "witness")
        self.host, self.vnet, gateway_a, gateway_b, self.wan, self.edge, self.witness = map(lab.namespace, names)
        self.gateways: list[Namespace] = [gateway_a, gateway_b]
        self.ttl = ttl
        self._links(lab)
        self.charon = self._charon()
        self.daemons = [
            GatewayDaemon(
                self.gateways[at],
                _CONFIG.format(
                    name="ab"[at],
                    own=FABRIC[at],
                    other=FABRIC[1 - at],
                    ttl=ttl,
                    ha=ha,
                    connection=connection,
                    witness=witness,
                    fabric=fabric.format(me="ab"[at], peer="ba"[at]),
                ),
                {"site.psk": PSK, "pair.secret": SECRET},
            )
            for at in (0, 1)
        ]
        self.witness_process: Process | None = None
        self.streams = Streams(self.host, HOST, self.edge, SITE_HOST)

    def start(self) -> None:
        """Until one gateway is active, its tunnel is up, and the other has a copy."""
        self.start_others()
        for daemon in self.daemons:
            daemon.start()
        self.wait_whole()

    def start_others(self) -> None:
        """All but the gateways."""
        self.witness_process = start_witness(self.witness, WITNESS, self.ttl, SECRET)
        self.charon.start()
        self.edge.batch(f"route add {VNET_TS} dev ipsec0 src {SITE_HOST}")

    def wait_whole(self, seconds: float = 30.0) -> None:
        logs = [daemon.process for daemon in self.daemons]
        wait_until(lambda: sorted(self.roles()) == ["active", "standby"], seconds, "one is active", logs=logs)
        self.daemons[self.active()].wait_up(seconds)
        wait_until(lambda: self.copied(1 - self.active()), seconds, "the standby has a copy", logs=logs)

    def copied(self, at: int) -> bool:
        """Whether that gateway, a standby, could go on with the connection now."""
        status = self.daemons[at].status()
        replica = status["ha"]["replica"] if status and status["ha"] else None
        return bool(replica and replica["usable"] and replica["connections"] == 1)

    def roles(self) -> list[str]:
        found = [daemon.status() for daemon in self.daemons]
        return [str(status["ha"]["role"]) if status and status.get("ha") else "" for status in found]

    def active(self) -> int:
        return self.roles().index("active")

    def wait_role(self, at: int, role: str, seconds: float = 20.0) -> None:
        logs = [daemon.process for daemon in self.daemons]
        wait_until(lambda: self.roles()[at] == role, seconds, f"gw-{'ab'[at]} is {role}", logs=logs)

    def power_on(self, at: int) -> None:
        self.gateways[at].batch("link set lan up", "link set wan up")
        self.gateways[at].batch(f"route replace 172.16.0.0/16 via {EDGE}")

    def power_off(self, at: int) -> None:
        """As seen from outside: all its links are dead."""
        self.gateways[at].batch("link set lan down", "link set wan down")

    def holders(self, address: str = SHARED) -> list[int]:
        """Which gateways have the address now."""
        return [at for at, machine in enumerate(self.gateways) if f" {address}/" in machine.run("ip", "-o", "address")]

    def lost(self, since: float) -> tuple[int, int]:
        begin, end = since - 0.2, time.monotonic() - 0.3
        return self.streams.there.lost_between(begin, end), self.streams.back.lost_between(begin, end)

    def gap(self, since: float) -> float:
        """The longest silence at either end since then, in seconds; what is still silent counts."""
        return max(longest_gap(stream, since) for stream in (self.streams.there, self.streams.back))

    def journal(self, at: int, event: str) -> list[str]:
        status = self.daemons[at].status()
        return [entry["text"] for entry in status["journal"] if entry["event"] == event] if status else []

    # --- the scene ----------------------------------------------------------------------------------------------

    def _links(self, lab: Lab) -> None:
        ends = {
            self.vnet: [(self.host, "eth0", HOST), (self.witness, "eth0", WITNESS)],
            self.wan: [(self.edge, "wan", EDGE)],
        }
        for at, gateway in enumerate(self.gateways):
            ends[self.vnet].append((gateway, "lan", FABRIC[at]))
            ends[self.wan].append((gateway, "wan", OUTER[at]))
        for switch, members in ends.items():
            switch.batch("link add br0 type bridge", "link set br0 up")
            for number, (machine, name, address) in enumerate(members):
                lab.link(End(machine, name, (f"{address}/24",)), End(switch, f"p{number}", ()))
                switch.batch(f"link set p{number} master br0")
        for router in (*self.gateways, self.edge):
            router.forwarding()
        self.host.batch(f"route add 172.16.0.0/16 via {ROUTER}")
        self.edge.batch("link set lo up", f"address add {SITE_HOST}/32 dev lo", "route add default via 198.51.100.1")
        for gateway in self.gateways:
            gateway.batch(f"route add 172.16.0.0/16 via {EDGE}")  # what leaks does arrive

    def _charon(self) -> Strongswan:
        connection = Connection(
            name="gateway",
            local=EDGE,
            remote=SHARED,
            psk=PSK,
            local_id="edge.example.net",
            remote_id="gateway.example.net",
            local_ts=SITE_TS,
            remote_ts=VNET_TS,
        )
        return Strongswan(self.edge, [connection])
