"""The FIBs of several tables beside each other: ids, answers, guards, and a table that is given up."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from gateway.node.instances import InstanceSettings
from gateway.node.learned import Learned
from gateway.node.tables import OWN, Tables
from gateway.routing.model import (
    Applied,
    ConnectionAdded,
    ConnectionUp,
    Dump,
    DumpRequest,
    Entry,
    Key,
    Reconcile,
    Route,
    RouteKind,
    RouteOps,
    SetProtected,
    SetRoute,
    Verb,
    ViaConnection,
)

SITE, LATER = ip_network("172.16.1.0/24"), ip_network("172.16.2.0/24")
BLUE = InstanceSettings("blue", 301, ("eth1",), (), (ip_network("10.1.0.0/16"),))


class Kernel:
    """Tables by number; nexthop objects belong to none of them, and every dump has them all."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.routes: dict[int, dict[Key, Entry]] = {}
        self.objects: dict[Key, Entry] = {}

    def settle(self, now: float = 0.0) -> None:
        for _ in range(50):
            effects = list(self.tables.poll())
            if not effects and self.tables.next_deadline() is None:
                return
            for effect in effects:
                self._do(effect, now)
            self.tables.handle_deadline(now)

    def _do(self, effect: object, now: float) -> None:
        if isinstance(effect, DumpRequest):
            held = (*self.objects.values(), *self.routes.get(effect.table, {}).values())
            self.tables.command(Reconcile(effect.ticket, Dump(held), effect.table), now)
        elif isinstance(effect, RouteOps):
            for op in effect.ops:
                mine = self.routes.setdefault(effect.table, {}) if isinstance(op.entry, Route) else self.objects
                if op.verb is Verb.DELETE:
                    del mine[op.entry.key]
                else:
                    assert op.verb is Verb.REPLACE or op.entry.key not in mine
                    mine[op.entry.key] = op.entry
            self.tables.command(Applied(effect.ticket, table=effect.table), now)


def test_a_table_that_an_earlier_process_left_is_emptied_but_not_one_that_is_used() -> None:
    tables, kernel = made()
    left = Route(SITE, 4278198272, RouteKind.BLACKHOLE)
    kernel.routes[302] = {left.key: left}
    guarded = dict(kernel.routes[301])
    tables.leave_behind((301, 302), 1.0)
    kernel.settle(1.0)
    assert kernel.routes[302] == {}
    assert kernel.routes[301] == guarded
    assert not list(tables.poll()) and tables.next_deadline() is None, "and is let alone from then on"


def made() -> tuple[Tables, Kernel]:
    tables = Tables()
    assert tables.adopt((BLUE,), 0.0) == ["blue"]
    for name, connection, index in ((OWN, "site", 5), ("blue", "other", 6)):
        for command in (
            SetProtected(frozenset({SITE})),
            ConnectionAdded(connection, index),
            ConnectionUp(connection),
            SetRoute(SITE, ViaConnection(connection)),
        ):
            tables[name].command(command, 0.0)
    tables.set_throws(frozenset({ip_network("10.1.0.0/24"), ip_network("198.51.100.0/24")}), frozenset(), 0.0)
    kernel = Kernel(tables)
    kernel.settle()
    return tables, kernel


def test_two_tables_hold_the_same_prefix_and_share_no_object() -> None:
    tables, kernel = made()
    ways = [[r.group for r in kernel.routes[table].values() if isinstance(r, Route) and r.group] for table in (0, 301)]
    assert [len(found) for found in ways] == [1, 1]
    assert ways[0] != ways[1]
    assert tables.guard_complete
    assert (tables.status().installed, tables.status().failed) == (2, 0)


def test_exceptions_of_an_instance_are_what_lies_on_its_side() -> None:
    _, kernel = made()
    throws = {str(r.prefix) for r in kernel.routes[301].values() if isinstance(r, Route) and r.metric == 1}
    assert throws == {"10.1.0.0/24"}


def test_the_guard_is_complete_when_that_of_every_table_is() -> None:
    tables, _ = made()
    tables["blue"].command(SetProtected(frozenset({SITE, ip_network("10.99.0.0/16")})), 1.0)
    assert not tables.guard_complete


def test_a_table_that_is_given_up_is_left_empty_and_the_other_untouched() -> None:
    tables, kernel = made()
    before = (dict(kernel.routes[0]), {key for key in kernel.objects if isinstance(key, int) and key >= 0x67770000})
    tables.adopt((), 1.0)
    kernel.settle(1.0)
    assert kernel.routes[301] == {}
    assert (kernel.routes[0], set(kernel.objects)) == before
    assert list(tables) == [OWN]
    # and taken again
    assert tables.adopt((BLUE,), 2.0) == ["blue"]
    tables["blue"].command(SetProtected(frozenset({SITE})), 2.0)
    kernel.settle(2.0)
    assert len(kernel.routes[301]) == 1


def test_what_is_wrong_in_an_instance_says_whose() -> None:
    tables, _ = made()
    tables["blue"].command(SetProtected(frozenset({SITE, ip_network("10.1.0.0/24")})), 1.0)
    assert [one for one in tables.status().problems if one.startswith("instance blue: ")]


def test_a_table_that_another_instance_had_is_emptied_of_what_that_one_left() -> None:
    tables, kernel = made()
    assert any(isinstance(one, Route) and one.group for one in kernel.routes[301].values())
    # in one reload: of that name there is nothing, and the number is another's
    assert tables.adopt((replace(BLUE, name="red"),), 1.0) == ["red"]
    tables["red"].command(SetProtected(frozenset({SITE})), 1.0)
    kernel.settle(1.0)
    left = {(str(one.prefix), one.kind) for one in kernel.routes[301].values() if isinstance(one, Route)}
    assert left == {(str(SITE), RouteKind.BLACKHOLE)}, "nothing leads into a tunnel of the instance before"


def test_what_an_instance_learned_stays_closed_when_it_goes_and_comes_back() -> None:
    tables = Tables()
    learned = Learned(tables, {"blue": (SITE,)})
    learned.start((BLUE,), 0.0)
    kernel = Kernel(tables)
    for name in tables:
        tables[name].command(SetProtected(frozenset()), 0.0)
    kernel.settle()
    blue = tables["blue"]
    blue.command(ConnectionAdded("other", 6), 1.0)
    blue.command(SetRoute(LATER, ViaConnection("other"), keep=True), 1.0)
    learned.forget((SITE,), "blue", None, 1.0)
    kernel.settle(1.0)
    assert set(blue.kept) == {LATER}
    for instances in ((), (BLUE,)):
        learned.adopt(instances, 2.0)
        if instances:
            tables["blue"].command(SetProtected(frozenset()), 2.0)
        kernel.settle(2.0)
    assert set(tables["blue"].kept) == {LATER}, "what was forgotten does not come back, what was learned does"


def test_the_guard_is_not_written_down_before_a_new_table_is_read() -> None:
    tables, kernel = made()
    learned = Learned(tables, {})
    learned.adopt((BLUE, replace(BLUE, name="red", table=302)), 1.0)
    tables["red"].command(SetProtected(frozenset({SITE})), 1.0)
    learned.changed(1.0)
    assert learned.due(2.0) is None
    assert learned.save_at == 3.0
    kernel.settle(2.5)
    save = learned.due(3.0)
    assert save is not None
    assert [
        [str(entry.prefix) for entry in table.entries if entry.kind is RouteKind.BLACKHOLE] for table in save.tables
    ] == [[str(SITE)]] * 3


def test_what_is_to_be_written_down_later_is_there_for_who_has_no_later() -> None:
    tables, kernel = made()
    learned = Learned(tables, {})
    assert learned.last() is None, "nothing is due"
    learned.adopt((BLUE, replace(BLUE, name="red", table=302)), 1.0)
    tables["red"].command(SetProtected(frozenset({SITE})), 1.0)
    learned.changed(1.0)
    assert learned.last() is None, "a new table's guard is not known yet"
    kernel.settle(1.5)
    save = learned.last()
    assert save is not None
    assert len(save.tables) == 3
    assert (learned.last(), learned.due(5.0)) == (None, None), "it is written down"
