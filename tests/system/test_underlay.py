"""A fabric that would carry the site's prefixes past the gateway in clear: it is said, and outdone where asked."""

from __future__ import annotations

import pytest
from support.daemon import GatewayDaemon, configuration
from support.process import wait_until
from support.scene import EDGE_CONNECTION, PSK, SESSION_GATEWAY, SITE_PREFIXES, VNET_PREFIXES, Scene

pytestmark = pytest.mark.system


def test_a_fabric_that_knows_the_site_by_a_private_circuit_is_named_and_outdone(scene: Scene) -> None:
    scene.edge_charon().start()
    edge, vnet = scene.edge_bird(), scene.vnet_bird([*VNET_PREFIXES, SITE_PREFIXES[0]])
    edge.start()
    vnet.start()
    text = configuration(EDGE_CONNECTION, bgp=True)
    daemon = GatewayDaemon(scene.gateway, text, {"site.psk": PSK})
    daemon.start()
    daemon.wait_up(20)
    for name in ("edge", "vnet"):
        daemon.wait_bgp(name, 30)
    wanted = "the fabric may carry 1 protected prefixes in clear past this gateway: vnet teaches them (172.16.1.0/24)"
    wait_until(lambda: wanted in daemon.ctl("status").stdout, 10, "the alarm", logs=[daemon.process])
    assert "172.16.1.0/25" not in vnet.learned(SESSION_GATEWAY)
    daemon.config.write_text(text.replace('address = "10.1.0.1"\n', 'address = "10.1.0.1"\noutdo = true\n'))
    assert daemon.ctl("reload").returncode == 0
    halves = {"172.16.1.0/25", "172.16.1.128/25"}
    wait_until(lambda: halves <= set(vnet.learned(SESSION_GATEWAY)), 20, "both halves", logs=[daemon.process])
    wait_until(lambda: "in clear past this gateway" not in daemon.ctl("status").stdout, 10, "all is well again")
    # the host's own lookup: into the tunnel, whatever the fabric says
    assert "dev gw-site" in scene.gateway.run("ip", "route", "get", "172.16.1.10", "from", "10.1.1.10", "iif", "lan")
