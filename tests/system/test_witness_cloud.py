"""The lease over a cloud's storage by real HTTP: Azure's blobs, DynamoDB, S3, each in a server that misbehaves when told to."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import pytest
from support.clouds import AwsServer, AzureServer, aws, azure, marks_towards
from support.lease_driver import LeaseDriver, OneHolder

from gateway.ha.recorded_lease import Conflict, Load, Loaded, Record, Save, Saved
from gateway.ha.sealed import BOOT_OCTETS
from gateway.ha.witness import (
    Acquire,
    Ask,
    Break,
    Failed,
    Held,
    LeaseGranted,
    LeaseLost,
    LeaseRefused,
    Operation,
    Release,
)
from gateway.runtime.cloud_http import CloudHttp
from gateway.runtime.randomness import SystemRandom
from gateway.runtime.witness_aws import MISSING, DynamoSettings, DynamoStore, S3Settings, S3Store
from gateway.runtime.witness_blob import BlobSettings, BlobStore
from gateway.runtime.witness_cloud import Asker, RecordStore, cloud_witness

pytestmark = pytest.mark.system

TTL = 2.4
NUMBERS = count(1)
BEFORE = Record(7, "gw-x", "00" * 16, TTL, False, "11" * 16)
"""What is there when a test begins: released, so that nobody waits."""
Settings = BlobSettings | DynamoSettings | S3Settings


@dataclass
class Place:
    """A store and its server from outside."""

    cloud: str
    server: Any
    settings: Settings
    load: str
    save: str

    def misbehave(self, *faults: dict[str, Any]) -> None:
        self.server.misbehave(*faults)

    def fault(self, step: str, kind: str, times: int = 1, **more: Any) -> dict[str, Any]:
        """In the words of the server."""
        which = self.load if step == "load" else self.save
        where = {"method": which, "match": "^/blob/"} if self.cloud == "blob" else {"action": which}
        if kind == "status" and self.cloud != "blob":
            kind = "error"
        return {**where, "kind": kind, "times": times, **more}

    @asynccontextmanager
    async def store(self, mark: int | None = None) -> AsyncIterator[RecordStore]:
        http = CloudHttp(mark)
        made: RecordStore
        match self.settings:
            case BlobSettings():
                made = BlobStore(self.settings, http)
            case DynamoSettings():
                made = DynamoStore(replace(self.settings, mark=mark))
            case S3Settings():
                made = S3Store(replace(self.settings, mark=mark))
        try:
            yield made
        finally:
            await made.close()
            await http.close()

    @asynccontextmanager
    async def process(self, name: str) -> AsyncIterator[LeaseDriver]:
        http = CloudHttp()
        witness = cloud_witness(Asker(name, os.urandom(BOOT_OCTETS)), self.settings, http, SystemRandom())
        driver = LeaseDriver(name, witness, TTL)
        try:
            yield driver
        finally:
            await driver.close()
            await witness.close()
            await http.close()

    async def record(self) -> Record:
        async with self.store() as store:
            there = await store.do(Load())
            assert isinstance(there, Loaded) and there.content is not None, there
            return Record.parse(there.content)


@pytest.fixture(scope="module")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with azure(tmp_path_factory.mktemp("azure")) as running:
        yield running


@pytest.fixture(scope="module")
def aws_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-nobody-sees")
        patch.setenv("AWS_SESSION_TOKEN", "a-session-token-that-nobody-sees")
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        with aws(tmp_path_factory.mktemp("aws")) as running:
            running.service("dynamodb").create_table(
                TableName="witness",
                KeySchema=[{"AttributeName": "name", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "name", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
            where = {"LocationConstraint": "eu-central-1"}
            running.service("s3").create_bucket(Bucket="witness", CreateBucketConfiguration=where)
            yield running


@pytest.fixture(params=["blob", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dynamodb", "s3"))])
def empty(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A place where nothing was ever written."""
    key = f"pair-{next(NUMBERS)}"
    server = request.getfixturevalue("azure_server" if request.param == "blob" else "aws_server")
    at: dict[str, Any] = {"region": "eu-central-1", "endpoint_url": server.url}
    places = {
        "blob": lambda: Place(
            "blob", server, BlobSettings(f"{server.url}/blob/witness/{key}", server.url), "GET", "PUT"
        ),
        "dynamodb": lambda: Place("dynamodb", server, DynamoSettings("witness", key, **at), "GetItem", "PutItem"),
        "s3": lambda: Place("s3", server, S3Settings("witness", key, **at), "GetObject", "PutObject"),
    }
    server.misbehave()
    yield places[request.param]()
    server.misbehave()


@pytest.fixture
def place(empty: Place) -> Place:
    async def prepare() -> None:
        async with empty.store() as store:
            assert isinstance(await store.do(Save(BEFORE.emit(), "")), Saved)

    asyncio.run(prepare())
    return empty


@asynccontextmanager
async def pair(place: Place) -> AsyncIterator[tuple[LeaseDriver, LeaseDriver, OneHolder]]:
    """Two processes, each with all of its own."""
    async with place.process("gw-a") as a, place.process("gw-b") as b:
        yield a, b, OneHolder(a, b)


async def a_holds(a: LeaseDriver, look: OneHolder) -> None:
    a.command(Acquire(1))
    await look.until(lambda: a.holds, 10, "a has it")


# --- what a store must be able to do ------------------------------------------------------------------------------------


def test_of_many_who_save_upon_the_same_tag_one_does(empty: Place):
    async def scene() -> None:
        async with empty.store() as store:
            assert await store.do(Load()) == Loaded(None, "")
            tag = ""
            for epoch in (1, 2):
                wanted = [replace(BEFORE, epoch=epoch, write=f"{number:032x}").emit() for number in range(10)]
                tried = await asyncio.gather(*(store.do(Save(one, tag)) for one in wanted))
                ((content, tag),) = [
                    (one, reply.tag) for one, reply in zip(wanted, tried, strict=True) if isinstance(reply, Saved)
                ]
                assert tried.count(Conflict()) == 9
                assert await store.do(Load()) == Loaded(content, tag)

    asyncio.run(scene())


def test_a_save_upon_what_was_deleted_changes_nothing(empty: Place):
    async def scene() -> None:
        async with empty.store() as store:
            assert await store.do(Save(BEFORE.emit(), '"00000000000000000000000000000000"')) == Conflict()
            assert await store.do(Load()) == Loaded(None, "")

    asyncio.run(scene())


# --- the lease ------------------------------------------------------------------------------------------------------------


def test_the_first_of_all_waits_a_ttl_and_then_has_it_and_renews(empty: Place):
    async def scene() -> None:
        async with pair(empty) as (a, b, look):
            a.command(Acquire(1))
            await look.look(TTL)
            assert not a.holds
            await look.until(lambda: a.holds, 5, "a has it")
            b.command(Acquire(1))
            await look.look(2 * TTL)
            assert a.holds and a.said(LeaseLost) == [] and b.said(LeaseGranted) == []
            assert LeaseRefused(1, "gw-a") in b.said(LeaseRefused)
            assert replace(await empty.record(), boot="", write="") == Record(1, "gw-a", "", TTL, True, "")

    asyncio.run(scene())


def test_a_holder_that_is_killed_is_followed_when_its_lease_is_over_and_its_next_process_waits(place: Place):
    async def scene() -> None:
        async with pair(place) as (a, b, look), place.process("gw-a") as again:
            await a_holds(a, look)
            assert a.said(LeaseGranted) == [LeaseGranted(8)], "above what was there"
            a.stop()
            look.drivers.append(again)
            b.command(Acquire(1))
            again.command(Acquire(1))
            await look.until(lambda: b.holds or again.holds, 3 * TTL, "somebody follows")
            await look.look(TTL)
            assert b.said(LeaseGranted) + again.said(LeaseGranted) == [LeaseGranted(9)]
            _, refused = next(entry for entry in again.answers if entry[0].operation is not Operation.READ)
            assert isinstance(refused, Held) and not refused.ours, "its own of before is another's"

    asyncio.run(scene())


def test_what_is_released_goes_to_the_other_and_back_under_rising_epochs(place: Place):
    async def scene() -> None:
        async with pair(place) as (a, b, look):
            await a_holds(a, look)
            for one, other in ((a, b), (b, a)):
                other.command(Acquire(1))
                await look.look(0.3)
                one.command(Release())
                assert not one.holds
                await look.until(lambda other=other: other.holds, 2 * TTL, "the other has it")
            assert (a.said(LeaseGranted), b.said(LeaseGranted)) == (
                [LeaseGranted(8), LeaseGranted(10)],
                [LeaseGranted(9)],
            )

    asyncio.run(scene())


def test_a_break_takes_it_at_once_and_who_had_it_finds_out_when_it_renews(place: Place):
    async def scene() -> None:
        async with pair(place) as (a, b, look):
            await a_holds(a, look)
            await b.witness.carry_out(Ask(1000, Operation.READ, 0, TTL))  # a standby does once a ttl
            b.command(Break(1))
            await look.until(lambda: b.holds, TTL, "b has it, which a renews and never lets go")
            await look.until(lambda: a.said(LeaseLost) != [], TTL, "a knows")
            assert not a.holds
            assert a.said(LeaseLost) == [LeaseLost("the witness gave the lease to gw-b as epoch 9")]
            assert b.said(LeaseGranted) == [LeaseGranted(9, broken=True)]

    asyncio.run(scene())


FAULTS: list[dict[str, Any]] = [
    {"kind": "status", "status": 412, "code": "PreconditionFailed"},
    {"kind": "status", "status": 409, "code": "ConditionalRequestConflict"},
    {"kind": "status", "status": 409, "code": "OperationAborted"},
    {"kind": "status", "status": 429, "code": "ThrottlingException", "retry_after": "1"},
    {"kind": "status", "status": 500, "code": "InternalServerError"},
    {"kind": "status", "status": 503, "code": "ServerBusy"},
    {"kind": "slow", "seconds": 0.6},
    {"kind": "late", "seconds": 0.6},
    {"kind": "late", "seconds": 5.0},
    {"kind": "reset"},
    {"kind": "reset-after"},
    {"kind": "nonsense"},
]


@pytest.mark.parametrize(
    "fault", FAULTS, ids=lambda fault: "-".join(str(fault[key]) for key in ("kind", "code", "seconds") if key in fault)
)
def test_each_misbehaviour_is_got_over_and_never_makes_two(place: Place, fault: dict[str, Any]):
    fault = {key: value for key, value in fault.items() if place.cloud == "blob" or key != "retry_after"}

    async def scene() -> None:
        async with pair(place) as (a, b, look):
            place.misbehave(place.fault("save", times=2, **fault), place.fault("load", times=1, **fault))
            a.command(Acquire(1))
            b.command(Acquire(1))
            await look.until(lambda: look.holder() != "", 20, "one has it")
            place.misbehave(place.fault("save", times=2, **fault), place.fault("load", times=1, **fault))
            await look.look(TTL)
            place.misbehave()
            await look.until(lambda: look.holder() != "", 4 * TTL, "one has it still, or again")

    asyncio.run(scene())


def test_a_renewal_whose_answer_is_lost_twice_costs_nobody_the_lease(place: Place):
    async def scene() -> None:
        async with pair(place) as (a, _, look):
            await a_holds(a, look)
            place.misbehave(place.fault("save", "reset-after", times=2))
            await look.look(2 * TTL)
            assert a.holds and a.said(LeaseLost) == []
            assert any(isinstance(answer, Failed) for _, answer in a.answers)

    asyncio.run(scene())


def test_a_store_that_nobody_reaches_ends_the_lease_in_time_and_says_why(place: Place):
    async def scene() -> None:
        async with pair(place) as (a, _, look):
            await a_holds(a, look)
            place.misbehave(place.fault("save", "reset", times=99), place.fault("load", "reset", times=99))
            await look.until(lambda: a.said(LeaseLost) != [], 2 * TTL, "it is void, and said to be")
            assert not a.holds
            assert a.said(LeaseLost) == [LeaseLost("the lease could not be renewed in time")]
            assert a.lease.problem != ""

    asyncio.run(scene())


def test_a_renewal_takes_one_request_and_little_time(place: Place, capsys: pytest.CaptureFixture[str]):
    async def scene() -> float:
        async with pair(place) as (a, _, look):
            await a_holds(a, look)
            times = []
            for number in range(20):
                began = asyncio.get_running_loop().time()
                answer = await a.witness.carry_out(Ask(1000 + number, Operation.RENEW, 8, TTL))
                times.append(asyncio.get_running_loop().time() - began)
                assert not isinstance(answer, Failed), answer
            return sorted(times)[len(times) // 2]

    median = asyncio.run(scene())
    with capsys.disabled():
        print(f"\n{place.cloud}: a renewal takes {median * 1000:.1f} ms with the server's own time")
    assert median < TTL / 6


# --- what is said, and by what way ----------------------------------------------------------------------------------------


SIGNED = (
    "The request signature we calculated does not match the signature you provided. The Canonical String for this request should have "
    "been 'POST / x-amz-security-token:a-session-token-that-nobody-sees'"
)


def test_no_secret_in_logs_answers_or_the_lease(place: Place, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)

    async def scene() -> str:
        async with pair(place) as (a, _, look):
            await a_holds(a, look)
            refusal = {"status": 403, "code": "SignatureDoesNotMatch"}
            refusal |= {"message": SIGNED} if place.cloud != "blob" else {}
            for fault in ({"kind": "status", **refusal}, {"kind": "reset"}, {"kind": "nonsense"}):
                place.misbehave(place.fault("save", times=9, **fault), place.fault("load", times=9, **fault))
                answers = [await a.witness.carry_out(Ask(1000, op, 8, TTL)) for op in (Operation.RENEW, Operation.READ)]
                assert all(isinstance(answer, Failed) for answer in answers), answers
                a.answers += [(Ask(1000, Operation.READ, 0, TTL), answer) for answer in answers]
            return f"{look.story()} {a.lease.problem} {place.settings}"

    told = asyncio.run(scene()) + " ".join(record.getMessage() for record in caplog.records)
    secrets = place.server.tokens() if place.cloud == "blob" else ["nobody-sees"]
    assert secrets and not [secret for secret in secrets if secret in told]
    assert "SignatureDoesNotMatch" in told


@pytest.mark.parametrize("empty", ["blob"], indirect=True)
def test_a_token_that_is_refused_is_asked_for_anew(azure_server: AzureServer, place: Place):
    async def scene() -> None:
        async with pair(place) as (a, _, look):
            await a_holds(a, look)
            before = len(azure_server.tokens())
            place.misbehave(place.fault("save", "expire"))
            await look.look(TTL)
            assert a.holds and a.said(LeaseLost) == []
            assert len(azure_server.tokens()) == 1 <= before
            assert [str(answer) for _, answer in a.answers if isinstance(answer, Failed)] == [
                str(Failed("blob storage answered 401 InvalidAuthenticationInfo"))
            ]

    asyncio.run(scene())


def test_what_is_sent_is_marked_and_asks_no_proxy(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    place.misbehave(place.fault("load", "late", seconds=1.0))

    async def scene() -> set[int]:
        found: set[int] = set()
        async with place.store(mark=0x67770001) as store:
            loading = asyncio.create_task(store.do(Load()))
            while not loading.done():
                found |= set(marks_towards(place.server.url))
                await asyncio.sleep(0.02)
            assert isinstance(await loading, Loaded)
        return found

    assert asyncio.run(scene()) == {0x67770001}


def test_what_is_missing_is_said_in_one_sentence(aws_server: AwsServer, azure_server: AzureServer):

    async def said(settings: Settings, step: Load | Save) -> str:
        place = Place("", None, settings, "", "")
        async with place.store() as store:
            reply = await store.do(step)
            assert isinstance(reply, Failed), reply
            return reply.reason

    at: dict[str, Any] = {"region": "eu-central-1", "endpoint_url": aws_server.url}
    aws_server.misbehave()
    assert "ResourceNotFoundException" in asyncio.run(said(DynamoSettings("no-table", "k", **at), Load()))
    assert "NoSuchBucket" in asyncio.run(said(S3Settings("no-bucket", "k", **at), Load()))
    azure_server.misbehave({"kind": "status", "status": 404, "code": "ContainerNotFound", "match": "^/blob/"})
    blob = BlobSettings(f"{azure_server.url}/blob/witness/none", azure_server.url)
    assert (
        asyncio.run(said(blob, Load()))
        == "blob storage answered 404 ContainerNotFound; the container is not made by us"
    )


def test_an_azure_lease_on_the_blob_is_named(azure_server: AzureServer):
    azure_server.misbehave()
    url = f"{azure_server.url}/blob/witness/leased-{next(NUMBERS)}"

    async def scene() -> object:
        http = CloudHttp()
        store = BlobStore(BlobSettings(url, azure_server.url), http)
        saved = await store.do(Save(BEFORE.emit(), ""))
        assert isinstance(saved, Saved)
        taken = await http.request(
            "PUT", f"{url}?comp=lease", {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "-1"}
        )
        assert taken.status == 201
        reply = await store.do(Save(replace(BEFORE, epoch=8).emit(), saved.tag))
        await store.close()
        await http.close()
        return reply

    assert asyncio.run(scene()) == Failed(
        "blob storage answered 412 LeaseIdMissing; somebody has an Azure lease on the blob: break it"
    )


@pytest.mark.parametrize("empty", ["dynamodb", "s3"], indirect=True)
def test_without_boto3_one_sentence_says_what_to_install(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)

    async def scene() -> object:
        async with place.store() as store:
            return await store.do(Load())

    assert asyncio.run(scene()) == Failed(MISSING)
