"""Simultaneous rekeys and deletes (RFC 7296 2.8, 2.25): every order in which their messages can arrive, with one lost.

The schedules are enumerated, not sampled: at each step any datagram in flight may be the next to arrive, or be lost.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.ike_pair import CHILD, ESP_OFFERS, IKE_OFFERS, NAME, Flight, Host, Pair, every_schedule

from gateway.ike.commands import CheckLiveness, Command, Initiate, Rekey, Terminate
from gateway.ike.events import IkeDown
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.exchanges.timers import rekey_child
from gateway.ike.payloads import SecurityAssociation
from gateway.ike.proposal import make_offer
from gateway.ike.registry import PrfId, Protocol

OTHER_OFFERS = (make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha256"], ["ecp384"]),)

Choose = Callable[[int], int]


def collide(choose: Choose, left: Command, right: Command, losses: int, defer: bool = False, seed: int = 1) -> Pair:
    """Both commands at once, then any order of arrival, then two minutes of a good network."""
    pair = Pair(seed=seed)
    pair.establish()
    pair.defer = defer
    pair.left.command(left)
    pair.right.command(right)
    while pair.in_flight:
        waiting = len(pair.in_flight)
        pick = choose(2 * waiting if losses else waiting)
        if pick >= waiting:
            losses -= 1
            if pair.in_flight[pick - waiting].run is not None:
                pair.deliver(pick - waiting)  # work is not lost
            else:
                pair.drop(pick - waiting)
        else:
            pair.deliver(pick)
        if not any(isinstance(command, Terminate) for command in (left, right)):
            pair.assert_flowing()
    pair.defer = False
    pair.run(120)
    return pair


def steadily(pair: Pair) -> None:
    """The tunnel never went down: every IKE_SA that ended was replaced."""
    pair.assert_agreed()
    for host in pair.hosts:
        assert [event.reason for event in host.seen(IkeDown) if event.reason] == []


@pytest.mark.parametrize("seed", [1, 2], ids=["left has the lowest nonce", "right has"])
@pytest.mark.parametrize("losses", [0, 1])
def test_child_rekeys_at_once(losses: int, seed: int) -> None:
    def play(choose: Choose) -> None:
        pair = collide(choose, Rekey(NAME, CHILD), Rekey(NAME, CHILD), losses, seed=seed)
        steadily(pair)

    runs, complete = every_schedule(play, 4000)
    assert complete
    assert runs > 20


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("losses", [0, 1])
def test_ike_rekeys_at_once(losses: int, seed: int) -> None:
    def play(choose: Choose) -> None:
        steadily(collide(choose, Rekey(NAME), Rekey(NAME), losses, seed=seed))

    runs, complete = every_schedule(play, 4000)
    assert complete
    assert runs > 20


@pytest.mark.parametrize("losses", [0, 1])
def test_an_ike_sa_that_is_to_end_while_it_is_rekeyed_ends(losses: int) -> None:
    """The operator's word comes while the rekey is under way: it holds for the new IKE_SA."""

    def play(choose: Choose) -> None:
        pair = Pair()
        pair.establish()
        left, lost = losses, 0
        pair.left.command(Rekey(NAME))
        pair.left.command(Terminate(NAME))
        while pair.in_flight:
            lost = choose(2) if left else 0
            left -= lost
            if lost:
                pair.drop()
            else:
                pair.deliver()
        pair.run(120)
        assert gone(pair.left) and gone(pair.right)
        assert [event.reason for event in pair.left.seen(IkeDown) if event.reason] == ["TERMINATED"]

    assert every_schedule(play, 4000)[1]


@pytest.mark.parametrize("seed", [1, 2])
def test_two_ike_sas_of_one_connection_rekeyed_by_both_at_once(seed: int) -> None:
    """Both started at once, then both got other algorithms, and two of the four requests are lost."""

    def play(choose: Choose) -> None:
        pair = Pair(seed=seed)
        pair.left.command(Initiate(NAME))
        pair.right.command(Initiate(NAME))
        pair.settle()
        for host in pair.hosts:
            pair.configure(host, offers=OTHER_OFFERS)
        for _ in range(2):
            pair.drop(choose(len(pair.in_flight)))
        while pair.in_flight:
            pair.deliver()
            pair.assert_flowing()
        pair.run(120)
        pair.assert_agreed()

    runs, complete = every_schedule(play, 100)
    assert complete and runs == 4 * 3


def test_after_ike_rekeys_at_once_nothing_keeps_the_old_ike_sas() -> None:
    def play(choose: Choose) -> None:
        pair = collide(choose, Rekey(NAME), Rekey(NAME), 0)
        for host in pair.hosts:
            assert host.sa.predecessor is None

    runs, complete = every_schedule(play, 4000)
    assert complete and runs > 10


@pytest.mark.parametrize("losses", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_ike_rekey_and_a_child_rekey_at_once(losses: int) -> None:
    def play(choose: Choose) -> None:
        steadily(collide(choose, Rekey(NAME), Rekey(NAME, CHILD), losses))

    assert every_schedule(play, 8000)[1]


@pytest.mark.parametrize("command", [Rekey(NAME, CHILD), Rekey(NAME)], ids=["CHILD_SA", "IKE_SA"])
def test_rekeys_at_once_with_public_key_work_that_takes_its_time(command: Command) -> None:
    def play(choose: Choose) -> None:
        steadily(collide(choose, command, command, 0, defer=True))

    every_schedule(play, 700)


@pytest.mark.parametrize("losses", [0, 1])
def test_the_child_sa_deleted_by_one_side_while_the_other_rekeys_it(losses: int) -> None:
    def play(choose: Choose) -> None:
        pair = collide(choose, Rekey(NAME, CHILD), Terminate(NAME, CHILD), losses)
        counts = {len(host.sa.children) for host in pair.hosts}
        assert counts <= {0, 1}
        assert len(counts) == 1
        assert {len(host.data_plane.outbound) for host in pair.hosts} == counts
        for host in pair.hosts:
            assert host.sa.state.name == "ESTABLISHED"
            assert host.seen(IkeDown) == []

    assert every_schedule(play, 4000)[1]


@pytest.mark.parametrize("losses", [0, 1])
@pytest.mark.parametrize("other", [Terminate(NAME), Rekey(NAME), Rekey(NAME, CHILD), Terminate(NAME, CHILD)], ids=str)
def test_the_ike_sa_deleted_by_one_side_whatever_the_other_does(other: Command, losses: int) -> None:
    def play(choose: Choose) -> None:
        pair = collide(choose, Terminate(NAME), other, losses)
        for host in pair.hosts:
            assert gone(host)

    assert every_schedule(play, 4000)[1]


@pytest.mark.parametrize("losses", [0, 1])
def test_both_delete_the_child_sa(losses: int) -> None:
    def play(choose: Choose) -> None:
        pair = collide(choose, Terminate(NAME, CHILD), Terminate(NAME, CHILD), losses)
        for host in pair.hosts:
            assert host.sa.state.name == "ESTABLISHED"
            assert host.sa.children == {}
            assert (host.data_plane.inbound, host.data_plane.outbound) == ({}, {})

    assert every_schedule(play, 4000)[1]


def gone(host: Host) -> bool:
    """No IKE_SA, no CHILD_SA, nothing armed."""
    return (host.sas, host.data_plane.inbound, host.data_plane.outbound, host.core.next_deadline()) == (
        [],
        {},
        {},
        None,
    )


LOWEST = bytes(31) + b"\1"
HIGHER = [bytes([number]) * 32 for number in (0x40, 0x50, 0x60)]


@pytest.mark.parametrize("command", [Rekey(NAME, CHILD), Rekey(NAME)], ids=["CHILD_SA", "IKE_SA"])
@pytest.mark.parametrize("lowest", ["left Ni", "left Nr", "right Ni", "right Nr"])
def test_the_lowest_of_the_four_nonces_loses(command: Command, lowest: str) -> None:
    """RFC 7296 2.8.1, whichever of the four it is: what the exchange with it made is closed. Two ends that both did the
    opposite would agree with each other, and with no other implementation."""
    pair = Pair()
    pair.establish()
    pair.left.sa.enqueue(Liveness(), pair.now)  # so that the right one knows its CHILD_SA is held
    pair.run(1)
    names, values = ("left Ni", "left Nr", "right Ni", "right Nr"), iter(HIGHER)
    chosen = {name: LOWEST if name == lowest else next(values) for name in names}
    for side, host in zip(("left", "right"), pair.hosts, strict=True):
        host.random.scripted[32] = [chosen[f"{side} Ni"], chosen[f"{side} Nr"]]
    pair.left.command(command)
    pair.right.command(command)
    proposed = {pair.peer_of(flight.receiver).address: own_spi(pair, flight) for flight in pair.in_flight}
    pair.run(30)
    steadily(pair)
    # "left Nr" answers the right one's request
    loser = pair.left if lowest in ("left Ni", "right Nr") else pair.right
    winner = pair.peer_of(loser)
    kept = set(winner.sa.children) if command.child else {winner.sa.initiator_spi}
    assert kept == {proposed[winner.address]}


def own_spi(pair: Pair, flight: Flight) -> int:
    """The SPI that a CREATE_CHILD_SA request proposes for its sender."""
    offer = pair.opened(flight).first(SecurityAssociation)
    assert isinstance(offer, SecurityAssociation)
    return int.from_bytes(offer.proposals[0].spi, "big")


def test_a_rekey_whose_answer_was_lost_for_long_is_asked_for_as_soon_as_the_peer_writes_on_the_new_ike_sa() -> None:
    """The peer moved to it when it answered, and nothing told it that we do not hold it."""
    pair = Pair()
    pair.establish()
    pair.left.command(Rekey(NAME))
    pair.deliver()
    pair.drop()
    lost = pair.now
    while pair.now < lost + 40:
        pair.hold(1)
        # What the left host sends arrives, what the right one sends does not
        for flight in list(pair.in_flight):
            pair.in_flight.remove(flight)
            if flight.receiver is pair.right:
                pair.receive(pair.right, flight.octets)
                pair.in_flight.clear()
    assert pair.left.sa.exchange is not None
    tries = pair.left.sa.window.pending.tries  # type: ignore[union-attr]
    pair.right.command(CheckLiveness(NAME))
    pair.settle()
    pair.run(5)
    assert tries == 6, "no repetition of its own was left"
    pair.assert_agreed()
    assert [event.reason for event in pair.left.seen(IkeDown)] == [""]


def test_the_rival_of_a_collision_is_not_rekeyed_before_it_has_its_predecessors_place() -> None:
    """A reload comes between the peer's rekey, which we answered, and the answer to ours: the peer has moved to its own
    already, and must find it here when it writes on it."""
    pair = Pair()
    pair.establish()
    pair.left.command(Rekey(NAME))
    pair.right.command(Rekey(NAME))
    ours, theirs = pair.in_flight
    pair.in_flight = [theirs]
    pair.deliver()
    pair.deliver()
    pair.drop()  # the DELETE of the old one
    assert pair.right.sa.is_initiator
    for host in pair.hosts:
        pair.configure(host, offers=OTHER_OFFERS)
    assert [flight.receiver for flight in pair.in_flight] == [pair.left], "the right one's rekey alone"
    pair.in_flight.append(ours)
    pair.run(120)
    steadily(pair)
    for host in pair.hosts:
        assert host.sa.keys is not None
        assert host.sa.keys.choice.prf == PrfId.HMAC_SHA2_256


@pytest.mark.parametrize("delivered", range(3))
@pytest.mark.parametrize("who", ["left", "right"])
def test_what_is_made_while_the_configuration_changes_is_held_against_the_new_one(delivered: int, who: str) -> None:
    """Rekeys under way bring the suite that was asked for, not the one preferred now: that one comes with another."""
    pair = Pair()
    pair.establish()
    (pair.left if who == "left" else pair.right).command(Rekey(NAME, CHILD))
    (pair.right if who == "left" else pair.left).command(Rekey(NAME))
    for _ in range(delivered):
        pair.deliver()
    smaller = make_offer(Protocol.ESP, [("aes-gcm-16", 128)], [], [], ["ecp256"], [False])
    for host in pair.hosts:
        pair.configure(host, offers=(*OTHER_OFFERS, *IKE_OFFERS), esp=(smaller, *ESP_OFFERS))
    pair.run(60)
    steadily(pair)
    for host in pair.hosts:
        assert host.sa.keys is not None
        assert host.sa.keys.choice.prf == PrfId.HMAC_SHA2_256
        assert [child.choice.key_octets for child in host.sa.children.values()] == [16]


@pytest.mark.parametrize("delivered", range(4))
def test_a_child_sa_removed_from_the_configuration_while_it_is_rekeyed_is_deleted(delivered: int) -> None:
    pair = Pair()
    pair.establish()
    pair.left.command(Rekey(NAME, CHILD))
    for _ in range(delivered):
        pair.deliver()
    pair.configure(pair.left, children=())
    pair.run(6)
    assert [host.sa.children for host in pair.hosts] == [{}, {}]
    assert [host.data_plane.outbound for host in pair.hosts] == [{}, {}]


def test_a_child_sa_whose_answer_is_lost_for_long_is_kept_though_the_peer_does_not_know_it_yet() -> None:
    """RFC 7296 2.1, 2.25.1: a peer of much patience gets our answer to its rekey at last, and sends on what we made then."""
    pair = Pair(retransmit_timeout=100.0)
    pair.establish()
    pair.left.command(Rekey(NAME, CHILD))
    pair.deliver()
    pair.drop()
    (made,) = [child for child in pair.right.sa.children.values() if not child.proven]
    pair.run(70.0)
    rekey_child(pair.right.sa, made, pair.now)
    pair.drain()
    pair.settle()
    assert any(exchange.endswith("failed") for exchange in pair.right.core.counts(NAME).exchanges), "CHILD_SA_NOT_FOUND"
    pair.run(31.0)
    pair.assert_flowing()
    pair.run(60.0)
    steadily(pair)
