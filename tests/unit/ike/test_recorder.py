"""The flight recorder: what passed is told in order, decoded, without secrets, and strangers cannot push it out."""

from __future__ import annotations

from dataclasses import replace

from support.ike_pair import LEFT, NAME, PSK, RIGHT, Pair
from support.ike_stages import GOOD_REQUEST, ask

from gateway.contract import Endpoint
from gateway.ike.commands import CheckLiveness, Initiate, Rekey
from gateway.ike.recorder import CHECKS_KEPT, KEPT, Line, Recorder

CLUSTER = "N(IKEV2_MESSAGE_ID_SYNC_SUPPORTED) N(IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED)"


def told(pair: Pair, side: str = "left") -> list[str]:
    return [_words(line) for line in getattr(pair, side).core.recorder.lines(NAME)]


def _words(line: Line) -> str:
    if not line.exchange:
        return line.text
    arrow, kind = "->" if line.outgoing else "<-", "resp" if line.response else "req"
    return f"{arrow} {line.exchange} {kind} {line.message_id}: {line.text}"


def test_a_ladder_of_an_establishment_from_both_sides() -> None:
    pair = Pair()
    pair.establish()
    init, auth = "SA KE No N(NAT_DETECTION_SOURCE_IP) N(NAT_DETECTION_DESTINATION_IP)", "AUTH"
    left = told(pair)
    assert left[0].startswith(f"-> IKE_SA_INIT req 0: {init}")
    assert left[1].startswith(f"<- IKE_SA_INIT resp 0: {init}")
    assert left[2] == f"-> IKE_AUTH req 1: IDI IDR {auth} {CLUSTER} N(INITIAL_CONTACT) SA TSI TSR"
    assert left[3] == f"<- IKE_AUTH resp 1: IDR {auth} {CLUSTER} SA TSI TSR"
    assert left[4:] == ["IKE_SA established", "CHILD_SA net installed"]
    mirrored = [line.replace("->", "=>").replace("<-", "->").replace("=>", "<-") for line in left]
    right = told(pair, "right")
    assert sorted(right) == sorted(mirrored)
    assert right.index("IKE_SA established") < right.index(mirrored[3]), "first it stands, then it answers"
    sizes = [line.octets for line in pair.left.core.recorder.lines(NAME) if line.exchange]
    assert sizes == [line.octets for line in pair.right.core.recorder.lines(NAME) if line.exchange]
    assert sizes == [len(flight.octets) for flight in pair.sent]


def test_fragments_are_one_message_and_repetitions_are_counted() -> None:
    pair = Pair(fragment_size=150)
    pair.left.command(Initiate(NAME))
    pair.drop()
    pair.silence(2.0)
    pair.left.core.handle_deadline(pair.now)
    pair.in_flight.clear()
    first = pair.left.core.recorder.lines(NAME)
    assert [(line.exchange, line.repeated > 0) for line in first] == [("IKE_SA_INIT", True)]
    pair.run(30)
    lines = {(line.exchange, line.response): line for line in pair.left.core.recorder.lines(NAME) if line.exchange}
    other = {(line.exchange, line.response): line for line in pair.right.core.recorder.lines(NAME) if line.exchange}
    for key in (("IKE_AUTH", False), ("IKE_AUTH", True)):
        assert lines[key].datagrams == other[key].datagrams > 2
        assert lines[key].octets == other[key].octets


def test_why_it_ended_stands_under_the_message_that_said_so() -> None:
    pair = Pair()
    pair.configure(pair.right, psk=b"another")
    pair.left.command(Initiate(NAME))
    pair.settle()
    assert told(pair)[-2:] == [
        "<- IKE_AUTH resp 1: N(AUTHENTICATION_FAILED)",
        "IKE_SA ended: AUTHENTICATION_FAILED_RECEIVED",
    ]


def test_the_last_ones_are_kept_and_no_more() -> None:
    pair = Pair()
    pair.establish()
    for _ in range(30):
        pair.left.command(Rekey(NAME, "net"))
        pair.settle()
    lines = pair.left.core.recorder.lines(NAME)
    assert len(lines) == KEPT
    assert lines == tuple(sorted(lines, key=lambda line: line.at))
    pair.left.core.recorder.keep_only(())
    assert pair.left.core.recorder.lines(NAME) == ()


def checked(pair: Pair, times: int) -> None:
    """Liveness checks of both ends, as on an idle tunnel."""
    for number in range(times):
        (pair.left if number % 2 else pair.right).command(CheckLiveness(NAME))
        pair.now += 10.0
        pair.settle()


def test_liveness_checks_push_out_nothing_that_was_negotiated() -> None:
    """An idle tunnel checks every 10 s; what was negotiated an hour before is there all the same."""
    pair = Pair()
    pair.establish()
    begun, at = told(pair), pair.now
    checked(pair, 360)
    lines = pair.left.core.recorder.lines(NAME)
    assert told(pair)[: len(begun)] == begun
    folded, *last = lines[len(begun) :]
    assert (folded.exchange, folded.text, folded.folded) == ("INFORMATIONAL", "", 720 - CHECKS_KEPT)
    assert at <= folded.at < at + 20
    assert folded.octets == folded.folded * last[0].octets
    assert [(line.exchange, line.folded) for line in last] == [("INFORMATIONAL", 0)] * CHECKS_KEPT
    assert [line.at for line in lines] == sorted(line.at for line in lines)


def test_each_row_of_liveness_checks_is_folded_by_itself() -> None:
    pair = Pair()
    pair.establish()
    for _ in range(3):
        checked(pair, 40)
        pair.left.command(Rekey(NAME, "net"))
        pair.settle()
    lines = pair.left.core.recorder.lines(NAME)
    assert [line.folded for line in lines if line.folded] == [80 - CHECKS_KEPT] * 3
    assert sum("CHILD_SA net installed" in line.text for line in lines) == 4
    assert len(lines) <= KEPT


def test_repetitions_of_a_folded_liveness_check_are_counted_with_it() -> None:
    recorder = Recorder()
    check = Line(1.0, True, "INFORMATIONAL", False, 0, "", 80)
    for number in range(CHECKS_KEPT + 2):
        recorder.add(NAME, replace(check, message_id=number))
        recorder.repeated(NAME, number, False)
    recorder.repeated(NAME, 1, False)
    folded, *last = recorder.lines(NAME)
    assert (folded.folded, folded.repeated, folded.octets) == (2, 3, 160)
    assert [line.repeated for line in last] == [1] * CHECKS_KEPT


def test_a_message_that_says_something_is_not_folded() -> None:
    recorder = Recorder()
    for number in range(KEPT):
        recorder.add(NAME, Line(1.0, True, "INFORMATIONAL", False, number, "D(1 SPIs)"))
    assert [line.folded for line in recorder.lines(NAME)] == [0] * KEPT


def test_what_strangers_send_pushes_nothing_out() -> None:
    pair = Pair()
    pair.establish()
    before = told(pair, "right")
    for number in range(KEPT * 2):
        ask(pair, *GOOD_REQUEST, spi=number + 1)
        pair.receive(pair.right, bytes([number]) * 60, Endpoint(LEFT, 4500), Endpoint(RIGHT, 4500))
    pair.silence(31)
    assert told(pair, "right") == before


def test_nothing_secret_is_in_it() -> None:
    pair = Pair()
    pair.establish()
    text = repr([host.core.recorder.lines(NAME) for host in pair.hosts])
    keys = pair.left.sas[0].keys
    assert keys is not None
    for secret in (PSK, pair.left.sas[0].ni, *keys.secrets_for_keylog().values()):
        assert not secret or (secret.hex() not in text and repr(secret)[2:-1] not in text)
