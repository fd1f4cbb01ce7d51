"""What a reading by fresh eyes found in several key exchanges, reauthentication and proofs; each with its reproduction."""

from __future__ import annotations

import pytest
from support.ike_pair import CHILD, NAME, CheapExchanges, DataPlane, Pair, connection
from support.ike_stages import KINDS, reach

from gateway.ike.commands import Configure, Initiate, Rekey
from gateway.ike.errors import PeerError
from gateway.ike.events import ChildInstall, ExchangeFailed, IkeDown, Notice
from gateway.ike.exchanges.delete import DeleteChild
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.key_exchange import KeyPair
from gateway.ike.payloads import Notify
from gateway.ike.proposal import accept, make_offer, payload, select
from gateway.ike.registry import ExchangeType, NotifyType, Protocol

HYBRID = make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["x25519"], (), [(1, ["mlkem768"])])
CLASSIC = make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["x25519"])


class Broken(CheapExchanges):
    """A defect of ours in public-key work."""

    def agree(self, pair: KeyPair, peer_public: bytes) -> bytes:
        raise UnboundLocalError("nobody thought of this")


def test_a_defect_in_public_key_work_ends_the_attempt_and_hangs_nothing() -> None:
    pair = Pair()
    pair.left.core.key_exchanges = Broken()
    work = pair._work

    def reporting(host, effect):  # type: ignore[no-untyped-def]
        """As the shell does it: whatever the job raised is its result."""

        def run() -> None:
            try:
                result: object = effect.job()
            except Exception as error:
                result = error
            host.core.computed(effect.ticket, result, pair.now)

        return run if host is pair.left else work(host, effect)

    pair._work = reporting  # type: ignore[method-assign]
    pair.left.command(Initiate(NAME))
    pair.run(60)
    assert pair.left.sas == []
    assert [notice.event for notice in pair.left.seen(Notice)].count("compute-failed") >= 1
    assert pair.left.core.next_deadline() is None


def test_a_reload_while_an_ike_sa_is_set_up_begins_it_anew() -> None:
    """It would come up by what the old settings allowed."""
    pair = Pair()
    for host in pair.hosts:
        pair.configure(host, offers=(HYBRID, CLASSIC))
    pair.configure(pair.left, offers=(CLASSIC,))
    pair.left.command(Initiate(NAME))
    pair.deliver()
    pair.deliver()
    assert pair.left.sas[0].state.name == "CONNECTING"
    pair.configure(pair.left, offers=(HYBRID,), post_quantum="require")
    assert pair.left.sas == []
    assert pair.left.seen(IkeDown)[-1].reason == "CONFIGURATION_CHANGED"
    pair.left.command(Initiate(NAME))
    pair.run(40)
    assert pair.left.sa.keys is not None
    assert pair.left.sa.keys.choice.post_quantum


def test_children_follow_an_ike_sa_that_becomes_post_quantum() -> None:
    """Their keys come from those of the IKE_SA that was not."""
    pair = Pair(offers=(CLASSIC,))
    pair.establish()
    old = set(pair.left.sa.children)
    for host in pair.hosts:
        pair.configure(host, offers=(HYBRID,), post_quantum="require")
    pair.run(90)
    pair.assert_agreed()
    assert pair.left.sa.keys is not None
    assert pair.left.sa.keys.choice.post_quantum
    assert not old & set(pair.left.sa.children)


class Careless(DataPlane):
    def take(self, event: object) -> None:
        """Minds nothing."""


def test_an_spi_that_another_ike_sa_of_the_connection_sends_by_is_refused() -> None:
    """The data plane knows outbound SAs by connection and SPI."""
    pair = Pair()
    pair.establish()
    (taken,) = pair.right.sa.children
    pair.right.core._child_spis.clear()
    pair.right.data_plane = Careless()  # its inbound SPI twice is what the peer does wrong
    pair.right.random.scripted[4] = [taken.to_bytes(4, "big")]
    pair.left.core.reauthenticate(pair.left.sa, pair.now)
    pair.drain()
    pair.settle()
    used = [event.spi_out for event in pair.left.seen(ChildInstall)]
    assert len(used) == len(set(used))
    assert any("SPI" in event.context.get("detail", "") for event in pair.left.seen(ExchangeFailed))
    assert pair.left.sa.established


def test_another_group_is_not_asked_for_in_the_middle_of_a_rekey() -> None:
    esp = (make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], ["x25519", "ecp256"], [False], [(1, ["mlkem768"])]),)
    pair = Pair(esp=esp, fragment_size=0)
    pair.establish()
    pair.left.command(Rekey(NAME, CHILD))
    while pair.in_flight[0].message.header.exchange != ExchangeType.IKE_FOLLOWUP_KE:
        pair.deliver()
    right = pair.right.sa
    pair.drop()
    right.window.answering = True
    right.respond(
        ExchangeType.IKE_FOLLOWUP_KE, (Notify(NotifyType.INVALID_KE_PAYLOAD, (19).to_bytes(2, "big")),), pair.now
    )
    pair.drain()
    pair.settle()
    assert [event.reason for event in pair.left.seen(ExchangeFailed)] == ["REKEY_INVALID_KE_PAYLOAD"]
    assert pair.left.sa.established
    pair.assert_flowing()


def test_additional_key_exchanges_without_a_first_are_no_suite() -> None:
    """RFC 9370 2.2; the leniency towards answers without PFS must not let them in."""
    sent = payload(
        [make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], ["x25519"], [False], [(1, ["mlkem768"])])], b"\0\0\1\0"
    )
    headless = make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], [], [False], [(1, ["mlkem768"])])
    with pytest.raises(PeerError, match="no_proposal"):
        accept(sent, payload([headless], b"\0\0\2\0"))
    with pytest.raises(PeerError, match="no_proposal"):
        select([headless], payload([headless], b"\0\0\2\0"), Protocol.ESP)


def test_a_rekey_just_over_is_no_reason_to_put_off_reauthentication() -> None:
    pair = Pair()
    pair.establish()
    pair.left.command(Rekey(NAME))
    pair.settle()
    pair.right.command(Configure((connection(pair.right.address, pair.left.address),)))
    assert pair.left.core.reauthenticate(pair.left.sa, pair.now)
    pair.drain()
    pair.run(30)
    pair.assert_agreed()


def test_a_child_sa_whose_delete_waits_its_turn_is_not_rekeyed() -> None:
    """Else what is one too many after a collision lives on in its successor: found by the simulator, over a reload."""
    stage = reach("responder", "ESTABLISHED")
    (child,) = stage.sa.children.values()
    stage.sa.enqueue(Liveness(), stage.pair.now)
    stage.sa.enqueue(DeleteChild(child), stage.pair.now)
    stage.pair.drain()
    stage.deliver(stage.octets(KINDS["REKEY CHILD"], stage.request_id, False))
    assert stage.outcome() == "ESTABLISHED <CREATE_CHILD_SA[TEMPORARY_FAILURE] -temporary"
    assert list(stage.sa.children.values()) == [child]


def test_what_is_about_to_be_deleted_carries_on_where_its_successor_is_gone_again() -> None:
    """We replace a CHILD_SA, and the peer deletes the new one before our DELETE of the old one goes out."""
    pair = Pair()
    pair.establish()
    (old,) = pair.left.sa.children.values()
    pair.left.command(Rekey(NAME, CHILD))
    pair.left.sa.enqueue(Liveness(), pair.now)
    pair.deliver()
    pair.deliver()
    assert old.successor is not None
    assert old.successor.active
    made = old.successor
    (new,) = [child for child in pair.right.sa.children.values() if child.spi_in == made.spi_out]
    pair.right.sa.enqueue(DeleteChild(new), pair.now)
    pair.drain()
    pair.deliver(1)
    assert made.spi_in not in pair.left.sa.children
    pair.deliver()
    pair.deliver(1)
    assert pair.left.sa.exchange is not None
    assert old.state.name == "DELETING"
    assert pair.left.data_plane.active == [old.spi_out]
    pair.assert_flowing()
