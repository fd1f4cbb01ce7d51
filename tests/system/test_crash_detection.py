"""A gatewayd that was killed and restarted is noticed at the peer's next message, not by its silence (RFC 6290)."""

from __future__ import annotations

import time

import pytest
from support.process import wait_until
from support.scene import SITE_HOST, Scene
from support.traffic import ping
from support.twins import make_twins

pytestmark = pytest.mark.system

SLOW = "dpd_delay = 2\nretransmit_timeout = 1\nretransmit_base = 1.5\nretransmit_tries = 4\n"
SILENCE = 2 + 1 + 1.5 + 1.5**2 + 1.5**3 + 1.5**4
"""Seconds until a peer that does not answer counts as dead, by those settings."""


@pytest.mark.parametrize("tokens", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_crash_of_the_answering_end(scene: Scene, tokens: bool) -> None:
    twins = make_twins(scene, "aes256gcm16", encap=True)
    for daemon in (twins.gateway, twins.edge):
        text = daemon.config.read_text().replace("dpd_delay = 5\n", SLOW)
        daemon.config.write_text(
            text.replace("encap = true", f"encap = true\nquick_crash_detection = {str(tokens).lower()}")
        )
    twins.establish()
    twins.edge.kill()
    before = twins.gateway.wait_up()["initiator_spi"]
    twins.edge.start()
    start = time.monotonic()

    def anew() -> bool:
        return (twins.gateway.tunnel() or {}).get("initiator_spi") not in (0, None, before) and twins.edge.up()

    wait_until(anew, SILENCE + 10, "the gateway notices", logs=[twins.gateway.process, twins.edge.process])
    took = time.monotonic() - start
    print(f"recovered {took:.1f} s after the restart, tokens: {tokens}")
    assert twins.gateway.process is not None
    said = twins.gateway.process.log.read_text()
    if tokens:
        assert took < 2 + 2.5 + 1, "at most one liveness check, or one repetition of it"
        assert "has lost its IKE_SAs and proves it" in said
        assert "stopped answering" not in said
    else:
        assert took > SILENCE / 2
        assert "stopped answering" in said
    assert ping(scene.host, SITE_HOST, 10).lost == 0
    twins.wire()


def test_the_secret_outlives_the_daemon_and_is_nobody_elses(scene: Scene) -> None:
    twins = make_twins(scene, "aes256gcm16", encap=True)
    twins.edge.start()
    secret = twins.edge.machine.run_directory / "gatewayd-state" / "crash-detection-secret"
    first = secret.read_bytes()
    assert (len(first), secret.stat().st_mode & 0o777) == (32, 0o600)
    twins.edge.stop()
    twins.edge.start()
    assert secret.read_bytes() == first
    twins.edge.stop()
