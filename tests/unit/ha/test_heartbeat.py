"""Two heartbeats in a simulated network: what goes up, what goes down, and what an attacker cannot do."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import pytest
from support.heartbeat_network import SECRET, Network, settings

from gateway.contract import Endpoint
from gateway.ha.beating import HOLD, REFRESH, Arm, Beat
from gateway.ha.heartbeat import HeartbeatStatus, PeerUp
from gateway.ha.message import Advertised, Message, Rejection, Role, keyring, open_, seal
from gateway.ha.paths import Path
from gateway.observe import metrics
from gateway.observe.snapshot import HaStatus

KEYS = keyring([SECRET])


def pair(**network: object) -> Network:
    world = Network(**network)  # type: ignore[arg-type]
    world.boot("a")
    world.boot("b")
    return world


def rejected(world: Network, name: str) -> dict[str, int]:
    return {why: count for why, count in world.nodes[name].status(world.now).rejected.items() if count}


def test_both_sides_come_up_within_one_interval_and_measure_the_round_trip():
    world = pair(delay=(0.0005, 0.0005))
    world.run(0.1)
    assert world.said("a") == world.said("b") == ["up"]
    world.run(2.0)
    status = world.nodes["a"].status(world.now)
    assert status.peer_up
    assert status.peer_name == "gw-b"
    assert status.peer_address == "10.0.0.5:4780"
    assert status.round_trip == pytest.approx(0.001, abs=1e-5)
    assert status.last_heartbeat_at is not None
    assert world.now - status.last_heartbeat_at < 0.25


def test_silence_brings_the_peer_down_after_the_dead_time_and_not_before():
    world = pair()
    world.run(5.0)
    stopped = world.now
    world.kill("b")
    world.run(3.0)
    ((at, _, event),) = [entry for entry in world.events if entry[0] > stopped]
    assert event.reason.value == "silence"
    assert 0.8 - 0.25 < at - stopped <= 1.0 + 0.01, "5 intervals of 0.2 s after the last heartbeat heard"
    assert world.nodes["a"].peer_advertised is None


def test_one_way_loss_is_noticed_on_both_sides():
    world = pair()
    world.run(2.0)
    world.passes = lambda sender, data: sender == "b"  # a is mute
    world.run(3.0)
    assert world.said("a") == ["up", "one-way"]
    assert world.said("b") == ["up", "silence"]
    world.passes = lambda sender, data: True
    world.run(1.0)
    assert world.said("a")[-1] == world.said("b")[-1] == "up"


@pytest.mark.parametrize("seed", range(20))
def test_a_lossy_reordering_duplicating_network_does_not_flap(seed: int):
    world = pair(seed=seed, loss=0.2, duplicate=0.3, delay=(0.001, 0.3))
    for node in ("a", "b"):
        world.boot(node, dead_after=20)
    world.run(60.0)
    assert world.said("a") == world.said("b") == ["up"]
    assert rejected(world, "a").get("replay", 0) > 10, "the duplicates"


def test_a_restart_is_followed_at_once_and_told():
    world = pair()
    world.run(2.0)
    world.boot("b")
    world.run(0.3)
    assert world.said("a") == ["up", "restarted", "up"]
    assert world.said("b") == ["up", "up"], "one of each boot"


def test_recordings_of_an_earlier_boot_move_nothing():
    world = pair()
    world.run(2.0)
    recorded = [data for sender, data in world.sent if sender == "b"]
    world.boot("b")
    world.run(2.0)
    world.kill("b")  # the genuine one is gone; only the attacker speaks
    before = world.said("a")
    for _ in range(40):
        world.run(0.1)
        for data in recorded:
            world.inject("a", data)
    assert world.said("a") == [*before, "silence"], "recordings neither keep a dead peer up nor bring one up"
    assert rejected(world, "a")["unknown_boot"] >= 40 * len(recorded)


def test_recordings_cannot_displace_a_peer_that_is_up():
    world = pair()
    world.run(2.0)
    recorded = [data for sender, data in world.sent if sender == "b"]
    world.boot("b")
    world.run(2.0)
    before = world.said("a")
    for _ in range(100):
        for data in recorded:
            world.inject("a", data)
        world.run(0.05)
    assert world.said("a") == before
    assert world.nodes["a"].status(world.now).peer_up


def test_a_peer_can_join_while_recordings_are_replayed():
    world = pair()
    world.run(2.0)
    recorded = [data for sender, data in world.sent if sender == "b"]
    world.boot("a")
    world.boot("b")
    for _ in range(100):
        for data in recorded[:4]:
            world.inject("a", data)
        world.run(0.05)
    assert world.nodes["a"].status(world.now).peer_up
    assert world.nodes["b"].status(world.now).peer_up


def test_replaying_recordings_does_not_make_us_a_source_of_traffic():
    world = pair()
    world.run(2.0)
    recorded = [data for sender, data in world.sent if sender == "b"]
    world.boot("b")
    world.run(2.0)
    before = len(world.sent)
    for _ in range(100):
        world.inject("a", recorded[0])
    assert len(world.sent) - before <= 8


def test_our_own_reflection_is_refused():
    world = pair()
    world.run(2.0)
    mine = [data for sender, data in world.sent if sender == "a"]
    before = world.nodes["a"].status(world.now).received
    for data in mine:
        world.inject("a", data)
    assert rejected(world, "a")["own_reflection"] == len(mine)
    assert world.nodes["a"].status(world.now).received == before


def test_replays_and_old_numbers_of_the_followed_boot_are_refused():
    world = pair()
    world.run(30.0)
    recorded = [data for sender, data in world.sent if sender == "b"]
    before = rejected(world, "a").get("replay", 0)
    received = world.nodes["a"].status(world.now).received
    for data in recorded:
        world.inject("a", data)
    assert rejected(world, "a")["replay"] - before == len(recorded)
    assert world.nodes["a"].status(world.now).received == received


def test_forgeries_change_nothing_but_their_counter():
    world = pair()
    world.run(2.0)
    node = world.nodes["a"]
    before = (node.next_deadline(), node.status(world.now), len(world.sent), len(world.events))
    forged = seal(Message("gw-b", bytes(16), 10**9, 0), keyring([b"another secret of 16"]))
    world.inject("a", forged)
    world.inject("a", b"GWHB\x03" + bytes(200))
    world.inject("a", b"noise")
    after = node.status(world.now)
    assert {why: after.rejected[why] - before[1].rejected[why] for why in ("bad_mac", "bad_version", "malformed")} == {
        "bad_mac": 1,
        "bad_version": 1,
        "malformed": 1,
    }
    assert (node.next_deadline(), len(world.sent), len(world.events)) == (before[0], before[2], before[3])
    assert (after.peer_up, after.received, after.last_heartbeat_at) == (
        True,
        before[1].received,
        before[1].last_heartbeat_at,
    )


def test_the_window_takes_reordered_numbers_once():
    world = pair()
    world.run(2.0)
    genuine = open_([data for sender, data in world.sent if sender == "b"][-1], KEYS)
    top = genuine.sequence + 200

    def send(sequence: int) -> bool:
        before = world.nodes["a"].status(world.now).received
        world.inject("a", seal(Message("gw-b", genuine.boot, sequence, 0), KEYS))
        return world.nodes["a"].status(world.now).received > before

    assert [send(n) for n in (top, top, top - 1, top - 63, top - 63, top - 64, top + 1, top)] == [
        True, False, True, True, False, False, True, False,
    ]  # fmt: skip


def test_a_stall_of_our_own_is_not_the_death_of_the_peer():
    world = pair()
    world.run(2.0)
    world.frozen.add("a")
    world.run(5.0)
    world.frozen.clear()
    world.run(2.0)
    assert world.said("a") == ["up"], "the datagrams waiting in the socket were read first"


@pytest.mark.parametrize("who", ["a", "b", "ab"])
def test_a_busy_loop_is_not_the_death_of_anybody(who: str):
    """Its beats go on and echo; what it hears has the time when it came."""
    world = two_paths()
    world.run(1.0)
    world.busy = set(who)
    world.run(0.5)
    for name in who:
        world.go_on(name)
    world.run(1.0)
    assert world.said("a") == world.said("b") == ["up"]
    trip = world.nodes["a"].status(world.now).round_trip
    assert trip == pytest.approx(0.002, abs=1e-4)
    assert all(path.loss == 0 for path in world.nodes["a"].paths(world.now))


def test_a_death_while_the_loop_is_busy_is_noticed_at_its_end():
    world = pair()
    world.run(2.0)
    world.busy.add("a")
    world.run(0.05)
    world.kill("b")
    world.run(3.0)
    world.go_on("a")
    world.run(0.25)
    assert world.said("a") == ["up", "silence"]


def test_one_that_hangs_for_good_falls_silent():
    world = pair(delay=(0.001, 0.001))
    for name in "ab":
        world.boot(name, interval=0.02, dead_after=3)
    world.run(2.0)
    hung = world.now
    world.busy.add("b")
    world.run(5.0)
    ((at, who, event),) = [entry for entry in world.events if entry[0] > hung]
    assert (who, event.reason.value) == ("a", "silence")
    assert 0.75 - 0.02 < at - hung < 1.0 + 0.06 + 0.04, "one second after it was armed last, and the dead time"


def test_a_time_of_arrival_is_never_later_than_now():
    world = pair()
    world.run(0.5)
    world.nodes["a"].receive([data for sender, data in world.sent if sender == "b"][-1], world.now, world.now + 100)
    held: list[bytes] = []
    world.passes = lambda sender, data: bool(held.append(data))
    world.run(0.3)
    world.nodes["a"].receive(held[-1] if path_of(held[-1]) == 0 else held[0], world.now, world.now + 100)
    heard = world.nodes["a"].status(world.now).last_heartbeat_at
    assert heard is not None and heard <= world.now


def test_what_stays_the_same_is_armed_again_well_before_it_ends_and_what_is_new_at_once():
    world = pair()
    world.run(2.0)
    node = world.nodes["a"]
    armed: list[tuple[float, Arm]] = []
    real = world.beats["a"].perform

    def perform(beat: Beat, now: float) -> None:
        assert isinstance(beat, Arm)
        armed.append((now, beat))
        real(beat, now)

    world.beats["a"].perform = perform  # type: ignore[method-assign]
    world.run(2.0)
    times = [at for at, _ in armed]
    assert max(after - before for before, after in pairwise(times)) <= HOLD / 3
    assert len(times) <= 2.0 / REFRESH + 1
    assert not any(arm.at_once for _, arm in armed)
    node.command(Advertised(Role.ACTIVE, epoch=1), world.now)
    world._drain("a")
    assert armed[-1][0] == world.now and armed[-1][1].at_once
    node.configure(settings("a", interval=0.5))
    world._drain("a")
    assert armed[-1][1].interval == (pytest.approx(0.45), pytest.approx(0.55))
    assert {arm.hold for _, arm in armed} == {HOLD}


def test_a_loop_that_is_always_late_still_notices_a_death():
    world = pair()
    world.run(2.0)
    node = world.nodes["a"]
    for _ in range(20):
        world.now += 0.5  # more than an interval late, every time
        node.handle_deadline(world.now)
        world._drain("a")
    assert world.said("a") == ["up", "silence"]


def test_a_datagram_that_was_overtaken_does_not_bring_old_news():
    world = pair()
    world.run(1.0)
    held: list[bytes] = []
    world.passes = lambda sender, data: sender != "b" or bool(held.append(data))
    world.nodes["b"].command(Advertised(Role.STANDBY, epoch=1), world.now)
    world.nodes["b"].command(Advertised(Role.ACTIVE, epoch=2), world.now)
    world._drain("b")
    for data in reversed(held):
        world.inject("a", data)
    told = world.nodes["a"].peer_advertised
    assert told is not None
    assert (told.role, told.epoch) == (Role.ACTIVE, 2)


def test_what_a_gateway_says_of_itself_reaches_the_other_at_once():
    world = pair()
    world.run(1.05)
    told = Advertised(Role.ACTIVE, 200, 7, bytes(31) + b"\x01")
    world.nodes["b"].command(told, world.now)
    world._drain("b")
    world.run(0.01)
    assert world.nodes["a"].peer_advertised == told
    assert isinstance(world.events[0][2], PeerUp)
    assert world.events[0][2].advertised == Advertised()


def test_the_status_has_the_fields_and_reasons_of_the_snapshot():
    assert {f.name for f in fields(HeartbeatStatus)} <= {f.name for f in fields(HaStatus)}
    assert tuple(why.value for why in Rejection) == metrics.HEARTBEAT_REJECTIONS
    status = pair().nodes["a"].status(0.0)
    assert (status.peer_up, status.last_heartbeat_at, status.round_trip, set(status.rejected.values())) == (
        False,
        None,
        None,
        {0},
    )


SECOND = Path(Endpoint("10.9.0.4", 4780), Endpoint("10.9.0.5", 4780))


def two_paths(**network: object) -> Network:
    world = Network(**network)  # type: ignore[arg-type]
    for name in ("a", "b"):
        world.boot(name, further=(SECOND if name == "a" else Path(SECOND.remote, SECOND.local),), interval=0.02)
    return world


def path_of(data: bytes) -> int:
    return KEYS.open(data).path


def test_the_peer_is_up_while_any_path_is_and_each_path_is_seen_by_itself():
    world = two_paths()
    world.run(1.0)
    assert [path.up for path in world.nodes["a"].paths(world.now)] == [True, True]
    world.passes = lambda sender, data: path_of(data) == 1
    world.run(1.0)
    first, second = world.nodes["a"].paths(world.now)
    assert (first.up, second.up) == (False, True)
    assert first.heard_at is not None and world.now - first.heard_at > 0.9
    assert second.local == "10.9.0.4:4780" and second.round_trip == pytest.approx(0.002, abs=1e-4)
    assert world.said("a") == world.said("b") == ["up"], "one path is enough"
    world.passes = lambda sender, data: False
    world.run(0.2)
    assert world.said("a") == ["up", "silence"]
    world.passes = lambda sender, data: path_of(data) == 0
    world.run(0.2)
    assert world.said("a") == world.said("b") == ["up", "silence", "up"]


def test_two_paths_of_one_way_each_are_no_path():
    """a hears b on the first only, b hears a on the second only: an echo goes back on the path it came on."""
    world = two_paths()
    world.run(1.0)
    world.passes = lambda sender, data: path_of(data) == (0 if sender == "b" else 1)
    world.run(1.0)
    assert world.said("a") == world.said("b") == ["up", "one-way"]


def test_the_loss_of_a_path_is_measured():
    world = two_paths()
    kept = world.random
    world.passes = lambda sender, data: path_of(data) == 0 or kept.random() < 0.7
    world.run(5.0)
    first, second = world.nodes["a"].paths(world.now)
    assert first.loss == 0.0
    assert 0.15 < second.loss < 0.45


def test_a_recording_of_one_path_is_a_replay_on_it_and_nothing_on_another():
    world = two_paths()
    world.run(1.0)
    before = rejected(world, "a").get("replay", 0)
    recorded = [data for sender, data in world.sent if sender == "b"][-4:]
    for data in recorded:
        world.inject("a", data)
    assert rejected(world, "a")["replay"] - before == 4
    moved = bytearray(recorded[0])
    moved[6] ^= 1
    world.inject("a", bytes(moved))
    assert rejected(world, "a")["bad_mac"] == 1


def test_no_nonce_comes_twice():
    world = two_paths(loss=0.2, duplicate=0.3)
    world.run(3.0)
    world.boot("b")
    world.run(3.0)
    heads = [data[:36] for _, data in world.sent]
    assert len(heads) == len(set(heads)) > 500


def test_a_peer_that_does_not_hear_us_still_says_what_it_is_and_its_silence_is_told_then():
    world = pair()
    world.run(2.0)
    world.passes = lambda sender, data: sender == "b"
    world.run(2.0)
    assert world.said("a") == ["up", "one-way"]
    world.nodes["b"].command(Advertised(Role.ACTIVE, epoch=9), world.now)
    world._drain("b")
    world.run(0.1)
    _, who, said = world.heard[-1]
    assert who == "a" and (said.advertised.role, said.advertised.epoch) == (Role.ACTIVE, 9)
    assert world.nodes["a"].peer_advertised is None, "it is not up"
    world.kill("b")
    world.run(2.0)
    assert world.said("a") == ["up", "one-way", "silence"]


def test_a_secret_rolls_over_without_a_heartbeat_lost():
    world = pair()
    world.run(1.0)
    new = b"the secret from now on, also long"
    world.boot("a", secret=SECRET, older_secrets=(new,))
    world.run(1.0)
    world.boot("b", secret=new, older_secrets=(SECRET,))
    world.run(1.0)
    world.boot("a", secret=new)
    world.run(1.0)
    for name in "ab":
        assert world.nodes[name].status(world.now).peer_up
        assert "bad_mac" not in rejected(world, name)
