"""Carries the Asks of the node's lease to a witness in the cloud, and their answers back.

    Ask --> WitnessCalls --> witness_cloud --> answered(ticket, answer)

A witness that is configured anew waits for what it does not remember; so it is only made anew if where it is changed. A ticket is of the
lease that asked: what was asked of a witness that is gone is answered no more, and the lease knows how long it waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from gateway.config.derive import lease_ttl
from gateway.config.model import Config, HaWitness
from gateway.contract import RandomSource
from gateway.ha.sealed import BOOT_OCTETS
from gateway.ha.witness import Answer, Ask
from gateway.runtime.cloud_http import CloudHttp
from gateway.runtime.witness_aws import DynamoSettings, S3Settings
from gateway.runtime.witness_blob import BlobSettings
from gateway.runtime.witness_cloud import Asker, CloudWitness, StoreSettings, cloud_witness
from gateway.runtime.witness_etcd import EtcdSettings

PATIENCE = 2.0


class WitnessCalls:
    """`configure` before the first Ask, and whenever [ha] changed."""

    def __init__(self, mark: int | None, random: RandomSource, answered: Callable[[int, Answer], None]) -> None:
        self._mark = mark
        self._random = random
        self._answered = answered
        self._boot = random.octets(BOOT_OCTETS)
        self._http = CloudHttp(mark)
        self._where: StoreSettings | None = None
        self._witness: CloudWitness | None = None
        self._running: set[asyncio.Task[None]] = set()

    def configure(self, config: Config, directory: Path) -> None:
        """Files are relative to `directory`."""
        witness = config.ha.witness if config.ha is not None else None
        where = _where(witness, directory, self._mark)
        if where == self._where:
            return
        if self._witness is not None:
            self._spawn(self._witness.close())
        self._where = where
        asker = Asker(config.gateway.name, self._boot, lease_ttl(witness))
        self._witness = cloud_witness(asker, where, self._http, self._random) if where is not None else None

    def ask(self, ask: Ask) -> None:
        if self._witness is not None:
            self._spawn(self._carry_out(self._witness, ask))

    async def close(self) -> None:
        """Nothing is answered any more; what is under way, a release perhaps for which the other gateway waits, has a moment to arrive."""
        self._answered = lambda ticket, answer: None
        if self._running:
            await asyncio.wait(self._running, timeout=PATIENCE)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._witness is not None:
            await self._witness.close()
        await self._http.close()

    async def _carry_out(self, witness: CloudWitness, ask: Ask) -> None:
        answer = await witness.carry_out(ask)
        if witness is self._witness:
            self._answered(ask.ticket, answer)

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name="witness")  # type: ignore[arg-type]
        self._running.add(task)
        task.add_done_callback(self._running.discard)


def _where(witness: HaWitness | None, directory: Path, mark: int | None) -> StoreSettings | None:
    if witness is None:
        return None
    region, endpoint, key = witness.region or "", witness.endpoint_url or "", witness.key or ""
    match witness.kind:
        case "azure-blob":
            return BlobSettings(witness.url or "", witness.imds_url, witness.client_id or "")
        case "dynamodb":
            return DynamoSettings(witness.table or "", key, region=region, endpoint_url=endpoint, mark=mark)
        case "s3":
            return S3Settings(witness.bucket or "", key, region, endpoint, mark)
        case "etcd":
            ca, certificate, private_key = (
                str(directory / name) if name else "" for name in (witness.ca, witness.certificate, witness.private_key)
            )
            # So short that another member can be asked while the lease lasts
            seconds = lease_ttl(witness) / 4
            return EtcdSettings(tuple(witness.endpoints), key, ca, certificate, private_key, mark, seconds)
        case _:
            return None
