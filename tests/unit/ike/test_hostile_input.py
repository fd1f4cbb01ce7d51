"""Hostile input: real handshakes, altered at every octet, before and after there are keys (RFC 7296 2.21; row 4 to 6 of the history).

Two attackers. The stranger alters datagrams and cannot make an ICV: nothing may come of it but a counted refusal. The hostile peer
has the keys and says anything: the endpoint refuses by name, keeps its contract, and never holds more than a bound.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.ike_pair import CHILD, LEFT, NAME, RIGHT, Flight, Host, Pair, snapshot
from support.ike_stages import ESP_KE, KINDS, NONCE, ROLES, STATES, Stage, esp_offer, reach, selectors

from gateway.contract import Endpoint
from gateway.ike.commands import Command, Initiate, Rekey, Terminate
from gateway.ike.errors import Violation
from gateway.ike.events import IkeUp
from gateway.ike.key_exchange import Libcrypto
from gateway.ike.keymat import IkeKeys, open_message, sealed_prefix
from gateway.ike.message import HEADER_OCTETS, emit_chain
from gateway.ike.payloads import Payload
from gateway.ike.registry import ExchangeType
from gateway.ike.sa import IkeSa

SAS_MAX, CHILDREN_MAX, EFFECTS_MAX = 8, 64, 8
"""No single message may leave behind, or set off, more than this."""

# --- mutation ---------------------------------------------------------------------------------------------------------

INTERESTING = (
    b"\0",
    b"\1",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\0\0",
    b"\0\4",
    b"\0\x08",
    b"\xff\xff",
    b"\0\0\0\0",
    b"\xff" * 4,
)


def mutated(octets: bytes, chance: random.Random) -> bytes:
    """One to three changes: a bit, an octet, a field, a cut, a repeat, an insertion."""
    data = bytearray(octets)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if not data:
            break
        at = chance.randrange(len(data))
        match chance.randrange(7):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.randrange(256)
            case 2:
                value = chance.choice(INTERESTING)
                data[at : at + len(value)] = value
            case 3:
                del data[at : at + chance.choice((1, 2, 4, 8, 40))]
            case 4:
                data[at:at] = data[at : at + chance.randrange(1, 64)]
            case 5:
                data[at:at] = chance.randbytes(chance.choice((1, 2, 4, 100)))
            case 6:
                other = chance.randrange(len(data))
                data[at], data[other] = data[other], data[at]
    return bytes(data)


def with_length(octets: bytes) -> bytes:
    """The header's length made true again, so that the mutation gets past it."""
    return octets[:24] + len(octets).to_bytes(4, "big") + octets[28:] if len(octets) >= HEADER_OCTETS else octets


# --- recorded handshakes ----------------------------------------------------------------------------------------------

SCRIPT: tuple[tuple[str, Command], ...] = (
    ("left", Initiate(NAME)),
    ("left", Rekey(NAME, CHILD)),
    ("right", Rekey(NAME, CHILD)),
    ("right", Rekey(NAME)),
    ("left", Terminate(NAME, CHILD)),
    ("left", Terminate(NAME)),
)


@dataclass(frozen=True, slots=True)
class Moment:
    """A datagram about to arrive, in a pair that has come so far; `keys` are its sender's."""

    pair: Pair
    flight: Flight
    keys: IkeKeys | None

    @property
    def receiver(self) -> Host:
        return self.flight.receiver


def recording() -> list[Moment]:
    """Every datagram of a whole life, each with the world as it was before it arrived."""
    pair, moments = Pair(), []
    for side, command in SCRIPT:
        pair.run(90)
        (pair.left if side == "left" else pair.right).command(command)
        while pair.in_flight:
            flight = pair.in_flight[0]
            moments.append(copied(Moment(pair, flight, senders_keys(flight))))
            pair.deliver()
    return moments


def senders_keys(flight: Flight) -> IkeKeys | None:
    """The sender may have forgotten them with the IKE_SA; the receiver's are the same ones, mirrored."""
    sa = receivers_sa(flight)
    if sa is None or sa.keys is None:
        return None
    keys = copy.deepcopy(sa.keys)
    keys.sealing, keys.opening = keys.opening, keys.sealing
    keys.sealing._sealed = keys.opening._sealed = 1 << 32  # no IV of the recording again
    return keys


def receivers_sa(flight: Flight) -> IkeSa | None:
    spi = flight.message.header.initiator_spi
    return next((sa for sa in flight.receiver.core._sas.values() if sa.initiator_spi == spi), None)


def copied(moment: Moment) -> Moment:
    """A world of its own. `services` and settings are shared as they are in the original."""
    return copy.deepcopy(moment)


def arrive(moment: Moment, octets: bytes) -> None:
    transmit = moment.flight.transmit
    assert transmit is not None
    moment.pair.in_flight.clear()
    moment.pair.receive(moment.receiver, octets, transmit.local, transmit.remote)


def held_to_contract(moment: Moment) -> None:
    """Bounds, and that what it does next is not absurd."""
    core = moment.receiver.core
    assert len(core._sas) - core.half_open <= SAS_MAX
    assert sum(len(sa.children) for sa in core._sas.values()) <= CHILDREN_MAX
    assert len(moment.pair.in_flight) <= EFFECTS_MAX
    assert len(core._tickets) <= SAS_MAX
    assert set(core.rejected) == {violation.value for violation in Violation}
    deadline = core.next_deadline()
    assert deadline is None or deadline > moment.pair.now


RECORDING = recording()


def test_the_recording_is_a_whole_life() -> None:
    kinds = [(m.flight.message.header.exchange.name, m.flight.message.header.is_response) for m in RECORDING]
    assert [kind for kind, _ in kinds[:4]] == ["IKE_SA_INIT", "IKE_SA_INIT", "IKE_AUTH", "IKE_AUTH"]
    assert kinds.count(("CREATE_CHILD_SA", False)) == kinds.count(("CREATE_CHILD_SA", True)) == 3
    assert kinds.count(("INFORMATIONAL", False)) == kinds.count(("INFORMATIONAL", True)) == 5
    assert all(moment.keys is not None for moment in RECORDING[2:])


# --- the stranger -----------------------------------------------------------------------------------------------------


def authenticated_state(host: Host) -> object:
    """All that was made with keys; half-open IKE_SAs of strangers come and go."""
    core = host.core
    established = {spi: sa for spi, sa in core._sas.items() if sa.state.name != "CONNECTING"}
    return snapshot_of(established), dict(core._primary.items()).keys(), set(host.data_plane.inbound)


def snapshot_of(sas: dict[int, IkeSa]) -> object:
    class Holder:
        pass

    holder = Holder()
    holder.sas = sas  # type: ignore[attr-defined]
    return snapshot(holder)  # type: ignore[arg-type]


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


def resealed(moment: Moment, first: int, plaintext: bytes) -> bytes:
    """The datagram of the moment with another plaintext, under the sender's own keys."""
    keys = copy.deepcopy(moment.keys)
    assert keys is not None
    head = moment.flight.message.header
    length = len(plaintext) + keys.sealing.overhead(len(plaintext))
    prefix = sealed_prefix(head, first, length)
    return prefix + keys.sealing.seal(prefix, plaintext, moment.receiver.random)


def plaintext_of(moment: Moment) -> tuple[int, bytes]:
    sa = receivers_sa(moment.flight)
    assert sa is not None and sa.keys is not None
    return emit_chain(open_message(sa.keys, moment.flight.message).payloads)


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


def carry_on(world: Moment) -> None:
    """Whatever was believed, the next two minutes keep to the contract, and an end is an end."""
    world.pair.run(2)
    world.pair.silence(120)
    held_to_contract(world)


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
