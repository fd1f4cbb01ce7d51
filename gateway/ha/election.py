"""The election: which of the two gateways is active. A pure machine; it does nothing but say what is to be.

    own health, what the heartbeat says, what the lease says, an operator -> Election -> RoleChanged, LevelChanged,
                                                                            Acquire, Break, Release, what we advertise
            healthy               lease, or consent                 overtaken
    INIT ----------> STANDBY ------------------------> ACTIVE ------------------> STANDBY
      \\              ^   |  ^                           |   ^ not taken            ^
       v     healthy |   v  | drain time is over        v   |                      |
        FAULT ------- unhealthy                       DRAINING: offers, then leaves

Peer silence alone never promotes. A gateway becomes active when it is healthy itself, nobody it hears is active, and it
holds the lease: all three. Where there is no witness, what silence means is the user's choice: nothing (`stay`), promotion
(`promote`, and both may be active while they do not hear each other), or promotion by a vote (`vote`, see vote.py). While they do
they need no witness: the one asks for an epoch (`claim`), the other consents (`yields`) and from then on neither claims nor becomes
active until it has heard that the claim is over. So with `stay` two are never active at once either.

Planned switchover: the active offers and releases the lease, but goes on attracting (DRAINING, its level stays); the
standby gets the lease and becomes active with a higher epoch and the level took-over, which beats the old one's; the old one
sees that and only now lowers its level, forwards what still comes for the drain time, and is a standby.

Epochs order everything: who learns of a higher one than its own is not active any more, at once. They come from the
witness, or are one above the highest that either has seen. Not here: datagrams, timers of the lease, what a level means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from gateway.ha import sentences
from gateway.ha.damping import Damping
from gateway.ha.heartbeat import PeerDown, PeerSaid, PeerUp
from gateway.ha.message import Advertised, Handover, Level, Role, Standing
from gateway.ha.peer_view import PeerView
from gateway.ha.precedence import Precedence
from gateway.ha.roles import (
    ALL_REASONS,
    CommandRefused,
    ElectionSettings,
    EpochAnnounced,
    EpochSeen,
    HealthChanged,
    LevelChanged,
    MachineLeaves,
    Operate,
    PairCommand,
    Remember,
    RoleChanged,
    Verb,
    VoteChanged,
    named,
)
from gateway.ha.sightings import Sightings
from gateway.ha.vote import Vote
from gateway.ha.witness import Acquire, Break, LeaseGranted, LeaseLost, LeaseRefused, Release

Event = PeerUp | PeerDown | PeerSaid | LeaseGranted | LeaseLost | LeaseRefused
Effect = RoleChanged | LevelChanged | CommandRefused | Remember | Acquire | Break | Release

TRANSITIONS = 8  # the most that follow from one input; the next input goes on


class Election:
    """One gateway's part. `epoch` is what an earlier process remembered."""

    def __init__(self, settings: ElectionSettings, now: float, epoch: int = 0) -> None:
        self._settings = settings
        self._now = now
        self.role, self.level = Role.INIT, Level.STANDBY
        self.epoch = epoch
        """The highest known to have been granted."""
        self.acting_epoch = 0
        """That under which we are, or were last, active."""
        self.sightings = Sightings()
        self._peer = PeerView(now + settings.init_wait, settings.both_carry)
        self._init_until = now + settings.init_wait
        self._health = HealthChanged(ALL_REASONS)  # until we are told otherwise
        self._healthy_since = float("inf")
        self._damping = Damping(settings.hold_down, settings.hold_down_max, settings.forgive_after)
        self._withdrawn: Verb | None = None  # DRAIN or MAINTENANCE
        self._leaving = False  # the machine itself, soon
        self._asked_for = False  # an operator wants this standby to take over
        self._standing = Standing.UNKNOWN
        self._asking = self._leased = self._broken = self._broke = False
        self._lease_epoch = self._claim = self._yields = 0
        self._vote = Vote(settings.vote)
        self._epoch_at_silence = epoch  # the highest known when the peer was last heard
        self._yielded = False  # at any time since the last offer
        self._precedence = Precedence()
        self._offer_until: float | None = None  # while DRAINING: offering until then
        self._draw_until: float | None = None  # then: trying to get it back until then
        self._leave_at: float | None = None  # then: leaving
        self._no_handover_before = now
        self._outdone_until = now  # silence promotes nobody before
        self._effects: deque[Effect] = deque()

    # --- in -----------------------------------------------------------------------------------------------------

    def receive(self, event: Event, now: float) -> None:
        """What the heartbeat or the lease says."""
        match event:
            case PeerUp() | PeerDown() | PeerSaid():
                self._peer.receive(event, now)
                # Who asked for it was told that nothing came of it, and expects nothing when the peer is there again
                self._asked_for = self._asked_for and not isinstance(event, PeerDown)
                if (said := self._peer.said) is not None:
                    self._broke = False
                    self._learn(said.epoch)
                    self._epoch_at_silence = self.epoch
            case LeaseGranted(epoch, broken):
                self._granted(epoch, broken)
            case LeaseLost(reason):
                self._leased = self._asking = False
                if self.role is Role.ACTIVE:
                    self._demote(reason, now, leased=False)
            case LeaseRefused(epoch, _):
                self._learn(epoch)
                self._consider_breaking(epoch, now)
        self._step(now)

    def command(self, command: PairCommand | Standing, now: float) -> None:
        """Our own health, an operator's word, what is known of the lease, or an epoch found where it was left."""
        match command:
            case HealthChanged(reasons):
                if reasons and not self._health.reasons:
                    self._healthy_since = float("inf")
                elif not reasons and self._health.reasons:
                    self._healthy_since = now
                self._health = command
            case Operate(verb):
                self._operate(verb, now)
            case Standing():
                self._standing = command
            case MachineLeaves(soon):
                self._leaving = soon
            case VoteChanged(reached):
                self._vote.counted(reached, now)
            case EpochSeen(epoch):
                if self.role is Role.ACTIVE and epoch > self.acting_epoch:
                    # It acts though it is not heard: were its silence taken for death again, the two would act in turns
                    self._outdone_until = now + self._settings.hold_down_max
                self._learn(epoch)
            case EpochAnnounced(mark):
                self.sightings.note(mark, self.epoch, now)
        self._step(now)

    def configure(self, settings: ElectionSettings, now: float) -> None:
        """Whether there is a witness cannot change: that would be another pair."""
        self._settings = settings
        self._peer.configure(settings.both_carry, now)
        self._vote.configure(settings.vote, now)
        self._damping.configure(settings.hold_down, settings.hold_down_max, settings.forgive_after)
        self._step(now)

    def poll(self) -> Iterator[Effect]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float | None:
        settings = self._settings
        times = [
            self._init_until,
            self._peer.silent_from,
            self._vote.counts_from(self._peer.silent_from),
            self._peer.quiet_since + settings.step_back,
            self._damping.until,
            self._left_to_peer_until,
            self._healthy_since + settings.preempt_delay,
            self._no_handover_before,
            self._outdone_until,
            self._precedence.until(settings.patience),
            *(at for at in (self._offer_until, self._draw_until, self._leave_at) if at is not None),
        ]
        return min((at for at in times if self._now < at < float("inf")), default=None)

    def handle_deadline(self, now: float) -> None:
        self._step(now)

    def advertised(self, now: float) -> Advertised:
        """What to say of ourselves in every heartbeat."""
        return Advertised(
            role=self.role,
            priority=self._settings.priority,
            epoch=self.epoch,
            config_hash=self._settings.config_hash,
            level=self.level,
            standing=Standing.OURS if self._leased else self._standing,
            handover=self._handover(now),
            ready=self._is_candidate and not self._own_obstacle(now) and not self._witness_silent,
            health=self._worth,
            reasons=self._health.reasons,
            claim=self._claim,
            yields=self._yields,
            software=self._settings.software,
        )

    @property
    def withdrawn(self) -> bool:
        """An operator wants nothing to come here."""
        return self._withdrawn is not None

    def why_not(self, now: float) -> str:
        """A sentence: what keeps this gateway from being active, or that nothing does."""
        if self.role is Role.ACTIVE:
            return f"it is active, epoch {self.acting_epoch}"
        if self.role is Role.DRAINING and self._offer_until is not None:
            return f"it hands over to {self._peer.name}"
        if self.role is Role.INIT:
            return "it has just started and listens for the other gateway"
        return (
            self._own_obstacle(now)
            or self._peer_obstacle(now)
            or self._waits_for_peer(now)
            or self._permission_obstacle(now)
            or "nothing: it is taking over"
        )

    def _granted(self, epoch: int, broken: bool) -> None:
        if self.role is Role.ACTIVE:
            return  # said twice
        self._leased, self._broken, self._lease_epoch = True, broken, epoch
        if not self._asking or epoch < max(self.epoch, self.sightings.highest + 1):
            self._give_up_lease()
        self._learn(epoch)

    def _consider_breaking(self, epoch: int, now: float) -> None:
        """Once for each silence: where it is not allowed, asking again would change nothing. And never of a lease that
        was granted since the peer was last heard: whoever got it was alive then, and may have broken ours."""
        alive_since = epoch > self._epoch_at_silence
        if self._asking and self._settings.break_lease and not (self._broke or alive_since) and self._peer.dead(now):
            self._broke = True
            self._effects.append(Break(self._next_epoch))

    # --- the machine --------------------------------------------------------------------------------------------

    def _step(self, now: float) -> None:
        """Everything that follows from what is known. One input may cause several transitions."""
        self._now = now
        self._note_who_goes_first(now)
        acts = self.role in (Role.ACTIVE, Role.DRAINING)  # the latter may come back
        if acts and self.sightings.outdo(self.epoch, self._settings, self._peer):
            self._outdone_until = now + self._settings.hold_down_max
            self._learn(self.sightings.highest)
        for _ in range(TRANSITIONS):
            before = self._state
            _STEPS[self.role](self, now)
            if not self._settings.witness:
                self._consent(now)
            if self._state == before:
                break

    @property
    def _state(self) -> tuple[object, ...]:
        leaving = (self._offer_until, self._draw_until, self._leave_at)
        return (self.role, self.level, *leaving, self._claim, self._yields)

    def _step_init(self, now: float) -> None:
        if (self._peer.up and not self._unfit) or now >= self._init_until:
            heard = f"{self._peer.name} is heard" if self._peer.said else "nobody is heard"
            self._become(Role.STANDBY, f"started; {heard}")

    def _step_standby(self, now: float) -> None:
        if (wrong := self._unfit) != "":
            self._withdraw_candidacy()
            self._become(Role.FAULT, wrong)
        else:
            self._run(now)

    def _step_fault(self, now: float) -> None:
        if not self._unfit:
            self._become(Role.STANDBY, "own health is good again")

    def _step_active(self, now: float) -> None:
        peer = self._peer
        if self._overtaken:
            self._demote(f"epoch {self.epoch} is known, {self.acting_epoch} is over", now)
            return
        if peer.dead(now) and self._vote.is_lost:
            self._demote(f"{peer.name} is silent, and only {self._vote.tally}", now)
            return
        if self._settings.both_carry and peer.attracts:
            self._attract(Level.TOOK_OVER, f"{peer.name} may attract what it does not carry")
        if self.level is Level.TOOK_OVER and now >= peer.quiet_since + self._settings.step_back:
            self._attract(Level.ACTIVE, f"{peer.name} is seen as a standby")
        if (reason := self._reason_to_leave(now)) == "":
            return
        if peer.ready and now >= self._no_handover_before:
            self._offer(reason, now)
        elif self._withdrawn is Verb.MAINTENANCE or (
            # Perhaps the other one could do better, and cannot say so: it gets the lease if it asks for it
            self._unfit and self._settings.witness and not peer.up
        ):
            self._demote(reason, now)

    def _step_draining(self, now: float) -> None:
        if self._leave_at is None and self._overtaken:
            self._offer_until = self._draw_until = None
            self._leave_at = now + self._settings.drain_time
            self._withdraw_candidacy()
            self._attract(Level.STANDBY, f"{self._peer.name} has it under epoch {self.epoch}")
        if self._offer_until is not None:
            if now >= self._offer_until or not (self._peer.ready or not self._peer.up or self._peer_is_active):
                self._draw_back(now)
        elif self._draw_until is not None:
            self._run(now)
            if self.role is Role.DRAINING and self._settings.witness and now >= self._draw_until:
                self._demote("nobody took it, and the lease did not come back", now)
        elif self._leave_at is not None:
            self._run(now)
            if self.role is Role.DRAINING and now >= self._leave_at:
                self._leave_at = None
                self._become(Role.STANDBY, "drained")

    def _run(self, now: float) -> None:
        """Candidate: when nothing is in the way, get what permits to act, and act."""
        if self._obstacle(now):
            self._withdraw_candidacy()
            return
        if self._settings.witness:
            if not self._asking:
                self._asking = True
                self._effects.append(Acquire(self._next_epoch))
        elif self._peer.up and self._claim <= self.epoch:
            self._claim = self._next_epoch
        if self._permitted(now):
            self._promote(now)

    def _obstacle(self, now: float) -> str:
        if self._draw_until is not None:
            return self._peer_obstacle(now)  # what we had is not lost by being unfit for it
        return self._own_obstacle(now) or self._peer_obstacle(now) or self._waits_for_peer(now)

    def _permitted(self, now: float) -> bool:
        """Health and what is heard of the peer are no obstacle: is there a lease, consent, or the user's word?"""
        if self._settings.witness:
            return self._leased
        if self._peer.up:
            said = self._peer.said
            return said is not None and 0 < self._claim == said.yields and said.role is not Role.ACTIVE
        return self._settings.none != "stay" and self._peer.dead(now)

    def _promote(self, now: float) -> None:
        fenced = self._fenced
        taken_back = self._draw_until is not None
        reason = sentences.promotion(self._peer, self._settings, taken_back=taken_back, broken=self._broken)
        self.acting_epoch = self._lease_epoch if self._settings.witness else max(self._claim, self._next_epoch)
        self._learn(self.acting_epoch)
        if not taken_back:  # an offer of before did not fail: who has carried for a while hands over at its next fault
            self._no_handover_before = min(self._no_handover_before, now + self._settings.handover_timeout)
        self._claim = self._yields = 0
        self._asking = self._asked_for = False
        self._offer_until = self._draw_until = self._leave_at = None
        self._precedence.forget()
        self._become(Role.ACTIVE, reason, fenced)
        self._attract(Level.TOOK_OVER if self._peer.attracts else Level.ACTIVE, reason)

    @property
    def _fenced(self) -> bool:
        """Whether nobody else can act. Where leases may be broken, one that is not heard may have broken the one we are just given."""
        if not self._settings.witness:
            return self._peer.up
        return not self._broken and (self._peer.up or not self._settings.break_lease)

    # --- leaving the active role --------------------------------------------------------------------------------

    def _reason_to_leave(self, now: float) -> str:
        if self._withdrawn is not None:
            return f"{self._withdrawn.value} by the operator"
        if wrong := self._unfit:
            return wrong if self._peer_is_better else ""
        if self._leaving and self._peer_is_better:
            return "maintenance of this machine is announced"
        return f"{self._peer.name} asks for it" if self._peer.wants else ""

    @property
    def _worth(self) -> int:
        """What the other one compares with its own. A machine that leaves is worth less than one that stays, and so hands over; it
        takes over all the same where there is no other."""
        return self._health.health // 2 if self._leaving else self._health.health

    @property
    def _peer_is_better(self) -> bool:
        """Or not heard, and therefore perhaps better."""
        said = self._peer.said
        return not self._peer.up or (said is not None and said.ready and said.health > self._worth)

    def _offer(self, reason: str, now: float) -> None:
        """The lease goes, the traffic stays until the other has it."""
        if self._unfit:
            self._damping.failed(now)
        self._yielded = False
        self._offer_until = now + self._settings.handover_timeout
        self._no_handover_before = now + self._settings.handover_timeout + self._settings.hold_down
        self._give_up_lease()
        self._become(Role.DRAINING, f"hands over to {self._peer.name}: {reason}")

    def _draw_back(self, now: float) -> None:
        """Without a witness: what it consented to may have been used; where it did not, nobody else can be active."""
        self._offer_until = None
        if not self._settings.witness and not self._yielded:
            self._become(Role.ACTIVE, f"{self._peer.name} did not take over")
            return
        self._draw_until = now + 2 * self._settings.handover_timeout

    def _demote(self, reason: str, now: float, leased: bool = True) -> None:
        """Active no more, from this instant."""
        if self._unfit or not leased:
            self._damping.failed(now)
        if leased:
            self._give_up_lease()
        self._claim = 0
        self._offer_until = self._draw_until = self._leave_at = None
        self._become(Role.FAULT if self._unfit else Role.STANDBY, reason)
        self._attract(Level.STANDBY, reason)

    def _give_up_lease(self) -> None:
        self._asking = self._leased = self._broken = False
        if self._settings.witness:
            self._effects.append(Release())

    def _withdraw_candidacy(self) -> None:
        self._claim = 0
        if self._asking or self._leased:
            self._give_up_lease()

    # --- what is in the way -------------------------------------------------------------------------------------

    @property
    def _is_candidate(self) -> bool:
        return self.role is Role.STANDBY or self._leave_at is not None

    @property
    def _unfit(self) -> str:
        """Why this gateway should not be active, by itself; "" when it may."""
        if self._withdrawn is Verb.MAINTENANCE:
            return "maintenance by the operator"
        wrong = self._health.reasons & self._settings.disqualifying
        return f"own health: {named(wrong)}" if wrong else ""

    def _own_obstacle(self, now: float) -> str:
        if self._unfit:
            return self._unfit
        if self._withdrawn is not None:
            return "drained by the operator"
        said = self._peer.said
        # A hold-down spares the traffic moves; where the other is worse, or is held down as well, it would only keep it down
        held = self._peer.up and said is not None and said.health >= self._worth and now < self._left_to_peer_until
        if held and (left := self._damping.left(now)) > 0:
            return f"held down for {left:.0f} s more after {self._damping.failures} failures of its own"
        return ""

    @property
    def _left_to_peer_until(self) -> float:
        """One of two that are both held down goes on first."""
        first = self._peer.said is None or self._rank > self._rank_of(self._peer.said)
        return self._peer.idle_since + self._settings.patience * (1 if first else 2)

    def _peer_obstacle(self, now: float) -> str:
        peer, said = self._peer, self._peer.said
        if said is None:
            if not peer.dead(now):
                return f"{peer.name} has not been silent for long enough"
            if not self._settings.witness and self._settings.none == "stay":
                return f'{peer.name} is silent, and without a witness (without_witness = "stay") nobody takes over'
            if why := self._vote.obstacle(peer.silent_from, now):
                return f"{peer.name} is silent, and {why}"
            if not self._settings.witness and now < self._outdone_until:
                return f"{peer.name} is silent, and acts: its epoch {self.epoch} was found"
            return ""
        if self._peer_is_active:
            return f"{peer.name} is active, epoch {said.epoch}"
        if said.role is Role.DRAINING and said.level > Level.STANDBY and not peer.offers:
            return f"{peer.name} takes its offer back"
        if not self._settings.witness:
            if not peer.up:
                return f"{peer.name} does not hear us and cannot consent"
            if self._yields:
                return f"it consented to {peer.name} becoming active with epoch {self._yields}"
        return ""

    def _note_who_goes_first(self, now: float) -> None:
        said, held = self._peer.said, self._settings.witness and self._standing is Standing.OTHER
        first = said is not None and said.ready and not self._peer.offers and self._rank_of(said) > self._rank
        self._precedence.note(now, first=first, held=held)

    def _waits_for_peer(self, now: float) -> str:
        patience = self._settings.patience if self._settings.witness else float("inf")
        return f"{self._peer.name} goes first" if self._precedence.waits(now, patience) else ""

    def _permission_obstacle(self, now: float) -> str:
        if self._permitted(now):
            return ""
        if self._settings.witness:
            return sentences.OF_THE_LEASE.get(self._standing, "the lease is on its way")
        return f"waits for {self._peer.name} to consent"

    @property
    def _witness_silent(self) -> bool:
        return self._settings.witness and not self._leased and self._standing is Standing.UNKNOWN

    @property
    def _rank(self) -> tuple[int, int, str]:
        return self._worth, self._settings.priority, self._settings.name

    def _rank_of(self, said: Advertised) -> tuple[int, int, str]:
        return said.health, said.priority, self._peer.name

    @property
    def _peer_is_active(self) -> bool:
        said = self._peer.said
        return said is not None and said.role is Role.ACTIVE

    @property
    def _next_epoch(self) -> int:
        """Nobody acts anew under one that somebody may have acted under."""
        return max(self.epoch, self.sightings.highest) + 1

    @property
    def _overtaken(self) -> bool:
        """A higher epoch is known; or, without a witness, both are active with the same and the other ranks higher."""
        if self.epoch > max(self.acting_epoch, self._lease_epoch if self._leased else 0):
            return True
        said = self._peer.said
        if self._settings.witness or said is None or said.role is not Role.ACTIVE or said.epoch != self.acting_epoch:
            return False
        return (said.priority, self._peer.name) > (self._settings.priority, self._settings.name)

    # --- the word of the other ----------------------------------------------------------------------------------

    def _consent(self, now: float) -> None:
        """Without a witness: to whose claim we yield. Never claiming and yielding at once, never while active."""
        peer, said = self._peer, self._peer.said
        if self.role is Role.ACTIVE:
            self._yields = 0
            return
        if not peer.up or said is None:
            return  # what was consented to holds until the peer itself says that it is over
        if self._yields and said.claim != self._yields and said.role is not Role.ACTIVE:
            self._yields = 0
        if said.claim > self.epoch and not (self._claim and self._rank > self._rank_of(said)):
            self._claim, self._yields, self._yielded = 0, said.claim, True

    def _handover(self, now: float) -> Handover:
        if self._offer_until is not None:
            return Handover.OFFERED
        free = self.role is Role.STANDBY and self._peer_is_active and self._peer.up and not self._own_obstacle(now)
        return Handover.WANTED if free and (self._asked_for or self._preempts(now)) else Handover.NONE

    def _preempts(self, now: float) -> bool:
        said, settings = self._peer.said, self._settings
        first = said is not None and settings.priority > said.priority
        return settings.preempt and first and not self._leaving and now >= self._healthy_since + settings.preempt_delay

    # --- operators ----------------------------------------------------------------------------------------------

    def _operate(self, verb: Verb, now: float) -> None:
        if verb is Verb.FAILOVER:
            self._failover(now)
            return
        self._withdrawn = verb if verb in (Verb.DRAIN, Verb.MAINTENANCE) else None
        self._no_handover_before = now
        if verb is Verb.RESUME:
            self._damping.forgive()

    def _failover(self, now: float) -> None:
        peer = self._peer
        if self.role is Role.ACTIVE and peer.ready:
            self._offer("failover by the operator", now)
        elif self.role is Role.STANDBY and self._peer_is_active and peer.up and not self._own_obstacle(now):
            self._asked_for = True
        else:
            why = f"{peer.name} is not ready" if self.role is Role.ACTIVE else self.why_not(now)
            self._effects.append(CommandRefused(Verb.FAILOVER, why))

    # --- saying it ----------------------------------------------------------------------------------------------

    def _learn(self, epoch: int) -> None:
        if epoch > self.epoch:
            self.epoch = epoch
            self._effects.append(Remember(epoch))

    def _become(self, role: Role, reason: str, fenced: bool = True) -> None:
        before, self.role = self.role, role
        self._asked_for = False
        self._effects.append(RoleChanged(before, role, self.acting_epoch, reason, fenced))

    def _attract(self, level: Level, reason: str) -> None:
        if level is not self.level:
            self.level = level
            self._effects.append(LevelChanged(level, self.acting_epoch, reason))


_STEPS = {
    Role.INIT: Election._step_init,
    Role.STANDBY: Election._step_standby,
    Role.ACTIVE: Election._step_active,
    Role.DRAINING: Election._step_draining,
    Role.FAULT: Election._step_fault,
}
