"""A restart, planned or not, drops no tunnel: the same IKE_SA, the same device, no IV twice under a key, nothing in clear."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.kept import Wire, child_spis, devices, ike_spis, iperf_connections, managed, said
from support.pair import Pair, make_pair
from support.process import wait_until
from support.scene import VNET_HOST, Scene
from support.traffic import Iperf, result

from gateway.runtime import state_memory
from gateway.runtime.kept_state import decode, encode

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


@pytest.fixture
def pair(scene: Scene) -> Pair:
    return make_pair(scene)


@pytest.fixture
def wire(scene: Scene) -> Iterator[Wire]:
    made = Wire(scene.wan, "edge")
    yield made
    made.tap.close()


def test_a_restart_keeps_ike_sa_child_sas_and_device(pair: Pair, wire: Wire) -> None:
    manager = managed(pair)
    before, children, index = ike_spis(pair), child_spis(pair), devices(pair)
    streams = pair.streams(port=7100)
    wire.gather()
    manager.restart()
    streams.wait_flowing(5)
    wire.gather()
    assert said(pair, "ike-resumed") == ["goes on after a restart, with 1 CHILD_SAs"]
    assert ike_spis(pair) == before
    assert child_spis(pair) == children
    assert devices(pair) == index
    pair.rekeyed_by_both_without_loss()
    gap = max(loss.max_gap for loss in streams.stop())
    print(f" [the longest gap: {gap:.2f} s]", end=" ")
    wire.nothing_twice(at_least=500)
    assert gap < 10, "a tunnel that is set up anew after dead peer detection takes longer"
    pair.no_clear_text()


def test_a_crash_keeps_the_tunnel(pair: Pair, wire: Wire) -> None:
    """The data plane itself has written how far it was: the same keys go on, and no replay window opens again."""
    manager = managed(pair)
    before, children, index = ike_spis(pair), child_spis(pair), devices(pair)
    streams = pair.streams(port=7100)
    wire.gather()
    manager.crash()
    streams.wait_flowing(5)
    assert said(pair, "ike-resumed") == ["goes on after a crash, with 1 CHILD_SAs"]
    assert ike_spis(pair) == before
    assert child_spis(pair) == children
    assert devices(pair) == index
    pair.rekeyed_by_both_without_loss()
    streams.stop()
    wire.nothing_twice(at_least=500)
    pair.no_clear_text()


def test_tcp_connections_live_through_a_restart_and_a_crash(pair: Pair) -> None:
    manager = managed(pair)
    iperf = Iperf(pair.scene.host, VNET_HOST)
    client = iperf.background(pair.scene.site, 8, megabits=50)
    wait_until(lambda: iperf_connections(pair) == 2, 5, "a control connection and a stream")
    time.sleep(1)
    manager.restart()
    time.sleep(1)
    manager.crash()
    assert result(client, 20).gbit_per_s > 0.0125, "the stream went on afterwards, at its rate"
    assert client.wait(1) == 0
    iperf.stop()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_restarts_and_crashes_at_any_moment_amid_rekeys_of_both_ends(pair: Pair, wire: Wire, seed: int) -> None:
    chance = random.Random(seed)
    manager = managed(pair)
    streams = pair.streams(port=7100)
    for _ in range(8):
        asked = chance.choice(
            (("gateway", "site"), ("gateway", "site/net"), ("edge", "--ike"), ("edge", "--child"), None)
        )
        if asked is not None and asked[0] == "gateway":
            pair.gateway.operate("rekey", asked[1], 0)
        elif asked is not None:
            pair.charon.swanctl("--rekey", asked[1], "gateway" if asked[1] == "--ike" else "net", check=False)
        time.sleep(chance.uniform(0, 0.03))
        # A crash within an IKE_SA rekey may leave the peer one that nobody ends before it expires: only restarts wait for that
        ike = asked is not None and asked[1] in ("site", "--ike")
        chance.choice((manager.restart, manager.restart if ike else manager.crash))()
        wire.gather()
        streams.wait_flowing(20)
        pair.wait_up(5)
    wait_until(lambda: len(pair.charon.sas()) == 1, 30, "one IKE_SA", logs=[pair.gateway.process])
    pair.rekeyed_by_both_without_loss()
    streams.stop()
    wire.nothing_twice(at_least=1000)
    pair.no_clear_text()


def test_a_stop_leaves_nothing_behind_that_a_restart_would(pair: Pair) -> None:
    manager = managed(pair)
    assert pair.gateway.stop() == 0
    stored = {name for event in manager.events() if event.startswith("stored") for name in event.split()[2:]}
    removed = {event.split()[1] for event in manager.events() if event.startswith("removed")}
    assert stored == {"state", "progress", "tun-gw-site", "udp-198.51.100.2-500", "udp-198.51.100.2-4500"}
    assert stored <= removed
    assert devices(pair) == []
    wait_until(lambda: pair.charon.sas() == [], 5, "the edge was told")


def state_memory_of(pid: int) -> Path:
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed between the two looks
            if "gatewayd-state" in str(fd.readlink()):
                return fd
    raise AssertionError("no state memory")


def test_state_of_another_release_is_a_clean_start_that_the_log_explains(pair: Pair) -> None:
    manager = managed(pair)
    before = ike_spis(pair)
    memory = state_memory_of(manager.pid)
    other = state_memory.VERSION + 1
    with memory.open("r+b") as file:
        file.seek(len(state_memory.MAGIC))
        file.write(other.to_bytes(4, "little"))
    manager.restart()
    pair.wait_up()
    assert ike_spis(pair) != before
    log = (pair.gateway.machine.directory / "gatewayd.log").read_text()
    assert f"state of version {other}, this release has {state_memory.VERSION}" in log
    wait_until(lambda: len(pair.charon.sas()) == 1, 10, "the edge has one IKE_SA")


def test_what_cannot_be_gone_on_from_is_a_clean_start_of_that_connection(pair: Pair) -> None:
    """It reads well and is not what this release takes it for: the daemon is whole at once, not after three starts."""
    manager = managed(pair)
    before = ike_spis(pair)
    fd = os.open(state_memory_of(manager.pid), os.O_RDWR)
    memory = state_memory.StateMemory(fd)
    kept = decode(memory.contents()["site"])
    memory.write("site", encode(replace(kept, ike=replace(kept.ike, standing="of another release"))))
    memory.close()
    manager.crash()
    wait_until(lambda: said(pair, "ike-not-resumed"), 10, "the journal says so")
    pair.wait_up(30)
    assert ike_spis(pair) != before
    streams = pair.streams(port=7100)
    pair.rekeyed_by_both_without_loss()
    streams.stop()


def test_settings_that_changed_meanwhile_begin_anew_and_the_others_go_on(pair: Pair) -> None:
    manager = managed(pair)
    before = ike_spis(pair)
    text = pair.gateway.config.read_text()
    pair.gateway.config.write_text(text.replace("dpd_delay = 5", "dpd_delay = 7"))
    manager.restart()
    pair.wait_up()
    assert ike_spis(pair) == before, "when to ask whether the peer is alive is nobody else's affair"
    pair.gateway.config.write_text(text.replace('remote_ts = ["172.16.0.0/16"]', 'remote_ts = ["172.16.0.0/17"]'))
    manager.restart()
    pair.wait_up()
    assert ike_spis(pair) != before
    wait_until(lambda: len(pair.charon.sas()) == 1, 10, "the edge has one IKE_SA")


@pytest.mark.parametrize("workers", [1, 3])
def test_another_number_of_workers_keeps_the_tunnel(pair: Pair, workers: int) -> None:
    text = pair.gateway.config.read_text()
    pair.gateway.config.write_text(text + "[dataplane]\nworkers = 2\n")
    manager = managed(pair)
    before, index = ike_spis(pair), devices(pair)
    pair.gateway.config.write_text(text + f"[dataplane]\nworkers = {workers}\n")
    manager.restart()
    pair.wait_up(5)
    assert ike_spis(pair) == before
    assert devices(pair) == index
    pair.rekeyed_by_both_without_loss()
    manager.restart()
    pair.wait_up(5)
    pair.rekeyed_by_both_without_loss()


def test_a_child_sa_of_another_name_begins_anew(pair: Pair) -> None:
    manager = managed(pair)
    before = ike_spis(pair)
    lines = pair.gateway.config.read_text().splitlines()
    moved = [line for line in lines if line.startswith(("local_ts", "remote_ts", "esp_proposals"))]
    kept = [line for line in lines if line not in moved]
    pair.gateway.config.write_text("\n".join([*kept, "[connection.site.child.other]", *moved, ""]))
    manager.restart()
    pair.wait_up(10)
    assert ike_spis(pair) != before
    pair.streams(port=7200).stop()


def test_a_restart_into_a_configuration_that_is_refused_tells_the_peer(pair: Pair) -> None:
    manager = managed(pair)
    pair.gateway.config.write_text(pair.gateway.config.read_text() + "nonsense = 1\n")
    manager.ask_for_restart()
    wait_until(lambda: pair.charon.sas() == [], 10, "the edge was told", logs=[pair.gateway.process])
    assert pair.gateway.process is not None
    assert pair.gateway.process.wait(10) == 78
    assert devices(pair) == []
