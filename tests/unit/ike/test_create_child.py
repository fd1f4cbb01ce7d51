"""CREATE_CHILD_SA in both roles: refusals, groups, narrowing, what each side keeps (RFC 7296 1.3, 2.9, 2.25)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.ike_pair import CHILD, ESP_OFFERS, LEFT, NAME, RIGHT, Pair, connection
from support.ike_stages import (
    ESP_KE,
    IKE_KE,
    KINDS,
    NONCE,
    ROLES,
    Stage,
    esp_offer,
    ike_offer,
    reach,
    rekey_notify,
    selectors,
)

from gateway.ike import proposal
from gateway.ike.commands import CheckLiveness, Configure, CreateChildSa, Rekey
from gateway.ike.events import ChildActivate, ChildInstall, ChildRemove, ExchangeFailed
from gateway.ike.exchanges import timers
from gateway.ike.exchanges.delete import DeleteChild
from gateway.ike.message import Message
from gateway.ike.payloads import (
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    TrafficSelector,
    TrafficSelectorsInitiator,
    TrafficSelectorsResponder,
    Unknown,
)
from gateway.ike.proposal import make_offer
from gateway.ike.registry import ExchangeType, NotifyType, PayloadType, Protocol
from gateway.ike.settings import ChildSettings
from gateway.ike.states import ChildState, Standing
from gateway.ike.traffic_selector import from_range

CREATE = ExchangeType.CREATE_CHILD_SA
OTHER = make_offer(Protocol.ESP, [("aes-cbc", 128)], ["sha1"], [], [], [False])


def ask(stage: Stage, *payloads: Payload) -> Message:
    """A request of the authenticated peer's making; gives the opened answer."""
    stage.deliver(stage.encode(CREATE, payloads, stage.request_id, False))
    assert stage.peer_keys is not None
    (answer,) = stage.answers()
    return stage.pair.opened(answer, _reading(stage))


def _reading(stage: Stage) -> Any:
    return next(sa for sa in stage.peer.sas if sa.initiator_spi == stage.sa.initiator_spi)


def answer(stage: Stage, *payloads: Payload) -> None:
    peer = _reading(stage)
    peer.window.expected = stage.response_id + 1  # as if it had been asked
    stage.deliver(stage.encode(CREATE, payloads, stage.response_id, True))


# --- the responder refuses ------------------------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[Any, NotifyType, str]] = {
    "no suite of ours": (
        lambda s: (proposal.payload((OTHER,), b"\0\0\x10\0"), NONCE, *selectors()),
        NotifyType.NO_PROPOSAL_CHOSEN,
        "no_proposal",
    ),
    "selectors of another family": (
        lambda s: (esp_offer(), NONCE, ESP_KE, *other_family()),
        NotifyType.TS_UNACCEPTABLE,
        "traffic_selectors",
    ),
    "selectors of a type nobody knows": (
        lambda s: (esp_offer(), NONCE, ESP_KE, *unknown_type()),
        NotifyType.TS_UNACCEPTABLE,
        "traffic_selectors",
    ),
    "another group": (
        lambda s: (esp_offer(), NONCE, KeyExchange(31, bytes(32)), *selectors()),
        NotifyType.INVALID_KE_PAYLOAD,
        "wrong_ke_group",
    ),
    "no KE where we want one": (
        lambda s: (esp_offer(), NONCE, *selectors()),
        NotifyType.INVALID_KE_PAYLOAD,
        "wrong_ke_group",
    ),
    "a CHILD_SA nobody has": (
        lambda s: (
            Notify(NotifyType.REKEY_SA, protocol=Protocol.ESP, spi=b"\xde\xad\xbe\xef"),
            esp_offer(),
            NONCE,
            ESP_KE,
            *selectors(),
        ),
        NotifyType.CHILD_SA_NOT_FOUND,
        "child_not_found",
    ),
    "a CHILD_SA named without an SPI": (
        lambda s: (Notify(NotifyType.REKEY_SA, protocol=Protocol.ESP), esp_offer(), NONCE, ESP_KE, *selectors()),
        NotifyType.CHILD_SA_NOT_FOUND,
        "child_not_found",
    ),
    "a CHILD_SA named by a protocol of 0": (  # libreswan CVE-2023-38710
        lambda s: (Notify(NotifyType.REKEY_SA, spi=rekey_notify(s).spi), esp_offer(), NONCE, ESP_KE, *selectors()),
        NotifyType.CHILD_SA_NOT_FOUND,
        "child_not_found",
    ),
    "a rekey of the IKE_SA without our suite": (
        lambda s: (
            proposal.payload(
                (make_offer(Protocol.IKE, [("aes-cbc", 128)], ["sha1"], ["sha1"], ["ecp384"]),), b"\1" * 8
            ),
            NONCE,
            IKE_KE,
        ),
        NotifyType.NO_PROPOSAL_CHOSEN,
        "no_proposal",
    ),
    "a rekey of the IKE_SA with another group": (
        lambda s: (ike_offer(b"\1" * 8), NONCE, KeyExchange(19, bytes(64))),
        NotifyType.INVALID_KE_PAYLOAD,
        "wrong_ke_group",
    ),
}


def other_family() -> tuple[Payload, Payload]:
    six = from_range(bytes(16), b"\xff" * 16)
    return TrafficSelectorsInitiator((six,)), TrafficSelectorsResponder((six,))


def unknown_type() -> tuple[Payload, Payload]:
    odd = TrafficSelector(9, 0, 0, 65535, b"fc")
    return TrafficSelectorsInitiator((odd,)), TrafficSelectorsResponder((odd,))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("payloads", "notify", "why"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refused_request_leaves_everything_as_it_was(role: str, payloads: Any, notify: NotifyType, why: str) -> None:
    stage = reach(role, "ESTABLISHED")
    children, events = dict(stage.sa.children), len(stage.host.seen(ChildInstall))
    reply = ask(stage, *payloads(stage))
    assert [one.type for one in reply.notifies()] == [notify]
    assert stage.refusals() == [why]
    if notify is NotifyType.INVALID_KE_PAYLOAD:
        wanted = 20 if why == "wrong_ke_group" and reply.error().data == b"\0\x14" else 19  # type: ignore[union-attr]
        assert reply.error().data == wanted.to_bytes(2, "big")  # type: ignore[union-attr]
    assert (stage.sa.state.name, stage.sa.children, len(stage.host.sas)) == ("ESTABLISHED", children, 1)
    assert len(stage.host.seen(ChildInstall)) == events
    # And the next, good request is served
    assert ask(stage, *KINDS["NEW CHILD"].payloads(stage)).error() is None


SYNTAX: dict[str, Any] = {
    "no nonce": lambda s: (esp_offer(), ESP_KE, *selectors()),
    "no SA": lambda s: (NONCE, ESP_KE, *selectors()),
    "no selectors": lambda s: (esp_offer(), NONCE, ESP_KE),
    "one selector": lambda s: (esp_offer(), NONCE, ESP_KE, selectors()[0]),
    "a short nonce": lambda s: (esp_offer(), Nonce(bytes(15)), ESP_KE, *selectors()),
    "two nonces": lambda s: (esp_offer(), NONCE, NONCE, ESP_KE, *selectors()),
    "an SPI of 8 octets": lambda s: (esp_offer(bytes(8)), NONCE, ESP_KE, *selectors()),
    "a KE of a wrong length": lambda s: (esp_offer(), NONCE, KeyExchange(19, bytes(63)), *selectors()),
    "a KE outside the group": lambda s: (esp_offer(), NONCE, KeyExchange(19, b"\xff" * 64), *selectors()),
    "an IKE rekey without KE": lambda s: (ike_offer(b"\1" * 8), NONCE),
    "an IKE rekey without an SPI": lambda s: (ike_offer(b""), NONCE, IKE_KE),
    "an IKE rekey to SPI 0": lambda s: (ike_offer(bytes(8)), NONCE, IKE_KE),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("payloads", SYNTAX.values(), ids=SYNTAX.keys())
def test_what_verifies_and_is_malformed_is_fatal_for_the_ike_sa(role: str, payloads: Any) -> None:
    """RFC 7296 2.21.3: INVALID_SYNTAX, and both forget the IKE_SA."""
    stage = reach(role, "ESTABLISHED")
    reply = ask(stage, *payloads(stage))
    assert [one.type for one in reply.notifies()] == [NotifyType.INVALID_SYNTAX]
    assert (stage.sa.state.name, stage.host.sas) == ("DESTROYING", [])
    assert (stage.host.data_plane.inbound, stage.host.data_plane.outbound) == ({}, {})


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("group", [*range(40), 1024, 1025, 65535])
def test_every_group_number_in_a_request(role: str, group: int) -> None:
    """strongSwan CVE-2014-9221: an answer, or nothing; never more."""
    stage = reach(role, "ESTABLISHED")
    reply = ask(stage, esp_offer(), NONCE, KeyExchange(group, bytes(3)), *selectors())
    assert reply.error() is not None


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5, 255])
def test_every_protocol_in_a_proposal(protocol: int) -> None:
    stage = reach("responder", "ESTABLISHED")
    first = esp_offer().proposals[0]
    odd = type(first)(first.number, protocol, b"" if protocol == 1 else first.spi, first.transforms)
    reply = ask(stage, type(esp_offer())((odd,)), NONCE, ESP_KE, *selectors())
    assert reply.error() is not None


# --- the initiator is refused ------------------------------------------------------------------------------------------------

ERRORS = [
    NotifyType.NO_PROPOSAL_CHOSEN,
    NotifyType.TS_UNACCEPTABLE,
    NotifyType.NO_ADDITIONAL_SAS,
    NotifyType.SINGLE_PAIR_REQUIRED,
    NotifyType.INVALID_KE_PAYLOAD,
    NotifyType.INVALID_SYNTAX,
    NotifyType(8191),
]


def rekeying(role: str) -> Stage:
    stage = reach(role, "ESTABLISHED")
    stage.host.command(Rekey(NAME, CHILD))
    stage.pair.in_flight.clear()
    return stage


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("error", ERRORS, ids=lambda kind: kind.name)
def test_a_refused_rekey_of_a_child_sa_keeps_it_and_tries_again(role: str, error: NotifyType) -> None:
    stage = rekeying(role)
    (old,) = stage.sa.children.values()
    old.planned_at = stage.pair.now  # its time has come
    answer(stage, Notify(error, b""))
    assert (stage.sa.state.name, old.state.name, stage.sa.exchange) == ("ESTABLISHED", "INSTALLED", None)
    assert [event.reason for event in stage.host.seen(ExchangeFailed)] == [f"REKEY_{error.name}"]
    assert stage.host.core.counts(NAME).child_rekeys_failed[CHILD] == 1
    stage.pair.run(30)
    assert old.state.name == "DELETED"
    stage.pair.assert_agreed()


@pytest.mark.parametrize("role", ROLES)
def test_temporary_failure_is_no_failure_and_soon_tried_again(role: str) -> None:
    """RFC 7296 2.25."""
    stage = rekeying(role)
    (old,) = stage.sa.children.values()
    answer(stage, Notify(NotifyType.TEMPORARY_FAILURE))
    assert stage.host.seen(ExchangeFailed) == []
    assert 0.9 < old.rekey_at - stage.pair.now < 3.1
    stage.pair.run(10)
    assert old.state.name == "DELETED"
    stage.pair.assert_agreed()


@pytest.mark.parametrize("role", ROLES)
def test_child_sa_not_found_means_that_it_is_gone(role: str) -> None:
    """RFC 7296 2.25.1: the peer has lost it; what is left of it is removed and said."""
    stage = rekeying(role)
    (old,) = stage.sa.children.values()
    answer(stage, Notify(NotifyType.CHILD_SA_NOT_FOUND, protocol=Protocol.ESP, spi=old.spi_in.to_bytes(4, "big")))
    assert (stage.sa.children, stage.host.data_plane.outbound) == ({}, {})
    assert [event.reason for event in stage.host.seen(ExchangeFailed)] == ["CHILD_SA_NOT_FOUND"]
    assert stage.sa.state.name == "ESTABLISHED"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("error", [*ERRORS, NotifyType.TEMPORARY_FAILURE], ids=lambda kind: kind.name)
def test_a_refused_rekey_of_the_ike_sa_keeps_it_and_tries_again(role: str, error: NotifyType) -> None:
    stage = reach(role, "REKEYING")
    stage.sa.planned_at = stage.pair.now  # its time has come
    answer(stage, Notify(error))
    assert stage.sa.state.name == "ESTABLISHED"
    failed = [] if error is NotifyType.TEMPORARY_FAILURE else [f"IKE_REKEY_{error.name}"]
    assert [event.reason for event in stage.host.seen(ExchangeFailed)] == failed
    assert stage.host.core.counts(NAME).ike_rekeys_failed == len(failed)
    assert stage.sa.rekey_at is not None
    low, high = (1.0, 3.0) if error is NotifyType.TEMPORARY_FAILURE else (10.0, 15.0)
    assert low <= stage.sa.rekey_at - stage.pair.now <= high
    stage.pair.run(30)
    stage.pair.assert_agreed()
    assert stage.host.sa is not stage.sa


WRONG_ANSWERS: dict[str, Any] = {
    "two proposals": lambda s: (type(esp_offer())(esp_offer().proposals * 2), NONCE, ESP_KE, *selectors()),
    "a suite we did not offer": lambda s: (proposal.payload((OTHER,), b"\0\0\x10\0"), NONCE, *selectors()),
    "wider selectors": lambda s: (esp_offer(), NONCE, ESP_KE, *other_family()),
    "no selectors": lambda s: (esp_offer(), NONCE, ESP_KE),
    "no SA": lambda s: (NONCE, ESP_KE, *selectors()),
    "no nonce": lambda s: (esp_offer(), ESP_KE, *selectors()),
    "no KE": lambda s: (esp_offer(), NONCE, *selectors()),
    "a KE of another group": lambda s: (esp_offer(), NONCE, KeyExchange(20, bytes(96)), *selectors()),
    "a KE of a wrong length": lambda s: (esp_offer(), NONCE, KeyExchange(19, bytes(63)), *selectors()),
    "a KE outside the group": lambda s: (esp_offer(), NONCE, KeyExchange(19, b"\xff" * 64), *selectors()),
    "SPI 0": lambda s: (esp_offer(bytes(4)), NONCE, ESP_KE, *selectors()),
    "the SPI of the old one": lambda s: (esp_offer(rekey_notify(s).spi), NONCE, ESP_KE, *selectors()),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("payloads", WRONG_ANSWERS.values(), ids=WRONG_ANSWERS.keys())
def test_a_wrong_answer_installs_nothing_and_keeps_the_old_one(role: str, payloads: Any) -> None:
    stage = rekeying(role)
    installed = len(stage.host.seen(ChildInstall))
    (old,) = stage.sa.children.values()
    answer(stage, *payloads(stage))
    assert len(stage.host.seen(ChildInstall)) == installed
    assert (old.state.name, list(stage.sa.children.values())) == ("INSTALLED", [old])
    assert len(stage.refusals()) == 1
    assert stage.host.seen(ExchangeFailed)[-1].reason.startswith("REKEY_")
    stage.pair.assert_flowing()


def test_another_group_is_tried_once_each_and_not_for_ever() -> None:
    """RFC 7296 1.3; INVALID_KE_PAYLOAD answered to every one of our groups."""
    esp = (make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], ["ecp256", "x25519", "ecp384"], [False]),)
    stage = reach("initiator", "ESTABLISHED", esp=esp)
    stage.host.command(Rekey(NAME, CHILD))
    for group in (31, 20, 19, 31):
        if stage.sa.exchange is not None:
            answer(stage, Notify(NotifyType.INVALID_KE_PAYLOAD, group.to_bytes(2, "big")))
    tried = [f for f in stage.pair.sent if f.receiver is stage.peer and f.message.header.exchange == CREATE]
    assert len(tried) == 3
    assert stage.sa.exchange is None
    assert stage.host.seen(ExchangeFailed)[-1].reason == "REKEY_INVALID_KE_PAYLOAD"


@pytest.mark.parametrize("role", ROLES)
def test_groups_that_differ_in_order_meet_by_invalid_ke_payload(role: str) -> None:
    """Both orders, a CHILD_SA rekey and an IKE_SA rekey each."""
    left = make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], ["x25519", "ecp256"], [False])
    right = make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], ["ecp256"], [False])
    pair = Pair()
    pair.configure(pair.left, esp=(left,))
    pair.configure(pair.right, esp=(right,))
    pair.establish()
    host = pair.left if role == "initiator" else pair.right
    host.command(Rekey(NAME, CHILD))
    pair.settle()
    pair.assert_agreed()
    assert next(iter(host.sa.children.values())).choice.key_exchange == 19


# --- narrowing ---------------------------------------------------------------------------------------------------------------


def child(*, local: str, remote: str) -> ChildSettings:
    return ChildSettings(CHILD, ESP_OFFERS, (net(local),), (net(remote),))


def net(text: str) -> TrafficSelector:
    import ipaddress

    network = ipaddress.ip_network(text)
    return from_range(network.network_address.packed, network.broadcast_address.packed)


@pytest.mark.parametrize("role", ROLES)
def test_a_responder_narrows_and_the_initiator_takes_it(role: str) -> None:
    """RFC 7296 2.9, in IKE_AUTH and again in a rekey from either end."""
    pair = Pair()
    pair.configure(pair.left, children=(child(local="10.1.0.0/16", remote="0.0.0.0/0"),))
    pair.configure(pair.right, children=(child(local="10.2.0.0/16", remote="10.0.0.0/8"),))
    pair.establish()
    for _ in range(2):
        (left,), (right,) = pair.left.sa.children.values(), pair.right.sa.children.values()
        assert left.local_ts == right.remote_ts == (net("10.1.0.0/16"),)
        assert left.remote_ts == right.local_ts == (net("10.2.0.0/16"),)
        for host in pair.hosts:
            event = host.seen(ChildInstall)[-1]
            assert (event.local_ts, event.remote_ts) == (
                host.sa.children[event.spi_in].local_ts,
                host.sa.children[event.spi_in].remote_ts,
            )
        (pair.left if role == "initiator" else pair.right).command(Rekey(NAME, CHILD))
        pair.settle()


@pytest.mark.parametrize("widened", ["local", "remote"])
def test_an_answer_wider_on_one_side_is_refused(widened: str) -> None:
    """RFC 7296 2.9: a responder may narrow either side, and widen none."""
    ten, all_of_it = net("10.0.0.0/8"), net("0.0.0.0/0")
    stage = reach("initiator", "ESTABLISHED", children=(child(local="10.0.0.0/8", remote="10.0.0.0/8"),))
    (old,) = stage.sa.children.values()
    stage.host.command(Rekey(NAME, CHILD))
    local, remote = (all_of_it, ten) if widened == "local" else (ten, all_of_it)
    selectors_ = TrafficSelectorsInitiator((local,)), TrafficSelectorsResponder((remote,))
    answer(stage, esp_offer(), NONCE, ESP_KE, *selectors_)
    assert stage.refusals() == ["traffic_selectors"]
    assert list(stage.sa.children.values()) == [old]


def test_selectors_that_do_not_meet_leave_the_ike_sa_without_a_child_sa() -> None:
    pair = Pair()
    pair.configure(pair.right, children=(child(local="10.2.0.0/16", remote="10.1.0.0/16"),))
    pair.configure(pair.left, children=(child(local="10.9.0.0/16", remote="10.2.0.0/16"),))
    from gateway.ike.commands import Initiate

    pair.left.command(Initiate(NAME))
    pair.settle()
    assert [event.reason for event in pair.left.seen(ExchangeFailed)] == ["TS_UNACCEPTABLE"]
    for host in pair.hosts:
        assert (host.sa.state.name, host.sa.children) == ("ESTABLISHED", {})


# --- noise ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_unknown_notifies_and_payloads_in_a_request_are_ignored(role: str) -> None:
    """RFC 7296 2.5, 3.10.1: also error types in a request, which mean nothing there."""
    stage = reach(role, "ESTABLISHED")
    noise = (
        Notify(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED),
        Notify(NotifyType.NON_FIRST_FRAGMENTS_ALSO),
        Notify(40000, b"x" * 300, 3, b"\1\2\3\4"),
        Unknown(b"something", 200),
        # Interop: MikroTik sends a Configuration payload here too (RFC 7296 3.15: CFG_REQUEST of an IPv4 address)
        Unknown(bytes((1, 0, 0, 0, 0, 1, 0, 0)), PayloadType.CP),
    )
    reply = ask(stage, *KINDS["NEW CHILD"].payloads(stage), *noise)
    assert reply.error() is None
    # RFC 7296 1.3.1: transport mode is only an offer; it is not accepted, so the SA is a tunnel
    reply = ask(stage, esp_offer(b"\0\0\x20\0"), Notify(NotifyType.USE_TRANSPORT_MODE), NONCE, ESP_KE, *selectors())
    assert reply.error() is None
    assert reply.notify(NotifyType.USE_TRANSPORT_MODE) is None


# --- what both sides keep ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_a_rekey_is_make_before_break_on_both_sides(role: str) -> None:
    """RFC 7296 2.8: install, then send, then delete; the old inbound SA lingers."""
    stage = reach(role, "ESTABLISHED")
    stage.host.command(Rekey(NAME, CHILD))
    marks = {host: len(host.events) for host in stage.pair.hosts}
    while stage.pair.in_flight:
        stage.pair.deliver()
        stage.pair.assert_flowing()
    for host in stage.pair.hosts:
        order = [type(event) for event in host.events[marks[host] :]]
        assert order == [ChildInstall, ChildActivate, ChildRemove]
        assert host.events[-1].spi_in == 0
        assert len(host.data_plane.inbound) == 2
    stage.pair.run(6)
    stage.pair.assert_agreed()


@pytest.mark.parametrize("role", ROLES)
def test_every_child_sa_has_keys_of_its_own(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    for _ in range(5):
        stage.host.command(Rekey(NAME, CHILD))
        stage.pair.run(10)
        stage.host.command(Rekey(NAME))
        stage.pair.run(10)
    keys = [
        key for event in stage.host.seen(ChildInstall) for key in (event.encryption_key_in, event.encryption_key_out)
    ]
    assert len(keys) == len(set(keys)) == 12
    assert all("encryption_key" not in repr(event) for event in stage.host.seen(ChildInstall))


@pytest.mark.parametrize("role", ROLES)
def test_a_child_sa_already_replaced_is_not_rekeyed_again(role: str) -> None:
    """RFC 7296 2.25.1: it waits for its DELETE; the initiator of the first rekey may not leave a second successor behind."""
    stage = reach(role, "ESTABLISHED")
    named = rekey_notify(stage)
    first = ask(stage, named, esp_offer(b"\0\0\x30\0"), NONCE, ESP_KE, *selectors())
    assert first.error() is None
    second = ask(stage, named, esp_offer(b"\0\0\x30\1"), NONCE, ESP_KE, *selectors())
    assert [one.type for one in second.notifies()] == [NotifyType.TEMPORARY_FAILURE]
    assert len(stage.sa.children) == 2


@pytest.mark.parametrize("role", ROLES)
def test_a_new_child_sa_is_not_replaced_before_the_peer_has_deleted_the_old_one(role: str) -> None:
    """strongSwan 6.0 confounds three of them, and drops one without a word."""
    stage = reach(role, "ESTABLISHED")
    stage.host.command(Rekey(NAME, CHILD))
    stage.pair.deliver()
    stage.pair.deliver()
    old, new = stage.sa.children.values()
    assert old.state is ChildState.DELETING
    stage.pair.in_flight.clear()
    named = Notify(NotifyType.REKEY_SA, protocol=Protocol.ESP, spi=new.spi_out.to_bytes(4, "big"))
    refused = ask(stage, named, esp_offer(b"\0\0\x30\0"), NONCE, ESP_KE, *selectors())
    assert [one.type for one in refused.notifies()] == [NotifyType.TEMPORARY_FAILURE]
    assert [*stage.sa.children.values()] == [old, new] and new.active
    stage.pair.run(5)
    assert [*stage.sa.children.values()] == [new], "its DELETE was repeated, and answered"
    assert ask(stage, named, esp_offer(b"\0\0\x30\0"), NONCE, ESP_KE, *selectors()).error() is None
    assert new.successor is not None


def test_a_child_sa_is_made_again_when_asked_and_not_twice() -> None:
    pair = Pair()
    pair.establish()
    pair.left.command(CreateChildSa(NAME, CHILD))
    assert pair.in_flight == []
    pair.left.command(CreateChildSa(NAME, "no such child"))
    assert pair.in_flight == []


@pytest.mark.parametrize("role", ROLES)
def test_a_reload_that_changes_the_suite_rekeys_and_one_that_removes_the_child_deletes(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    two = (make_offer(Protocol.ESP, [("aes-gcm-16", 256), ("aes-gcm-16", 128)], [], [], ["ecp256"], [False]),)
    stage.host.command(Configure((connection(stage.host.address, stage.peer.address, esp=two),)))
    stage.pair.run(6)
    stage.pair.assert_agreed()
    assert len(stage.host.seen(ChildInstall)) == 2
    stage.host.command(Configure((connection(stage.host.address, stage.peer.address, children=()),)))
    stage.pair.run(6)
    assert stage.host.sa.children == stage.peer.sa.children == {}


def test_a_child_sa_that_its_maker_deletes_before_the_answer_comes_is_never_installed() -> None:
    """The responder's SA reached a limit while its answer was on its way: who installs it late sends where nobody listens."""
    pair = Pair()
    pair.establish()
    pair.left.command(Rekey(NAME, CHILD))
    pair.deliver()
    answer = pair.drop()
    made = next(child for child in pair.right.sa.children.values() if not child.active)
    pair.right.sa.enqueue(DeleteChild(made, "CHILD_LIMIT_REACHED"), pair.now)
    pair.drain()
    pair.settle()
    pair.in_flight.append(answer)
    pair.settle()
    pair.assert_flowing()
    assert made.spi_in not in pair.left.data_plane.outbound
    pair.run(120)
    pair.assert_agreed()


@pytest.mark.parametrize("first", ["left", "right"])
def test_when_both_have_got_other_algorithms_the_child_sa_is_rekeyed_to_those(first: str) -> None:
    """Whoever answers goes by its configuration as it is now, not by the one the old CHILD_SA was made with."""
    other = (make_offer(Protocol.ESP, [("aes-gcm-16", 128)], [], [], [], [False]),)
    pair = Pair()
    pair.establish()
    for host in pair.hosts if first == "left" else reversed(pair.hosts):
        pair.configure(host, esp=other)
    pair.run(120)
    pair.assert_agreed()
    for host in pair.hosts:
        (child,) = host.sa.children.values()
        assert child.choice.key_octets == 16


def test_a_child_sa_whose_maker_may_lack_our_answer_is_not_rekeyed_yet() -> None:
    """The initiator of the IKE_SA answers a rekey, and the answer is lost: a rekey of ours would find nothing over there."""
    pair = Pair()
    pair.establish()
    pair.right.command(Rekey(NAME, CHILD))
    while len(pair.left.sa.children) == 1:
        pair.deliver()
    pair.drop()
    made = next(child for child in pair.left.sa.children.values() if not child.proven)
    pair.left.sa.standing = Standing.HELD  # nothing of ours was answered since IKE_AUTH
    timers.rekey_child(pair.left.sa, made, pair.now)
    pair.drain()
    assert pair.in_flight == []
    pair.run(120)
    pair.assert_agreed()
    assert pair.left.seen(ExchangeFailed) == pair.right.seen(ExchangeFailed) == []


def test_that_the_peer_holds_the_ike_sa_says_nothing_of_what_it_asks_for_on_it() -> None:
    """It answers our first request on it, while our own answer to its request for a CHILD_SA is lost: no traffic goes there yet."""
    one = connection(LEFT, RIGHT).children[0]
    two = (one, replace(one, name="voice"))
    pair = Pair()
    pair.establish()
    for host in pair.hosts:
        pair.configure(host, children=two)
    pair.right.command(CreateChildSa(NAME, "voice"))
    pair.deliver()
    pair.drop()
    pair.left.command(CheckLiveness(NAME))
    pair.settle()
    assert len(pair.left.seen(ChildActivate)) == 1
    pair.run(5)
    pair.right.command(CheckLiveness(NAME))
    pair.settle()
    assert len(pair.left.seen(ChildActivate)) == 2
