"""Ten thousand different prefixes, and a daemon that is killed: how long until all is as it was."""

from __future__ import annotations

import time

import pytest
from support.netns import Lab
from support.process import wait_until
from support.two_fabrics import TwoFabrics

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]

ROUTES = 10_000


def test_ten_thousand_routes_are_taken_over_and_nobody_notices(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    scene = TwoFabrics(lab)
    many = [f"20.{number >> 8}.{number & 255}.0/24" for number in range(ROUTES)]
    try:
        scene.start(many)
        wait_until(lambda: scene.beta.count() == ROUTES + 1, 60, "all at beta", logs=[scene.daemon.process])
        told = scene.beta.routes()
        scene.alpha.noticed()
        scene.beta.noticed()
        scene.daemon.kill()
        begun = time.monotonic()
        scene.daemon.start()
        up = time.monotonic()
        wait_until(lambda: "RIBs agree" in str(scene.daemon.status()), 60, "synchronised", logs=[scene.daemon.process])
        agreed = time.monotonic()
        wait_until(lambda: len(scene.gateway.routes("221")) >= ROUTES, 60, "in the kernel", logs=[scene.daemon.process])
        installed = time.monotonic()
        with capsys.disabled():
            print(
                f" [the daemon answers after {up - begun:.2f} s, RIBs agree {agreed - up:.2f} s later,"
                f" {ROUTES} routes are in the kernel {installed - up:.2f} s later] ", end="",
            )  # fmt: skip
        scene.alpha.announce([*many, "172.16.0.0/16"])
        wait_until(lambda: scene.beta.has("172.16.0.0/16"), 30, "news are passed on", logs=[scene.daemon.process])
        scene.unnoticed()
        assert {one for one in scene.beta.routes() if not one.startswith("172.16.")} == told
    finally:
        scene.close()
