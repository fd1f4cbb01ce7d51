"""A pair whose outer address moves: the other gateway goes on with the SAs of the one that failed, and its peer notices nothing."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from support.bird import Bird, Neighbor
from support.capture import Capture
from support.kept import Wire
from support.managed import Managed
from support.netns import Lab
from support.process import wait_until
from support.shared_address import FABRIC, ROUTER, SHARED, SITE_HOST, SharedAddress

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
MOST = 3.0
"""Seconds of silence that a takeover may take on a machine that does other things, too."""


@pytest.fixture
def pair(lab: Lab) -> SharedAddress:
    made = SharedAddress(lab)
    made.start()
    made.streams.start(1000)
    made.streams.wait_flowing(10)
    return made


@pytest.fixture
def wire(pair: SharedAddress) -> Iterator[Wire]:
    """What both gateways sent to the edge."""
    made = Wire(pair.wan, "p0")
    yield made
    made.tap.close()


@pytest.fixture
def capture(pair: SharedAddress) -> Capture:
    made = Capture(pair.wan, "p0")
    made.start()
    return made


def spis(pair: SharedAddress, at: int) -> tuple[str, str]:
    tunnel = pair.daemons[at].tunnel()
    assert tunnel is not None
    return tunnel["initiator_spi"], tunnel["responder_spi"]


def power_off(pair: SharedAddress, at: int) -> None:
    pair.power_off(at)


def crash(pair: SharedAddress, at: int) -> None:
    """Nobody takes the addresses off that host, which goes on answering for them."""
    pair.daemons[at].kill()


def stop(pair: SharedAddress, at: int) -> None:
    process = pair.daemons[at].process
    assert process is not None
    process.signal(signal.SIGSTOP)


def switch_over(pair: SharedAddress, at: int) -> None:
    pair.daemons[at].ctl("failover", "--wait", "5")


FAULTS: dict[str, Callable[[SharedAddress, int], None]] = {
    "power loss": power_off,
    "kill -9": crash,
    "SIGSTOP": stop,
    "planned": switch_over,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_other_goes_on_with_the_same_sas(pair: SharedAddress, wire: Wire, capture: Capture, fault: str) -> None:
    active, other = pair.active(), 1 - pair.active()
    before, begun = spis(pair, active), time.monotonic()
    wire.gather()
    FAULTS[fault](pair, active)
    logs = [daemon.process for daemon in pair.daemons]
    wait_until(lambda: other in pair.holders(), 5, "it has the address", logs=logs)
    pair.streams.wait_flowing(5)
    time.sleep(0.5)
    assert spis(pair, other) == before
    assert pair.journal(other, "ike-resumed") == ["goes on at this gateway, with 1 CHILD_SAs"]
    assert len(pair.charon.sas()) == 1
    wire.gather()
    gap = pair.gap(begun)
    print(f" [{fault}: {gap * 1000:.0f} ms]", end=" ")
    assert gap < MOST
    if fault == "SIGSTOP":
        go_on(pair, active, other)
    pair.daemons[other].rekey_child()
    time.sleep(0.5)
    wire.nothing_twice(at_least=1000)
    seen = capture.stop()
    assert seen.clear == 0, seen.samples
    assert [one for one in seen.ike if one.exchange in (34, 35)] == [], "no IKE_SA is negotiated"


def go_on(pair: SharedAddress, old: int, new: int) -> None:
    """The workers go on before anybody could tell them; they look at the lease themselves."""
    process = pair.daemons[old].process
    assert process is not None
    process.signal(signal.SIGCONT)
    wait_until(lambda: pair.holders() == [new] == pair.holders(ROUTER), 5, "the old one has let go", logs=[process])
    wait_until(lambda: pair.roles()[old] == "standby", 10, "and is a standby", logs=[process])
    begun = time.monotonic()
    wait_until(lambda: pair.copied(old), 10, "and has a copy", logs=[process])
    time.sleep(1)
    assert pair.lost(begun) == (0, 0)


@pytest.mark.slow
def test_there_and_back_again(pair: SharedAddress, wire: Wire, capture: Capture) -> None:
    """Each takes over from the other, again and again, amid rekeys."""
    before = spis(pair, pair.active())
    wire.gather()
    for _ in range(4):
        active = pair.active()
        pair.daemons[active].ctl("failover", "--wait", "5")
        pair.wait_whole()
        assert pair.active() == 1 - active
        assert pair.holders(SHARED) == [1 - active]
        pair.daemons[1 - active].rekey_child()
        wire.gather()
    assert spis(pair, pair.active()) == before
    pair.daemons[pair.active()].rekey_ike()
    pair.streams.wait_flowing(5)
    wire.nothing_twice(at_least=3000)
    seen = capture.stop()
    assert seen.clear == 0, seen.samples
    assert [one for one in seen.ike if one.exchange in (34, 35)] == []


def test_a_copy_that_nobody_confirmed_for_long_is_not_used(pair: SharedAddress) -> None:
    """The session of the copies is cut, and nothing else: the active goes on alone; later the other begins anew."""
    active, other = pair.active(), 1 - pair.active()
    pair.vnet.run(
        "nft",
        "-f",
        "-",
        stdin="table bridge cut {\n chain c {\n type filter hook forward priority 0;\n tcp dport 4780 drop\n tcp sport 4780 drop\n }\n}\n",
    )
    wait_until(lambda: not pair.copied(other), 10, "the copy is too old")
    begun = time.monotonic()
    pair.daemons[active].rekey_child()
    time.sleep(0.5)
    assert pair.lost(begun) == (0, 0), "what waited for the other waits no longer"
    before = spis(pair, active)
    pair.power_off(active)
    wait_until(lambda: other in pair.holders(), 5, "the other has the address")
    pair.streams.wait_flowing(20)
    assert spis(pair, other) != before
    assert "begin anew" in pair.journal(other, "ha-addresses-taken")[-1]


@pytest.mark.slow
def test_the_only_gateway_goes_on_itself_after_a_restart(lab: Lab) -> None:
    """Nobody was active in between, so what it kept is still good; it is not given away for nobody."""
    alone = SharedAddress(lab)
    alone.start_others()
    manager = Managed(alone.daemons[0])
    manager.start()
    alone.daemons[0].wait_up(30)
    before, wire = spis(alone, 0), Wire(alone.wan, "p0")
    alone.streams.start(1000)
    alone.streams.wait_flowing(10)
    for again in (manager.restart, manager.crash):
        again()
        alone.streams.wait_flowing(15)
        alone.daemons[0].wait_up(15)
        assert spis(alone, 0) == before
        assert alone.holders() == [0]
        wire.gather_more(200)
    wire.nothing_twice(at_least=400)
    wire.tap.close()


BGP = f"""
[bgp]
local_as = 65010
advertise = ["10.1.4.0/24"]
listen_port = 0
[bgp.neighbor.edge]
address = "{SITE_HOST}"
local_address = "{ROUTER}"
remote_as = 65001
connection = "site"
multihop = 2
hold_time = 90
"""


@pytest.mark.slow
def test_bgp_inside_begins_anew_at_once_not_after_a_hold_time(lab: Lab) -> None:
    """TCP does not move; the edge still holds the old session when the new one comes."""
    pair = SharedAddress(lab, witness=BGP)
    neighbor = Neighbor("gateways", SITE_HOST, ROUTER, 65010, multihop=2)
    bird = Bird(pair.edge, 65001, SITE_HOST, [neighbor], ["172.16.1.128/25"])
    pair.start_others()
    bird.start()
    for daemon in pair.daemons:
        daemon.start()
    pair.wait_whole()
    active, other = pair.active(), 1 - pair.active()
    pair.daemons[active].wait_bgp("edge", 60)
    begun = time.monotonic()
    pair.daemons[active].kill()
    pair.daemons[other].wait_bgp("edge", 30)

    def learned() -> bool:
        return "172.16.1.128/25" in pair.gateways[other].run("ip", "route", "show", "table", "221")

    wait_until(learned, 10, "what the edge teaches is in the kernel", logs=[pair.daemons[other].process])
    print(f" [{time.monotonic() - begun:.1f} s]", end=" ")
    assert bird.established("gateways")


def test_a_refused_reload_of_the_port_of_the_pair_stops_no_heartbeat_and_no_copies(pair: SharedAddress) -> None:
    """Both numbers of the port are to be had, or none is changed."""
    at = 1 - pair.active()
    daemon, machine = pair.daemons[at], pair.gateways[at]

    def sent() -> int:
        return int(((daemon.status() or {}).get("ha") or {}).get("sent", 0))

    script = f"import socket, time; s = socket.create_server(('{FABRIC[at]}', 4790)); print(flush=True); time.sleep(60)"
    taken = machine.start("taken", [sys.executable, "-S", "-E", "-c", script])
    wait_until(lambda: ":4790" in machine.run("ss", "-tln"), 5, "the port is taken", logs=[taken])
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[ha]\n", "[ha]\nport = 4790\n"))
    refused = daemon.ctl("reload", check=False)
    assert f"replication {FABRIC[at]}:4790: Address already in use" in " ".join(refused.stderr.split())
    before = sent()
    wait_until(lambda: sent() > before + 10, 5, "heartbeats are sent", logs=[daemon.process])
    assert sorted(pair.roles()) == ["active", "standby"]
    assert ":4790" not in machine.run("ss", "-uln")
    assert [link for link in machine.run("ss", "-tln").splitlines() if ":4780" in link], "and who copies is let in"
