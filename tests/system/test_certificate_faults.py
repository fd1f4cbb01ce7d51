"""What goes wrong with certificates only on the way, or only by the clock, has its sentence too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.impair import blocked
from support.pair import EDGE, Pair, make_pair
from support.pki import Authority, Issued, pem_of
from support.process import wait_until
from support.scene import EDGE_ID, GATEWAY_ID, Scene

pytestmark = [pytest.mark.system, pytest.mark.slow]

TODAY = datetime.now(UTC)
LINES = 'local_cert = "gw.pem"\nlocal_key.file = "gw.key"\nca = ["ca.pem"]\nretransmit_timeout = 0.3\nretransmit_tries = 3\n'


def _pair(scene: Scene, root: Authority, gateway: Issued, edge: Issued, lines: str = "") -> Pair:
    files = {
        "x509/end.pem": pem_of(edge.certificate),
        "x509ca/root.pem": pem_of(root.certificate),
        "private/end.pem": edge.key_pem,
    }
    secrets = {"gw.pem": gateway.pem, "gw.key": gateway.key_pem, "ca.pem": pem_of(root.certificate)}
    connection = EDGE.with_(auth=("pubkey", "pubkey"), certs=files)
    return make_pair(scene, connection, connection=LINES + lines, secrets=secrets)


def _told(pair: Pair, failure: str, *words: str) -> None:
    def said() -> bool:
        tunnel = pair.gateway.tunnel() or {}
        return tunnel["last_failure"] == failure and all(word in tunnel["explanation"] for word in words)

    wait_until(said, 15, f"{failure} with {words}", logs=[pair.gateway.process, pair.charon.process])


def test_ip_fragments_are_dropped_and_ike_s_own_are_not(scene: Scene) -> None:
    root = Authority("root", "rsa4096", at=TODAY)
    sub = root.sub("sub", "rsa4096", at=TODAY)
    gateway = sub.issue("gateway", "rsa4096", at=TODAY, dns=[GATEWAY_ID])
    edge = root.issue("edge", "p256", at=TODAY, dns=[EDGE_ID])
    pair = _pair(scene, root, gateway, edge, "fragment_size = 0\n")
    with blocked(scene.wan, "ip frag-off & 0x3fff != 0"):
        pair.start()
        _told(pair, "IP_FRAGMENTS_LOST", "too long for one IP packet", "`fragment_size` of connection site to 1280")
        text = pair.gateway.config.read_text().replace("fragment_size = 0\n", "")
        pair.gateway.config.write_text(text)
        pair.gateway.ctl("reload")
        pair.wait_up()


def test_a_clock_that_is_behind(scene: Scene) -> None:
    root = Authority("root", "p256", at=TODAY)
    gateway = root.issue("gateway", "p256", at=TODAY, dns=[GATEWAY_ID])
    edge = root.issue("edge", "p256", at=TODAY + timedelta(days=9), dns=[EDGE_ID])
    pair = _pair(scene, root, gateway, edge)
    pair.start()
    _told(pair, "CERTIFICATE_NOT_YET_VALID", "correct the clock of this machine")
