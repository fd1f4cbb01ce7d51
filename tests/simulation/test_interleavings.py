"""Two exchanges at once, explored: whatever the order of their messages, one IKE_SA and the wanted CHILD_SAs are left, the
same on both ends, and no inner packet was lost on the way.

Every pair of exchanges from either side in every order; the named collisions also with any one message lost. `make test-slow`
loses any one of every pair's, or has it come late, and the collisions with both. A failure prints its moves and the ladder.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest
from simulation.interleavings import COMMANDS, MAIN, Command, explore
from simulation.scenario import Plan

PAIRS = tuple(combinations_with_replacement(COMMANDS, 2))
KE_INVALID = Plan(children=(MAIN,), groups=(("ecp256", "ecp384"), ("ecp384",)))
"""`b` takes another group than the one `a` begins with."""
MULTI_KE = Plan(children=(MAIN,), further="-ke1_mlkem768")
"""Each rekey goes on with an IKE_FOLLOWUP_KE (RFC 9370)."""

# As strongSwan's exchange tests name them
SCENARIOS: dict[str, tuple[tuple[Command, ...], Plan | None]] = {
    "child_rekey-regular": ((Command("CHILD rekey", "a"),), None),
    "child_rekey-ke_invalid": ((Command("CHILD rekey", "a"),), KE_INVALID),
    "child_rekey-responder_delete": ((Command("CHILD rekey", "a"), Command("CHILD delete", "b")), None),
    "child_rekey-collision": ((Command("CHILD rekey", "a"), Command("CHILD rekey", "b")), None),
    "child_rekey-collision_ke_invalid": ((Command("CHILD rekey", "a"), Command("CHILD rekey", "b")), KE_INVALID),
    "child_rekey-collision_ike_rekey": ((Command("CHILD rekey", "a"), Command("IKE rekey", "b")), None),
    "child_rekey-collision_ike_delete": ((Command("CHILD rekey", "a"), Command("IKE delete", "b")), None),
    "child_delete-collision": ((Command("CHILD delete", "a"), Command("CHILD delete", "b")), None),
    "ike_rekey-regular": ((Command("IKE rekey", "a"),), None),
    "ike_rekey-responder_delete": ((Command("IKE rekey", "a"), Command("IKE delete", "b")), None),
    "ike_rekey-collision": ((Command("IKE rekey", "a"), Command("IKE rekey", "b")), None),
    "child_rekey-multi_ke": ((Command("CHILD rekey", "a"),), MULTI_KE),
    "child_rekey-collision_multi_ke": ((Command("CHILD rekey", "a"), Command("CHILD rekey", "b")), MULTI_KE),
    "ike_rekey-multi_ke": ((Command("IKE rekey", "a"),), MULTI_KE),
    "ike_rekey-collision_multi_ke": ((Command("IKE rekey", "a"), Command("IKE rekey", "b")), MULTI_KE),
    "child_rekey-collision_ike_rekey_multi_ke": ((Command("CHILD rekey", "a"), Command("IKE rekey", "b")), MULTI_KE),
    "ike_delete-collision": ((Command("IKE delete", "a"), Command("IKE delete", "b")), None),
}
LONG = tuple(name for name in SCENARIOS if "collision" in name and ("multi" in name or "invalid" in name))
"""Six messages each and more: every order, but nothing lost, and in `make test-slow` only."""


def name(pair: tuple[Command, ...]) -> str:
    return " + ".join(map(str, pair))


@pytest.mark.parametrize("pair", PAIRS, ids=name)
def test_two_exchanges_at_once_in_every_order(pair: tuple[Command, ...]) -> None:
    found = explore(pair)
    assert not found.failure, found.failure
    assert found.orders >= 1 and len(found.places) > 5


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in LONG])
def test_collisions_with_any_one_message_lost(scenario: str) -> None:
    commands, plan = SCENARIOS[scenario]
    found = explore(commands, lose=1, plan=plan)
    assert not found.failure, found.failure
    assert len(found.places) > 10


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_collisions_with_any_one_message_lost_and_any_one_late(scenario: str) -> None:
    commands, plan = SCENARIOS[scenario]
    faults = {} if scenario in LONG else {"lose": 1, "delay": 1}
    found = explore(commands, plan=plan, **faults)
    assert not found.failure, found.failure


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("pair", PAIRS, ids=name)
def test_two_exchanges_at_once_with_any_one_message_lost(pair: tuple[Command, ...], seed: int) -> None:
    """The nonces, and with them who wins, are others with each seed."""
    found = explore(pair, lose=1, seed=seed)
    assert not found.failure, found.failure


@pytest.mark.slow
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[0].node != pair[1].node], ids=name)
def test_two_exchanges_from_both_sides_with_any_one_message_late(pair: tuple[Command, ...]) -> None:
    found = explore(pair, delay=1, seed=3)
    assert not found.failure, found.failure
