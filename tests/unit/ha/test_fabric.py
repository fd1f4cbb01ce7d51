"""The route tables of a cloud: what is written, what is left alone, and who stops."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from random import Random

import pytest
from support.fabric_cloud import HOPS, PREFIXES, Cloud, foreign, settings

from gateway.ha.fabric_routes import mark_key, refusal, route_name
from gateway.ha.fabric_values import (
    VNET_LOCAL,
    Activate,
    Call,
    Claim,
    Configure,
    Contents,
    Deactivate,
    Drifted,
    Failed,
    HigherEpoch,
    Hops,
    Look,
    Mark,
    Ownership,
    Put,
    Read,
    Remove,
    RouteState,
    SeenRoute,
    Switched,
    Table,
    Troubled,
    Verify,
    Why,
)

INTERFACES = {"ours": Hops("eni-a", "eni-a"), "theirs": Hops("eni-b", "eni-b")}
AWS = {**INTERFACES, "ownership": Ownership.PREFIX, "calls_at_once": 4}


def hop_of(node: str, prefix: str) -> str:
    return HOPS[node].towards(ip_network(prefix))


def active(epoch: int = 1, **other: object) -> Cloud:
    """gw-a has both tables."""
    cloud = Cloud()
    cloud.boot("gw-a", **other)
    cloud.run(1.0)
    cloud.tell("gw-a", Activate(epoch))
    cloud.run(10.0)
    return cloud


def leads_to(cloud: Cloud, node: str, prefixes: tuple[str, ...] = PREFIXES) -> bool:
    return all(
        table.hops().get(prefix) == hop_of(node, prefix) for table in cloud.tables.values() for prefix in prefixes
    )


def test_a_standby_reads_every_table_and_writes_nothing():
    cloud = Cloud()
    cloud.boot("gw-a")
    cloud.run(600.0)
    assert cloud.writes("gw-a") == []
    reads = [at for at, _, call in cloud.calls if call.table.name == "users"]
    assert 10 <= len(reads) <= 13, "at once, then every 60 s or so"
    assert [route.state for route in cloud.gateways["gw-a"].view().tables[0].routes] == [RouteState.ABSENT] * 3


def test_the_active_one_writes_every_route_and_its_epoch_without_reading_first():
    cloud = Cloud()
    cloud.boot("gw-a")
    cloud.run(30.0)
    told = cloud.now
    cloud.tell("gw-a", Activate(7))
    cloud.run(4.0)
    since = [call.operation for at, _, call in cloud.calls if at >= told and call.table.name == "users"]
    assert [type(operation) for operation in since] == [Put, Put, Put, Mark], "the tag comes when the routes are there"
    assert leads_to(cloud, "gw-a")
    assert cloud.tables["ref-users"].tags == {"gw-one-epoch-gw-a": "7"}
    assert set(cloud.tables["ref-users"].routes) == {
        "gw-one-10.0.0.0_8", "gw-one-172.16.0.0_12", "gw-one-2001-db8--_32"
    }  # fmt: skip
    assert {event.table: event.routes for event in cloud.said("gw-a", Switched)} == {"users": 3, "servers": 3}
    assert cloud.most_at_once == {"gw-a users": 1, "gw-a servers": 1}


def test_tables_are_switched_side_by_side_and_one_that_is_slow_holds_up_no_other():
    cloud = Cloud()
    cloud.boot("gw-a")
    cloud.run(1.0)
    cloud.fault = lambda node, call: (
        (Failed(Why.BUSY, "another operation", 20.0), False) if call.table.name == "users" else None
    )
    cloud.tell("gw-a", Activate(1))
    cloud.run(1.0)
    assert [event.table for event in cloud.said("gw-a", Switched)] == ["servers"]


def test_after_a_switch_the_table_is_read_again_and_nothing_else_is_written():
    cloud = active()
    after = [call.operation for at, _, call in cloud.calls if call.table.name == "users"]
    assert after == [Read(), *after[1:4], Mark("gw-one-epoch-gw-a", 1), Read()]
    (users, servers) = cloud.gateways["gw-a"].view().tables
    assert users.settled
    assert servers.settled
    assert users.planned == ()
    assert users.drift == 0


def test_somebody_else_who_is_told_to_be_active_takes_over_and_the_first_one_is_told():
    cloud = active()
    cloud.boot("gw-b")
    cloud.run(1.0)
    cloud.tell("gw-b", Activate(2))
    cloud.run(200.0)
    assert leads_to(cloud, "gw-b")
    (outdone,) = cloud.said("gw-a", HigherEpoch)
    assert outdone.claim == Claim(2, "gw-b"), "told once, by whichever table it was seen in first"
    assert cloud.gateways["gw-a"].view().outdone_by == Claim(2, "gw-b")
    assert cloud.said("gw-b", Drifted) == []
    assert len(cloud.writes("gw-a")) == 8, "its own switch, and never again"
    cloud.tell("gw-a", Deactivate())
    cloud.tell("gw-a", Activate(3))
    cloud.run(100.0)
    assert leads_to(cloud, "gw-a")


def test_who_was_active_and_is_again_does_not_believe_what_it_saw_in_between_the_other_s_switch():
    cloud = active()
    cloud.boot("gw-b")
    cloud.run(1.0)
    cloud.tell("gw-a", Deactivate())
    cloud.tell("gw-b", Activate(2))
    cloud.run(2.0)
    assert leads_to(cloud, "gw-b")
    cloud.tell("gw-b", Deactivate())
    told = cloud.now
    cloud.tell("gw-a", Activate(3))
    cloud.run(2.0)
    assert leads_to(cloud, "gw-a"), "at once, not when the table is looked at the next time"
    since = [
        call.operation for at, node, call in cloud.calls if at >= told and node == "gw-a" and call.table.name == "users"
    ]
    assert [type(operation) for operation in since] == [Read, Put, Put, Put, Mark]
    assert cloud.said("gw-a", Drifted) == []


def test_told_to_be_active_with_an_epoch_that_is_over_writes_nothing():
    cloud = Cloud()
    cloud.tables["ref-servers"].tags["gw-one-epoch-gw-b"] = "9"
    cloud.boot("gw-a")
    cloud.run(1.0)
    cloud.tell("gw-a", Activate(8))
    cloud.run(200.0)
    assert cloud.writes("gw-a") == []
    assert cloud.said("gw-a", HigherEpoch) == [HigherEpoch("servers", Claim(9, "gw-b"))]
    assert cloud.gateways["gw-a"].highest_claim == Claim(9, "gw-b")


@pytest.mark.parametrize("tag", ["", "x", "-1", "\u0662", "9" * 21, "1.5"])
def test_a_tag_that_is_no_epoch_is_nobodys_claim(tag: str):
    cloud = Cloud()
    for table in cloud.tables.values():
        table.tags |= {"gw-one-epoch-gw-b": tag, "gw-other-epoch-gw-b": "99", "epoch": "99"}
    cloud.boot("gw-a")
    cloud.tell("gw-a", Activate(1))
    cloud.run(10.0)
    assert leads_to(cloud, "gw-a")


def test_of_two_with_one_epoch_one_gives_way():
    cloud = active(5)
    cloud.boot("gw-b")
    cloud.run(1.0)
    cloud.tell("gw-b", Activate(5))
    cloud.run(300.0)
    assert leads_to(cloud, "gw-b")
    assert cloud.said("gw-a", HigherEpoch)
    assert not cloud.said("gw-b", HigherEpoch)


def test_what_others_changed_is_found_counted_told_and_repaired():
    cloud = active()
    table = cloud.tables["ref-users"]
    del table.routes["gw-one-10.0.0.0_8"]
    table.put(SeenRoute("172.16.0.0/12", "None", "", "gw-one-172.16.0.0_12"))
    cloud.run(70.0)
    assert leads_to(cloud, "gw-a")
    assert cloud.gateways["gw-a"].view().tables[0].drift == 2
    assert sorted(event.sentence for event in cloud.said("gw-a", Drifted)) == [
        "172.16.0.0/12 -> None (gw-one-172.16.0.0_12) instead of replace by 172.16.0.0/12 -> 10.0.1.4 (gw-one-172.16.0.0_12)",
        "somebody removed create 10.0.0.0/8 -> 10.0.1.4 (gw-one-10.0.0.0_8)",
    ]


def test_a_route_that_leads_to_the_other_gateway_is_left_until_its_tag_had_time():
    cloud = active()
    route = cloud.tables["ref-users"].routes["gw-one-10.0.0.0_8"]
    cloud.tables["ref-users"].put(replace(route, hop="10.0.1.5"))
    before = cloud.now
    cloud.tell("gw-a", Look())
    cloud.run(9.0)
    assert cloud.writes("gw-a", before) == []
    assert cloud.gateways["gw-a"].view().tables[0].routes[0].state is RouteState.PEER
    cloud.tell("gw-a", Look())
    cloud.run(5.0)
    assert [call.operation.route.prefix for call in cloud.writes("gw-a", before)] == ["10.0.0.0/8"]
    assert leads_to(cloud, "gw-a")


def test_foreign_routes_are_left_and_named():
    cloud = Cloud()
    theirs = foreign("10.0.0.0/8")
    beside = foreign("0.0.0.0/0", name="gw-other-0.0.0.0_0")
    for table in cloud.tables.values():
        table.put(theirs, beside)
    cloud.boot("gw-a")
    cloud.run(1.0)
    cloud.tell("gw-a", Activate(1))
    cloud.run(300.0)
    assert cloud.tables["ref-users"].routes["theirs"] == theirs
    assert cloud.tables["ref-users"].routes[beside.name] == beside
    assert leads_to(cloud, "gw-a", PREFIXES[1:])
    view = cloud.gateways["gw-a"].view().tables[0]
    assert view.last_error == (
        "10.0.0.0/8 -> 10.9.9.9 (theirs) is not ours; it is left, and 10.0.0.0/8 does not lead to this pair"
    )
    assert view.foreign == (str(theirs), str(beside))
    assert view.routes[0].state is RouteState.FOREIGN
    assert view.settled
    assert [event.routes for event in cloud.said("gw-a", Switched)] == [2, 2]


def test_a_foreign_route_that_was_not_yet_seen_is_refused_by_the_cloud_and_then_named():
    cloud = Cloud()
    cloud.boot("gw-a")
    cloud.run(1.0)
    theirs = foreign("10.0.0.0/8")
    cloud.tables["ref-users"].put(theirs)
    cloud.tell("gw-a", Activate(1))
    cloud.run(5.0)
    assert cloud.tables["ref-users"].routes["theirs"] == theirs
    assert leads_to(cloud, "gw-a", PREFIXES[1:])
    assert any("is not ours" in event.sentence for event in cloud.said("gw-a", Troubled))


def test_a_route_of_ours_that_is_wanted_no_longer_is_removed_by_the_active_one_only():
    cloud = Cloud()
    old = SeenRoute("192.168.0.0/16", "VirtualAppliance", "10.0.1.5", "gw-one-192.168.0.0_16")
    cloud.tables["ref-users"].put(old)
    cloud.boot("gw-a")
    cloud.run(100.0)
    assert old.name in cloud.tables["ref-users"].routes
    cloud.tell("gw-a", Activate(1))
    cloud.run(1.0)
    assert old.name not in cloud.tables["ref-users"].routes


def test_an_older_route_of_ours_to_the_same_prefix_makes_room_first():
    cloud = Cloud()
    cloud.tables["ref-users"].put(SeenRoute("10.0.0.0/8", "VirtualAppliance", "10.0.1.5", "gw-one-onprem"))
    cloud.boot("gw-a")
    cloud.run(1.0)
    cloud.tell("gw-a", Activate(1))
    cloud.run(1.0)
    first = [call.operation for call in cloud.writes("gw-a") if call.table.name == "users"][:2]
    assert [type(operation) for operation in first] == [Remove, Put]
    assert leads_to(cloud, "gw-a")


def test_a_dry_run_calls_nothing_and_says_what_it_would():
    cloud = active(dry_run=True)
    assert cloud.writes("gw-a") == []
    assert cloud.gateways["gw-a"].view().tables[0].planned == (
        "create 10.0.0.0/8 -> 10.0.1.4 (gw-one-10.0.0.0_8)",
        "create 172.16.0.0/12 -> 10.0.1.4 (gw-one-172.16.0.0_12)",
        "create 2001:db8::/32 -> fd00::4 (gw-one-2001-db8--_32)",
        "tag gw-one-epoch-gw-a = 1",
    )


# --- failures ---------------------------------------------------------------------------------------------------------


def failing_once(why: Why, applied: bool = False, retry_after: float = 0.0, kind: type = Put):
    """The first such call of each table fails."""
    failed: set[str] = set()

    def fault(node: str, call: Call) -> tuple[Failed, bool] | None:
        if not isinstance(call.operation, kind) or call.table.name in failed:
            return None
        failed.add(call.table.name)
        return Failed(why, "on purpose", retry_after), applied

    return fault


@pytest.mark.parametrize(
    ("why", "applied", "retry_after", "at_least", "at_most"),
    [
        (Why.BUSY, False, 3.0, 3.0, 4.0),
        (Why.BUSY, False, 0.0, 0.1, 1.0),
        (Why.EXPIRED, False, 0.0, 0.0, 0.3),
        (Why.UNREACHABLE, False, 0.0, 0.1, 1.0),
        (Why.AMBIGUOUS, True, 0.0, 0.0, 0.3),
        (Why.AMBIGUOUS, False, 0.0, 0.0, 0.3),
        (Why.REFUSED, False, 0.0, 4.5, 6.0),
    ],
)
def test_each_failure_is_got_over(why: Why, applied: bool, retry_after: float, at_least: float, at_most: float):
    cloud = Cloud()
    cloud.boot("gw-a")
    cloud.run(1.0)
    cloud.fault = failing_once(why, applied, retry_after)
    cloud.tell("gw-a", Activate(1))
    cloud.run(30.0)
    assert leads_to(cloud, "gw-a")
    for event in cloud.said("gw-a", Switched):
        assert at_least <= event.seconds <= at_most
    puts = [call for call in cloud.writes("gw-a") if call.table.name == "users" and isinstance(call.operation, Put)]
    assert len(puts) == (3 if applied else 4), "what took effect is seen by reading, not written again"


def test_a_route_that_is_refused_holds_up_no_other_and_is_tried_ever_more_rarely():
    cloud = Cloud()
    cloud.boot("gw-a")
    cloud.run(1.0)
    cloud.fault = lambda node, call: (
        (Failed(Why.REFUSED, "not allowed"), False) if getattr(call.operation, "route", foreign("")).prefix == "10.0.0.0/8" else None
    )  # fmt: skip
    cloud.tell("gw-a", Activate(1))
    cloud.run(3600.0)
    assert leads_to(cloud, "gw-a", PREFIXES[1:])
    tries = [call for call in cloud.writes("gw-a") if call.table.name == "users" and isinstance(call.operation, Put)]
    assert 10 <= len(tries) - 2 <= 20
    view = cloud.gateways["gw-a"].view().tables[0]
    assert view.routes[0].error == view.last_error == "not allowed"
    cloud.fault = lambda node, call: None
    cloud.tell("gw-a", Activate(2))
    cloud.run(1.0)
    assert leads_to(cloud, "gw-a"), "a new epoch tries at once"
    assert cloud.said("gw-a", Troubled)[-1].sentence == ""


def test_a_cloud_that_does_not_answer_is_asked_ever_more_rarely_and_told_once():
    cloud = Cloud()
    cloud.boot("gw-a")
    cloud.run(1.0)
    cloud.fault = lambda node, call: (Failed(Why.UNREACHABLE, "no way there"), False)
    cloud.tell("gw-a", Activate(1))
    before = len(cloud.calls)
    cloud.run(3600.0)
    assert 60 <= (len(cloud.calls) - before) / 2 <= 90, "a minute apart in the end"
    assert len(cloud.said("gw-a", Troubled)) == 2
    cloud.fault = lambda node, call: None
    cloud.run(100.0)
    assert leads_to(cloud, "gw-a")


def test_not_active_any_more_means_no_further_write_though_one_was_under_way():
    cloud = Cloud(latency=(1.0, 1.0))
    cloud.boot("gw-a")
    cloud.run(5.0)
    cloud.tell("gw-a", Activate(1))
    cloud.run(0.5)
    cloud.tell("gw-a", Deactivate())
    cloud.run(100.0)
    assert len(cloud.writes("gw-a")) == 2, "one of each table had been sent"
    assert cloud.said("gw-a", Switched) == []


def test_who_was_stopped_in_the_middle_of_a_switch_looks_before_it_writes_on():
    cloud = Cloud(latency=(0.5, 0.5))
    cloud.boot("gw-a")
    cloud.run(1.0)
    cloud.tell("gw-a", Activate(1))
    cloud.run(0.7)
    written = len(cloud.writes("gw-a"))
    for table in cloud.tables.values():
        table.tags["gw-one-epoch-gw-b"] = "2"
    cloud.now += 11.0  # nothing of the process ran meanwhile
    cloud.run(100.0)
    assert len(cloud.writes("gw-a")) == written
    assert cloud.said("gw-a", HigherEpoch)


# --- AWS: no names ----------------------------------------------------------------------------------------------------


def test_without_names_a_route_of_the_pair_is_replaced_and_any_other_is_foreign():
    cloud = Cloud()
    for table in cloud.tables.values():
        table.put(
            foreign("10.0.0.0/8", "eni-b", ""),
            foreign("172.16.0.0/12", "eni-x", ""),
            foreign("0.0.0.0/0", "igw", "", "gateway"),
        )
    cloud.boot("gw-a", **AWS)
    cloud.run(30.0)
    told = cloud.now
    cloud.tell("gw-a", Activate(1))
    cloud.run(10.0)
    assert cloud.tables["ref-users"].hops() == {
        "10.0.0.0/8": "eni-a", "172.16.0.0/12": "eni-x", "0.0.0.0/0": "igw", "2001:db8::/32": "eni-a"
    }  # fmt: skip
    first = next(call.operation for at, _, call in cloud.calls if at >= told)
    assert first == Read(), "seen 30 s ago is too long ago to replace by prefix"
    assert [call.operation.replace for call in cloud.writes("gw-a") if isinstance(call.operation, Put)].count(True) == 2
    assert cloud.gateways["gw-a"].view().tables[0].foreign == ("172.16.0.0/12 -> eni-x", "0.0.0.0/0 -> igw")


def test_without_names_a_look_just_before_saves_the_reading():
    cloud = Cloud()
    cloud.boot("gw-a", **AWS)
    cloud.run(30.0)
    cloud.tell("gw-a", Look())
    cloud.run(1.0)
    told = cloud.now
    cloud.tell("gw-a", Activate(1))
    cloud.run(0.5)
    assert isinstance(next(call.operation for at, _, call in cloud.calls if at >= told), Put)
    assert cloud.most_at_once["gw-a users"] == 3, "all at once"


def test_without_names_a_prefix_taken_out_of_the_configuration_is_removed_if_it_leads_to_the_pair():
    cloud = active(**AWS)
    cloud.tables["ref-servers"].put(foreign("10.0.0.0/8", "eni-x", ""))
    fewer = tuple(replace(table, prefixes=table.prefixes[1:]) for table in settings("gw-a").tables)
    cloud.tell("gw-a", Configure(settings("gw-a", **AWS, tables=fewer)))
    cloud.run(100.0)
    assert "10.0.0.0/8" not in cloud.tables["ref-users"].routes
    assert cloud.tables["ref-servers"].hops()["10.0.0.0/8"] == "eni-x"


# --- GatewaySubnet, verification, names -------------------------------------------------------------------------------


SUBNETS = {"gateway_subnet": ip_network("10.0.255.0/27"), "route_server_subnet": ip_network("10.0.254.0/27")}
USED_BY_GATEWAY = (
    "/subscriptions/s/resourceGroups/r/providers/Microsoft.Network/virtualNetworks/v/subnets/GatewaySubnet",
)


def local(prefix: str) -> SeenRoute:
    return SeenRoute(prefix, VNET_LOCAL, "", f"keep-{prefix[:-3]}")


@pytest.mark.parametrize(
    ("routes", "subnets", "refused_for"),
    [
        ((), SUBNETS, "GatewaySubnet (10.0.255.0/27) and RouteServerSubnet (10.0.254.0/27)"),
        ((local("10.0.255.0/27"),), SUBNETS, "RouteServerSubnet (10.0.254.0/27)"),
        ((local("10.0.255.0/27"), local("10.0.254.0/27")), SUBNETS, ""),
        ((local("10.0.254.0/23"),), SUBNETS, ""),
        ((local("10.0.0.0/8"),), SUBNETS, "GatewaySubnet (10.0.255.0/27) and RouteServerSubnet (10.0.254.0/27)"),
        ((local("10.0.255.0/28"), local("10.0.254.0/27")), SUBNETS, "GatewaySubnet (10.0.255.0/27)"),
        ((local("10.0.255.0/27"), local("10.0.254.0/27")), {}, "GatewaySubnet (set fabric.gateway_subnet"),
    ],
)  # fmt: skip
def test_a_table_of_the_gateway_subnet_needs_its_two_routes(routes, subnets, refused_for: str):
    cloud = Cloud()
    cloud.tables["ref-users"].put(*routes)
    cloud.tables["ref-users"].subnets = USED_BY_GATEWAY
    cloud.boot("gw-a", **subnets)
    cloud.run(1.0)
    cloud.tell("gw-a", Activate(1))
    cloud.run(100.0)
    written = {call.table.name for call in cloud.writes("gw-a")}
    assert written == ({"servers"} if refused_for else {"users", "servers"})
    error = cloud.gateways["gw-a"].view().tables[0].last_error
    assert refused_for in error
    assert ("used by GatewaySubnet" in error) == bool(refused_for)


def test_any_other_subnet_needs_nothing():
    table = Table("users", "x", ())
    assert refusal(settings("gw-a"), table, Contents((), (), ("/x/subnets/NotTheGatewaySubnet",))) == ""


def test_effective_routes_are_asked_for_after_the_switch_and_judged():
    tables = (replace(settings("gw-a").tables[0], effective_of="/x/networkInterfaces/vm-nic"),)
    cloud = Cloud()
    cloud.boot("gw-a", tables=tables)
    cloud.run(1.0)
    cloud.effective = (foreign("10.0.0.0/8", "10.0.1.4", ""), foreign("172.16.0.0/12", "10.0.1.5", ""))
    cloud.tell("gw-a", Activate(1))
    cloud.run(1.0)
    assert cloud.said("gw-a", Switched)
    assert not [call for _, _, call in cloud.calls if isinstance(call.operation, Verify)]
    cloud.run(10.0)
    assert cloud.gateways["gw-a"].view().tables[0].verified == (
        "172.16.0.0/12 goes to 10.0.1.5; 2001:db8::/32 goes to nothing of its own"
    )
    cloud.effective = tuple(foreign(prefix, hop_of("gw-a", prefix), "") for prefix in PREFIXES)
    cloud.tell("gw-a", Activate(2))
    cloud.run(10.0)
    assert cloud.gateways["gw-a"].view().tables[0].verified == "every route is in use"


def test_a_verification_that_takes_a_minute_holds_up_no_repair():
    tables = (replace(settings("gw-a").tables[0], effective_of="nic"),)
    cloud = active(tables=tables)
    ours = settings("gw-a", tables=tables)
    table = cloud.tables["ref-users"]
    assert route_name(ours, ip_network("10.0.0.0/8")) in table.routes
    assert mark_key(ours) in table.tags
    slow = Cloud(latency=(0.01, 0.01))
    slow.boot("gw-a", tables=tables)
    slow.tell("gw-a", Activate(1))
    slow.run(5.5)
    assert isinstance(slow.calls[-1][2].operation, Read | Verify)
    slow._due = [
        (at + 60.0, *rest) if isinstance(rest[-1].operation, Verify) else (at, *rest) for at, *rest in slow._due
    ]
    slow.tell("gw-a", Activate(2))
    slow.run(1.0)
    assert slow.tables["ref-users"].tags["gw-one-epoch-gw-a"] == "2"


# --- at random --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aws", [False, True], ids=["names", "prefixes"])
@pytest.mark.parametrize("seed", range(60))
def test_in_any_trouble_foreign_routes_stay_and_the_last_epoch_has_the_tables_in_the_end(seed: int, aws: bool):
    random = Random(seed)
    cloud = Cloud(seed, latency=(0.0, random.choice((0.05, 2.0))))
    theirs = {
        name: foreign(random.choice((PREFIXES[0], "0.0.0.0/0")), "eni-x", "" if aws else "theirs")
        for name in cloud.tables
    }
    for name, route in theirs.items():
        cloud.tables[name].put(route)
    cloud.boot("gw-a", **(AWS if aws else {}))
    cloud.boot("gw-b", **({**AWS, "ours": AWS["theirs"], "theirs": AWS["ours"]} if aws else {}))
    rate = random.choice((0.0, 0.2, 0.6))

    def fault(node: str, call: Call) -> tuple[Failed, bool] | None:
        if random.random() >= rate:
            return None
        why = random.choice(list(Why))
        return Failed(why, "at random", random.choice((0.0, 5.0))), why is Why.AMBIGUOUS and random.random() < 0.5

    cloud.fault = fault
    for epoch in range(1, random.randint(2, 7)):
        last = random.choice(("gw-a", "gw-b"))
        cloud.tell(last, Activate(epoch))
        if random.random() < 0.5:
            cloud.tell("gw-b" if last == "gw-a" else "gw-a", Deactivate())
        cloud.run(random.choice((0.02, 1.0, 30.0, 200.0)))
        if random.random() < 0.3:
            table = random.choice(list(cloud.tables.values()))
            for key in [key for key, route in table.routes.items() if route not in theirs.values()][:2]:
                del table.routes[key]
    cloud.fault = lambda node, call: None
    cloud.run(700.0)
    before = len(cloud.writes("gw-a")) + len(cloud.writes("gw-b"))
    cloud.run(600.0)
    assert len(cloud.writes("gw-a")) + len(cloud.writes("gw-b")) == before, "nobody writes in turns"
    wanted = cloud.gateways[last].settings.ours
    for name, table in cloud.tables.items():
        assert table.routes[theirs[name].key] == theirs[name]
        for prefix in PREFIXES:
            if prefix != theirs[name].prefix:
                assert table.hops()[prefix] == wanted.towards(ip_network(prefix))
    most = 4 if aws else 1
    assert all(count <= most for count in cloud.most_at_once.values())


def test_writes_that_keep_failing_are_tried_seldom_though_each_look_succeeds():
    """What may have been written is looked at first; the look says nothing of the next write."""
    cloud = Cloud()
    cloud.boot("gw-a")
    cloud.run(1.0)
    broken = (Failed(Why.AMBIGUOUS, "ARM answered 500"), False)
    cloud.fault = lambda node, call: broken if isinstance(call.operation, Put) else None
    cloud.tell("gw-a", Activate(1))
    cloud.run(600.0)
    assert len(cloud.writes("gw-a")) < 2 * 25
    assert cloud.gateways["gw-a"].view().tables[0].trouble == "ARM answered 500"
    cloud.fault = lambda node, call: None
    cloud.run(70.0)
    assert all(table.settled and not table.trouble for table in cloud.gateways["gw-a"].view().tables)
