"""Redirects (RFC 5685): followed where configured, bounded, and only to addresses; sent to who can and began."""

from __future__ import annotations

from typing import Any

import pytest
from support.ike_pair import (
    CHILD,
    LEFT,
    NAME,
    RIGHT,
    CheapExchanges,
    Flight,
    Host,
    Pair,
    connection,
    header,
    identity,
    snapshot,
)

from gateway.contract import Endpoint
from gateway.ike.commands import Configure, CreateChildSa, Drain, Initiate, Rekey
from gateway.ike.events import ChildInstall, IkeDown
from gateway.ike.message import emit_message
from gateway.ike.payloads import Authentication, IdentificationResponder, Notify, SecurityAssociation
from gateway.ike.registry import ExchangeType, NotifyType
from gateway.ike.settings import ConnectionSettings

THERE = "10.0.0.9"
INFO, INIT = ExchangeType.INFORMATIONAL, ExchangeType.IKE_SA_INIT
ADDRESS = bytes((1, 4, 10, 0, 0, 9))
REDIRECT = NotifyType.REDIRECT


class Trio(Pair):
    """A second gateway beside the right host, with its identity."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        self.other = Host(self, THERE, 3000, CheapExchanges())
        self.other.command(Configure((self.settings_there(**changes),)))
        self.rewrite = self.route

    def settings_there(self, **changes: Any) -> ConnectionSettings:
        return connection(THERE, LEFT, local_id=identity(RIGHT), **changes)

    @property
    def hosts(self) -> tuple[Host, ...]:  # type: ignore[override]
        return (self.left, self.right, self.other) if hasattr(self, "other") else (self.left, self.right)

    def route(self, flight: Flight) -> Flight | None:
        assert flight.transmit is not None
        known = {host.address: host for host in self.hosts}.get(flight.transmit.remote.host)
        return Flight(known, flight.transmit) if known else None

    def up_between(self, there: Host, *, alone: bool = True) -> None:
        assert self.left.sa.remote.host == there.address
        (sa,) = there.sas
        assert (sa.established, sa.initiator_spi) == (True, self.left.sa.initiator_spi)
        assert len(self.left.sas) == 1
        others = [host for host in self.hosts if host not in (self.left, there)]
        assert [host.sas for host in others] == [[]] or not alone


def trio(**changes: Any) -> Trio:
    return Trio(**({"redirect": "follow"} | changes))


def established(**changes: Any) -> Trio:
    made = trio(**changes)
    made.left.command(Initiate(NAME))
    made.settle()
    made.up_between(made.right)
    return made


def inits(made: Trio, to: str) -> list[Flight]:
    return [
        flight for flight in made.sent
        if flight.transmit and flight.transmit.remote.host == to and flight.message.header.exchange == INIT
        and not flight.message.header.is_response
    ]  # fmt: skip


def test_a_new_ike_sa_begins_elsewhere() -> None:
    made = trio()
    made.right.command(Drain(NAME, THERE))
    made.left.command(Initiate(NAME))
    made.settle()
    made.up_between(made.other)
    assert inits(made, RIGHT)[0].message.notify(NotifyType.REDIRECT_SUPPORTED) is not None
    told = inits(made, THERE)[0].message.notify(NotifyType.REDIRECTED_FROM)
    assert told is not None
    assert told.data == bytes((1, 4, 10, 0, 0, 2))
    assert made.right.core.half_open == 0
    assert [event.reason for event in made.left.seen(IkeDown)] == [""]


def test_the_answer_is_no_longer_than_the_question() -> None:
    made = trio()
    made.right.command(Drain(NAME, THERE))
    made.left.command(Initiate(NAME))
    question = made.in_flight[0].octets
    made.deliver()
    assert len(made.in_flight[0].octets) < len(question)


def test_an_established_one_moves_before_it_is_closed() -> None:
    """Whatever happens there, the tunnel stands here until it stands there."""
    made = established()
    old = made.left.sa
    made.right.command(Drain(NAME, THERE))
    made.settle()
    assert old.established
    made.run(10)
    made.up_between(made.other)
    made.left.command(Rekey(NAME))
    made.settle()
    made.up_between(made.other)


@pytest.mark.parametrize("who", ["left", "right"])
def test_a_rekey_takes_the_order_along(who: str) -> None:
    """It waits behind our rekey; or the peer deletes the old IKE_SA and never had it."""
    made = established()
    if who == "right":
        made.right.command(Rekey(NAME))
    made.right.command(Drain(NAME, THERE))
    if who == "left":
        made.drop()
        made.left.command(Rekey(NAME))
    made.run(15)
    made.up_between(made.other)


def test_who_goes_is_not_called_back() -> None:
    made = established()
    made.right.command(Drain(NAME, THERE))
    made.drop()
    assert not made.right.core.reauthenticate(made.right.sa, made.now)
    made.right.command(Drain(NAME))
    assert made.right.core.reauthenticate(made.right.sa, made.now)


def test_that_the_first_gateway_holds_nothing_is_not_said_of_the_second() -> None:
    """RFC 7296 2.4: both have one identity, but INITIAL_CONTACT is of one of them. What stands at the other stays until this stands."""
    made = established()
    made.right.command(Drain(NAME, THERE))
    made.run(40)
    made.up_between(made.other)
    made.right.command(Drain(NAME))
    made.right.command(Initiate(NAME))
    made.settle()
    assert {sa.remote.host for sa in made.left.sas if sa.established} == {RIGHT, THERE}
    made.run(15)
    made.up_between(made.right)


def test_nobody_there_and_it_stays() -> None:
    made = established()
    made.other.command(Configure(()))
    made.right.command(Drain(NAME, THERE))
    made.run(120)
    made.up_between(made.right, alone=False)
    # The next attempt goes where the configuration says
    made.right.command(Drain(NAME))
    count = len(inits(made, RIGHT))
    made.left.sa.destroy(made.now, "TERMINATED")
    made.left.command(Initiate(NAME))
    made.settle()
    assert len(inits(made, RIGHT)) > count


def test_draining_ends() -> None:
    made = trio()
    made.right.command(Drain(NAME, THERE))
    made.right.command(Drain(NAME))
    made.left.command(Initiate(NAME))
    made.settle()
    made.up_between(made.right)


@pytest.mark.parametrize("drained_first", [True, False])
def test_who_cannot_be_redirected_is_served(drained_first: bool) -> None:
    made = trio(redirect="ignore")
    for step in (0, 1):
        if (step == 0) == drained_first:
            made.right.command(Drain(NAME, THERE))
        else:
            made.left.command(Initiate(NAME))
        made.settle()
    made.up_between(made.right)
    assert not any(flight.message.notify(REDIRECT) for flight in made.sent if flight.message.header.exchange == INIT)


def test_who_answered_us_is_not_sent_away() -> None:
    """RFC 5685: a responder redirects its initiator; the other way round nobody announced that it follows."""
    made = established()
    sent = len(made.sent)
    made.left.command(Drain(NAME, THERE))
    made.settle()
    assert len(made.sent) == sent
    answer = made.request(made.left, INFO, (Notify(REDIRECT, ADDRESS),))
    assert answer is not None
    made.run(10)
    made.up_between(made.right)
    assert inits(made, THERE) == []


# --- what is not followed -------------------------------------------------------------------------------------------

BAD = {
    "a name": bytes((3, 11)) + b"gw.example.",
    "nothing": b"",
    "half an address": bytes((1, 4, 10, 0)),
    "another length": bytes((1, 5, 10, 0, 0, 9, 9)),
    "another type": bytes((9, 4, 10, 0, 0, 9)),
    "the other family": bytes((2, 16)) + bytes(15) + b"\x09",
    "here": bytes((1, 4, 10, 0, 0, 2)),
    "everybody": bytes((1, 4, 224, 0, 0, 1)),
    "nowhere": bytes((1, 4, 0, 0, 0, 0)),
    "ourselves": bytes((1, 4, 127, 0, 0, 1)),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_an_ike_sa_goes_only_to_an_address(data: bytes) -> None:
    made = established()
    assert made.request(made.right, INFO, (Notify(REDIRECT, data),)) is not None
    made.run(10)
    made.up_between(made.right)
    assert made.left.rejected["redirect"] == 1


def test_one_is_ignored_unless_it_is_to_be_followed() -> None:
    made = established(redirect="ignore")
    assert made.request(made.right, INFO, (Notify(REDIRECT, ADDRESS),)) is not None
    made.run(10)
    made.up_between(made.right)
    assert made.left.rejected == {"redirect": 1}


def forged(made: Trio, data: bytes) -> bytes:
    """In the right host's name, to our IKE_SA_INIT."""
    sa = made.left.sas[0]
    head = header(sa, INIT, 0, True)
    head = type(head)(head.initiator_spi, 0, INIT, head.flags & ~8, 0)
    return emit_message(head, (Notify(REDIRECT, data),))


@pytest.mark.parametrize("nonce", [b"", bytes(32), "long"])
def test_an_answer_without_our_nonce_changes_nothing(nonce: bytes | str) -> None:
    """RFC 5685 3: whoever has not seen the request does not send us away."""
    made = trio()
    made.left.command(Initiate(NAME))
    (question,) = made.in_flight
    data = made.left.sas[0].ni + b"x" if isinstance(nonce, str) else nonce
    made.receive(made.left, forged(made, ADDRESS + data))
    assert made.left.rejected == {"redirect": 1}
    assert made.in_flight == [question]
    made.settle()
    made.up_between(made.right)


def test_what_is_not_followed_is_the_reason_if_nothing_better_comes() -> None:
    made = trio(redirect="ignore")
    made.left.command(Initiate(NAME))
    made.in_flight.clear()
    made.receive(made.left, forged(made, ADDRESS + made.left.sas[0].ni))
    made.silence(10)
    assert [event.reason for event in made.left.seen(IkeDown)] == ["REDIRECT_REFUSED"]


def test_two_that_point_at_each_other_are_left_after_five_times() -> None:
    """RFC 5685 7."""
    made = trio()
    made.right.command(Drain(NAME, THERE))
    made.other.command(Drain(NAME, RIGHT))
    made.left.command(Initiate(NAME))
    made.settle()
    assert len(inits(made, RIGHT)) + len(inits(made, THERE)) == 6
    made.run(30)
    assert made.left.seen(IkeDown)[-1].reason == "REDIRECT_REFUSED"
    made.now += 300
    made.other.command(Drain(NAME))
    made.left.command(Initiate(NAME))
    made.settle()
    made.up_between(made.other)


def test_a_redirect_in_ike_auth_is_followed_once_it_is_proven() -> None:
    made = trio()

    def tamper(flight: Flight) -> Flight | None:
        kind, sent = flight.message.header.exchange, flight.transmit
        assert sent is not None
        if flight.receiver is not made.left or kind != ExchangeType.IKE_AUTH or sent.local.host != RIGHT:
            return made.route(flight)
        opened = made.opened(flight, made.left.sas[0])
        proof = tuple(one for one in opened.payloads if isinstance(one, IdentificationResponder | Authentication))
        payloads = (*proof, Notify(REDIRECT, ADDRESS))
        octets = made.sealed(made.right, kind, payloads, message_id=1, response=True)
        return Flight(made.left, type(sent)(bytes(4) + octets, sent.local, sent.remote))

    made.rewrite = tamper
    made.left.command(Initiate(NAME))
    made.run(15)
    made.up_between(made.other)


def until_ike_auth(made: Trio) -> None:
    """The left host has its IKE_SA_INIT answered, and its IKE_AUTH is on its way."""
    made.left.command(Initiate(NAME))
    made.deliver()
    made.deliver()
    assert made.in_flight[0].message.header.exchange == ExchangeType.IKE_AUTH


def test_who_comes_when_draining_has_just_begun_is_sent_away_in_ike_auth() -> None:
    """Its IKE_SA_INIT was answered before; both prove themselves, and no CHILD_SA is made where it is not to stay."""
    made = trio()
    until_ike_auth(made)
    made.right.command(Drain(NAME, THERE))
    made.deliver()
    answer = made.opened(made.in_flight[0], made.left.sas[0])
    sent = answer.notify(REDIRECT)
    assert sent is not None
    assert sent.data == ADDRESS
    assert answer.first(Authentication) is not None
    assert answer.first(SecurityAssociation) is None
    assert made.right.seen(ChildInstall) == []
    made.run(15)
    made.up_between(made.other)
    assert made.right.seen(ChildInstall) == []


def test_who_was_sent_away_and_does_not_go_is_served_after_all() -> None:
    made = trio()
    made.other.command(Configure(()))
    until_ike_auth(made)
    made.right.command(Drain(NAME, THERE))
    made.run(60)
    made.left.command(CreateChildSa(NAME, CHILD))
    made.settle()
    made.up_between(made.right, alone=False)
    assert len(made.left.sa.children) == len(made.right.sa.children) == 1


def test_who_cannot_be_redirected_is_served_in_ike_auth() -> None:
    made = trio()
    made.left.command(Configure((connection(LEFT, RIGHT),)))
    until_ike_auth(made)
    made.right.command(Drain(NAME, THERE))
    made.settle()
    made.up_between(made.right)


def test_nobody_is_sent_away_before_he_proved_himself() -> None:
    """The answer to a wrong proof says that it is wrong, and nothing of where the other gateway is."""
    made = trio()
    made.left.command(Configure((connection(LEFT, RIGHT, redirect="follow", psk=b"another secret"),)))
    until_ike_auth(made)
    made.right.command(Drain(NAME, THERE))
    made.deliver()
    answer = made.opened(made.in_flight[0], made.left.sas[0])
    assert [notify.name for notify in answer.notifies()] == ["AUTHENTICATION_FAILED"]


def test_a_forged_one_in_clear_changes_nothing() -> None:
    made = established()
    before = snapshot(made.left.core)
    sa = made.right.sa
    made.receive(made.left, emit_message(header(sa, INFO, 0), (Notify(REDIRECT, ADDRESS),)), Endpoint(RIGHT, 4500))
    assert snapshot(made.left.core) == before
