"""Retransmission, cached responses and the window of one (RFC 7296 2.1, 2.2, 2.3, 2.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from support.ike_pair import CHILD, LEFT, NAME, Flight, Host, Pair, snapshot
from support.ike_stages import KINDS, ROLES, reach

from gateway.contract import Endpoint
from gateway.ike.commands import CheckLiveness, Command, Initiate, Rekey, Terminate
from gateway.ike.errors import PeerError
from gateway.ike.events import IkeDown
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.message import parse_message
from gateway.ike.registry import ExchangeType, Flags
from gateway.ike.sa import MARGIN

TIMES = {"retransmit_timeout": 1.0, "retransmit_base": 1.6, "retransmit_tries": 6}
WAITS = [1.0 * 1.6**number for number in range(7)]


def watched(pair: Pair) -> list[tuple[float, bytes]]:
    """Everything sent from now on, with its time; all of it is lost."""
    seen: list[tuple[float, bytes]] = []

    def lose(flight: Flight) -> None:
        seen.append((pair.now, flight.octets))

    pair.rewrite = lose  # type: ignore[assignment]
    return seen


STARTS: dict[str, Callable[[Host], None]] = {
    "IKE_SA_INIT": lambda host: host.command(Initiate(NAME)),
    "CREATE_CHILD_SA": lambda host: host.command(Rekey(NAME, CHILD)),
    "IKE rekey": lambda host: host.command(Rekey(NAME)),
    "DELETE": lambda host: host.command(Terminate(NAME)),
}


def assert_schedule(times: list[float], waits: list[float]) -> None:
    """Sent at the start and after each wait but the last, or up to a tenth earlier."""
    assert len(times) == len(waits)
    for wait, before, after in zip(waits, times, times[1:], strict=False):
        assert wait * (1 - MARGIN) <= after - before <= wait + 1e-9


def test_a_liveness_check_is_repeated_as_soon_as_the_peer_asks_something() -> None:
    """A peer that stood still is there again before the last wait ends: nothing is given up."""
    pair = Pair(**TIMES)
    pair.establish()
    pair.left.command(CheckLiveness(NAME))
    pair.silence(sum(WAITS) * (1 - MARGIN) - 1)
    pair.right.command(CheckLiveness(NAME))
    pair.settle()
    pair.assert_agreed()
    pair.run(sum(WAITS))
    pair.assert_agreed()
    assert not [event for event in pair.left.events if isinstance(event, IkeDown)]


@pytest.mark.parametrize(("command", "more"), [(CheckLiveness(NAME), 1), (Rekey(NAME, CHILD), 0), (Rekey(NAME), 0)])
def test_a_peer_that_asks_and_does_not_answer_hears_a_check_once_more_for_each_repetition(
    command: Command, more: int
) -> None:
    pair = Pair(**TIMES)
    pair.establish()
    seen: list[bytes] = []

    def lose(flight: Flight) -> Flight | None:
        if flight.receiver is not pair.right or flight.message.header.is_response:
            return flight
        seen.append(flight.octets)
        return None

    pair.rewrite = lose
    pair.left.command(command)
    pair.settle()
    for repetitions in range(3):
        for _ in range(4):
            pair.right.command(CheckLiveness(NAME))
            pair.settle()
        asked = 1 + repetitions * (1 + more)
        assert (len(seen), len(set(seen))) == (asked, 1)
        pair.run(WAITS[repetitions])


@pytest.mark.parametrize("name", STARTS)
def test_the_schedule_of_every_request(name: str) -> None:
    """RFC 7296 2.1, 2.4: the same octets, with exponential back-off, then the peer counts as dead."""
    pair = Pair(**TIMES)
    if name != "IKE_SA_INIT":
        pair.establish()
    seen = watched(pair)
    start = pair.now
    STARTS[name](pair.left)
    pair.hold(sum(WAITS) * (1 - MARGIN))
    assert len(pair.left.sas) == 1
    assert_schedule([at - start for at, _ in seen], WAITS)
    assert len({octets for _, octets in seen}) == 1
    pair.hold(sum(WAITS) * MARGIN + 0.01)
    assert pair.left.sas == []
    assert len(seen) == 1 + TIMES["retransmit_tries"]
    assert pair.left.core.counts(NAME).retransmissions == TIMES["retransmit_tries"]


@pytest.mark.parametrize(("tries", "base"), [(1, 1.0), (3, 2.0), (0, 1.6)])
def test_the_schedule_is_the_configured_one(tries: int, base: float) -> None:
    pair = Pair(retransmit_timeout=0.5, retransmit_base=base, retransmit_tries=tries)
    seen = watched(pair)
    start = pair.now
    pair.left.command(Initiate(NAME))
    pair.hold(100)
    assert_schedule([at - start for at, _ in seen], [0.5 * base**number for number in range(tries + 1)])


def test_many_that_begin_together_do_not_stay_in_step() -> None:
    """A peer that comes back after an outage hears its thousand callers spread over time, not all in one moment."""
    times: list[list[float]] = [[] for _ in WAITS]
    for seed in range(40):
        pair = Pair(seed=seed, **TIMES)
        seen = watched(pair)
        start = pair.now
        pair.left.command(Initiate(NAME))
        pair.hold(100)
        for column, (at, _) in zip(times, seen, strict=True):
            column.append(at - start)
    # The n-th time around they are spread over a good part of what jitter allows, and the spread grows
    for number, column in enumerate(times[1:], 1):
        allowed = sum(WAITS[:number]) * MARGIN
        assert max(column) - min(column) > allowed / 3
        assert len({round(at, 3) for at in column}) > 20


def test_the_same_randomness_gives_the_same_times() -> None:
    def schedule() -> list[float]:
        pair = Pair(seed=5, **TIMES)
        seen = watched(pair)
        pair.left.command(Initiate(NAME))
        pair.hold(100)
        return [at for at, _ in seen]

    assert schedule() == schedule()


def test_ike_auth_is_retransmitted_too_and_ends_by_its_own_name() -> None:
    stage = reach("initiator", "AUTH")
    seen = watched(stage.pair)
    stage.pair.hold(60)
    assert len(seen) == TIMES["retransmit_tries"]
    assert len({octets for _, octets in seen}) == 1
    assert [event.reason for event in stage.host.seen(IkeDown)] == ["NO_ANSWER_ON_4500"]


def test_an_answer_stops_it() -> None:
    pair = Pair(**TIMES)
    pair.establish()
    pair.left.command(Rekey(NAME, CHILD))
    lost = pair.drop()
    pair.hold(2.7)
    assert len(pair.in_flight) == 2  # at 1.0 and 2.6
    pair.settle()
    sent = len(pair.sent)
    pair.hold(30)
    assert len(pair.sent) == sent
    assert lost.octets == next(flight.octets for flight in pair.sent if flight.octets == lost.octets)


@pytest.mark.parametrize("lost", range(4))
@pytest.mark.parametrize("command", [None, Rekey(NAME, CHILD), Rekey(NAME), Terminate(NAME, CHILD)], ids=str)
def test_the_nth_datagram_lost(command: Command | None, lost: int) -> None:
    pair = Pair()
    if command is not None:
        pair.establish()
    count = 0

    def lose(flight: Flight) -> Flight | None:
        nonlocal count
        count += 1
        return None if count == lost + 1 else flight

    pair.rewrite = lose
    pair.left.command(command or Initiate(NAME))
    pair.run(40)
    if not isinstance(command, Terminate):
        pair.assert_agreed()
    assert len(pair.left.sas) == len(pair.right.sas) == 1
    assert pair.left.seen(IkeDown) == [] or isinstance(command, Rekey)


@pytest.mark.parametrize("every", [2, 3])
def test_every_datagram_delivered_more_than_once(every: int) -> None:
    """Duplicates change nothing: as many CHILD_SAs, as many events, as without them."""
    plain, doubled = Pair(), Pair()
    for pair in (plain, doubled):
        pair.left.command(Initiate(NAME))
    for command in (None, Rekey(NAME, CHILD), Rekey(NAME)):
        for pair in (plain, doubled):
            if command is not None:
                pair.left.command(command)
            while pair.in_flight:
                copies = every if pair is doubled else 1
                for number in range(copies):
                    pair.deliver(keep=number < copies - 1)
                    del pair.in_flight[50:]
    plain.assert_agreed()
    doubled.assert_agreed()
    for one, other in zip(plain.hosts, doubled.hosts, strict=True):
        assert [type(event) for event in one.events] == [type(event) for event in other.events]


# --- cached responses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["NEW CHILD", "REKEY CHILD", "REKEY IKE", "LIVENESS"])
def test_a_repeated_request_gets_the_same_octets_again(role: str, name: str) -> None:
    """RFC 7296 2.1; libreswan CVE-2024-2357. Answered by the memory, not by doing it again."""
    stage = reach(role, "ESTABLISHED")
    octets = stage.octets(KINDS[name], stage.request_id, False)
    stage.deliver(octets)
    (first,) = [flight.octets for flight in stage.answers()]
    events, children = len(stage.host.events), len(stage.host.data_plane.inbound)
    for _ in range(3):
        stage.deliver(octets)
        assert [flight.octets for flight in stage.answers()] == [first]
    assert (len(stage.host.events), len(stage.host.data_plane.inbound)) == (events, children)


@pytest.mark.parametrize("role", ROLES)
def test_a_repeat_that_does_not_verify_gets_nothing(role: str) -> None:
    """A stranger who saw a request must not make us an amplifier."""
    stage = reach(role, "ESTABLISHED")
    octets = stage.octets(KINDS["LIVENESS"], stage.request_id, False)
    stage.deliver(octets)
    stage.deliver(octets[:-1] + bytes([octets[-1] ^ 1]))
    assert stage.answers() == []
    assert stage.refusals() == ["bad_icv"]


@pytest.mark.parametrize("role", ROLES)
def test_an_ike_sa_init_with_the_last_message_id_gets_nothing(role: str) -> None:
    """It is not sealed, so it could come from anybody: no cached response for it."""
    stage = reach(role, "ESTABLISHED")
    stage.deliver(stage.octets(KINDS["LIVENESS"], stage.request_id, False))
    before = snapshot(stage.host.core)
    stage.deliver(stage.octets(KINDS["IKE_SA_INIT"], stage.request_id - 1, False))
    assert stage.answers() == []
    assert snapshot(stage.host.core) == before


@pytest.mark.parametrize("role", ROLES)
def test_requests_outside_the_window_get_nothing_and_change_nothing(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    for _ in range(3):
        stage.deliver(stage.octets(KINDS["LIVENESS"], stage.request_id, False))
    before, expected = snapshot(stage.host.core), stage.request_id
    for number in (0, expected - 2, expected + 1, expected + 2, 2**31, 2**32 - 1):
        for name in ("LIVENESS", "DELETE IKE", "NEW CHILD"):
            stage.deliver(stage.octets(KINDS[name], number, False))
            assert (stage.answers(), stage.refusals()) == ([], ["message_id"])
    assert snapshot(stage.host.core) == before


@pytest.mark.parametrize("role", ROLES)
def test_a_repeat_of_the_request_being_worked_on_gets_nothing_yet(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    stage.pair.defer = True
    octets = stage.octets(KINDS["NEW CHILD"], stage.request_id, False)
    stage.deliver(octets)
    work = stage.pair.in_flight[:]
    stage.deliver(octets)
    assert (stage.answers(), stage.refusals()) == ([], ["message_id"])
    stage.pair.in_flight[:] = work
    stage.pair.deliver()
    assert len(stage.answers()) == 1
    assert len(stage.sa.children) == 2


def test_a_repeated_answer_is_taken_once() -> None:
    pair = Pair()
    pair.establish()
    pair.left.command(Rekey(NAME, CHILD))
    pair.deliver()
    answer = pair.in_flight[0]
    pair.deliver(keep=True)
    before = snapshot(pair.left.core)
    children = set(pair.left.data_plane.inbound)
    for _ in range(3):
        pair.receive(pair.left, answer.octets)
    assert snapshot(pair.left.core) == before
    assert set(pair.left.data_plane.inbound) == children
    assert pair.left.rejected == {"unexpected_response": 3}


# --- the window -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_one_request_is_outstanding_the_next_waits(role: str) -> None:
    """RFC 7296 2.3: without SET_WINDOW_SIZE the window is one."""
    stage = reach(role, "ESTABLISHED")
    pair, host = stage.pair, stage.host
    host.command(Rekey(NAME, CHILD))
    host.command(Rekey(NAME))
    host.command(Terminate(NAME, CHILD))
    assert len(pair.in_flight) == 1
    while pair.in_flight:
        outstanding = Counter(spi for spi, _ in requests_to(stage.peer, pair.in_flight))
        assert set(outstanding.values()) <= {1}
        pair.deliver()
    for spi in {spi for spi, _ in requests_to(stage.peer, pair.sent)}:
        ids = [number for other, number in requests_to(stage.peer, pair.sent) if other == spi]
        assert ids == list(range(ids[0], ids[0] + len(ids)))


def requests_to(host: Host, flights: list[Flight]) -> list[tuple[int, int]]:
    """IKE_SA and message ID of each."""
    heads = [flight.message.header for flight in flights if flight.receiver is host]
    return [(head.initiator_spi, head.message_id) for head in heads if not head.is_response]


def test_both_ends_count_their_own_requests() -> None:
    """RFC 7296 2.2: each end has its own Message IDs."""
    pair = Pair()
    pair.establish()
    for host in (pair.left, pair.right, pair.right, pair.left):
        host.sa.enqueue(Liveness(), pair.now)
        pair.drain()
        pair.settle()
    assert (pair.left.sa.window.next_request, pair.left.sa.window.expected) == (4, 2)
    assert (pair.right.sa.window.next_request, pair.right.sa.window.expected) == (2, 4)


@pytest.mark.parametrize("role", ROLES)
def test_a_response_of_another_exchange_type_is_not_the_answer(role: str) -> None:
    stage = reach(role, "REKEYING")
    before = snapshot(stage.host.core)
    for exchange in (ExchangeType.INFORMATIONAL, ExchangeType.IKE_AUTH):
        stage.deliver(stage.encode(exchange, (), stage.response_id, True))
        assert stage.refusals() == ["unexpected_response"]
    assert snapshot(stage.host.core) == before


def test_an_unknown_spi_is_never_answered() -> None:
    """At most rate-limited INVALID_IKE_SPI is allowed (RFC 7296 2.21.4); we say nothing at all."""
    pair = Pair()
    pair.establish()
    request = bytearray(reach("responder", "ESTABLISHED").octets(KINDS["LIVENESS"], 2, False))
    for at in (0, 8):
        octets = bytes(request[:at] + bytes([request[at] ^ 1]) + request[at + 1 :])
        pair.receive(pair.right, octets, Endpoint(LEFT, 500))
    assert pair.in_flight == []
    assert pair.right.rejected == {"unknown_spi": 2}


@pytest.mark.parametrize("role", ROLES)
def test_the_initiator_flag_tells_the_sides_apart(role: str) -> None:
    """RFC 7296 3.1: our own message sent back to us has it wrong; the SPI lookup refuses it first, the IKE_SA again."""
    stage = reach(role, "ESTABLISHED")
    good = stage.octets(KINDS["LIVENESS"], stage.request_id, False)
    reflected = good[:19] + bytes([good[19] ^ Flags.INITIATOR]) + good[20:]
    stage.deliver(reflected)
    assert (stage.answers(), stage.refusals()) == ([], ["unknown_spi"])
    with pytest.raises(PeerError, match="initiator flag"):
        stage.sa.receive(parse_message(reflected), stage.sa.local, stage.sa.remote, stage.pair.now)
