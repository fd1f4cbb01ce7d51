"""The heartbeat: is the other gateway of the pair alive, and does it hear us?

A core (gateway/contract.py). It decides nothing about roles: peer silence alone never makes a standby active, so
its two events go to the election. What it guarantees about them:

- Only an authentic datagram moves anything. Rejected ones are counted by reason and otherwise forgotten.
- A recorded datagram is worthless. Within one boot of the peer a window of 64 sequence numbers sees replays. A boot
  identifier we do not follow is believed only after it echoed a challenge that is bound to it and to the number of
  boots believed so far, so no recording from an earlier boot can answer it. Challenges are computed, not stored:
  nothing an attacker replays can displace a genuine one.
- "Up" means both directions: the peer's datagrams arrive *and* its echo of our sequence number advances.
- A stall of our own process is not taken for a death of the peer.

        A                                B (just started)
        |<---- boot B, no echo ----------|   unknown boot
        |----- challenge(B), boot A ---->|   unknown boot
        |<---- echo, challenge(A) -------|   A follows B, PeerUp
        |----- echo -------------------->|   B follows A, PeerUp
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from gateway.contract import Endpoint, RandomSource, Transmit
from gateway.ha.message import (
    BOOT_OCTETS,
    CHALLENGE_OCTETS,
    NO_CHALLENGE,
    Advertised,
    Echo,
    Message,
    Refused,
    Rejection,
    derive_key,
    open_,
    seal,
)

WINDOW = 64
JITTER = 0.1  # of the interval, so that pairs started together do not stay in step
ANSWERS_PER_INTERVAL = 8  # to boots we do not follow; bounds what replaying recordings makes us send
_U32_MAX = 0xFFFFFFFF


class DownReason(Enum):
    SILENCE = "silence"  # nothing authentic arrived for the dead time
    ONE_WAY = "one-way"  # we hear the peer, but it does not hear us
    RESTARTED = "restarted"  # the peer came back with another boot identifier


@dataclass(frozen=True, slots=True)
class PeerUp:
    """Heartbeats pass in both directions."""

    name: str
    advertised: Advertised


@dataclass(frozen=True, slots=True)
class PeerDown:
    reason: DownReason


@dataclass(frozen=True, slots=True)
class Settings:
    """`dead_after` intervals without proof of life make the peer down."""

    local: Endpoint
    remote: Endpoint
    name: str
    secret: bytes = field(repr=False)
    interval: float = 0.2
    dead_after: int = 5
    cluster: int = 0


@dataclass(frozen=True, slots=True)
class HeartbeatStatus:
    """The fields of observe.snapshot.HaStatus."""

    peer_name: str
    peer_address: str
    peer_up: bool
    last_heartbeat_at: float | None
    round_trip: float | None
    sent: int
    received: int
    rejected: dict[str, int]


class Heartbeat:
    """One end of the pair's heartbeat. `next_deadline()` is at once after creation: the first datagram."""

    def __init__(self, settings: Settings, random: RandomSource) -> None:
        self._settings = settings
        self._random = random
        self._key = derive_key(settings.secret, settings.cluster)
        self._boot = random.octets(BOOT_OCTETS)
        self._challenge_key = random.octets(32)
        self._dead_time = settings.interval * settings.dead_after
        self._advertised = Advertised()
        self._effects: deque[Transmit | PeerUp | PeerDown] = deque()
        self._rejected = dict.fromkeys(Rejection, 0)
        self._sequence = 0
        self._received = 0
        self._next_send = 0.0
        self._started = False
        self._grace = 0.0
        self._answers = 0
        self._peer: _Peer | None = None
        self._boots_followed = 0
        self._up = False

    def receive(self, data: bytes, remote: Endpoint, now: float) -> None:
        """A datagram; `remote` is not looked at, the MAC and the boot identifier are what counts."""
        try:
            message = open_(data, self._key)
            self._accept(message, now)
        except Refused as refused:
            self._rejected[refused.why] += 1

    def command(self, advertised: Advertised, now: float) -> None:
        """What to say of ourselves from now on; told at once when it changed."""
        if advertised != self._advertised:
            self._advertised = advertised
            if self._started:
                self._transmit(now)

    def poll(self) -> Iterator[Transmit | PeerUp | PeerDown]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float:
        return min(self._next_send, self._dead_at() if self._up else self._next_send)

    def handle_deadline(self, now: float) -> None:
        late = self._started and now - self._next_send > self._settings.interval
        if late and now >= self._grace + self._dead_time:
            # We slept, so datagrams may wait unread in the socket: read those before calling the peer dead. Once per
            # dead time, so that a loop that is always late cannot hide a dead peer.
            self._grace = now + self._settings.interval
        if self._up and now >= self._dead_at():
            self._down(self._death(now))
        if now >= self._next_send:
            self._answers = 0
            self._transmit(now)
            self._started = True
            self._next_send = now + self._settings.interval * self._random.uniform(1 - JITTER, 1 + JITTER)

    def status(self, now: float) -> HeartbeatStatus:
        peer = self._peer
        return HeartbeatStatus(
            peer_name=peer.name if peer else "",
            peer_address=str(self._settings.remote),
            peer_up=self._up and now < self._dead_at(),
            last_heartbeat_at=peer.heard_at if peer else None,
            round_trip=peer.round_trip if peer else None,
            sent=self._sequence,
            received=self._received,
            rejected={why.value: count for why, count in self._rejected.items()},
        )

    @property
    def peer_advertised(self) -> Advertised | None:
        """What the peer last said of itself; None while it is not up."""
        return self._peer.advertised if self._peer and self._up else None

    # --- receiving --------------------------------------------------------------------------------------------

    def _accept(self, message: Message, now: float) -> None:
        if message.boot == self._boot:
            raise Refused(Rejection.OWN_REFLECTION)
        if self._peer is None or message.boot != self._peer.boot:
            self._meet(message, now)
        elif not self._peer.window.admit(message.sequence):
            raise Refused(Rejection.REPLAY)
        else:
            self._hear(self._peer, message, now)

    def _meet(self, message: Message, now: float) -> None:
        """A boot we do not follow: it must echo the challenge made for it, or is given one."""
        if not hmac.compare_digest(message.echo.challenge, self._challenge(message.boot)):
            if self._answers < ANSWERS_PER_INTERVAL:
                self._answers += 1
                self._transmit(now, _echo(message), self._challenge(message.boot))
            raise Refused(Rejection.UNKNOWN_BOOT)
        if self._up:
            self._down(DownReason.RESTARTED)
        self._boots_followed += 1
        self._peer = _Peer(message, now)
        self._hear(self._peer, message, now)
        self._transmit(now)

    def _hear(self, peer: _Peer, message: Message, now: float) -> None:
        self._received += 1
        peer.hear(message, now)
        if message.echo.boot == self._boot and message.echo.sequence > peer.proven:
            peer.prove(message, now)
        if not self._up and now - peer.proven_at < self._dead_time:
            self._up = True
            self._effects.append(PeerUp(peer.name, peer.advertised))

    def _challenge(self, boot: bytes) -> bytes:
        bound = boot + self._boots_followed.to_bytes(8, "big")
        return hmac.digest(self._challenge_key, bound, "sha256")[:CHALLENGE_OCTETS]

    # --- sending and timing -----------------------------------------------------------------------------------

    def _transmit(self, now: float, echo: Echo | None = None, challenge: bytes = NO_CHALLENGE) -> None:
        if echo is None:
            echo = self._peer.echo(now) if self._peer else Echo()
        self._sequence += 1
        message = Message(
            cluster=self._settings.cluster,
            name=self._settings.name,
            boot=self._boot,
            sequence=self._sequence,
            sent_us=_microseconds(now),
            challenge=challenge,
            echo=echo,
            advertised=self._advertised,
        )
        self._effects.append(Transmit(seal(message, self._key), self._settings.local, self._settings.remote))

    def _dead_at(self) -> float:
        """An echo may lag one interval behind, so silence is noticed first where both stop."""
        if self._peer is None:
            return self._grace
        return max(
            min(self._peer.heard_at, self._peer.proven_at + self._settings.interval) + self._dead_time, self._grace
        )

    def _death(self, now: float) -> DownReason:
        silent = self._peer is None or now - self._peer.heard_at >= self._dead_time
        return DownReason.SILENCE if silent else DownReason.ONE_WAY

    def _down(self, reason: DownReason) -> None:
        self._up = False
        self._effects.append(PeerDown(reason))


class _Peer:
    """The boot of the peer that we follow."""

    def __init__(self, message: Message, now: float) -> None:
        self.boot = message.boot
        self.window = _Window(message.sequence)
        self.proven = -1  # highest of our sequence numbers it echoed
        self.proven_at = now
        self.round_trip: float | None = None
        self._newest = message
        self.hear(message, now)

    def hear(self, message: Message, now: float) -> None:
        self.heard_at = now
        if message.sequence >= self._newest.sequence:
            self._newest, self._newest_at = message, now

    def prove(self, message: Message, now: float) -> None:
        """The echo carries our own clock back, and how long the peer held it."""
        self.proven, self.proven_at = message.echo.sequence, now
        elapsed = _microseconds(now) - message.echo.sent_us - message.echo.held_us
        self.round_trip = max(0, elapsed) / 1e6

    @property
    def name(self) -> str:
        return self._newest.name

    @property
    def advertised(self) -> Advertised:
        return self._newest.advertised

    def echo(self, now: float) -> Echo:
        return _echo(self._newest, now - self._newest_at)


class _Window:
    """Sequence numbers seen: the highest and the 63 below it, as RFC 4303 3.4.3 does it for ESP."""

    def __init__(self, first: int) -> None:
        self._highest = first
        self._seen = 1

    def admit(self, sequence: int) -> bool:
        """Whether the number is new; only call it with an authentic one."""
        ahead = sequence - self._highest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, WINDOW) | 1) & (1 << WINDOW) - 1
            self._highest = sequence
            return True
        bit = 1 << -ahead
        if -ahead >= WINDOW or self._seen & bit:
            return False
        self._seen |= bit
        return True


def _echo(message: Message, held: float = 0.0) -> Echo:
    return Echo(message.boot, message.sequence, message.sent_us, min(_microseconds(held), _U32_MAX), message.challenge)


def _microseconds(seconds: float) -> int:
    return max(0, int(seconds * 1e6))
