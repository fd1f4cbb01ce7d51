"""What the simulator of the pair is worth: a gateway or a witness with one defect is caught within 200 schedules."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from simulation.ha_schedules import play
from simulation.mutations import Mutation, catch, ladder_that_replays

from gateway.ha.election import Election
from gateway.ha.heartbeat import Heartbeat, PeerDown
from gateway.ha.message import Level
from gateway.ha.pair import Pair
from gateway.ha.peer_view import PeerView
from gateway.ha.sightings import Sightings
from gateway.ha.witness import Lease
from gateway.ha.witness_node import WitnessNode


def _promote_on_silence(patch: pytest.MonkeyPatch) -> None:
    """The dead timer alone permits, and what it is called does not matter."""
    permitted, obstacle = Election._permitted, Election._peer_obstacle
    patch.setattr(Election, "_permitted", lambda self, now: permitted(self, now) or self._peer.dead(now))
    patch.setattr(Election, "_peer_obstacle", lambda self, now: "" if self._peer.dead(now) else obstacle(self, now))


def _count_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lease, "_until_of", lambda self, asked, answer, now: now + answer.ttl - self.margin)


def _no_margin_and_late(patch: pytest.MonkeyPatch) -> None:
    """The lease is taken to last a little longer than it does."""
    patch.setattr(Lease, "_until_of", lambda self, asked, answer, now: asked.sent_at + answer.ttl * 1.2)


def _no_look_at_the_clock(patch: pytest.MonkeyPatch) -> None:
    """After a stand-still it goes on with what it finds in its sockets."""
    patch.setattr(Pair, "_begin", lambda self, now: None)


def _break_the_epoch_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WitnessNode, "_epoch_for", lambda self, cluster, request: max(cluster.record.epoch, 1))


def _forget_who_had_it(patch: pytest.MonkeyPatch) -> None:
    """A witness that has just started grants at once."""
    patch.setattr(WitnessNode, "_just_started", lambda self, cluster, now: False)


def _consent_and_claim(patch: pytest.MonkeyPatch) -> None:
    """Without a witness: it consents, and goes on asking for itself."""
    consent, obstacle = Election._consent, Election._peer_obstacle

    def careless(self: Any, now: float) -> None:
        claim = self._claim
        consent(self, now)
        self._claim = claim

    def blind(self: Any, now: float) -> str:
        found = obstacle(self, now)
        return "" if found.startswith("it consented") else found

    patch.setattr(Election, "_consent", careless)
    patch.setattr(Election, "_peer_obstacle", blind)
    patch.setattr(Election, "_rank", property(lambda self: (0, 0, "")))
    patch.setattr(Election, "_note_who_goes_first", lambda self, now: None)


def _overrule_the_user(patch: pytest.MonkeyPatch) -> None:
    """Without a witness silence promotes, though the user said that it does not."""
    permitted, obstacle = Election._permitted, Election._peer_obstacle

    def lone(self: Any, now: float) -> bool:
        return not self._settings.witness and bool(self._peer.dead(now))

    patch.setattr(Election, "_permitted", lambda self, now: permitted(self, now) or lone(self, now))
    patch.setattr(Election, "_peer_obstacle", lambda self, now: "" if lone(self, now) else obstacle(self, now))


def _lower_too_early(patch: pytest.MonkeyPatch) -> None:
    """The old active attracts no more as soon as it has offered."""
    whole = Election._offer

    def offer(self: Any, reason: str, now: float) -> None:
        whole(self, reason, now)
        self._attract(Level.STANDBY, reason)

    patch.setattr(Election, "_offer", offer)


def _ignore_higher_epochs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Election, "_overtaken", property(lambda self: False))


def _stay_took_over(patch: pytest.MonkeyPatch) -> None:
    whole = Election._attract

    def attract(self: Any, level: Level, reason: str) -> None:
        if self.level is not Level.TOOK_OVER or level is Level.STANDBY:
            whole(self, level, reason)

    patch.setattr(Election, "_attract", attract)


def _never_hear_silence(patch: pytest.MonkeyPatch) -> None:
    """What the dead timer says is not listened to."""
    whole = PeerView.receive
    patch.setattr(PeerView, "receive", lambda self, e, now: None if isinstance(e, PeerDown) else whole(self, e, now))


def _forget_a_timer(patch: pytest.MonkeyPatch) -> None:
    """The heartbeat asks to be woken for a death and does nothing about it."""
    patch.setattr(Heartbeat, "_bury", lambda self, now: None)


def _believe_any_mark(patch: pytest.MonkeyPatch) -> None:
    """Whatever is announced is known from then on."""
    whole = Sightings.note
    elections = weakref.WeakKeyDictionary[Sightings, Election]()
    command = Election.command

    def remember(self: Election, what: Any, now: float) -> None:
        elections[self.sightings] = self
        command(self, what, now)

    def note(self: Sightings, mark: int, known: int, now: float) -> None:
        whole(self, mark, known, now)
        elections[self]._learn(self.highest)

    patch.setattr(Election, "command", remember)
    patch.setattr(Sightings, "note", note)


def _forget_what_was_announced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sightings, "note", lambda self, mark, known, now: None)


def _go_on_beside_a_higher_epoch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sightings, "outdo", lambda self, acting, settings, peer: False)


MUTATIONS: dict[str, Mutation] = {
    "promote on silence": Mutation(
        _promote_on_silence, "without a valid lease|though the other is silent|not granted to it"
    ),
    "count the lease from the answer": Mutation(_count_from_the_answer, "act at the same time"),
    "take the lease for longer than it is": Mutation(_no_margin_and_late, "act at the same time"),
    "no look at the clock after a pause": Mutation(_no_look_at_the_clock, "without a valid lease"),
    "break the epoch order": Mutation(_break_the_epoch_order, "again, or a lower one|epochs go back"),
    "a witness that grants at once": Mutation(_forget_who_had_it, "act at the same time"),
    "consent and claim": Mutation(_consent_and_claim, "act at the same time|epochs go back"),
    "overrule the user": Mutation(_overrule_the_user, "though the other is silent"),
    "lower the level too early": Mutation(_lower_too_early, "nobody attracts"),
    "ignore higher epochs": Mutation(_ignore_higher_epochs, "not exactly one active|nobody attracts|not the only one"),
    "stay at took-over": Mutation(_stay_took_over, "its level is TOOK_OVER|not the only one"),
    "never hear silence": Mutation(_never_hear_silence, "not exactly one active"),
    "believe any mark": Mutation(_believe_any_mark, "a mark that anybody may write"),
    "forget what was announced": Mutation(_forget_what_was_announced, "and was told of"),
    "go on beside a higher epoch": Mutation(_go_on_beside_a_higher_epoch, "one that is silent acts under"),
    "forget a timer": Mutation(_forget_a_timer, "again and again at one instant"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_pair_with_a_defect_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    mutation.apply(monkeypatch)
    catch(mutation, play)


def test_a_failure_prints_a_ladder_and_replays_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    _lower_too_early(monkeypatch)
    seed, first = ladder_that_replays(play)
    assert f"SIM_SEED={seed} pytest tests/simulation/test_ha_mutations.py" in first
    for shown in ("=== ACTIVE -> DRAINING", "hands over to gw-", "level STANDBY", "peer up", "--- switchover ---"):
        assert shown in first
    times = [float(line.split()[0]) for line in first.splitlines()[3:] if not line.startswith("...")]
    assert times == sorted(times) and len(times) > 10
