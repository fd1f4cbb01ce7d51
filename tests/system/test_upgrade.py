"""`gatewayctl upgrade`: a new program takes over from the running one, which goes on where the new one is not fit for it."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from support.kept import Wire, child_spis, devices, ike_spis, iperf_connections, managed, said
from support.managed import Managed
from support.netns import Lab
from support.pair import Pair, make_pair
from support.process import ended, holds_for, wait_until
from support.scene import VNET_HOST, Scene
from support.traffic import Iperf, Streams, ping, result
from support.two_fabrics import TwoFabrics, Unit
from support.two_gateways import TwoGateways

from gateway.runtime.daemon import SETTLED
from gateway.runtime.kept_state import FORMAT

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

EXABGP = "exabgp_start.py"
NOWHERE = """
[connection.nowhere]
local_addrs = "198.51.100.2"
remote_addrs = "203.0.113.99"
psk.file = "site.psk"
remote_ts = ["192.168.77.0/24"]
start_action = "none"
"""

# What becomes of it when it takes over: each is a line before `main` of the new program
KILLED = {
    "when it has everything": "from gateway.runtime.predecessor import Predecessor as P; before = P.succeed;"
    "P.succeed = lambda self, reads: (before(self, reads), os.kill(os.getpid(), 9))",
    "when it has opened the kept state": "from gateway.runtime import kept_state as k; before = k.KeptState.__init__;"
    "k.KeptState.__init__ = lambda *all: (before(*all), os.kill(os.getpid(), 9))[0]",
    "when it forwards": "from gateway.runtime.predecessor import Predecessor as P;"
    "P.serving = lambda self: (__import__('time').sleep(0.2), os.kill(os.getpid(), 9))",
}


@pytest.fixture
def pair(scene: Scene) -> Pair:
    return make_pair(scene)


@pytest.fixture
def wire(scene: Scene) -> Iterator[Wire]:
    made = Wire(scene.wan, "edge")
    yield made
    made.tap.close()


def program(pair: Pair, *lines: str) -> Path:
    """A gatewayd of another release, by some lines of its own."""
    path = pair.gateway.machine.directory / "gatewayd-new"
    text = "\n".join((f"#!{sys.executable}", "import os, sys", *lines, "from gateway.runtime.main import main"))
    path.write_text(f"{text}\nsys.exit(main())\n")
    path.chmod(0o755)
    return path


def longest_gap(streams: Streams, since: float) -> float:
    """Between two datagrams that arrive, in seconds."""
    gaps = []
    for stream in (streams.there, streams.back):
        arrivals = sorted(received for _, _, received in stream.records() if received >= since - 0.1)
        gaps += [after - before for before, after in pairwise(arrivals)]
    return max(gaps)


def test_an_upgrade_under_traffic_keeps_everything(pair: Pair, wire: Wire) -> None:
    manager = managed(pair)
    before, children, index, old = ike_spis(pair), child_spis(pair), devices(pair), manager.pid
    streams = pair.streams(port=7100)
    wire.gather()
    began = time.monotonic()
    newer = program(pair, "import gateway", "gateway.__version__ = '9.9'")
    done, text = manager.upgrade(newer)
    assert done, text
    assert text == f"upgraded from gatewayd 0.1.0 to 9.9, process {manager.pid}\n"
    assert manager.pid != old
    wait_until(lambda: not Path(f"/proc/{old}").exists(), 5, "the old one is gone")
    streams.wait_flowing(5)
    wire.gather()
    assert said(pair, "upgraded") == [f"took over from process {old}; this is gatewayd 9.9"]
    assert ike_spis(pair) == before
    assert child_spis(pair) == children
    assert devices(pair) == index
    gap = longest_gap(streams, began)
    print(f" [the longest gap: {gap * 1000:.0f} ms]", end=" ")
    assert gap < 0.6, "a program that is loaded while nobody forwards takes longer"
    pair.rekeyed_by_both_without_loss()
    streams.stop()
    wire.nothing_twice(at_least=500)
    pair.no_clear_text()
    events = manager.events()
    assert f"main process {manager.pid}" in events, "a child of the manager's"
    assert f"watchdog fed by {manager.pid}" in events
    assert not [event for event in events if event.startswith(("refused", "ended"))]


def test_one_after_the_other_and_what_comes_then_is_as_ever(pair: Pair, wire: Wire) -> None:
    """The installed program each time, as it is named in the unit; then a crash, a restart and a stop."""
    manager = managed(pair)
    before, children, index = ike_spis(pair), child_spis(pair), devices(pair)
    streams = pair.streams(port=7100)
    for _ in range(3):
        assert manager.upgrade()[0]
        wire.gather()
    manager.crash()
    streams.wait_flowing(5)
    assert said(pair, "ike-resumed") == ["goes on after a crash, with 1 CHILD_SAs"]
    assert manager.upgrade()[0]
    manager.restart()
    streams.wait_flowing(5)
    assert (ike_spis(pair), child_spis(pair), devices(pair)) == (before, children, index)
    pair.rekeyed_by_both_without_loss()
    streams.stop()
    wire.nothing_twice(at_least=500)
    pair.no_clear_text()
    assert manager.upgrade()[0]
    assert pair.gateway.stop() == 0
    assert devices(pair) == []
    wait_until(lambda: pair.charon.sas() == [], 5, "the edge was told")
    stored = {name for event in manager.events() if event.startswith("stored") for name in event.split()[2:]}
    removed = {event.split()[1] for event in manager.events() if event.startswith("removed")}
    assert stored <= removed


def test_tcp_connections_live_through_an_upgrade_and_nobody_who_asks_is_turned_away(pair: Pair) -> None:
    manager = managed(pair)
    iperf = Iperf(pair.scene.host, VNET_HOST)
    client = iperf.background(pair.scene.site, 6, megabits=50)
    wait_until(lambda: iperf_connections(pair) == 2, 5, "a control connection and a stream")
    answers: list[bool] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answers.append(pair.gateway.status() is not None)
            time.sleep(0.002)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert manager.upgrade()[0]
        assert pair.gateway.http("/healthz")[0] == 200
        assert manager.upgrade()[0]
    finally:
        over.set()
        asking.join()
    assert len(answers) > 50
    assert answers.count(False) <= 2, "only who was let in by the old one at the moment of its halt"
    assert result(client, 20).gbit_per_s > 0.0125, "the stream went on afterwards, at its rate"
    assert client.wait(1) == 0
    iperf.stop()


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["import gateway.runtime", "raise ImportError('no such thing')"], "it ended before it was ready"),
        (["import gateway", "gateway._native = None", "sys.modules['uvloop'] = None"], "it ended before it was ready: "),
        (["sys.argv += ['--unheard-of']"], "unrecognized arguments: --unheard-of"),
        (["sys.exit(0)"], "it ended before it was ready"),
        (["from gateway.runtime import state_memory", "state_memory.VERSION += 1"],
         f"gatewayd 0.1.0 does not read the state that this release keeps ({FORMAT}; it reads"),
        (["from gateway.runtime import handing", "handing.PROTOCOL += 1",
          "from gateway.runtime import predecessor", "predecessor.PROTOCOL += 1"], "takes over in another way"),
    ],
    ids=["it does not begin", "it does not load", "an older one", "it ends", "other state", "other words"],
)  # fmt: skip
def test_a_program_that_is_not_fit_leaves_the_old_one_serving(pair: Pair, lines: list[str], cause: str) -> None:
    manager = managed(pair)
    before, old, events = ike_spis(pair), manager.pid, manager.events()
    streams = pair.streams(port=7100)
    done, text = manager.upgrade(program(pair, *lines))
    assert not done
    assert text.startswith("not upgraded: ")
    assert cause in text
    assert text.count("\n") == 1, "one sentence"
    refused_nothing_lost(pair, manager, streams, old)
    assert said(pair, "upgrade-refused") == [text.rstrip("\n")]
    assert ike_spis(pair) == before
    told = [event for event in manager.events() if not event.startswith("reaped")]
    assert told == events, "the manager was told nothing"
    assert manager.upgrade()[0], "one that is fit for it takes over afterwards"


def test_one_that_ends_at_the_last_moment_leaves_the_old_one_serving(pair: Pair) -> None:
    """It was ready, and is gone when the old one looks a last time before it tells the manager."""
    manager = managed(pair)
    old, events, directory = manager.pid, manager.events(), pair.gateway.machine.directory
    loaded, goes_on = directory / "loaded", directory / "goes-on"
    new = program(
        pair,
        "import pathlib, time",
        "from gateway.runtime import predecessor as p",
        "before = p.say",
        "def say(by, kind, fds=(), **facts):",
        f"    while kind == 'ready' and not pathlib.Path('{goes_on}').exists():",
        f"        loaded = pathlib.Path('{loaded}')",
        "        loaded.exists() or loaded.write_text(str(os.getpid()))",
        "        time.sleep(0.01)",
        "    before(by, kind, fds, **facts)",
        "    kind == 'ready' and os._exit(0)",
        "p.say = say",
    )
    streams = pair.streams(port=7100)
    answers: list[tuple[bool, str]] = []
    asking = threading.Thread(target=lambda: answers.append(manager.upgrade(new)))
    asking.start()
    wait_until(lambda: loaded.exists() and loaded.read_text(), 20, "it is loaded", logs=[pair.gateway.process])
    os.kill(old, signal.SIGSTOP)
    goes_on.touch()
    wait_until(lambda: ended(int(loaded.read_text())), 5, "it has ended")
    os.kill(old, signal.SIGCONT)
    asking.join()
    assert answers == [(False, "not upgraded: it ended after it was ready\n")]
    streams.wait_flowing(5)
    assert manager.pid == old
    assert [event for event in manager.events() if not event.startswith("reaped")] == events
    assert manager.upgrade()[0]
    streams.stop()


def refused_nothing_lost(pair: Pair, manager: Managed, streams: Streams, old: int) -> None:
    holds_for(lambda: manager.pid == old and Path(f"/proc/{old}").exists(), 1.0, "the old one serves")
    assert [(loss.lost, loss.void) for loss in streams.stop() if loss.lost] == []
    children = pair.gateway.machine.run("ps", "--ppid", str(old), "-o", "stat=,args=", check=False)
    assert "take-over" not in children


def test_a_configuration_that_is_refused_or_no_program_at_all_leaves_the_old_one_serving(pair: Pair) -> None:
    manager = managed(pair)
    old = manager.pid
    streams = pair.streams(port=7100)
    done, text = manager.upgrade(Path("/nowhere/gatewayd"))
    assert (done, text) == (False, "not upgraded: /nowhere/gatewayd cannot be started: No such file or directory\n")
    written = pair.gateway.config.read_text()
    pair.gateway.config.write_text(written + "nonsense = 1\n")
    done, text = manager.upgrade()
    assert not done
    assert "not upgraded: its configuration is refused: " in text
    assert "nonsense" in text
    refused_nothing_lost(pair, manager, streams, old)
    pair.gateway.config.write_text(written.replace("dpd_delay = 5", "dpd_delay = 7"))
    before = ike_spis(pair)
    assert manager.upgrade()[0], "another configuration is taken up as at a restart"
    assert ike_spis(pair) == before


@pytest.mark.parametrize("moment", KILLED)
def test_a_new_one_that_ends_while_it_takes_over_is_followed_by_the_manager_s_next(
    pair: Pair, wire: Wire, moment: str
) -> None:
    manager = managed(pair)
    before, children, index, old = ike_spis(pair), child_spis(pair), devices(pair), manager.pid
    streams = pair.streams(port=7100)
    wire.gather()
    done, text = manager.upgrade(program(pair, KILLED[moment]))
    assert not done
    assert "not upgraded, and left to the service manager, which starts it again: it ended before it forwarded" in text
    wait_until(lambda: "ended -9" in manager.events(), 10, "the manager sees it", logs=[pair.gateway.process])
    streams.wait_flowing(10)
    pair.wait_up(10)
    assert (ike_spis(pair), child_spis(pair), devices(pair)) == (before, children, index)
    assert manager.pid != old
    wait_until(lambda: not Path(f"/proc/{old}").exists(), 5, "the old one is gone")
    pair.rekeyed_by_both_without_loss()
    streams.stop()
    wire.nothing_twice(at_least=500)
    pair.no_clear_text()


def test_without_a_service_manager_it_is_refused(pair: Pair) -> None:
    pair.charon.start()
    pair.gateway.start()
    pair.wait_up()
    done = pair.gateway.ctl("upgrade", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("gatewayctl: not upgraded: no service manager started gatewayd")
    assert pair.gateway.up()


def test_who_is_told_to_stop_meanwhile_stops(pair: Pair) -> None:
    manager = managed(pair)
    slow = program(pair, "import time", "time.sleep(1)")
    answers: list[tuple[bool, str]] = []
    asking = threading.Thread(target=lambda: answers.append(manager.upgrade(slow)))
    asking.start()
    time.sleep(0.8)
    assert pair.gateway.stop(20) == 0
    asking.join()
    assert not answers[0][0]
    wait_until(lambda: pair.charon.sas() == [], 5, "the edge was told")
    assert devices(pair) == []
    left = pair.gateway.machine.run("ps", "-eo", "args=")
    assert str(slow) not in left


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_crashes_of_either_at_any_moment_of_an_upgrade_lose_no_tunnel(pair: Pair, wire: Wire, seed: int) -> None:
    chance = random.Random(seed)
    manager = managed(pair)
    before = ike_spis(pair)
    streams = pair.streams(port=7100)
    for _ in range(5):
        asking = threading.Thread(target=manager.upgrade)
        asking.start()
        time.sleep(chance.uniform(0.3, 1.6))
        os.kill(manager.pid, signal.SIGKILL)
        asking.join()
        wire.gather()
        streams.wait_flowing(20)
        pair.wait_up(10)
        # Three that end within 10 s of their start are enough for a state to be refused
        time.sleep(SETTLED)
    assert ike_spis(pair) == before
    pair.rekeyed_by_both_without_loss()
    streams.stop()
    wire.nothing_twice(at_least=1000)
    pair.no_clear_text()


@pytest.mark.parametrize("service", ["a unit of its own", "the daemon's child"])
def test_bgp_peers_notice_nothing_of_an_upgrade(lab: Lab, service: str) -> None:
    own = service == "a unit of its own"
    scene = TwoFabrics(lab, bgp="" if own else 'service = "child"')
    unit = Unit(scene) if own else None
    try:
        scene.alpha.announce(["172.16.0.0/16"])
        scene.beta.announce(["10.1.0.0/16"])
        manager = Managed(scene.daemon)
        manager.start()
        scene.told("10.1.0.0/16", "172.16.0.0/16")
        scene.alpha.noticed()
        scene.beta.noticed()
        since, told = (scene.alpha.up_since(), scene.beta.up_since()), (scene.alpha.routes(), scene.beta.routes())
        speaker = scene.pid_of(EXABGP)
        assert manager.upgrade()[0]
        wait_until(lambda: "RIBs agree" in str(scene.daemon.status()), 20, "synchronised", logs=[scene.daemon.process])
        holds_for(lambda: (scene.alpha.routes(), scene.beta.routes()) == told, 2.0, "what the peers have")
        assert (scene.alpha.up_since(), scene.beta.up_since()) == since
        assert scene.pid_of(EXABGP) == speaker
        scene.unnoticed()
        assert scene.daemon.stop(20) == 0
        wait_until(lambda: scene.gateway.pids_of(EXABGP) == [] or own, 20, "its child ends with it")
    finally:
        scene.close()
        if unit is not None:
            unit.stop()


@pytest.mark.slow
def test_the_active_one_of_a_pair_hands_over_first_and_loses_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = TwoGateways(lab, ha='drain_time = "500ms"')
    managers = [Managed(daemon) for daemon in pair.daemons]
    for daemon, manager in zip(pair.daemons, managers, strict=True):
        text = daemon.config.read_text()
        daemon.config.write_text(text.replace("listen_port = 0", 'listen_port = 0\nservice = "child"'))
        monkeypatch.setattr(daemon, "start", partial(daemon.start, wrapper=manager.wrapper))
    pair.start()
    pair.wait_whole()
    pair.streams.start(500)
    pair.streams.wait_flowing(10)
    active = pair.active()
    begun = time.monotonic()
    assert managers[active].upgrade()[0]
    pair.wait_role(1 - active, "active", 5)
    pair.wait_whole()
    time.sleep(0.5)
    assert pair.lost(begun) == (0, 0)
    assert pair.active() == 1 - active, "it does not take the role back"


EATS = (
    "import gateway.runtime.daemon as d, gateway.runtime.ending as e, gateway.runtime.progress_memory as p",
    # Nobody reads what the SAs did, but who scrapes at the worst moment; and the data plane's own word is not there to be gone by
    "d.COUNTER_INTERVAL = 1000.0",
    "p.ProgressMemory.take = lambda self, sa, interface: 0",
    "halt = e.Ending._halt",
    "async def eaten(self): self._daemon.driver.rest(); self._daemon.read_counters(); await halt(self)",
    "e.Ending._halt = eaten",
)


@pytest.mark.parametrize("end", ["restart", "upgrade"])
def test_a_scrape_at_the_last_moment_makes_no_number_come_twice(pair: Pair, wire: Wire, end: str) -> None:
    """What is kept at the end is how far each SA is, also of one that was idle since somebody asked."""
    manager = managed(pair)
    assert manager.upgrade(program(pair, *EATS))[0]
    wire.gather()
    ping(pair.scene.site, VNET_HOST, 40)
    {"restart": manager.restart, "upgrade": manager.upgrade}[end]()
    wait_until(lambda: ping(pair.scene.site, VNET_HOST, 1).lost == 0, 10, "the way there")
    ping(pair.scene.site, VNET_HOST, 20)
    wire.nothing_twice(at_least=40)


SLOW = (
    "import concurrent.futures, time, gateway.runtime.daemon as d",
    "run, threads = d.Daemon.run, concurrent.futures.ThreadPoolExecutor(1)",
    # As boto3 waits for a cloud that does not answer
    "async def slow(self, *before): threads.submit(time.sleep, 25); await run(self, *before)",
    "d.Daemon.run = slow",
)


def test_whoever_waits_for_an_answer_holds_no_restart_up(pair: Pair) -> None:
    manager = managed(pair)
    pair.gateway.config.write_text(pair.gateway.config.read_text() + NOWHERE)
    assert pair.gateway.ctl("reload").returncode == 0
    assert manager.upgrade(program(pair, *SLOW))[0]
    streams = pair.streams(port=7100)
    answers: list[tuple[bool, str]] = []
    asking = threading.Thread(target=lambda: answers.append(pair.gateway.operate("initiate", "nowhere", 40)))
    asking.start()
    time.sleep(0.5)
    began = time.monotonic()
    manager.restart()
    took = time.monotonic() - began
    streams.wait_flowing(5)
    gap = longest_gap(streams, began)
    print(f" [restarted in {took:.1f} s, the longest gap: {gap:.2f} s]", end=" ")
    streams.stop()
    asking.join(1)
    assert answers == [(False, "initiate of nowhere is still going on, and gatewayd ends")]
    assert max(gap, took) < 10


LATER = (
    "import gateway.node.learned as l; changed = l.Learned.changed",
    "l.Learned.changed = lambda self, now, delay=0.0: changed(self, now, 1000.0)",
    # The next process writes the file anew at its start
    "import gateway.runtime.saved_guard as s; write = s.write",
    "s.write = lambda directory, save: (write(directory, save), (directory / 'written').write_text(str(save)))",
)


@pytest.mark.parametrize("end", ["stop", "restart", "upgrade"])
def test_the_guard_that_is_to_be_written_down_in_a_moment_is_written_at_the_end(pair: Pair, end: str) -> None:
    manager = managed(pair)
    assert manager.upgrade(program(pair, *LATER))[0]
    pair.gateway.config.write_text(pair.gateway.config.read_text() + NOWHERE)
    assert pair.gateway.ctl("reload").returncode == 0
    written = pair.gateway.machine.directory / "run/gatewayd-state/written"
    assert not written.exists()
    {"stop": pair.gateway.stop, "restart": manager.restart, "upgrade": manager.upgrade}[end]()
    assert "192.168.77.0/24" in written.read_text()
