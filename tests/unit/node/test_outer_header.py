"""What the shell is told of `dscp` and `df`: when the TUN is opened, and at a reload that changes them."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from simulation.doubles import SeededRandom

from gateway.config.load import load_text
from gateway.contract import Compute, Endpoint
from gateway.ike.events import ChildMoved
from gateway.ike.key_exchange import Libcrypto
from gateway.node import inputs, negotiated
from gateway.node.effects import MoveSa, OpenTunnel, SetTunnelMtu
from gateway.node.gateway import Gateway
from gateway.node.settings import GatewaySettings, Secrets, build
from gateway.routing.model import Applied, Dump, DumpRequest, Reconcile, RouteOps

CONNECTION = """
[connection.{name}]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.{number}"
psk.file = "x"
remote_ts = ["172.{number}.0.0/16"]
start_action = "none"
{keys}
"""


def settings(keys: str = "") -> GatewaySettings:
    """Two connections; the keys are the first one's."""
    text = CONNECTION.format(name="a", number=17, keys=keys) + CONNECTION.format(name="b", number=18, keys="")
    loaded = load_text(text)
    assert loaded.config is not None, loaded.diagnostics
    return build(loaded.config, Secrets({"a": b"secret", "b": b"secret"}))


def said(node: Gateway) -> list[OpenTunnel | SetTunnelMtu]:
    """What is asked for of devices, with a kernel that obeys."""
    found: list[OpenTunnel | SetTunnelMtu] = []
    while effects := list(node.poll()):
        for effect in effects:
            match effect:
                case DumpRequest():
                    node.command(Reconcile(effect.ticket, Dump((), frozenset())), 0.0)
                case RouteOps():
                    node.command(Applied(effect.ticket, {}), 0.0)
                case OpenTunnel():
                    node.command(inputs.TunnelReady(effect.name, 7 + effect.connection), 0.0)
                    found.append(effect)
                case SetTunnelMtu():
                    found.append(effect)
                case Compute():
                    raise AssertionError("nobody negotiates")
    return found


def started(keys: str = "") -> tuple[Gateway, list[OpenTunnel | SetTunnelMtu]]:
    node = Gateway(settings(keys), SeededRandom("1"), Libcrypto())
    node.command(inputs.Underlay(frozenset({ip_network("10.0.1.0/24")})), 0.0)
    node.command(inputs.Start(), 0.0)
    return node, said(node)


@pytest.mark.parametrize(
    ("keys", "dscp", "clear_df"),
    [("", None, False), ("dscp = 0", 0, False), ('dscp = "ef"\ndf = "clear"', 46, True), ('df = "honor"', None, False)],
)
def test_the_data_plane_is_told_as_soon_as_the_tun_is_asked_for(keys: str, dscp: int | None, clear_df: bool) -> None:
    _, effects = started(keys)
    links = {one.name: one for one in effects if isinstance(one, SetTunnelMtu)}
    assert (links["a"].dscp, links["a"].clear_df) == (dscp, clear_df)
    assert (links["b"].dscp, links["b"].clear_df) == (None, False)


def test_a_reload_that_changes_one_says_so_once_and_leaves_the_rest_alone() -> None:
    node, effects = started()
    mtu = next(one.mtu for one in effects if isinstance(one, OpenTunnel))
    steps = [('dscp = "ef"', 46, False), ('dscp = "ef"\ndf = "clear"', 46, True), ('df = "clear"', None, True)]
    for at, (keys, dscp, clear_df) in enumerate([*steps, ("", None, False)], start=1):
        node.command(inputs.Reconfigured(settings(keys)), float(at))
        (change,) = said(node)
        assert isinstance(change, SetTunnelMtu)
        assert (change.name, change.mtu, change.dscp, change.clear_df) == ("a", mtu, dscp, clear_df)
        node.command(inputs.Reconfigured(settings(keys)), at + 0.5)
        assert said(node) == []


def test_esp_in_udp_goes_to_4500_where_ike_moved_on_port_500() -> None:
    """RFC 3948 2: as when the SA was installed."""
    node, _ = started()
    tunnel = node.tunnels["a"]
    moved = ChildMoved("a", 0x1234, Endpoint("198.51.100.18", 500))
    (effect,) = negotiated.follow(tunnel, moved, True, 0.0)
    assert effect == MoveSa(tunnel.settings.id, 0x1234, Endpoint("198.51.100.18", 4500))
