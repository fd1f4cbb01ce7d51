"""From a link that is cut silently to traffic on the other path: BFD inside the tunnels, and probes where the peer has none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest
from support.cpu_waits import CpuWaits
from support.netns import Lab
from support.process import wait_until
from support.traffic import Iperf, result
from support.two_paths import SITE_HOST, TwoPaths

pytestmark = pytest.mark.system

LOAD_SECONDS = 60
MINUTES, KEPT_FROM_CORE = 3, 0.1
"""Of 0.15 s of detection time at most 0.05 s had passed since the packet before."""
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


@pytest.mark.slow
def test_fifty_milliseconds_hold_under_load_and_bursts_of_ten_thousand_routes(lab: Lab) -> None:
    """No false down at any of the three gateways, which share this machine's cores with the load, without priorities. A minute in
    which other sessions kept a worker from its core for most of the detection time shows nothing, and another one is taken."""
    paths = TwoPaths(lab, bfd='interval = "50ms"')
    paths.start()
    announce = paths.fabric()
    processes = [daemon.process for daemon in (paths.daemon, *paths.peers) if daemon.process is not None]
    waits = CpuWaits(paths.host, [process.pid for process in processes])
    for _ in range(MINUTES):
        before, began = paths.flaps(), time.monotonic()
        _bursts_under_load(paths, announce)
        after, waited = paths.flaps(), waits.longest(began)
        if after == before:
            return
        assert waited >= KEPT_FROM_CORE, (
            f"false downs, and no worker waited over {waited:.3f} s: {before}, then {after}"
        )
    pytest.fail(
        f"false downs in each of {MINUTES} minutes: {after}; the workers waited for their cores up to {waited:.3f} s"
    )


def _bursts_under_load(paths: TwoPaths, announce: Callable[[Sequence[str]], None]) -> None:
    """A minute of them, beside a TCP stream as fast as it goes."""
    for name in ("one", "two"):
        wait_until(lambda name=name: paths.watch(f"bfd {name}").get("state") == "UP", 15, f"BFD with {name}")  # type: ignore[misc]
    before = paths.flaps()
    many = [f"10.{64 + number // 2048}.{number // 8 % 256}.{number % 8 * 32}/27" for number in range(10_000)]
    load = Iperf(paths.edges[0], SITE_HOST)
    client = load.background(paths.host, LOAD_SECONDS, 0)
    deadline = time.monotonic() + LOAD_SECONDS
    bursts = 0
    while time.monotonic() < deadline:
        announce(many)
        wait_until(lambda: routes_of(paths) >= len(many), 60, f"burst {bursts}")
        announce(())
        wait_until(lambda: routes_of(paths) == 0, 60, f"end of burst {bursts}")
        bursts += 1
    assert bursts >= 1
    if paths.flaps() == before:  # else its connection ended at the other edge
        assert result(client, 60).gbit_per_s > 0
    client.stop()
    load.stop()


def routes_of(paths: TwoPaths) -> int:
    peer = paths.daemon.neighbor("fabric")
    return int(peer["prefixes"]["adj_in"]) if peer else 0
