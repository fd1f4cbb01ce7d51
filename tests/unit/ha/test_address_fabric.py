"""The core of the shared addresses in a cloud: which calls, when, and what it claims to have."""

from __future__ import annotations

from random import Random

import pytest
from support.address_cloud import ADDRESSES, NICS, AddressCloud, settings

from gateway.ha.address_interface import DRY_RUN, LOOKS
from gateway.ha.address_values import AddressCall, Assign, Free, Hindered, Moved, Strayed
from gateway.ha.fabric_values import Done, Failed, Read, Why

FIRST, SECOND = ADDRESSES
REFUSED = Failed(Why.REFUSED, "no right; give it")


def at_peer(**other: object) -> AddressCloud:
    """gw-a, which has looked once; both addresses are at gw-b's interface."""
    cloud = AddressCloud()
    cloud.where = dict.fromkeys(ADDRESSES, NICS["gw-b"])
    cloud.boot("gw-a", **other)
    cloud.run(1.0)
    return cloud


def test_a_takeover_writes_at_once_without_a_look_and_off_there_before_here():
    cloud = at_peer()
    since = cloud.now
    cloud.activate("gw-a", 4)
    assert cloud.writes("gw-a", since) == [Free(ADDRESSES)], "at the same moment"
    cloud.run(1.0)
    assert cloud.operations("gw-a", since) == [Free(ADDRESSES), Assign(ADDRESSES)]
    assert cloud.all_at("gw-a")
    (moved,) = cloud.said("gw-a", Moved)
    assert (moved.epoch, moved.addresses) == (4, ADDRESSES)
    assert 0.02 <= moved.seconds <= 0.06


def test_a_cloud_that_reassigns_is_told_once():
    cloud = at_peer(freed=False)
    since = cloud.now
    cloud.activate("gw-a", 4)
    cloud.run(1.0)
    assert cloud.operations("gw-a", since) == [Assign(ADDRESSES)]
    assert cloud.all_at("gw-a")


def test_a_standby_looks_and_writes_nothing():
    cloud = at_peer()
    cloud.run(300.0)
    assert cloud.writes("gw-a") == []
    assert 5 <= len(cloud.operations("gw-a")) <= 8
    assert cloud.places("gw-a") == dict.fromkeys(ADDRESSES, "peer")
    assert cloud.trouble("gw-a") == ""


def test_nothing_begins_after_the_lease_and_goes_on_when_it_is_renewed():
    cloud = at_peer()
    cloud._latency = (2.0, 2.0)
    cloud.activate("gw-a", 4, lease=1.0)
    cloud.run(10.0)
    assert cloud.writes("gw-a") == [Free(ADDRESSES)], "begun before it was over; the next one is not"
    assert cloud.places("gw-a") == dict.fromkeys(ADDRESSES, "absent")
    cloud.activate("gw-a", 4, lease=1000.0)
    cloud.run(3.0)
    assert cloud.all_at("gw-a")


def test_what_is_believed_to_be_here_since_an_earlier_time_is_looked_at_before_it_is_claimed():
    cloud = AddressCloud()
    cloud.where = dict.fromkeys(ADDRESSES, NICS["gw-a"])
    cloud.boot("gw-a")
    cloud.run(1.0)
    cloud.where = dict.fromkeys(ADDRESSES, NICS["gw-b"])
    since = cloud.now
    cloud.activate("gw-a", 4)
    assert cloud.places("gw-a") == dict.fromkeys(ADDRESSES, "unknown")
    assert cloud.said("gw-a", Moved) == []
    cloud.run(1.0)
    assert cloud.operations("gw-a", since) == [Read(), Free(ADDRESSES), Assign(ADDRESSES)]
    assert cloud.all_at("gw-a")


def test_after_a_restart_with_everything_as_it_was_nothing_is_written():
    cloud = AddressCloud()
    cloud.where = dict.fromkeys(ADDRESSES, NICS["gw-a"])
    cloud.boot("gw-a")
    cloud.activate("gw-a", 4)
    cloud.run(1.0)
    assert cloud.writes("gw-a") == []
    assert len(cloud.said("gw-a", Moved)) == 1


def test_a_late_call_of_the_other_gateway_is_seen_soon_and_undone():
    cloud = at_peer()
    cloud.activate("gw-a", 4)
    cloud.run(20.0)
    cloud.where[FIRST] = NICS["gw-b"]
    cloud.run(LOOKS[2] - 20.0 + 1.0)
    assert cloud.all_at("gw-a")
    assert [event.sentence for event in cloud.said("gw-a", Strayed)] == [
        f"{FIRST} is at the other gateway's interface (nic-b)"
    ]
    assert cloud.gateways["gw-a"].view().interfaces[0].drift == 1


def test_a_refusal_is_told_with_the_address_and_tried_again_seldom():
    cloud = at_peer(addresses=(FIRST,))
    cloud.fault = lambda node, call: None if isinstance(call.operation, Read) else (REFUSED, False)
    cloud.activate("gw-a", 4)
    cloud.run(1.0)
    assert cloud.trouble("gw-a") == f"{FIRST}: no right; give it"
    assert cloud.places("gw-a") == {FIRST: "peer"}
    assert not cloud.gateways["gw-a"].view().interfaces[0].settled
    cloud.run(1200.0)
    assert 5 <= len(cloud.writes("gw-a")) <= 10
    cloud.fault = lambda node, call: None
    cloud.run(320.0)
    assert cloud.where[FIRST] == NICS["gw-a"]
    assert cloud.trouble("gw-a") == ""
    assert [event.sentence for event in cloud.said("gw-a", Hindered)] == [f"{FIRST}: no right; give it", ""]


def test_an_address_that_is_refused_does_not_keep_the_others():
    cloud = at_peer(freed=False)

    def fault(node: str, call: AddressCall) -> tuple[Failed, bool] | None:
        return (REFUSED, False) if isinstance(call.operation, Assign) and FIRST in call.operation.addresses else None

    cloud.fault = fault
    cloud.activate("gw-a", 4)
    cloud.run(1.0)
    assert cloud.where == {FIRST: NICS["gw-b"], SECOND: NICS["gw-a"]}
    assert cloud.trouble("gw-a") == f"{FIRST}: no right; give it"


def test_a_new_epoch_tries_at_once_what_was_refused():
    cloud = at_peer(addresses=(FIRST,))
    cloud.fault = lambda node, call: None if isinstance(call.operation, Read) else (REFUSED, False)
    cloud.activate("gw-a", 4)
    cloud.run(200.0)
    cloud.deactivate("gw-a")
    cloud.fault = lambda node, call: None
    cloud.activate("gw-a", 6)
    cloud.run(1.0)
    assert cloud.where[FIRST] == NICS["gw-a"]


def test_a_refusal_is_no_trouble_of_who_is_not_active_any_more():
    cloud = at_peer(addresses=(FIRST,))
    cloud.fault = lambda node, call: None if isinstance(call.operation, Read) else (REFUSED, False)
    cloud.activate("gw-a", 4)
    cloud.run(1.0)
    cloud.deactivate("gw-a")
    assert cloud.trouble("gw-a") == ""
    assert [event.sentence for event in cloud.said("gw-a", Hindered)] == [f"{FIRST}: no right; give it", ""]


def test_retry_after_is_waited_out_and_a_new_token_tried_at_once():
    cloud = at_peer(freed=False)
    answers = iter([Failed(Why.BUSY, "429", 7.0), Failed(Why.EXPIRED, "401")])

    def fault(node: str, call: AddressCall) -> tuple[Failed, bool] | None:
        failure = None if isinstance(call.operation, Read) else next(answers, None)
        return (failure, False) if failure is not None else None

    cloud.fault = fault
    began = cloud.now
    cloud.activate("gw-a", 4)
    cloud.run(6.9)
    assert len(cloud.writes("gw-a")) == 1
    cloud.run(20.0)
    assert cloud.all_at("gw-a")
    (moved,) = cloud.said("gw-a", Moved)
    assert 7.0 <= moved.seconds < 10.0
    assert cloud.now > began


def test_what_may_have_been_written_is_looked_at_and_not_written_twice():
    cloud = at_peer(freed=False)
    once = iter([(Failed(Why.AMBIGUOUS, "no answer"), True)])
    cloud.fault = lambda node, call: next(once, None) if isinstance(call.operation, Assign) else None
    since = cloud.now
    cloud.activate("gw-a", 4)
    cloud.run(2.0)
    assert cloud.operations("gw-a", since) == [Assign(ADDRESSES), Read()]
    assert len(cloud.said("gw-a", Moved)) == 1


def test_writes_that_keep_failing_are_tried_seldom_though_each_look_succeeds():
    cloud = at_peer(freed=False)
    cloud.fault = lambda node, call: (
        (Failed(Why.AMBIGUOUS, "500"), False) if isinstance(call.operation, Assign) else None
    )
    cloud.activate("gw-a", 4)
    cloud.run(600.0)
    assert len(cloud.writes("gw-a")) < 25
    assert cloud.trouble("gw-a") == "500"


def test_what_somebody_else_has_or_what_is_a_first_address_is_left_and_told():
    cloud = AddressCloud()
    cloud.where, cloud.first = {FIRST: "nic-x"}, {SECOND: "nic-b"}
    cloud.boot("gw-a")
    cloud.activate("gw-a", 4)
    cloud.run(10.0)
    assert cloud.writes("gw-a") == []
    assert cloud.trouble("gw-a").startswith(f"{FIRST} is at an interface of neither gateway (nic-x); it is left there")
    cloud.where = {}
    cloud.run(70.0)
    assert cloud.trouble("gw-a").startswith(f"{SECOND} is an interface's own first address (nic-b)")
    assert cloud.where == {FIRST: NICS["gw-a"]}


def test_a_dry_run_shows_what_it_would_do_and_claims_nothing():
    cloud = at_peer(dry_run=True)
    cloud.activate("gw-a", 4)
    cloud.run(100.0)
    (view,) = cloud.gateways["gw-a"].view().interfaces
    assert cloud.writes("gw-a") == []
    assert view.planned == (f"take {FIRST}, {SECOND} off nic-b", f"assign {FIRST}, {SECOND} to nic-a")
    assert (view.trouble, view.settled) == (DRY_RUN, False)
    cloud.gateways["gw-a"].configure(settings("gw-a"), cloud.now)
    cloud.drain("gw-a")
    cloud.run(1.0)
    assert cloud.all_at("gw-a")
    assert cloud.trouble("gw-a") == ""


def test_an_address_that_is_new_in_the_configuration_is_fetched_and_an_interface_that_is_gone_is_not_heard():
    cloud = at_peer(addresses=(FIRST,))
    cloud.activate("gw-a", 4)
    cloud.run(1.0)
    assert cloud.where[SECOND] == NICS["gw-b"]
    core = cloud.gateways["gw-a"]
    core.configure(settings("gw-a"), cloud.now)
    cloud.drain("gw-a")
    cloud.run(1.0)
    assert cloud.all_at("gw-a")
    ticket = cloud.calls[-1][2].ticket
    core.configure(settings("gw-a", addresses=(FIRST,)), cloud.now)
    core.computed(ticket, Done(), cloud.now)
    core.computed(12345, Done(), cloud.now)
    cloud.run(100.0)
    assert cloud.places("gw-a") == {FIRST: "ours"}


@pytest.mark.parametrize("answer", [None, "nonsense", Done()])
def test_an_answer_that_is_none_is_a_failure_and_not_asked_for_in_a_loop(answer: object):
    cloud = AddressCloud()
    core = cloud.boot("gw-a")
    for _ in range(5):
        ticket = cloud.calls[-1][2].ticket
        core.computed(ticket, answer, cloud.now)
        cloud.drain("gw-a")
    assert len(cloud.calls) <= 2
    assert core.view().interfaces[0].failures >= 1


@pytest.mark.parametrize("seed", range(60))
def test_whatever_the_clouds_and_the_leases_do_the_last_holder_has_the_addresses_in_the_end(seed: int):
    """Calls take up to a minute and fail in every way, and the lease goes to and fro: nobody begins to write without it, and once the
    faults stop the addresses are where the lease is, and stay there."""
    random = Random(seed)
    cloud = AddressCloud(seed, (0.1, random.choice((1.0, 20.0, 60.0))))
    freed = random.random() < 0.7
    for node in NICS:
        cloud.boot(node, freed=freed)
    kinds = [Failed(why, why.value, random.choice((0.0, 0.0, 5.0))) for why in Why]

    def fault(node: str, call: AddressCall) -> tuple[Failed, bool] | None:
        if call.operation != Read():
            epoch, until = cloud.leases.get(node, (0, 0.0))
            assert epoch and cloud.now < until, "only who has the lease begins to write"
        if random.random() < 0.6:
            return None
        return random.choice(kinds), random.random() < 0.5

    cloud.fault = fault
    holder = random.choice(list(NICS))
    for epoch in range(1, 8):
        cloud.activate(holder, epoch, lease := random.uniform(5.0, 200.0))
        cloud.run(random.uniform(1.0, lease) if random.random() < 0.7 else lease + 10.0)
        cloud.deactivate(holder)
        holder = random.choice(list(NICS))
    cloud.fault = lambda node, call: None
    cloud.activate(holder, 8)
    cloud.run(1500.0)
    assert cloud.all_at(holder)
    assert cloud.trouble(holder) == ""
    other = next(node for node in NICS if node != holder)
    drift = cloud.gateways[holder].view().interfaces[0].drift
    cloud.run(600.0)
    assert cloud.all_at(holder)
    assert cloud.gateways[holder].view().interfaces[0].drift == drift
    assert cloud.places(other) == dict.fromkeys(ADDRESSES, "peer")
