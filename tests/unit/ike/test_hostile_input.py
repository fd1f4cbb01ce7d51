"""Hostile input: real handshakes, altered at every octet, before and after there are keys (RFC 7296 2.21; row 4 to 6 of the history).

Two attackers. The stranger alters datagrams and cannot make an ICV: nothing may come of it but a counted refusal. The hostile peer
has the keys and says anything: the endpoint refuses by name, keeps its contract, and never holds more than a bound.
"""

from __future__ import annotations

import random

import pytest
from fuzz.mutation import mutated, with_length
from fuzz.recorded import (
    CHILDREN_MAX,
    SAS_MAX,
    arrive,
    authenticated_state,
    carry_on,
    copied,
    held_to_contract,
    plaintext_of,
    recording,
    resealed,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.ike_pair import CHILD, LEFT, NAME, RIGHT, Pair, snapshot
from support.ike_stages import ESP_KE, KINDS, NONCE, ROLES, STATES, Stage, esp_offer, reach, selectors

from gateway.contract import Endpoint
from gateway.ike.commands import Command, Initiate, Rekey, Terminate
from gateway.ike.events import IkeUp
from gateway.ike.key_exchange import Libcrypto
from gateway.ike.message import HEADER_OCTETS, Header, emit_message
from gateway.ike.payloads import Payload
from gateway.ike.registry import ExchangeType, Flags, PayloadType

# --- recorded handshakes ----------------------------------------------------------------------------------------------

SCRIPT: tuple[tuple[str, Command], ...] = (
    ("left", Initiate(NAME)),
    ("left", Rekey(NAME, CHILD)),
    ("right", Rekey(NAME, CHILD)),
    ("right", Rekey(NAME)),
    ("left", Terminate(NAME, CHILD)),
    ("left", Terminate(NAME)),
)


RECORDING = recording(Pair(), SCRIPT)


def test_the_recording_is_a_whole_life() -> None:
    kinds = [(m.flight.message.header.exchange.name, m.flight.message.header.is_response) for m in RECORDING]
    assert [kind for kind, _ in kinds[:4]] == ["IKE_SA_INIT", "IKE_SA_INIT", "IKE_AUTH", "IKE_AUTH"]
    assert kinds.count(("CREATE_CHILD_SA", False)) == kinds.count(("CREATE_CHILD_SA", True)) == 3
    assert kinds.count(("INFORMATIONAL", False)) == kinds.count(("INFORMATIONAL", True)) == 5
    assert all(moment.keys is not None for moment in RECORDING[2:])


# --- the stranger -----------------------------------------------------------------------------------------------------


def play_stranger(rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    for number, moment in enumerate(RECORDING):
        world = copied(moment)
        before = authenticated_state(world.receiver)
        for _ in range(rounds):
            octets = mutated(moment.flight.octets, chance)
            octets = with_length(octets) if chance.random() < 0.8 else octets
            if octets == moment.flight.octets:
                continue
            refused = sum(world.receiver.core.rejected.values())
            arrive(world, octets)
            held_to_contract(world)
            if number >= 2:
                # Sealed: whatever was changed, it does not verify, and nothing at all is sent
                assert authenticated_state(world.receiver) == before, octets.hex()
            if number >= 2 and parse_exchange(octets) != ExchangeType.IKE_SA_INIT:
                assert sum(world.receiver.core.rejected.values()) == refused + 1, octets.hex()
        assert not [event for event in world.receiver.events[len(moment.receiver.events) :] if type(event) is IkeUp]


def parse_exchange(octets: bytes) -> int:
    return octets[18] if len(octets) > 18 else 0


def test_altered_datagrams_of_a_handshake_change_nothing_authenticated() -> None:
    play_stranger(150, seed=7)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_altered_datagrams_of_a_handshake_change_nothing_authenticated_for_long(seed: int) -> None:
    play_stranger(3000, seed)


def test_what_a_stranger_writes_in_clear_about_nobodys_ike_sa_is_not_read() -> None:
    """64 KB of it took 14 ms: it is refused by its header, whatever follows."""
    pair = Pair()
    pair.establish()
    body = b"no chain of payloads"
    header = Header(0x1234, 0x5678, ExchangeType.IKE_AUTH, Flags.INITIATOR, 1)
    data = bytearray(emit_message(header, ()) + body)
    data[16], data[24:28] = PayloadType.SA, len(data).to_bytes(4, "big")
    pair.receive(pair.right, bytes(data))
    assert pair.right.rejected == {"unknown_spi": 1}


def test_every_octet_of_every_sealed_message_is_covered_by_the_icv() -> None:
    for moment in RECORDING[2:]:
        world = copied(moment)
        before = authenticated_state(world.receiver)
        octets = moment.flight.octets
        for at in range(len(octets)):
            arrive(world, octets[:at] + bytes([octets[at] ^ 0x40]) + octets[at + 1 :])
        assert authenticated_state(world.receiver) == before
        # And after all of them the true one is still taken
        arrive(world, octets)
        assert authenticated_state(world.receiver) != before


def test_every_truncation_of_every_message_is_refused_by_name() -> None:
    for moment in RECORDING:
        world = copied(moment)
        octets = moment.flight.octets
        for length in range(len(octets)):
            for data in (octets[:length], with_length(octets[:length])):
                refused = sum(world.receiver.core.rejected.values())
                arrive(world, data)
                assert sum(world.receiver.core.rejected.values()) == refused + 1


# --- any octets at all ------------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(data=st.binary(max_size=400), port=st.sampled_from((500, 4500, 1)), known=st.booleans())
@example(data=b"", port=500, known=True)
@example(data=bytes(28), port=500, known=True)
@example(data=b"\xff" * 28, port=500, known=True)
@example(data=bytes(65535), port=4500, known=True)
def test_any_octets_from_anywhere_are_one_counted_refusal(data: bytes, port: int, known: bool) -> None:
    pair = Pair()
    host = pair.right
    before = snapshot(host.core)
    pair.receive(host, data, Endpoint(LEFT if known else "192.0.2.99", port), Endpoint(RIGHT, 500))
    assert sum(host.core.rejected.values()) == 1
    assert snapshot(host.core) == before
    assert sum(len(flight.octets) for flight in pair.in_flight) <= len(data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_body_behind_a_true_header_in_any_state(data: st.DataObject) -> None:
    role, state = data.draw(st.sampled_from(ROLES)), data.draw(st.sampled_from(STATES))
    stage = reach(role, state)
    exchange = data.draw(st.sampled_from((*ExchangeType, ExchangeType(0), ExchangeType(255))))
    response, number = (
        data.draw(st.booleans()),
        data.draw(st.sampled_from((0, 1, 2, stage.request_id, stage.response_id))),
    )
    good = stage.encode(exchange, (), number, response)
    body, first = data.draw(st.binary(max_size=120)), data.draw(st.integers(0, 255))
    established = stage.sa.established
    stage.deliver(with_length(good[:16] + bytes([first]) + good[17:HEADER_OCTETS] + body))
    assert stage.sa.established == established


# --- the hostile peer -------------------------------------------------------------------------------------------------


def play_hostile_peer(rounds: int, seed: int) -> int:
    """Returns how many of the mutants were refused."""
    chance = random.Random(seed)
    refusals = 0
    for moment in RECORDING[2:]:
        first, plaintext = plaintext_of(moment)
        for _ in range(rounds):
            world = copied(moment)
            kind = first if chance.random() < 0.9 else chance.randrange(256)
            arrive(world, resealed(moment, kind, mutated(plaintext, chance) if plaintext else chance.randbytes(9)))
            held_to_contract(world)
            refusals += sum(world.receiver.core.rejected.values()) - sum(moment.receiver.core.rejected.values())
            carry_on(world)
    return refusals


def test_an_authenticated_peer_that_says_anything() -> None:
    assert play_hostile_peer(30, seed=3) > 200


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_an_authenticated_peer_that_says_anything_for_long(seed: int) -> None:
    assert play_hostile_peer(600, seed) > 4000


def test_an_authenticated_peer_that_sends_any_known_payloads_in_any_exchange() -> None:
    """Grammatical pieces in ungrammatical places, repeated, in every state."""
    chance = random.Random(11)
    for role in ROLES:
        for state in STATES[1:]:
            for _ in range(40):
                stage = reach(role, state)
                pieces = [piece for kind in KINDS.values() for piece in kind.payloads(stage)]
                payloads = tuple(chance.choices(pieces, k=chance.randrange(9)))
                exchange = chance.choice(
                    [ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL]
                )
                response = chance.random() < 0.5
                was = stage.sa.state
                stage.deliver(
                    stage.encode(exchange, payloads, stage.response_id if response else stage.request_id, response)
                )
                if was.name == "CONNECTING":
                    assert not stage.sa.established
                stage.pair.silence(100)


def test_the_hostile_peer_with_real_public_key_work() -> None:
    """The same with libcrypto's own judgement of public values: ValueError and friends must not escape."""
    chance = random.Random(5)
    for role in ROLES:
        for _ in range(12):
            stage = reach(role, "ESTABLISHED", key_exchanges=Libcrypto())
            for name in ("NEW CHILD", "REKEY CHILD", "REKEY IKE"):
                payloads = tuple(garbled(piece, chance) for piece in KINDS[name].payloads(stage))
                stage.deliver(stage.encode(ExchangeType.CREATE_CHILD_SA, payloads, stage.request_id, False))
                if stage.sa.state.name != "ESTABLISHED":
                    break


def garbled(payload: Payload, chance: random.Random) -> Payload:
    if type(payload).__name__ != "KeyExchange":
        return payload
    data = getattr(payload, "data")  # noqa: B009
    return type(payload)(
        payload.method, chance.choice((bytes(len(data)), b"\xff" * len(data), chance.randbytes(len(data))))
    )  # type: ignore[union-attr,call-arg]


# --- bounds -----------------------------------------------------------------------------------------------------------


def send(stage: Stage, name: str) -> list[str]:
    stage.deliver(stage.octets(KINDS[name], stage.request_id, False))
    return stage.outcome().split()[1:]


def send_child(stage: Stage, spi: int) -> list[str]:
    payloads = (esp_offer(spi.to_bytes(4, "big")), NONCE, ESP_KE, *selectors())
    stage.deliver(stage.encode(ExchangeType.CREATE_CHILD_SA, payloads, stage.request_id, False))
    return stage.outcome().split()[1:]


@pytest.mark.parametrize("role", ROLES)
def test_a_peer_cannot_make_child_sas_without_end(role: str) -> None:
    """RFC 7296 1.3: NO_ADDITIONAL_SAS."""
    stage = reach(role, "ESTABLISHED")
    answers = [send_child(stage, 1000 + number) for number in range(200)]
    refused = ["<CREATE_CHILD_SA[NO_ADDITIONAL_SAS]", "-too_many_sas"]
    assert answers == [["<CREATE_CHILD_SA[]"]] * (CHILDREN_MAX - 1) + [refused] * (201 - CHILDREN_MAX)
    assert len(stage.sa.children) <= CHILDREN_MAX
    assert len(stage.host.data_plane.inbound) <= CHILDREN_MAX
    # The IKE_SA, and what it carries, stands
    assert stage.sa.established
    assert send(stage, "LIVENESS") == ["<INFORMATIONAL[]"]


@pytest.mark.parametrize("role", ROLES)
def test_a_peer_cannot_rekey_the_ike_sa_without_end_while_ours_is_under_way(role: str) -> None:
    stage = reach(role, "REKEYING")
    assert send(stage, "REKEY IKE") == ["<CREATE_CHILD_SA[]"]
    for _ in range(50):
        assert send(stage, "REKEY IKE") == ["<CREATE_CHILD_SA[TEMPORARY_FAILURE]", "-temporary"]
    assert len(stage.host.sas) == 2


@pytest.mark.parametrize("role", ROLES)
def test_a_peer_cannot_rekey_the_ike_sa_without_end_and_never_delete_the_old_one(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    for _ in range(50):
        stage.peer.command(Rekey(NAME))
        stage.pair.deliver()
        stage.pair.deliver()
        stage.pair.in_flight.clear()  # with the DELETE
        for sa in stage.peer.sas[:-1]:
            sa.destroy(stage.pair.now, "")
    assert len(stage.host.sas) == SAS_MAX
    stage.pair.run(60)
    assert len(stage.host.sas) == 1


@pytest.mark.parametrize("spi", [0, 1, 255])
@pytest.mark.parametrize("role", ROLES)
def test_a_peer_cannot_choose_a_reserved_spi(role: str, spi: int) -> None:
    """RFC 4303 2.1; 0 is what our own events say for "none"."""
    stage = reach(role, "ESTABLISHED")
    assert send_child(stage, spi) == ["<CREATE_CHILD_SA[NO_PROPOSAL_CHOSEN]", "-no_proposal"]
    assert send_child(stage, 256) == ["<CREATE_CHILD_SA[]"]
    assert [child.spi_out for child in stage.sa.children.values()][1:] == [256]


@pytest.mark.parametrize("role", ROLES)
def test_a_peer_cannot_use_one_spi_for_two_child_sas(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    assert send_child(stage, 4711) == ["<CREATE_CHILD_SA[]"]
    assert send_child(stage, 4711) == ["<CREATE_CHILD_SA[NO_PROPOSAL_CHOSEN]", "-no_proposal"]
