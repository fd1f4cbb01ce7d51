"""What the thread of native/probe_beat.c does with the programs of `beating.py`, slow and plain: the simulator's, and what the
native one is compared with.

    arm, once, rest -> perform        what arrived -> receive        time -> handle_deadline        poll -> Transmit
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidTag

from gateway.contract import RandomSource, Transmit
from gateway.ha import sealed
from gateway.ha.beating import Arm, Beat, Once, Rest
from gateway.ha.message import Echo, echoed, stamped, to_echo
from gateway.ha.paths import microseconds
from gateway.wire import Reader, Truncated


@dataclass(slots=True)
class _Program:
    arm: Arm
    key: sealed.Key
    opens: tuple[sealed.Key, ...]
    send_at: float
    vouched_until: float
    sent_at: float


class Beats:
    """The sequence of a path is counted as long as this lives."""

    def __init__(self, random: RandomSource) -> None:
        self._random = random
        self._programs: dict[int, _Program] = {}
        self._sequences: dict[int, int] = {}
        self._echoes: dict[int, tuple[Echo, float]] = {}  # and when it arrived
        self._effects: deque[Transmit] = deque()
        self.sent = 0

    def perform(self, beat: Beat, now: float) -> None:
        match beat:
            case Arm():
                self._arm(beat, now)
            case Once(number, body):
                program = self._programs[number]
                self._seal(program, stamped(body, microseconds(now)))
            case Rest(number):
                self._programs.pop(number, None)
                self._echoes.pop(number, None)

    def receive(self, data: bytes, now: float) -> None:
        """What is authentic and new of the peer is echoed from now on."""
        reader = Reader(data)
        if not sealed.HEADER_OCTETS + sealed.TAG_OCTETS <= len(data) <= sealed.LONGEST:
            return
        header = reader.take(sealed.HEADER_OCTETS)
        fields = Reader(header)
        family, _, number = fields.take(sealed.MAGIC_OCTETS + 1), fields.u8(), fields.u8()
        fields.take(5)
        boot, sequence = fields.take(sealed.BOOT_OCTETS), fields.u64()
        program, echo = self._programs.get(number), self._echoes.get(number)
        if program is None or boot != program.arm.peer or not program.arm.prefix.startswith(family):
            return
        if echo is not None and sequence <= echo[0].sequence:
            return
        rest = reader.rest()
        for key in program.opens:
            try:
                self._echoes[number] = (to_echo(boot, sequence, key.open(header, sequence, rest)), now)
            except (InvalidTag, Truncated):
                continue
            return

    def poll(self) -> Iterator[Transmit]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float | None:
        return min((program.send_at for program in self._programs.values()), default=None)

    def handle_deadline(self, now: float) -> None:
        for program in self._programs.values():
            if program.send_at <= now:
                self._beat(program, now)

    def _arm(self, arm: Arm, now: float) -> None:
        before = self._programs.get(arm.number)
        sent_at = before.sent_at if before is not None else float("-inf")
        latest = max(now, sent_at + arm.interval[1])
        send_at = min(before.send_at, latest) if before is not None else latest
        opens = tuple(sealed.Key(material) for material in arm.opens)
        program = _Program(arm, sealed.Key(arm.seal), opens, send_at, now + arm.hold, sent_at)
        self._programs[arm.number] = program
        self._adopt(arm)
        if arm.at_once:
            self._beat(program, now)

    def _adopt(self, arm: Arm) -> None:
        """Of the same peer the newer one counts."""
        known, told = self._echoes.get(arm.number), echoed(arm.body)
        if known is not None and known[0].boot == arm.peer and known[0].sequence >= told.sequence:
            return
        self._echoes.pop(arm.number, None)
        if told.boot == arm.peer:
            self._echoes[arm.number] = (told, arm.echoed_at)

    def _beat(self, program: _Program, now: float) -> None:
        if now > program.vouched_until:
            program.send_at = float("inf")
            return
        newest = self._echoes.get(program.arm.number)
        echo = None
        if newest is not None:
            echo = replace(newest[0], held_us=min(microseconds(now - newest[1]), 0xFFFFFFFF))
        self._seal(program, stamped(program.arm.body, microseconds(now), echo))
        program.sent_at, program.send_at = now, now + self._random.uniform(*program.arm.interval)

    def _seal(self, program: _Program, body: bytes) -> None:
        number, path = program.arm.number, program.arm.path
        sequence = self._sequences[number] = self._sequences.get(number, 0) + 1
        data = program.key.seal(program.arm.prefix, sequence, body)
        self.sent += 1
        self._effects.append(Transmit(data, path.local, path.remote))
