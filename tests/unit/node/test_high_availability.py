"""The pair in the node: two of them and a witness node on a clock of the test, and what a role means to BGP, tables and disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from support.heartbeat_network import SeededRandom

from gateway.bgp.attraction import Attraction, Level
from gateway.bgp.events import Attract
from gateway.contract import Endpoint, Transmit
from gateway.ha.fabric_values import (
    Call,
    Contents,
    Done,
    FabricSettings,
    Hops,
    Mark,
    Operation,
    Outcome,
    Ownership,
    Put,
    Read,
    Table,
)
from gateway.ha.heartbeat import Settings as HeartbeatSettings
from gateway.ha.message import HealthReason, Role
from gateway.ha.reference import Beats
from gateway.ha.roles import ElectionSettings, HealthChanged, Operate, Verb
from gateway.ha.witness import Ask, Granted, Held
from gateway.ha.witness import Operation as Asked
from gateway.ha.witness_link import WitnessSettings
from gateway.ha.witness_node import ClusterSettings, Persist, Record, WitnessNode
from gateway.node.effects import Event, PairBeat, PairTransmit, SaveEpoch
from gateway.node.high_availability import HighAvailability
from gateway.node.pair_settings import PairSettings

SECRET = b"a secret of the pair, long enough"
AT = {"a": Endpoint("10.0.0.4", 4780), "b": Endpoint("10.0.0.5", 4780)}
SOURCE = {name: Endpoint(at.host, 4790) for name, at in AT.items()}
WITNESS = Endpoint("10.0.9.9", 4781)
WELL, SICK = HealthChanged(HealthReason(0)), HealthChanged(HealthReason.TUNNELS)
PREFIX = ip_network("172.16.0.0/12")


def settings(name: str, *, witness: bool = True, **election: Any) -> PairSettings:
    other = "b" if name == "a" else "a"
    chosen = ElectionSettings(f"gw-{name}", witness=witness, priority=200 if name == "a" else 100, step_back=1.0)
    return PairSettings(
        HeartbeatSettings(AT[name], AT[other], f"gw-{name}", SECRET, 0.05, 3),
        replace(chosen, **election),
        WitnessSettings(SOURCE[name], WITNESS, f"gw-{name}", SECRET) if witness else None,
        ttl=0.2,
    )


def fabric(name: str) -> FabricSettings:
    hops = [Hops("10.0.0.4"), Hops("10.0.0.5")]
    ours, theirs = hops if name == "a" else reversed(hops)
    return FabricSettings("pair", f"gw-{name}", ours, theirs, (Table("users", "rt", (PREFIX,)),))


class Two:
    """Both gateways and the witness; datagrams take no time."""

    def __init__(self, make: Callable[[str], PairSettings] = settings, *, tables: bool = False) -> None:
        self.now = 1000.0
        chance = SeededRandom(7)
        self.witness = WitnessNode(WITNESS, {0: ClusterSettings((SECRET,), 0.2)}, {0: Record(4, b"", "")}, chance, 0.0)
        self.ha = {
            name: HighAvailability(make(name), fabric(name) if tables else None, SeededRandom(n), self.now)
            for n, name in enumerate("ab")
        }
        self.beats = {name: Beats(SeededRandom(10 + n)) for n, name in enumerate("ab")}
        self.said: dict[str, list[object]] = {"a": [], "b": []}
        self.cut = False
        self.dead: set[str] = set()
        self.routes: dict[str, tuple[str, ...]] = {}
        self.tags: dict[str, str] = {}
        for name in "ab":
            self.do(name, lambda ha: ha.command(WELL, self.now))
            self.told(name)

    def do(self, name: str, action: Callable[[HighAvailability], None]) -> None:
        action(self.ha[name])
        self.carry()

    def carry(self) -> None:
        alive = [name for name in "ab" if name not in self.dead]
        while sum(map(self._drain, alive)) + self._drain_witness():
            pass

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = {name: self.ha[name].next_deadline() for name in "ab" if name not in self.dead}
            at = self.witness.next_deadline()
            beats = [beat for name in due if (beat := self.beats[name].next_deadline()) is not None]
            first = min([*due.values(), *beats, *([at] if at is not None else [])])
            if first > end:
                break
            self.now = max(self.now, first)
            for name, deadline in due.items():
                self.beats[name].handle_deadline(self.now)
                if deadline <= self.now:
                    self.ha[name].handle_deadline(self.now)
            if at is not None and at <= self.now:
                self.witness.handle_deadline(self.now)
            self.carry()
        self.now = end

    def roles(self) -> tuple[Role, Role]:
        return self.ha["a"].pair.election.role, self.ha["b"].pair.election.role

    def of(self, name: str, kind: type) -> list[Any]:
        return [one for one in self.said[name] if isinstance(one, kind)]

    def attraction(self, name: str) -> Attraction:
        last: Attract = self.of(name, Attract)[-1]
        assert last.attraction is not None
        return last.attraction

    def told(self, name: str) -> None:
        """Its BGP neighbors have heard what it says now."""
        self.do(name, lambda ha: ha.announced(self.now))

    def _drain(self, name: str) -> bool:
        found = list(self.ha[name].poll())
        self.said[name] += found
        for effect in found:
            if isinstance(effect, PairTransmit):
                self.witness.receive(effect.data, effect.local, self.now)
            elif isinstance(effect, PairBeat):
                self.beats[name].perform(effect.beat, self.now)
            elif isinstance(effect, Call):
                self.ha[name].table_answered(effect.ticket, self._cloud(effect.operation), self.now)
        beats = [beat.data for beat in self.beats[name].poll()]
        for data in beats:
            self._deliver("b" if name == "a" else "a", data)
        return bool(found or beats)

    def _deliver(self, other: str, data: bytes) -> None:
        if not self.cut and other not in self.dead:
            self.beats[other].receive(data, self.now)
            self.ha[other].receive(data, self.now)

    def _drain_witness(self) -> bool:
        found = list(self.witness.poll())
        for effect in found:
            match effect:
                case Persist(ticket):
                    self.witness.persisted(ticket, self.now)
                case Transmit(data, _, remote):
                    (name,) = (one for one, at in SOURCE.items() if at == remote)
                    if name not in self.dead:
                        self.ha[name].receive(data, self.now)
        return bool(found)

    def _cloud(self, operation: Operation) -> Outcome:
        match operation:
            case Read():
                return Contents(routes=tuple(self._seen()), tags=tuple(self.tags.items()))
            case Put(route, _):
                self.routes[route.key] = (route.prefix, route.kind, route.hop, route.name)
                self._put = route
            case Mark(key, epoch):
                self.tags[key] = str(epoch)
            case _:
                pass
        return Done()

    def _seen(self) -> Iterator[Any]:
        if self.routes:
            yield self._put


def test_one_becomes_active_and_everybody_learns_what_that_means():
    two = Two()
    two.run(1.0)
    assert two.roles() == (Role.ACTIVE, Role.STANDBY)
    assert two.attraction("a") == Attraction(Level.ACTIVE, 5), "the witness had granted epoch 4"
    assert two.attraction("b") == Attraction(Level.STANDBY)
    assert two.of("a", SaveEpoch) == [SaveEpoch(5)]
    assert two.of("b", SaveEpoch) == [SaveEpoch(5)]
    events = [one.event for one in two.of("a", Event)]
    assert events == ["ha-peer-up", "ha-standby", "ha-active"]
    assert "with the lease" in two.ha["a"].last_change


def test_after_a_crash_the_other_has_it_within_the_lease_and_attracts_more_than_the_dead_one():
    two = Two()
    two.run(1.0)
    two.dead.add("a")
    two.run(0.19)
    two.run(0.25)
    assert two.ha["b"].pair.election.role is Role.ACTIVE
    assert two.attraction("b") == Attraction(Level.TOOK_OVER, 6)


def test_a_cut_between_the_two_alone_changes_nothing():
    two = Two()
    two.run(1.0)
    two.cut = True
    two.run(5.0)
    assert two.roles() == (Role.ACTIVE, Role.STANDBY)
    assert two.ha["b"].pair.election.why_not(two.now) == "another holds the lease"


def test_a_level_that_was_lowered_is_said_only_when_the_neighbors_have_heard():
    two = Two()
    two.run(1.0)
    two.told("a")
    two.do("b", lambda ha: ha.command(Operate(Verb.FAILOVER), two.now))
    two.run(2.0)
    assert two.roles() == (Role.DRAINING, Role.ACTIVE)
    assert two.attraction("a").level is Level.STANDBY
    assert two.attraction("b").level is Level.TOOK_OVER, "a's neighbors may still hear the old level"
    two.told("a")
    two.run(0.9)
    assert two.attraction("b").level is Level.TOOK_OVER
    two.run(0.3)
    assert two.attraction("b").level is Level.ACTIVE


def test_where_both_carry_a_healthy_standby_attracts_as_the_active_one():
    two = Two(lambda name: settings(name, both_carry=True))
    two.run(1.0)
    assert two.roles() == (Role.ACTIVE, Role.STANDBY)
    assert two.attraction("b") == Attraction(Level.ACTIVE)
    two.do("b", lambda ha: ha.command(SICK, two.now))
    assert two.attraction("b") == Attraction(Level.STANDBY)


def test_the_tables_follow_the_active_one_and_carry_its_epoch():
    two = Two(tables=True)
    two.run(1.0)
    assert [route[2] for route in two.routes.values()] == ["10.0.0.4"]
    assert two.tags == {"gw-pair-epoch-gw-a": "5"}
    two.do("a", lambda ha: ha.command(Operate(Verb.FAILOVER), two.now))
    two.run(1.0)
    assert [route[2] for route in two.routes.values()] == ["10.0.0.5"]
    assert two.tags["gw-pair-epoch-gw-b"] == "6"
    assert "fabric-switched" in [one.event for one in two.of("b", Event)]


@pytest.mark.parametrize(("ownership", "calls"), [(Ownership.PREFIX, [Read]), (Ownership.NAME, [])])
def test_where_routes_have_no_names_they_are_read_as_soon_as_the_other_is_silent(
    ownership: Ownership, calls: list[type]
):
    two = Two(lambda name: settings(name, witness=False), tables=True)
    two.ha["b"].configure(settings("b", witness=False), replace(fabric("b"), ownership=ownership), two.now)
    two.run(10.0)
    assert two.roles() == (Role.ACTIVE, Role.STANDBY)
    before = len(two.said["b"])
    two.dead.add("a")
    two.run(1.0)
    assert two.ha["b"].pair.election.role is Role.STANDBY, "nothing permits it to act"
    assert [type(one.operation) for one in two.said["b"][before:] if isinstance(one, Call)] == calls


def test_an_epoch_in_a_table_above_ours_ends_acting():
    two = Two(lambda name: settings(name, witness=False, none="promote"), tables=True)
    two.dead.add("b")
    two.run(5.0)
    assert two.ha["a"].pair.election.role is Role.ACTIVE
    two.tags["gw-pair-epoch-gw-b"] = "40"
    assert two.ha["a"].fabric is not None
    two.run(70.0)
    assert two.ha["a"].pair.election.role is Role.STANDBY
    assert two.ha["a"].pair.election.epoch == 40
    assert "fabric-outdone" in [one.event for one in two.of("a", Event)]


def test_what_an_operator_cannot_have_is_said():
    two = Two()
    two.run(1.0)
    two.do("b", lambda ha: ha.command(SICK, two.now))
    two.do("a", lambda ha: ha.command(Operate(Verb.FAILOVER), two.now))
    assert two.ha["a"].refusal == "gw-b is not ready"
    assert two.roles() == (Role.ACTIVE, Role.FAULT)
    two.do("b", lambda ha: ha.command(WELL, two.now))
    two.do("a", lambda ha: ha.command(Operate(Verb.FAILOVER), two.now))
    assert two.ha["a"].refusal == ""


def test_a_reload_keeps_the_role_and_a_section_of_tables_may_come_and_go():
    two = Two()
    two.run(1.0)
    changed = settings("a", preempt_delay=7.0)
    changed = replace(changed, heartbeat=replace(changed.heartbeat, dead_after=9), ttl=0.15)
    two.do("a", lambda ha: ha.configure(changed, fabric("a"), two.now))
    two.run(1.0)
    assert two.roles() == (Role.ACTIVE, Role.STANDBY)
    assert [route[2] for route in two.routes.values()] == ["10.0.0.4"], "who is active already writes at once"
    two.do("a", lambda ha: ha.configure(changed, None, two.now))
    assert two.ha["a"].fabric is not None
    assert two.ha["a"].fabric.view().tables == ()


def test_a_witness_in_the_cloud_is_asked_by_the_shell():
    cloud = replace(settings("a"), witness=None, cloud_witness=True)
    ha = HighAvailability(cloud, None, SeededRandom(1), 1000.0, epoch=11)
    ha.command(WELL, 1000.0)

    def asked() -> list[Ask]:
        return [one for one in ha.poll() if isinstance(one, Ask)]

    ha.handle_deadline(1000.0)
    (first,) = asked()
    assert (first.operation, first.ttl) == (Asked.READ, 0.2)
    ha.witness_answered(first.ticket, Held(12, "gw-b", 0.1), 1000.01)
    ha.handle_deadline(1003.0)
    acquire = next(one for one in asked() if one.operation is Asked.ACQUIRE)
    assert acquire.epoch > 12
    ha.witness_answered(acquire.ticket, Granted(acquire.epoch, 0.2), 1003.01)
    assert ha.pair.election.role is Role.ACTIVE
    assert SaveEpoch(acquire.epoch) in list(ha.poll())


@pytest.mark.parametrize(
    ("change", "another"),
    [
        ({"witness": None, "election": ElectionSettings("gw-a", witness=False)}, True),
        ({"witness": None, "cloud_witness": True}, True),
        ({"ttl": 3.0}, False),
    ],
)
def test_only_another_kind_of_agreement_makes_another_pair(change: dict[str, Any], another: bool):
    ha = HighAvailability(settings("a"), None, SeededRandom(1), 1000.0)
    assert ha.is_another(replace(settings("a"), **change)) is another


class Told(Two):
    """Both gateways' neighbors hear at once what they are told."""

    def carry(self) -> None:
        super().carry()
        for name in "ab":
            if name not in self.dead and hasattr(self, "dead"):
                self.ha[name].announced(self.now)
        super().carry()


def test_where_both_carry_they_announce_the_same_also_after_one_took_over():
    two = Told(lambda name: settings(name, both_carry=True))
    two.run(3.0)
    assert (two.attraction("a").level, two.attraction("b").level) == (Level.ACTIVE, Level.ACTIVE)
    two.do("a", lambda ha: ha.command(SICK, two.now))
    two.run(1.0)
    assert two.roles()[1] is Role.ACTIVE
    two.do("a", lambda ha: ha.command(WELL, two.now))
    two.run(40.0)
    assert two.roles() == (Role.STANDBY, Role.ACTIVE)
    assert (two.attraction("a").level, two.attraction("b").level) == (Level.ACTIVE, Level.ACTIVE)


def test_where_both_carry_the_one_that_stays_attracts_more_than_a_dead_one():
    two = Told(lambda name: settings(name, both_carry=True))
    two.run(3.0)
    two.dead.add("a")
    two.run(20.0)
    assert two.attraction("b").level is Level.TOOK_OVER


@pytest.mark.parametrize("who", "ab")
def test_where_both_carry_a_drained_one_carries_nothing_however_long_it_is_so(who: str):
    two = Told(lambda name: settings(name, both_carry=True, drain_time=0.5))
    two.run(3.0)
    two.do(who, lambda ha: ha.command(Operate(Verb.DRAIN), two.now))
    two.run(10.0)
    assert two.attraction(who).level is Level.STANDBY
    assert two.ha[who].is_relieved
    two.do(who, lambda ha: ha.command(Operate(Verb.RESUME), two.now))
    two.run(1.0)
    assert two.attraction(who).level is Level.ACTIVE


def test_before_it_ends_one_that_leads_traffic_here_has_something_to_hand_over():
    two = Told()
    two.run(3.0)
    assert (two.ha["a"].has_duties, two.ha["b"].has_duties) == (True, False)
    two.do("a", lambda ha: ha.command(Operate(Verb.FAILOVER), two.now))
    two.run(1.0)
    assert two.roles() == (Role.DRAINING, Role.ACTIVE)
    assert not two.ha["a"].has_duties, "the neighbors know"


def test_where_both_carry_the_standby_has_something_to_hand_over_too():
    two = Told(lambda name: settings(name, both_carry=True))
    two.run(3.0)
    assert two.ha["b"].has_duties
    two.do("b", lambda ha: ha.command(Operate(Verb.MAINTENANCE), two.now))
    assert two.ha["b"].is_relieved


def test_nothing_is_handed_over_to_somebody_who_is_not_there():
    two = Two()
    two.run(1.0)
    assert two.ha["a"].has_heir
    two.told("a")
    two.dead.add("b")
    two.run(1.0)
    assert not two.ha["a"].has_heir
    two.do("a", lambda ha: ha.command(Operate(Verb.MAINTENANCE), two.now))
    assert not two.ha["a"].is_relieved, "its neighbors do not know; but that helps nobody"


def test_an_answer_to_a_call_of_an_earlier_pair_changes_nothing():
    """Of a reload that began the pair anew while the cloud was asked."""
    calls: list[Call] = []
    for seed in (1, 2):
        ha = HighAvailability(settings("a"), fabric("a"), SeededRandom(seed), 1000.0)
        ha.command(WELL, 1000.0)
        calls += [one for one in ha.poll() if isinstance(one, Call)]
        for call in calls[:1] if seed == 2 else ():
            ha.table_answered(call.ticket, Done(), 1000.1)
    assert len({call.ticket for call in calls}) == len(calls) == 2
    assert ha.fabric is not None
    assert not any(table.trouble for table in ha.fabric.view().tables)


def test_a_tag_that_is_no_possible_epoch_ends_nothing():
    two = Two(tables=True)
    two.tags["gw-pair-epoch-gw-b"] = "9" * 20
    two.run(70.0)
    assert two.roles() == (Role.ACTIVE, Role.STANDBY)


def test_what_an_operator_asked_for_does_not_happen_long_after():
    """Told while the other could be heard no more: when it is heard again, nobody expects a switchover."""
    two = Two()
    two.run(1.0)
    two.cut = True
    two.do("b", lambda ha: ha.command(Operate(Verb.FAILOVER), two.now))
    assert two.ha["b"].refusal == ""
    two.run(600.0)
    two.cut = False
    two.run(5.0)
    assert two.roles() == (Role.ACTIVE, Role.STANDBY)


def test_who_attracts_nothing_gives_way_to_the_one_that_acts():
    two = Told(lambda name: settings(name, drain_time=0.5))
    assert not two.ha["a"].gives_way, "nobody acts yet"
    two.run(1.0)
    assert [two.ha[name].gives_way for name in "ab"] == [False, True]
    two.do("a", lambda ha: ha.command(Operate(Verb.FAILOVER), two.now))
    two.run(0.2)
    assert two.roles() == (Role.DRAINING, Role.ACTIVE)
    assert [two.ha[name].gives_way for name in "ab"] == [True, False]
    two.run(1.0)
    assert [two.ha[name].gives_way for name in "ab"] == [True, False]
    two.dead.add("b")
    two.run(0.2)
    assert not two.ha["a"].gives_way, "to nobody that may be dead"


def test_where_both_carry_only_a_drained_one_gives_way():
    two = Told(lambda name: settings(name, both_carry=True))
    two.run(3.0)
    assert [two.ha[name].gives_way for name in "ab"] == [False, False]
    two.do("b", lambda ha: ha.command(Operate(Verb.DRAIN), two.now))
    two.run(1.0)
    assert [two.ha[name].gives_way for name in "ab"] == [False, True]


def test_an_epoch_announced_above_ours_is_for_the_witness_to_judge():
    two = Two()
    two.run(1.0)
    two.said["a"].clear()
    two.do("a", lambda ha: ha.epoch_announced("vnet", 40, two.now))
    asked = [one for one in two.of("a", PairTransmit) if one.remote == WITNESS]
    assert asked, "at once, though the lease has just been renewed"
    (event,) = two.of("a", Event)
    assert (event.event, event.level) == ("ha-epoch-announced", "warning")
    assert event.text == "vnet teaches routes of epoch 40, and ours is 5: the witness is asked, and knows"
    two.run(5.0)
    assert two.roles() == (Role.ACTIVE, Role.STANDBY)
    two.said["a"].clear()
    two.do("a", lambda ha: ha.epoch_announced("vnet", 40, two.now))
    two.do("a", lambda ha: ha.epoch_announced("vnet", 5, two.now))
    assert two.of("a", Event) == [], "it is said once; and our own announcement comes back"
    two.do("a", lambda ha: ha.command(Operate(Verb.FAILOVER), two.now))
    two.run(1.0)
    two.do("b", lambda ha: ha.command(Operate(Verb.FAILOVER), two.now))
    two.run(10.0)
    two.do("b", lambda ha: ha.command(Operate(Verb.FAILOVER), two.now))
    two.run(1.0)
    assert two.attraction("a").epoch == 41, "who acts again does so above it"


def test_where_silence_promotes_the_one_that_is_outdone_by_an_announcement_says_so():
    two = Two(lambda name: settings(name, witness=False, none="promote"))
    two.dead.add("b")
    two.run(5.0)
    before = two.ha["a"].pair.election.acting_epoch
    two.do("a", lambda ha: ha.epoch_announced("vnet", before + 1, two.now))
    assert two.ha["a"].pair.election.role is Role.STANDBY
    texts = [one.text for one in two.of("a", Event)]
    assert texts[-2:] == [
        f"vnet teaches routes of epoch {before + 1}, and ours is {before}: this gateway is active no more",
        f"ACTIVE -> STANDBY: epoch {before + 1} is known, {before} is over",
    ]


def test_a_standby_that_hears_of_the_active_one_by_bgp_first_says_nothing():
    two = Two()
    two.run(1.0)
    two.said["b"].clear()
    two.do("b", lambda ha: ha.epoch_announced("vnet", 9, two.now))
    assert two.of("b", Event) == []
    assert two.ha["b"].pair.election.sightings.highest == 9
