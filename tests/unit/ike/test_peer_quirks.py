"""What peers do that the RFC does not ask for, and what they refuse or are refused, as the endpoints see and say it."""

from __future__ import annotations

import pytest
from support.ike_pair import CHILD, NAME, Pair

from gateway.ike.child import PROOF_PATIENCE
from gateway.ike.commands import Initiate, Rekey, TrafficSeen
from gateway.ike.events import ExchangeFailed, IkeDown
from gateway.ike.exchanges.auth import UNFRAGMENTED_MAX, unanswered
from gateway.ike.proposal import make_offer
from gateway.ike.registry import Protocol

NO_PFS = (make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], [], [False]),)
OTHER_GROUP = (make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["modp1024"]),)


def test_a_peer_that_does_not_delete_what_it_rekeyed_is_rekeyed_by_us_on_the_new_one() -> None:
    pair = Pair()
    pair.establish()
    pair.left.command(Rekey(NAME, CHILD))
    pair.deliver()
    pair.deliver()
    old, new = pair.right.sa.children.values()
    _forget_delete(pair, old.spi_out)
    pair.right.command(TrafficSeen(NAME, frozenset({new.spi_in})))
    assert pair.right.data_plane.active[0] == new.spi_out
    assert pair.right.sa.usable_child(CHILD) is new
    pair.right.command(Rekey(NAME, CHILD))
    pair.settle()
    assert new.spi_in not in pair.right.sa.children
    assert old.spi_in in pair.right.sa.children
    pair.run(PROOF_PATIENCE + 1)
    assert old.spi_in not in pair.right.sa.children, "then we delete it"
    pair.assert_agreed()


def test_what_the_peer_replaced_and_does_not_delete_we_delete() -> None:
    """It may hold the old one no more, and waits for nothing: strongSwan 6.0 with two rekeys amid loss."""
    pair = Pair()
    pair.establish()
    pair.left.command(Rekey(NAME, CHILD))
    pair.deliver()
    pair.deliver()
    old, new = pair.right.sa.children.values()
    _forget_delete(pair, old.spi_out)
    pair.run(PROOF_PATIENCE - 1)
    assert old.active and not new.active, "it has the time of all its repetitions"
    pair.run(2)
    assert list(pair.right.sa.children.values()) == [new] and new.active
    assert pair.right.data_plane.active[0] == new.spi_out


def _forget_delete(pair: Pair, spi_in: int) -> None:
    """The DELETE that is on its way from the left was never sent, and it has the CHILD_SA no more."""
    sa = pair.left.sa
    pair.drop()
    sa.window.next_request -= 1
    sa.window.pending = sa.exchange = None
    sa.retire(sa.children[spi_in], pair.now, linger=False)
    pair.drain()


@pytest.mark.parametrize(
    ("child", "changes", "reason", "offered"),
    [
        (CHILD, {"esp": NO_PFS}, "PEER_REKEY_NO_PROPOSAL_CHOSEN", "ESP:AES_GCM_16-256/NO_ESN"),
        ("", {"offers": OTHER_GROUP}, "PEER_IKE_REKEY_NO_PROPOSAL_CHOSEN", "MODP_1024"),
    ],
)
def test_a_rekey_of_the_peer_s_that_we_refuse_is_told(
    child: str, changes: dict[str, object], reason: str, offered: str
) -> None:
    pair = Pair()
    pair.establish()
    # Of a rekey of its own, by the configuration
    pair.configure(pair.left, **changes)
    pair.settle()
    told = [one for one in pair.right.seen(ExchangeFailed) if one.reason == reason]
    assert [(one.child, offered in one.context["detail"]) for one in told] == [(child, True)]
    assert "ECP" in told[0].context["ours"]
    pair.assert_flowing()


@pytest.mark.parametrize(("sizes", "reason", "fragments"), [
    ((400,), "NO_ANSWER_ON_4500", None),
    ((1200, 1200, 300), "NO_ANSWER_ON_4500", "3"),
    ((UNFRAGMENTED_MAX + 1,), "IP_FRAGMENTS_LOST", None),
])  # fmt: skip
def test_what_happened_to_an_ike_auth_is_told_by_its_size(
    sizes: tuple[int, ...], reason: str, fragments: str | None
) -> None:
    pair = Pair()
    pair.left.command(Initiate(NAME))
    pair.deliver()
    pair.deliver()
    (sa,) = pair.left.sas
    found, context = unanswered(sa, tuple(bytes(size) for size in sizes))
    assert (found, context.get("fragments"), context["octets"]) == (reason, fragments, str(max(sizes)))


def test_without_encapsulation_nothing_is_said_of_port_4500() -> None:
    pair = Pair(encap=False)
    pair.left.command(Initiate(NAME))
    pair.deliver()
    pair.deliver()
    pair.silence(120)
    assert [event.reason for event in pair.left.seen(IkeDown)] == ["NO_ANSWER_TO_IKE_AUTH"]
