"""The lease in an etcd of three members, each a process of its own: what holds while members die, stand still, or ask who we are."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from support.etcd import Etcd, authority, etcd
from support.lease_driver import LeaseDriver, OneHolder
from support.netns import Lab
from support.process import wait_until
from support.two_gateways import WITNESS, TwoGateways

from gateway.ha.recorded_lease import Conflict, Load, Loaded, Record, Save, Saved
from gateway.ha.sealed import BOOT_OCTETS
from gateway.ha.witness import Acquire, Failed, LeaseGranted, LeaseLost, Release
from gateway.runtime.cloud_http import CloudHttp
from gateway.runtime.randomness import SystemRandom
from gateway.runtime.witness_cloud import Asker, cloud_witness
from gateway.runtime.witness_etcd import EtcdSettings, EtcdStore

pytestmark = pytest.mark.system
TTL = 2.4
NUMBERS = count(1)
BEFORE = Record(7, "gw-x", "00" * 16, TTL, False, "11" * 16)
"""What is there when a test begins: released, so that nobody waits."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture
def members(servers: Etcd) -> Iterator[Etcd]:
    """Whatever a test did to them, they are well before the next one."""
    yield servers
    for at, process in enumerate(servers.processes):
        servers.signal(at, signal.SIGCONT)
        if process is None or not process.running:
            servers.start_member(at)
    servers.wait_answering(range(3))


def settings_of(members: Etcd, key: str = "") -> EtcdSettings:
    files = (str(members.directory / name) for name in ("ca.pem", "client.pem", "client.key"))
    return EtcdSettings(members.endpoints, key or f"/pairs/{next(NUMBERS)}", *files, request_seconds=TTL / 4)


@asynccontextmanager
async def store(settings: EtcdSettings) -> AsyncIterator[EtcdStore]:
    made = EtcdStore(settings)
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def process(settings: EtcdSettings, name: str) -> AsyncIterator[LeaseDriver]:
    http = CloudHttp()
    witness = cloud_witness(Asker(name, os.urandom(BOOT_OCTETS), TTL), settings, http, SystemRandom())
    driver = LeaseDriver(name, witness, TTL)
    try:
        yield driver
    finally:
        await driver.close()
        await witness.close()
        await http.close()


@asynccontextmanager
async def pair(members: Etcd) -> AsyncIterator[tuple[LeaseDriver, LeaseDriver, OneHolder]]:
    settings = settings_of(members)
    async with store(settings) as before:
        assert isinstance(await before.do(Save(BEFORE.emit(), "")), Saved)
    async with process(settings, "gw-a") as a, process(settings, "gw-b") as b:
        yield a, b, OneHolder(a, b)


async def a_holds(a: LeaseDriver, look: OneHolder) -> None:
    a.command(Acquire(1))
    await look.until(lambda: a.holds, 10, "a has it")


# --- what a store must be able to do ------------------------------------------------------------------------------------


def test_of_many_who_save_upon_the_same_tag_one_does(members: Etcd) -> None:
    async def scene() -> None:
        async with store(settings_of(members)) as one:
            assert await one.do(Load()) == Loaded(None, "")
            tag = ""
            for epoch in (1, 2):
                wanted = [replace(BEFORE, epoch=epoch, write=f"{number:032x}").emit() for number in range(10)]
                tried = await asyncio.gather(*(one.do(Save(content, tag)) for content in wanted))
                ((content, tag),) = [
                    (content, reply.tag)
                    for content, reply in zip(wanted, tried, strict=True)
                    if isinstance(reply, Saved)
                ]
                assert tried.count(Conflict()) == 9
                assert await one.do(Load()) == Loaded(content, tag)

    asyncio.run(scene())


def test_a_save_upon_what_was_deleted_changes_nothing(members: Etcd) -> None:
    async def scene() -> None:
        async with store(settings_of(members)) as one:
            assert await one.do(Save(BEFORE.emit(), b64encode(b"what was there").decode())) == Conflict()
            assert await one.do(Load()) == Loaded(None, "")

    asyncio.run(scene())


def test_what_is_no_record_of_ours_is_left_as_it_is(members: Etcd) -> None:
    async def scene() -> None:
        settings = settings_of(members)
        key = b64encode(settings.key.encode()).decode()
        for value in ("", b64encode(b"somebody else's").decode()):
            members.ask(0, "kv/put", {"key": key, "value": value})
            async with process(settings, "gw-a") as a:
                a.command(Acquire(1))
                await OneHolder(a).until(lambda a=a: a.lease.problem != "", 5, "it says why")
                assert "no value" in a.lease.problem or "left as it is" in a.lease.problem
            assert members.ask(0, "kv/range", {"key": key})["kvs"][0].get("value", "") == value

    asyncio.run(scene())


# --- the lease ------------------------------------------------------------------------------------------------------------


def test_it_is_renewed_and_goes_over_when_it_is_released_and_when_its_holder_dies(members: Etcd) -> None:
    async def scene() -> None:
        async with pair(members) as (a, b, look):
            await a_holds(a, look)
            b.command(Acquire(1))
            await look.look(2 * TTL)
            assert a.holds and b.said(LeaseGranted) == []
            a.command(Release())
            await look.until(lambda: b.holds, 2 * TTL, "the other has it")
            a.command(Acquire(1))
            await look.look(0.3)
            b.stop()
            await look.until(lambda: a.holds, 3 * TTL, "it is over, and a has it")
            assert (a.said(LeaseGranted), b.said(LeaseGranted)) == (
                [LeaseGranted(8), LeaseGranted(10)],
                [LeaseGranted(9)],
            )

    asyncio.run(scene())


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_one_member_less_costs_nobody_the_lease(members: Etcd, how: str) -> None:
    async def scene() -> None:
        async with pair(members) as (a, b, look):
            await a_holds(a, look)
            b.command(Acquire(1))
            # The one that both ask first; it leads or it does not
            if how == "killed":
                members.kill(0)
            else:
                members.signal(0, signal.SIGSTOP)
            await look.look(3 * TTL)
            assert a.holds and a.said(LeaseLost) == [], a.answers

    asyncio.run(scene())


@pytest.mark.slow
def test_a_new_leader_costs_nobody_the_lease(members: Etcd) -> None:
    async def scene() -> None:
        async with pair(members) as (a, b, look):
            await a_holds(a, look)
            b.command(Acquire(1))
            for _ in range(3):
                leader = await asyncio.to_thread(members.leader)
                members.kill(leader)
                await look.look(TTL)
                members.start_member(leader)
                await asyncio.to_thread(members.wait_answering, [leader])
                await look.look(TTL / 2)
            assert a.holds and a.said(LeaseLost) == [], a.answers

    asyncio.run(scene())


def test_without_a_majority_nobody_has_it_and_somebody_has_it_again_when_it_is_back(members: Etcd) -> None:
    async def scene() -> None:
        async with pair(members) as (a, b, look):
            await a_holds(a, look)
            b.command(Acquire(1))
            for at in (1, 2):
                members.kill(at)
            await look.until(lambda: a.said(LeaseLost) != [], 2 * TTL, "it is void, and said to be")
            assert a.said(LeaseLost) == [LeaseLost("the lease could not be renewed in time")]
            assert not a.holds
            a.command(Acquire(1))
            await look.look(TTL)
            assert look.holder() == "" and a.lease.problem != ""
            members.start_member(1)
            await look.until(lambda: look.holder() != "", 30, "one has it again")
            await look.look(TTL)

    asyncio.run(scene())


# --- who may ask ------------------------------------------------------------------------------------------------------------


def test_who_is_not_who_we_think_and_who_does_not_know_us_is_told_apart(members: Etcd, tmp_path: Path) -> None:
    async def scene() -> None:
        settings = settings_of(members)
        stranger = tmp_path / "stranger.pem"
        stranger.write_text(authority("somebody else's").pem)
        reasons = []
        for wrong in (
            replace(settings, ca=str(stranger)),
            replace(settings, certificate="", private_key=""),
            replace(settings, ca=str(tmp_path / "missing.pem")),
        ):
            async with store(wrong) as one:
                reply = await one.do(Load())
                assert isinstance(reply, Failed)
                reasons.append(reply.reason)
        assert "certificate verify failed" in reasons[0]
        assert "127.0.0.1" in reasons[1]
        assert "missing.pem" in reasons[2]

    asyncio.run(scene())


def test_a_certificate_that_is_replaced_is_used_from_then_on(members: Etcd, tmp_path: Path) -> None:
    async def scene() -> None:
        for name in ("ca.pem", "client.pem", "client.key"):
            (tmp_path / name).write_bytes((members.directory / name).read_bytes())
        right = (tmp_path / "ca.pem").read_text()
        (tmp_path / "ca.pem").write_text(authority("an old one").pem)
        files = (str(tmp_path / name) for name in ("ca.pem", "client.pem", "client.key"))
        async with store(EtcdSettings(members.endpoints, "/pairs/files", *files)) as one:
            assert isinstance(await one.do(Load()), Failed)
            (tmp_path / "ca.pem").write_text(right)
            os.utime(tmp_path / "ca.pem", ns=(0, time.time_ns() + 10**9))
            assert isinstance(await one.do(Load()), Loaded)

    asyncio.run(scene())


# --- the whole pair ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_pair_of_gateways_whose_witness_is_an_etcd(lab: Lab) -> None:
    """On the witness's machine; each gateway has the files beside its configuration."""
    pair = TwoGateways(lab, ha='drain_time = "500ms"', ttl="", more=_SECTION)
    directory = pair.witness.directory / "etcd"
    directory.mkdir()
    members = Etcd(directory, 1, WITNESS, lambda name, command, _: pair.witness.start(name, command))
    members.start_member(0)
    endpoint = members.endpoints[0].replace("https://", "")
    for daemon in pair.daemons:
        daemon.config.write_text(daemon.config.read_text().replace("ENDPOINT", endpoint))
        for name in ("ca.pem", "client.pem", "client.key"):
            (daemon.directory / name).write_bytes((directory / name).read_bytes())
    pair.start()
    pair.wait_whole()
    pair.streams.start(500)
    pair.streams.wait_flowing(10)
    active = pair.active()
    began = time.monotonic()
    pair.daemons[active].kill()
    pair.wait_role(1 - active, "active", 10)
    assert time.monotonic() - began < 1.5 * (1.1 + 1 / 3) + 1.5
    pair.daemons[active].start()
    pair.wait_whole()
    back = time.monotonic()
    assert "ACTIVE" in pair.daemons[active].ctl("failover").stdout
    pair.wait_whole()
    time.sleep(0.5)
    assert pair.lost(back) == (0, 0)
    members.kill(0)
    wait_until(lambda: pair.roles() == ["standby", "standby"], 10, "no lease, no active gateway")
    wait_until(lambda: endpoint in pair.daemons[0].ctl("health", check=False).stdout, 10, "it says which member")
    members.start_member(0)
    pair.wait_whole()


_SECTION = """
[ha.witness]
kind = "etcd"
endpoints = ["https://ENDPOINT"]
key = "/gateways/pair"
ca = "ca.pem"
certificate = "client.pem"
private_key = "client.key"
ttl = "1500ms"
"""
