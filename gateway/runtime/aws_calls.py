"""EC2's calls by boto3, in threads of their own: how each ended, as the cores of the cloud want to know it.

Nothing here raises. Retries are the cores' business, not boto3's; what is called is that of `fabric_aws.py` and `addresses_aws.py`.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from gateway.ha.fabric_values import Failed, Why
from gateway.runtime.aws_client import AwsAccess, AwsClient, line, missing, unable

Found = TypeVar("Found")
_WHY: dict[str, Why] = {
    "RouteAlreadyExists": Why.CONFLICT,
    "InvalidIPAddress.InUse": Why.CONFLICT,
    "IncorrectState": Why.BUSY,
    "RequestLimitExceeded": Why.BUSY,
    "Throttling": Why.BUSY,
    "ThrottlingException": Why.BUSY,
    "AuthFailure": Why.EXPIRED,
    "ExpiredToken": Why.EXPIRED,
    "ExpiredTokenException": Why.EXPIRED,
    "InvalidClientTokenId": Why.EXPIRED,
    "RequestExpired": Why.EXPIRED,
}


class AwsCalls:
    """`what` needs boto3, for the sentence that says so. `hints`: what people may do about an error, by its code."""

    def __init__(self, access: AwsAccess, what: str, hints: Mapping[str, str] | None = None) -> None:
        self._threads = ThreadPoolExecutor(access.connections, "aws")
        self._client = AwsClient(access)
        self._what, self._hints = what, hints or {}

    async def carry_out(self, work: Callable[[Any, Any], Found], writes: bool) -> Found | Failed:
        """What `work(client, botocore.exceptions)` returned, or why it did not. `writes`: it may have taken effect all the same."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._in_thread, work, writes)

    async def close(self) -> None:
        """Calls under way end by themselves, in bounded time."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _in_thread(self, work: Callable[[Any, Any], Found], writes: bool) -> Found | Failed:
        try:
            errors = importlib.import_module("botocore.exceptions")
            unreadable = importlib.import_module("botocore.parsers").ResponseParserError
        except ModuleNotFoundError:
            return Failed(Why.REFUSED, missing(self._what))
        try:
            return work(self._client.made(), errors)
        except errors.ClientError as error:
            return self._told(error, writes)
        except (errors.EndpointConnectionError, errors.ConnectTimeoutError) as error:
            return Failed(Why.UNREACHABLE, line(error))
        except (errors.NoCredentialsError, errors.CredentialRetrievalError, errors.NoRegionError) as error:
            return Failed(Why.UNREACHABLE, unable(error))
        except (errors.BotoCoreError, unreadable) as error:
            return Failed(Why.AMBIGUOUS if writes else Why.UNREACHABLE, line(error))

    def _told(self, error: Any, writes: bool) -> Failed:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        why = _WHY.get(code, Why.REFUSED)
        if why is Why.EXPIRED:
            self._client.discard()
        elif why is Why.REFUSED and status >= 500:
            why = Why.AMBIGUOUS if writes else Why.BUSY
        return Failed(why, f"AWS answered {line(error)}{self._hints.get(code, '')}")
