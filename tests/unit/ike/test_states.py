"""Every state against every message, command and timer (RFC 7296 1.2 to 1.4, 2.25; strongSwan CVE-2014-2338).

The tables below are the specification: what is not in them is dropped, without an answer and without a trace.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ike_pair import CHILD, NAME, RIGHT, Pair, connection, snapshot
from support.ike_stages import KINDS, ROLES, STATES, STRANGERS_KEYS, Stage, reach

from gateway.contract import Endpoint
from gateway.ike.commands import (
    Command,
    Configure,
    CreateChildSa,
    Initiate,
    PeerMoved,
    Rekey,
    SaExpired,
    Terminate,
    TrafficSeen,
)
from gateway.ike.errors import LocalError
from gateway.ike.events import ChildInstall, IkeDown, IkeUp
from gateway.ike.registry import ExchangeType
from gateway.ike.states import (
    CHILD_TRANSITIONS,
    IKE_REQUESTS,
    IKE_TRANSITIONS,
    ChildInput,
    ChildState,
    IkeInput,
    IkeState,
    admits,
    next_child_state,
    next_ike_state,
)

# --- the tables themselves --------------------------------------------------------------------------------------------


@given(st.sampled_from(IkeState), st.sampled_from(IkeInput))
def test_ike_transitions_are_the_table_and_nothing_else(state: IkeState, event: IkeInput) -> None:
    if (state, event) in IKE_TRANSITIONS:
        assert next_ike_state(state, event) is IKE_TRANSITIONS[state, event]
    else:
        with pytest.raises(LocalError, match=state.value):
            next_ike_state(state, event)


@given(st.sampled_from(ChildState), st.sampled_from(ChildInput))
def test_child_transitions_are_the_table_and_nothing_else(state: ChildState, event: ChildInput) -> None:
    if (state, event) in CHILD_TRANSITIONS:
        assert next_child_state(state, event) is CHILD_TRANSITIONS[state, event]
    else:
        with pytest.raises(LocalError, match=state.value):
            next_child_state(state, event)


def test_authentication_is_the_only_way_to_established() -> None:
    """CVE-2014-2338: a rekey of what was never authenticated must not end in ESTABLISHED."""
    ways = {key for key, after in IKE_TRANSITIONS.items() if after is IkeState.ESTABLISHED}
    assert ways == {
        (IkeState.CREATED, IkeInput.AUTHENTICATED),
        (IkeState.CONNECTING, IkeInput.AUTHENTICATED),
        (IkeState.REKEYING, IkeInput.REKEY_FAILED),
    }
    assert {state for (state, event) in IKE_TRANSITIONS if event is IkeInput.REKEY} == {IkeState.ESTABLISHED}
    assert {state for (state, event) in IKE_TRANSITIONS if event is IkeInput.REPLACED} == {
        IkeState.ESTABLISHED,
        IkeState.REKEYING,
    }


def test_every_state_can_be_closed_and_none_leaves_destroying() -> None:
    for state in IkeState:
        assert ((state, IkeInput.CLOSE) in IKE_TRANSITIONS) == (state is not IkeState.DESTROYING)
    for child in ChildState:
        assert ((child, ChildInput.REMOVE) in CHILD_TRANSITIONS) == (child is not ChildState.DELETED)
    assert not [key for key in IKE_TRANSITIONS if key[0] is IkeState.DESTROYING]
    assert not [key for key in CHILD_TRANSITIONS if key[0] is ChildState.DELETED]


def test_requests_admitted_by_state_and_role() -> None:
    assert set(IKE_REQUESTS) == set(IkeState)
    init, auth = ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH
    between = ExchangeType.IKE_INTERMEDIATE
    later = {ExchangeType.CREATE_CHILD_SA, ExchangeType.IKE_FOLLOWUP_KE, ExchangeType.INFORMATIONAL}
    for state in IkeState:
        responder = {exchange for exchange in ExchangeType if admits(state, exchange, False)}
        initiator = {exchange for exchange in ExchangeType if admits(state, exchange, True)}
        assert responder == {
            IkeState.CREATED: {init},
            IkeState.CONNECTING: {between, auth},
            IkeState.DESTROYING: set(),
        }.get(state, later)
        # Only who made the IKE_SA asks for authentication: RFC 7296 1.2
        assert initiator == responder - {init, between, auth}


# --- states x messages of an authenticated peer -----------------------------------------------------------------------

TEMPORARY = "<CREATE_CHILD_SA[TEMPORARY_FAILURE]"
ANSWERS: dict[str, dict[str, str]] = {
    "INIT": {},
    "AUTH": {
        "IKE_AUTH": "DESTROYING <IKE_AUTH[AUTHENTICATION_FAILED] -authentication",
        "IKE_INTERMEDIATE": "DESTROYING <IKE_INTERMEDIATE[INVALID_SYNTAX] -wrong_ke_group",
    },
    "ESTABLISHED": {
        "NEW CHILD": "ESTABLISHED <CREATE_CHILD_SA[]",
        "REKEY CHILD": "ESTABLISHED <CREATE_CHILD_SA[]",
        "REKEY IKE": "REKEYED <CREATE_CHILD_SA[]",
    },
    "REKEYING": {
        "NEW CHILD": f"REKEYING {TEMPORARY} -temporary",
        "REKEY CHILD": f"REKEYING {TEMPORARY} -temporary",
        "REKEY IKE": "REKEYING <CREATE_CHILD_SA[]",  # RFC 7296 2.8.1: the nonces decide later
    },
    **{
        state: dict.fromkeys(("NEW CHILD", "REKEY CHILD", "REKEY IKE"), f"{state} {TEMPORARY} -temporary")
        for state in ("REKEYED", "DELETING")
    },
}
for _state in ("ESTABLISHED", "REKEYING", "REKEYED", "DELETING"):
    ANSWERS[_state] |= {
        "LIVENESS": f"{_state} <INFORMATIONAL[]",
        "DELETE IKE": "DESTROYING <INFORMATIONAL[]",
        "AUTH FAILED": "DESTROYING <INFORMATIONAL[]",
    }
# Responses that an authenticated peer may invent for the request that is outstanding
TAKEN: dict[tuple[str, str], dict[str, str]] = {
    ("initiator", "INIT"): {"IKE_SA_INIT": "CONNECTING"},
    ("initiator", "AUTH"): {
        "IKE_AUTH": "DELETING >INFORMATIONAL[AUTHENTICATION_FAILED] -authentication",
    },
    **{
        (role, "REKEYING"): {
            "NEW CHILD": "ESTABLISHED -no_proposal",
            "REKEY CHILD": "ESTABLISHED -no_proposal",
            "REKEY IKE": "ESTABLISHED -no_proposal",  # two groups in an answer
        }
        for role in ROLES
    },
    **{(role, "DELETING"): dict.fromkeys(("LIVENESS", "DELETE IKE", "AUTH FAILED"), "DESTROYING") for role in ROLES},
}


def expected(role: str, state: str, kind: str, response: bool) -> str:
    now = "CONNECTING" if state in ("INIT", "AUTH") else state
    exchange = KINDS[kind].exchange
    if (role, state) == ("initiator", "INIT") and exchange != ExchangeType.IKE_SA_INIT:
        return f"{now} -unknown_spi"  # it has no responder SPI yet
    if exchange not in tuple(ExchangeType):
        return f"{now} -grammar"
    if response:
        return TAKEN.get((role, state), {}).get(kind, f"{now} -unexpected_response")
    if (role, state) == ("responder", "INIT"):
        return f"{now} -message_id"  # it is still working on the request
    if (role, state) == ("initiator", "AUTH") and kind in ("IKE_AUTH", "IKE_INTERMEDIATE"):
        return f"{now} -out_of_state"
    return ANSWERS[state].get(kind, f"{now} -out_of_state")


PRODUCT = pytest.mark.parametrize(("role", "state"), [(role, state) for role in ROLES for state in STATES])


@PRODUCT
@pytest.mark.parametrize("response", [False, True], ids=["request", "response"])
def test_every_message_in_every_state(role: str, state: str, response: bool) -> None:
    for name, kind in KINDS.items():
        stage = reach(role, state)
        stage.deliver(stage.octets(kind, stage.response_id if response else stage.request_id, response))
        assert stage.outcome() == expected(role, state, name, response), name


@PRODUCT
def test_requests_in_no_state_make_an_unauthenticated_sa_established(role: str, state: str) -> None:
    """CVE-2014-2338, and CVE-2021-45079 in its shape: success before authentication."""
    if state not in ("INIT", "AUTH"):
        return
    for first in KINDS.values():
        for response in (False, True):
            stage = reach(role, state)
            stage.deliver(stage.octets(first, stage.response_id if response else stage.request_id, response))
            for second in KINDS.values():
                stage.deliver(stage.octets(second, stage.request_id, False))
                stage.deliver(stage.octets(second, stage.response_id, True))
            assert not stage.sa.established
            assert stage.host.seen(IkeUp) == []
            assert stage.host.data_plane.inbound == {}


# --- states x messages of a stranger ----------------------------------------------------------------------------------


@PRODUCT
def test_what_does_not_verify_changes_nothing_in_any_state(role: str, state: str) -> None:
    """No state, address, timer or counter moves before the ICV verified; nothing is answered."""
    stage = reach(role, state)
    before = snapshot(stage.host.core)
    deadline = stage.host.core.next_deadline()
    stage.pair.now += 1e-3
    sealed = [kind for kind in KINDS.values() if kind.exchange != ExchangeType.IKE_SA_INIT]
    for kind in sealed:
        for response in (False, True):
            for number in (0, 1, 2, stage.request_id, stage.response_id, 2**32 - 1):
                for octets in strangers(stage, kind.exchange, number, response):
                    stage.deliver(octets)
                    assert stage.answers() == []
                    assert len(stage.refusals()) == 1
    assert snapshot(stage.host.core) == before
    assert stage.host.core.next_deadline() == deadline


def strangers(stage: Stage, exchange: ExchangeType, number: int, response: bool) -> list[bytes]:
    """In clear; sealed with other keys; reflected; sealed well but altered."""
    empty = stage.encode(exchange, (), number, response, STRANGERS_KEYS)
    found = [empty[:16] + b"\0" + empty[17:24] + (28).to_bytes(4, "big"), empty]
    if stage.sa.keys is not None:
        found.append(stage.encode(exchange, (), number, response, stage.sa.keys))
    if stage.peer_keys is not None:
        good = stage.encode(exchange, (), number, response)
        found += [good[:-1] + bytes([good[-1] ^ 1]), good[:20] + b"\x7f" + good[21:]]
    return found


# --- states x commands ------------------------------------------------------------------------------------------------

COMMANDS: dict[str, Command] = {
    "Configure (same)": Configure(()),  # filled in below
    "Configure (other identity)": Configure(()),
    "Configure (other suite)": Configure(()),
    "Configure (gone)": Configure(()),
    "Initiate": Initiate(NAME),
    "CreateChildSa": CreateChildSa(NAME, CHILD),
    "Terminate": Terminate(NAME),
    "Terminate child": Terminate(NAME, CHILD),
    "Rekey": Rekey(NAME),
    "Rekey child": Rekey(NAME, CHILD),
    "TrafficSeen": TrafficSeen(NAME),
    "PeerMoved": PeerMoved(NAME, 0, Endpoint(RIGHT, 999)),
    "SaExpired soft": SaExpired(NAME, 0, False),
    "SaExpired hard": SaExpired(NAME, 0, True),
}


def filled(stage: Stage, name: str) -> Command:
    """The command for this stage: with its SPIs, its settings."""
    host, peer = stage.host, stage.peer
    same = connection(host.address, peer.address)
    carrier = host.core.primary(NAME) or stage.sa
    child = next(iter(carrier.children), 0)
    match name:
        case "Configure (same)":
            return Configure((same,))
        case "Configure (other identity)":
            return Configure((connection(host.address, peer.address, remote_id=same.local_id),))
        case "Configure (other suite)":
            return Configure((connection(host.address, peer.address, offers=same.offers * 2),))
        case "PeerMoved":
            return PeerMoved(NAME, child, Endpoint(peer.address, 999))
        case "SaExpired soft":
            return SaExpired(NAME, child, False)
        case "SaExpired hard":
            return SaExpired(NAME, child, True)
    return COMMANDS[name]


# What a command makes of each state at once; not listed: nothing. The successor of a REKEYED one acts for it, sealed.
SENT_CHILD, SENT_INFO = ">CREATE_CHILD_SA[]", ">INFORMATIONAL[]"
AT_ONCE: dict[str, dict[Any, str]] = {
    "Configure (other identity)": {
        # What it agreed on so far was for other settings
        **dict.fromkeys(("INIT", "AUTH"), "DESTROYING"),
        "ESTABLISHED": f"DELETING {SENT_INFO}",
        "REKEYING": "REKEYING",  # the DELETE waits for the window
        "REKEYED": "REKEYED >INFORMATIONAL[sealed]",
    },
    "Configure (other suite)": {
        # What it agreed on so far was for other settings
        **dict.fromkeys(("INIT", "AUTH"), "DESTROYING"),
        "ESTABLISHED": f"REKEYING {SENT_CHILD}",
        "REKEYED": "REKEYED >CREATE_CHILD_SA[sealed]",
    },
    **{
        name: {
            "ESTABLISHED": f"DELETING {SENT_INFO}",
            "REKEYING": "REKEYING",
            "REKEYED": "DESTROYING >INFORMATIONAL[sealed]",
            **dict.fromkeys(("INIT", "AUTH"), "DESTROYING"),
        }
        for name in ("Configure (gone)", "Terminate")
    },
    "Rekey": {"ESTABLISHED": f"REKEYING {SENT_CHILD}", "REKEYED": "REKEYED >CREATE_CHILD_SA[sealed]"},
    **{
        name: {
            "ESTABLISHED": f"ESTABLISHED >{kind}[]",
            "REKEYED": f"REKEYED >{kind}[sealed]",
        }
        for name, kind in {
            "Terminate child": "INFORMATIONAL",
            "Rekey child": "CREATE_CHILD_SA",
            "SaExpired soft": "CREATE_CHILD_SA",
            "SaExpired hard": "INFORMATIONAL",
        }.items()
    },
    # What a stranger left half-open, or one that is on its way out, does not hold back ours
    "Initiate": {
        ("responder", "AUTH"): "CONNECTING >IKE_SA_INIT[]",
        ("initiator", "DELETING"): "DELETING >IKE_SA_INIT[]",
        ("responder", "DELETING"): "DELETING >IKE_SA_INIT[]",
    },
}


@PRODUCT
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_every_state(role: str, state: str, name: str) -> None:
    stage = reach(role, state)
    stage.mark()
    stage.host.command(filled(stage, name))
    now = "CONNECTING" if state in ("INIT", "AUTH") else state
    cells = AT_ONCE.get(name, {})
    assert stage.outcome() == cells.get((role, state), cells.get(state, now))


@PRODUCT
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "PeerMoved"])
def test_after_every_command_in_every_state_a_good_network_leaves_both_agreed_or_both_without(
    role: str, state: str, name: str
) -> None:
    """Nothing hangs: whatever was outstanding was lost, and is retransmitted."""
    stage = reach(role, state, dpd_delay=10.0)
    stage.pair.defer = False
    stage.host.command(filled(stage, name))
    stage.pair.run(100)
    settled(stage.pair)


def settled(pair: Pair) -> None:
    left, right = pair.left.sas, pair.right.sas
    if left or right:
        pair_of_spis = [{(sa.initiator_spi, sa.responder_spi) for sa in sas} for sas in (left, right)]
        assert pair_of_spis[0] == pair_of_spis[1]
        assert {sa.state.name for sa in left + right} == {"ESTABLISHED"}
        assert len(left) == 1
        children = [{(c.spi_in, c.spi_out) for c in sas[0].children.values()} for sas in (left, right)]
        assert children[0] == {(spi_out, spi_in) for spi_in, spi_out in children[1]}
    for host in pair.hosts:
        assert set(host.data_plane.inbound) == {spi for sa in host.sas for spi in sa.children}


def test_a_responder_that_may_not_have_been_heard_asks_before_it_rekeys() -> None:
    """The peer may not have had our IKE_AUTH answer, and could not find the CHILD_SA."""
    pair = Pair()
    pair.establish()
    pair.right.command(Rekey(NAME, CHILD))
    assert [flight.message.header.exchange.name for flight in pair.in_flight] == ["INFORMATIONAL"]
    pair.run(6)
    pair.assert_agreed()
    assert len(pair.right.seen(ChildInstall)) == 2


# --- states x timers --------------------------------------------------------------------------------------------------

SILENCE: dict[tuple[str, str], str] = {
    ("initiator", "INIT"): "PEER_UNREACHABLE",
    ("initiator", "AUTH"): "NO_ANSWER_ON_4500",
    ("responder", "INIT"): "HALF_OPEN_TIMEOUT",
    ("responder", "AUTH"): "HALF_OPEN_TIMEOUT",
    **{(role, "ESTABLISHED"): "DPD_TIMEOUT" for role in ROLES},
    **{(role, "REKEYING"): "DPD_TIMEOUT" for role in ROLES},
    **{(role, "REKEYED"): "" for role in ROLES},
    **{(role, "DELETING"): "TERMINATED" for role in ROLES},
}


@PRODUCT
def test_a_silent_peer_ends_every_state_by_its_name_and_leaves_nothing(role: str, state: str) -> None:
    stage = reach(role, state, dpd_delay=10.0)
    stage.pair.silence(200)
    ended = [event for event in stage.host.seen(IkeDown) if event.initiator_spi == stage.sa.initiator_spi]
    assert [event.reason for event in ended] == [SILENCE[role, state]]
    assert stage.sa.state is IkeState.DESTROYING
    assert (stage.host.sas, stage.host.core.next_deadline(), stage.host.core.half_open) == ([], None, 0)
    assert (stage.host.data_plane.inbound, stage.host.data_plane.outbound) == ({}, {})


@PRODUCT
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_in_any_state_outlives_a_silent_peer(role: str, state: str, name: str) -> None:
    """Also holds every state to its deadlines: none may stay in the past (`Pair.fire`)."""
    stage = reach(role, state, dpd_delay=10.0, child_life_time=25.0, child_rekey_time=20.0, rekey_time=15.0)
    stage.pair.defer = False
    stage.host.command(filled(stage, name))
    stage.pair.silence(400)
    assert (stage.host.sas, stage.host.core.next_deadline()) == ([], None)
    assert (stage.host.data_plane.inbound, stage.host.data_plane.outbound) == ({}, {})


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("wait", [0.5, 3.0, 10.0])
def test_a_child_sa_at_the_end_of_its_life_while_its_delete_is_unanswered(role: str, wait: float) -> None:
    """Its lifetime must not keep a deadline in the past, which would make the daemon spin."""
    stage = reach(role, "ESTABLISHED", child_life_time=20.0, child_rekey_time=1e6)
    stage.pair.silence(20.0 - wait)
    stage.host.command(Terminate(NAME, CHILD))
    stage.pair.silence(200)
    assert stage.host.sas == []


@PRODUCT
def test_a_command_for_a_connection_nobody_configured_is_our_own_mistake(role: str, state: str) -> None:
    stage = reach(role, state)
    with pytest.raises(LocalError, match="no connection"):
        stage.host.command(Initiate("nowhere"))
    for quiet in (Terminate("nowhere"), Rekey("nowhere"), TrafficSeen("nowhere"), SaExpired("nowhere", 1, True)):
        before = snapshot(stage.host.core)
        stage.host.command(quiet)
        assert snapshot(stage.host.core) == before
