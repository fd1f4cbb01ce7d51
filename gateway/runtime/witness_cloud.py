"""A storage as the witness, a cloud's or one's own etcd: carries out each `Ask` of the lease with the steps that `ha/recorded_lease.py` names.

    Lease --Ask--> carry_out --Load, Save--> witness_blob | witness_aws | witness_etcd --> the store
          <-Answer-           <-Loaded, Saved, Conflict, Failed-

One mechanism for Azure's blobs, DynamoDB, S3 and etcd: a record that is replaced only if nobody else replaced it. Azure's own blob lease
is not used, because it is less: it lasts 15 s at least, neither DynamoDB nor S3 have it, and it carries no epoch: that would be a
second write after the lease is taken, and between the two a holder could be gone or a reader see the epoch of before. What it would
give, an end by the store's clock, costs us this: who comes after counts from when it first saw the last renewal, so a takeover from
a holder that is silent takes up to the ttl, a margin and one interval of asking (`ttl / 3`). What is broken or released is free at
once, but nobody is told: the stores send no notices.

Any number of Asks at once; each ends in bounded time and none raises. What a request does after it was given up it may do: it names the
record it replaces, and that is then another. Not here: when to ask (`ha/witness.py`), configuration, the daemon's wiring.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.contract import RandomSource
from gateway.ha.recorded_lease import RecordedLease, Reply, Step
from gateway.ha.witness import Answer, Ask, Failed
from gateway.runtime.cloud_http import CloudHttp
from gateway.runtime.witness_aws import DynamoSettings, DynamoStore, S3Settings, S3Store
from gateway.runtime.witness_blob import BlobSettings, BlobStore
from gateway.runtime.witness_etcd import EtcdSettings, EtcdStore

log = logging.getLogger(__name__)

StoreSettings = BlobSettings | DynamoSettings | S3Settings | EtcdSettings


class RecordStore(Protocol):
    """One record. Strongly consistent: what was saved is what anyone loads from then on."""

    async def do(self, step: Step) -> Reply:
        """How it went, in bounded time; never raises for what a store or the way to it does."""

    async def close(self) -> None:
        """Nothing is called any more."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks. `boot` is 16 octets of this process, new with each; `seconds` bounds an Ask, as its ttl does."""

    name: str
    boot: bytes
    seconds: float = 30.0


def boottime() -> float:
    """Seconds that go on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class CloudWitness:
    """The witness of one pair, as one gateway sees it."""

    def __init__(
        self, asker: Asker, store: RecordStore, random: RandomSource, clock: Callable[[], float] = boottime
    ) -> None:
        self._lease = RecordedLease(asker.name, asker.boot, random)
        self._seconds = asker.seconds
        self._store = store
        self._clock = clock

    async def carry_out(self, ask: Ask) -> Answer:
        """For `Lease.answered`."""
        seconds = min(self._seconds, ask.ttl)
        try:
            async with asyncio.timeout(seconds):
                return await self._steps(ask)
        except TimeoutError:
            return Failed(f"the store did not answer within {seconds:g} s")
        except Exception as error:
            # A defect must not leave the lease waiting. What the error says may quote a request, and is not told.
            name = type(error).__name__
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("witness: %s\n%s", name, where, extra={"event": "witness-defect"})
            return Failed(f"the call ended by a defect: {name}")

    async def close(self) -> None:
        await self._store.close()

    async def _steps(self, ask: Ask) -> Answer:
        steps = self._lease.carry_out(ask, self._clock())
        try:
            step = next(steps)
            while True:
                reply = await self._store.do(step)
                step = steps.send((reply, self._clock()))
        except StopIteration as done:
            answer: Answer = done.value
            return answer


def cloud_witness(asker: Asker, where: StoreSettings, http: CloudHttp, random: RandomSource) -> CloudWitness:
    """`http` is marked already, and stays its owner's; boto3 has sockets of its own, and so has etcd's TLS."""
    store: RecordStore
    match where:
        case BlobSettings():
            store = BlobStore(where, http)
        case DynamoSettings():
            store = DynamoStore(where)
        case S3Settings():
            store = S3Store(where)
        case EtcdSettings():
            store = EtcdStore(where)
    return CloudWitness(asker, store, random)
