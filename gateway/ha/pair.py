"""One gateway of a pair: heartbeat, lease and election as one core (gateway/contract.py).

    heartbeat datagrams, answers of the witness, own health, an operator, time
        -> Heartbeat, Lease -> their events -> Election -> what to say in heartbeats, what to do with the lease
        -> Arm, Once, Rest, Ask, RoleChanged, LevelChanged, Remember, CommandRefused, and the heartbeat's own events

`now` is CLOCK_BOOTTIME: it goes on while the machine is suspended. Whatever comes in, the lease is looked at first; so a
process that stood still demotes itself before it does anything else. Decides nothing itself. Not here: the way to the
witness (`witness_link.py`, or a cloud's), what a role or a level means for routes and BGP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from gateway.ha.beating import Arm, Beat, Once, Rest
from gateway.ha.election import Election
from gateway.ha.heartbeat import Heartbeat, PeerDown, PeerSaid, PeerUp, Settings
from gateway.ha.message import Level, Role, Standing
from gateway.ha.roles import (
    CommandRefused,
    ElectionSettings,
    EpochAnnounced,
    LevelChanged,
    PairCommand,
    Remember,
    RoleChanged,
)
from gateway.ha.witness import Acquire, Answer, Ask, Break, Lease, Release

PairEffect = Beat | Ask | PeerUp | PeerDown | PeerSaid | RoleChanged | LevelChanged | CommandRefused | Remember


class Pair:
    """`lease` is None where there is no witness."""

    def __init__(self, heartbeat: Heartbeat, election: Election, lease: Lease | None) -> None:
        self.heartbeat, self.election, self.lease = heartbeat, election, lease
        self.announced = Level.STANDBY
        """The level of what was announced last: one that was lowered attracts until everybody is told."""
        self._standing: Standing | None = None
        self._effects: deque[PairEffect] = deque()

    def receive(self, data: bytes, now: float, at: float | None = None) -> None:
        """A heartbeat datagram that arrived at `at`, or now. That is for the heartbeat; a lease is valid or not now."""
        self._begin(now)
        self.heartbeat.receive(data, now, at)
        self._settle(now)

    def answered(self, ticket: int, answer: Answer, now: float) -> None:
        """What the witness said to an Ask."""
        self._begin(now)
        if self.lease is not None:
            self.lease.answered(ticket, answer, now)
        self._settle(now)

    def noticed(self, now: float) -> None:
        """The witness says that the lease is another now."""
        self._begin(now)
        if self.lease is not None:
            self.lease.noticed(now)
        self._settle(now)

    def configure(self, heartbeat: Settings, election: ElectionSettings, ttl: float, now: float) -> None:
        """Other settings of the same pair; the role stays."""
        self._begin(now)
        self.heartbeat.configure(heartbeat)
        if self.lease is not None:
            self.lease.configure(ttl)
        self.election.configure(election, now)
        self._settle(now)

    def command(self, command: PairCommand, now: float) -> None:
        self._begin(now)
        if self.lease is not None and isinstance(command, EpochAnnounced) and self.is_ahead(command):
            self.lease.noticed(now)  # it knows whose epoch that is
        self.election.command(command, now)
        self._settle(now)

    def announce(self, level: Level, now: float) -> None:
        """What the neighbors have heard by now, or may have heard of an earlier process."""
        if level is not self.announced:
            self.announced = level
            self._begin(now)
            self._settle(now)

    def poll(self) -> Iterator[PairEffect]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float:
        deadlines = [self.heartbeat.next_deadline(), self.election.next_deadline()]
        if self.lease is not None:
            deadlines.append(self.lease.next_deadline())
        return min(at for at in deadlines if at is not None)

    def handle_deadline(self, now: float) -> None:
        self._begin(now)
        if self.lease is not None and now >= self.lease.next_deadline():
            self.lease.handle_deadline(now)
        if now >= self.heartbeat.next_deadline():
            self.heartbeat.handle_deadline(now)
        self.election.handle_deadline(now)
        self._settle(now)

    def is_ahead(self, seen: EpochAnnounced) -> bool:
        """Whether nobody of us knows of such an epoch."""
        return self.election.sightings.ahead(seen.mark, self.election.epoch) > 0

    def acts(self, now: float) -> bool:
        """Whether this gateway may do what only one of the two may do."""
        return self.election.role is Role.ACTIVE and (self.lease is None or self.lease.valid(now))

    @property
    def acts_until(self) -> float | None:
        """For the workers of the data plane, which go on before Python does after a stand-still: the end of the lease on
        CLOCK_BOOTTIME. None: we are not active; infinity: there is no witness."""
        if self.election.role is not Role.ACTIVE:
            return None
        return self.lease.until if self.lease is not None else float("inf")

    # --- between the three --------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        """Before anything else: is the lease still ours?"""
        if self.lease is not None:
            self.lease.check(now)
            self._carry_lease(self.lease, now)

    def _settle(self, now: float) -> None:
        while True:
            if self._carry_heartbeat(now) | self._carry_witness(now) | self._carry_election(now):
                continue
            said = self.election.advertised(now)
            self.heartbeat.command(replace(said, level=max(said.level, self.announced)), now)
            if not self._carry_heartbeat(now):
                return

    def _carry_witness(self, now: float) -> bool:
        if self.lease is None:
            return False
        progress = self._carry_lease(self.lease, now)
        if (standing := self.lease.standing(now)) is not self._standing:
            self._standing = standing
            self.election.command(standing, now)
            return True
        return progress

    def _carry_heartbeat(self, now: float) -> bool:
        events = list(self.heartbeat.poll())
        for event in events:
            if not isinstance(event, Arm | Once | Rest):
                self.election.receive(event, now)
            self._effects.append(event)
        return bool(events)

    def _carry_lease(self, lease: Lease, now: float) -> bool:
        events = list(lease.poll())
        for event in events:
            if isinstance(event, Ask):
                self._effects.append(event)
            else:
                self.election.receive(event, now)
        return bool(events)

    def _carry_election(self, now: float) -> bool:
        events = list(self.election.poll())
        for event in events:
            if not isinstance(event, Acquire | Break | Release):
                self._effects.append(event)
            elif self.lease is not None:
                self.lease.command(event, now)
        return bool(events)
