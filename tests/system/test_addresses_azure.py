"""Shared addresses that move in Azure, over real HTTP: a server that plays ARM's network interfaces in a process of its own, and
misbehaves when told to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.clouds import AzureServer, azure, nic, nic_id, public_id
from support.fabric_driver import AddressDriver

from gateway.ha.address_interface import DRY_RUN
from gateway.ha.address_values import AddressSettings, Assign, Free, Hindered, Interface, Moved, Strayed
from gateway.ha.fabric_values import Failed, Read, Why
from gateway.runtime.addresses_azure import TAG, AzureAddresses
from gateway.runtime.arm import AzureSettings
from gateway.runtime.cloud_http import CloudHttp

pytestmark = pytest.mark.system

SHARED, SECOND = "10.0.1.10", "10.0.1.11"
NICS = {"gw-a": nic("10.0.1.4"), "gw-b": nic("10.0.1.5", SHARED, public="edge")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with azure(tmp_path_factory.mktemp("azure")) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(server: AzureServer) -> None:
    """The address is at gw-b, with a public one."""
    server.misbehave()
    server.admin("settings", {"latency": 0.0, "token_life": 3600})
    server.nics(**NICS)
    server.admin("forget-log", {})


def settings(node: str = "gw-a", addresses: tuple[str, ...] = (SHARED,), **other: Any) -> AddressSettings:
    peer = "gw-b" if node == "gw-a" else "gw-a"
    interface = Interface("wan", nic_id(node), nic_id(peer), addresses, frozenset(addresses))
    return AddressSettings((interface,), **other)


@asynccontextmanager
async def gateway(server: AzureServer, wanted: AddressSettings, **calls: Any) -> AsyncIterator[AddressDriver]:
    http = CloudHttp()
    adapter = AzureAddresses(AzureSettings(management_url=server.url, imds_url=server.url, **calls), http)
    driver = AddressDriver(wanted, adapter)
    try:
        yield driver
    finally:
        await driver.close()
        await adapter.close()
        await http.close()


async def take(server: AzureServer, *faults: dict[str, Any], seconds: float = 15.0, **other: Any) -> AddressDriver:
    """One gateway becomes active while the server misbehaves; what is left of the driver is its memory."""
    calls = other.pop("calls", {})
    async with gateway(server, settings(**other), **calls) as driver:
        await driver.until_read()
        server.admin("forget-log", {})
        server.misbehave(*faults)
        driver.activate(1)
        await driver.until_settled(seconds)
        return driver


def test_the_address_and_its_public_one_move_and_the_rest_of_both_interfaces_stays(server: AzureServer):
    driver = asyncio.run(take(server))
    assert server.addresses("gw-a") == {"10.0.1.4": "", SHARED: "edge"}
    assert server.addresses("gw-b") == {"10.0.1.5": ""}
    for name in NICS:
        found = server.nic(name)
        assert found["properties"]["enableIPForwarding"] is True
        assert found["tags"]["owner"] == "network"
        assert found["location"] == "westeurope"
    assert [type(call.operation) for call, _ in driver.outcomes] == [Read, Free, Assign]
    assert [moved.addresses for moved in driver.said(Moved)] == [(SHARED,)]
    writes = server.writes()
    assert [entry["path"].partition("?")[0].rpartition("/")[2] for entry in writes] == ["gw-b", "gw-a"]


def test_it_moves_back_and_forth_and_no_tag_is_left_that_is_not_needed(server: AzureServer):
    asyncio.run(take(server))
    asyncio.run(take(server, node="gw-b"))
    assert server.addresses("gw-b") == {"10.0.1.5": "", SHARED: "edge"}
    assert server.addresses("gw-a") == {"10.0.1.4": ""}
    assert server.nic("gw-b")["tags"] == {"owner": "network"}
    assert server.nic("gw-a")["tags"] == {"owner": "network", f"{TAG}{SHARED}": public_id("edge")}


def test_operations_of_seconds_are_waited_for_and_written_one_after_the_other(server: AzureServer):
    server.admin("settings", {"latency": 0.8})
    driver = asyncio.run(take(server))
    (moved,) = driver.said(Moved)
    assert moved.seconds >= 1.6, "off there, then here"
    assert moved.seconds < 4.0
    assert [outcome for _, outcome in driver.outcomes if isinstance(outcome, Failed)] == []


@pytest.mark.parametrize(
    ("fault", "seen", "at_least"),
    [
        ({"kind": "status", "status": 409, "code": "AnotherOperationInProgress", "retry_after": "1", "times": 2}, Why.BUSY, 1.0),
        ({"kind": "status", "status": 429, "code": "TooManyRequests", "retry_after": "2", "times": 1}, Why.BUSY, 2.0),
        ({"kind": "status", "status": 429, "code": "RetryableError", "times": 3}, Why.BUSY, 0.1),
        ({"kind": "status", "status": 412, "code": "PreconditionFailed", "times": 1}, Why.CONFLICT, 0.0),
        ({"kind": "status", "status": 500, "code": "InternalServerError", "times": 2}, Why.AMBIGUOUS, 0.0),
        ({"kind": "status", "status": 401, "code": "ExpiredAuthenticationToken", "times": 2}, Why.EXPIRED, 0.0),
        ({"kind": "expire"}, Why.EXPIRED, 0.0),
        ({"kind": "operation-fails", "code": "InternalServerError", "times": 2}, Why.BUSY, 0.1),
        ({"kind": "operation-fails", "code": "PrivateIPAddressIsAllocated", "times": 1}, Why.CONFLICT, 0.0),
        ({"kind": "operation-fails", "code": "NetworkInterfaceFailed", "times": 1}, Why.REFUSED, 4.0),
        ({"kind": "reset", "times": 3}, Why.AMBIGUOUS, 0.0),
        ({"kind": "reset-after", "times": 3}, Why.AMBIGUOUS, 0.0),
        ({"kind": "slow", "seconds": 3.0, "times": 2}, Why.AMBIGUOUS, 1.5),
        ({"kind": "status", "status": 403, "code": "AuthorizationFailed"}, Why.REFUSED, 4.0),
    ],
    ids=lambda value: "-".join(str(value[key]) for key in ("kind", "status", "code") if key in value) if isinstance(value, dict) else "",
)  # fmt: skip
@pytest.mark.parametrize("where", ["gw-a", "gw-b"])
def test_each_misbehaviour_is_got_over(
    server: AzureServer, where: str, fault: dict[str, Any], seen: Why, at_least: float
):
    began = time.monotonic()
    each = {"method": "PUT", "match": f"networkInterfaces/{where}", **fault}
    driver = asyncio.run(take(server, each, calls={"request_seconds": 1.5}))
    assert server.addresses("gw-a") == {"10.0.1.4": "", SHARED: "edge"}
    assert server.addresses("gw-b") == {"10.0.1.5": ""}
    assert {outcome.why for _, outcome in driver.outcomes if isinstance(outcome, Failed)} == {seen}
    assert time.monotonic() - began >= at_least
    assert len(driver.said(Moved)) == 1
    assert driver.drift == 0


def test_a_cloud_that_refuses_is_told_in_one_sentence_and_the_address_does_not_count_as_here(server: AzureServer):
    fault = {"kind": "status", "status": 403, "code": "AuthorizationFailed", "method": "PUT", "times": 99}

    async def scene() -> AddressDriver:
        async with gateway(server, settings()) as driver:
            await driver.until_read()
            server.misbehave(fault)
            driver.activate(1)
            await driver.until(lambda: bool(driver.said(Hindered)), 5, "trouble")
            return driver

    driver = asyncio.run(scene())
    assert driver.trouble == (
        f"{SHARED}: ARM answered 403 AuthorizationFailed: on purpose; give the identity Microsoft.Network/networkInterfaces/read "
        "and /write on both gateways' interfaces, and the join actions of their subnets, public addresses and security groups"
    )
    assert driver.places == {SHARED: "peer"}
    assert server.addresses("gw-b")[SHARED] == "edge"
    assert driver.said(Moved) == []


def test_of_two_addresses_the_one_that_is_refused_does_not_keep_the_other(server: AzureServer):
    wrong = "10.0.9.9"

    async def scene() -> AddressDriver:
        async with gateway(server, settings(addresses=(wrong, SHARED, SECOND))) as driver:
            await driver.until_read()
            driver.activate(1)
            await driver.until(
                lambda: driver.places == {wrong: "absent", SHARED: "ours", SECOND: "ours"}, 10, "two of three"
            )
            return driver

    driver = asyncio.run(scene())
    assert driver.trouble.startswith(f"{wrong}: ARM answered 400 PrivateIPAddressNotInSubnet")
    assert driver.trouble.endswith("; share an address of the subnet that `id` in [ha.fabric.interface.NAME] is in")
    assert server.addresses("gw-a") == {"10.0.1.4": "", SHARED: "edge", SECOND: ""}


def test_who_ends_between_the_two_writes_loses_no_public_address(server: AzureServer):
    async def half() -> None:
        async with gateway(server, settings()) as driver:
            await driver.until_read()
            server.misbehave({"kind": "status", "status": 500, "method": "PUT", "match": "gw-a", "times": 99})
            driver.activate(1)
            await driver.until(lambda: driver.places == {SHARED: "absent"}, 5, "off there")

    asyncio.run(half())
    assert SHARED not in {**server.addresses("gw-a"), **server.addresses("gw-b")}
    server.misbehave()
    asyncio.run(take(server))
    assert server.addresses("gw-a")[SHARED] == "edge"


def test_what_somebody_moved_away_is_brought_back_and_counted_but_not_by_a_standby(server: AzureServer):
    async def scene() -> tuple[AddressDriver, int]:
        async with gateway(server, settings(check_interval=0.2)) as driver:
            await driver.until_read()
            driver.activate(1)
            await driver.until_settled()
            server.nics(**NICS)
            await driver.until(lambda: bool(driver.said(Strayed)), 5, "seen")
            await driver.until_settled()
            assert server.addresses("gw-a")[SHARED] == "edge"
            driver.deactivate()
            server.nics(**NICS)
            await driver.until(lambda: driver.places == {SHARED: "peer"}, 5, "seen by the standby")
            before = len(server.writes())
            await asyncio.sleep(0.7)
            return driver, len(server.writes()) - before

    driver, written = asyncio.run(scene())
    assert written == 0
    assert driver.drift == 1
    assert [event.sentence for event in driver.said(Strayed)] == [
        f"{SHARED} is at the other gateway's interface (gw-b)"
    ]


def test_between_the_two_writes_the_lease_is_looked_at_again(server: AzureServer):
    server.admin("settings", {"latency": 0.5})

    async def scene() -> AddressDriver:
        async with gateway(server, settings(check_interval=0.3)) as driver:
            await driver.until_read()
            driver.activate(1, lease=0.3)
            await driver.until(lambda: driver.places == {SHARED: "absent"}, 5, "off there")
            await asyncio.sleep(1.0)
            return driver

    driver = asyncio.run(scene())
    assert Assign((SHARED,)) not in [call.operation for call, _ in driver.outcomes]
    assert SHARED not in server.addresses("gw-a")


def test_a_dry_run_writes_nothing_and_does_not_claim_the_address(server: AzureServer):
    async def scene() -> AddressDriver:
        async with gateway(server, settings(dry_run=True)) as driver:
            await driver.until_read()
            driver.activate(1)
            await driver.until(lambda: driver.trouble != "", 5, "told")
            return driver

    driver = asyncio.run(scene())
    assert driver.trouble == DRY_RUN
    (view,) = driver.core.view().interfaces
    assert view.planned == (f"take {SHARED} off gw-b", f"assign {SHARED} to gw-a")
    assert not view.settled
    assert server.writes() == []


def test_an_interface_whose_first_address_is_missing_in_an_answer_is_not_written(server: AzureServer):
    """As ARM answers now and then while an interface is being written."""
    empty = nic("10.0.1.4")
    empty["properties"]["ipConfigurations"] = []

    async def scene() -> AddressDriver:
        async with gateway(server, settings()) as driver:
            await driver.until_read()
            server.nics(**{**NICS, "gw-a": empty, "gw-b": nic("10.0.1.5")})
            driver.activate(1)
            await driver.until(lambda: any(isinstance(outcome, Failed) for _, outcome in driver.outcomes), 5, "refused")
            assert server.addresses("gw-a") == {}
            return driver

    driver = asyncio.run(scene())
    (failed, *_) = [outcome for _, outcome in driver.outcomes if isinstance(outcome, Failed)]
    assert (failed.why, failed.sentence) == (Why.BUSY, "ARM's answer has no first address of gw-a; it is asked again")


def test_what_is_wrong_with_the_interfaces_themselves_is_said_before_a_failover(server: AzureServer):
    async def seen(**nics: dict[str, Any]) -> AddressDriver:
        server.nics(**nics)
        async with gateway(server, settings()) as driver:
            await driver.until_read()
            return driver

    def remarks(driver: AddressDriver) -> tuple[str, ...]:
        return driver.core.view().interfaces[0].remarks

    assert remarks(asyncio.run(seen(**{"gw-a": NICS["gw-a"]}))) == (
        "ARM knows no network interface gw-b; is `peer_id` in [ha.fabric.interface.wan] right?",
    )
    assert remarks(asyncio.run(seen(**{"gw-a": NICS["gw-a"], "gw-b": nic("10.0.2.5", subnet="other")}))) == (
        "the two interfaces are in gateways and other, and Azure has an address in one subnet only: put both gateways in one",
    )
    fixed = asyncio.run(seen(**{"gw-a": NICS["gw-a"], "gw-b": nic(SHARED)}))
    assert fixed.places == {SHARED: "fixed"}
    assert fixed.trouble == (
        f"{SHARED} is an interface's own first address (gw-b); which the cloud moves to nobody: share another address of the "
        "subnet in [ha] shared_addresses"
    )


def test_an_address_that_a_third_interface_has_stays_there_and_arms_words_say_whose_it_is(server: AzureServer):
    server.nics(**{"gw-a": nic("10.0.1.4"), "gw-b": nic("10.0.1.5"), "third": nic("10.0.1.6", SHARED)})

    async def scene() -> AddressDriver:
        async with gateway(server, settings()) as driver:
            await driver.until_read()
            driver.activate(1)
            await driver.until(lambda: driver.trouble != "", 10, "told")
            return driver

    driver = asyncio.run(scene())
    assert "PrivateIPAddressIsAllocated" in driver.trouble
    assert f"is already allocated to resource {nic_id('third').lower()}" in driver.trouble
    assert server.addresses("third") == {"10.0.1.6": "", SHARED: ""}


def test_ipv6_is_the_same_address_however_it_is_written(server: AzureServer):
    theirs = nic("10.0.1.5")
    theirs["properties"]["ipConfigurations"].append({
        "name": "v6",
        "properties": {
            "privateIPAddress": "2001:DB8:1:0::10", "privateIPAddressVersion": "IPv6", "primary": False,
            "subnet": {"id": nic("x")["properties"]["ipConfigurations"][0]["properties"]["subnet"]["id"].replace("gateways", "gateways6")},
        },
    })  # fmt: skip
    server.nics(**{"gw-a": nic("10.0.1.4"), "gw-b": theirs})

    async def scene() -> dict[str, str]:
        async with gateway(server, settings(addresses=("2001:db8:1::10",))) as driver:
            await driver.until_read()
            return driver.places

    assert asyncio.run(scene()) == {"2001:db8:1::10": "peer"}


def test_no_secret_in_logs_errors_or_the_picture(server: AzureServer, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    fault = {"kind": "status", "status": 403, "method": "PUT", "times": 1}
    driver = asyncio.run(take(server, fault))
    told = [record.getMessage() for record in caplog.records]
    told += [repr(driver.events), repr(driver.outcomes), repr(driver.core.view())]
    assert server.tokens()
    assert not [text for text in told for token in server.tokens() if token in text]
