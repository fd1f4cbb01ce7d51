"""gatewayd itself follows a redirect where it is told to, and comes back when nobody is there any more (RFC 5685)."""

from __future__ import annotations

import pytest
from support.daemon import GatewayDaemon, configuration
from support.netns import End
from support.pair import SITE, VNET
from support.process import wait_until
from support.scene import EDGE_ID, EDGE_OUTER, GATEWAY_ID, GATEWAY_OUTER, PSK, SITE_HOST, Scene
from support.strongswan import Connection
from support.traffic import ping
from support.twins import make_twins

pytestmark = pytest.mark.system

SECOND, BEHIND = "192.0.2.2", "172.16.99.1"


@pytest.mark.slow
def test_a_gateway_goes_where_it_is_sent_and_comes_back(scene: Scene) -> None:
    machine = scene.lab.namespace("second")
    scene.lab.link(End(scene.wan, "second", ("192.0.2.1/24",)), End(machine, "wan", (f"{SECOND}/24",)))
    machine.batch("route add default via 192.0.2.1", f"address add {BEHIND}/32 dev lo")
    machine.forwarding()
    twins = make_twins(scene, "aes256gcm16", encap=True)
    text = twins.gateway.config.read_text()
    twins.gateway.config.write_text(text.replace("encap = true", 'encap = true\nredirect = "follow"'))
    # The site's end once more, at another address; `configuration` mirrors what it is given
    gateways = Connection(
        "site",
        GATEWAY_OUTER,
        SECOND,
        PSK,
        GATEWAY_ID,
        EDGE_ID,
        esp_proposals="aes256gcm16",
        local_ts=VNET,
        remote_ts=SITE,
    )
    second = GatewayDaemon(machine, configuration(gateways, start_action="none"), {"site.psk": PSK})
    second.start()
    twins.establish()
    logs = [second.process, twins.gateway.process, twins.edge.process]

    def at(address: str) -> bool:
        tunnel = twins.gateway.tunnel()
        return bool(tunnel and tunnel["up"] and str(tunnel["remote"]).startswith(address))

    assert at(EDGE_OUTER)
    twins.edge.ctl("drain", "site", "--to", SECOND)
    wait_until(lambda: at(SECOND) and not twins.edge.up(), 20, "the gateway is at the second end alone", logs=logs)
    assert ping(scene.host, BEHIND, 10).lost == 0
    twins.edge.ctl("drain", "site", "--end")
    assert second.stop() == 0
    wait_until(lambda: at(EDGE_OUTER), 20, "the gateway is back", logs=logs)
    assert ping(scene.host, SITE_HOST, 10).lost == 0
    twins.wire()
