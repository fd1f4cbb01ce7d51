"""Liveness by ICMP echo (RFC 792, RFC 4443 4): answers, silence, and what is no answer."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from support.bfd_pair import Seeded

from gateway.bfd.echo import TYPES, Echo, EchoSettings
from gateway.bfd.probing import Arm, Changed, Disarm, Passed, Send, Verdict

KEY = 0x1234ABCD


class Asked:
    """An echo with its program; `answer` is what the other end says."""

    def __init__(self, version: int = 4, multiplier: int = 3) -> None:
        self.echo = Echo(EchoSettings(version, 0.1, multiplier), KEY, Seeded(1))
        self.armed: Arm | None = None
        self.changes: list[Changed] = []
        self.now = 50.0
        self.echo.path(True, self.now)
        self.drain()

    def drain(self) -> None:
        for effect in self.echo.poll():
            if isinstance(effect, Arm):
                self.armed = effect
            elif isinstance(effect, Disarm):
                self.armed = None
            elif isinstance(effect, Changed):
                self.changes.append(effect)

    def answer(self, data: bytes | None = None, after: float = 0.1) -> None:
        assert self.armed is not None
        self.now += after
        version = self.echo.settings.version
        good = self.armed.octets.replace(bytes([TYPES[version][0]]), bytes([TYPES[version][1]]), 1)
        self.echo.receive(data or good, self.now)
        self.drain()

    def silence(self) -> None:
        assert self.armed is not None
        self.now += 0.3
        self.echo.expired(self.armed.generation, self.now)
        self.drain()


def test_the_request_is_an_echo_with_our_key_and_a_right_checksum() -> None:
    asked = Asked()
    assert asked.armed is not None
    message = ICMP(asked.armed.octets)
    assert (message.type, message.code) == (8, 0)
    assert (message.id, message.seq) == (0x1234, 0xABCD)
    del message.chksum
    assert bytes(message) == asked.armed.octets
    assert len(bytes(IP() / message)) == 52
    assert asked.armed.interval == (pytest.approx(0.09), pytest.approx(0.1))


@pytest.mark.parametrize("version", [4, 6])
def test_alive_after_as_many_answers_as_the_multiplier_and_then_they_are_not_told(version: int) -> None:
    asked = Asked(version)
    for _ in range(2):
        asked.answer()
        assert (asked.echo.verdict, asked.changes) == (Verdict.UNKNOWN, [])
        assert asked.armed is not None
        assert (asked.armed.expected, asked.armed.detection) == (b"", 0.0)
    asked.answer()
    assert asked.echo.verdict is Verdict.UP
    assert asked.armed is not None
    assert asked.armed.expected[0] == TYPES[version][1]
    assert asked.armed.detection == pytest.approx(0.3)
    assert asked.armed.counts(asked.armed.expected)


def test_never_answered_is_no_verdict() -> None:
    asked = Asked()
    asked.answer()
    asked.answer(after=1.0)  # one answer now and then is not three in a row
    asked.answer(after=1.0)
    assert asked.echo.verdict is Verdict.UNKNOWN


def test_silence_is_a_failure_and_the_same_number_of_answers_ends_it() -> None:
    asked = Asked()
    for _ in range(3):
        asked.answer()
    asked.silence()
    assert asked.echo.verdict is Verdict.DOWN
    assert asked.armed is not None
    assert asked.armed.octets  # it goes on asking
    for _ in range(3):
        asked.answer()
    assert [change.verdict for change in asked.changes] == [Verdict.UP, Verdict.DOWN, Verdict.UP]
    assert asked.echo.status().flaps == 1


def test_what_is_not_our_answer_counts_for_nothing() -> None:
    asked = Asked()
    assert asked.armed is not None
    answer = b"\0" + asked.armed.octets[1:]
    for other in (asked.armed.octets, b"\x03" + answer[1:], answer[:-1], answer[:-1] + b"\0", answer + b"\0"):
        for _ in range(3):
            asked.answer(other)
    assert asked.echo.verdict is Verdict.UNKNOWN
    assert asked.echo.refused.total() == 15


def test_a_tunnel_that_is_down_is_no_verdict_of_ours() -> None:
    asked = Asked()
    for _ in range(3):
        asked.answer()
    asked.echo.path(False, asked.now)
    asked.drain()
    assert asked.armed is None
    assert asked.echo.verdict is Verdict.UNKNOWN
    asked.echo.path(True, asked.now)
    asked.drain()
    assert asked.armed is not None


def test_silence_that_an_earlier_program_met_is_none() -> None:
    asked = Asked()
    for _ in range(3):
        asked.answer()
    assert asked.armed is not None
    asked.echo.expired(asked.armed.generation - 1, asked.now)
    assert asked.echo.verdict is Verdict.UP


class Sized(Asked):
    """As Asked, with a tunnel of 1438 octets in which packets up to `limit` pass."""

    def __init__(self, version: int, limit: int) -> None:
        self.limit = limit
        self.sent: list[bytes] = []
        self.told: list[Passed] = []
        super().__init__(version)
        for _ in range(3):
            self.answer()
        self.echo.whole(1438, self.now)

    def drain(self) -> None:
        for effect in self.echo.poll():
            match effect:
                case Arm():
                    self.armed = effect
                case Send(octets):
                    self.sent.append(octets)
                case Passed():
                    self.told.append(effect)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        header = {4: 20, 6: 40}[self.echo.settings.version]
        while (due := self.echo.next_deadline()) is not None and due < end:
            self.now = due
            self.echo.handle_deadline(self.now)
            self.drain()
            for octets in self.sent[-1:]:
                if len(octets) + header <= self.limit:
                    # The thread tells the beginning of what is long: a slot less the header that a raw socket shows
                    answer = bytes([TYPES[self.echo.settings.version][1]]) + octets[1:]
                    self.echo.receive(answer[: 256 - (20 if header == 20 else 0)], self.now)
                    self.drain()


@pytest.mark.parametrize(("version", "header"), [(4, 20), (6, 40)])
def test_an_echo_of_the_whole_mtu_is_sent_now_and_then(version: int, header: int) -> None:
    asked = Sized(version, 1500)
    asked.run(1300)
    assert [len(octets) + header for octets in asked.sent] == [1438] * 3
    assert (asked.echo.status().passage, asked.echo.status().largest) == ("whole", 1438)
    assert asked.told == []
    if version == 4:
        message = ICMP(asked.sent[0])
        del message.chksum
        assert bytes(message) == asked.sent[0]


@pytest.mark.parametrize("version", [4, 6])
def test_a_black_hole_is_told_with_what_passes_and_so_is_its_end(version: int) -> None:
    asked = Sized(version, 1301)
    asked.run(200)
    assert asked.told == [Passed(False, 1438, asked.echo.status().largest)]
    assert 1297 < asked.echo.status().largest <= 1301
    assert asked.echo.verdict is Verdict.UP
    asked.limit = 1500
    asked.run(100)
    assert asked.told[1:] == [Passed(True, 1438, 1438)]


def test_an_answer_that_came_back_shorter_is_none() -> None:
    asked = Sized(4, 0)
    asked.run(1.2)
    (long,) = asked.sent
    asked.echo.receive(b"\0" + long[1:100], asked.now)
    asked.echo.receive(b"\0" + long[1:12] + b"\xff" + long[13:], asked.now)
    assert asked.echo.status().passage == ""
    asked.echo.receive(b"\0" + long[1:236], asked.now)
    assert asked.echo.status().passage == "whole"
