"""What stays reachable in clear although a protected prefix holds it: endpoints, neighbors and the peer gateway beside the tunnels."""

from __future__ import annotations

from ipaddress import ip_network

from simulation.doubles import SeededRandom

from gateway.config.load import load_text
from gateway.ike.key_exchange import Libcrypto
from gateway.node import inputs
from gateway.node.gateway import Gateway
from gateway.node.pair_settings import PairSecrets
from gateway.node.settings import Secrets, build
from gateway.routing.model import Dump, DumpRequest, Op, Reconcile, Route, RouteKind, RouteOps, Verb

TEXT = """
[gateway]
name = "gw-a"
[connection.a]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.7"
psk.file = "x"
remote_ts = ["172.16.0.0/12", "198.51.100.0/24"]
start_action = "none"
tunnel_address = ["169.254.21.1/30"]
[bgp]
local_as = 65010
[bgp.neighbor.edge]
address = "169.254.21.2"
remote_as = 65001
connection = "a"
[bgp.neighbor.vnet]
address = "172.16.9.4"
local_address = "10.0.1.4"
remote_as = 65515
[ha]
local_address = "10.0.1.4"
remote_address = "172.16.8.5"
secret.file = "y"
"""


def test_neighbors_and_the_peer_gateway_beside_the_tunnels_are_excepted_like_endpoints() -> None:
    loaded = load_text(TEXT)
    assert loaded.config is not None, loaded.diagnostics
    node = Gateway(
        build(loaded.config, Secrets({"a": b"secret"}, {}, PairSecrets(b"another secret of the pair"))),
        SeededRandom("1"),
        Libcrypto(),
    )
    node.command(inputs.Underlay(frozenset({ip_network("10.0.1.0/24")})), 0.0)
    node.command(inputs.Start(), 0.0)
    ops: list[Op] = []
    while found := list(node.poll()):
        for effect in found:
            if isinstance(effect, DumpRequest):
                node.command(Reconcile(effect.ticket, Dump((), frozenset())), 0.0)
            elif isinstance(effect, RouteOps):
                ops += effect.ops
    throws = {
        op.entry.prefix
        for op in ops
        if op.verb is Verb.ADD and isinstance(op.entry, Route) and op.entry.kind is RouteKind.THROW
    }
    always = {ip_network(prefix) for prefix in ("10.0.1.0/24", "169.254.169.254/32", "168.63.129.16/32")}
    # The neighbor inside the tunnel is not among them
    assert throws - always == {ip_network(f"{host}/32") for host in ("198.51.100.7", "172.16.9.4", "172.16.8.5")}
