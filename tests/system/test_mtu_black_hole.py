"""A link on the way that is narrower than link_mtu and whose ICMP is lost: found by the probe, told with the value to set."""

from __future__ import annotations

import re

import pytest
from support.daemon import GatewayDaemon, configuration
from support.impair import blocked
from support.process import wait_until
from support.scene import EDGE_CONNECTION, EDGE_INNER, PSK, Scene
from support.traffic import ping

pytestmark = pytest.mark.system

NARROW = 1400
INSIDE = """tunnel_address = ["169.254.21.1/30"]
protected = ["172.16.0.0/16"]
link_mtu = {link_mtu}
[connection.site.probe]
address = "169.254.21.2"
interval = "100ms"
"""
SILENCE = "table ip silence {\nchain c {\ntype filter hook output priority 0;\nicmp type destination-unreachable counter drop\n}\n}\n"


def test_a_black_hole_has_a_sentence_with_the_value_that_ends_it(scene: Scene) -> None:
    wide = configuration(EDGE_CONNECTION, connection=INSIDE.format(link_mtu=1500))
    daemon = GatewayDaemon(scene.gateway, wide, {"site.psk": PSK})
    charon = scene.edge_charon(EDGE_CONNECTION)
    charon.start()
    daemon.start()
    daemon.wait_up(logs=[daemon.process])
    probe = wait_until(lambda: _probe(daemon, "whole"), 15, "the whole MTU passes", logs=[daemon.process])
    assert probe["largest"] == probe["full_size"] == 1438

    # From here on the WAN is narrow and says nothing of it
    for device in ("edge", "gateway"):
        scene.wan.batch(f"link set dev {device} mtu {NARROW}")
    scene.wan.run("nft", "-f", "-", stdin=SILENCE)
    daemon.operate("terminate", "site")
    daemon.operate("initiate", "site")
    daemon.wait_up()
    probe = wait_until(lambda: _probe(daemon, "black-hole"), 45, "the black hole is found", logs=[daemon.process])
    assert probe["verdict"] == "up"  # small packets pass
    assert 1338 - 4 < probe["largest"] <= 1338
    assert ping(scene.gateway, EDGE_INNER, 3).lost == 0
    tunnel = daemon.tunnel() or {}
    assert tunnel["up"]
    sentence = tunnel["explanation"]
    assert "1438 octets" in sentence
    assert "`link_mtu` (1500)" in sentence
    advised = int(sentence.split("`link_mtu = ")[1].split("`")[0])
    assert advised == NARROW
    assert "[connection.site]" in sentence
    said = re.sub(r" \([^ )]*gateway\.toml:\d+\)", "", daemon.ctl("explain", "site").stdout)
    assert said.strip().endswith(f"{sentence}.")
    assert 'gateway_liveness_black_hole{kind="echo4",session="probe site"} 1.0' in daemon.http()[1]

    # And that is the cure
    daemon.config.write_text(configuration(EDGE_CONNECTION, connection=INSIDE.format(link_mtu=advised)))
    daemon.ctl("reload")
    wait_until(lambda: _probe(daemon, "whole"), 30, "the tunnel's packets pass", logs=[daemon.process])
    assert (daemon.tunnel() or {})["explanation"] == ""


@pytest.mark.slow
def test_a_path_that_loses_a_fifth_is_no_black_hole(scene: Scene) -> None:
    """Long or short, at random: that is loss, and no matter of sizes."""
    daemon = GatewayDaemon(
        scene.gateway, configuration(EDGE_CONNECTION, connection=INSIDE.format(link_mtu=1500)), {"site.psk": PSK}
    )
    charon = scene.edge_charon(EDGE_CONNECTION)
    charon.start()
    daemon.start()
    daemon.wait_up(logs=[daemon.process])
    with blocked(scene.wan, "udp dport 4500 numgen random mod 100 < 20"):
        daemon.operate("terminate", "site")
        daemon.operate("initiate", "site")
        wait_until(lambda: _probe(daemon, "whole"), 60, "the whole MTU passes", logs=[daemon.process])
    assert (daemon.tunnel() or {})["explanation"] == ""


def _probe(daemon: GatewayDaemon, passage: str) -> dict[str, object]:
    status = daemon.status() or {"liveness": ()}
    rows = [row for row in status["liveness"] if row["name"] == "probe site" and row["passage"] == passage]
    return rows[0] if rows else {}
