"""Post-quantum preshared keys (RFC 8784): mixed in by both, required by default, never lost in silence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.ike_pair import NAME, Flight, Pair

from gateway.ike.commands import Initiate, Rekey
from gateway.ike.events import IkeDown, IkeUp, Notice
from gateway.ike.keymat import prf_plus
from gateway.ike.message import Message, emit_message
from gateway.ike.payloads import Notify
from gateway.ike.registry import ExchangeType, NotifyType
from gateway.ike.settings import PostQuantumKey

SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))
REQUIRED, WANTED = PostQuantumKey(b"q", SECRET), PostQuantumKey(b"q", SECRET, required=False)
RENAMED, WANTED_RENAMED = PostQuantumKey(b"r", SECRET), PostQuantumKey(b"r", SECRET, required=False)
CHANGED = PostQuantumKey(b"q", OTHER)


def pair_with(left: PostQuantumKey | None, right: PostQuantumKey | None) -> Pair:
    pair = Pair()
    pair.configure(pair.left, ppk=left)
    pair.configure(pair.right, ppk=right)
    pair.left.command(Initiate(NAME))
    return pair


def warned(pair: Pair) -> list[bool]:
    return [any(one.event == "ppk-not-used" for one in host.seen(Notice)) for host in pair.hosts]


@pytest.mark.parametrize(
    ("left", "right"), [(REQUIRED, REQUIRED), (REQUIRED, WANTED), (WANTED, REQUIRED), (WANTED, WANTED)]
)
def test_both_have_it(left: PostQuantumKey, right: PostQuantumKey) -> None:
    pair = pair_with(left, right)
    seen: list[Any] = []

    def watch(flight: Flight) -> Flight:
        keys = pair.left.sas[0].keys if pair.left.sas else None
        if flight.message.header.exchange == ExchangeType.IKE_AUTH and keys is not None:
            seen.append((keys._sk_d, keys._sk_pi, keys._sk_pr, pair.opened(flight)))
        return flight

    pair.rewrite = watch
    pair.settle()
    pair.assert_agreed()
    assert [host.sas[0].ppk for host in pair.hosts] == [True, True]
    assert warned(pair) == [False, False]
    (before, *_), request = seen[0][:3], seen[0][3]
    keys = pair.left.sas[0].keys
    assert keys is not None
    # RFC 8784 3: SK_d = prf+ (PPK, SK_d')
    for old, new in zip(seen[0][:3], (keys._sk_d, keys._sk_pi, keys._sk_pr), strict=True):
        assert new == prf_plus(keys.choice.prf, SECRET, old, len(old)) != old
    assert before != keys._sk_d
    assert request.notify(NotifyType.PPK_IDENTITY).data == b"\x02q"
    assert (request.notify(NotifyType.NO_PPK_AUTH) is None) == left.required


def test_what_comes_later_is_derived_from_it() -> None:
    """SK_d is what CHILD_SAs and rekeys come from."""
    pair = pair_with(REQUIRED, REQUIRED)
    pair.settle()
    for host in pair.hosts:
        host.command(Rekey(NAME, "net"))
        pair.settle()
        host.command(Rekey(NAME))
        pair.settle()
    pair.assert_agreed()
    pair.assert_flowing()
    assert [host.sas[0].ppk for host in pair.hosts] == [True, True]


@pytest.mark.parametrize(
    ("left", "right", "alarms"),
    [
        (WANTED, None, [True, False]),
        (None, WANTED, [False, True]),
        (WANTED, WANTED_RENAMED, [True, True]),
    ],
)
def test_who_only_wants_it_goes_without_and_says_so(
    left: PostQuantumKey | None, right: PostQuantumKey | None, alarms: list[bool]
) -> None:
    pair = pair_with(left, right)
    pair.settle()
    pair.assert_agreed()
    assert [host.sas[0].ppk for host in pair.hosts] == [False, False]
    assert warned(pair) == alarms


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (REQUIRED, None),
        (None, REQUIRED),
        (REQUIRED, RENAMED),
        (REQUIRED, WANTED_RENAMED),
        (WANTED, RENAMED),
        (REQUIRED, CHANGED),
        (WANTED, CHANGED),
    ],
)
def test_who_requires_it_does_not_go_without(left: PostQuantumKey | None, right: PostQuantumKey | None) -> None:
    pair = pair_with(left, right)
    pair.settle()
    pair.run(60)
    assert pair.left.seen(IkeUp) == pair.right.seen(IkeUp) == []
    assert pair.left.sas == pair.right.sas == []
    reasons = [one.reason for host in pair.hosts for one in host.seen(IkeDown)]
    assert set(reasons) & {
        "USE_PPK_IKE", "USE_PPK", "NO_PROPOSAL_CHOSEN_IKE", "AUTHENTICATION_FAILED_SENT", "AUTHENTICATION_FAILED_RECEIVED"
    }  # fmt: skip


def test_an_attacker_who_takes_the_notifications_out_gets_no_weaker_tunnel() -> None:
    """IKE_SA_INIT is signed in IKE_AUTH; who requires the PPK does not even get there."""

    def without(flight: Flight) -> Flight:
        message = flight.message
        return flight if message.header.exchange != ExchangeType.IKE_SA_INIT else stripped(flight, message)

    for left, right in ((REQUIRED, REQUIRED), (WANTED, WANTED)):
        pair = Pair()
        pair.rewrite = without
        pair.configure(pair.left, ppk=left)
        pair.configure(pair.right, ppk=right)
        pair.left.command(Initiate(NAME))
        pair.settle()
        pair.run(60)
        assert pair.left.seen(IkeUp) == pair.right.seen(IkeUp) == []


def stripped(flight: Flight, message: Message) -> Flight:
    kept = tuple(one for one in message.payloads if not (isinstance(one, Notify) and one.type == NotifyType.USE_PPK))
    assert flight.transmit is not None
    return replace(flight, transmit=replace(flight.transmit, data=emit_message(message.header, kept)))


def test_the_secret_does_not_print() -> None:
    assert "secret" not in repr(REQUIRED) and SECRET.hex() not in repr(REQUIRED)
