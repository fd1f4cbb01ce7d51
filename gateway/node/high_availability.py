"""The pair in the node: which of the two gateways is active, and what that means for BGP, the cloud's route tables and people.

    heartbeats, lease messages, health, operator -> Pair -> RoleChanged  -> route tables: Activate(epoch), Deactivate; journal
                                                         -> LevelChanged -> bgp.Attract
                                                         -> Remember     -> on disk
    tables of the cloud -> Fabric -> HigherEpoch -> Pair

Carries one core's events to the others and decides nothing. Datagrams of both families come in by `receive`: their first octets say which.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace

from gateway.bgp import attraction, events
from gateway.contract import RandomSource, Transmit
from gateway.ha import fabric_values as cloud
from gateway.ha import lease_message
from gateway.ha.beating import Arm, Once, Rest
from gateway.ha.election import Election
from gateway.ha.fabric import Fabric
from gateway.ha.heartbeat import Heartbeat, PeerDown, PeerSaid, PeerUp
from gateway.ha.message import Level, Role
from gateway.ha.pair import Pair
from gateway.ha.roles import (
    CommandRefused,
    EpochAnnounced,
    EpochSeen,
    HealthChanged,
    LevelChanged,
    MachineLeaves,
    Operate,
    Remember,
    RoleChanged,
    VoteChanged,
)
from gateway.ha.witness import Answer, Ask, Lease
from gateway.ha.witness_link import Answered, WitnessLink
from gateway.node import effects, outcomes
from gateway.node.pair_settings import PairSettings


class HighAvailability:
    """`epoch` is what an earlier process remembered. `now` is CLOCK_BOOTTIME, as everywhere in the node."""

    def __init__(
        self,
        settings: PairSettings,
        fabric: cloud.FabricSettings | None,
        random: RandomSource,
        now: float,
        epoch: int = 0,
    ) -> None:
        self.settings = settings
        lease = Lease(settings.ttl, epoch=epoch) if settings.election.witness else None
        self.pair = Pair(Heartbeat(settings.heartbeat, random), Election(settings.election, now, epoch), lease)
        self.link = WitnessLink(settings.witness, random) if settings.witness is not None else None
        self.fabric = Fabric(fabric, random, now) if fabric is not None else None
        self.last_change = ""
        """The last transition, in words."""
        self.fenced = False
        """Whether nobody else could act any more when this gateway became active."""
        self.changed_at: float | None = None
        self.transitions: Counter[str] = Counter()
        """By the new role."""
        self.refusal = ""
        """Why the operator's last command cannot be followed; "" if it is."""
        self.machine_leaves = False
        """The cloud announced that this machine will be restarted, moved or taken away."""
        self.pair.announced = Level.TOOK_OVER  # perhaps, by an earlier process
        self._random = random
        self._told: attraction.Attraction | None = None
        self._effects: deque[object] = deque()

    # --- the contract -------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float, at: float | None = None) -> None:
        """A datagram of the pair's, from wherever; it arrived at `at`, or now."""
        if not data.startswith(lease_message.MAGIC):
            self.pair.receive(data, now, at)
        elif self.link is not None:
            self.link.receive(data)
        self._settle(now)

    def command(self, command: HealthChanged | Operate | MachineLeaves | VoteChanged, now: float) -> None:
        if isinstance(command, Operate):
            self.refusal = ""
        elif isinstance(command, MachineLeaves):
            self.machine_leaves = command.soon
        self.pair.command(command, now)
        self._settle(now)

    def epoch_announced(self, neighbor: str, mark: int, now: float) -> None:
        """A neighbor teaches a route with this mark of an epoch. Said where it is above ours while we act."""
        seen, election = EpochAnnounced(mark), self.pair.election
        acted, is_ahead = election.role is Role.ACTIVE, self.pair.is_ahead(seen)
        self.pair.command(seen, now)
        if acted and is_ahead:
            epochs = (election.sightings.highest, election.acting_epoch)
            self._effects.append(outcomes.epoch_announced(neighbor, *epochs, self._who_decides))
        self._settle(now)

    @property
    def _who_decides(self) -> str:
        """Whether we act under a lower epoch than is announced somewhere."""
        if self.pair.election.role is not Role.ACTIVE:
            return "this gateway is active no more"
        if self.pair.lease is not None:
            return "the witness is asked, and knows"
        return "the other gateway is heard and says otherwise" if self.has_heir else "silence promotes nobody (stay)"

    def announced(self, now: float) -> None:
        """Every neighbor has been told what `Attract` asked for last; not while that is still to be polled."""
        if self._told is not None and not self._effects:
            self.pair.announce(Level(self._told.level), now)
            self._settle(now)

    def witness_answered(self, ticket: int, answer: Answer, now: float) -> None:
        """What a witness in the cloud said to an Ask."""
        self.pair.answered(ticket, answer, now)
        self._settle(now)

    def table_answered(self, ticket: int, outcome: cloud.Outcome, now: float) -> None:
        """How a call to the cloud ended."""
        if self.fabric is not None:
            self.fabric.computed(ticket, outcome, now)
        self._settle(now)

    def configure(self, settings: PairSettings, fabric: cloud.FabricSettings | None, now: float) -> None:
        """Other settings of the same pair."""
        if settings != self.settings:
            self.settings = settings
            self.pair.configure(settings.heartbeat, settings.election, settings.ttl, now)
            if self.link is not None and settings.witness is not None:
                self.link.configure(settings.witness)
        self._configure_fabric(fabric, now)
        self._settle(now)

    def poll(self) -> Iterator[object]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float:
        at = self.pair.next_deadline()
        due = self.fabric.next_deadline() if self.fabric is not None else None
        return at if due is None else min(at, due)

    def handle_deadline(self, now: float) -> None:
        if now >= self.pair.next_deadline():
            self.pair.handle_deadline(now)
        if self.fabric is not None and (due := self.fabric.next_deadline()) is not None and now >= due:
            self.fabric.handle_deadline(now)
        self._settle(now)

    @property
    def is_relieved(self) -> bool:
        """Not active any more, and the neighbors know: nothing that comes now was meant for this gateway."""
        attracts = max(self.attraction.level, self.pair.announced)
        return self.pair.election.role is not Role.ACTIVE and attracts == Level.STANDBY

    @property
    def has_duties(self) -> bool:
        """Traffic is led here on purpose, or about to be led away."""
        leads = self.pair.election.role in (Role.ACTIVE, Role.DRAINING) or self.attraction.level > Level.STANDBY
        return leads and not self.is_relieved

    @property
    def has_heir(self) -> bool:
        """Somebody is there, to whom traffic can go."""
        return self.pair.heartbeat.peer_advertised is not None

    @property
    def gives_way(self) -> bool:
        """The other one acts, and this one attracts nothing: who has a tunnel to one of the two should have it there."""
        said = self.pair.heartbeat.peer_advertised
        rests = self.pair.election.role is not Role.ACTIVE and Level(self.attraction.level) is Level.STANDBY
        return rests and said is not None and said.role is Role.ACTIVE

    def is_another(self, settings: PairSettings) -> bool:
        """Whether these settings make it another pair: agreed with, or granted, by somebody else."""
        mine = self.settings
        return (mine.election.witness, mine.cloud_witness) != (settings.election.witness, settings.cloud_witness)

    @property
    def attraction(self) -> attraction.Attraction:
        """How strongly this gateway announces itself."""
        election = self.pair.election
        level = election.level
        if self.settings.both_carry and election.role in (Role.STANDBY, Role.ACTIVE) and not election.withdrawn:
            level = max(level, Level.ACTIVE)
        acts = election.role is Role.ACTIVE
        return attraction.Attraction(attraction.Level(level), election.acting_epoch if acts else 0)

    # --- between the cores --------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        while self._carry_pair(now) | self._carry_witness(now) | self._carry_fabric(now):
            pass
        self._attract()

    def _carry_pair(self, now: float) -> bool:
        found = list(self.pair.poll())
        for event in found:
            match event:
                case Arm() | Once() | Rest():
                    self._effects.append(effects.PairBeat(event))
                case Ask() if self.link is not None:
                    self.link.ask(event)
                case Ask():
                    self._effects.append(event)
                case RoleChanged():
                    self._role(event, now)
                case Remember(epoch):
                    self._effects.append(effects.SaveEpoch(epoch))
                case CommandRefused(_, reason):
                    self.refusal = reason
                    self._effects.append(outcomes.pair(event))
                case PeerUp():
                    self._effects.append(outcomes.pair(event))
                case PeerDown():
                    self._effects.append(outcomes.pair(event))
                    self._look_ahead(now)
                case LevelChanged() | PeerSaid():
                    pass  # the attraction follows the election; what the peer says is shown, not told
        return bool(found)

    def _carry_witness(self, now: float) -> bool:
        found = list(self.link.poll()) if self.link is not None else []
        for event in found:
            match event:
                case Transmit(data, local, remote):
                    self._effects.append(effects.PairTransmit(data, local, remote))
                case Answered(ticket, answer):
                    self.pair.answered(ticket, answer, now)
                case _:
                    self.pair.noticed(now)
        return bool(found)

    def _carry_fabric(self, now: float) -> bool:
        if self.fabric is None:
            return False
        found = list(self.fabric.poll())
        for event in found:
            if isinstance(event, cloud.Call):
                self._effects.append(event)
                continue
            self._effects.append(outcomes.fabric(event))
        claim = self.fabric.highest_claim
        if claim is not None and claim.epoch > self.pair.election.epoch:
            self.pair.command(EpochSeen(claim.epoch), now)
            return True
        return bool(found)

    def _role(self, event: RoleChanged, now: float) -> None:
        self.transitions[event.after.name.lower()] += 1
        self.last_change, self.changed_at, self.fenced = event.reason, now, event.fenced
        self._effects.append(outcomes.pair(event))
        if Role.ACTIVE in (event.before, event.after):
            self._steer(now)

    def _configure_fabric(self, settings: cloud.FabricSettings | None, now: float) -> None:
        """A section that goes leaves a core without tables: answers to what is under way still come."""
        if self.fabric is not None:
            self.fabric.command(cloud.Configure(settings or replace(self.fabric.settings, tables=())), now)
        elif settings is not None:
            self.fabric = Fabric(settings, self._random, now)
            self._steer(now)

    def _steer(self, now: float) -> None:
        """The route tables lead to whoever is active. Who hands over leaves them to the other."""
        if self.fabric is not None:
            acts = self.pair.election.role is Role.ACTIVE
            self.fabric.command(cloud.Activate(self.pair.election.acting_epoch) if acts else cloud.Deactivate(), now)

    def _look_ahead(self, now: float) -> None:
        """Where a route may be replaced only if it was just seen, it is looked at while the lease is on its way."""
        if self.fabric is not None and self.fabric.settings.ownership is cloud.Ownership.PREFIX:
            self.fabric.command(cloud.Look(), now)

    def _attract(self) -> None:
        if self.attraction != self._told:
            self._told = self.attraction
            self._effects.append(events.Attract(self._told))
