"""What the simulator of the moving address is worth: a gateway with one defect is caught within 200 schedules."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from simulation.move_plan import MovePlan
from simulation.move_schedules import GRANT, MoveSchedule, perform, play
from simulation.move_world import MoveWorld
from simulation.mutations import Mutation, catch, ladder_that_replays
from simulation.plane import LightDataPlane

from gateway.ha.replica import Holder, Source
from gateway.ike import keeping as ike_keeping
from gateway.node import keeping
from gateway.node.installed import InstalledChild
from gateway.node.replication import Replication

TWICE = "used GCM IV|used message ID"


def _no_fence(patch: pytest.MonkeyPatch) -> None:
    """The workers ask nobody."""
    patch.setattr(LightDataPlane, "move_fence", lambda self, until: setattr(self, "_fence", inf))


def _wait_for_nobody(patch: pytest.MonkeyPatch) -> None:
    """What depends on a record is done at once."""
    patch.setattr(Source, "settled", lambda self, number, now: True)


def _wait_half_as_long(patch: pytest.MonkeyPatch) -> None:
    """A standby that is silent is given up before its copy is."""
    whole = Source.pinged

    def pinged(self: Source, ping: Any, now: float) -> None:
        whole(self, ping, now)
        self.until = now + ping.lasts / 2

    patch.setattr(Source, "pinged", pinged)


def _any_epoch(patch: pytest.MonkeyPatch) -> None:
    """Whoever was active in between."""
    patch.setattr(Holder, "fit", lambda self, epoch, now: self.copy.contents if now < self.copy.until else {})


def _any_age(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Holder, "fit", lambda self, epoch, now: self.copy.contents if epoch == self.copy.epoch + 1 else {})


def _from_the_last_reading(patch: pytest.MonkeyPatch) -> None:
    """Sequence numbers go on where the other gateway was seen last, not above all it may have used."""

    def entered(*args: Any, sent: int, **others: Any) -> InstalledChild:
        return InstalledChild(*args, sent=max(0, sent - GRANT), **others)

    patch.setattr(keeping, "InstalledChild", entered)


def _ivs_from_the_copy(patch: pytest.MonkeyPatch) -> None:
    """IKE seals on with the IVs after those in the copy."""
    whole = ike_keeping.resume
    patch.setattr(ike_keeping, "resume", lambda *args, renew: whole(*args, renew=False))


def _after_the_lease(patch: pytest.MonkeyPatch) -> None:
    """What was held back leaves though the lease is over."""

    def carry(self: Any, now: float) -> None:
        fence, self._fence = self._fence, inf
        whole(self, now)
        self._fence = fence

    whole = Replication._carry
    patch.setattr(Replication, "_carry", carry)


def _old_copies(seed: int) -> MoveWorld:
    """What stands still with something held back is rare among all schedules."""
    return perform(MoveSchedule(seed, MovePlan(), "calm", "slow", ("old copy",)))


MUTATIONS: dict[str, Mutation] = {
    "no fence": Mutation(_no_fence, "without a lease"),
    "wait for nobody": Mutation(_wait_for_nobody, TWICE),
    "wait half as long": Mutation(_wait_half_as_long, TWICE),
    "a copy of any epoch": Mutation(_any_epoch, TWICE),
    "a copy of any age": Mutation(_any_age, TWICE),
    "from the last reading": Mutation(_from_the_last_reading, TWICE),
    "what was held leaves after the lease": Mutation(_after_the_lease, "without a lease"),
}
PLAYS = {"what was held leaves after the lease": _old_copies}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_gateway_with_a_defect_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    mutation.apply(monkeypatch)
    catch(mutation, PLAYS.get(name, play))


def test_a_failure_prints_a_ladder_and_replays_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_fence(monkeypatch)
    seed, first = ladder_that_replays(play)
    assert f"SIM_SEED={seed} pytest tests/simulation/test_move_mutations.py" in first
    for shown in ("ha-active: ", "ike-established: ", "--- "):
        assert shown in first
