"""Route tables of AWS over real HTTP: boto3 against moto's server in a process of its own, which misbehaves when told to."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

import pytest
from support.clouds import AwsServer, aws, marks_towards
from support.fabric_driver import FabricDriver

from gateway.ha.fabric_table import CONTEST
from gateway.ha.fabric_values import (
    Activate,
    Claim,
    Drifted,
    FabricSettings,
    Failed,
    HigherEpoch,
    Hops,
    Look,
    Ownership,
    Put,
    Read,
    RouteState,
    Switched,
    Table,
    Troubled,
    Why,
)
from gateway.runtime.aws_client import missing
from gateway.runtime.fabric_aws import ROUTE_TABLES, AwsFabric, AwsSettings

pytestmark = pytest.mark.system

TWENTY = tuple(ip_network(f"172.{number}.0.0/16") for number in range(16, 32)) + tuple(
    ip_network(text) for text in ("192.168.0.0/17", "192.168.128.0/17", "198.18.0.0/15", "2001:db8:1::/48")
)


@dataclass(frozen=True)
class Vpc:
    """Three tables with a foreign default route each, and three network interfaces."""

    tables: tuple[str, ...]
    ours: str
    theirs: str
    stranger: str
    gateway: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-nobody-sees")
        patch.setenv("AWS_SESSION_TOKEN", "a-session-token-that-nobody-sees")
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        with aws(tmp_path_factory.mktemp("aws")) as running:
            yield running


@pytest.fixture
def vpc(server: AwsServer) -> Vpc:
    server.misbehave()
    client = server.client
    made = client.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = client.create_subnet(VpcId=made, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    interfaces = [
        client.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"] for _ in range(3)
    ]
    gateway = client.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    client.attach_internet_gateway(VpcId=made, InternetGatewayId=gateway)
    tables = tuple(client.create_route_table(VpcId=made)["RouteTable"]["RouteTableId"] for _ in range(3))
    for table in tables:
        client.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    server.forget()
    return Vpc(tables, *interfaces, gateway)


def settings(vpc: Vpc, node: str = "gw-a", count: int = 3, tables: int = 3, **other: Any) -> FabricSettings:
    hops = [Hops(vpc.ours, vpc.ours), Hops(vpc.theirs, vpc.theirs)]
    ours, theirs = hops if node == "gw-a" else reversed(hops)
    listed = tuple(Table(f"table-{number}", table, TWENTY[:count]) for number, table in enumerate(vpc.tables[:tables]))
    basic = FabricSettings("pair", node, ours, theirs, listed, Ownership.PREFIX, calls_at_once=4)
    return replace(basic, **other)


@asynccontextmanager
async def gateway(server: AwsServer, wanted: FabricSettings, **other: Any) -> AsyncIterator[FabricDriver]:
    adapter = AwsFabric(AwsSettings(wanted.ours.ipv4, "eu-central-1", server.url, **other))
    driver = FabricDriver(wanted, adapter)
    try:
        yield driver
    finally:
        await driver.close()
        await adapter.close()


async def switch(server: AwsServer, wanted: FabricSettings, *faults: dict[str, Any], **other: Any) -> FabricDriver:
    async with gateway(server, wanted, **other) as driver:
        await driver.until_read(20)
        server.forget()
        server.misbehave(*faults)
        driver.tell(Activate(1))
        await driver.until_settled(30)
        return driver


def leads_to(server: AwsServer, vpc: Vpc, interface: str, count: int = 3) -> bool:
    wanted = {str(prefix): interface for prefix in TWENTY[:count]}
    return all(wanted.items() <= server.routes(table).items() for table in vpc.tables)


def foreign_stand(server: AwsServer, vpc: Vpc) -> bool:
    expected = {"0.0.0.0/0": vpc.gateway, "10.0.0.0/16": "local"}
    return all(expected.items() <= server.routes(table).items() for table in vpc.tables)


def done(server: AwsServer, action: str) -> int:
    return sum(entry.get("Action") == action for entry in server.actions())


def test_twenty_prefixes_in_three_tables_are_created_and_then_replaced(
    server: AwsServer, vpc: Vpc, capsys: pytest.CaptureFixture[str]
):
    async def scene() -> tuple[float, float]:
        async with gateway(server, settings(vpc, count=20)) as driver:
            await driver.until_read(20)
            driver.tell(Activate(1))
            await driver.until_settled(30)
        async with gateway(server, settings(vpc, "gw-b", count=20)) as driver:
            await driver.until_read(20)
            server.forget()
            cpu, wall = time.process_time(), time.monotonic()
            driver.tell(Activate(2))
            await driver.until(lambda: len(driver.said(Switched)) == 3, 20, "switched")
            took = time.process_time() - cpu, time.monotonic() - wall
            await driver.until(lambda: "gw-pair-epoch-gw-b" in server.tags(vpc.tables[0]), 20, "its epoch is there")
            return took

    cpu, wall = asyncio.run(scene())
    assert leads_to(server, vpc, vpc.theirs, 20)
    assert foreign_stand(server, vpc)
    assert (done(server, "ReplaceRoute"), done(server, "CreateRoute")) == (60, 0)
    assert server.tags(vpc.tables[0]) == {"gw-pair-epoch-gw-a": "1", "gw-pair-epoch-gw-b": "2"}
    with capsys.disabled():
        print(
            f"\n60 routes in 3 tables: {cpu * 1000:.0f} ms of our CPU time (boto3 included), {wall * 1000:.0f} ms with moto's own"
        )
    assert cpu < 2.0


def test_one_prefix_in_three_tables_moves_quickly(server: AwsServer, vpc: Vpc, capsys: pytest.CaptureFixture[str]):
    asyncio.run(switch(server, settings(vpc, "gw-b", count=1)))

    async def scene() -> tuple[float, float]:
        async with gateway(server, settings(vpc, count=1)) as driver:
            await driver.until_read(20)
            cpu, wall = time.process_time(), time.monotonic()
            driver.tell(Activate(2))
            await driver.until(lambda: len(driver.said(Switched)) == 3, 10, "switched")
            return time.process_time() - cpu, time.monotonic() - wall

    cpu, wall = asyncio.run(scene())
    assert leads_to(server, vpc, vpc.ours, 1)
    with capsys.disabled():
        print(
            f"\none route in each of 3 tables: {cpu * 1000:.0f} ms of our CPU time, {wall * 1000:.0f} ms with moto's own"
        )
    assert cpu < 0.2


def test_a_route_to_anything_but_the_pair_is_foreign_and_stays(server: AwsServer, vpc: Vpc):
    table = vpc.tables[0]
    server.client.create_route(RouteTableId=table, DestinationCidrBlock=str(TWENTY[0]), NetworkInterfaceId=vpc.stranger)
    server.client.create_route(RouteTableId=table, DestinationCidrBlock=str(TWENTY[1]), GatewayId=vpc.gateway)
    driver = asyncio.run(switch(server, settings(vpc)))
    assert server.routes(table)[str(TWENTY[0])] == vpc.stranger
    assert server.routes(table)[str(TWENTY[1])] == vpc.gateway
    assert server.routes(table)[str(TWENTY[2])] == vpc.ours
    view = driver.fabric.view().tables[0]
    assert [route.state for route in view.routes] == [RouteState.FOREIGN, RouteState.FOREIGN, RouteState.OURS]
    assert (
        view.last_error
        == f"{TWENTY[0]} -> {vpc.stranger} is not ours; it is left, and {TWENTY[0]} does not lead to this pair"
    )


def test_a_route_that_somebody_took_since_the_last_look_is_refused_by_aws_and_stays(server: AwsServer, vpc: Vpc):
    fault = {"action": "CreateRoute", "kind": "error", "code": "RouteAlreadyExists", "times": 1}
    driver = asyncio.run(switch(server, settings(vpc, tables=1), fault))
    assert [outcome.why for _, outcome in driver.outcomes if isinstance(outcome, Failed)] == [Why.CONFLICT]
    assert any(isinstance(call.operation, Read) for call, _ in driver.outcomes[1:5]), (
        "it is looked at before anything else"
    )


def test_replace_becomes_create_where_the_route_is_gone(server: AwsServer, vpc: Vpc):
    asyncio.run(switch(server, settings(vpc, "gw-b", tables=1)))

    async def scene() -> None:
        async with gateway(server, settings(vpc, tables=1)) as driver:
            await driver.until_read(20)
            server.client.delete_route(RouteTableId=vpc.tables[0], DestinationCidrBlock=str(TWENTY[0]))
            driver.tell(Activate(2))
            await driver.until_settled()
            assert not [outcome for _, outcome in driver.outcomes if isinstance(outcome, Failed)]

    asyncio.run(scene())
    assert server.routes(vpc.tables[0])[str(TWENTY[0])] == vpc.ours


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ({"kind": "error", "code": "RequestLimitExceeded", "status": 503, "times": 3}, Why.BUSY),
        ({"kind": "error", "code": "Throttling", "times": 3}, Why.BUSY),
        ({"kind": "error", "code": "InternalError", "status": 500, "times": 3}, Why.AMBIGUOUS),
        ({"kind": "error", "code": "ExpiredToken", "times": 1}, Why.EXPIRED),
        ({"kind": "error", "code": "UnauthorizedOperation", "status": 403, "times": 1}, Why.REFUSED),
        ({"kind": "reset", "times": 2}, Why.AMBIGUOUS),
        ({"kind": "reset-after", "times": 2}, Why.AMBIGUOUS),
        ({"kind": "nonsense", "times": 3}, Why.AMBIGUOUS),
        ({"kind": "slow", "seconds": 1.0, "times": 3}, None),
    ],
    ids=lambda value: (
        "-".join(str(value[key]) for key in ("kind", "code") if key in value) if isinstance(value, dict) else ""
    ),
)
def test_each_misbehaviour_is_got_over(server: AwsServer, vpc: Vpc, fault: dict[str, Any], seen: Why | None):
    driver = asyncio.run(switch(server, settings(vpc), {"action": "CreateRoute", **fault}))
    assert leads_to(server, vpc, vpc.ours)
    assert foreign_stand(server, vpc)
    failures = {outcome.why for _, outcome in driver.outcomes if isinstance(outcome, Failed)}
    assert failures == ({seen} if seen else set())
    assert driver.said(Drifted) == []


def test_what_took_effect_before_the_connection_broke_is_not_written_again(server: AwsServer, vpc: Vpc):
    fault = {"action": "CreateRoute", "kind": "reset-after", "times": 1}
    driver = asyncio.run(switch(server, settings(vpc, tables=1, calls_at_once=1), fault))
    assert sum(isinstance(call.operation, Put) for call, _ in driver.outcomes) == 3
    assert done(server, "CreateRoute") == 3


def test_drift_is_repaired_and_counted_and_what_became_foreign_is_not(server: AwsServer, vpc: Vpc):
    async def scene() -> FabricDriver:
        async with gateway(server, settings(vpc, check_interval=0.2)) as driver:
            driver.tell(Activate(1))
            await driver.until_settled(20)
            table = vpc.tables[0]
            server.client.delete_route(RouteTableId=table, DestinationCidrBlock=str(TWENTY[0]))
            server.client.replace_route(
                RouteTableId=table, DestinationCidrBlock=str(TWENTY[1]), NetworkInterfaceId=vpc.stranger
            )
            await driver.until(lambda: bool(driver.said(Drifted)) and bool(driver.said(Troubled)), 10, "seen")
            await driver.until_settled()
            return driver

    driver = asyncio.run(scene())
    found = server.routes(vpc.tables[0])
    assert (found[str(TWENTY[0])], found[str(TWENTY[1])], found[str(TWENTY[2])]) == (vpc.ours, vpc.stranger, vpc.ours)
    assert driver.fabric.view().tables[0].drift == 1


def test_of_two_gateways_the_last_epoch_wins(server: AwsServer, vpc: Vpc):
    async def scene() -> tuple[FabricDriver, FabricDriver]:
        quick: dict[str, Any] = {"check_interval": 0.3}
        async with (
            gateway(server, settings(vpc, **quick)) as one,
            gateway(server, settings(vpc, "gw-b", **quick)) as two,
        ):
            await one.until_read(20)
            await two.until_read(20)
            one.tell(Activate(6))
            two.tell(Activate(7))
            await one.until(lambda: bool(one.said(HigherEpoch)), 15, "the lower epoch sees the higher one")
            # What the lower one had under way came last, perhaps, and is given CONTEST seconds to be explained
            await one.until_nothing_is_written()
            await two.until(
                lambda: leads_to(server, vpc, vpc.theirs), CONTEST + 20, "the routes lead to the higher one"
            )
            await two.until_settled(30)
            before = done(server, "ReplaceRoute")
            await asyncio.sleep(1.0)
            assert done(server, "ReplaceRoute") == before, "nobody writes in turns"
            return one, two

    one, two = asyncio.run(scene())
    assert [event.claim for event in one.said(HigherEpoch)] == [Claim(7, "gw-b")]
    assert two.said(HigherEpoch) == []
    assert leads_to(server, vpc, vpc.theirs)


def test_the_source_destination_check_is_told_and_turned_off_only_when_asked(server: AwsServer, vpc: Vpc):
    async def remarks(**other: Any) -> tuple[str, ...]:
        async with gateway(server, settings(vpc, tables=1), **other) as driver:
            await driver.until_read(20)
            return driver.fabric.view().tables[0].remarks

    def check() -> bool:
        (found,) = server.client.describe_network_interfaces(NetworkInterfaceIds=[vpc.ours])["NetworkInterfaces"]
        return bool(found["SourceDestCheck"])

    (said,) = asyncio.run(remarks())
    assert said.startswith(f"the source/destination check of {vpc.ours} is on")
    assert check()
    assert asyncio.run(remarks(turn_off_check=True)) == ()
    assert not check()


def test_without_boto3_one_sentence_says_what_to_install(server: AwsServer, vpc: Vpc, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)

    async def scene() -> str:
        async with gateway(server, settings(vpc, tables=1)) as driver:
            await driver.until(lambda: driver.fabric.view().tables[0].last_error != "", 5, "an error")
            return driver.fabric.view().tables[0].last_error

    assert asyncio.run(scene()) == f"read the table: {missing(ROUTE_TABLES)}"


def test_no_secret_in_logs_errors_or_the_picture_and_a_table_that_is_not_there_is_named(
    server: AwsServer, vpc: Vpc, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    wanted = settings(vpc, tables=1)
    wanted = replace(wanted, tables=(replace(wanted.tables[0], reference="rtb-00000000"),))

    async def scene() -> FabricDriver:
        async with gateway(server, wanted) as driver:
            driver.tell(Look())
            await driver.until(lambda: driver.fabric.view().tables[0].failures > 0, 15, "an error")
            return driver

    driver = asyncio.run(scene())
    assert "InvalidRouteTableID.NotFound" in driver.fabric.view().tables[0].last_error
    told = [record.getMessage() for record in caplog.records]
    told += [repr(driver.events), repr(driver.outcomes), repr(driver.fabric.view())]
    assert not [text for text in told if "nobody-sees" in text]


def test_what_boto3_sends_is_marked_and_asks_no_proxy(server: AwsServer, vpc: Vpc, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "")

    server.misbehave({"action": "DescribeRouteTables", "kind": "slow", "seconds": 1.0, "times": 1})

    async def scene() -> set[int]:
        found: set[int] = set()
        async with gateway(server, settings(vpc, tables=1), mark=0x67770001) as driver:
            reading = asyncio.create_task(driver.until_read(20))
            while not reading.done():
                # The server closes each connection after its answer.
                found |= set(marks_towards(server.url))
                await asyncio.sleep(0.02)
            await reading
        return found

    assert asyncio.run(scene()) == {0x67770001}
