"""The token of this virtual machine's managed identity, from the instance metadata service (IMDS).

Asked for once for all who wait, kept, and renewed at half of its life while the old one is still used. Never logged, never in an
error. Failures are not waited out here: the caller is told when to come back, and until then nobody is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.ha.fabric_values import Failed, Why
from gateway.runtime.cloud_http import CloudError, CloudHttp, Response

API_VERSION = "2018-02-01"
FIRST_WAIT, LAST_WAIT = 1.0, 64.0
UPDATING_WAIT, UPDATING_LAST = 10.0, 70.0
"""410: IMDS is being updated, which takes up to 70 s."""
MARGIN = 120.0
"""A token is used no longer than until so long before its end: a call may take that long."""
LATER = frozenset({404, 408, 410, 429})


class Unavailable(Exception):
    """No token, and why."""

    def __init__(self, failure: Failed) -> None:
        super().__init__(failure.sentence)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    renew_at: float
    ends_at: float


class ManagedIdentity:
    """Tokens for one `resource`, as text for an Authorization header."""

    def __init__(
        self,
        http: CloudHttp,
        imds_url: str,
        resource: str,
        client_id: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._url = f"{imds_url.rstrip('/')}/metadata/identity/oauth2/token"
        self._resource, self._client_id = resource, client_id
        self._clock = clock
        self._token: _Token | None = None
        self._asking: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._failures = 0
        self._failure = Failed(Why.UNREACHABLE, "")

    async def token(self) -> str:
        """A token that is good for now; raises Unavailable."""
        now = self._clock()
        if self._token is not None and now < self._token.ends_at:
            if now >= self._token.renew_at and now >= self._not_before:
                self._ask()
            return self._token.text
        if now < self._not_before:
            raise Unavailable(self._failure_at(now))
        await asyncio.shield(self._ask())
        if self._token is None or self._clock() >= self._token.ends_at:
            raise Unavailable(self._failure_at(self._clock()))
        return self._token.text

    def discard(self, text: str) -> None:
        """It was refused, though it should be good."""
        if self._token is not None and self._token.text == text:
            self._token = None

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _ask(self) -> asyncio.Task[None]:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._fetch(), name="managed identity")
        return self._asking

    async def _fetch(self) -> None:
        query = f"?api-version={API_VERSION}&resource={self._resource}"
        query += f"&client_id={self._client_id}" if self._client_id else ""
        try:
            answer = await self._http.request("GET", self._url + query, {"Metadata": "true"}, seconds=10.0)
        except CloudError as error:
            self._failed(Why.UNREACHABLE, f"no token of the managed identity: {error}", FIRST_WAIT, LAST_WAIT, 0.0)
            return
        token = _read(answer, self._clock())
        if token is not None:
            self._token, self._failures, self._not_before = token, 0, 0.0
            return
        sentence = f"no token of the managed identity: IMDS answered {answer.status}{_reason(answer)}"
        if answer.status == 410:
            self._failed(Why.BUSY, sentence, UPDATING_WAIT, UPDATING_LAST, answer.retry_after)
        elif answer.status in LATER or answer.status >= 500:
            self._failed(Why.BUSY, sentence, FIRST_WAIT, LAST_WAIT, answer.retry_after)
        else:
            self._failed(Why.BUSY, f"{sentence}; is an identity assigned to this VM?", LAST_WAIT, LAST_WAIT, 0.0)

    def _failed(self, why: Why, sentence: str, first: float, last: float, retry_after: float) -> None:
        wait = max(min(first * 2**self._failures, last), retry_after)
        self._failures = min(self._failures + 1, 16)
        self._not_before = self._clock() + wait
        self._failure = Failed(why, sentence)

    def _failure_at(self, now: float) -> Failed:
        return Failed(self._failure.why, self._failure.sentence, max(0.0, self._not_before - now))


def _read(answer: Response, now: float) -> _Token | None:
    content = answer.json() if answer.status == 200 else {}
    if not isinstance(content, dict) or not isinstance(content.get("access_token"), str):
        return None
    try:
        # `expires_on` is by the calendar of whoever made it; `expires_in` counts from now.
        life = float(content["expires_in"]) if "expires_in" in content else float(content["expires_on"]) - time.time()
    except (KeyError, TypeError, ValueError):
        return None
    return _Token(content["access_token"], now + life / 2, now + max(life - MARGIN, life / 2))


def _reason(answer: Response) -> str:
    content = answer.json()
    told = content.get("error_description") or content.get("error") if isinstance(content, dict) else ""
    return f" ({told[:200]})" if isinstance(told, str) and told else ""
