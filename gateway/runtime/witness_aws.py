"""The record of the lease in AWS: an item of a DynamoDB table, or an object of an S3 bucket; by boto3 in threads of its own.

DynamoDB: PutItem under the condition that the item's record is still this one, or that there is none; read consistently. The table has
a string as its partition key and nothing else that matters. Not a global table: there two regions each grant what they have.
The role needs dynamodb:GetItem and dynamodb:PutItem on it.

S3: PutObject with If-Match on the ETag, or If-None-Match: *. S3 is consistent after a write. The role needs s3:GetObject and
s3:PutObject on the object, and s3:ListBucket on the bucket, without which an object that is not there is "denied". No life-cycle rule
may delete it. Slower than DynamoDB: take that where there is the choice.

A step given up by who waits for it may still run in its thread, within the times of its client: it names what it replaces.
"""

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from gateway.ha.recorded_lease import Conflict, Load, Loaded, Reply, Save, Saved, Step
from gateway.ha.witness import Failed
from gateway.runtime.aws_client import AwsAccess, AwsClient, line, missing, unable

MISSING = missing("witnesses")
THREADS = 4
LONGEST_RECORD = 65536
CHANGED = frozenset({
    "ConditionalCheckFailedException", "PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey",
})  # fmt: skip
"""To a save: somebody wrote, or is writing, or deleted it since we looked."""
EXPIRED = frozenset({
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken", "RequestExpired",
    "UnrecognizedClientException",
})  # fmt: skip
RECORD = "lease"  # DynamoDB's attribute with the record


@dataclass(frozen=True, slots=True)
class DynamoSettings:
    """The item of `table` whose `key_attribute` (a string, the partition key) is `key`. The rest as in AwsAccess."""

    table: str
    key: str
    key_attribute: str = "name"
    region: str = ""
    endpoint_url: str = ""
    mark: int | None = None
    request_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class S3Settings:
    """The object `key` of `bucket`. The rest as in AwsAccess."""

    bucket: str
    key: str
    region: str = ""
    endpoint_url: str = ""
    mark: int | None = None
    request_seconds: float = 5.0


class _AwsStore(ABC):
    """What both have in common: the threads, and what an error means."""

    def __init__(self, service: str, settings: DynamoSettings | S3Settings) -> None:
        self._threads = ThreadPoolExecutor(THREADS, f"witness-{service}")
        self._client = AwsClient(
            AwsAccess(
                service,
                settings.region,
                settings.endpoint_url,
                settings.mark,
                connect_seconds=min(3.0, settings.request_seconds),
                read_seconds=settings.request_seconds,
                connections=THREADS,
            )
        )

    async def do(self, step: Step) -> Reply:
        """How it went."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._in_thread, step)

    async def close(self) -> None:
        """Steps under way end by themselves, in bounded time."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _in_thread(self, step: Step) -> Reply:
        try:
            errors = importlib.import_module("botocore.exceptions")
            unreadable = importlib.import_module("botocore.parsers").ResponseParserError
        except ModuleNotFoundError:
            return Failed(MISSING)
        try:
            client = self._client.made()
            return self._load(client) if isinstance(step, Load) else self._save(client, step)
        except errors.ClientError as error:
            return self._told(error, step)
        except (errors.NoCredentialsError, errors.CredentialRetrievalError, errors.NoRegionError) as error:
            return Failed(unable(error))
        except (errors.BotoCoreError, unreadable) as error:
            return Failed(line(error))

    def _told(self, error: Any, step: Step) -> Reply:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in CHANGED and isinstance(step, Save):
            return Conflict()
        if code == "NoSuchKey":
            return Loaded(None, "")
        if code in EXPIRED:
            self._client.discard()
        return Failed(f"AWS answered {line(error)}")

    @abstractmethod
    def _load(self, client: Any) -> Reply: ...

    @abstractmethod
    def _save(self, client: Any, step: Save) -> Reply: ...


class DynamoStore(_AwsStore):
    """The record itself is the tag, for no two are alike."""

    def __init__(self, settings: DynamoSettings) -> None:
        super().__init__("dynamodb", settings)
        self._table = settings.table
        self._key = {settings.key_attribute: {"S": settings.key}}

    def _load(self, client: Any) -> Reply:
        item = client.get_item(TableName=self._table, Key=self._key, ConsistentRead=True).get("Item")
        if item is None:
            return Loaded(None, "")
        record = item.get(RECORD, {}).get("S", "")
        return Loaded(record.encode(), record) if record else Failed(f"the item has no text under {RECORD!r}")

    def _save(self, client: Any, step: Save) -> Reply:
        record = step.content.decode()
        condition: dict[str, Any] = {
            "ConditionExpression": "#record = :seen" if step.tag else "attribute_not_exists(#record)",
            "ExpressionAttributeNames": {"#record": RECORD},
        }
        if step.tag:
            condition["ExpressionAttributeValues"] = {":seen": {"S": step.tag}}
        client.put_item(TableName=self._table, Item={**self._key, RECORD: {"S": record}}, **condition)
        return Saved(record)


class S3Store(_AwsStore):
    """The ETag is the tag; it is of the content, of which no two are alike."""

    def __init__(self, settings: S3Settings) -> None:
        super().__init__("s3", settings)
        self._where = {"Bucket": settings.bucket, "Key": settings.key}

    def _load(self, client: Any) -> Reply:
        answer = client.get_object(**self._where)
        content = answer["Body"].read(LONGEST_RECORD + 1)
        return _tagged(answer, lambda tag: Loaded(content, tag))

    def _save(self, client: Any, step: Save) -> Reply:
        condition = {"IfMatch": step.tag} if step.tag else {"IfNoneMatch": "*"}
        answer = client.put_object(**self._where, Body=step.content, ContentType="application/json", **condition)
        return _tagged(answer, Saved)


def _tagged(answer: Mapping[str, Any], made: Callable[[str], Reply]) -> Reply:
    tag = answer.get("ETag", "")
    return made(tag) if tag else Failed("the answer has no ETag: is this S3?")
