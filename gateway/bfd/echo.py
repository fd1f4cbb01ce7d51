"""Liveness of a tunnel whose peer has no BFD: ICMP echo through it to an address that answers (RFC 792, RFC 4443 4).

A core with the effects of probing.py, like session.py. Only an answer counts, for it proves both directions, and only
`multiplier` answers in a row make the tunnel alive again, so that a path that loses most packets does not flap. As long as
nothing ever answered the verdict is UNKNOWN: a host that does not answer pings says nothing of the tunnel.

While they are answered, full_size.py has now and then a long one sent, to see whether packets of the tunnel's whole MTU pass:

    ICMP header 8 | token 24                          what tells whether there is a peer
    ICMP header 8 | token 24 | size 2 | zeroes        as long as the inner packet of `size` octets demands
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.bfd.full_size import FullSize, Passage
from gateway.bfd.probing import SILENT, Arm, Changed, Disarm, Effect, LivenessStatus, Passed, Send, Verdict
from gateway.contract import RandomSource
from gateway.wire import Reader, Truncated, Writer

# (request, answer) by IP version
TYPES = {4: (8, 0), 6: (128, 129)}
KEY_AT = 4
"""Identifier and sequence number, by which the probe finds whose answer it is."""
_HEADER_OCTETS, _CHECKSUM_AT, _TOKEN_OCTETS = 8, 2, 24
_IP_OCTETS = {4: 20, 6: 40}
SHOWN_OCTETS = 200
"""Of a long answer at least; the probe cuts what is longer than its slots (native/probe_tables.h)."""
JITTER = (0.9, 1.0)


@dataclass(frozen=True, slots=True)
class EchoSettings:
    version: int  # of IP
    interval: float = 0.3
    multiplier: int = 3


class Echo:
    """See the module. `key` is unique among all echoes: identifier and sequence number in one."""

    def __init__(self, settings: EchoSettings, key: int, random: RandomSource) -> None:
        self.settings = settings
        self.key = key
        self.verdict = Verdict.UNKNOWN
        self.refused: Counter[str] = Counter()
        self._token = random.octets(_TOKEN_OCTETS)  # an answer to somebody else's ping is none to ours
        self._effects: deque[Effect] = deque()
        self._path = False
        self._answers = 0
        self._answered_at = 0.0
        self._armed: Arm | None = None
        self._full = FullSize()
        self._told = Passage.UNKNOWN
        self._generation = 0
        self._reason = ""
        self._changed_at: float | None = None
        self._flaps = 0

    def receive(self, data: bytes, now: float) -> None:
        """An ICMP message with our key, from the address we ask."""
        if self._answers_long(data, now):
            return
        wanted = self._message(TYPES[self.settings.version][1])
        if _without_checksum(data) != _without_checksum(wanted):
            self.refused["no answer"] += 1
            return
        if not self._path:
            return
        if now - self._answered_at > self.detection:
            self._answers = 0
        self._answers, self._answered_at = self._answers + 1, now
        if self.verdict is not Verdict.UP and self._answers >= self.settings.multiplier:
            self._conclude(Verdict.UP, "", now)
        self._program(data)

    def expired(self, generation: int, now: float) -> None:
        """The probe heard no answer for the detection time of this program."""
        if self._armed is None or generation != self._armed.generation:
            return
        self._answers = 0
        self._conclude(Verdict.DOWN, "no answer for the detection time", now)
        self._program()

    def path(self, usable: bool, now: float) -> None:
        """Whether packets can be sent at all. A tunnel that is down is known to be; that is no verdict of ours."""
        if usable == self._path:
            return
        self._path, self._answers = usable, 0
        if usable:
            self._program()
            return
        self._armed = None
        self._effects.append(Disarm())
        if self.verdict is not Verdict.UNKNOWN:
            self._conclude(Verdict.UNKNOWN, "the tunnel is down", now)

    def whole(self, mtu: int, now: float, *, moved: bool = False) -> None:
        """The tunnel's MTU, that packets of this size may be tried; 0: there is no tunnel. `moved`: by another path now."""
        self._full.whole(mtu, now, moved=moved)
        self._tell_passage()

    def adopt(self, settings: EchoSettings, now: float) -> None:
        self.settings = settings
        if self._path:
            self._program()

    def close(self, now: float) -> None:
        """Nobody has to be told."""
        self.path(False, now)

    def poll(self) -> Iterator[Effect]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float | None:
        return self._full.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Only what is long goes by our own clock."""
        self._full.handle_deadline(now)
        self._effects.extend(Send(self._long(size)) for size in self._full.sizes())
        self._tell_passage()

    @property
    def interval(self) -> float:
        return self.settings.interval

    @property
    def detection(self) -> float:
        return self.settings.interval * self.settings.multiplier

    def status(self) -> LivenessStatus:
        return LivenessStatus(
            state="UP" if self.verdict is Verdict.UP else "DOWN",
            verdict=self.verdict.value,
            remote_state="",
            diagnostic="",
            remote_diagnostic="",
            reason=self._reason,
            changed_at=self._changed_at,
            flaps=self._flaps,
            interval=self.interval,
            detection=self.detection,
            refused=dict(self.refused),
            full_size=self._full.size,
            largest=self._full.largest,
            passage=self._full.passage.value,
        )

    def _conclude(self, verdict: Verdict, reason: str, now: float) -> None:
        before, self.verdict = self.verdict, verdict
        self._flaps += before is Verdict.UP
        self._reason, self._changed_at = reason, now
        self._full.small(verdict is Verdict.UP, self.detection, now)
        self._effects.append(Changed(verdict, before, self.status().state, reason))

    def _answers_long(self, data: bytes, now: float) -> bool:
        """Whether it is an answer to a long one. A short one has no size, and is not cut."""
        reader = Reader(data)
        try:
            head = reader.take(_HEADER_OCTETS + _TOKEN_OCTETS)
            size = reader.u16()
        except Truncated:
            return False
        wanted = self._message(TYPES[self.settings.version][1])
        if _without_checksum(head) != _without_checksum(wanted):
            return False
        if len(data) >= min(self._length(size), SHOWN_OCTETS):
            self._full.answer(size, now)
            self._tell_passage()
        return True

    def _length(self, size: int) -> int:
        """Octets of the ICMP message in an inner packet of this size."""
        return size - _IP_OCTETS[self.settings.version]

    def _long(self, size: int) -> bytes:
        writer = Writer()
        writer.u16(size)
        zeroes = self._length(size) - _HEADER_OCTETS - _TOKEN_OCTETS - len(writer)
        return self._message(TYPES[self.settings.version][0], writer.done() + bytes(zeroes))

    def _tell_passage(self) -> None:
        """What it was between is not lost: it is known again within the minute, or was never."""
        full = self._full
        if full.passage not in (self._told, Passage.UNKNOWN):
            known = self._told is not Passage.UNKNOWN or full.passage is Passage.BLACK_HOLE
            self._told = full.passage
            if known:
                self._effects.append(Passed(full.passage is Passage.WHOLE, full.size, full.largest))

    def _message(self, kind: int, more: bytes = b"") -> bytes:
        writer = Writer()
        writer.u8(kind)
        writer.u8(0)
        writer.u16(0)
        writer.u32(self.key)
        writer.put(self._token)
        writer.put(more)
        if self.settings.version == 4:
            # RFC 4443 2.3: over a pseudo-header too, so there it is the kernel's
            writer.patch(_CHECKSUM_AT, _checksum(writer.done()), 2)
        return writer.done()

    def _program(self, heard: bytes = b"") -> None:
        shortest, longest = (share * self.settings.interval for share in JITTER)
        # Every answer is told until there were enough; then they are counted on
        quiet = heard if self.verdict is Verdict.UP else b""
        quiet = quiet or (self._armed.expected if self._armed is not None and self.verdict is Verdict.UP else b"")
        wanted = Arm(
            octets=self._message(TYPES[self.settings.version][0]),
            interval=(shortest, longest) if self._path else SILENT,
            expected=quiet,
            alive=_ALIVE if quiet else b"",
            detection=self.detection if quiet else 0.0,
            generation=self._generation + 1,
            at_once=self._armed is None,
        )
        armed = self._armed
        if armed is not None and (armed.interval, armed.expected, armed.detection) == (
            wanted.interval, wanted.expected, wanted.detection,
        ):  # fmt: skip
            return
        self._generation += 1
        self._armed = wanted
        self._effects.append(wanted)


_ALIVE = bytes([0xFF, 0xFF, 0x00, 0x00]) + b"\xff" * (_HEADER_OCTETS - KEY_AT + _TOKEN_OCTETS)


def _without_checksum(message: bytes) -> bytes:
    return message[:_CHECKSUM_AT] + message[_CHECKSUM_AT + 2 :]


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
