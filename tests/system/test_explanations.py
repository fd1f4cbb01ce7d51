"""A setting that differs at the peer is named within seconds: what, whose setting, the fix. In both roles."""

from __future__ import annotations

import pytest
from support.daemon import GatewayDaemon, configuration
from support.operated import Site
from support.pair import EDGE
from support.process import wait_until
from support.scene import PSK, Scene
from support.strongswan import Strongswan

pytestmark = pytest.mark.system

REFUSED = "refused our authentication"
INITIATOR = [
    ({"psk": "x" * 24}, "AUTHENTICATION_FAILED", [REFUSED, "`psk` of connection site", "`local_id`"]),
    ({"local_id": "other.example.net"}, "AUTHENTICATION_FAILED", [REFUSED]),
    ({"remote_id": "nobody.example.net"}, "AUTHENTICATION_FAILED", [REFUSED, "gateway.example.net"]),
    ({"proposals": "aes128-sha256-modp2048"}, "NO_PROPOSAL_CHOSEN", ["none of our IKE proposals", "`proposals`"]),
    ({"esp_proposals": "aes128-sha256"}, "NO_PROPOSAL_CHOSEN", ["none of our ESP proposals", "`esp_proposals`"]),
    (
        {"local_ts": "192.0.2.0/24", "remote_ts": "192.0.3.0/24"},
        "TS_UNACCEPTABLE",
        ["10.1.0.0/16 on our side and 172.16.0.0/16 on its", "`local_ts` and `remote_ts`"],
    ),
]
RESPONDER = [
    ({"psk": "x" * 24}, "AUTHENTICATION_FAILED", ["we refused the authentication", "pre-shared keys differ"]),
    ({"local_id": "other.example.net"}, "WRONG_PEER_IDENTITY", ["other.example.net", "`remote_id`"]),
    ({"remote_id": "nobody.example.net"}, "AUTHENTICATION_FAILED", [REFUSED, "`local_id`"]),
    ({"proposals": "aes128-sha256-modp2048"}, "INIT_REFUSED", ["AES_CBC-128", "MODP_2048", "`proposals`"]),
    ({"esp_proposals": "aes128-sha256"}, "NO_PROPOSAL_ACCEPTABLE", ["AES_CBC-128", "`esp_proposals`"]),
    (
        {"local_ts": "192.0.2.0/24", "remote_ts": "192.0.3.0/24"},
        "TS_UNACCEPTABLE",
        ["192.0.2.0/24", "`local_ts` and `remote_ts`"],
    ),
]


def _site(scene: Scene, start_action: str) -> Site:
    text = configuration(EDGE, start_action=start_action)
    charon = Strongswan(scene.edge, [EDGE])
    site = Site(scene, GatewayDaemon(scene.gateway, text, {"site.psk": PSK}), charon, (), text)  # type: ignore[arg-type]
    charon.start()
    site.daemon.start()
    return site


def _differ(site: Site, changes: dict[str, str]) -> None:
    site.charon.connections = [EDGE.with_(**changes)]
    site.charon.write()
    site.charon.load()


def _check(site: Site, changes: dict[str, str], reason: str, words: list[str]) -> None:
    def told() -> bool:
        tunnel = site.daemon.tunnel() or {}
        return tunnel["last_failure"] == reason and all(word in tunnel["explanation"] for word in words)

    wait_until(told, 8, f"{changes}: {reason} with {words}", logs=[site.daemon.process])
    said = site.daemon.ctl("explain", "site", check=False)
    assert said.returncode == 1
    assert len(said.stdout.splitlines()) == 1
    assert f"{site.daemon.config}:" in said.stdout, "where the setting stands"
    assert not any(secret in said.stdout for secret in (PSK, changes.get("psk", PSK)))


def test_as_initiator(scene: Scene) -> None:
    site = _site(scene, "start")
    site.daemon.wait_up()
    for changes, reason, words in INITIATOR:
        site.daemon.ctl("terminate", "site")
        _differ(site, changes)
        site.daemon.ctl("initiate", "site", "--wait", "0")
        _check(site, changes, reason, words)
    _differ(site, {})
    site.daemon.ctl("terminate", "site")
    site.daemon.ctl("initiate", "site")
    assert "is up for" in site.daemon.ctl("explain", "site").stdout


def test_as_responder(scene: Scene) -> None:
    site = _site(scene, "none")
    waiting = site.daemon.ctl("explain", "site", check=False).stdout
    assert "connection site only responds, for its `start_action` (" in waiting
    for changes, reason, words in RESPONDER:
        _differ(site, changes)
        site.charon.swanctl("--initiate", "--child", "net", "--timeout", "2", check=False)
        _check(site, changes, reason, words)
        site.daemon.ctl("terminate", "site")
        site.charon.swanctl("--terminate", "--ike", "gateway", "--force", check=False)


def test_a_failure_often_said_does_not_hide_another_one_in_the_log(scene: Scene) -> None:
    site = _site(scene, "none")
    for changes in [{"psk": "x" * 24}] * 7 + [{"local_id": "other.example.net"}]:
        _differ(site, changes)
        site.charon.swanctl("--initiate", "--child", "net", "--timeout", "2", check=False)
    wait_until(
        lambda: any("other.example.net" in record["message"] for record in site.log()),
        3,
        "the eighth",
        logs=[site.daemon.process],
    )
