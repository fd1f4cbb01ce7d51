"""Both ends prove themselves again while the tunnel carries on (RFC 7296 2.8.3, RFC 4478), and set-up without a child (RFC 6023)."""

from __future__ import annotations

import random

import pytest
from support.ike_pair import CHILD, ESP_OFFERS, LEFT, NAME, RIGHT, CheapExchanges, Flight, Host, Pair, connection

from gateway.contract import Endpoint
from gateway.ike import keeping
from gateway.ike.commands import Configure, Initiate, Rekey, Terminate
from gateway.ike.events import ExchangeFailed, IkeDown, IkeUp
from gateway.ike.exchanges import auth, timers
from gateway.ike.exchanges.delete import DeleteIke
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.payloads import Notify, SecurityAssociation
from gateway.ike.proposal import make_offer
from gateway.ike.registry import ExchangeType, NotifyType, Protocol
from gateway.ike.uniqueness import IKE_SAS_MAX


def flowing_for(pair: Pair, seconds: float, step: float = 0.5) -> None:
    """Time passes; at every step what either end sends the other can open."""
    until = pair.now + seconds
    while pair.now < until:
        pair.run(step)
        pair.assert_flowing()


@pytest.mark.parametrize("who", ["left", "right", "both"])
def test_a_new_ike_sa_is_up_before_the_old_one_goes(who: str) -> None:
    pair = Pair()
    for host in pair.hosts:
        if who in ("both", "left" if host is pair.left else "right"):
            pair.configure(host, reauth_time=300.0)
    pair.establish()
    first = pair.left.sa.initiator_spi
    flowing_for(pair, 330)
    pair.assert_agreed()
    assert pair.left.sa.initiator_spi != first
    for host in pair.hosts:
        assert [event.rekeyed for event in host.seen(IkeUp)] == [False, False]
        assert not [event for event in host.seen(IkeDown) if event.reason not in ("", "DELETED_BY_PEER")]
    # Both began anew: the next is a whole time away
    assert pair.left.sa.established_at is not None
    assert pair.left.sa.established_at > 100 + 300 * 0.9 - 1


def test_nothing_is_sent_on_the_old_one_once_its_end_was_answered() -> None:
    """strongSwan deletes the old IKE_SA at once, and keeps none of its inbound SAs; nothing has come on the new one yet."""
    pair = Pair()
    pair.configure(pair.left, reauth_time=300.0)
    pair.establish()
    old_ike, first = pair.left.sa, pair.left.sa.initiator_spi
    (old,) = [child.spi_out for child in pair.right.sa.children.values()]
    used: list[int] = []

    def watch(flight: Flight) -> Flight | None:
        header = flight.message.header
        if flight.receiver is pair.left and header.is_response and header.initiator_spi == first:
            used.append(pair.right.data_plane.active[0])
        later = header.initiator_spi != first and header.exchange == ExchangeType.INFORMATIONAL
        return None if later and not header.is_response else flight

    pair.rewrite = watch
    while len(pair.left.sas) < 2 or not all(sa.established for sa in (*pair.left.sas, *pair.right.sas)):
        pair.run(0.5)
    assert pair.right.data_plane.active[0] == old
    old_ike.enqueue(DeleteIke(""), pair.now)
    pair.drain()
    pair.run(0.5)
    assert used
    assert used[-1] != old
    pair.assert_flowing()


def test_rekeys_do_not_put_it_off() -> None:
    pair = Pair(reauth_time=300.0)
    pair.establish()
    for _ in range(5):
        pair.run(50)
        pair.left.command(Rekey(NAME))
        pair.settle()
    flowing_for(pair, 90)
    assert len([event for event in pair.left.seen(IkeUp) if not event.rekeyed]) == 2
    pair.assert_agreed()


def test_a_reauthentication_that_fails_leaves_the_old_one_and_is_tried_again() -> None:
    pair = Pair()
    pair.configure(pair.left, reauth_time=300.0)
    pair.establish()
    old = pair.left.sa.initiator_spi
    pair.right.command(Configure((connection(pair.right.address, pair.left.address, psk=b"another secret"),)))
    flowing_for(pair, 330)
    pair.assert_agreed()
    assert pair.left.sa.initiator_spi == old
    assert "AUTHENTICATION_FAILED_RECEIVED" in [event.reason for event in pair.left.seen(IkeDown)]
    pair.right.command(Configure((connection(pair.right.address, pair.left.address),)))
    flowing_for(pair, auth.AUTH_MARGIN_MIN + 60)
    pair.assert_agreed()
    assert pair.left.sa.initiator_spi != old


@pytest.mark.parametrize("seed", range(20))
def test_under_loss_exactly_one_remains(seed: int) -> None:
    dice = random.Random(seed)
    pair = Pair(seed=seed, reauth_time=200.0)
    pair.establish()
    pair.rewrite = lambda flight: None if dice.random() < 0.15 else flight
    flowing_for(pair, 500, step=1.0)
    pair.rewrite = lambda flight: flight
    pair.run(30)
    pair.assert_agreed()


def giving_lifetime(seconds: int) -> Pair:
    pair = Pair()
    given = Notify(NotifyType.AUTH_LIFETIME, seconds.to_bytes(4, "big"))
    respond = pair.right.core.serve

    def serve(sa, message, now):  # type: ignore[no-untyped-def]
        answer = sa.respond
        if message.header.exchange == ExchangeType.IKE_AUTH:
            sa.respond = lambda kind, payloads, now: answer(kind, (*payloads, given), now)
        respond(sa, message, now)

    pair.right.core.serve = serve  # type: ignore[method-assign]
    pair.establish()
    return pair


def test_the_peers_lifetime_of_our_proof_is_heeded() -> None:
    """RFC 4478 3."""
    pair = giving_lifetime(120)
    first = pair.left.sa.initiator_spi
    flowing_for(pair, 125)
    assert pair.left.sa.initiator_spi != first
    pair.assert_agreed()


def test_it_is_heeded_also_after_a_reload() -> None:
    pair = giving_lifetime(120)
    first = pair.left.sa.initiator_spi
    pair.configure(pair.left, reauth_time=3600.0)
    pair.configure(pair.left)
    flowing_for(pair, 125)
    assert pair.left.sa.initiator_spi != first
    pair.assert_agreed()


def test_it_is_heeded_by_another_process_that_reloads() -> None:
    pair = giving_lifetime(120)
    kept = keeping.kept(pair.left.sa)
    assert kept is not None
    assert kept.asked_at == keeping.shifted(kept, 5.0).asked_at - 5.0  # type: ignore[operator]
    installed, pair.left = pair.left.data_plane, Host(pair, LEFT, 77, CheapExchanges())
    pair.left.data_plane = installed
    pair.configure(pair.left)
    keeping.resume(pair.left.core, connection(LEFT, RIGHT), kept, pair.now, renew=False)
    pair.configure(pair.left, reauth_time=3600.0)
    assert pair.left.sa.reauth_at == kept.asked_at


def test_a_lifetime_of_a_moment_makes_no_storm_of_ike_sas() -> None:
    pair = giving_lifetime(1)
    flowing_for(pair, 10.5 * auth.AUTH_LIFETIME_LEAST)
    assert 5 <= len([event for event in pair.left.seen(IkeUp) if not event.rekeyed]) <= 11
    pair.assert_agreed()


def test_a_reload_turns_it_on_and_off() -> None:
    pair = Pair()
    pair.establish()
    assert pair.left.sa.reauth_at is None
    pair.configure(pair.left, reauth_time=300.0)
    assert pair.left.sa.reauth_at is not None
    pair.configure(pair.left)
    assert pair.left.sa.reauth_at is None


# --- the rekey check ------------------------------------------------------------------------------------------------

NO_PFS = (make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], [], [False]),)


def test_everything_is_rekeyed_once_soon_after_a_connection_is_new() -> None:
    pair = Pair()
    pair.configure(pair.left, rekey_check=30.0)
    pair.establish()
    child = next(iter(pair.left.sa.children))
    flowing_for(pair, 120)
    pair.assert_agreed()
    counts = pair.left.core.counts(NAME)
    assert (counts.ike_rekeys_ok, counts.child_rekeys_ok[CHILD]) == (1, 1)
    assert child not in pair.left.sa.children
    pair.left.command(Initiate(NAME))
    flowing_for(pair, 300, step=5)
    assert (counts.ike_rekeys_ok, counts.child_rekeys_ok[CHILD]) == (1, 1)


def test_it_is_done_again_only_where_what_is_negotiated_changed() -> None:
    pair = Pair()
    pair.configure(pair.left, rekey_check=30.0)
    pair.establish()
    pair.run(120)
    pair.left.sa.destroy(pair.now, "TERMINATED")
    pair.right.sa.destroy(pair.now, "TERMINATED")
    pair.drain()
    pair.establish()
    assert pair.left.sa.check_at is None
    pair.left.sa.destroy(pair.now, "TERMINATED")
    pair.right.sa.destroy(pair.now, "TERMINATED")
    pair.drain()
    for host in pair.hosts:
        pair.configure(host, rekey_check=30.0, esp=(*ESP_OFFERS, *NO_PFS))
    pair.establish()
    assert pair.left.sa.check_at is not None


def test_a_pfs_group_that_differs_is_found_in_a_minute_and_the_tunnel_carries_on() -> None:
    pair = Pair()
    pair.configure(pair.left, rekey_check=30.0)
    pair.configure(pair.right, esp=NO_PFS)
    pair.establish()
    flowing_for(pair, 70)
    (failed,) = pair.left.seen(ExchangeFailed)
    assert failed.reason == "REKEY_NO_PROPOSAL_CHOSEN"
    assert "ECP_256" in failed.context["ours"]
    assert 3000 < float(failed.context["seconds"]) < 3960
    # Not every ten seconds from now on, but now and then
    flowing_for(pair, 1800, step=20)
    assert 1800 / 450 <= len(pair.left.seen(ExchangeFailed)) <= 1 + 1800 / 300
    assert pair.left.core.counts(NAME).ike_rekeys_ok == 1
    pair.configure(pair.right)
    flowing_for(pair, 460, step=5)
    assert pair.left.core.counts(NAME).child_rekeys_ok[CHILD] == 1
    pair.assert_agreed()


def test_an_ike_proposal_that_a_rekey_refuses_is_found_too() -> None:
    pair = Pair()
    pair.configure(pair.left, rekey_check=30.0)
    pair.establish()
    pair.right.sa.settings = connection(
        pair.right.address,
        pair.left.address,
        offers=(make_offer(Protocol.IKE, [("aes-cbc", 128)], ["sha256"], ["sha256"], ["ecp521"]),),
    )
    flowing_for(pair, 70)
    (failed,) = pair.left.seen(ExchangeFailed)
    assert failed.reason == "IKE_REKEY_NO_PROPOSAL_CHOSEN"
    assert "ECP_384" in failed.context["ours"]
    flowing_for(pair, 290, step=10)
    assert len(pair.left.seen(ExchangeFailed)) == 1


# --- childless ------------------------------------------------------------------------------------------------------


def _auth_with_child(pair: Pair) -> list[bool]:
    keys = pair.left.sas[0].keys
    assert keys is not None
    return [
        pair.opened(flight).first(SecurityAssociation) is not None
        for flight in pair.sent
        if flight.message.header.exchange == ExchangeType.IKE_AUTH and not flight.message.header.is_response
    ]


@pytest.mark.parametrize("wanted", [False, True])
def test_the_first_child_comes_by_itself_where_both_want_it(wanted: bool) -> None:
    pair = Pair(childless=wanted)
    pair.establish()
    assert _auth_with_child(pair) == [not wanted]
    child = next(iter(pair.left.sa.children.values()))
    assert bool(child.choice.key_exchange) == wanted  # PFS from the first on


def test_a_peer_that_cannot_gets_its_child_in_ike_auth() -> None:
    marker = int(NotifyType.CHILDLESS_IKEV2_SUPPORTED).to_bytes(2, "big")

    def without(flight: Flight) -> Flight:
        if flight.message.header.exchange != ExchangeType.IKE_SA_INIT or flight.transmit is None:
            return flight
        octets = flight.octets.replace(b"\0\0" + marker, b"\0\0" + (40000).to_bytes(2, "big"))
        return Flight(flight.receiver, type(flight.transmit)(octets, flight.transmit.local, flight.transmit.remote))

    pair = Pair(childless=True)
    pair.rewrite = without
    pair.left.command(Initiate(NAME))
    pair.deliver()
    pair.deliver()
    assert not pair.left.sas[0].childless
    # RFC 7296 2.15: AUTH covers what was changed on the way
    pair.settle()
    assert pair.left.sas == []
    assert not pair.left.data_plane.inbound


# --- neighbors of an IKE_SA -----------------------------------------------------------------------------------------


def test_half_open_ike_sas_that_strangers_began_do_not_hold_up_a_rekey() -> None:
    """Anybody can send IKE_SA_INIT from the peer's address; only authenticated IKE_SAs count against the peer."""
    pair = Pair()
    pair.establish()
    for number in range(IKE_SAS_MAX + 4):
        stranger = Pair(seed=100 + number)
        stranger.left.command(Initiate(NAME))
        pair.receive(pair.right, stranger.in_flight[0].octets, Endpoint(pair.left.address, 2000 + number))
    pair.in_flight.clear()
    assert pair.right.core.half_open == IKE_SAS_MAX + 4
    before = pair.left.sa.initiator_spi
    pair.left.command(Rekey(NAME))
    pair.settle()
    assert pair.left.sa.initiator_spi != before
    assert pair.left.core.counts(NAME).ike_rekeys_ok == 1


def test_a_delete_that_nobody_confirms_does_not_keep_us_from_beginning_anew() -> None:
    pair = Pair()
    pair.establish()
    pair.left.command(Terminate(NAME))
    pair.in_flight.clear()
    pair.left.command(Initiate(NAME))
    pair.settle()
    assert pair.left.core.primary(NAME) is not None
    pair.run(60)
    pair.assert_agreed()


def test_a_duplicate_is_not_closed_while_it_makes_a_child() -> None:
    """It may come to carry it, and the other IKE_SA not yet."""
    pair = Pair()
    pair.establish()
    sa = pair.left.sa
    pair.left.core.reauthenticate(sa, pair.now)
    pair.drain()
    pair.settle()
    assert sa.close_at is not None
    sa.enqueue(Liveness(), pair.now)
    pair.drain()
    pair.hold(sa.close_at - pair.now + 0.1)
    assert sa.state.name == "ESTABLISHED"
    assert sa.exchange is not None
    pair.run(5)
    pair.assert_agreed()


def test_a_duplicate_goes_only_when_nothing_that_it_carried_is_on_its_way() -> None:
    """It may have carried something until just before it is looked at."""
    pair = Pair()
    pair.establish()
    sa = pair.left.sa
    pair.left.core.reauthenticate(sa, pair.now)
    pair.drain()
    pair.settle()
    assert sa.close_at is not None
    pair.run(sa.close_at - pair.now + 0.1)
    assert (sa.established, sa.exchange) == (True, None)
    pair.run(timers.COVER_WAIT)
    assert not sa.established
    pair.assert_agreed()
