"""A prefix that BGP taught us in a tunnel never leaves in clear again: not withdrawn, stopped, rebooted; until forgotten."""

from __future__ import annotations

import subprocess

import pytest
from support.bird import Bird
from support.daemon import GatewayDaemon, configuration
from support.operated import run_to_end
from support.process import wait_until
from support.scene import EDGE_CONNECTION, PSK, SESSION_GATEWAY, SITE_PREFIXES, VNET_HOST, Scene

pytestmark = pytest.mark.system

LEARNED = "192.168.77.0/24"  # in no `protected`


@pytest.fixture
def edge(scene: Scene) -> Bird:
    scene.edge_charon().start()
    bird = scene.edge_bird([*SITE_PREFIXES, LEARNED])
    bird.start()
    return bird


@pytest.fixture
def daemon(scene: Scene, edge: Bird) -> GatewayDaemon:
    text = configuration(EDGE_CONNECTION, bgp=True).replace("local_as = 65010", "local_as = 65010\nstale_time = 1")
    made = GatewayDaemon(scene.gateway, text, {"site.psk": PSK})
    made.start()
    made.wait_up(20)
    edge.wait_established(SESSION_GATEWAY, 30)
    return made


def way(scene: Scene) -> str:
    """Where the gateway sends what comes from the VNet for the learned prefix."""
    command = ("ip", "-4", "route", "get", "192.168.77.5", "from", VNET_HOST, "iif", "lan")
    found = subprocess.run(scene.gateway.argv(command), capture_output=True, text=True, check=False)
    words = found.stdout.split()
    return words[words.index("dev") + 1] if "dev" in words else "nowhere"


def test_what_was_learned_stays_closed_until_it_is_forgotten(scene: Scene, daemon: GatewayDaemon, edge: Bird) -> None:
    wait_until(lambda: way(scene) == "gw-site", 20, "the learned route")
    assert LEARNED in daemon.ctl("guard", "show").stdout
    edge.stop()
    wait_until(lambda: way(scene) == "nowhere", 20, "the blackhole in its place")
    wait_until(
        lambda: LEARNED in (daemon.machine.directory / "run/gatewayd-state/guard.json").read_text(), 5, "the file"
    )
    # a restart, and what is left between
    assert daemon.stop() == 0
    assert way(scene) == "nowhere"
    # a reboot: the kernel has forgotten everything
    scene.gateway.run("ip", "route", "flush", "table", "221")
    scene.gateway.run("sh", "-c", "while ip rule del protocol 221 2>/dev/null; do :; done")
    assert way(scene) == "wan", "the host's default route leads out in clear"
    done = run_to_end(daemon, "--guard", "--config", str(daemon.config))
    assert done.returncode == 0, done.stderr
    assert "clear-text guard:" in done.stdout
    assert way(scene) == "nowhere"
    again = run_to_end(daemon, "--guard", "--config", str(daemon.config))
    assert again.returncode == 0, "any number of times"
    daemon.start()
    daemon.wait_up(20)
    assert way(scene) == "nowhere"
    assert daemon.ctl("guard", "forget", "10.99.0.0/16", check=False).returncode == 1
    assert "1 prefixes are protected no longer" in daemon.ctl("guard", "forget", LEARNED).stdout
    wait_until(lambda: way(scene) == "wan", 5, "as the operator wishes")


@pytest.mark.slow
def test_the_boot_guard_closes_what_the_configuration_protects_before_the_first_start(scene: Scene) -> None:
    daemon = GatewayDaemon(scene.gateway, configuration(EDGE_CONNECTION, bgp=True), {"site.psk": PSK})
    get = scene.gateway.argv(("ip", "route", "get", "172.16.1.10", "from", VNET_HOST, "iif", "lan"))
    assert "dev wan" in subprocess.run(get, capture_output=True, text=True, check=True).stdout
    (daemon.directory / "site.psk").unlink()  # a credential, that only the daemon's own unit has
    assert run_to_end(daemon, "--guard", "--config", str(daemon.config)).returncode == 0
    assert subprocess.run(get, capture_output=True, check=False).returncode != 0
