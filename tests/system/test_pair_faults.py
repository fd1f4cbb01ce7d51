"""Faults in time, not in parts: slow and flapping ways, clocks that jump, versions that differ, processes that stand still.

Whatever happens, at most one gateway acts at every instant, and only who holds the lease: watched from outside all the while
(`support/lease_watch.py`). And no flap: the witness granted the lease as often as is said, and not once more.

What is not here: a wall clock that a whole machine sees jump (there is one for all of this host; a preloaded library moves the
gateway's alone), and a CLOCK_BOOTTIME that goes back, which Linux has not.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.clock_shim import Clocks
from support.cloud_beside import FABRIC_SECTION, AzureBeside
from support.clouds import route
from support.lease_watch import LeaseWatch
from support.netns import Lab
from support.process import wait_until
from support.slow_link import slowed
from support.two_gateways import FABRIC, TwoGateways

pytestmark = [pytest.mark.system, pytest.mark.slow]
INTERVAL, DEAD = 0.05, 0.15
DAY = 86400
HEARTBEATS = "udp dport 4780"


class Watched(TwoGateways):
    """A pair with a lease of 1 s, as users have it, and a route table that whoever acts writes."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(
            lab, ha='drain_time = "500ms"', interval=f"{INTERVAL * 1000:g}ms", ttl="1s", more=FABRIC_SECTION
        )
        self.azure = AzureBeside(self)
        self.watch = LeaseWatch(self, self.azure)

    def begin(self) -> None:
        self.azure.start()
        self.azure.tables(users={"routes": [route("internet", "0.0.0.0/0", kind="Internet")]})
        self.start()
        self.wait_whole()
        self.streams.start(200)
        self.streams.wait_flowing(10)
        self.watch.start()
        time.sleep(0.1)

    def granted(self, since: float) -> list[int]:
        """To whom the lease went since then."""
        return [grant.holder for grant in self.watch.grants_since(since)]

    def pid(self, at: int) -> int:
        """Of gatewayd itself: the wrappers become it."""
        process = self.daemons[at].process
        assert process is not None
        return process.pid


@pytest.fixture
def made(lab: Lab) -> Iterator[Watched]:
    """Not begun yet; watched to the end."""
    pair = Watched(lab)
    yield pair
    pair.watch.stop()


@pytest.fixture
def pair(made: Watched) -> Watched:
    made.begin()
    return made


SLOW = {
    "ten dead times there and back": {"base": 5 * DEAD},
    "a dead time, more or less": {"base": DEAD / 2, "jitter": DEAD},
    "held for just less than a dead time": {"base": 0.0, "period": DEAD - 0.01},
    "held for just more than a dead time": {"base": 0.0, "period": DEAD + 0.02},
}


def test_slow_heartbeats_move_nothing_and_do_not_hide_a_death(pair: Watched) -> None:
    begun, active = time.monotonic(), pair.active()
    trips = {}
    for name, how in SLOW.items():
        with slowed(pair.vnet, HEARTBEATS, **how):
            time.sleep(4.0)
            trips[name] = _state(pair, active)["round_trip"]
    assert trips["ten dead times there and back"] > 9 * DEAD, "they were slow"
    assert _downs(pair, active), "too slow for a moment, now and then"
    pair.wait_whole()
    assert pair.granted(begun) == []
    assert pair.lost(begun) == (0, 0)
    killed = time.monotonic()
    with slowed(pair.vnet, HEARTBEATS, **SLOW["a dead time, more or less"]):
        pair.daemons[active].kill()
        pair.wait_role(1 - active, "active", 5)
        pair.daemons[active].start()
        wait_until(lambda: pair.role(active) == "standby", 20, "it is back")
        time.sleep(2.0)
    pair.wait_whole()
    assert pair.granted(killed) == [1 - active]


def test_slow_heartbeats_go_both_ways_of_a_switchover(pair: Watched) -> None:
    begun, active = time.monotonic(), pair.active()
    with slowed(pair.vnet, HEARTBEATS, **SLOW["a dead time, more or less"]):
        for at in (active, 1 - active):
            wait_until(partial(_hands_over, pair, at), 20, "it goes")
            pair.wait_role(1 - at, "active", 5)
    pair.wait_whole()
    assert pair.granted(begun) == [1 - active, active]
    assert pair.lost(begun) == (0, 0)


def _hands_over(pair: Watched, at: int) -> bool:
    return pair.daemons[at].ctl("failover", "--wait", "5", check=False).returncode == 0


def test_heartbeats_that_flap_at_1_hz_move_nothing(pair: Watched) -> None:
    begun = time.monotonic()
    for cut in (FABRIC, FABRIC[:1], FABRIC[1:]) * 4:
        pair.cut_heartbeats(*cut)
        time.sleep(0.5)
        pair.join_heartbeats()
        time.sleep(0.5)
    pair.wait_whole()
    assert pair.granted(begun) == []
    assert pair.lost(begun) == (0, 0)


def test_a_vnet_link_that_flaps_at_1_hz_moves_it_once_at_most(pair: Watched) -> None:
    begun, active = time.monotonic(), pair.active()
    for _ in range(12):
        pair.vnet.batch(f"link set gw{'ab'[active]} down")
        time.sleep(0.5)
        pair.vnet.batch(f"link set gw{'ab'[active]} up")
        time.sleep(0.5)
    pair.wait_whole()
    assert pair.granted(begun) in ([], [1 - active])


@pytest.mark.parametrize("who", ["active", "standby", "both"])
def test_a_wall_clock_that_jumps_by_a_day_moves_nothing(made: Watched, who: str, tmp_path: Path) -> None:
    clocks = _clocks(made, tmp_path)
    made.begin()
    begun, active = time.monotonic(), made.active()
    jumping = {"active": [active], "standby": [1 - active], "both": [0, 1]}[who]
    for days in (1, -1, 0):
        for at in jumping:
            clocks[at].jump(wall=days * DAY)
        time.sleep(2.5)  # two and a half leases
        assert all(abs(_wall_clock(made, at) - time.time() - days * DAY) < 5 for at in jumping), "they jumped"
    made.wait_whole()
    assert made.granted(begun) == []
    assert made.lost(begun) == (0, 0)


def test_a_machine_that_slept_for_a_day_is_not_active_when_it_wakes(made: Watched, tmp_path: Path) -> None:
    clocks = _clocks(made, tmp_path)
    made.begin()
    active, before = made.active(), time.monotonic()
    clocks[1 - active].jump(wall=DAY, boot=DAY)
    time.sleep(3.0)
    assert made.granted(before) == [], "the other one's sleep is nothing to who is active"
    made.wait_whole()
    woke = time.monotonic()
    clocks[active].jump(wall=DAY, boot=DAY)
    made.wait_role(1 - active, "active", 5)
    made.wait_whole()
    assert made.granted(woke) == [1 - active]


def test_clocks_that_are_a_day_apart_are_as_good_as_any(made: Watched) -> None:
    made.daemons[0].wrapper = ("unshare", "--time", "--boottime", str(DAY), "--monotonic", str(DAY))
    made.begin()
    begun, active = time.monotonic(), made.active()
    times = [_state(made, at)["changed_at"] for at in (0, 1)]
    assert abs(times[0] - times[1] - DAY) < 60, "their clocks are"
    time.sleep(3.0)
    assert made.granted(begun) == []
    made.daemons[active].ctl("failover", "--wait", "5")
    made.wait_whole()
    made.daemons[1 - active].kill()
    made.wait_role(active, "active", 5)
    made.daemons[1 - active].start()
    made.wait_whole()
    assert made.granted(begun) == [1 - active, active]


LATER_MINOR = """
import gateway.ha.sealed as sealed
sealed.MINOR = 1
import gateway.ha.message as message
import gateway.ha.lease_message as lease
def appended(emit):
    def longer(*given):
        emit(*given)
        given[1].put(b"what a later version has to say")
    return longer
message._emit = appended(message._emit)
lease._emit = appended(lease._emit)
"""
ANOTHER_MAJOR = """
import gateway.ha.sealed as sealed
prefix, opened = sealed.Keyring.prefix, sealed.Keyring.open
def other(ring, *given):
    octets = prefix(ring, *given)
    return octets[:4] + bytes([3]) + octets[5:] if octets.startswith(b"GWHB") else octets
def refuse(ring, data):
    if data[:5] == b"GWHB\\2":
        raise sealed.Refused(sealed.Rejection.BAD_VERSION)
    return opened(ring, data)
sealed.Keyring.prefix, sealed.Keyring.open = other, refuse
"""
"""Each a sitecustomize.py of the tests': gatewayd as it is, but for what it says of its version, and to whom it listens."""


def test_a_later_minor_version_is_as_good_a_partner(made: Watched, tmp_path: Path) -> None:
    _other_version(made, 1, tmp_path, LATER_MINOR)
    made.begin()
    begun, active = time.monotonic(), made.active()
    for at in (active, 1 - active):
        made.daemons[at].ctl("failover", "--wait", "5")
        made.wait_whole()
    made.daemons[active].kill()
    made.wait_role(1 - active, "active", 5)
    made.daemons[active].start()
    made.wait_whole()
    assert made.granted(begun) == [1 - active, active, 1 - active]
    for at in (0, 1):
        assert not _state(made, at)["rejected"].get("bad_version")


def test_two_major_versions_do_not_hear_each_other_and_the_witness_decides(made: Watched, tmp_path: Path) -> None:
    made.begin()
    begun, active = time.monotonic(), made.active()
    _other_version(made, 1 - active, tmp_path, ANOTHER_MAJOR)
    assert made.daemons[1 - active].stop() == 0
    made.daemons[1 - active].start()
    made.daemons[1 - active].wait_bgp("vnet", 30)
    time.sleep(5.0)  # init_wait is over, and the lease has been asked for many times
    assert made.roles()[active] == "active"
    assert made.granted(begun) == []
    for at in (0, 1):
        assert not _state(made, at)["peer_up"]
        assert _state(made, at)["rejected"]["bad_version"] > 10, "it says why it does not hear the other"
    made.daemons[active].kill()
    made.wait_role(1 - active, "active", 10)
    made.daemons[active].start()
    made.daemons[active].wait_bgp("vnet", 30)
    time.sleep(5.0)
    assert made.roles()[1 - active] == "active"
    assert made.granted(begun) == [1 - active]


def test_who_was_stopped_for_a_minute_does_not_act_when_it_goes_on(pair: Watched) -> None:
    begun, active = time.monotonic(), pair.active()
    os.kill(pair.pid(active), signal.SIGSTOP)
    try:
        pair.wait_role(1 - active, "active", 5)
        time.sleep(60.0)
    finally:
        os.kill(pair.pid(active), signal.SIGCONT)
    wait_until(lambda: pair.role(active) in ("standby", "fault"), 10, "it demotes itself")
    # Its edge has forgotten the IKE_SA meanwhile, and says nothing: it is asked at once, and another one begun beside it
    went_on = time.monotonic()
    pair.wait_whole(60)
    print(f"whole again after {time.monotonic() - went_on:.1f} s")
    # The other one may have been granted it again, as where a loaded machine let its probes be late; never who stood still
    assert set(pair.granted(begun)) == {1 - active}


def test_both_restart_again_and_again_and_one_of_them_acts(pair: Watched) -> None:
    again: list[Callable[[int], object]] = [lambda at: pair.daemons[at].kill(), lambda at: pair.daemons[at].stop()]
    for end in again:
        begun = time.monotonic()
        for at in (0, 1):
            end(at)
        for daemon in pair.daemons:
            daemon.start(wait=False)
        pair.wait_whole(90)
        # Who was asked to stop offered it to the other, which may have had it for a moment
        assert len(pair.granted(begun)) <= (1 if end is again[0] else 2)


CARELESS = """
from gateway.ha.witness import Lease
Lease.check = lambda lease, now: None
Lease.valid = lambda lease, now: lease._held is not None
"""
"""A sitecustomize.py: a gateway that goes on acting when its lease is over. To test the watch."""


def test_the_watch_sees_one_that_acts_without_the_lease(lab: Lab, tmp_path: Path) -> None:
    pair = Watched(lab)
    for at in (0, 1):
        _other_version(pair, at, tmp_path, CARELESS)
    pair.begin()
    active = pair.active()
    pair.vnet.batch(f"link set gw{'ab'[active]} down")
    pair.wait_role(1 - active, "active", 10)
    time.sleep(1.0)
    with pytest.raises(AssertionError, match=r"(?s)both act: .*without the lease") as caught:
        pair.watch.stop()
    assert "Acting" in str(caught.value)


def _state(pair: Watched, at: int) -> dict[str, Any]:
    status = pair.daemons[at].status()
    assert status is not None
    return dict(status["ha"])


def _downs(pair: Watched, at: int) -> int:
    """How often it thought that the other is not there."""
    status = pair.daemons[at].status()
    assert status is not None
    return sum(entry["event"] == "ha-peer-down" for entry in status["journal"])


def _clocks(pair: Watched, directory: Path) -> list[Clocks]:
    made = []
    for at, daemon in enumerate(pair.daemons):
        place = directory / f"gw{at}"
        place.mkdir()
        made.append(Clocks(place))
        daemon.wrapper = made[-1].wrapper
    return made


_DATE = "import http.client as h; c = h.HTTPConnection('127.0.0.1', 9550); c.request('GET', '/'); print(c.getresponse().headers['Date'])"


def _wall_clock(pair: Watched, at: int) -> float:
    """What gatewayd thinks: by the Date of its answer, seconds since 1970."""
    said = pair.gateways[at].run(sys.executable, "-S", "-E", "-c", _DATE)
    return parsedate_to_datetime(said.strip()).timestamp()


def _other_version(pair: Watched, at: int, directory: Path, patch: str) -> None:
    (directory / "sitecustomize.py").write_text(patch)
    # Nothing empty among them: that would be the current directory, and with it the source tree
    paths = [str(directory), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    pair.daemons[at].wrapper = ("env", f"PYTHONPATH={os.pathsep.join(paths)}")
