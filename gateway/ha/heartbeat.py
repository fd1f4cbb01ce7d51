"""The heartbeat: is the other gateway of the pair alive, and does it hear us?

A core (gateway/contract.py). It decides nothing about roles: peer silence alone never makes a standby active, so
its events go to the election. What it guarantees about them:

- Only an authentic datagram moves anything. Rejected ones are counted by reason and otherwise forgotten.
- A recorded datagram is worthless. Within one boot of the peer a window of 64 sequence numbers for each path sees
  replays. A boot identifier we do not follow is believed only after it echoed a challenge that is bound to it and to
  the number of boots believed so far, so no recording from an earlier boot can answer it. Challenges are computed, not
  stored: nothing an attacker replays can displace a genuine one.
- "Up" means both directions of one path: the peer's datagrams arrive *and* its echo of our sequence number advances.
  The peer is up while any path is (`paths.py`), and heard while anything of it arrives.
- A stall of our own process is not taken for a death of the peer; a loop that is merely busy hears what arrived meanwhile, with
  the time when it did. Sending is not its business, either (`beating.py`).

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

from gateway.contract import Endpoint, RandomSource
from gateway.ha.beating import HOLD, REFRESH, Arm, Beat, Once, Rest
from gateway.ha.message import (
    BOOT_OCTETS,
    CHALLENGE_OCTETS,
    NO_CHALLENGE,
    Advertised,
    Echo,
    Message,
    Refused,
    Rejection,
    body,
    keyring,
    open_,
)
from gateway.ha.paths import Path, PathStatus, Way, echo_of

JITTER = 0.1  # of the interval, so that pairs started together do not stay in step
ANSWERS_PER_INTERVAL = 8  # to boots we do not follow; bounds what replaying recordings makes us send


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
    """After ONE_WAY, or what a peer said that was not up, comes SILENCE when nothing is heard any more."""

    reason: DownReason


@dataclass(frozen=True, slots=True)
class PeerSaid:
    """The peer says something new of itself, or is heard again; it need not be up."""

    name: str
    advertised: Advertised


@dataclass(frozen=True, slots=True)
class Settings:
    """`dead_after` intervals without proof of life make the peer down.

    `further` are the paths beside the first, in the same order on both gateways; `older_secrets` are still understood.
    """

    local: Endpoint
    remote: Endpoint
    name: str
    secret: bytes = field(repr=False)
    interval: float = 0.2
    dead_after: int = 5
    cluster: int = 0
    further: tuple[Path, ...] = ()
    older_secrets: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class HeartbeatStatus:
    """Fields of observe.snapshot.HaStatus. The round trip is that of the best path."""

    peer_name: str
    peer_address: str
    peer_up: bool
    last_heartbeat_at: float | None
    round_trip: float | None
    received: int
    rejected: dict[str, int]


class Heartbeat:
    """One end of the pair's heartbeat. `next_deadline()` is at once after creation: what to send is said first then."""

    def __init__(self, settings: Settings, random: RandomSource) -> None:
        self._settings = settings
        self._keys = keyring((settings.secret, *settings.older_secrets), settings.cluster)
        self._boot = random.octets(BOOT_OCTETS)
        self._challenge_key = random.octets(32)
        self._dead_time = settings.interval * settings.dead_after
        self._ways: list[Way] = []
        self._left: list[Way] = []
        self._effects: deque[Beat | PeerUp | PeerDown | PeerSaid] = deque()
        self._lead(settings)
        self._advertised, self._revision = Advertised(), 0
        self._rejected = dict.fromkeys(Rejection, 0)
        self._received = 0
        self._arm_at = 0.0
        self._started = False
        self._grace = 0.0
        self._answers, self._answers_since = 0, 0.0
        self._newest: Message | None = None  # of the boot of the peer that we follow
        self._heard_at = 0.0
        self._boots_followed = 0
        self._heard = self._up = False

    def receive(self, data: bytes, now: float, at: float | None = None) -> None:
        """A datagram that arrived at `at`, or now. From where is not looked at: the tag, the boot identifier and the number of the
        path are what counts."""
        try:
            message = open_(data, self._keys)
            if message.path >= len(self._ways):
                raise Refused(Rejection.MALFORMED)
            self._accept(message, now, now if at is None else min(at, now))
        except Refused as refused:
            self._rejected[refused.why] += 1

    def configure(self, settings: Settings) -> None:
        """Other addresses, times or secrets; the process and what is known of the peer stay what they are."""
        self._settings = settings
        self._keys = keyring((settings.secret, *settings.older_secrets), settings.cluster)
        self._dead_time = settings.interval * settings.dead_after
        self._lead(settings)
        if self._started:
            self._arm(at_once=False)

    def command(self, advertised: Advertised, now: float) -> None:
        """What to say of ourselves from now on; told at once when it changed."""
        if advertised != self._advertised:
            self._advertised = advertised
            self._revision += 1
            if self._started:
                self._arm(at_once=True)

    def poll(self) -> Iterator[Beat | PeerUp | PeerDown | PeerSaid]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float:
        if self._up:
            return min(self._arm_at, self._dead_at())
        return min(self._arm_at, self._silent_at()) if self._heard else self._arm_at

    def handle_deadline(self, now: float) -> None:
        late = self._started and now - self.next_deadline() > self._settings.interval
        if late and now >= self._grace + self._dead_time:
            # We slept, so datagrams may wait unread in the socket: read those before calling the peer dead. Once per
            # dead time, so that a loop that is always late cannot hide a dead peer.
            self._grace = now + self._settings.interval
        self._bury(now)
        if now >= self._arm_at:
            self._arm(at_once=not self._started)
            self._started = True
            self._arm_at = now + REFRESH

    def status(self, now: float) -> HeartbeatStatus:
        trips = [way.round_trip for way in self._ways if way.round_trip is not None]
        return HeartbeatStatus(
            peer_name=self._newest.name if self._newest else "",
            peer_address=str(self._settings.remote),
            peer_up=self._up and now < self._dead_at(),
            last_heartbeat_at=self._heard_at if self._newest else None,
            round_trip=min(trips, default=None),
            received=self._received,
            rejected={why.value: count for why, count in self._rejected.items()},
        )

    def paths(self, now: float) -> tuple[PathStatus, ...]:
        """Each pair of addresses by itself."""
        return tuple(way.status(now, self._settings.interval, self._dead_time) for way in self._ways)

    @property
    def boot(self) -> bytes:
        """Which process this is."""
        return self._boot

    @property
    def dead_time(self) -> float:
        return self._dead_time

    @property
    def peer_advertised(self) -> Advertised | None:
        """What the peer last said of itself; None while it is not up."""
        return self._newest.advertised if self._newest and self._up else None

    def _lead(self, settings: Settings) -> None:
        """A path that is left is kept: what was heard on it is not heard again when it comes back."""
        paths = (Path(settings.local, settings.remote), *settings.further)
        known = self._ways + self._left
        known += [Way(path) for path in paths[len(known) :]]
        for way, path in zip(known, paths, strict=False):
            way.path = path
        self._effects.extend(Rest(number) for number in range(len(paths), len(self._ways)))
        self._ways, self._left = known[: len(paths)], known[len(paths) :]

    @property
    def peer_said(self) -> Advertised | None:
        """What the peer said of itself last, also when it is silent by now; None: never anything."""
        return self._newest.advertised if self._newest else None

    # --- receiving --------------------------------------------------------------------------------------------

    def _accept(self, message: Message, now: float, at: float) -> None:
        if message.boot == self._boot:
            raise Refused(Rejection.OWN_REFLECTION)
        if self._newest is None or message.boot != self._newest.boot:
            self._meet(message, now, at)
        elif not self._ways[message.path].window.admit(message.sequence):
            raise Refused(Rejection.REPLAY)
        else:
            self._hear(message, now, at)

    def _meet(self, message: Message, now: float, at: float) -> None:
        """A boot we do not follow: it must echo the challenge made for it, or is given one."""
        if not hmac.compare_digest(message.echo.challenge, self._challenge(message.boot)):
            if self._may_answer(now):
                echo = echo_of(message, now - at)
                self._effects.append(Once(message.path, self._body(message.path, echo, self._challenge(message.boot))))
            raise Refused(Rejection.UNKNOWN_BOOT)
        if self._up:
            self._down(DownReason.RESTARTED)
        self._heard = False
        self._boots_followed += 1
        self._newest = message
        for way in self._ways + self._left:
            way.forget()
        self._ways[message.path].window.admit(message.sequence)
        self._hear(message, now, at)
        if self._started:
            self._arm(at_once=True)

    def _may_answer(self, now: float) -> bool:
        if now >= self._answers_since + self._settings.interval:
            self._answers, self._answers_since = 0, now
        self._answers += 1
        return self._started and self._answers <= ANSWERS_PER_INTERVAL

    def _hear(self, message: Message, now: float, at: float) -> None:
        assert self._newest is not None
        self._received += 1
        self._heard_at = max(self._heard_at, at)
        self._ways[message.path].hear(message, self._boot, at)
        news = not self._heard or message.revision > self._newest.revision
        if message.revision >= self._newest.revision:
            self._newest = message
        self._heard = True
        if not self._up and now < max(way.dead_at(self._settings.interval, self._dead_time) for way in self._ways):
            self._up = True
            self._effects.append(PeerUp(self._newest.name, self._newest.advertised))
        elif news:
            self._effects.append(PeerSaid(self._newest.name, self._newest.advertised))

    def _challenge(self, boot: bytes) -> bytes:
        bound = boot + self._boots_followed.to_bytes(8, "big")
        return hmac.digest(self._challenge_key, bound, "sha256")[:CHALLENGE_OCTETS]

    # --- sending and timing -----------------------------------------------------------------------------------

    def _arm(self, *, at_once: bool) -> None:
        interval, peer = self._settings.interval, self._newest.boot if self._newest is not None else None
        for number, way in enumerate(self._ways):
            program = Arm(
                number,
                way.path,
                prefix=self._keys.prefix(self._boot, number),
                body=self._body(number, way.echo(), NO_CHALLENGE),
                seal=self._keys.sealing(self._boot, number),
                interval=(interval * (1 - JITTER), interval * (1 + JITTER)),
                hold=HOLD,
                peer=peer,
                opens=self._keys.opening(peer, number) if peer is not None else (),
                echoed_at=way.newest_at,
                at_once=at_once,
            )
            self._effects.append(program)

    def _body(self, path: int, echo: Echo, challenge: bytes) -> bytes:
        """Clock and sequence are the sender's."""
        message = Message(
            name=self._settings.name,
            boot=self._boot,
            sequence=0,
            sent_us=0,
            challenge=challenge,
            echo=echo,
            advertised=self._advertised,
            revision=self._revision,
            path=path,
        )
        return body(message)

    def _dead_at(self) -> float:
        """When no path has proof of life any more."""
        return max(self._grace, *(way.dead_at(self._settings.interval, self._dead_time) for way in self._ways))

    def _silent_at(self) -> float:
        return max(self._grace, self._heard_at + self._dead_time)

    def _bury(self, now: float) -> None:
        if self._up and now >= self._dead_at():
            silent = now >= self._heard_at + self._dead_time  # by the same sum as the deadline, to the last bit
            self._heard = not silent
            self._down(DownReason.SILENCE if silent else DownReason.ONE_WAY)
        elif self._heard and not self._up and now >= self._silent_at():
            self._heard = False
            self._effects.append(PeerDown(DownReason.SILENCE))

    def _down(self, reason: DownReason) -> None:
        self._up = False
        self._effects.append(PeerDown(reason))
