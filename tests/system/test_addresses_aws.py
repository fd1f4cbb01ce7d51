"""Shared addresses that move in AWS, over real HTTP: boto3 against moto's server in a process of its own, which misbehaves when told to.

moto takes no notice of AllowReassignment and leaves the address at both interfaces; `clouds/aws_addresses.py` plays what AWS does.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from support.clouds import AwsServer, aws, marks_towards
from support.fabric_driver import AddressDriver

from gateway.ha.address_values import AddressSettings, Assign, Free, Hindered, Interface, Moved, Strayed
from gateway.ha.fabric_values import Failed, Read, Why
from gateway.runtime.addresses_aws import SHARED_ADDRESSES, AwsAddresses, AwsAddressSettings
from gateway.runtime.aws_client import missing

pytestmark = pytest.mark.system

SHARED, SECOND, SHARED6 = "10.0.1.10", "10.0.1.11", "2001:db8:1::10"


@dataclass(frozen=True)
class Pair:
    """Network interfaces in one subnet, and their first addresses; `elsewhere` is in another."""

    subnet: str
    ours: str
    theirs: str
    stranger: str
    elsewhere: str


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
def pair(server: AwsServer) -> Pair:
    """SHARED is at the other gateway."""
    server.misbehave()
    client = server.client
    made = client.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [client.create_subnet(VpcId=made, CidrBlock=f"10.0.{n}.0/24")["Subnet"]["SubnetId"] for n in (1, 2)]
    where = [(subnets[0], f"10.0.1.{n}") for n in (4, 5, 6)] + [(subnets[1], "10.0.2.5")]
    interfaces = [
        client.create_network_interface(SubnetId=subnet, PrivateIpAddress=first)["NetworkInterface"][
            "NetworkInterfaceId"
        ]
        for subnet, first in where
    ]
    client.assign_private_ip_addresses(NetworkInterfaceId=interfaces[1], PrivateIpAddresses=[SHARED])
    server.forget()
    return Pair(subnets[0], *interfaces)


def settings(pair: Pair, addresses: tuple[str, ...] = (SHARED,), **other: Any) -> AddressSettings:
    freed = frozenset(one for one in addresses if ":" in one)
    return AddressSettings((Interface("wan", pair.ours, pair.theirs, addresses, freed),), **other)


@asynccontextmanager
async def gateway(server: AwsServer, wanted: AddressSettings, mark: int | None = None) -> AsyncIterator[AddressDriver]:
    adapter = AwsAddresses(AwsAddressSettings("eu-central-1", server.url, mark))
    driver = AddressDriver(wanted, adapter)
    try:
        yield driver
    finally:
        await driver.close()
        await adapter.close()


async def take(server: AwsServer, wanted: AddressSettings, *faults: dict[str, Any]) -> AddressDriver:
    async with gateway(server, wanted) as driver:
        await driver.until_read(20)
        server.forget()
        server.misbehave(*faults)
        driver.activate(1)
        await driver.until_settled(30)
        return driver


async def read(server: AwsServer, wanted: AddressSettings) -> AddressDriver:
    async with gateway(server, wanted) as driver:
        await driver.until_read(20)
        return driver


def test_one_call_takes_the_addresses_from_the_other_and_leaves_the_rest(
    server: AwsServer, pair: Pair, capsys: pytest.CaptureFixture[str]
):
    driver = asyncio.run(take(server, settings(pair, (SHARED, SECOND))))
    assert server.addresses(pair.ours) == ["10.0.1.4", SHARED, SECOND]
    assert server.addresses(pair.theirs) == ["10.0.1.5"]
    assert [call.operation for call, _ in driver.outcomes] == [Read(), Assign((SHARED, SECOND))]
    (asked,) = [one for one in server.actions() if one["Action"] == "AssignPrivateIpAddresses"]
    assert asked["AllowReassignment"] == "true"
    (moved,) = driver.said(Moved)
    with capsys.disabled():
        print(f"\n2 addresses: {moved.seconds * 1000:.0f} ms with moto's own")


def test_reassignment_that_is_not_asked_for_is_refused_by_the_server_of_the_tests(server: AwsServer, pair: Pair):
    """Else the test above would show nothing."""
    with pytest.raises(server.client.exceptions.ClientError, match="is assigned to"):
        server.client.assign_private_ip_addresses(NetworkInterfaceId=pair.ours, PrivateIpAddresses=[SHARED])


def test_ipv6_is_taken_off_the_other_first(server: AwsServer, pair: Pair):
    server.client.assign_ipv6_addresses(NetworkInterfaceId=pair.theirs, Ipv6Addresses=[SHARED6])
    driver = asyncio.run(take(server, settings(pair, (SHARED, SHARED6))))
    assert server.addresses(pair.ours) == ["10.0.1.4", SHARED, SHARED6]
    assert server.addresses(pair.theirs) == ["10.0.1.5"]
    operations = [call.operation for call, _ in driver.outcomes]
    assert operations == [Read(), Free((SHARED6,)), Assign((SHARED, SHARED6))]


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ({"kind": "error", "code": "RequestLimitExceeded", "status": 503, "times": 3}, Why.BUSY),
        ({"kind": "error", "code": "Throttling", "times": 3}, Why.BUSY),
        ({"kind": "error", "code": "InternalError", "status": 500, "times": 2}, Why.AMBIGUOUS),
        ({"kind": "error", "code": "ExpiredToken", "times": 1}, Why.EXPIRED),
        ({"kind": "error", "code": "UnauthorizedOperation", "status": 403, "times": 1}, Why.REFUSED),
        ({"kind": "reset", "times": 2}, Why.AMBIGUOUS),
        ({"kind": "reset-after", "times": 1}, Why.AMBIGUOUS),
        ({"kind": "nonsense", "times": 2}, Why.AMBIGUOUS),
        ({"kind": "slow", "seconds": 1.0, "times": 1}, None),
    ],
    ids=lambda value: (
        "-".join(str(value[key]) for key in ("kind", "code") if key in value) if isinstance(value, dict) else ""
    ),
)
def test_each_misbehaviour_is_got_over(server: AwsServer, pair: Pair, fault: dict[str, Any], seen: Why | None):
    driver = asyncio.run(take(server, settings(pair), {"action": "AssignPrivateIpAddresses", **fault}))
    assert server.addresses(pair.ours) == ["10.0.1.4", SHARED]
    assert server.addresses(pair.theirs) == ["10.0.1.5"]
    failures = {outcome.why for _, outcome in driver.outcomes if isinstance(outcome, Failed)}
    assert failures == ({seen} if seen else set())
    assert driver.drift == 0


def test_what_took_effect_before_the_connection_broke_is_seen_and_not_repeated(server: AwsServer, pair: Pair):
    fault = {"action": "AssignPrivateIpAddresses", "kind": "reset-after", "times": 1}
    driver = asyncio.run(take(server, settings(pair), fault))
    assert [type(call.operation) for call, _ in driver.outcomes] == [Read, Assign, Read]


def test_a_role_without_the_right_is_told_which_and_the_address_does_not_count_as_here(server: AwsServer, pair: Pair):
    async def scene() -> AddressDriver:
        async with gateway(server, settings(pair)) as driver:
            await driver.until_read(20)
            fault = {
                "action": "AssignPrivateIpAddresses",
                "kind": "error",
                "code": "UnauthorizedOperation",
                "status": 403,
            }
            server.misbehave({**fault, "times": 99})
            driver.activate(1)
            await driver.until(lambda: bool(driver.said(Hindered)), 10, "told")
            return driver

    driver = asyncio.run(scene())
    assert driver.trouble.startswith(f"{SHARED}: AWS answered An error occurred (UnauthorizedOperation)")
    assert "; give the instance's role ec2:DescribeNetworkInterfaces and ec2:AssignPrivateIpAddresses" in driver.trouble
    assert driver.places == {SHARED: "peer"}
    assert driver.said(Moved) == []


def test_what_a_third_interface_or_a_first_address_has_is_left_and_told(server: AwsServer, pair: Pair):
    """AWS would hand it over: whoever named a wrong address would take it from a machine that has nothing to do with the pair."""
    server.client.assign_private_ip_addresses(NetworkInterfaceId=pair.stranger, PrivateIpAddresses=[SECOND])

    async def scene() -> AddressDriver:
        async with gateway(server, settings(pair, (SECOND, "10.0.1.5", SHARED))) as driver:
            await driver.until_read(20)
            driver.activate(1)
            await driver.until(lambda: driver.places[SHARED] == "ours", 10, "the other one is moved")
            return driver

    driver = asyncio.run(scene())
    assert driver.places == {SECOND: "foreign", "10.0.1.5": "fixed", SHARED: "ours"}
    assert driver.trouble == (
        f"{SECOND} is at an interface of neither gateway ({pair.stranger}); it is left there: take it off that interface, or "
        "share another address in [ha] shared_addresses"
    )
    assert server.addresses(pair.stranger) == ["10.0.1.6", SECOND]


def test_drift_is_repaired_and_counted_by_the_active_one_only(server: AwsServer, pair: Pair):
    def move_away() -> None:
        server.client.assign_private_ip_addresses(
            NetworkInterfaceId=pair.theirs, PrivateIpAddresses=[SHARED], AllowReassignment=True
        )

    async def scene() -> AddressDriver:
        async with gateway(server, settings(pair, check_interval=0.2)) as driver:
            await driver.until_read(20)
            driver.activate(1)
            await driver.until_settled(20)
            move_away()
            await driver.until(lambda: bool(driver.said(Strayed)), 10, "seen")
            await driver.until_settled(20)
            driver.deactivate()
            move_away()
            server.forget()
            await driver.until(lambda: driver.places == {SHARED: "peer"}, 5, "seen by the standby")
            await asyncio.sleep(0.7)
            return driver

    driver = asyncio.run(scene())
    assert driver.drift == 1
    assert not [one for one in server.actions() if one["Action"] == "AssignPrivateIpAddresses"]
    assert server.addresses(pair.theirs) == ["10.0.1.5", SHARED]


def test_interfaces_in_different_subnets_or_that_are_not_there_are_told_before_a_failover(
    server: AwsServer, pair: Pair
):
    apart = asyncio.run(read(server, settings(replace(pair, theirs=pair.elsewhere))))
    (remark,) = apart.core.view().interfaces[0].remarks
    assert remark.startswith(f"the two interfaces are in {pair.subnet} and subnet-")
    assert remark.endswith(", and AWS moves no address between subnets: put both gateways in one")
    gone = asyncio.run(read(server, settings(replace(pair, theirs="eni-00000000000000000"))))
    (remark,) = gone.core.view().interfaces[0].remarks
    assert (
        remark
        == "AWS knows no network interface eni-00000000000000000; is `peer_id` in [ha.fabric.interface.wan] right?"
    )

    async def ours_is_wrong() -> str:
        async with gateway(server, settings(replace(pair, ours="eni-00000000000000000"))) as driver:
            await driver.until(lambda: driver.trouble != "", 10, "told")
            return driver.trouble

    assert asyncio.run(ours_is_wrong()) == (
        "AWS knows no network interface eni-00000000000000000; correct `id` in [ha.fabric.interface.wan]"
    )


def test_without_boto3_one_sentence_says_what_to_install(
    server: AwsServer, pair: Pair, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)

    async def scene() -> str:
        async with gateway(server, settings(pair)) as driver:
            await driver.until(lambda: driver.trouble != "", 10, "told")
            return driver.trouble

    assert asyncio.run(scene()) == missing(SHARED_ADDRESSES)


def test_no_secret_in_logs_errors_or_the_picture(server: AwsServer, pair: Pair, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    fault = {"action": "AssignPrivateIpAddresses", "kind": "error", "code": "AuthFailure", "times": 1}
    driver = asyncio.run(take(server, settings(pair), fault))
    told = [record.getMessage() for record in caplog.records]
    told += [repr(driver.events), repr(driver.outcomes), repr(driver.core.view())]
    assert not [text for text in told if "nobody-sees" in text]


def test_what_is_sent_is_marked(server: AwsServer, pair: Pair):
    server.misbehave({"action": "DescribeNetworkInterfaces", "kind": "slow", "seconds": 1.0, "times": 1})

    async def scene() -> set[int]:
        found: set[int] = set()
        async with gateway(server, settings(pair), mark=0x67770001) as driver:
            reading = asyncio.create_task(driver.until_read(20))
            while not reading.done():
                found |= set(marks_towards(server.url))
                await asyncio.sleep(0.02)
            await reading
        return found

    assert asyncio.run(scene()) == {0x67770001}
