"""A node whose tables and RIBs are filled by hand: connection "site" with BGP "edge" inside, "vnet" beside it, no SAs."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any

from simulation.doubles import SeededRandom
from support.exabgp_model import ExabgpModel, end_of_rib

from gateway.bgp.events import ProcessUp
from gateway.config.load import load_text
from gateway.ike.key_exchange import Libcrypto
from gateway.node import inputs
from gateway.node.effects import OpenTunnel
from gateway.node.gateway import Gateway
from gateway.node.settings import Secrets, build
from gateway.routing.model import (
    Applied,
    ConnectionUp,
    Dump,
    DumpRequest,
    NextHopResolved,
    Reconcile,
    Resolution,
    Resolve,
    RouteOps,
    SetRoute,
    Target,
)

EDGE, VNET = "169.254.21.2", "10.0.1.9"
CONFIG = """
[connection.site]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.7"
psk.file = "x"
local_ts = ["10.1.0.0/16"]
remote_ts = ["172.16.0.0/16"]
start_action = "none"
tunnel_address = ["169.254.21.1/30"]

[instance.blue]
table = 301
interfaces = ["lan"]
local = ["10.1.0.0/16"]

[bgp]
local_as = 65010
advertise = ["10.1.0.0/16"]

[bgp.policy.few]
rule.inner = { prefixes = ["172.16.0.0/16 ge 17"], action = "reject" }
rule.rest = { action = "accept", med = 30 }

[bgp.neighbor.edge]
address = "169.254.21.2"
remote_as = 65001
connection = "site"
max_prefixes = 20000

[bgp.neighbor.vnet]
address = "10.0.1.9"
local_address = "10.0.1.4"
remote_as = 65515
multihop = 2
"""


@dataclass(slots=True)
class Glass:
    """`daemon`: what `runtime.answers` needs of one."""

    node: Gateway
    model: ExabgpModel
    daemon: Any

    def route(self, prefix: str, target: Target, source: str = "bgp", *, keep: bool = False) -> None:
        self.node.tables[""].command(SetRoute(ip_network(prefix), target, source, keep=keep), 0.0)
        self.obey()

    def tunnel_up(self) -> None:
        """For its routes; there is no SA."""
        self.node.tables[""].command(ConnectionUp("site"), 0.0)
        self.obey()

    def obey(self) -> None:
        """A kernel that does what it is told."""
        node = self.node
        node.handle_deadline(0.0)
        while found := list(node.poll()):
            for effect in found:
                if isinstance(effect, DumpRequest):
                    node.command(Reconcile(effect.ticket, Dump((), frozenset()), effect.table), 0.0)
                elif isinstance(effect, RouteOps):
                    node.command(Applied(effect.ticket, {}, effect.table), 0.0)
                elif isinstance(effect, Resolve):
                    node.command(NextHopResolved(effect.address, Resolution(ip_address("10.0.1.1"), 2)), 0.0)
                elif isinstance(effect, OpenTunnel):
                    node.command(inputs.TunnelReady(effect.name, 7), 0.0)


def glass() -> Glass:
    config = load_text(CONFIG).config
    assert config is not None, load_text(CONFIG).diagnostics
    settings = build(config, Secrets({"site": b"secret"}))
    node = Gateway(settings, SeededRandom(1), Libcrypto())
    node.command(inputs.Start(), 0.0)
    assert node.speaker is not None and settings.bgp is not None
    model = ExabgpModel(node.speaker, settings.bgp)
    made = Glass(node, model, SimpleNamespace(node=node, loaded=SimpleNamespace(config=config)))
    made.obey()
    model.command(ProcessUp(1))
    model.answer()
    for address in model.peers:
        model.peer_up(address)
        model.say(end_of_rib(address))
    model.settle()
    return made
