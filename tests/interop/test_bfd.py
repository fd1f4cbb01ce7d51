"""BFD (RFC 5880, 5881, 5883) of the daemon against BIRD and FRR: single hop, multihop, authenticated."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from support.bfd_lab import BfdLab, BirdBfd, FrrBfd
from support.netns import Lab
from support.process import holds_for, wait_until

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]
DETECTION = {"plain": 0.3, "far": 0.15, "keyed": 0.9}


def test_bird_and_we_come_up_agree_and_notice_each_others_silence(lab: Lab) -> None:
    bench, bird = BfdLab(lab), BirdBfd(lab.namespaces["peer"])
    process = bird.start()
    bench.daemon.start()
    bench.all_up()
    addresses = {"plain": "10.99.0.1", "far": "fd99::1", "keyed": "10.99.1.1"}
    for name, detection in DETECTION.items():
        assert bench.watch(name)["detection"] == pytest.approx(detection, abs=0.001)
        wait_until(lambda name=name: bird.states()[addresses[name]][0] == "Up", 5, f"BIRD's {name}")  # type: ignore[misc]
        assert bird.states()[addresses[name]][2] == pytest.approx(detection, abs=0.001)
    told = bench.watch("plain")["counts"]["told"]
    holds_for(lambda: all(bench.watch(name)["verdict"] == "up" for name in DETECTION), 2.0, "all sessions stay up")
    # At rest the sessions hear of nothing
    assert bench.watch("plain")["counts"]["told"] == told
    assert bench.watch("keyed")["refused"] == {}

    stopped = time.monotonic()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        for name, detection in DETECTION.items():
            row = bench.wait(name, "down", 5)
            # When it happened is on the same clock as ours
            assert detection * 0.5 <= row["changed_at"] - stopped <= detection + 0.15, name
            assert row["diagnostic"] == "detection time expired"
    finally:
        os.kill(process.pid, signal.SIGCONT)
    bench.all_up()
    assert all(bench.watch(name)["flaps"] == 1 for name in DETECTION)
    bench.daemon.stop()
    # RFC 5880 6.8.16: BIRD is told that nothing failed
    wait_until(lambda: "Down" in bird.states()["10.99.0.1"][0], 5, "BIRD heard the farewell")


@pytest.mark.slow
def test_frr_and_we_come_up_and_an_administrative_down_is_no_failure(lab: Lab) -> None:
    bench, frr = BfdLab(lab, keyed=False), FrrBfd(lab.namespaces["peer"])
    process = frr.start()
    bench.daemon.start()
    bench.all_up()
    peers = {peer["peer"]: peer for peer in json.loads(frr.vtysh("show bfd peers json"))}
    assert peers["10.99.0.1"]["status"] == peers["fd99::1"]["status"] == "up"
    assert peers["10.99.0.1"]["remote-transmit-interval"] == 100
    assert bench.watch("far")["detection"] == pytest.approx(0.15, abs=0.001)

    interface = "peer 10.99.0.1 local-address 10.99.0.2 interface plain"
    frr.vtysh("configure terminal", "bfd", interface, "shutdown")
    row = bench.wait("plain", "unknown", 5)
    assert row["remote_state"] == "ADMIN_DOWN"
    assert "administratively" in row["reason"]
    frr.vtysh("configure terminal", "bfd", interface, "no shutdown")
    bench.wait("plain", "up")

    # Intervals change under an established session, by a Poll Sequence
    frr.vtysh("configure terminal", "bfd", interface, "transmit-interval 400", "receive-interval 400")
    wait_until(lambda: bench.watch("plain")["detection"] == pytest.approx(1.2), 5, "a longer detection time")
    assert bench.watch("plain")["interval"] == pytest.approx(0.4)
    assert bench.watch("plain")["flaps"] == 1

    stopped = time.monotonic()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert bench.wait("far", "down", 5)["changed_at"] - stopped < 0.3
    finally:
        os.kill(process.pid, signal.SIGCONT)
    bench.all_up()
