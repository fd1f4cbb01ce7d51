"""What goes into the election and what comes out: settings, operator commands, events. No behaviour.

The roles themselves are in `message.py`, because the two tell each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from gateway.ha.message import BEST_HEALTH, HASH_OCTETS, HealthReason, Level, Role
from gateway.ha.vote import VoteSettings

ALL_REASONS = HealthReason.LINK | HealthReason.TUNNELS | HealthReason.BGP | HealthReason.DATA_PLANE
WEIGHTS = {
    HealthReason.LINK: 400,
    HealthReason.TUNNELS: 300,
    HealthReason.BGP: 200,
    HealthReason.DATA_PLANE: 60,
    HealthReason.COPY: 40,
}
"""What each reason takes from the health, which is 1000 at best. Without a copy of the other's SAs a gateway takes over all the same, but
after one that has it."""


class Verb(Enum):
    """What an operator can say to the pair."""

    FAILOVER = "failover"  # to the active: hand over; to a standby: ask for it
    DRAIN = "drain"  # hand over as soon as the other is ready, and do not take over again
    UNDRAIN = "undrain"  # ends both `drain` and `maintenance`
    RESUME = "resume"  # likewise, and a hold-down is forgiven
    MAINTENANCE = "maintenance"  # hand over if the other is ready, else give it up


@dataclass(frozen=True, slots=True)
class ElectionSettings:
    """One gateway's part.

    `witness` says whether there is a lease. Without one, `none` is what silence of the peer means: "stay" promotes
    nobody, ever; "promote" makes a standby active though the other may be, too; "vote" does so where `vote` is won, and makes
    who is active a standby where it is lost. Seconds everywhere.
    """

    name: str
    priority: int = 100
    witness: bool = True
    none: Literal["stay", "promote", "vote"] = "stay"
    vote: VoteSettings = VoteSettings()
    break_lease: bool = False
    preempt: bool = False
    preempt_delay: float = 60.0  # in full health for so long
    init_wait: float = 3.0  # for the peer to be heard after a start
    patience: float = 2.0  # for a peer that goes first
    handover_timeout: float = 3.0
    drain_time: float = 30.0  # the old active goes on forwarding for so long
    step_back: float = 0.0  # from took-over to active, after the other one was heard to attract no more for so long
    hold_down: float = 5.0  # after a first failure of its own; doubles with each
    hold_down_max: float = 300.0
    forgive_after: float = 600.0  # without a failure
    both_carry: bool = False  # a healthy standby announces itself as an active one does
    disqualifying: HealthReason = ALL_REASONS  # with any of these it does not take over
    config_hash: bytes = bytes(HASH_OCTETS)
    software: str = ""


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """What is wrong with this gateway now. The number is made of the reasons unless it is given."""

    reasons: HealthReason
    number: int | None = None

    @property
    def health(self) -> int:
        if self.number is not None:
            return self.number
        return BEST_HEALTH - sum(weight for reason, weight in WEIGHTS.items() if reason in self.reasons)


@dataclass(frozen=True, slots=True)
class Operate:
    verb: Verb


@dataclass(frozen=True, slots=True)
class MachineLeaves:
    """Whether the cloud announced that this machine is going to be restarted, moved or taken away."""

    soon: bool


@dataclass(frozen=True, slots=True)
class VoteChanged:
    """How many targets of the vote answer."""

    reached: int


@dataclass(frozen=True, slots=True)
class EpochSeen:
    """Somebody acts, or acted, under this epoch: so says a tag of a route table, which only the two gateways may write."""

    epoch: int


@dataclass(frozen=True, slots=True)
class EpochAnnounced:
    """Some route is announced with the low 32 bits of this epoch: see sightings.py."""

    mark: int


PairCommand = HealthChanged | Operate | MachineLeaves | VoteChanged | EpochSeen | EpochAnnounced
"""What the two together are told."""


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """One transition; `reason` is a sentence for the journal.

    `fenced`: when this gateway became active, no other could act any more. Not so after a broken lease or, without a
    witness, after silence: then the other may forward for a while on SAs of its own, and its SAs must not be taken over.
    """

    before: Role
    after: Role
    epoch: int
    reason: str
    fenced: bool = True


@dataclass(frozen=True, slots=True)
class LevelChanged:
    """How strongly to attract traffic from now on."""

    level: Level
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class CommandRefused:
    """An operator's command that cannot be followed now."""

    verb: Verb
    reason: str


@dataclass(frozen=True, slots=True)
class Remember:
    """The highest epoch known: to be kept over a restart and given to the next process."""

    epoch: int


def named(reasons: HealthReason | int) -> str:
    """For people."""
    found = [reason.name.lower().replace("_", " ") for reason in HealthReason if reason.name and reason & reasons]
    return ", ".join(found) or "good"
