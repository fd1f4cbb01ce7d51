"""The RIBs as such, and the pacing that ExaBGP's queue needs."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from gateway.bgp.path import Announcement, Attributes, Path
from gateway.bgp.rib import REJECTED_KEPT, AdjRibIn, AdjRibOut, Best, Candidate, LocRib
from gateway.bgp.settings import Prefix

HOP = ip_address("192.0.2.1")
PREFIXES = [ip_network(f"10.{number}.0.0/16") for number in range(4)]
P = PREFIXES[0]


def path(prefix: Prefix, med: int = 0) -> Path:
    return Path(prefix, "a", "", HOP, Attributes(med=med), HOP, 65010, True)


def put(rib: AdjRibIn, one: Path, rejected: str) -> bool:
    return rib.put(one, one, rejected)


def announcement(med: int) -> Announcement:
    return Announcement(HOP, (65001,), med=med)


def test_rejected_paths_are_remembered_up_to_a_bound_and_never_candidates() -> None:
    rib = AdjRibIn()
    prefixes = [ip_network((0x0A000000 + number * 256, 24)) for number in range(REJECTED_KEPT + 5)]
    kept = [put(rib, path(prefix), "martian") for prefix in prefixes]
    assert kept.count(True) == REJECTED_KEPT == len(rib.entries)
    assert rib.accepted == 0
    assert rib.candidate(prefixes[0]) is None
    assert put(rib, path(P), "")
    assert rib.accepted == 1


def test_a_new_policy_judges_each_path_when_it_is_asked_for_and_only_once() -> None:
    rib, judged = AdjRibIn(), []

    def judge(one: Path) -> tuple[Path, str]:
        judged.append(one.prefix)
        return one, "martian" if one.prefix == PREFIXES[0] else ""

    for prefix in PREFIXES[:3]:
        put(rib, path(prefix), "")
    rib.judge_again(judge)
    assert judged == []
    assert rib.candidate(PREFIXES[0]) is None
    assert rib.candidate(PREFIXES[0]) is None
    put(rib, path(PREFIXES[1], med=7), "")  # judged by whoever puts it
    rib.remove(PREFIXES[2])
    assert rib.candidate(PREFIXES[1]) is not None
    assert rib.candidate(PREFIXES[2]) is None
    assert judged == [PREFIXES[0]]
    assert rib.accepted == 1


def test_a_fresh_path_is_not_swept_and_a_stale_one_is() -> None:
    rib = AdjRibIn()
    for prefix in PREFIXES[:3]:
        put(rib, path(prefix), "")
    rib.mark_stale(lost=True)
    candidate = rib.candidate(PREFIXES[0])
    assert candidate is not None
    assert candidate.lost
    put(rib, path(PREFIXES[0]), "")
    rib.confirm(PREFIXES[1])
    fresh = rib.candidate(PREFIXES[0])
    assert fresh is not None
    assert not fresh.lost
    assert rib.sweep() == [PREFIXES[2]]
    assert set(rib.entries) == set(PREFIXES[:2])
    assert rib.accepted == 2
    assert not rib.lost


def test_a_stale_path_of_a_living_session_is_not_disadvantaged() -> None:
    rib = AdjRibIn()
    put(rib, path(P), "")
    rib.mark_stale(lost=False)
    candidate = rib.candidate(P)
    assert candidate is not None
    assert not candidate.lost


def test_what_the_new_session_repeated_is_not_disadvantaged_by_a_later_doubt() -> None:
    """A session went down and up; then ExaBGP is asked anew. Only what the new session has not repeated is lost."""
    rib = AdjRibIn()
    for prefix in PREFIXES[:2]:
        put(rib, path(prefix), "")
    rib.mark_stale(lost=True)
    put(rib, path(PREFIXES[0]), "")
    rib.mark_stale(lost=False)
    assert [rib.candidate(prefix) for prefix in PREFIXES[:2]] == [
        Candidate(path(PREFIXES[0]), False), Candidate(path(PREFIXES[1]), True)
    ]  # fmt: skip
    assert rib.stale == set(PREFIXES[:2])


def test_the_loc_rib_tells_a_new_path_from_a_new_reason_and_from_new_company() -> None:
    rib = LocRib()
    assert rib.replace(P, Best(path(P), "only path")) == (True, True)
    assert rib.replace(P, Best(path(P), "lower MED")) == (False, False)
    assert rib.best[P].reason == "lower MED"
    assert rib.replace(P, Best(path(P), "lower MED", (path(P, 1),))) == (False, True)
    assert rib.replace(P, Best(path(P), "lower MED", (), path(P, 1))) == (False, True)
    assert rib.replace(P, Best(path(P, 1), "lower MED")) == (True, True)
    assert rib.replace(P, None) == (True, True)
    assert rib.replace(P, None) == (False, False)


def test_only_the_latest_wish_is_sent() -> None:
    rib = AdjRibOut(0.25)
    for med in (1, 2, 3):
        rib.want(P, announcement(med))
    assert rib.next() == (P, announcement(3))
    assert rib.next() is None


def test_a_wish_taken_back_before_it_was_sent_is_never_sent() -> None:
    rib = AdjRibOut(0.25)
    rib.want(P, announcement(1))
    rib.want(P, None)
    assert rib.next() is None
    assert rib.settled


def test_a_second_command_for_a_prefix_waits_for_the_answer_and_the_spacing() -> None:
    rib = AdjRibOut(0.25)
    rib.want(P, announcement(1))
    assert rib.next() == (P, announcement(1))
    rib.want(P, None)
    rib.release(100.0)
    assert rib.next() is None
    assert rib.next_release() is None
    assert not rib.settled
    rib.answered(P, 200.0)
    assert rib.next_release() == 200.25
    rib.release(200.2)
    assert rib.next() is None
    rib.release(200.25)
    assert rib.next() == (P, None)
    rib.answered(P, 201.0)
    assert rib.settled
    assert rib.next_release() is None


def test_what_exabgp_still_announces_and_nobody_wants_is_withdrawn() -> None:
    rib = AdjRibOut(0.25)
    rib.want(P, announcement(1))
    rib.found(P)
    rib.found(PREFIXES[1])
    assert {rib.next(), rib.next()} == {(P, announcement(1)), (PREFIXES[1], None)}
    assert rib.next() is None


def test_after_doubt_everything_is_said_again() -> None:
    rib = AdjRibOut(0.0)
    rib.want(P, announcement(1))
    assert rib.next() is not None
    rib.answered(P, 1.0)
    rib.release(1.0)
    rib.doubt_sent()
    assert rib.next() == (P, announcement(1))
    rib.forget_sent()
    assert rib.next() == (P, announcement(1))


class ExabgpQueue:
    """ExaBGP 5.0.15's outgoing queue (rib/outgoing.py): grouped by attributes in the order the groups were first seen."""

    def __init__(self) -> None:
        self.groups: dict[Announcement | None, dict[Prefix, None]] = {}
        self.cache: dict[Prefix, Announcement] = {}
        self.peer: dict[Prefix, Announcement] = {}

    def command(self, prefix: Prefix, wish: Announcement | None) -> None:
        if wish is not None and self.cache.get(prefix) == wish:
            return
        self.groups.setdefault(wish, {})[prefix] = None
        if wish is None:
            self.cache.pop(prefix, None)
        else:
            self.cache[prefix] = wish

    def flush(self) -> None:
        for wish, prefixes in self.groups.items():
            for prefix in prefixes:
                if wish is None:
                    self.peer.pop(prefix, None)
                else:
                    self.peer[prefix] = wish
        self.groups.clear()


WISHES = st.lists(
    st.tuples(st.sampled_from(PREFIXES), st.none() | st.integers(1, 2), st.sampled_from([0.0, 0.01, 0.1, 0.3])),
    max_size=40,
)


def converse(wishes: list[tuple[Prefix, int | None, float]], spacing: float) -> tuple[AdjRibOut, ExabgpQueue]:
    """Commands are answered at once; the queue is flushed every 0.2 s."""
    rib, queue = AdjRibOut(spacing), ExabgpQueue()
    now, flush_at = 0.0, 0.2
    for prefix, med, pause in [*wishes, *[(P, rib.wanted.get(P), 1.0)] * 2]:
        if pause < 1.0:
            rib.want(prefix, None if med is None else announcement(med))
        end = now + pause
        while True:
            rib.release(now)
            while (item := rib.next()) is not None:
                queue.command(*item)
                rib.answered(item[0], now)
            step = min(flush_at, rib.next_release() or end, end)
            if step >= end:
                break
            now = max(now, step)
            if now >= flush_at:
                queue.flush()
                flush_at = now + 0.2
        now = end
    queue.flush()
    return rib, queue


@given(WISHES)
def test_commands_through_exabgps_reordering_queue_end_as_wished(
    wishes: list[tuple[Prefix, int | None, float]],
) -> None:
    rib, queue = converse(wishes, 0.25)
    assert rib.settled or rib.spacing == 0
    assert queue.peer == rib.wanted


def test_without_spacing_the_queue_does_get_it_wrong() -> None:
    """The measured case: withdraw P2, announce P, withdraw P leaves P announced. So the model has teeth."""
    start = [(PREFIXES[1], 1, 0.3)]
    _, queue = converse([*start, (PREFIXES[1], None, 0.0), (P, 2, 0.0), (P, None, 0.0)], 0.0)
    naive = ExabgpQueue()
    for prefix, wish in ((PREFIXES[1], None), (P, announcement(2)), (P, None)):
        naive.command(prefix, wish)
    naive.flush()
    assert naive.peer == {P: announcement(2)}
    assert queue.cache == {}


def test_a_full_budget_holds_back_who_came_last_and_lets_them_in_by_turns() -> None:
    rib = AdjRibOut(0.25)
    rib.limit(2)
    for prefix in PREFIXES:
        rib.want(prefix, announcement(1))
    assert (list(rib.wanted), list(rib.held)) == (PREFIXES[:2], PREFIXES[2:])
    rib.want(PREFIXES[2], announcement(2))  # who is held and changes goes to the end of the queue
    rib.want(PREFIXES[0], None)
    assert (list(rib.wanted), list(rib.held)) == ([PREFIXES[1], PREFIXES[3]], [PREFIXES[2]])
    rib.want(PREFIXES[2], None)
    assert not rib.held
    rib.limit(1)
    assert (list(rib.wanted), list(rib.held)) == ([PREFIXES[1]], [PREFIXES[3]])
    rib.limit(0)
    assert set(rib.wanted) == {PREFIXES[1], PREFIXES[3]} and not rib.held


def test_what_is_essential_displaces_what_is_not() -> None:
    rib = AdjRibOut(0.25)
    rib.limit(2)
    rib.want(PREFIXES[0], announcement(1), essential=True)
    rib.want(PREFIXES[1], announcement(1))
    rib.want(PREFIXES[2], announcement(1), essential=True)
    assert (set(rib.wanted), set(rib.held)) == ({PREFIXES[0], PREFIXES[2]}, {PREFIXES[1]})
    rib.want(PREFIXES[3], announcement(1), essential=True)
    assert set(rib.held) == {PREFIXES[1], PREFIXES[3]}, "never more than the budget, whatever it is"
    sent = {item[0] for item in iter(rib.next, None)}
    assert sent == {PREFIXES[0], PREFIXES[2]}
