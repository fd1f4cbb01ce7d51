"""The lease of a pair and the witness node that grants it: who has it, until when, and what cannot take it away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lease_world import HOSTS, SECRET, LeaseWorld

from gateway.contract import Endpoint, Transmit
from gateway.ha.lease_message import Kind, LeaseMessage, keyring, open_, seal
from gateway.ha.message import Standing
from gateway.ha.sealed import Rejection
from gateway.ha.witness import (
    Acquire,
    Ask,
    Break,
    Failed,
    Free,
    Granted,
    Held,
    Lease,
    LeaseGranted,
    LeaseLost,
    LeaseRefused,
    Operation,
    Release,
)
from gateway.ha.witness_node import ClusterSettings

KEYS = keyring([SECRET], 7)
TTL = 6.0


def held_by_a(**world: object) -> LeaseWorld:
    made = LeaseWorld(**world)  # type: ignore[arg-type]
    made.run(0.1)
    made.command("a", Acquire(1))
    made.run(0.1)
    assert made.said("a") == [LeaseGranted(1)]
    return made


# --- the lease's own counting, against a witness that is played here --------------------------------------------------


def asks(lease: Lease) -> list[Ask]:
    return [effect for effect in lease.poll() if isinstance(effect, Ask)]


def test_the_lease_counts_from_when_it_was_asked_for_and_ends_a_margin_early():
    lease = Lease(6.0)
    lease.command(Acquire(1), 100.0)
    (ask,) = asks(lease)
    assert (ask.operation, ask.epoch, ask.ttl) == (Operation.ACQUIRE, 1, 6.0)
    lease.answered(ask.ticket, Granted(1, 6.0), 100.9)
    assert list(lease.poll()) == [LeaseGranted(1)]
    assert lease.valid(105.39) and not lease.valid(105.4)
    assert lease.remaining(104.4) == pytest.approx(1.0)


def test_it_renews_every_third_and_the_renewal_counts_from_when_it_was_sent():
    lease = Lease(6.0)
    lease.command(Acquire(1), 100.0)
    lease.answered(asks(lease)[0].ticket, Granted(1, 6.0), 100.5)
    list(lease.poll())
    assert lease.next_deadline() == 102.0
    lease.handle_deadline(102.0)
    (renewal,) = asks(lease)
    assert (renewal.operation, renewal.epoch) == (Operation.RENEW, 1)
    lease.answered(renewal.ticket, Granted(1, 6.0), 102.8)
    assert lease.remaining(102.8) == pytest.approx(102.0 + 5.4 - 102.8)


def test_nobody_answers_and_it_is_void_before_the_witness_can_give_it_away():
    lease = Lease(6.0)
    lease.command(Acquire(1), 100.0)
    lease.answered(asks(lease)[0].ticket, Granted(1, 6.0), 100.0)
    sent = []
    while (due := lease.next_deadline()) < 105.4:
        lease.handle_deadline(due)
        sent += [(due, ask.operation) for ask in asks(lease)]
    assert [round(at, 3) for at, _ in sent] == [102.0, 103.0, 104.0, 105.0], "every sixth of the ttl"
    lease.handle_deadline(105.4)
    assert [effect for effect in lease.poll() if isinstance(effect, LeaseLost)] == [
        LeaseLost("the lease could not be renewed in time")
    ]


@pytest.mark.parametrize("late", [0.0, 60.0, 86400.0])
def test_after_a_stand_still_it_is_void_before_anything_else_is_done(late: float):
    lease = Lease(6.0)
    lease.command(Acquire(1), 100.0)
    lease.answered(asks(lease)[0].ticket, Granted(1, 6.0), 100.0)
    list(lease.poll())
    lease.handle_deadline(102.0)
    (renewal,) = asks(lease)
    lease.answered(renewal.ticket, Granted(1, 6.0), 107.4 + late)
    assert next(type(effect) for effect in lease.poll()) is LeaseLost, "not the renewal that waited in the socket"
    assert not lease.valid(107.4 + late)


def test_a_grant_that_took_longer_than_it_lasts_is_worth_nothing_until_it_is_renewed():
    lease = Lease(6.0)
    lease.command(Acquire(1), 100.0)
    (ask,) = asks(lease)
    lease.answered(ask.ticket, Granted(1, 6.0), 105.5)
    (renewal,) = asks(lease)
    assert renewal.operation is Operation.RENEW and not lease.valid(105.5)
    lease.answered(renewal.ticket, Granted(1, 6.0), 105.6)
    assert list(lease.poll()) == [LeaseGranted(1)]
    assert lease.remaining(105.6) == pytest.approx(5.3)


def test_an_answer_that_never_came_is_resolved_by_reading():
    lease = Lease(6.0)
    lease.command(Acquire(1), 100.0)
    asks(lease)
    lease.handle_deadline(101.0)
    (read,) = asks(lease)
    assert read.operation is Operation.READ
    lease.answered(read.ticket, Held(4, "gw-a", 5.0, ours=True), 101.1)
    (renewal,) = asks(lease)
    assert (renewal.operation, renewal.epoch) == (Operation.RENEW, 4)
    lease.answered(renewal.ticket, Granted(4, 6.0), 101.2)
    assert list(lease.poll()) == [LeaseGranted(4)]
    assert lease.remaining(101.2) == pytest.approx(101.1 + 5.4 - 101.2)


def test_a_grant_that_was_given_up_meanwhile_is_given_back():
    lease = Lease(6.0)
    lease.command(Acquire(1), 100.0)
    (ask,) = asks(lease)
    lease.command(Release(), 100.1)
    lease.answered(ask.ticket, Granted(3, 6.0), 100.2)
    (release,) = asks(lease)
    assert (release.operation, release.epoch) == (Operation.RELEASE, 3)
    assert not lease.valid(100.2)


def test_an_acquisition_that_nobody_wants_any_more_and_nobody_answered_is_found_and_given_back():
    lease = Lease(6.0)
    lease.command(Acquire(1), 100.0)
    asks(lease)
    lease.command(Release(), 100.1)
    lease.handle_deadline(101.0)
    (read,) = asks(lease)
    lease.answered(read.ticket, Held(1, "gw-a", ours=True), 101.1)
    (release,) = asks(lease)
    assert (release.operation, release.epoch) == (Operation.RELEASE, 1)


def test_epochs_asked_for_are_above_every_epoch_seen():
    lease = Lease(6.0, epoch=3)
    lease.command(Acquire(1), 100.0)
    (ask,) = asks(lease)
    assert ask.epoch == 4
    lease.answered(ask.ticket, Held(9, "gw-b", 1.0), 100.1)
    assert list(lease.poll()) == [LeaseRefused(9, "gw-b")]
    lease.handle_deadline(101.1)
    assert asks(lease)[0].epoch == 10


def test_a_failure_is_said_and_asked_again_not_at_once():
    lease = Lease(6.0)
    lease.command(Acquire(1), 100.0)
    (ask,) = asks(lease)
    lease.answered(ask.ticket, Failed("HTTP 503"), 100.1)
    assert lease.problem == "HTTP 503" and not asks(lease)
    assert lease.next_deadline() == 101.0
    lease.handle_deadline(101.0)
    assert asks(lease)[0].operation is Operation.READ


def test_late_doubled_and_unknown_answers_move_nothing():
    lease = Lease(6.0)
    lease.command(Acquire(1), 100.0)
    (ask,) = asks(lease)
    lease.answered(ask.ticket + 7, Granted(9, 6.0), 100.1)
    lease.answered(ask.ticket, Granted(1, 6.0), 100.2)
    lease.answered(ask.ticket, Free(1), 100.3)
    assert list(lease.poll()) == [LeaseGranted(1)]
    assert lease.valid(100.3) and lease.epoch == 1


def resolved_by_reading() -> tuple[Lease, Ask]:
    """Held as epoch 1, by way of READ and RENEW; the answer to the ACQUIRE has not come yet."""
    lease = Lease(6.0)
    lease.command(Acquire(1), 100.0)
    (acquire,) = asks(lease)
    lease.handle_deadline(101.0)
    lease.answered(asks(lease)[0].ticket, Held(1, "gw-a", 5.0, ours=True), 101.1)
    lease.answered(asks(lease)[0].ticket, Granted(1, 6.0), 101.2)
    assert list(lease.poll()) == [LeaseGranted(1)]
    return lease, acquire


def test_the_late_answer_to_what_reading_resolved_changes_nothing():
    lease, acquire = resolved_by_reading()
    lease.answered(acquire.ticket, Granted(1, 6.0), 101.5)
    assert lease.valid(106.4) and not asks(lease), "neither released nor shortened"


def test_who_lost_it_by_its_own_clock_gets_it_back_under_another_epoch():
    world = held_by_a()
    world.passes = lambda sender, receiver, data: receiver != "a"
    world.run(6.0)
    assert not world.holders()
    world.passes = lambda sender, receiver, data: True
    world.command("a", Acquire(2))
    world.run(2.0)
    assert world.said("a")[-1] == LeaseGranted(2) and world.holders() == ["a"]


def test_a_late_answer_does_not_bring_back_what_was_released():
    lease, acquire = resolved_by_reading()
    lease.command(Release(), 101.5)
    lease.command(Acquire(2), 101.6)
    asks(lease)
    lease.answered(acquire.ticket, Granted(1, 6.0), 101.7)
    assert not lease.valid(101.7), "the witness may have given it to the other"


def test_a_late_answer_does_not_bring_back_what_another_has_by_now():
    lease, acquire = resolved_by_reading()
    lease.handle_deadline(103.1)
    lease.answered(asks(lease)[0].ticket, Held(2, "gw-b", 5.0), 103.2)
    assert list(lease.poll()) == [LeaseLost("the witness gave the lease to gw-b as epoch 2")]
    lease.command(Acquire(2), 103.3)
    lease.answered(acquire.ticket, Granted(1, 6.0), 103.4)
    assert not lease.valid(103.4)


# --- with the witness node ---------------------------------------------------------------------------------------------


def test_one_gets_it_the_other_waits_and_is_told_the_moment_it_is_released():
    world = held_by_a()
    world.command("b", Acquire(1))
    world.run(1.0)
    assert world.said("b")[0] == LeaseRefused(1, "gw-a")
    assert world.clients["b"].lease.standing(world.now) is Standing.OTHER
    world.command("a", Release())
    world.run(0.02)
    assert world.said("b")[-1] == LeaseGranted(2)
    assert world.holders() == ["b"]


def test_the_one_who_waits_is_told_the_moment_it_expires():
    world = held_by_a()
    world.command("b", Acquire(1))
    world.run(1.0)
    last = max(at for at, name, ask in world.asked if name == "a" and ask.operation is not Operation.READ)
    del world.clients["a"]
    world.run(10.0)
    ((at, event),) = [
        (at, event) for at, name, event in world.events if name == "b" and isinstance(event, LeaseGranted)
    ]
    assert event == LeaseGranted(2)
    assert TTL <= at - last < TTL + 0.02


def test_it_is_renewed_for_ever():
    world = held_by_a()
    world.run(1000.0)
    assert world.said("a") == [LeaseGranted(1)] and world.holders() == ["a"]


def test_a_cut_ends_it_at_the_holder_before_the_witness_gives_it_to_another():
    world = held_by_a()
    world.command("b", Acquire(1))
    world.run(1.0)
    world.passes = lambda sender, receiver, data: "a" not in (sender, receiver)
    world.run(10.0)
    times = {(name, type(event)): at for at, name, event in world.events}
    assert 0.5 <= times["b", LeaseGranted] - times["a", LeaseLost] <= 0.7, "the margin"


def test_a_break_takes_it_only_where_it_is_allowed_and_the_other_is_told_at_once():
    world = held_by_a()
    world.command("b", Break(1))
    world.run(0.5)
    assert world.said("b")[0] == LeaseRefused(1, "gw-a") and world.holders() == ["a"]
    world = held_by_a(break_allowed=True)
    world.command("b", Break(1))
    world.run(0.5)
    assert world.said("b") == [LeaseGranted(2, broken=True)]
    assert world.said("a")[-1] == LeaseLost("the witness gave the lease to gw-b as epoch 2")
    assert world.holders() == ["b"]


def test_a_lease_that_was_broken_is_known_as_that_though_it_was_given_up_and_asked_for_again_meanwhile():
    world = held_by_a(break_allowed=True)
    world.command("b", Break(1))
    world.command("b", Release())
    world.command("b", Acquire(1))
    world.run(0.5)
    assert world.said("b") == [LeaseGranted(2, broken=True)]


def test_after_a_restart_nothing_is_granted_for_the_longest_ttl_and_the_epoch_goes_on():
    world = held_by_a()
    del world.clients["a"]
    world.start_witness()
    restarted = world.now
    world.command("b", Acquire(1))
    world.run(TTL - 0.5)
    assert not world.holders()
    world.run(3.0)
    assert world.said("b")[-1] == LeaseGranted(2)
    granted = next(at for at, name, event in world.events if name == "b" and isinstance(event, LeaseGranted))
    assert granted - restarted >= TTL


def test_after_a_restart_the_holder_goes_on_renewing():
    world = held_by_a()
    world.start_witness()
    world.command("b", Acquire(1))
    world.run(60.0)
    assert world.said("a") == [LeaseGranted(1)] and world.holders() == ["a"]


def test_the_epoch_is_written_before_it_is_answered():
    world = LeaseWorld(disk=1e9)
    world.command("a", Acquire(1))
    world.run(3.0)
    assert not world.holders() and world.records == {}
    world.start_witness()
    world.disk = 0.0
    world.run(TTL + 3.0)
    assert world.holders() == ["a"] and world.records[7].epoch == world.clients["a"].lease.epoch


def test_what_cannot_be_written_is_not_granted_and_granted_as_soon_as_it_can():
    world = LeaseWorld()
    world.disk_full = True
    world.command("a", Acquire(1))
    world.run(10.0)
    assert not world.holders() and world.records == {}
    assert world.clients["a"].lease.problem == "the disk is full"
    assert world.witness is not None and world.witness.record(7).epoch == 0, "nothing was granted"
    world.disk_full = False
    world.run(3.0)
    assert world.holders() == ["a"] and world.records[7].epoch == world.clients["a"].lease.epoch


def test_a_break_that_cannot_be_written_takes_nothing_from_the_holder():
    world = held_by_a(break_allowed=True)
    world.disk_full = True
    world.command("b", Break(1))
    world.run(0.5)
    assert world.holders() == ["a"] and world.said("a") == [LeaseGranted(1)]
    world.run(30.0)
    assert world.said("a") == [LeaseGranted(1)], "it is renewed all the while"
    assert world.persists[1].taken_from == "gw-a" and len(world.persists) > 5
    assert world.witness is not None and world.witness.record(7).name == "gw-a"


def test_a_break_that_cannot_be_written_does_not_leave_a_lease_that_nobody_knows_of():
    """The holder is cut off while another tries to break it; a third must not get it before its time is over."""
    world = held_by_a(break_allowed=True)
    world.passes = lambda sender, receiver, data: "a" not in (sender, receiver)
    world.disk_full = True
    world.command("b", Break(1))
    world.run(0.5)
    world.disk_full = False
    world.command("b", Release())
    world.start("b")
    world.command("b", Acquire(1))
    while not world.clients["b"].lease.valid(world.now):
        world.run(0.01)
        assert len(world.holders()) <= 1
    assert world.said("b")[-1] == LeaseGranted(2), "not broken: it had been over"


def test_what_is_broken_says_whose_it_was():
    world = held_by_a(break_allowed=True)
    world.command("b", Break(1))
    world.run(0.5)
    assert [one.taken_from for one in world.persists] == [None, "gw-a"]
    tenure = world.witness.tenure(7) if world.witness is not None else None
    assert tenure is not None and (tenure.record.name, tenure.record.epoch) == ("gw-b", 2)
    assert world.now < tenure.expires_at <= world.now + TTL


def test_a_lease_of_a_longer_ttl_from_before_a_restart_is_waited_for():
    world = held_by_a()
    del world.clients["a"]
    world.settings = {7: ClusterSettings((SECRET,), 1.0, granted_before=TTL)}
    world.clients["b"].lease.ttl = 1.0
    world.start_witness()
    restarted = world.now
    world.command("b", Acquire(1))
    world.run(TTL + 2.0)
    granted = next(at for at, name, event in world.events if name == "b" and isinstance(event, LeaseGranted))
    assert granted - restarted >= TTL


def test_an_answer_leaves_from_where_it_was_asked():
    world = LeaseWorld()
    ours = Endpoint("192.0.2.9", 4781)
    assert world.witness is not None
    world.clients["a"].link.ask(Ask(1, Operation.READ, 0, TTL))
    for out in list(world.clients["a"].link.poll()):
        world.witness.receive(out.data, HOSTS["a"], world.now, ours)  # type: ignore[union-attr]
    (challenge,) = world.witness.poll()
    assert isinstance(challenge, Transmit) and (challenge.local, challenge.remote) == (ours, HOSTS["a"])


def test_a_ttl_above_the_longest_is_refused():
    world = LeaseWorld(ttl=60.0, longest=6.0)
    world.command("a", Acquire(1))
    world.run(1.0)
    assert world.clients["a"].lease.problem == "ttl above 6 s"


def test_a_release_that_comes_late_does_not_end_a_later_lease():
    world = held_by_a()
    held: list[bytes] = []
    world.passes = lambda sender, receiver, data: not (sender == "a" and not held and not held.append(data))
    world.command("a", Release())
    world.passes = lambda sender, receiver, data: True
    world.run(1.2)
    world.command("a", Acquire(1))
    world.run(0.5)
    assert world.holders() == ["a"]
    world.inject(held[0])
    world.run(3.0)
    assert world.holders() == ["a"]
    assert world.witness is not None and world.witness.rejected[Rejection.REPLAY] == 1


def test_recordings_of_a_process_that_is_gone_move_nothing():
    world = held_by_a()
    recorded = [data for sender, _, data in world.sent if sender == "a"]
    world.command("a", Release())
    world.run(0.1)
    world.start("a")
    world.start_witness(at=world.now - TTL)
    for _ in range(5):
        for data in recorded:
            world.inject(data)
        world.run(0.2)
    assert world.records[7].epoch == 1 and world.witness is not None
    world.command("b", Acquire(1))
    world.run(0.5)
    assert world.holders() == ["b"]
    assert world.witness.rejected[Rejection.UNKNOWN_BOOT] >= 5 * len(recorded)


def test_recorded_answers_move_nothing_at_the_gateway():
    world = held_by_a()
    recorded = [data for sender, receiver, data in world.sent if sender == "w" and receiver == "a"]
    world.command("a", Release())
    world.run(0.1)
    for data in recorded:
        world.clients["a"].link.receive(data)
        world._drain("a")
    assert not world.holders()
    assert sum(world.clients["a"].link.rejected.values()) == len(recorded)


def test_other_secrets_and_clusters_are_refused():
    world = held_by_a()
    assert world.witness is not None
    forged = LeaseMessage(Kind.RELEASE, bytes(16), 10**6, epoch=1)
    world.inject(seal(forged, keyring([b"another secret of 16"], 7)))
    world.inject(seal(forged, keyring([SECRET], 8)))
    world.inject(b"GWLS")
    assert world.witness.rejected[Rejection.BAD_MAC] == 2 and world.witness.rejected[Rejection.MALFORMED] == 1
    world.run(3.0)
    assert world.holders() == ["a"]


def test_both_restarting_again_and_again_do_not_fill_the_witness():
    world = LeaseWorld()
    for _ in range(30):
        world.start("a")
        world.start("b")
        world.run(0.5)
    assert world.witness is not None and len(world.witness._clusters[7].boots) <= 8


octets16, u64 = st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1)
thousandths = st.integers(0, 2**32 - 2).map(lambda count: count / 1000)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=32)


@given(
    st.builds(
        LeaseMessage,
        st.sampled_from(Kind),
        octets16,
        u64,
        octets16,
        u64,
        octets16,
        u64,
        st.sampled_from([0.0, 0.25, 6.0, 60.0]),
        st.none() | st.sampled_from([0.0, 1.5]),
        st.booleans(),
        texts,
        texts,
    )
)
def test_what_is_sealed_opens_to_the_same(message: LeaseMessage):
    assert open_(seal(message, KEYS), KEYS) == message


@given(st.binary(max_size=150))
def test_whatever_is_sealed_with_the_key_is_served_or_refused_and_never_raises(body: bytes):
    world = LeaseWorld()
    world.inject(KEYS.seal(bytes(16), 0, 1, body))
    world.clients["a"].link.receive(KEYS.seal(bytes(16), 0, 1, body))
    assert not world.holders()
