"""A gateway's way to the witness node: an `Ask` of the lease goes out as a datagram, its answer comes back under its ticket.

A core. It repeats nothing: the lease (`witness.py`) knows when an answer is too late. Only a CHALLENGE is answered here
at once: the witness node does not know our boot yet, and a request that might be a recording moves nothing there. An
answer counts when it echoes a request of this process that is still open; so recorded answers move nothing here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gateway.contract import Endpoint, RandomSource, Transmit
from gateway.ha.lease_message import CHALLENGE_OCTETS, Kind, LeaseMessage, keyring, open_, seal
from gateway.ha.sealed import BOOT_OCTETS, Refused, Rejection, Window
from gateway.ha.witness import Answer, Ask, Failed, Free, Granted, Held

OPEN = 8  # requests whose answers may come


@dataclass(frozen=True, slots=True)
class Answered:
    """For `Lease.answered`."""

    ticket: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Noticed:
    """For `Lease.noticed`."""


@dataclass(frozen=True, slots=True)
class WitnessSettings:
    """Where the witness node is."""

    local: Endpoint
    remote: Endpoint
    name: str
    secret: bytes = field(repr=False)
    cluster: int = 0
    older_secrets: tuple[bytes, ...] = field(default=(), repr=False)


ANSWERS: dict[Kind, Callable[[LeaseMessage], Answer]] = {
    Kind.GRANTED: lambda said: Granted(said.epoch, said.ttl),
    Kind.HELD: lambda said: Held(said.epoch, said.name, said.remaining, said.ours),
    Kind.FREE: lambda said: Free(said.epoch),
    Kind.FAILED: lambda said: Failed(said.text),
}


class WitnessLink:
    """One process's requests and their answers."""

    def __init__(self, settings: WitnessSettings, random: RandomSource) -> None:
        self._settings = settings
        self._keys = keyring((settings.secret, *settings.older_secrets), settings.cluster)
        self._boot = random.octets(BOOT_OCTETS)
        self._sequence = 0
        self._challenge = bytes(CHALLENGE_OCTETS)
        self._open: dict[int, Ask] = {}  # by the sequence it went out under
        self._heard: tuple[bytes, Window] = (b"", Window())  # the witness's boot and its notices
        self._effects: deque[Transmit | Answered | Noticed] = deque()
        self.rejected = dict.fromkeys(Rejection, 0)

    def configure(self, settings: WitnessSettings) -> None:
        """Another address or secret; the process stays what it is to the witness."""
        self._settings = settings
        self._keys = keyring((settings.secret, *settings.older_secrets), settings.cluster)

    def ask(self, ask: Ask) -> None:
        """Sends it now."""
        self._sequence += 1
        self._open[self._sequence] = ask
        for old in list(self._open)[:-OPEN]:
            del self._open[old]
        request = LeaseMessage(
            Kind(ask.operation),
            self._boot,
            self._sequence,
            challenge=self._challenge,
            epoch=ask.epoch,
            ttl=ask.ttl,
            name=self._settings.name,
        )
        self._effects.append(Transmit(seal(request, self._keys), self._settings.local, self._settings.remote))

    def receive(self, data: bytes) -> None:
        """A datagram, from wherever; never raises for what it is."""
        try:
            self._accept(open_(data, self._keys))
        except Refused as refused:
            self.rejected[refused.why] += 1

    def poll(self) -> Iterator[Transmit | Answered | Noticed]:
        while self._effects:
            yield self._effects.popleft()

    def _accept(self, said: LeaseMessage) -> None:
        if said.boot == self._boot:
            raise Refused(Rejection.OWN_REFLECTION)
        if said.echo_boot != self._boot:
            raise Refused(Rejection.UNKNOWN_BOOT)
        if said.kind is Kind.NOTICE:
            self._notice(said)
            return
        ask = self._open.pop(said.echo_sequence, None)
        if ask is None:
            raise Refused(Rejection.REPLAY)
        if said.kind is Kind.CHALLENGE:
            self._challenge = said.challenge
            self.ask(ask)
        elif said.kind in ANSWERS:
            self._effects.append(Answered(ask.ticket, ANSWERS[said.kind](said)))
        else:
            raise Refused(Rejection.MALFORMED)

    def _notice(self, said: LeaseMessage) -> None:
        """At worst a recording makes us ask once more."""
        boot, window = self._heard
        if boot != said.boot:
            window = Window()
            self._heard = (said.boot, window)
        if not window.admit(said.sequence):
            raise Refused(Rejection.REPLAY)
        self._effects.append(Noticed())
