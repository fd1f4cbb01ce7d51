"""Carries out the calls of `ha/fabric.py` in Azure: routes of route tables (user-defined routes), through ARM.

A write may go on after its answer: then ARM names an operation, which is asked until it ended. Each call is answered in bounded
time, and never raises. The role needs, on the tables: Microsoft.Network/routeTables/read, .../routeTables/routes/{read,write,delete},
Microsoft.Resources/tags/write; to verify, Microsoft.Network/networkInterfaces/effectiveRouteTable/action.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from gateway.ha.fabric_values import (
    Call,
    Contents,
    Done,
    Effective,
    Failed,
    Mark,
    Outcome,
    Put,
    Read,
    Remove,
    SeenRoute,
    Verify,
    Why,
    canonical,
)
from gateway.runtime.azure_identity import ManagedIdentity, Unavailable
from gateway.runtime.cloud_http import CloudHttp, NoAnswer, NotSent, Response

TAGS_API_VERSION = "2021-04-01"
POLLS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Sooner than ARM's Retry-After recommends, which is 10 s: a route is written in one or two. Reads have a quota of their own, and
what ARM refuses (429) is waited out as it says."""
BUSY_CODES = frozenset({
    "AnotherOperationInProgress", "Conflict", "InternalServerError", "RetryableError", "ReferencedResourceNotProvisioned",
    "ServerTimeout", "ServiceUnavailable", "TooManyRequests",
})  # fmt: skip
CONFLICT_CODES = frozenset({"RouteConflict", "PreconditionFailed"})
HINTS = {
    403: "; does the identity have the role on this table?",
    404: "; is the route table's id right, and may the identity see it?",
}


@dataclass(frozen=True, slots=True)
class AzureSettings:
    """Where to call. `operation_seconds` bounds a write from the request to the end of the operation."""

    management_url: str = "https://management.azure.com"
    imds_url: str = "http://169.254.169.254"
    api_version: str = "2025-05-01"
    client_id: str = ""
    request_seconds: float = 15.0
    operation_seconds: float = 90.0


class AzureFabric:
    """`carry_out` for each Call; any number at once."""

    def __init__(self, settings: AzureSettings, http: CloudHttp) -> None:
        self._settings = settings
        self._http = http
        self._base = settings.management_url.rstrip("/")
        self._identity = ManagedIdentity(http, settings.imds_url, f"{self._base}/", settings.client_id)

    async def carry_out(self, call: Call) -> Outcome:
        """How it ended."""
        table = call.table.reference
        match call.operation:
            case Read():
                return await self._read(table)
            case Put(route):
                return await self._write("PUT", self._route(table, route), _body(route))
            case Remove(route):
                return await self._write("DELETE", self._route(table, route))
            case Mark(key, epoch):
                tags = f"{self._base}{table}/providers/Microsoft.Resources/tags/default?api-version={TAGS_API_VERSION}"
                merged = {"operation": "Merge", "properties": {"tags": {key: str(epoch)}}}
                return await self._write("PATCH", tags, merged)
            case Verify(interface):
                return await self._effective(interface)

    async def close(self) -> None:
        await self._identity.close()

    # --- operations -------------------------------------------------------------------------------------------

    async def _read(self, table: str) -> Outcome:
        answer = await self._ask("GET", self._url(table))
        return answer if isinstance(answer, Failed) else _contents(answer.json())

    async def _write(self, method: str, url: str, body: object = None) -> Outcome:
        deadline = time.monotonic() + self._settings.operation_seconds
        answer = await self._ask(method, url, body)
        if isinstance(answer, Failed):
            return answer
        if answer.status in (200, 204) and _state(answer.json()) in ("", "Succeeded"):
            return Done()
        ended = await self._ended(answer, deadline)
        return ended if isinstance(ended, Failed) else Done()

    async def _effective(self, interface: str) -> Outcome:
        deadline = time.monotonic() + self._settings.operation_seconds
        answer = await self._ask("POST", self._url(f"{interface}/effectiveRouteTable"))
        if isinstance(answer, Failed):
            return answer
        ended = answer if answer.status == 200 else await self._ended(answer, deadline, writes=False)
        return ended if isinstance(ended, Failed) else Effective(tuple(_effective_routes(ended.json())))

    async def _ended(self, answer: Response, deadline: float, writes: bool = True) -> Response | Failed:
        """Asks until the operation that the answer names has ended; where it has a result, that is at `Location`."""
        names = ("azure-asyncoperation", "location")
        url = next(
            (answer.headers[name] for name in (names if writes else reversed(names)) if name in answer.headers), ""
        )
        if not url:
            return answer
        if not self._is_ours(url):
            return Failed(
                Why.AMBIGUOUS, f"the operation goes on at {urlsplit(url).hostname}, which is not ARM; it is not asked"
            )
        polls = 0
        wait = POLLS[0]
        while time.monotonic() + wait < deadline:
            await asyncio.sleep(wait)
            polls += 1
            wait = POLLS[min(polls, len(POLLS) - 1)]
            seen = await self._ask("GET", url)
            if isinstance(seen, Failed):
                # Asking again does no harm; what was written stays to be found out.
                if seen.why is Why.REFUSED:
                    return Failed(Why.AMBIGUOUS, seen.sentence)
                wait = max(wait, seen.retry_after)
                continue
            state = _state(seen.json())
            if state in ("Failed", "Canceled"):
                code, sentence = _error(seen.json())
                return Failed(
                    _why_of_code(code, Why.REFUSED), f"the operation ended as {state}: {sentence}", seen.retry_after
                )
            if seen.status != 202 and state in ("", "Succeeded"):
                return seen
        return Failed(Why.AMBIGUOUS, f"the operation did not end within {self._settings.operation_seconds:g} s")

    # --- requests ---------------------------------------------------------------------------------------------

    async def _ask(self, method: str, url: str, body: object = None) -> Response | Failed:
        """A good answer, or what to do about it."""
        writes = method != "GET"
        try:
            token = await self._identity.token()
            headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
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
        if 200 <= answer.status < 300 or (method == "DELETE" and answer.status == 404):
            return answer if answer.status != 404 else Response(204)
        failure = _failure(answer, writes)
        # An error may quote the request; the token stays here all the same.
        return Failed(failure.why, failure.sentence.replace(token, "***"), failure.retry_after)

    def _url(self, path: str) -> str:
        return f"{self._base}{path}?api-version={self._settings.api_version}"

    def _route(self, table: str, route: SeenRoute) -> str:
        return self._url(f"{table}/routes/{quote(route.name, safe='')}")

    def _is_ours(self, url: str) -> bool:
        """Whether a token for ARM may go there: the same scheme and port, the host or one below it."""
        there, here = urlsplit(url), urlsplit(self._base)
        host, home = there.hostname or "", here.hostname or ""
        ports = [parts.port or {"https": 443}.get(parts.scheme, 80) for parts in (there, here)]
        return there.scheme == here.scheme and ports[0] == ports[1] and (host == home or host.endswith(f".{home}"))


def _failure(answer: Response, writes: bool) -> Failed:
    code, told = _error(answer.json())
    sentence = f"ARM answered {answer.status}{f' {code}' if code else ''}{f': {told}' if told else ''}"
    if answer.status >= 500:
        # Of a write that failed within ARM nobody knows how far it came.
        return Failed(Why.AMBIGUOUS if writes else Why.BUSY, sentence, answer.retry_after)
    if code in CONFLICT_CODES or answer.status == 412:
        return Failed(Why.CONFLICT, sentence, answer.retry_after)
    if answer.status in (408, 409, 429):
        return Failed(Why.BUSY, sentence, answer.retry_after)
    why = _why_of_code(code, Why.REFUSED) if answer.status == 400 else Why.REFUSED
    return Failed(why, sentence + HINTS.get(answer.status, ""), answer.retry_after)


def _why_of_code(code: str, otherwise: Why) -> Why:
    if code in CONFLICT_CODES:
        return Why.CONFLICT
    return Why.BUSY if code in BUSY_CODES else otherwise


# --- what ARM says ----------------------------------------------------------------------------------------------------


def _body(route: SeenRoute) -> dict[str, Any]:
    return {
        "properties": {
            "addressPrefix": route.prefix,
            "nextHopType": route.kind,
            "nextHopIpAddress": route.hop,
        }
    }


def _contents(content: Any) -> Outcome:
    properties = _mapping(_mapping(content).get("properties"))
    if not isinstance(properties.get("routes"), list):
        return Failed(Why.BUSY, "ARM's answer is no route table")
    return Contents(
        routes=tuple(_route(_mapping(item)) for item in properties["routes"]),
        tags=tuple((str(key), str(value)) for key, value in _mapping(_mapping(content).get("tags")).items()),
        subnets=tuple(str(_mapping(item).get("id", "")) for item in properties.get("subnets") or ()),
    )


def _route(item: Mapping[str, Any]) -> SeenRoute:
    properties = _mapping(item.get("properties"))
    return SeenRoute(
        prefix=canonical(str(properties.get("addressPrefix", ""))),
        kind=str(properties.get("nextHopType", "")),
        hop=str(properties.get("nextHopIpAddress") or ""),
        name=str(item.get("name", "")),
    )


def _effective_routes(content: Any) -> list[SeenRoute]:
    return [
        SeenRoute(canonical(str(prefix)), str(item.get("nextHopType", "")), next(map(str, item.get("nextHopIpAddress") or ()), ""))
        for item in map(_mapping, _mapping(content).get("value") or ())
        if item.get("state") == "Active"
        for prefix in item.get("addressPrefix") or ()
    ]  # fmt: skip


def _state(content: Any) -> str:
    """Of an operation, or of a resource that is being written."""
    content = _mapping(content)
    state = content.get("status") or _mapping(content.get("properties")).get("provisioningState") or ""
    return state if isinstance(state, str) else ""


def _error(content: Any) -> tuple[str, str]:
    """ARM's code, and its message on one line."""
    error = _mapping(_mapping(content).get("error"))
    code = str(error.get("code") or "")
    message = " ".join(str(error.get("message") or "").split())
    return code, message[:300]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
