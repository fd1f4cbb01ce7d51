"""From a link that is cut silently to traffic on the other path: BFD inside the tunnels, and probes where the peer has none."""

from __future__ import annotations

import time

import pytest
from support.netns import Lab
from support.process import wait_until
from support.two_paths import TwoPaths

pytestmark = pytest.mark.system

PROBE = 'address = "{}"\ninterval = "100ms"'


@pytest.mark.parametrize(
    ("bfd", "probe", "watch", "limit"),
    [
        pytest.param('interval = "100ms"', "", "bfd one", 0.4, id="BFD, 100 ms x 3"),
        pytest.param(
            'interval = "300ms"\nsecret.file = "bfd.key"',
            "",
            "bfd one",
            1.0,
            id="authenticated, 300 ms x 3",
            marks=pytest.mark.slow,
        ),
        pytest.param("", PROBE, "probe one", 0.4, id="probe, 100 ms x 3"),
    ],
)
def test_a_silent_cut_moves_the_traffic_and_its_end_brings_it_back(
    lab: Lab, bfd: str, probe: str, watch: str, limit: float
) -> None:
    paths = TwoPaths(lab, bfd=bfd, probe=probe)
    paths.start()
    wait_until(lambda: paths.watch(watch).get("state") == "UP", 15, f"{watch} is up")
    paths.cut()
    assert paths.moved() <= limit
    row = paths.watch(watch)
    assert (row["state"], row["verdict"]) == ("DOWN", "down")
    peer = paths.daemon.neighbor("one")
    assert peer is not None
    assert peer["state"] == "Established"  # nobody touched the BGP session
    paths.mend()
    mended = time.monotonic()
    wait_until(lambda: paths.arrivals(0)[-1][1] > mended, 10, "packets take the first path again")
    assert paths.watch(watch)["verdict"] == "up"
    tunnel = paths.daemon.tunnel()
    assert tunnel is None or tunnel["up"]


@pytest.mark.slow
def test_with_nowhere_else_to_go_packets_stay_in_the_tunnel(lab: Lab) -> None:
    """A check that is wrong costs nothing: the peer's BFD stops, its tunnel does not."""
    paths = TwoPaths(lab, bfd='interval = "100ms"')
    paths.start()
    wait_until(lambda: paths.watch("bfd one").get("state") == "UP", 15, "BFD is up")
    paths.cut(1)
    wait_until(lambda: paths.watch("bfd two").get("verdict") == "down", 5, "the second path is down")
    rule = "add table ip deaf\nadd chain ip deaf in { type filter hook input priority 0; }\nadd rule ip deaf in udp dport 3784 drop\n"
    paths.gateway.run("nft", "-f", "-", stdin=rule)
    wait_until(lambda: paths.watch("bfd one").get("verdict") == "down", 5, "BFD on the first path is down")
    count = len(paths.arrivals(0))
    wait_until(lambda: len(paths.arrivals(0)) > count + 500, 5, "packets still arrive by the first path")
