"""A connection that a reload takes out of its instance: what led into that stays until the own table is closed."""

from __future__ import annotations

from ipaddress import ip_network

from simulation.doubles import SeededRandom

from gateway.config.load import load_text
from gateway.ike.key_exchange import Libcrypto
from gateway.node import effects, inputs
from gateway.node.gateway import Gateway
from gateway.node.settings import GatewaySettings, Secrets, build
from gateway.routing.model import Applied, Dump, DumpRequest, Reconcile, Route, RouteKind, RouteOps

SITE = ip_network("172.16.0.0/16")
CONNECTION = """
[connection.a]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.7"
psk.file = "x"
remote_ts = ["172.16.0.0/16"]
start_action = "none"
"""
APART = 'instance = "blue"\n[instance.blue]\ntable = 301\ninterfaces = ["eth1"]\n'


def settings(text: str) -> GatewaySettings:
    loaded = load_text(text)
    assert loaded.config is not None, loaded.diagnostics
    return build(loaded.config, Secrets({"a": b"secret"}))


def played(node: Gateway, now: float) -> list[str]:
    """What happens to rules and to the guard of table 221, in order, with a kernel that does what it is told."""
    happened = []
    while found := list(node.poll()):
        for effect in found:
            match effect:
                case effects.SetInstances(instances, _, guarded):
                    happened.append(f"{len(instances)} instances, {'old rules go' if guarded else 'all rules stay'}")
                case DumpRequest(ticket, table):
                    node.command(Reconcile(ticket, Dump(), table), now)
                case RouteOps(ticket, ops, table):
                    closed = [one.entry for one in ops if isinstance(one.entry, Route)]
                    if not table and any(one.kind is RouteKind.BLACKHOLE and one.prefix == SITE for one in closed):
                        happened.append("closed")
                    node.command(Applied(ticket, table=table), now)
    return happened


def test_rules_of_an_instance_that_went_while_nobody_ran_go_as_soon_as_the_guard_stands() -> None:
    node = Gateway(settings(CONNECTION), SeededRandom("1"), Libcrypto())
    node.command(inputs.Underlay(frozenset()), 0.0)
    node.command(inputs.Start(), 0.0)
    assert played(node, 0.0) == ["0 instances, all rules stay", "closed", "0 instances, old rules go"]


def test_rules_that_led_into_an_instance_go_after_the_guard_stands_in_the_own_table() -> None:
    node = Gateway(settings(CONNECTION + APART), SeededRandom("1"), Libcrypto())
    node.command(inputs.Underlay(frozenset()), 0.0)
    node.command(inputs.Start(), 0.0)
    assert played(node, 0.0) == ["1 instances, all rules stay", "1 instances, old rules go"]
    assert node.guarded
    node.command(inputs.Reconfigured(settings(CONNECTION)), 1.0)
    assert played(node, 1.0) == ["0 instances, all rules stay", "closed", "0 instances, old rules go"]
    # nothing more while nothing changes, nor for whoever has no instance
    node.command(inputs.Reconfigured(settings(CONNECTION + "dpd_delay = 7\n")), 2.0)
    assert played(node, 2.0) == []
