"""What cannot be renewed on an IKE_SA (RFC 7296 2.8, 2.25): a new one first, and the end only when that fails too."""

from __future__ import annotations

from typing import Any

import pytest
from support.ike_pair import ANY, CHILD, ESP_OFFERS, NAME, Host, Pair

from gateway.ike import keeping, renewal
from gateway.ike.commands import Abandon, CreateChildSa, Initiate, Rekey, SaExpired
from gateway.ike.errors import PeerError, Violation
from gateway.ike.events import ExchangeFailed, IkeDown, IkeUp
from gateway.ike.exchanges.delete import DeleteChild
from gateway.ike.payloads import Delete
from gateway.ike.proposal import make_offer
from gateway.ike.registry import ExchangeType, NotifyType, Protocol
from gateway.ike.settings import ChildSettings

NO_PFS = (make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], [], [False]),)


def answers_to_rekeys(host: Host, notify: NotifyType) -> list[NotifyType]:
    """Every CREATE_CHILD_SA is answered with what stands in the list; empty: as it should be."""
    said, serve = [notify], host.core.serve

    def refuse(sa: Any, message: Any, now: float) -> None:
        if said and message.header.exchange == ExchangeType.CREATE_CHILD_SA:
            raise PeerError(Violation.TEMPORARY, "as the test wants", said[0])
        serve(sa, message, now)

    host.core.serve = refuse  # type: ignore[method-assign]
    return said


def set_ups(host: Host) -> int:
    return len([event for event in host.seen(IkeUp) if not event.rekeyed])


def reasons(host: Host) -> list[str]:
    return [event.reason for event in host.seen(ExchangeFailed)]


def ends(host: Host) -> list[str]:
    return [event.reason for event in host.seen(IkeDown) if event.reason not in ("", "DELETED_BY_PEER")]


def flowing_for(pair: Pair, seconds: float, step: float = 1.0) -> None:
    until = pair.now + seconds
    while pair.now < until:
        pair.run(step)
        pair.assert_flowing()


# --- refused for good --------------------------------------------------------------------------------------------------------------


def test_a_child_sa_that_cannot_be_rekeyed_is_replaced_by_a_new_ike_sa_for_ever() -> None:
    """RFC 7296 2.8. As with a PFS group that only we have: IKE_AUTH makes the CHILD_SA without one, no rekey ever does."""
    pair = Pair(child_rekey_time=100.0, child_life_time=150.0)
    pair.configure(pair.right, esp=NO_PFS, child_rekey_time=1e6, child_life_time=1e6)
    pair.establish()
    flowing_for(pair, 1000)
    assert 6 <= set_ups(pair.left) <= 12
    assert "REKEY_NO_PROPOSAL_CHOSEN" in reasons(pair.left)
    assert "CHILD_LIFETIME_EXPIRED" not in reasons(pair.left) + ends(pair.left)


def test_where_a_new_ike_sa_cannot_be_either_the_old_one_ends_with_the_last_child_sa() -> None:
    """RFC 7296 2.8: "MUST close the IKE SA and any associated Child SAs and then MAY start new ones"."""
    pair = Pair()
    pair.configure(pair.left, child_rekey_time=100.0, child_life_time=150.0)
    pair.establish()
    start = pair.now
    answers_to_rekeys(pair.right, NotifyType.NO_PROPOSAL_CHOSEN)
    pair.configure(pair.right, psk=b"another secret")
    flowing_for(pair, start + 148 - pair.now)
    assert "AUTHENTICATION_FAILED_RECEIVED" in ends(pair.left)
    pair.run(5)
    assert ends(pair.left)[-1] == "CHILD_LIFETIME_EXPIRED"
    assert pair.left.sas == pair.right.sas == []


def test_one_of_several_child_sas_ends_alone() -> None:
    """What works still is not given up for what does not."""
    short, long = (
        ChildSettings(name, ESP_OFFERS, (ANY,), (ANY,), 1e6, life) for name, life in (("a", 100.0), ("b", 1e6))
    )
    pair = Pair()
    pair.configure(pair.left, children=(short, long))
    pair.left.command(Initiate(NAME))
    pair.settle()
    pair.run(110)
    assert reasons(pair.left) == ["CHILD_LIFETIME_EXPIRED"]
    assert [child.name for child in pair.left.sa.children.values()] == ["b"]
    assert set_ups(pair.left) == 1


def test_a_rekey_that_succeeds_after_all_leaves_the_ike_sa() -> None:
    pair = Pair()
    pair.configure(pair.left, child_rekey_time=1000.0, child_life_time=1100.0)
    pair.establish()
    said = answers_to_rekeys(pair.right, NotifyType.NO_PROPOSAL_CHOSEN)
    first = pair.left.sa
    pair.configure(pair.right, psk=b"another secret")
    while pair.left.sa.renewal.wanted_at is None:
        flowing_for(pair, 5)
    said.clear()
    flowing_for(pair, 200)
    assert pair.left.sa is first
    assert pair.left.sa.reauth_at is None
    attempts = len(ends(pair.left))
    flowing_for(pair, 300)
    assert len(ends(pair.left)) == attempts, "nothing is begun any more"


def test_what_is_wanted_for_a_refusal_is_not_kept_for_the_next_process() -> None:
    """It asks again itself; and a time for reauthentication that nobody configured would never go away."""
    pair = Pair()
    pair.configure(pair.left, reauth_time=5000.0)
    pair.establish()
    sa = pair.left.sa
    planned = sa.reauth_at
    renewal.give_way(sa, pair.now)
    assert sa.reauth_at == pair.now
    known = keeping.kept(sa)
    assert known is not None
    assert known.reauth_at == planned


def test_a_limit_of_octets_does_not_wait_for_the_clock() -> None:
    """The hard limit may be minutes away where the lifetime has hours."""
    pair = Pair(child_rekey_time=10000.0, child_life_time=11000.0)
    pair.establish()
    answers_to_rekeys(pair.right, NotifyType.NO_PROPOSAL_CHOSEN)
    (child,) = pair.left.sa.children.values()
    pair.left.command(SaExpired(NAME, child.spi_out, hard=False))
    flowing_for(pair, 10)
    assert set_ups(pair.left) == 2
    assert len(pair.left.sas) == 1


@pytest.mark.parametrize("refused", [False, True])
def test_at_a_hard_limit_another_child_sa_is_asked_for_unless_that_was_refused(refused: bool) -> None:
    pair = Pair()
    pair.establish()
    if refused:
        answers_to_rekeys(pair.right, NotifyType.NO_PROPOSAL_CHOSEN)
        pair.configure(pair.right, psk=b"another secret")
    (child,) = pair.left.sa.children.values()
    for hard in [False, True] if refused else [True]:
        pair.left.command(SaExpired(NAME, child.spi_out, hard=hard))
        pair.run(1)
    assert (reasons(pair.left) + ends(pair.left))[-1] == "CHILD_LIMIT_REACHED"
    assert [sa.established for sa in pair.left.sas] == ([] if refused else [True])


def test_a_child_sa_that_is_lost_and_refused_comes_back_with_a_new_ike_sa() -> None:
    """A peer that deletes what it could not rekey, and has no PFS."""
    pair = Pair()
    pair.configure(pair.right, esp=NO_PFS)
    pair.establish()
    (child,) = pair.right.sa.children.values()
    pair.right.sa.enqueue(DeleteChild(child), pair.now)
    pair.run(1)
    assert reasons(pair.left) == ["CHILD_DELETED_BY_PEER"]
    for _ in range(3):
        assert set_ups(pair.left) == 1
        pair.left.command(CreateChildSa(NAME, CHILD))
        pair.run(1)
    pair.run(10)
    assert set_ups(pair.left) == 2
    pair.assert_agreed()


def test_a_child_sa_that_never_was_does_not_begin_ike_sas() -> None:
    pair = Pair()
    other = (make_offer(Protocol.ESP, [("aes-cbc", 256)], ["sha256"], [], [], [False]),)
    pair.configure(pair.right, esp=other)
    pair.left.command(Initiate(NAME))
    pair.settle()
    for _ in range(20):
        pair.left.command(CreateChildSa(NAME, CHILD))
        pair.run(30)
    assert set_ups(pair.left) == 1
    assert not pair.left.sa.children


# --- TEMPORARY_FAILURE -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["CHILD_SA", "IKE_SA"])
def test_a_peer_that_is_busy_for_minutes_is_out_of_step(what: str) -> None:
    """RFC 7296 2.25: "after several minutes, it SHOULD conclude that the state information is out of sync and close the IKE SA"."""
    times = {"child_rekey_time": 100.0, "child_life_time": 1e6} if what == "CHILD_SA" else {"rekey_time": 100.0}
    pair = Pair()
    pair.configure(pair.left, **times)
    pair.establish()
    said = answers_to_rekeys(pair.right, NotifyType.TEMPORARY_FAILURE)
    flowing_for(pair, 250)
    assert set_ups(pair.left) == 1
    assert reasons(pair.left) == []
    flowing_for(pair, 60)
    assert set_ups(pair.left) == 2
    prefix = "REKEY" if what == "CHILD_SA" else "IKE_REKEY"
    assert reasons(pair.left)[0] == f"{prefix}_TEMPORARY_FAILURE"
    said.clear()
    pair.run(30)
    pair.assert_agreed()


def test_a_peer_that_is_busy_now_and_then_is_believed_each_time() -> None:
    pair = Pair()
    pair.configure(pair.left, child_rekey_time=300.0, child_life_time=1e6)
    pair.establish()
    said = answers_to_rekeys(pair.right, NotifyType.TEMPORARY_FAILURE)
    for _ in range(5):
        while pair.left.sa.renewal.busy_since is None:
            flowing_for(pair, 1)
        flowing_for(pair, 20)
        said.clear()
        flowing_for(pair, 20)
        said.append(NotifyType.TEMPORARY_FAILURE)
    assert set_ups(pair.left) == 1
    assert reasons(pair.left) == []


# --- an IKE_SA's own lifetime ------------------------------------------------------------------------------------------------------


def test_an_ike_sa_that_cannot_be_rekeyed_is_replaced() -> None:
    pair = Pair()
    pair.configure(pair.left, rekey_time=1000.0)
    pair.establish()
    answers_to_rekeys(pair.right, NotifyType.NO_PROPOSAL_CHOSEN)
    flowing_for(pair, 1000 + 150 - 60, step=5)
    flowing_for(pair, 120, step=5)
    assert set_ups(pair.left) == 2
    assert ends(pair.left) == []


def test_an_ike_sa_that_cannot_be_replaced_either_is_closed() -> None:
    """RFC 7296 2.8: no key is used for ever."""
    pair = Pair()
    pair.configure(pair.left, rekey_time=1000.0)
    pair.establish()
    answers_to_rekeys(pair.right, NotifyType.NO_PROPOSAL_CHOSEN)
    pair.configure(pair.right, psk=b"another secret")
    flowing_for(pair, 900 + 300 - 1, step=5)
    pair.run(130)
    assert ends(pair.left)[-1] == "IKE_LIFETIME_EXPIRED"
    assert pair.left.sas == pair.right.sas == []


@pytest.mark.parametrize("silent", [False, True])
def test_a_peer_that_does_not_prove_itself_again_is_shut_out(silent: bool) -> None:
    """Its certificate may be revoked, its secret another one. Not at the first failure, which anybody on the way can cause."""
    pair = Pair()
    pair.configure(pair.left, reauth_time=1000.0)
    pair.establish()
    pair.configure(pair.right, psk=b"another secret")
    for _ in range(3):
        pair.left.command(Rekey(NAME))
        pair.settle()
    first = pair.left.sa.initiator_spi
    if silent:
        old = {first}
        pair.rewrite = lambda flight: flight if flight.message.header.initiator_spi in old else None
    flowing_for(pair, 900 + 300 - 1, step=5)
    pair.run(170)
    assert "REAUTHENTICATION_OVERDUE" in ends(pair.left)
    assert not [sa for sa in pair.left.sas if sa.established]


def test_a_reload_that_turns_reauthentication_on_begins_a_time_of_its_own() -> None:
    pair = Pair()
    pair.establish()
    flowing_for(pair, 3000, step=20)
    pair.configure(pair.left, reauth_time=1000.0)
    flowing_for(pair, 1100, step=5)
    assert set_ups(pair.left) == 2
    assert ends(pair.left) == []


# --- an answer we cannot take ------------------------------------------------------------------------------------------------------


def test_what_the_peer_made_and_we_cannot_take_is_deleted_there() -> None:
    """Else it would send on what nobody here has."""
    pair = Pair()
    pair.establish()
    pair.left.command(Rekey(NAME, CHILD))
    pair.deliver()
    assert len(pair.right.sa.children) == 2
    accept = pair.left.sa.exchange
    assert accept is not None and accept.offer is not None  # type: ignore[attr-defined]
    asked = accept.offer.spi_in  # type: ignore[attr-defined]
    accept.pair = None  # type: ignore[attr-defined]
    pair.settle()
    deletes = [
        payload
        for flight in pair.sent
        if flight.receiver is pair.right and flight.message.header.exchange == ExchangeType.INFORMATIONAL
        for payload in pair.opened(flight, pair.right.sa).payloads
        if isinstance(payload, Delete)
    ]
    assert [delete.spis for delete in deletes] == [(asked.to_bytes(4, "big"),)]
    pair.assert_agreed()


# --- what must not follow from a clock, or from a peer that nobody asked -----------------------------------------------------------


def test_an_overdue_proof_that_something_is_in_the_way_of_does_not_leave_a_deadline_in_the_past() -> None:
    """The harness holds every step to that. The DELETE waits for a liveness check that nobody answers."""
    pair = Pair()
    pair.configure(pair.left, reauth_time=1000.0, dpd_delay=10.0)
    pair.establish()
    pair.configure(pair.right, psk=b"another secret")
    while pair.left.sa.renewal.proof_due is None:
        pair.run(1)
    pair.run(pair.left.sa.renewal.proof_due + 280 - pair.now)
    pair.silence(120)
    assert pair.left.sas == []


def test_who_is_shut_out_does_not_stay_by_refusing_rekeys_and_rekeying_itself() -> None:
    """Each refusal makes a new IKE_SA wanted, and each rekey of its own takes that back."""
    day = 86400.0
    pair = Pair(reauth_time=day, rekey_time=1e7, child_rekey_time=3600.0, child_life_time=3960.0)
    patient = {"rekey_time": 1e7, "child_rekey_time": 1e9, "child_life_time": 1e9}
    pair.configure(pair.right, **patient)
    pair.establish()
    pair.configure(pair.right, psk=b"another secret", **patient)
    answers_to_rekeys(pair.right, NotifyType.NO_PROPOSAL_CHOSEN)
    began = pair.now
    while "REAUTHENTICATION_OVERDUE" not in ends(pair.left):
        assert pair.now < began + 1.2 * day
        pair.run(30)
        usable = [child for sa in pair.left.sas for child in sa.children.values() if child.usable]
        if usable and usable[0].life_at - pair.now < 40:
            pair.right.command(Rekey(NAME, CHILD))
            pair.settle()


def test_a_proof_is_not_overdue_because_nobody_was_here() -> None:
    pair = Pair()
    pair.configure(pair.left, reauth_time=1000.0)
    pair.establish()
    lost = pair.rewrite
    while pair.left.sa.renewal.proof_due is None:
        pair.rewrite = lambda flight: None if flight.message.header.exchange == ExchangeType.IKE_SA_INIT else flight
        pair.run(1)
    pair.rewrite = lost
    pair.now += 400
    pair.fire()
    pair.run(30)
    assert ends(pair.left) == []
    assert set_ups(pair.left) == 2


def test_an_ike_sa_is_not_closed_before_another_one_was_tried() -> None:
    """The machine stood still over its lifetime; the first refusal comes after it."""
    pair = Pair()
    pair.configure(pair.left, rekey_time=1000.0)
    pair.establish()
    answers_to_rekeys(pair.right, NotifyType.NO_ADDITIONAL_SAS)
    pair.now += 5000
    pair.fire()
    flowing_for(pair, 30)
    assert ends(pair.left) == []
    assert set_ups(pair.left) == 2


def test_after_a_stand_still_a_refused_child_sa_does_not_keep_the_peer_from_being_asked() -> None:
    """It may have given all of it up meanwhile: a DELETE that nobody answers would hold up what comes in its place."""
    pair = Pair(dpd_delay=10.0)
    pair.establish()
    answers_to_rekeys(pair.right, NotifyType.NO_PROPOSAL_CHOSEN)
    pair.left.command(Rekey(NAME, CHILD))
    pair.settle()
    assert [child.refused for child in pair.left.sa.children.values()] == [True]
    pair.right.command(Abandon(NAME, reason=""))
    pair.in_flight.clear()
    pair.now += 5000
    pair.fire()
    pair.run(5)
    pair.assert_flowing()
    pair.run(120)
    pair.assert_agreed()


def test_what_a_deleted_successor_stood_for_can_be_rekeyed_again() -> None:
    """As after a restart amid a rekey, or an answer we could not take."""
    pair = Pair()
    pair.configure(pair.right, child_rekey_time=600.0, child_life_time=660.0)
    pair.establish()
    pair.left.command(Rekey(NAME, CHILD))
    pair.deliver()
    (first, new) = pair.right.sa.children.values()
    assert first.successor is new
    pair.left.sa.exchange.pair = None  # type: ignore[union-attr]
    pair.settle()
    assert list(pair.right.sa.children.values()) == [first]
    assert first.successor is None
    flowing_for(pair, 700, step=5)
    assert set_ups(pair.right) == 1
    assert first.spi_in not in pair.right.sa.children
