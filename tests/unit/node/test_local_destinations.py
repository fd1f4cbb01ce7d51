"""Which destinations the configuration names as ours, and that the shell is told before and after a reload."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from simulation.doubles import SeededRandom

from gateway.config.load import load_text
from gateway.contract import Compute
from gateway.ike.key_exchange import Libcrypto
from gateway.node import inputs
from gateway.node.effects import OpenTunnel, SetTunnelMtu
from gateway.node.gateway import Gateway
from gateway.node.settings import GatewaySettings, Secrets, build
from gateway.routing.model import Applied, Dump, DumpRequest, Reconcile, RouteOps

CONNECTION = """
[connection.a]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.7"
psk.file = "x"
remote_ts = ["172.16.0.0/16"]
start_action = "none"
tunnel_address = ["169.254.21.1/30"]
"""
BGP = """
[bgp]
local_as = 65010
advertise = [{advertise}]
[bgp.neighbor.edge]
address = "169.254.21.2"
remote_as = 65001
connection = "a"
{edge}
[bgp.neighbor.vnet]
address = "10.0.1.9"
local_address = "10.0.1.4"
remote_as = 65515
advertise = ["172.16.0.0/12"]
"""


def settings(local_ts: str = "", bgp: str = "") -> GatewaySettings:
    local = f"local_ts = [{local_ts}]\n" if local_ts else ""
    loaded = load_text(CONNECTION + local + bgp)
    assert loaded.config is not None, loaded.diagnostics
    return build(loaded.config, Secrets({"a": b"secret"}))


@pytest.mark.parametrize(
    ("local_ts", "advertise", "edge", "expected"),
    [
        ("", None, "", ()),
        ('"0.0.0.0/0", "::/0"', None, "", ()),
        ('"10.1.0.0/16"', None, "", ("10.1.0.0/16",)),
        ('"0.0.0.0/0", "2001:db8::/48"', None, "", ("2001:db8::/48",)),
        ('"10.1.0.0/17", "10.1.128.0/17", "10.1.3.0/24"', None, "", ("10.1.0.0/16",)),
        ('"0.0.0.0/1", "128.0.0.0/1"', None, "", ()),
        # Announced to the VNet is what lies behind tunnels: not ours to let out.
        ("", "", "", ()),
        ("", '"10.1.0.0/16"', "", ("10.1.0.0/16",)),
        ("", '"10.1.0.0/16"', 'advertise = ["10.2.0.0/16", "0.0.0.0/0"]', ("10.1.0.0/16", "10.2.0.0/16")),
    ],
)
def test_named_is_what_is_ours_in_few_prefixes(
    local_ts: str, advertise: str | None, edge: str, expected: tuple[str, ...]
) -> None:
    bgp = "" if advertise is None else BGP.format(advertise=advertise, edge=edge)
    (tunnel,) = settings(local_ts, bgp).tunnels
    assert set(tunnel.local_destinations) == {*expected}
    assert len(tunnel.local_destinations) == len({*expected})


def effects_of(node: Gateway) -> list[object]:
    """Everything asked for, with a kernel that obeys."""
    said: list[object] = []
    while found := list(node.poll()):
        for effect in found:
            if isinstance(effect, DumpRequest):
                node.command(Reconcile(effect.ticket, Dump((), frozenset())), 0.0)
            elif isinstance(effect, RouteOps):
                node.command(Applied(effect.ticket, {}), 0.0)
            elif isinstance(effect, OpenTunnel):
                node.command(inputs.TunnelReady(effect.name, 7), 0.0)
            if not isinstance(effect, Compute):
                said.append(effect)
    return said


def test_the_tun_is_opened_with_them_and_a_reload_that_changes_them_says_so_without_opening_it_again() -> None:
    node = Gateway(settings('"10.1.0.0/16"'), SeededRandom("1"), Libcrypto())
    node.command(inputs.Underlay(frozenset({ip_network("10.0.1.0/24")})), 0.0)
    node.command(inputs.Start(), 0.0)
    (opened,) = [effect for effect in effects_of(node) if isinstance(effect, OpenTunnel)]
    assert opened.local_destinations == ("10.1.0.0/16",)

    node.command(inputs.Reconfigured(settings('"10.1.0.0/16"')), 1.0)
    assert not [effect for effect in effects_of(node) if isinstance(effect, OpenTunnel | SetTunnelMtu)]

    node.command(inputs.Reconfigured(settings('"10.2.0.0/16"')), 2.0)
    (change,) = [effect for effect in effects_of(node) if isinstance(effect, OpenTunnel | SetTunnelMtu)]
    assert isinstance(change, SetTunnelMtu)
    assert (change.mtu, change.local_destinations) == (opened.mtu, ("10.2.0.0/16",))
