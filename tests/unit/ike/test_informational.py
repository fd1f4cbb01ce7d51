"""INFORMATIONAL in both roles: deletes, liveness, notifications (RFC 7296 1.4, 1.5, 2.4, 2.5, 2.21); INITIAL_CONTACT."""

from __future__ import annotations

import pytest
from support.ike_pair import CHILD, LEFT, NAME, RIGHT, Pair, in_clear
from support.ike_stages import KINDS, ROLES, Stage, reach

from gateway.contract import Endpoint
from gateway.ike.commands import CreateChildSa, Initiate, Rekey, Terminate, TrafficSeen
from gateway.ike.events import ChildRemove, ExchangeFailed, IkeDown
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.message import Message
from gateway.ike.payloads import Delete, Notify, Payload, Unknown, VendorId
from gateway.ike.registry import ExchangeType, NotifyType, Protocol
from gateway.ike.sa import MARGIN

INFO = ExchangeType.INFORMATIONAL


def ask(stage: Stage, *payloads: Payload) -> Message:
    """A request of the authenticated peer; gives the opened answer."""
    peer = next(sa for sa in stage.peer.sas if sa.initiator_spi == stage.sa.initiator_spi)
    stage.deliver(stage.encode(INFO, payloads, stage.request_id, False))
    (answer,) = stage.answers()
    peer.window.next_request += 1
    return stage.pair.opened(answer, peer)


def spi(number: int) -> bytes:
    return number.to_bytes(4, "big")


# --- DELETE ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_a_deleted_child_sa_is_answered_with_its_other_half(role: str) -> None:
    """RFC 7296 1.4.1. Outbound stops at once, inbound lingers for what is on its way."""
    stage = reach(role, "ESTABLISHED")
    (child,) = stage.sa.children.values()
    reply = ask(stage, Delete(Protocol.ESP, (spi(child.spi_out),)))
    assert reply.payloads == (Delete(Protocol.ESP, (spi(child.spi_in),)),)
    assert stage.host.data_plane.outbound == {}
    assert set(stage.host.data_plane.inbound) == {child.spi_in}
    assert [event.reason for event in stage.host.seen(ExchangeFailed)] == ["CHILD_DELETED_BY_PEER"]
    stage.pair.silence(4.9)
    assert stage.host.data_plane.inbound
    stage.pair.silence(0.2)
    assert stage.host.data_plane.inbound == {}
    assert stage.sa.state.name == "ESTABLISHED"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "delete",
    [
        Delete(Protocol.ESP, ()),
        Delete(Protocol.ESP, (b"\xde\xad\xbe\xef",)),
        Delete(Protocol.ESP, (bytes(4),)),
        Delete(Protocol.ESP, (bytes(8),)),
        Delete(Protocol.ESP, (b"\1",)),
        Delete(Protocol.AH, (b"\1\2\3\4",)),
        Delete(Protocol.NONE, (b"\1\2\3\4",)),
        Delete(Protocol(77), (b"\1\2\3\4",)),
    ],
    ids=str,
)
def test_a_delete_of_what_we_do_not_have_is_answered_empty(role: str, delete: Delete) -> None:
    """RFC 7296 1.4.1: "incorrect_delete" of strongSwan's suite."""
    stage = reach(role, "ESTABLISHED")
    children = dict(stage.sa.children)
    assert ask(stage, delete).payloads == ()
    assert stage.sa.children == children
    stage.pair.assert_flowing()


@pytest.mark.parametrize("role", ROLES)
def test_our_own_inbound_spi_in_a_delete_names_nothing(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    (child,) = stage.sa.children.values()
    assert ask(stage, Delete(Protocol.ESP, (spi(child.spi_in),))).payloads == ()
    assert stage.sa.children == {child.spi_in: child}


@pytest.mark.parametrize("role", ROLES)
def test_one_delete_of_many_some_of_them_twice(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    (child,) = stage.sa.children.values()
    twice = Delete(Protocol.ESP, (spi(child.spi_out), spi(child.spi_out), b"\0\0\1\0"))
    reply = ask(stage, twice, twice)
    assert reply.payloads == (Delete(Protocol.ESP, (spi(child.spi_in),)),)
    assert stage.sa.children == {}
    assert len([event for event in stage.host.seen(ChildRemove) if event.spi_out]) == 1


@pytest.mark.parametrize("role", ROLES)
def test_deletes_that_cross_are_not_answered_with_halves(role: str) -> None:
    """RFC 7296 1.4.1: both sides delete the same CHILD_SA at once."""
    stage = reach(role, "ESTABLISHED")
    (child,) = stage.sa.children.values()
    stage.host.command(Terminate(NAME, CHILD))
    assert ask(stage, Delete(Protocol.ESP, (spi(child.spi_out),))).payloads == ()
    stage.pair.in_flight.clear()
    stage.deliver(stage.encode(INFO, (), stage.response_id, True))
    assert (stage.sa.children, stage.host.data_plane.outbound, stage.sa.exchange) == ({}, {}, None)


@pytest.mark.parametrize("role", ROLES)
def test_the_deleted_ike_sa_is_answered_and_gone_with_all_it_carried(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    assert ask(stage, Delete(Protocol.IKE)).payloads == ()
    assert (stage.host.sas, stage.host.data_plane.inbound, stage.host.data_plane.outbound) == ([], {}, {})
    assert [event.reason for event in stage.host.seen(IkeDown)] == ["DELETED_BY_PEER"]
    # RFC 7296 1.4.1: its repetition finds nobody, and nobody answers
    stage.deliver(stage.encode(INFO, (Delete(Protocol.IKE),), stage.request_id - 1, False))
    assert (stage.answers(), stage.refusals()) == ([], ["unknown_spi"])


@pytest.mark.parametrize("role", ROLES)
def test_an_unanswered_delete_of_a_child_sa_ends_the_ike_sa(role: str) -> None:
    """RFC 7296 2.4: a peer that does not answer is dead."""
    stage = reach(role, "ESTABLISHED")
    stage.host.command(Terminate(NAME, CHILD))
    stage.pair.silence(60)
    assert [event.reason for event in stage.host.seen(IkeDown)] == ["DPD_TIMEOUT"]


@pytest.mark.parametrize("role", ROLES)
def test_a_terminated_child_sa_is_gone_on_both_sides_and_can_be_made_again(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    stage.host.command(Terminate(NAME, CHILD))
    stage.pair.run(6)
    for host in stage.pair.hosts:
        assert (host.sa.children, host.data_plane.inbound, host.data_plane.outbound) == ({}, {}, {})
    assert [event.reason for event in stage.host.seen(ExchangeFailed)] == ["TERMINATED"]
    stage.host.command(CreateChildSa(NAME, CHILD))
    stage.pair.settle()
    stage.pair.assert_agreed()


# --- liveness ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_an_empty_informational_is_answered_empty(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    assert ask(stage).payloads == ()
    assert stage.sa.last_heard == stage.pair.now


@pytest.mark.parametrize("role", ROLES)
def test_liveness_is_asked_after_silence_only(role: str) -> None:
    """RFC 7296 2.4: packets that opened are a sign of life; what does not verify is none."""
    stage = reach(role, "ESTABLISHED", dpd_delay=10.0)
    stage.pair.configure(stage.peer, dpd_delay=1e6)
    pair, sent = stage.pair, len(stage.pair.sent)
    for _ in range(5):
        pair.hold(9)
        stage.host.command(TrafficSeen(NAME, frozenset(stage.sa.children)))
    assert len(pair.sent) == sent
    pair.hold(9.9)
    good = stage.octets(KINDS["LIVENESS"], stage.request_id, False)
    stage.deliver(good[:-1] + bytes([good[-1] ^ 1]))
    pair.receive(stage.host, in_clear(stage.sa, INFO, (), 0))
    assert len(pair.sent) == sent
    pair.hold(0.2)
    assert len(pair.sent) == sent + 1
    pair.settle()
    assert stage.sa.exchange is None
    assert stage.sa.last_heard == pair.now


@pytest.mark.parametrize("role", ROLES)
def test_a_dead_peer_is_found_in_the_time_of_the_schedule(role: str) -> None:
    stage = reach(role, "ESTABLISHED", dpd_delay=10.0, retransmit_timeout=1.0, retransmit_base=1.0, retransmit_tries=3)
    start = stage.sa.last_heard
    stage.pair.silence(10 + 4 * (1 - MARGIN) - 0.01 - (stage.pair.now - start))
    assert stage.host.seen(IkeDown) == []
    stage.pair.silence(4 * MARGIN + 0.02)
    assert [event.reason for event in stage.host.seen(IkeDown)] == ["DPD_TIMEOUT"]


@pytest.mark.parametrize("role", ROLES)
def test_no_liveness_check_beside_another_request(role: str) -> None:
    """The other request is one."""
    stage = reach(role, "ESTABLISHED", dpd_delay=5.0)
    stage.host.command(Rekey(NAME, CHILD))
    stage.pair.hold(12)
    kinds = {flight.message.header.exchange.name for flight in stage.pair.in_flight if flight.receiver is stage.peer}
    assert kinds == {"CREATE_CHILD_SA"}


# --- notifications -------------------------------------------------------------------------------------------------------------

FATAL = {NotifyType.AUTHENTICATION_FAILED}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "kind", [*NotifyType, NotifyType(8191), NotifyType(40959), NotifyType(65535)], ids=lambda kind: kind.name
)
def test_every_notification_from_the_peer_is_answered_and_only_one_is_the_end(role: str, kind: NotifyType) -> None:
    """RFC 7296 2.21.3, 3.10.1: INVALID_SPI, INVALID_SYNTAX and the like in a request tell us something, and end nothing."""
    stage = reach(role, "ESTABLISHED")
    ask(stage, Notify(kind, b"data" * 20, Protocol.ESP, b"\1\2\3\4"))
    assert (stage.host.sas == []) == (kind in FATAL)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", list(NotifyType), ids=lambda kind: kind.name)
def test_no_notification_in_clear_does_anything(role: str, kind: NotifyType) -> None:
    """RFC 7296 1.5, 2.4, 2.21.4; TAHI 1.1.3: INVALID_SPI, AUTHENTICATION_FAILED and the rest are hints at most."""
    stage = reach(role, "ESTABLISHED")
    state, last_heard = stage.sa.state, stage.sa.last_heard
    peer = stage.peer.sas[-1]
    for response in (False, True):
        for number in (0, 1, stage.request_id, stage.response_id):
            stage.deliver(in_clear(peer, INFO, (Notify(kind, b"\1\2\3\4"),), number, response))
            assert (stage.answers(), stage.refusals()) == ([], ["grammar"])
    assert (stage.sa.state, stage.sa.last_heard) == (state, last_heard)


@pytest.mark.parametrize("role", ROLES)
def test_unknown_payloads_in_an_informational_are_ignored(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    reply = ask(stage, VendorId(b"somebody"), *(Unknown(b"x" * 30, kind) for kind in (1, 32, 49, 200, 255)))
    assert reply.payloads == ()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("payload", ["SA", "KE", "NONCE", "IDI", "TSI", "AUTH"])
def test_payloads_that_do_not_belong_in_an_informational(role: str, payload: str) -> None:
    """RFC 7296 2.21.3: it verified, so it is told, and fatal."""
    stage = reach(role, "ESTABLISHED")
    pieces = {
        "SA": KINDS["NEW CHILD"].payloads(stage)[0],
        "NONCE": KINDS["NEW CHILD"].payloads(stage)[1],
        "KE": KINDS["NEW CHILD"].payloads(stage)[2],
        "TSI": KINDS["NEW CHILD"].payloads(stage)[3],
        "IDI": KINDS["IKE_AUTH"].payloads(stage)[0],
        "AUTH": KINDS["IKE_AUTH"].payloads(stage)[1],
    }
    reply = ask(stage, pieces[payload])
    assert [one.type for one in reply.notifies()] == [NotifyType.INVALID_SYNTAX]
    assert stage.host.sas == []


# --- INITIAL_CONTACT ----------------------------------------------------------------------------------------------------------------


def restarted(pair: Pair, seed: int = 77) -> None:
    """The left host forgot everything, as after a crash, and starts again."""
    fresh = Pair(seed=seed)
    fresh.now = pair.now
    pair.left.core = fresh.left.core
    pair.left.data_plane = fresh.left.data_plane
    pair.left.command(Initiate(NAME))
    pair.settle()


def test_a_peer_that_comes_back_after_a_crash_replaces_what_it_has_lost() -> None:
    """RFC 7296 2.4: INITIAL_CONTACT, inside IKE_AUTH, from the peer that authenticated."""
    pair = Pair()
    pair.establish()
    old = pair.right.sa
    pair.now += 10
    restarted(pair)
    assert old.state.name == "DESTROYING"
    assert len(pair.right.sas) == 1
    pair.assert_agreed()


def test_what_a_peer_has_forgotten_does_not_linger() -> None:
    """It sends nothing more on it, and one that begins anew all the time would pile up CHILD_SAs: each is kept for a restart."""
    pair = Pair()
    pair.establish()
    for seed in range(5):
        pair.now += 0.1
        restarted(pair, 88 + seed)
    assert pair.right.sa.lingering == []
    assert set(pair.right.data_plane.inbound) == set(pair.right.sa.children)
    assert len(pair.right.data_plane.inbound) == 1


def test_initial_contact_from_somebody_who_did_not_authenticate_is_nothing() -> None:
    pair = Pair()
    pair.establish()
    old = pair.right.sa
    fresh = Pair(seed=77)
    fresh.now = pair.now = pair.now + 10
    pair.left.core = fresh.left.core
    pair.configure(pair.left, psk=b"not the secret")
    pair.left.command(Initiate(NAME))
    pair.settle()
    assert pair.right.sas == [old]
    assert old.state.name == "ESTABLISHED"
    assert pair.right.seen(IkeDown)[-1].reason == "AUTHENTICATION_FAILED_SENT"


def test_initial_contact_is_sent_with_the_first_ike_sa_and_not_beside_another() -> None:
    pair = Pair()
    pair.left.command(Initiate(NAME))
    pair.deliver()
    pair.deliver()
    request = pair.opened(pair.in_flight[0], pair.right.sas[0])
    assert request.notify(NotifyType.INITIAL_CONTACT) is not None


def test_initial_contact_that_was_written_before_the_other_ike_sa_does_not_end_it() -> None:
    """RFC 7296 2.4 says "the only one with the peer" of the time it was sent: both ends start, one IKE_AUTH is late."""
    stage = reach("responder", "AUTH")
    pair = stage.pair
    pair.right.command(Initiate(NAME))
    pair.settle()
    ours = next(sa for sa in pair.right.sas if sa.is_initiator)
    pair.now += 0.2
    late = next(
        f
        for f in reversed(pair.sent)
        if f.receiver is pair.right and f.message.header.initiator_spi == stage.sa.initiator_spi
    )
    assert pair.opened(late, stage.sa).notify(NotifyType.INITIAL_CONTACT) is not None
    pair.receive(pair.right, late.octets, Endpoint(LEFT, 4500), Endpoint(RIGHT, 4500))
    assert stage.sa.established
    assert ours.established


def test_an_answer_from_before_the_peers_initial_contact_is_not_relied_on_before_it_is_proven() -> None:
    """It crashed after it had answered ours, and begins anew; its answer was on its way all the time."""
    pair = Pair()
    pair.right.command(Initiate(NAME))
    for _ in range(3):
        pair.deliver()
    late = pair.drop()
    pair.in_flight.clear()
    fresh = Pair(seed=77)
    fresh.now = pair.now = pair.now + 1
    pair.left.core, pair.left.data_plane = fresh.left.core, fresh.left.data_plane
    pair.left.command(Initiate(NAME))
    for _ in range(4):
        pair.deliver()
    pair.in_flight.clear()
    carries = pair.right.sa
    pair.receive(pair.right, late.octets, Endpoint(LEFT, 4500), Endpoint(RIGHT, 4500))
    assert [sa.established for sa in pair.right.sas] == [True, True]
    assert pair.right.sa is carries
    pair.assert_flowing()


def test_initial_contact_outside_ike_auth_is_nothing() -> None:
    stage = reach("responder", "ESTABLISHED")
    ask(stage, Notify(NotifyType.INITIAL_CONTACT))
    assert len(stage.host.sas) == 1


# --- addresses ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_only_what_verified_and_is_in_the_window_moves_the_peer(role: str) -> None:
    """iked 2025: the peer's address was taken from a packet nobody had authenticated."""
    stage = reach(role, "ESTABLISHED")
    elsewhere, before = Endpoint("198.51.100.9", 4500), stage.sa.remote
    good = stage.octets(KINDS["LIVENESS"], stage.request_id, False)
    for octets in (good[:-1] + bytes([good[-1] ^ 1]), in_clear(stage.peer.sas[-1], INFO, (), stage.request_id)):
        stage.pair.receive(stage.host, octets, elsewhere, stage.sa.local)
        assert stage.sa.remote == before
    # RFC 7296 2.11: a repeat is answered to where it came from, as through a NAT that has just moved; it moves nobody
    stage.deliver(good)
    stage.pair.in_flight.clear()
    stage.pair.receive(stage.host, good, elsewhere, stage.sa.local)
    assert stage.sa.remote == before
    assert [flight.transmit.remote for flight in stage.pair.in_flight if flight.transmit] == [elsewhere]


def test_liveness_of_both_ends_at_once() -> None:
    pair = Pair()
    pair.establish()
    for host in pair.hosts:
        host.sa.enqueue(Liveness(), pair.now)
    pair.drain()
    assert len(pair.in_flight) == 2
    pair.settle()
    pair.assert_agreed()
    assert {LEFT, RIGHT} == {host.address for host in pair.hosts}
