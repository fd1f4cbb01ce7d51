"""One BFD session in Asynchronous mode (RFC 5880 6), active role, for RFC 5881 (single hop) and RFC 5883 (multihop).

A core (gateway/contract.py). Addresses, ports, TTL and which datagram is for which session are not its business; it is
given Control packets and says what the probe shall do (probing.py). Without authentication the probe sends, compares and
measures the silence. With it every packet is another one (meticulous), so this does all three by its own deadlines, which
is why such a session is not for intervals below 300 ms. No Echo function, no Demand mode of our own; a peer that uses it
is obeyed.

        Down --Down--> Init --Init, Up--> Up        any --AdminDown--> Down
        Down --Init--> Up --Down--> Down            Init, Up --silence--> Down
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from gateway.bfd.packet import (
    FLAGS_AT,
    MANDATORY_OCTETS,
    MICROSECOND,
    POLL_OR_FINAL,
    Authentication,
    AuthenticationType,
    ControlPacket,
    Diagnostic,
    Refusal,
    Refused,
    State,
    emit,
    parse,
    verify,
)
from gateway.bfd.probing import SILENT, Arm, Changed, Disarm, Effect, LivenessStatus, Send, Verdict
from gateway.contract import RandomSource

# RFC 5880 6.8.3: the least interval while the session is not Up
SLOW = 1_000_000
JITTER, JITTER_OF_ONE = (0.75, 1.0), (0.75, 0.9)
TURN = 0.01
"""Seconds of doubt before silence counts where we measure it ourselves: what waits unread is read meanwhile."""

# RFC 5880 6.8.6: (local state, received state) -> local state; what is absent changes nothing
TRANSITIONS: dict[tuple[State, State], State] = {
    (State.DOWN, State.DOWN): State.INIT,
    (State.DOWN, State.INIT): State.UP,
    (State.INIT, State.ADMIN_DOWN): State.DOWN,
    (State.INIT, State.INIT): State.UP,
    (State.INIT, State.UP): State.UP,
    (State.UP, State.ADMIN_DOWN): State.DOWN,
    (State.UP, State.DOWN): State.DOWN,
}

# What of a packet must be as it was for the peer to be alive: version, state, A and M, length, both discriminators.
# Its diagnostic, its multiplier, its intervals, P, F and D are news, but no less a sign of life.
_ALIVE = bytes([0xE0, 0xC5, 0x00, 0xFF, *(0xFF,) * 8, *(0x00,) * (MANDATORY_OCTETS - 12)])


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """`interval` (seconds) is both how often we want to send and how often we can bear to receive."""

    interval: float = 0.3
    multiplier: int = 3
    key: bytes | None = field(default=None, repr=False)
    key_id: int = 1


class Session:
    """See the module. `start` begins it; `discriminator` is unique among all sessions, and random."""

    def __init__(self, settings: SessionSettings, discriminator: int, random: RandomSource) -> None:
        self.settings = settings
        self.discriminator = discriminator
        self.state = State.DOWN
        self.verdict = Verdict.UNKNOWN
        self.diagnostic = Diagnostic.NONE
        self.refused: Counter[str] = Counter()
        self._random = random
        self._effects: deque[Effect] = deque()
        self._remote = _Remote()
        self._required_rx = self._rx_in_force = _microseconds(settings.interval)
        self._desired_tx = self._tx_in_force = max(self._required_rx, SLOW)
        self._polling = self._poll_later = False
        self._path = False
        self._last = b""  # the last packet taken, with P and F clear
        self._armed: Arm | None = None
        self._generation = 0
        self._sequence = int.from_bytes(random.octets(4), "big")  # RFC 5880 6.8.1
        self._sequence_seen: int | None = None
        self._send_at: float | None = None
        self._detect_at: float | None = None
        self._forget_at: float | None = None
        self._doubted = False
        self._tell_now = False
        self._reason = ""
        self._changed_at: float | None = None
        self._flaps = 0

    # --- the contract -------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """A Control packet for this session: its addresses, its TTL and Your Discriminator were looked at."""
        try:
            packet = parse(data)
            self._authenticate(packet, data)
            if packet.your_discriminator not in (0, self.discriminator):
                raise Refused(Refusal.DISCRIMINATOR)
        except Refused as refused:
            self.refused[refused.why.value] += 1
            return
        if self._path:
            self._accept(packet, data, now)

    def expired(self, generation: int, now: float) -> None:
        """The probe heard nothing for the detection time of this program."""
        if self._armed is not None and generation == self._armed.generation:
            self._silence(now)

    def path(self, usable: bool, now: float) -> None:
        """Whether packets can be sent at all: the session's tunnel, its device. At first they cannot."""
        if usable == self._path:
            return
        self._path = usable
        if usable:
            self._program(now)
            return
        self._armed = self._send_at = self._detect_at = None
        self._effects.append(Disarm())
        self._remote.discriminator, self._last = 0, b""
        # RFC 5880 6.8.17 says it of what lies behind us; a path known to be gone is not waited for
        if self.state in (State.INIT, State.UP):
            self._enter(State.DOWN, Diagnostic.PATH_DOWN, "its path is down", now)

    def adopt(self, settings: SessionSettings, now: float) -> None:
        """Other settings, without leaving the state the session is in."""
        before, self.settings = self.settings, settings
        if before.interval != settings.interval:
            self._required_rx = _microseconds(settings.interval)
            self._desired_tx = self._required_rx if self.state is State.UP else max(self._required_rx, SLOW)
            self._timing_changed()
        if before.key != settings.key or before.key_id != settings.key_id:
            self._sequence_seen = None
        self._program(now)

    def forgive(self, now: float) -> None:
        """Something else proved that the peer is there (RFC 5882 4.1): it counts as one without BFD until the session is up."""
        if self.verdict is Verdict.DOWN:
            self._conclude(Verdict.UNKNOWN, self._reason, now)

    def close(self, now: float) -> None:
        """RFC 5880 6.8.16: tell the peer that nothing failed. What follows is silence."""
        self._enter(State.ADMIN_DOWN, Diagnostic.ADMINISTRATIVELY_DOWN, "administratively down", now)
        self._program(now)

    def poll(self) -> Iterator[Effect]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float | None:
        """Only authenticated sessions have one."""
        return min((at for at in (self._send_at, self._detect_at, self._forget_at) if at is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        if self._forget_at is not None and now >= self._forget_at:
            # RFC 5880 6.8.1: the peer may have restarted with other numbers
            self._forget_at = self._sequence_seen = None
        if self._detect_at is not None and now >= self._detect_at:
            if self._doubted:
                self._silence(now)
            else:
                self._doubted, self._detect_at = True, now + TURN
        if self._send_at is not None and now >= self._send_at:
            self._transmit(now)

    # --- views --------------------------------------------------------------------------------------------------

    @property
    def interval(self) -> float:
        """Seconds between two packets of ours, before jitter; 0.0: none are sent by themselves."""
        # RFC 5880 6.8.7: no periodic packets to who wants none, or asks for them (Demand mode)
        demanded = self._remote.demands and self.state is State.UP and not self._polling
        if not self._path or self._remote.min_rx == 0 or demanded:
            return 0.0
        return max(self._tx_in_force, self._remote.min_rx) * MICROSECOND

    @property
    def detection(self) -> float:
        """Seconds; 0.0 while we know nothing of the peer."""
        if not self._remote.discriminator:
            return 0.0
        # RFC 5880 6.8.4
        return self._remote.multiplier * max(self._rx_in_force, self._remote.desired_tx) * MICROSECOND

    def status(self) -> LivenessStatus:
        return LivenessStatus(
            state=self.state.name,
            verdict=self.verdict.value,
            remote_state=self._remote.state.name,
            diagnostic=self.diagnostic.text,
            remote_diagnostic=self._remote.diagnostic.text,
            reason=self._reason,
            changed_at=self._changed_at,
            flaps=self._flaps,
            interval=self.interval,
            detection=self.detection,
            refused=dict(self.refused),
        )

    # --- receiving ----------------------------------------------------------------------------------------------

    def _authenticate(self, packet: ControlPacket, data: bytes) -> None:
        """RFC 5880 6.7.4, 6.8.6."""
        key, section = self.settings.key, packet.authentication
        if (key is None) != (section is None):
            raise Refused(Refusal.AUTHENTICATION)
        if key is None or section is None:
            return
        if section.kind != AuthenticationType.METICULOUS_KEYED_SHA1 or section.key_id != self.settings.key_id:
            raise Refused(Refusal.AUTHENTICATION)
        if self._sequence_seen is not None:
            ahead = (section.sequence - self._sequence_seen) % 2**32
            if not 1 <= ahead <= 3 * packet.multiplier:
                raise Refused(Refusal.SEQUENCE)
        # Deviation: the number is believed only with its hash, or anybody could choose where the window stands
        if not verify(data, key):
            raise Refused(Refusal.HASH)
        self._sequence_seen = section.sequence

    def _accept(self, packet: ControlPacket, data: bytes, now: float) -> None:
        """RFC 5880 6.8.6, in its order."""
        self._remote.hear(packet)
        self._last = data[:FLAGS_AT] + bytes([data[FLAGS_AT] & ~POLL_OR_FINAL]) + data[FLAGS_AT + 1 :]
        if self._polling and packet.final:
            self._polling = False
            self._tx_in_force, self._rx_in_force = self._desired_tx, self._required_rx
        elif self._poll_later and not self._polling and not packet.final:
            self._poll_later = False
            self._polling = True
        if self.state is not State.ADMIN_DOWN:
            self._step(packet.state, now)
        if packet.poll:
            # RFC 5880 6.5: at once, whatever the interval
            self._effects.append(Send(self._octets(final=True)))
        self._doubted = False
        self._program(now, heard=data)

    def _step(self, received: State, now: float) -> None:
        wanted = TRANSITIONS.get((self.state, received), self.state)
        if wanted is State.DOWN and self.state is not State.DOWN:
            # RFC 5882 3.2: who is told to stop has not failed
            meant = received is State.ADMIN_DOWN
            reason = "the neighbor is administratively down" if meant else "the neighbor signaled down"
            told = f" ({self._remote.diagnostic.text})" if self._remote.diagnostic and not meant else ""
            self._enter(State.DOWN, Diagnostic.NEIGHBOR_SIGNALED_DOWN, reason + told, now, meant=meant)
        elif wanted is not self.state:
            self._enter(wanted, Diagnostic.NONE if wanted is State.UP else self.diagnostic, "", now)
        elif received is State.ADMIN_DOWN and self.verdict is Verdict.DOWN:
            self._conclude(Verdict.UNKNOWN, "the neighbor is administratively down", now)

    def _silence(self, now: float) -> None:
        self._doubted = False
        self._detect_at = None
        # RFC 5880 6.8.1: what we knew of the peer is of the one before
        self._remote.discriminator, self._last = 0, b""
        if self.state in (State.INIT, State.UP):
            # RFC 5880 6.8.4
            self._enter(State.DOWN, Diagnostic.DETECTION_TIME_EXPIRED, "nothing heard for the detection time", now)
        self._program(now)

    # --- state and timing ---------------------------------------------------------------------------------------

    def _enter(self, state: State, diagnostic: Diagnostic, reason: str, now: float, *, meant: bool = False) -> None:
        before, self.state = self.state, state
        self.diagnostic = diagnostic
        self._tell_now = True
        was_up = before is State.UP
        self._polling = self._poll_later = False
        self._required_rx = self._rx_in_force = _microseconds(self.settings.interval)
        if state is State.UP:
            # Less than before takes effect at once, but the peer must learn of it (RFC 5880 6.8.3)
            self._desired_tx = self._tx_in_force = self._required_rx
            self._polling = True
            self._conclude(Verdict.UP, "", now)
            return
        self._desired_tx = self._tx_in_force = max(self._required_rx, SLOW)
        self._flaps += was_up
        if meant or state is State.ADMIN_DOWN:
            self._conclude(Verdict.UNKNOWN, reason, now)
        elif was_up:
            self._conclude(Verdict.DOWN, reason, now)
        else:
            self._conclude(self.verdict, reason or self._reason, now)

    def _conclude(self, verdict: Verdict, reason: str, now: float) -> None:
        before, self.verdict = self.verdict, verdict
        self._reason, self._changed_at = reason, now
        self._effects.append(Changed(verdict, before, self.state.name, reason))

    def _timing_changed(self) -> None:
        """RFC 5880 6.8.3: what would break an established session waits for the end of the Poll Sequence."""
        if self.state is not State.UP:
            self._tx_in_force, self._rx_in_force = self._desired_tx, self._required_rx
            return
        self._tx_in_force = min(self._tx_in_force, self._desired_tx)
        self._rx_in_force = max(self._rx_in_force, self._required_rx)
        if self._polling:
            self._poll_later = True  # two sequences at once could not be told apart
        else:
            self._polling = True

    # --- sending ------------------------------------------------------------------------------------------------

    def _octets(self, *, final: bool = False) -> bytes:
        key, section = self.settings.key, None
        if key is not None:
            self._sequence = (self._sequence + 1) % 2**32
            section = Authentication(AuthenticationType.METICULOUS_KEYED_SHA1, self.settings.key_id, self._sequence)
        return emit(
            ControlPacket(
                state=self.state,
                diagnostic=self.diagnostic,
                multiplier=self.settings.multiplier,
                my_discriminator=self.discriminator,
                your_discriminator=self._remote.discriminator,
                desired_min_tx=self._desired_tx,
                required_min_rx=self._required_rx,
                # RFC 5880 6.5: never both
                poll=self._polling and not final,
                final=final,
                authentication=section,
            ),
            key or b"",
        )

    def _program(self, now: float, heard: bytes = b"") -> None:
        """Tells the probe if what it does is not what is wanted, or if it does not know that `heard` was alive."""
        if not self._path:
            return
        if self.settings.key is not None:
            self._program_self(now)
            return
        # RFC 5880 6.8.7: with a jitter, and another one for a multiplier of 1
        shortest, longest = JITTER_OF_ONE if self.settings.multiplier == 1 else JITTER
        octets, interval = self._octets(), self.interval
        # The same packet again must mean nothing new to the state we are in now
        quiet = TRANSITIONS.get((self.state, self._remote.state), self.state) is self.state and not self._poll_later
        wanted = Arm(
            octets=octets if interval else b"",
            interval=(interval * shortest, interval * longest) if interval else SILENT,
            expected=self._last if quiet else b"",
            alive=_ALIVE if quiet and self._last else b"",
            detection=self.detection,
            generation=self._generation,
        )
        armed = self._armed
        if armed is not None and _same(armed, wanted) and (not heard or armed.counts(heard)):
            return
        self._generation += 1
        # RFC 5880 6.8.7: a change of state is told without waiting
        self._armed = replace(wanted, generation=self._generation, at_once=armed is None or self._tell_now)
        self._tell_now = False
        self._effects.append(self._armed)

    def _program_self(self, now: float) -> None:
        """Everything that arrives comes here, and everything that is sent goes from here."""
        if self._armed is None:
            self._generation += 1
            self._armed = Arm(b"", SILENT, b"", b"", 0.0, self._generation)
            self._effects.append(self._armed)
        detection = self.detection
        self._detect_at = now + detection if detection else None
        if detection:
            self._forget_at = now + 2 * detection
        interval = self.interval
        if not interval:
            self._send_at = None
        elif self._tell_now or self._send_at is None:
            self._send_at = now
        else:
            # RFC 5880 6.8.3: an interval that became shorter counts at once
            self._send_at = min(self._send_at, now + interval)
        self._tell_now = False

    def _transmit(self, now: float) -> None:
        self._effects.append(Send(self._octets()))
        interval = self.interval
        shortest, longest = JITTER_OF_ONE if self.settings.multiplier == 1 else JITTER
        self._send_at = now + interval * self._random.uniform(shortest, longest)


@dataclass(slots=True)
class _Remote:
    """What the peer last said of itself (RFC 5880 6.8.1)."""

    state: State = State.DOWN
    discriminator: int = 0
    diagnostic: Diagnostic = Diagnostic.NONE
    multiplier: int = 0
    desired_tx: int = 0
    min_rx: int = 1
    demands: bool = False

    def hear(self, packet: ControlPacket) -> None:
        self.state, self.diagnostic = packet.state, packet.diagnostic
        self.discriminator, self.multiplier = packet.my_discriminator, packet.multiplier
        self.desired_tx, self.min_rx = packet.desired_min_tx, packet.required_min_rx
        # RFC 5880 6.6: Demand mode is active only where the peer sees the session Up
        self.demands = packet.demand and packet.state is State.UP


def _same(one: Arm, other: Arm) -> bool:
    return (one.octets, one.interval, one.expected, one.alive, one.detection) == (
        other.octets, other.interval, other.expected, other.alive, other.detection,
    )  # fmt: skip


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
