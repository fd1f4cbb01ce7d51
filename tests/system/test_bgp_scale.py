"""Ten thousand routes, each with attributes of its own, from an edge through the daemon into the kernel, and away again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest
from support.daemon import GatewayDaemon, configuration
from support.process import run, wait_until
from support.scale import PROBE, held_up, probe_file
from support.scene import EDGE_CONNECTION, PSK, SESSION_GATEWAY, Scene

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(180)]

ROUTES = 10_000
ASKED = (
    ("bgp", "learned"),
    ("bgp", "advertised"),
    ("routes",),
    ("policy", "test", "--policy", "none", "--in", "--peer", "edge"),
)


def many(count: int) -> str:
    return "".join(
        f"  route 20.{number >> 8}.{number & 255}.0/24 blackhole {{ bgp_community.add((65001, {number})); }};\n"
        for number in range(count)
    )


class BusyEdge:
    """The edge's BIRD, with a file of routes that can be another one."""

    def __init__(self, scene: Scene) -> None:
        self.bird = scene.edge_bird(["172.16.0.0/16"])
        self.routes = scene.edge.directory / "many.conf"
        self.routes.write_text("")
        conf = scene.edge.directory / "bird.conf"
        text = conf.read_text().replace("blackhole;\n", f'blackhole;\ninclude "{self.routes}";\n', 1)
        conf.write_text(text.replace("export where net ~ [ 172.16.0.0/16 ]", "export where source = RTS_STATIC"))
        self.socket = scene.edge.directory / "bird.ctl"

    def announce(self, count: int) -> float:
        """When it was told."""
        self.routes.write_text(many(count))
        begun = time.monotonic()
        assert "Reconfig" in run(("birdc", "-s", str(self.socket), "configure"))
        return begun


def test_ten_thousand_routes_come_and_go_and_hold_nobody_up(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.edge_charon().start()
    edge = BusyEdge(scene)
    edge.bird.start()
    text = configuration(EDGE_CONNECTION, bgp=True).replace(
        'connection = "site"', 'connection = "site"\nmax_prefixes = 20000'
    )
    text += '[bgp.policy.none]\ndefault = "reject"\n'
    daemon = GatewayDaemon(scene.gateway, text, {"site.psk": PSK})
    daemon.start(wait=False, wrapper=(sys.executable, str(PROBE), str(probe_file(daemon))))
    daemon.wait_up(30)
    edge.bird.wait_established(SESSION_GATEWAY, 30)
    figures = {}
    held_up(daemon)
    for what, count in (("announced", ROUTES), ("withdrawn", 0)):
        begun = edge.announce(count)
        # Learned prefixes stay closed, so what is withdrawn leaves blackholes: count the routes into the tunnel
        wait_until(_count(scene, count), 60, f"{count} routes")
        figures[what] = (time.monotonic() - begun, held_up(daemon))
        for words in ASKED if count else ():
            begun = time.monotonic()
            assert len(daemon.ctl(*words, "-o", "csv", "--no-header").stdout.splitlines()) >= count, words
            figures[f"shown by {' '.join(words)}"] = (time.monotonic() - begun, held_up(daemon))
    with capsys.disabled():
        for what, (seconds, lag) in figures.items():
            print(f" [{ROUTES} routes {what} in {seconds:.2f} s; loop: {lag}] ", end="")
    assert all(seconds < 30 for seconds, _ in figures.values())
    assert all(lag["busy, ms"] < 100 for _, lag in figures.values())
    assert daemon.up()


def _count(scene: Scene, wanted: int) -> Callable[[], bool]:
    def reached() -> bool:
        listed = scene.gateway.run("ip", "-4", "route", "show", "table", "221", "proto", "221")
        return sum(line.startswith("20.") for line in listed.splitlines()) == wanted

    return reached
