"""Every target of strangers' octets, altered from real input: nothing escapes, laws hold, and no input takes 10 ms of CPU.

The suite plays a seeded choice; `make test-slow` plays more, and lets atheris find its way by coverage. What was ever found stands in
corpus/TARGET/ and is tried first. FUZZ_SEED=n FUZZ_COUNT=n play others by hand, FUZZ_SECONDS=n gives atheris longer.
"""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fuzz.endpoints import AS_IT_IS, HEAD, LIVES, PIECES, SEALED, altered, life, pool, seeds
from fuzz.recorded import arrive, copied, held_to_contract, resealed
from fuzz.target import LIMIT, Target
from fuzz.targets import TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.ike_pair import Pair, snapshot
from support.ike_stages import ESP_KE, IKE_KE, NONCE, ROLES, esp_offer, reach

from gateway.ike.errors import PeerError
from gateway.ike.events import IkeUp
from gateway.ike.message import Header, emit_chain, emit_message, parse_chain
from gateway.ike.payloads import (
    Certificate,
    Delete,
    Notify,
    Payload,
    Proposal,
    SecurityAssociation,
    TrafficSelector,
    TrafficSelectorsInitiator,
    TrafficSelectorsResponder,
    Transform,
)
from gateway.ike.registry import ExchangeType, Flags, Protocol

CORPUS = Path(__file__).parent / "corpus"
SEED, COUNT = int(os.environ.get("FUZZ_SEED", "1")), int(os.environ.get("FUZZ_COUNT", "800"))
HEAVY = 8
"""So many times fewer inputs where each has a world of its own."""
GUIDED_SECONDS = int(os.environ.get("FUZZ_SECONDS", "3"))
every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=str)


def play(target: Target, seed: int, count: int) -> None:
    chance, begun = random.Random(seed), target.seeds()
    for _ in range(count // HEAVY if target.heavy else count):
        target.judge(target.mutate(chance.choice(begun), chance))


# --- altered input ----------------------------------------------------------------------------------------------------


@every_target
def test_what_was_found_once_and_the_real_thing(target: Target) -> None:
    for data in target.seeds():
        target.judge(data)
    for file in sorted((CORPUS / target.name).glob("*")):
        target.judge(file.read_bytes())


def test_the_corpus_is_of_targets_that_exist() -> None:
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= set(TARGETS)


@every_target
def test_altered_input_is_refused_by_name_and_in_time(target: Target) -> None:
    play(target, SEED, COUNT)


@pytest.mark.slow
@every_target
@pytest.mark.parametrize("seed", range(100, 102))
def test_altered_input_is_refused_by_name_and_in_time_for_long(target: Target, seed: int) -> None:
    play(target, seed, 8000)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("target", [one for one in TARGETS.values() if not one.heavy], ids=str)
def test_any_octets_at_all(target: Target, data: bytes) -> None:
    target.feed(data)


def test_a_slow_input_is_told_with_its_octets() -> None:
    slow = Target("slow", lambda data: LIMIT * 2, lambda: [b"x"])
    with pytest.raises(AssertionError, match=r"20\.0 ms") as told:
        slow.judge(b"\x01\x02")
    assert "0102" in told.value.__notes__[0]
    # One bad moment of the machine is not the input's fault
    times = iter([LIMIT * 5, LIMIT * 2, *[LIMIT / 2] * 20])
    Target("once", lambda data: next(times), list).judge(b"")


# --- by coverage ------------------------------------------------------------------------------------------------------


def guided(name: str, *options: str) -> str:
    if platform.machine() != "x86_64":
        pytest.skip("atheris has no wheel for this machine")
    here = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.guided", name, "-seed=1", *options],
        capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONPATH": f"{here}:{here.parent}"},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    return said


def test_atheris_finds_its_way_and_nothing_else() -> None:
    said = guided("chain", "-runs=3000")
    assert "Done 3000 runs" in said
    assert "cov:" in said


@pytest.mark.slow
@every_target
def test_atheris_finds_nothing_for_long(target: Target) -> None:
    assert "Done" in guided(target.name, f"-max_total_time={GUIDED_SECONDS * (3 if target.heavy else 1)}")


# --- the endpoint -----------------------------------------------------------------------------------------------------


def test_the_lives_hold_every_kind_of_message() -> None:
    """Else the rest of this shows little: both directions, every exchange, in clear, sealed, in fragments, from both roles."""
    kinds, senders, fragments = set(), set(), 0
    for name in LIVES:
        assert all(host.seen(IkeUp) for host in life(name)[-1].pair.hosts), name
        for moment in life(name):
            header = moment.flight.message.header
            kinds.add((header.exchange, header.is_response))
            senders.add((header.exchange, header.from_original_initiator, header.is_response))
            fragments += moment.flight.message.fragment is not None
    wanted = (
        ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL,
        ExchangeType.IKE_INTERMEDIATE, ExchangeType.IKE_FOLLOWUP_KE,
    )  # fmt: skip
    assert {(kind, way) for kind in wanted for way in (False, True)} <= kinds
    assert all((ExchangeType.CREATE_CHILD_SA, True, way) in senders for way in (False, True))
    assert all((ExchangeType.CREATE_CHILD_SA, False, way) in senders for way in (False, True))
    assert fragments > 8
    shown = {type(payload).__name__ for payload in pool()}
    assert {"Certificate", "CertificateRequest", "Delete", "KeyExchange", "TrafficSelectorsResponder"} <= shown


@pytest.mark.parametrize("name", LIVES)
def test_the_alterations_reach_behind_the_icv(name: str) -> None:
    """Of what is sealed anew most is refused by what it means or taken, and little because it does not verify."""
    chance, reasons = random.Random(2), dict[str, int]()
    begun = [seed for seed in seeds(name) if seed[1] == SEALED and life(name)[seed[0]].sealed]
    for _ in range(60):
        data = altered(chance.choice(begun), chance)
        moment = life(name)[data[0]]
        if data[1] != SEALED or data[3]:
            continue
        world = copied(moment)
        before = world.receiver.core.rejected.copy()
        arrive(world, resealed(moment, data[2], data[HEAD:]))
        for reason in (world.receiver.core.rejected - before).elements():
            reasons[reason] = reasons.get(reason, 0) + 1
    assert reasons.pop("bad_icv", 0) == 0
    assert len(reasons) >= 2, reasons


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_payloads_from_an_authenticated_peer_in_any_state(data: st.DataObject) -> None:
    role, state = (
        data.draw(st.sampled_from(ROLES)),
        data.draw(st.sampled_from(["AUTH", "ESTABLISHED", "REKEYING", "DELETING"])),
    )
    stage = reach(role, state)
    response = data.draw(st.booleans())
    payloads = tuple(data.draw(st.lists(st.sampled_from(pool()), max_size=8)))
    exchange = data.draw(st.sampled_from([*ExchangeType, ExchangeType(99)]))
    was = stage.sa.established
    stage.deliver(stage.encode(exchange, payloads, stage.response_id if response else stage.request_id, response))
    assert was or not stage.sa.established
    stage.pair.silence(120)
    assert len(stage.host.sas) <= 2


def transforms(count: int, first: int = 0) -> tuple[Transform, ...]:
    return tuple(Transform(1 + number % 5, number % 40) for number in range(first, first + count))


def offers(protocol: Protocol, count: int, each: int) -> SecurityAssociation:
    spi = b"" if protocol == Protocol.IKE else b"\0\0\x10\0"
    return SecurityAssociation(
        tuple(Proposal(number & 0xFF, protocol, spi, transforms(each)) for number in range(count))
    )


PORTS = tuple(TrafficSelector(7, 0, number, number, bytes(4) + b"\xff" * 4) for number in range(255))
BOTH = (TrafficSelectorsInitiator(PORTS), TrafficSelectorsResponder(PORTS))
SPIS = tuple(number.to_bytes(4, "big") for number in range(15000))
WORST: dict[str, tuple[ExchangeType, tuple[Payload, ...]]] = {
    "as many transforms as there is room for": (
        ExchangeType.CREATE_CHILD_SA,
        (offers(Protocol.ESP, 28, 255), NONCE),
    ),
    "as many as are taken": (ExchangeType.CREATE_CHILD_SA, (offers(Protocol.ESP, 3, 166), NONCE, ESP_KE, *BOTH)),
    "empty proposals": (ExchangeType.CREATE_CHILD_SA, (offers(Protocol.ESP, 5000, 0), NONCE)),
    "selectors that hold one another": (ExchangeType.CREATE_CHILD_SA, (esp_offer(), NONCE, ESP_KE, *BOTH)),
    "selectors again and again": (ExchangeType.CREATE_CHILD_SA, (esp_offer(), NONCE, ESP_KE, *BOTH * 7)),
    "one DELETE of many": (ExchangeType.INFORMATIONAL, (Delete(Protocol.ESP, SPIS),)),
    "one DELETE of as many as are taken": (ExchangeType.INFORMATIONAL, (Delete(Protocol.ESP, SPIS[:2040]),)),
    "many DELETEs": (ExchangeType.INFORMATIONAL, (Delete(Protocol.ESP, SPIS[:150]),) * 64),
    "notifications": (ExchangeType.INFORMATIONAL, tuple(Notify(kind) for kind in range(100))),
    "certificates": (ExchangeType.INFORMATIONAL, (Certificate(4, bytes(600)),) * 100),
    "first requests": (ExchangeType.IKE_SA_INIT, (offers(Protocol.IKE, 28, 255), IKE_KE, NONCE)),
    "first requests of as much as is taken": (ExchangeType.IKE_SA_INIT, (offers(Protocol.IKE, 3, 166), IKE_KE, NONCE)),
    "first requests of as many proposals": (ExchangeType.IKE_SA_INIT, (offers(Protocol.IKE, 64, 6), IKE_KE, NONCE)),
    "first requests of empty proposals": (ExchangeType.IKE_SA_INIT, (offers(Protocol.IKE, 8000, 0), IKE_KE, NONCE)),
}


@pytest.mark.parametrize("name", WORST)
def test_the_most_laborious_message_that_fits_a_datagram_takes_no_10_ms(name: str) -> None:
    """CVE-2026-35328 and its kin, by the clock: the loop that serves it also keeps a thousand others alive."""
    exchange, payloads = WORST[name]

    def feed(_: bytes) -> float:
        stage = reach("responder", "ESTABLISHED", fragment_size=0)
        if exchange == ExchangeType.IKE_SA_INIT:
            octets = emit_message(Header(5, 0, exchange, Flags.INITIATOR, 0), payloads)
        else:
            octets = stage.encode(exchange, payloads, stage.request_id, False)
        assert len(octets) <= 65535
        begin = time.process_time()
        stage.host.core.receive(octets, stage.sa.local, stage.sa.remote, stage.pair.now)
        return time.process_time() - begin

    Target(name, feed, list).judge(b"")


@pytest.mark.parametrize("who", ["stranger", "peer"])
def test_memory_does_not_grow_with_what_arrives(who: str) -> None:
    """One endpoint hears everything, one after the other: what it holds stays a handful of messages large."""
    chance, largest = random.Random(3), 0
    moments = [moment for moment in life("psk") if moment.sealed]
    begun = [seed for seed in seeds("psk") if seed[1] in ((AS_IT_IS,) if who == "stranger" else (SEALED, PIECES))]
    world = copied(moments[4])
    at_rest = held(world.pair)
    for number in range(600):
        data = altered(chance.choice(begun), chance)
        if who == "stranger":
            arrive(world, data[HEAD:])
        else:
            # As the peer, always the next request of its window
            head = world.flight.message.header
            sa = next((one for one in world.receiver.sas if one.initiator_spi == head.initiator_spi), None)
            if sa is None:
                world = copied(moments[4])
                continue
            head = replace(head, flags=head.flags & ~Flags.RESPONSE, message_id=sa.window.expected)
            arrive(world, resealed(world, data[2], data[HEAD:], head))
        held_to_contract(world)
        if number % 20 == 0:
            largest = max(largest, held(world.pair))
    world.pair.silence(120)
    assert largest < at_rest + 200_000
    assert held(world.pair) <= largest + 1000


def held(pair: Pair) -> int:
    """Octets that it takes to write down all that the two cores know."""
    return sum(len(repr(snapshot(host.core))) for host in pair.hosts)


def test_a_rearranged_chain_is_still_a_chain() -> None:
    """The alterations of endpoints keep the framing, or what lies behind it would never be reached."""
    chance, whole = random.Random(4), 0
    begun = [seed for seed in seeds("psk") if seed[1] == SEALED]
    for _ in range(200):
        data = altered(chance.choice(begun), chance)
        try:
            first, octets = emit_chain(parse_chain(data[HEAD:], data[2]))
        except PeerError:
            continue
        whole += (first, octets) == (data[2], data[HEAD:])
    assert whole > 60
