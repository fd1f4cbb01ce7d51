"""Two gateways that act as one: real daemons, a real witness, real edges and a route server, and packets that go on.

Times are in `benchmarks`; here they have room for a busy machine, and what must never be lost is counted to the packet.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support.capture import Capture
from support.cloud_beside import BLOB_WITNESS, FABRIC_SECTION, SCHEDULED_EVENTS, AzureBeside, MetadataBeside
from support.clouds import route
from support.netns import Lab
from support.process import wait_until
from support.traffic import Streams
from support.two_gateways import FABRIC, HOST, NAMES, SITE_HOST, TwoGateways, longest_gap

pytestmark = pytest.mark.system
MOST = 1.5
"""Seconds of silence that a failover may take on a machine that does other things, too: far below any timer of BGP here."""


@pytest.fixture
def pair(lab: Lab) -> TwoGateways:
    made = TwoGateways(lab, ha='drain_time = "500ms"')
    made.start()
    made.wait_whole()
    made.streams.start(500)
    made.streams.wait_flowing(10)
    return made


def journal(pair: TwoGateways, at: int, event: str) -> list[str]:
    status = pair.daemons[at].status()
    return [entry["text"] for entry in status["journal"] if entry["event"] == event] if status else []


def test_a_crash_is_taken_over_and_the_one_that_comes_back_disturbs_nothing(pair: TwoGateways) -> None:
    active, other = pair.active(), 1 - pair.active()
    assert pair.carrier() == NAMES[active]
    at = time.monotonic()
    pair.daemons[active].kill()
    pair.wait_role(other, "active", 5)
    time.sleep(1.0)
    assert 0.05 < pair.gap(at) < MOST
    assert pair.carrier() == NAMES[other]
    assert "is silent; with the lease" in journal(pair, other, "ha-active")[-1]
    back = time.monotonic()
    pair.daemons[active].start()
    pair.wait_whole()
    time.sleep(1.0)
    assert pair.lost(back) == (0, 0), "neither its return nor the step back from took-over"
    assert pair.active() == other, "no preemption unless asked for"


def test_a_planned_switchover_loses_nothing_whoever_is_told(pair: TwoGateways) -> None:
    begun = time.monotonic()
    for told in ("active", "standby", "active"):
        active = pair.active()
        done = pair.daemons[active if told == "active" else 1 - active].ctl("failover", "--wait", "5")
        assert "ACTIVE" in done.stdout
        pair.wait_whole()
        assert pair.active() == 1 - active
    time.sleep(0.5)
    assert pair.lost(begun) == (0, 0)
    shown = pair.daemons[pair.active()].ctl("ha").stdout
    assert "this gateway is ACTIVE" in shown
    assert "the lease is ours" in shown


@pytest.mark.slow
def test_an_orderly_stop_hands_over_first_and_loses_nothing(pair: TwoGateways) -> None:
    active = pair.active()
    begun = time.monotonic()
    assert pair.daemons[active].stop() == 0
    pair.wait_role(1 - active, "active", 5)
    time.sleep(0.5)
    assert pair.lost(begun) == (0, 0)
    pair.daemons[active].start()
    pair.wait_whole()
    time.sleep(0.5)
    assert pair.lost(begun) == (0, 0)


@pytest.mark.slow
def test_drain_and_maintenance_keep_a_gateway_out_until_it_is_told_otherwise(pair: TwoGateways) -> None:
    active, other = pair.active(), 1 - pair.active()
    begun = time.monotonic()
    pair.daemons[active].ctl("ha", "drain")
    pair.wait_role(active, "standby", 5)
    refused = pair.daemons[other].ctl("failover", check=False)
    assert refused.returncode != 0
    assert "not ready" in refused.stderr
    pair.daemons[active].ctl("ha", "resume")
    pair.daemons[other].ctl("ha", "maintenance")
    pair.wait_role(active, "active", 5)
    wait_until(lambda: pair.role(other) == "fault", 5, "in maintenance it is not to be active")
    pair.daemons[other].ctl("ha", "resume")
    pair.wait_whole()
    time.sleep(0.5)
    assert pair.lost(begun) == (0, 0)


FAULTS: dict[str, tuple[Callable[[TwoGateways, int], None], Callable[[TwoGateways, int], None]]] = {
    "the circuit is cut": (TwoGateways.cut_circuit, TwoGateways.restore_circuit),
    "the power fails": (TwoGateways.power_off, TwoGateways.power_on),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_the_other_takes_over_and_the_end_of_the_fault_loses_nothing(pair: TwoGateways, fault: str) -> None:
    cause, end = FAULTS[fault]
    active, other = pair.active(), 1 - pair.active()
    at = time.monotonic()
    cause(pair, active)
    pair.wait_role(other, "active", 5)
    # Longer than it takes to step back were the dead one thought to be heard
    time.sleep(4.0)
    assert pair.gap(at) < MOST
    calm = time.monotonic()
    end(pair, active)
    pair.wait_whole()
    time.sleep(1.0)
    assert pair.lost(calm - 2.0) == (0, 0)


@pytest.mark.slow
def test_faults_that_follow_one_another_are_each_answered_at_once_and_told(pair: TwoGateways) -> None:
    """Each gateway hands over again some seconds after it did so before: nothing holds traffic where it does not pass."""
    for _ in range(6):
        active, at = pair.active(), time.monotonic()
        pair.cut_circuit(active)
        pair.wait_role(1 - active, "active", 5)
        time.sleep(0.5)
        assert pair.gap(at) < MOST
        pair.restore_circuit(active)
        pair.wait_whole()
    for daemon in pair.daemons:
        status = daemon.status()
        assert status is not None
        told = Counter(entry["event"] for entry in status["journal"])
        assert all(told[f"ha-{role}"] == times for role, times in status["ha"]["transitions"].items())


@pytest.mark.slow
@pytest.mark.parametrize("cut", [FABRIC, FABRIC[:1], FABRIC[1:]], ids=["both ways", "of the first", "of the second"])
def test_heartbeats_cut_between_the_two_change_nothing(pair: TwoGateways, cut: tuple[str, ...]) -> None:
    before = pair.roles()
    begun = time.monotonic()
    for _ in range(3):
        pair.cut_heartbeats(*cut)
        time.sleep(1.0)
        assert pair.roles() == before
        pair.join_heartbeats()
        time.sleep(1.0)
        assert pair.roles() == before, "no flap, whichever way a flapping link goes"
    assert pair.lost(begun) == (0, 0)


@pytest.mark.slow
def test_who_was_stopped_for_a_while_is_not_active_when_it_goes_on(pair: TwoGateways) -> None:
    active, other = pair.active(), 1 - pair.active()
    process = pair.daemons[active].process
    assert process is not None
    (pid,) = [one for one in pair.gateways[active].pids_of("gatewayd") if _is_daemon(one)]
    os.kill(pid, signal.SIGSTOP)
    try:
        pair.wait_role(other, "active", 5)
        time.sleep(2.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: pair.role(active) == "standby", 10, "it demotes itself", logs=[process])
    pair.wait_whole()
    assert pair.active() == other
    assert any("the lease could not be renewed in time" in text for text in journal(pair, active, "ha-standby"))


BUSY = """
import signal, time
def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
signal.signal(signal.SIGUSR1, lambda *_: spin(0.5))
signal.signal(signal.SIGUSR2, lambda *_: spin(6.0))
"""
"""A sitecustomize.py of the test's: gatewayd as it is, but a signal keeps its loop busy, with the interpreter to itself."""


@pytest.fixture
def busy_pair(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoGateways:
    """With a lease that is longer than a loop is busy, and a dead time of 60 ms."""
    (tmp_path / "sitecustomize.py").write_text(BUSY)
    # Nothing empty among them: that would be the current directory, and with it the source tree
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    made = TwoGateways(lab, ha='drain_time = "500ms"', interval="20ms", ttl="2s")
    made.start()
    made.wait_whole()
    return made


def _pid(pair: TwoGateways, at: int) -> int:
    (pid,) = [one for one in pair.gateways[at].pids_of("gatewayd") if _is_daemon(one)]
    return pid


def test_a_busy_loop_is_no_death_and_a_death_is_seen_as_fast_as_ever(busy_pair: TwoGateways) -> None:
    pair = busy_pair
    active = pair.active()
    before = [journal(pair, at, "ha-peer-down") for at in (0, 1)]
    for at in (active, 1 - active) * 3:
        began = time.monotonic()
        os.kill(_pid(pair, at), signal.SIGUSR1)
        assert pair.role(at)
        assert time.monotonic() - began > 0.4, "eight dead times long nobody answered"
        time.sleep(0.1)
    assert [journal(pair, at, "ha-peer-down") for at in (0, 1)] == before
    assert pair.active() == active
    killed = time.clock_gettime(time.CLOCK_BOOTTIME)
    pair.daemons[active].kill()
    wait_until(lambda: journal(pair, 1 - active, "ha-peer-down") != before[1 - active], 5, "the other notices")
    status = pair.daemons[1 - active].status()
    assert status is not None
    noticed = [entry["at"] for entry in status["journal"] if entry["event"] == "ha-peer-down"][-1]
    assert 0.03 < noticed - killed < 0.25, "60 ms, on a busy machine"
    pair.wait_role(1 - active, "active", 10)


@pytest.mark.slow
def test_one_that_hangs_for_good_does_not_look_alive_for_ever(busy_pair: TwoGateways) -> None:
    pair = busy_pair
    active = pair.active()
    began = time.monotonic()
    os.kill(_pid(pair, active), signal.SIGUSR2)
    pair.wait_role(1 - active, "active", 5)
    assert time.monotonic() - began < 2.2 + MOST, "its lease is over, and it is silent by then"
    wait_until(lambda: pair.role(active) == "standby", 10, "it demotes itself when it goes on")
    pair.wait_whole()
    assert pair.active() == 1 - active


def _is_daemon(pid: int) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().split(b"\0")
        return any(word.endswith(b"/gatewayd") for word in words[:2]) and b"--bgp" not in words
    return False


@pytest.mark.slow
def test_without_the_witness_nobody_is_active_and_packets_still_pass(pair: TwoGateways) -> None:
    begun = time.monotonic()
    assert pair.witness_process is not None
    pair.witness_process.kill(signal.SIGKILL)
    wait_until(lambda: pair.roles() == ["standby", "standby"], 10, "no lease, no active gateway")
    said = pair.daemons[0].ctl("health", check=False).stdout
    assert "the witness 10.1.9.9:4781 does not answer" in said
    time.sleep(1.0)
    pair.start_witness()
    pair.wait_whole()
    assert pair.lost(begun) == (0, 0), "both announce the site all the while, only less well"


@pytest.mark.slow
def test_both_restart_at_once_and_one_of_them_is_active_again(pair: TwoGateways) -> None:
    epoch = max(status["ha"]["epoch"] for daemon in pair.daemons if (status := daemon.status()))
    for daemon in pair.daemons:
        daemon.kill()
    for daemon in pair.daemons:
        daemon.start(wait=False)
    pair.wait_whole(90)
    pair.streams.wait_flowing(20)
    status = pair.daemons[pair.active()].status()
    assert status is not None
    assert status["ha"]["epoch"] > epoch, "the epoch outlives both"


@pytest.mark.slow
def test_no_packet_leaves_in_clear_whatever_happens_to_the_pair(pair: TwoGateways) -> None:
    captures = [Capture(pair.wan, f"gw{name}", f"wan-{name}") for name in NAMES]
    for capture in captures:
        capture.start()
    for fault in ("kill", "stop", "circuit"):
        active = pair.active()
        if fault == "circuit":
            pair.cut_circuit(active)
        else:
            getattr(pair.daemons[active], fault)()
        pair.wait_role(1 - active, "active", 10)
        time.sleep(1.0)
        if fault == "circuit":
            pair.restore_circuit(active)
        else:
            pair.daemons[active].start()
        pair.wait_whole()
    for capture in captures:
        seen = capture.stop()
        assert (seen.markers, seen.clear) == (0, 0), seen.samples
        assert seen.counts["esp-4500"] > 100, "it looked where the packets pass"


@pytest.mark.slow
def test_where_both_carry_they_announce_the_same_until_one_is_drained(lab: Lab) -> None:
    pair = TwoGateways(lab, ha='drain_time = "500ms"\nmode = "active-active"')
    pair.start()

    def levels() -> list[str]:
        return [status["ha"]["level"] if (status := daemon.status()) else "" for daemon in pair.daemons]

    wait_until(lambda: levels() == ["active", "active"], 20, "both carry")
    wait_until(lambda: sorted(pair.roles()) == ["active", "standby"], 5, "one of them is active")
    wait_until(lambda: all(s["ha"]["health"] == 1000 for d in pair.daemons if (s := d.status())), 30, "both are well")
    active = pair.active()
    pair.daemons[active].ctl("ha", "drain")
    pair.wait_role(active, "standby", 5)
    time.sleep(1.0)
    assert levels()[active] == "standby", "also when the drain time is over"
    pair.daemons[active].ctl("ha", "resume")
    wait_until(lambda: levels() == ["active", "active"], 10, "both carry again")


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["the active", "the standby", "the standby's circuit"])
def test_where_both_carry_either_takes_all_when_the_other_dies(lab: Lab, lost: str) -> None:
    """Flows are spread over both by the routers on both sides (ECMP)."""
    pair = TwoGateways(lab, ha='drain_time = "500ms"\nmode = "active-active"', multipath=True)
    for router in (pair.vnet, pair.router):
        router.run("sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=1")
    pair.start()
    flows = [Streams(pair.host, HOST, pair.site, SITE_HOST, port) for port in range(7100, 7116, 2)]
    for flow in flows:
        flow.start(50)
    for flow in flows:
        flow.wait_flowing(20)

    def carried() -> list[int]:
        found = [daemon.tunnel() for daemon in pair.daemons]
        return [min(one["packets_in"], one["packets_out"]) if one else 0 for one in found]

    wait_until(lambda: min(carried()) > 100, 30, "both carry traffic in both directions")
    at = pair.active() if lost == "the active" else 1 - pair.active()
    begun = time.monotonic()
    fault = pair.cut_circuit if lost.endswith("circuit") else pair.power_off
    fault(at)
    time.sleep(MOST + 1.0)
    gaps = [longest_gap(stream, begun) for flow in flows for stream in (flow.there, flow.back)]
    assert max(gaps) < MOST, gaps


@pytest.mark.slow
def test_the_cloud_s_route_table_follows_the_active_gateway(lab: Lab) -> None:
    pair = TwoGateways(lab, ha='drain_time = "500ms"', more=FABRIC_SECTION)
    azure = AzureBeside(pair)
    azure.start()
    azure.tables(users={"routes": [route("internet", "0.0.0.0/0", kind="Internet")]})
    pair.start()
    pair.wait_whole()

    def leads_to(at: int) -> bool:
        return azure.routes("users").get("gw-pair-172.16.0.0_12") == f"172.16.0.0/12 -> {FABRIC[at]}"

    first = pair.active()
    wait_until(lambda: leads_to(first), 10, "the route table leads to the active gateway")
    pair.daemons[first].ctl("failover")
    wait_until(lambda: leads_to(1 - first), 5, "it follows a planned switchover")
    pair.wait_whole()
    pair.daemons[1 - first].kill()
    wait_until(lambda: leads_to(first), 5, "it follows a takeover", logs=[d.process for d in pair.daemons])
    assert azure.routes("users")["internet"] == "0.0.0.0/0 -> Internet", "what is somebody else's stays"
    status = pair.daemons[first].status()
    assert status is not None
    assert azure.tags("users")[f"gw-pair-epoch-gw-{NAMES[first]}"] == str(status["ha"]["acting_epoch"])
    shown = pair.daemons[first].ctl("fabric").stdout
    assert "ACTIVE" in shown
    assert "1/1" in shown
    pair.daemons[1 - first].start()
    pair.wait_whole()
    wait_until(lambda: leads_to(first), 5, "who comes back writes nothing")


@pytest.mark.slow
def test_a_record_in_the_cloud_s_storage_is_the_witness(lab: Lab) -> None:
    pair = TwoGateways(lab, ha='drain_time = "500ms"', ttl="", more=BLOB_WITNESS)
    azure = AzureBeside(pair)
    azure.start()
    pair.start()
    pair.wait_whole()
    pair.streams.start(500)
    pair.streams.wait_flowing(10)
    active = pair.active()
    began = time.monotonic()
    pair.daemons[active].kill()
    pair.wait_role(1 - active, "active", 10)
    # The ttl, a tenth of it, and a third of it until it is asked again
    assert time.monotonic() - began < 1.5 * (1.1 + 1 / 3) + MOST
    pair.daemons[active].start()
    pair.wait_whole()
    back = time.monotonic()
    assert "ACTIVE" in pair.daemons[active].ctl("failover").stdout
    pair.wait_whole()
    time.sleep(0.5)
    assert pair.lost(back) == (0, 0)
    azure.misbehave({"kind": "status", "status": 503, "match": "/blob/", "times": 100000})
    wait_until(lambda: pair.roles() == ["standby", "standby"], 10, "no lease, no active gateway")
    azure.misbehave()
    pair.wait_whole()


@pytest.mark.slow
def test_before_announced_maintenance_the_one_that_stays_becomes_active(lab: Lab) -> None:
    pair = TwoGateways(lab, ha='drain_time = "2s"' + SCHEDULED_EVENTS)
    azure = AzureBeside(pair)
    azure.start()
    pair.start()
    pair.wait_whole()
    pair.streams.start(500)
    pair.streams.wait_flowing(10)
    active = pair.active()
    event = {"EventId": "e-1", "EventType": "Reboot", "EventStatus": "Scheduled", "Resources": [f"vm-{NAMES[active]}"]}
    azure.admin("events", [{**event, "NotBefore": "Mon, 19 Sep 2033 18:29:47 GMT", "ResourceType": "VirtualMachine"}])
    pair.wait_role(1 - active, "active", 15)
    wait_until(lambda: azure._call("GET", "events")[0]["EventStatus"] == "Started", 15, "it is told to begin")
    assert "maintenance of this machine is announced" in journal(pair, active, "ha-draining")[-1]
    # Whoever leaves is still better than nobody
    pair.daemons[1 - active].kill()
    pair.wait_role(active, "active", 5)
    pair.daemons[1 - active].start()
    pair.wait_role(1 - active, "active", 20)
    back = time.monotonic()
    azure.admin("events", [])
    wait_until(lambda: bool(journal(pair, active, "machine-stays")), 15, "it is over")
    pair.wait_whole()
    assert pair.active() == 1 - active, "no way back by itself"
    assert pair.lost(back) == (0, 0)


@pytest.mark.slow
def test_before_aws_takes_an_instance_away_the_one_that_stays_becomes_active(lab: Lab) -> None:
    pair = TwoGateways(lab, ha='drain_time = "500ms"' + MetadataBeside.SECTION)
    metadata = MetadataBeside(pair)
    metadata.start()
    pair.start()
    pair.wait_whole()
    pair.streams.start(500)
    pair.streams.wait_flowing(10)
    active = pair.active()
    began = time.monotonic()
    metadata.announce(active, spot={"action": "terminate", "time": "2033-09-19T18:29:47Z"})
    pair.wait_role(1 - active, "active", 15)
    assert "maintenance of this machine is announced" in journal(pair, active, "ha-draining")[-1]
    assert "terminate (spot)" in journal(pair, active, "machine-leaves")[-1]
    assert "gateway_ha_machine_leaves 1.0" in pair.daemons[active].http("/metrics")[1]
    assert "this machine leaves" in pair.daemons[active].ctl("ha").stdout
    metadata.announce(active)
    wait_until(lambda: bool(journal(pair, active, "machine-stays")), 15, "it is over")
    pair.wait_whole()
    assert pair.active() == 1 - active, "no way back by itself"
    assert pair.lost(began) == (0, 0)
