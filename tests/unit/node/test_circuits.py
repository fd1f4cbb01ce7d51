"""Private circuits: the first verdict and every failure count at once, what failed must prove itself for a while."""

from __future__ import annotations

from gateway.node.circuits import Circuits
from gateway.node.effects import Event
from gateway.routing.model import Liveness, ViaCircuit

SITE = ViaCircuit("site")


def said(circuits: Circuits) -> list[bool]:
    """What the FIB was told; people are told the same."""
    effects = list(circuits.poll())
    verdicts = [effect.works for effect in effects if isinstance(effect, Liveness)]
    assert all(effect.target == SITE for effect in effects if isinstance(effect, Liveness))
    names = [effect.event for effect in effects if isinstance(effect, Event)]
    assert names in ([], ["circuit-up" if works else "circuit-down" for works in verdicts])
    return verdicts


def made() -> Circuits:
    circuits = Circuits()
    circuits.adopt({"site": 10.0})
    return circuits


def test_the_first_verdict_counts_at_once() -> None:
    circuits = made()
    assert (circuits.state("site"), circuits.state("other")) == ("down", "")
    circuits.verdict("site", True, 1.0)
    assert said(circuits) == [True]
    assert circuits.state("site") == "up"


def test_what_failed_is_handed_back_after_a_while_of_working_without_a_break() -> None:
    circuits = made()
    for at, works in ((1.0, True), (2.0, False), (3.0, True)):
        circuits.verdict("site", works, at)
    assert said(circuits) == [True, False]
    circuits.handle_deadline(9.0)
    circuits.verdict("site", False, 10.0)
    circuits.handle_deadline(13.0)
    assert said(circuits) == []
    assert circuits.next_deadline() is None
    circuits.verdict("site", True, 14.0)
    assert circuits.next_deadline() == 24.0
    circuits.verdict("site", True, 20.0)
    circuits.handle_deadline(24.0)
    assert said(circuits) == [True]


def test_without_a_hold_it_is_handed_back_at_once() -> None:
    circuits = made()
    circuits.adopt({"site": 0.0})
    for at, works in ((1.0, True), (2.0, False), (3.0, True)):
        circuits.verdict("site", works, at)
    assert said(circuits) == [True, False, True]


def test_one_that_is_asked_about_elsewhere_has_proved_nothing() -> None:
    circuits = made()
    circuits.verdict("site", True, 1.0)
    assert said(circuits) == [True]
    circuits.forget("site")
    assert said(circuits) == [False]
    assert circuits.state("site") == "down"
    circuits.verdict("site", True, 2.0)
    assert said(circuits) == [True]


def test_one_that_is_configured_no_longer_carries_nothing() -> None:
    circuits = made()
    circuits.verdict("site", True, 1.0)
    assert said(circuits) == [True]
    circuits.adopt({})
    assert said(circuits) == [False]
    circuits.verdict("site", True, 2.0)
    assert said(circuits) == []
