"""ARM, Azure's management plane: requests with the machine's identity, and operations that go on after their answer.

What may go wrong becomes a `Failed` that says what to do about it; nothing here raises, and everything ends in bounded time. What is
asked for is the callers' business: `fabric_azure.py`, `addresses_azure.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gateway.ha.fabric_values import Failed, Why
from gateway.runtime.azure_identity import ManagedIdentity, Unavailable
from gateway.runtime.cloud_http import CloudHttp, NoAnswer, NotSent, Response

POLLS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Sooner than ARM's Retry-After recommends, which is 10 s: a route is written in one or two, a network interface in some more. Reads
have a quota of their own, and what ARM refuses (429) is waited out as it says."""
BUSY_CODES = frozenset({
    "AnotherOperationInProgress", "Conflict", "InternalServerError", "RetryableError", "ReferencedResourceNotProvisioned",
    "ServerTimeout", "ServiceUnavailable", "TooManyRequests",
})  # fmt: skip
CONFLICT_CODES = frozenset({
    "RouteConflict", "PreconditionFailed", "PrivateIPAddressIsAllocated", "PublicIPAddressInUse",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class AzureSettings:
    """Where to call. `operation_seconds` bounds a write from the request to the end of the operation."""

    management_url: str = "https://management.azure.com"
    imds_url: str = "http://169.254.169.254"
    api_version: str = "2025-05-01"
    client_id: str = ""
    request_seconds: float = 15.0
    operation_seconds: float = 90.0


class Arm:
    """`hints`: what people may do about a status, or an error of ARM's by its code; appended to the sentence."""

    def __init__(self, settings: AzureSettings, http: CloudHttp, hints: Mapping[int | str, str]) -> None:
        self._settings = settings
        self._http = http
        self._hints = hints
        self.base = settings.management_url.rstrip("/")
        self._identity = ManagedIdentity(http, settings.imds_url, f"{self.base}/", settings.client_id)

    async def close(self) -> None:
        await self._identity.close()

    async def write(self, method: str, url: str, body: object = None, etag: str = "") -> Response | Failed:
        """Until it took effect. `etag`: only where the resource is still as it was read (RFC 9110 13.1.1)."""
        deadline = self._deadline()
        answer = await self.ask(method, url, body, etag, absent=method == "DELETE")
        if isinstance(answer, Failed):
            return answer
        if answer.status in (200, 204, 404) and _state(answer.json()) in ("", "Succeeded"):
            return answer
        return await self._ended(answer, deadline)

    async def result(self, url: str) -> Response | Failed:
        """What a POST finds out, at once or later."""
        deadline = self._deadline()
        answer = await self.ask("POST", url)
        if isinstance(answer, Failed) or answer.status == 200:
            return answer
        return await self._ended(answer, deadline, writes=False)

    async def ask(
        self, method: str, url: str, body: object = None, etag: str = "", absent: bool = False
    ) -> Response | Failed:
        """A good answer, or what to do about it. `absent`: that there is nothing (404) is a good one."""
        writes = method != "GET"
        try:
            token = await self._identity.token()
            headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
            headers |= {"If-Match": etag} if etag else {}
            answer = await self._http.request(method, url, headers, body, seconds=self._settings.request_seconds)
        except Unavailable as error:
            return error.failure
        except NotSent as error:
            return Failed(Why.UNREACHABLE, str(error))
        except NoAnswer as error:
            return Failed(Why.AMBIGUOUS if writes else Why.UNREACHABLE, str(error))
        if answer.status == 401:
            self._identity.discard(token)
            return Failed(Why.EXPIRED, "ARM refused the token (401)", answer.retry_after)
        if 200 <= answer.status < 300 or (absent and answer.status == 404):
            return answer
        failure = self._failure(answer, writes)
        # An error may quote the request; the token stays here all the same.
        return Failed(failure.why, failure.sentence.replace(token, "***"), failure.retry_after)

    def url(self, path: str) -> str:
        return f"{self.base}{path}?api-version={self._settings.api_version}"

    def is_ours(self, url: str) -> bool:
        """Whether a token for ARM may go there: the same scheme and port, the host or one below it."""
        there, here = urlsplit(url), urlsplit(self.base)
        host, home = there.hostname or "", here.hostname or ""
        ports = [parts.port or {"https": 443}.get(parts.scheme, 80) for parts in (there, here)]
        return there.scheme == here.scheme and ports[0] == ports[1] and (host == home or host.endswith(f".{home}"))

    async def _ended(self, answer: Response, deadline: float, writes: bool = True) -> Response | Failed:
        """Asks until the operation that the answer names has ended; where it has a result, that is at `Location`."""
        names = ("azure-asyncoperation", "location")
        url = next(
            (answer.headers[name] for name in (names if writes else reversed(names)) if name in answer.headers), ""
        )
        if not url:
            return answer
        if not self.is_ours(url):
            return Failed(
                Why.AMBIGUOUS, f"the operation goes on at {urlsplit(url).hostname}, which is not ARM; it is not asked"
            )
        polls = 0
        wait = POLLS[0]
        while time.monotonic() + wait < deadline:
            await asyncio.sleep(wait)
            polls += 1
            wait = POLLS[min(polls, len(POLLS) - 1)]
            seen = await self.ask("GET", url)
            if isinstance(seen, Failed):
                # Asking again does no harm; what was written stays to be found out.
                if seen.why is Why.REFUSED:
                    return Failed(Why.AMBIGUOUS, seen.sentence)
                wait = max(wait, seen.retry_after)
                continue
            state = _state(seen.json())
            if state in ("Failed", "Canceled"):
                code, sentence = _error(seen.json())
                told = f"the operation ended as {state}{f', {code}' if code else ''}: {sentence}{self._hints.get(code, '')}"
                return Failed(_why_of_code(code, Why.REFUSED), told, seen.retry_after)
            if seen.status != 202 and state in ("", "Succeeded"):
                return seen
        return Failed(Why.AMBIGUOUS, f"the operation did not end within {self._settings.operation_seconds:g} s")

    def _failure(self, answer: Response, writes: bool) -> Failed:
        code, told = _error(answer.json())
        sentence = f"ARM answered {answer.status}{f' {code}' if code else ''}{f': {told}' if told else ''}"
        sentence += self._hints.get(code, "")
        if answer.status >= 500:
            # Of a write that failed within ARM nobody knows how far it came.
            return Failed(Why.AMBIGUOUS if writes else Why.BUSY, sentence, answer.retry_after)
        if code in CONFLICT_CODES or answer.status == 412:
            return Failed(Why.CONFLICT, sentence, answer.retry_after)
        if answer.status in (408, 409, 429):
            return Failed(Why.BUSY, sentence, answer.retry_after)
        why = _why_of_code(code, Why.REFUSED) if answer.status == 400 else Why.REFUSED
        return Failed(why, sentence + self._hints.get(answer.status, ""), answer.retry_after)

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.operation_seconds


def _why_of_code(code: str, otherwise: Why) -> Why:
    if code in CONFLICT_CODES:
        return Why.CONFLICT
    return Why.BUSY if code in BUSY_CODES else otherwise


def _state(content: Any) -> str:
    """Of an operation, or of a resource that is being written."""
    content = mapping(content)
    state = content.get("status") or mapping(content.get("properties")).get("provisioningState") or ""
    return state if isinstance(state, str) else ""


def _error(content: Any) -> tuple[str, str]:
    """ARM's code, and its message on one line."""
    error = mapping(mapping(content).get("error"))
    code = str(error.get("code") or "")
    message = " ".join(str(error.get("message") or "").split())
    return code, message[:300]


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
