"""RFC 5880 6: one session against another, and against packets made by hand, on a virtual clock."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bfd_pair import DELAY, End, Pair, Seeded

from gateway.bfd.packet import ControlPacket, Diagnostic, State, emit, parse
from gateway.bfd.probing import Arm, Changed, Send, Verdict
from gateway.bfd.session import SLOW, TRANSITIONS, Session, SessionSettings

FAST, SLOWER = SessionSettings(0.05, 3), SessionSettings(0.3, 3)
DOWN = ControlPacket(State.DOWN, Diagnostic.NONE, 3, 0x22, 0, SLOW, 300_000)
KEYED = SessionSettings(0.3, 3, key=b"secret", key_id=9)


def up(a: SessionSettings = FAST, b: SessionSettings = FAST, seed: int = 1) -> Pair:
    """Two sessions that are Up, and through with their Poll Sequences."""
    pair = Pair(a, b, seed)
    pair.start()
    pair.until(lambda: pair.a.session.state is pair.b.session.state is State.UP)
    pair.run(3.0)
    return pair


def alone(settings: SessionSettings = SLOWER) -> Pair:
    """Only A; the test speaks for the peer by `say`."""
    pair = Pair(settings, settings)
    pair.do(pair.a, lambda session: session.path(True, pair.now))
    return pair


def say(pair: Pair, packet: ControlPacket) -> None:
    pair.deliver(pair.a, emit(packet))


def last(end: End) -> ControlPacket:
    return end.packets()[-1][1]


def bring_up(pair: Pair, **more: object) -> ControlPacket:
    """What the peer says when A is Up."""
    said = replace(DOWN, **more)  # type: ignore[arg-type]
    say(pair, said)
    said = replace(said, state=State.INIT, your_discriminator=0x11)
    say(pair, said)
    said = replace(said, state=State.UP)
    say(pair, said)
    assert pair.a.session.state is State.UP
    return said


# --- state machine ----------------------------------------------------------------------------------------------


def test_two_sessions_come_up_by_a_three_way_handshake() -> None:
    pair = up()
    assert pair.a.states[-1] == pair.b.states[-1] == "UP"
    assert pair.a.session.verdict is Verdict.UP
    assert all(states in (["INIT", "UP"], ["UP"]) for states in (pair.a.states, pair.b.states))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("received", State)
def test_rfc_5880_6_8_6_the_whole_state_table(state: State, received: State) -> None:
    pair = alone()
    session = pair.a.session
    say(pair, DOWN)
    session.state = state
    say(pair, replace(DOWN, state=received, your_discriminator=0x11))
    expected = {
        State.ADMIN_DOWN: dict.fromkeys(State, State.ADMIN_DOWN),
        State.DOWN: {State.ADMIN_DOWN: State.DOWN, State.DOWN: State.INIT, State.INIT: State.UP, State.UP: State.DOWN},
        State.INIT: {State.ADMIN_DOWN: State.DOWN, State.DOWN: State.INIT, State.INIT: State.UP, State.UP: State.UP},
        State.UP: {State.ADMIN_DOWN: State.DOWN, State.DOWN: State.DOWN, State.INIT: State.UP, State.UP: State.UP},
    }
    assert session.state is expected[state][received]
    if session.state is State.DOWN and state is not State.DOWN:
        assert session.diagnostic is Diagnostic.NEIGHBOR_SIGNALED_DOWN


def test_silence_ends_an_established_session_after_the_detection_time_and_says_why() -> None:
    pair = up()
    pair.b.cut = True
    heard = pair.b.sent[-1][0] + DELAY
    pair.until(lambda: pair.a.session.state is State.DOWN)
    assert pair.now - heard == pytest.approx(0.15, abs=0.002)
    assert pair.a.session.verdict is Verdict.DOWN
    told = last(pair.a)
    assert (told.state, told.diagnostic, told.your_discriminator) == (State.DOWN, Diagnostic.DETECTION_TIME_EXPIRED, 0)
    # The other end hears us still, and so learns of it at once
    pair.run(DELAY * 2)
    assert (pair.b.session.state, pair.b.session.diagnostic) == (State.DOWN, Diagnostic.NEIGHBOR_SIGNALED_DOWN)
    assert pair.b.changes[-1][1].reason == "the neighbor signaled down (detection time expired)"
    pair.b.cut = False
    pair.until(lambda: pair.a.session.state is pair.b.session.state is State.UP)
    assert pair.a.session.verdict is Verdict.UP
    assert pair.a.session.status().flaps == 1


def test_a_lost_packet_or_two_end_nothing() -> None:
    pair = up()
    for _ in range(20):
        pair.b.cut = pair.a.cut = True
        pair.run(0.045)
        pair.b.cut = pair.a.cut = False
        pair.run(0.1)
    assert pair.a.session.status().flaps == pair.b.session.status().flaps == 0


def test_rfc_5882_3_2_a_peer_that_is_administratively_down_has_not_failed() -> None:
    pair = up()
    pair.do(pair.b, lambda session: session.close(pair.now))
    pair.run(0.5)
    assert (pair.a.session.state, pair.a.session.verdict) == (State.DOWN, Verdict.UNKNOWN)
    assert last(pair.b).diagnostic is Diagnostic.ADMINISTRATIVELY_DOWN
    assert "administratively" in pair.a.changes[-1][1].reason


def test_a_failure_is_forgiven_when_the_peer_turns_out_to_be_administratively_down() -> None:
    pair = alone()
    said = bring_up(pair)
    pair.run(4)
    assert pair.a.session.verdict is Verdict.DOWN
    say(pair, replace(said, state=State.ADMIN_DOWN, your_discriminator=0))
    assert pair.a.session.verdict is Verdict.UNKNOWN


def test_a_session_never_up_has_no_verdict() -> None:
    pair = alone()
    pair.run(5)
    assert (pair.a.session.verdict, pair.a.changes) == (Verdict.UNKNOWN, [])


def test_a_path_that_goes_ends_the_session_without_waiting_and_nothing_more_is_sent() -> None:
    pair = up()
    pair.do(pair.a, lambda session: session.path(False, pair.now))
    assert (pair.a.session.diagnostic, pair.a.session.verdict) == (Diagnostic.PATH_DOWN, Verdict.DOWN)
    sent = len(pair.a.sent)
    pair.run(3)
    assert len(pair.a.sent) == sent
    assert pair.b.session.diagnostic is Diagnostic.DETECTION_TIME_EXPIRED
    pair.do(pair.a, lambda session: session.path(True, pair.now))
    pair.until(lambda: pair.a.session.state is pair.b.session.state is State.UP)


def test_what_an_earlier_program_missed_is_no_silence() -> None:
    """The probe says expired, but a packet that was told before already made it another program."""
    pair = alone()
    bring_up(pair)
    old = pair.a.armed
    assert old is not None
    say(pair, replace(DOWN, state=State.UP, your_discriminator=0x11, desired_min_tx=200_000))
    pair.do(pair.a, lambda session: session.expired(old.generation, pair.now))
    assert pair.a.session.state is State.UP


# --- timing -----------------------------------------------------------------------------------------------------


def test_rfc_5880_6_8_3_not_faster_than_a_second_until_up_then_as_negotiated() -> None:
    pair = Pair(FAST, SLOWER)
    pair.do(pair.a, lambda session: session.path(True, pair.now))
    pair.run(20)
    gaps = [b - a for (a, _), (b, _) in pairwise(pair.a.sent)]
    assert len(gaps) > 18
    assert all(0.75 <= gap <= 1.0 for gap in gaps)
    assert all(packet.desired_min_tx == SLOW for _, packet in pair.a.packets())
    pair.do(pair.b, lambda session: session.path(True, pair.now))
    pair.until(lambda: pair.a.session.state is pair.b.session.state is State.UP)
    pair.run(3)
    # The slower wins in both directions
    assert pair.a.session.interval == pair.b.session.interval == pytest.approx(0.3)
    assert pair.a.session.detection == pair.b.session.detection == pytest.approx(0.9)


@pytest.mark.parametrize(("multiplier", "longest"), [(1, 0.9), (2, 1.0), (3, 1.0)])
def test_rfc_5880_6_8_7_jitter(multiplier: int, longest: float) -> None:
    pair = up(replace(FAST, multiplier=multiplier), replace(FAST, multiplier=10))
    began = pair.now
    pair.run(20)
    times = [at for at, _ in pair.a.sent if at >= began]
    gaps = [(b - a) / 0.05 for a, b in pairwise(times)]
    assert len(gaps) > 300
    assert min(gaps) >= 0.75 - 1e-6
    assert max(gaps) <= longest + 1e-6
    assert max(gaps) - min(gaps) > 0.1


def test_the_detection_time_is_the_peers_multiplier_times_the_slower_interval() -> None:
    pair = alone(SessionSettings(0.1, 5))
    bring_up(pair, multiplier=4, desired_min_tx=50_000, required_min_rx=70_000)
    assert pair.a.session.detection == pytest.approx(0.4)
    say(pair, replace(DOWN, state=State.UP, your_discriminator=0x11, multiplier=2, desired_min_tx=250_000))
    assert pair.a.session.detection == pytest.approx(0.5)
    assert pair.a.armed is not None
    assert pair.a.armed.detection == pytest.approx(0.5)


def test_a_poll_is_answered_at_once_and_never_by_another_poll() -> None:
    pair = alone()
    said = bring_up(pair)
    say(pair, replace(said, poll=True))
    answer = last(pair.a)
    assert answer.final
    assert not answer.poll
    assert pair.a.sent[-1][0] == pair.now


def test_going_up_begins_a_poll_sequence_that_lasts_until_the_final() -> None:
    pair = alone()
    said = bring_up(pair)
    pair.run(0.7)
    say(pair, said)
    assert last(pair.a).poll
    assert last(pair.a).desired_min_tx == 300_000
    say(pair, replace(said, final=True))
    pair.run(0.4)
    assert not last(pair.a).poll


def test_rfc_5880_6_8_3_a_longer_interval_waits_for_the_end_of_the_poll_sequence() -> None:
    pair = alone(FAST)
    said = bring_up(pair, required_min_rx=50_000, desired_min_tx=50_000)
    say(pair, replace(said, final=True))
    pair.do(pair.a, lambda session: session.adopt(SLOWER, pair.now))
    assert pair.a.session.interval == pytest.approx(0.05)
    pair.run(0.06)
    assert (last(pair.a).poll, last(pair.a).desired_min_tx) == (True, 300_000)
    say(pair, replace(said, final=True))
    assert pair.a.session.interval == pytest.approx(0.3)


def test_rfc_5880_6_8_3_a_shorter_interval_to_receive_waits_too_but_not_one_to_send() -> None:
    pair = alone(SLOWER)
    said = bring_up(pair, required_min_rx=50_000, desired_min_tx=50_000)
    say(pair, replace(said, final=True))
    assert pair.a.session.detection == pytest.approx(0.9)
    pair.do(pair.a, lambda session: session.adopt(FAST, pair.now))
    assert pair.a.session.interval == pytest.approx(0.05)
    assert pair.a.session.detection == pytest.approx(0.9)
    say(pair, replace(said, final=True))
    assert pair.a.session.detection == pytest.approx(0.15)


def test_a_second_change_waits_for_a_packet_without_final() -> None:
    pair = alone(SLOWER)
    said = bring_up(pair, required_min_rx=50_000, desired_min_tx=50_000)  # its Poll Sequence goes on
    pair.do(pair.a, lambda session: session.adopt(FAST, pair.now))
    say(pair, replace(said, final=True))
    pair.run(0.06)
    assert not last(pair.a).poll
    say(pair, said)
    pair.run(0.06)
    assert last(pair.a).poll


def test_rfc_5880_6_8_7_nothing_is_sent_to_who_wants_nothing_but_polls_are_answered() -> None:
    pair = alone()
    said = bring_up(pair, required_min_rx=0)
    sent = len(pair.a.sent)
    for _ in range(4):
        pair.run(0.5)
        say(pair, said)
    assert len(pair.a.sent) == sent
    say(pair, replace(said, poll=True))
    assert last(pair.a).final


def test_rfc_5880_6_6_a_peer_in_demand_mode_gets_no_periodic_packets() -> None:
    pair = alone()
    said = bring_up(pair)
    say(pair, replace(said, final=True))
    say(pair, replace(said, demand=True))
    sent = len(pair.a.sent)
    for _ in range(4):
        pair.run(0.5)
        say(pair, replace(said, demand=True))
    assert len(pair.a.sent) == sent
    assert pair.a.session.state is State.UP


# --- what the probe is told -------------------------------------------------------------------------------------


def test_at_rest_the_cores_hear_of_nothing() -> None:
    pair = up()
    before = pair.a.punted, pair.b.punted, pair.a.armed
    pair.run(30)
    assert (pair.a.punted, pair.b.punted, pair.a.armed) == before
    assert len(pair.a.packets(pair.now - 10)) > 150


def test_news_from_the_peer_is_told_and_yet_a_sign_of_life() -> None:
    pair = up()
    armed = pair.a.armed
    assert armed is not None
    said = parse(armed.expected)
    for news in (
        replace(said, poll=True),
        replace(said, desired_min_tx=1),
        replace(said, diagnostic=Diagnostic.PATH_DOWN),
        replace(said, multiplier=9),
    ):
        assert emit(news) != armed.expected
        assert armed.counts(emit(news))
    for other in (
        replace(said, state=State.DOWN),
        replace(said, my_discriminator=5),
        replace(said, your_discriminator=5),
    ):
        assert not armed.counts(emit(other))


@given(st.integers(0, 2**16), st.floats(0.05, 1.0), st.floats(0.05, 1.0), st.integers(1, 5), st.integers(2, 5))
def test_any_two_settings_come_up_and_agree(seed: int, a: float, b: float, m: int, n: int) -> None:
    pair = up(SessionSettings(round(a, 3), m), SessionSettings(round(b, 3), n), seed)
    slower = max(round(a, 3), round(b, 3))
    for one, other in ((pair.a.session, pair.b.session), (pair.b.session, pair.a.session)):
        assert one.interval == pytest.approx(slower)
        assert one.detection == pytest.approx(slower * other.settings.multiplier)


packets = st.builds(
    ControlPacket,
    state=st.sampled_from(State),
    diagnostic=st.sampled_from(Diagnostic),
    multiplier=st.integers(1, 3),
    my_discriminator=st.sampled_from([0x22, 0x33]),
    your_discriminator=st.just(0x11),
    desired_min_tx=st.sampled_from([50_000, SLOW]),
    required_min_rx=st.sampled_from([0, 50_000, SLOW]),
    poll=st.booleans(),
    final=st.booleans(),
    demand=st.booleans(),
)


@given(st.lists(st.tuples(packets, st.floats(0, 1.5)), max_size=12))
def test_whatever_is_quiet_changes_nothing(history: list[tuple[ControlPacket, float]]) -> None:
    """After any history: the packet the probe swallows would have said nothing new."""
    pair = alone(FAST)
    for packet, pause in history:
        say(pair, packet)
        pair.run(pause)
        armed, session = pair.a.armed, pair.a.session
        assert armed is not None
        if armed.expected:
            before = (session.state, session.interval, session.detection, session.status(), armed)
            pair.do(pair.a, lambda session, armed=armed: session.receive(armed.expected, pair.now))  # type: ignore[misc]
            assert (session.state, session.interval, session.detection, session.status(), pair.a.armed) == before
        assert (armed.detection > 0) == (session.detection > 0)


def test_the_table_of_transitions_is_all_of_it() -> None:
    assert all(State.ADMIN_DOWN is not before for before, _ in TRANSITIONS)


# --- authentication ---------------------------------------------------------------------------------------------


def test_authenticated_sessions_come_up_with_a_new_number_in_every_packet() -> None:
    pair = up(KEYED, KEYED)
    pair.run(5)
    numbers = [packet.authentication.sequence for _, packet in pair.a.packets() if packet.authentication]
    assert len(numbers) == len(pair.a.sent)
    assert all((b - a) % 2**32 == 1 for a, b in pairwise(numbers))
    assert pair.a.session.refused == {}
    assert pair.a.session.status().flaps == 0


def test_an_authenticated_session_measures_the_silence_itself() -> None:
    pair = up(KEYED, KEYED)
    pair.b.cut = True
    heard = pair.b.sent[-1][0] + DELAY
    pair.until(lambda: pair.a.session.state is State.DOWN)
    assert 0.9 <= pair.now - heard <= 0.93
    pair.b.cut = False
    pair.until(lambda: pair.a.session.state is pair.b.session.state is State.UP)


@pytest.mark.parametrize(
    "other",
    [replace(KEYED, key=b"other"), replace(KEYED, key_id=8), replace(KEYED, key=None)],
    ids=["key", "id", "none"],
)
def test_who_does_not_have_the_key_is_not_heard(other: SessionSettings) -> None:
    pair = Pair(KEYED, other)
    pair.start()
    pair.run(10)
    assert pair.a.changes == pair.b.changes == []
    assert pair.a.session.refused.total() > 5


def test_a_recorded_packet_is_worthless_and_so_is_one_from_far_ahead() -> None:
    pair = up(KEYED, KEYED)
    recorded = [data for _, data in pair.b.sent][-10:]
    for data in recorded:
        pair.deliver(pair.a, data)
    assert pair.a.session.refused == {"sequence": 10}
    pair.b.session._sequence += 10
    pair.do(pair.b, lambda session: session.handle_deadline(session.next_deadline() or 0.0))
    pair.run(DELAY * 2)
    assert pair.a.session.refused == {"sequence": 11}


def test_a_number_is_believed_only_with_its_hash() -> None:
    pair = up(KEYED, KEYED)
    known = pair.a.session._sequence_seen
    assert known is not None
    forged = bytearray(pair.b.sent[-1][1])
    forged[28:32] = ((known + 3) % 2**32).to_bytes(4, "big")
    pair.deliver(pair.a, bytes(forged))
    assert pair.a.session.refused["hash"] == 1
    assert pair.a.session._sequence_seen == known


def test_rfc_5880_6_8_1_a_peer_that_restarted_with_other_numbers_is_heard_again_after_twice_the_detection_time() -> (
    None
):
    pair = up(KEYED, KEYED)
    pair.do(pair.b, lambda session: session.path(False, pair.now))
    pair.b.session = Session(KEYED, 0x33, Seeded(99))
    pair.b.send_at = None
    pair.do(pair.b, lambda session: session.path(True, pair.now))
    took = pair.until(lambda: pair.a.session.state is pair.b.session.state is State.UP, 20)
    assert took < 6


def test_the_sequence_number_wraps() -> None:
    pair = Pair(KEYED, KEYED)
    pair.a.session._sequence = 2**32 - 4
    pair.start()
    pair.run(12)
    assert pair.b.session.state is State.UP
    assert pair.b.session.refused == {}
    assert pair.b.session._sequence_seen is not None
    assert pair.b.session._sequence_seen < 1000


def test_effects_are_the_contract() -> None:
    session = Session(SLOWER, 7, Seeded(1))
    assert list(session.poll()) == []
    session.receive(emit(DOWN), 1.0)
    session.path(True, 1.0)
    first, *rest = session.poll()
    assert isinstance(first, Arm)
    assert first.at_once
    assert rest == []
    session.receive(emit(replace(DOWN, poll=True)), 2.0)
    assert [type(effect) for effect in session.poll()] == [Changed, Send, Arm]
