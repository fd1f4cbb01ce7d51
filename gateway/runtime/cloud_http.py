"""Calls to the cloud's own services: one HTTP client, with deadlines, marked like everything of ours that leaves by the main table.

No proxy is used, whatever the environment says: the instance's metadata must not be asked of somebody else. Redirects are not
followed, for a token goes where it was meant to go. Not for URLs that a peer names: those are `fetcher.py`'s.

What went wrong is told apart by one question: may the request have been carried out?
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from gateway.runtime.marking import mark_option

CONNECT_SECONDS = 3.0
LONGEST_ANSWER = 8 * 2**20
LONGEST_WAIT = 300.0


class CloudError(Exception):
    """No answer; the sentence names host and reason, never what was sent."""


class NotSent(CloudError):
    """There was no connection, so nothing was carried out."""


class NoAnswer(CloudError):
    """It may have been carried out."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, whatever its status. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)

    def json(self) -> Any:
        """The body as JSON; an empty mapping for what is none."""
        try:
            return json.loads(self.body)
        # JSONDecodeError and UnicodeDecodeError are ValueErrors.
        except (ValueError, RecursionError):
            return {}

    @property
    def retry_after(self) -> float:
        """RFC 9110 10.2.3: seconds or a date; 0 for none, or for nonsense."""
        text = self.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit():
            return min(float(text), LONGEST_WAIT)
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        wait = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        return min(max(wait, 0.0), LONGEST_WAIT)


class CloudHttp:
    """Connections are kept and used again, unless a request must go `once`: nobody may repeat it, not even this client. `tls`: whom
    to believe, and who we are; None: the system's authorities."""

    def __init__(self, mark: int | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._mark = mark
        self._tls = tls
        self._kept: aiohttp.ClientSession | None = None
        self._single: aiohttp.ClientSession | None = None

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: object = None,
        *,
        seconds: float = 15.0,
        once: bool = False,
    ) -> Response:
        """The answer; raises NotSent or NoAnswer. A `body` of octets goes as it is, any other as JSON."""
        session = self._session(once)
        timeout = aiohttp.ClientTimeout(total=seconds, connect=min(CONNECT_SECONDS, seconds))
        octets = body if isinstance(body, bytes) else None
        other = body if octets is None else None
        try:
            async with session.request(
                method, url, headers=headers, data=octets, json=other, timeout=timeout, allow_redirects=False
            ) as answer:
                octets = await answer.content.read(LONGEST_ANSWER + 1)
                while not answer.content.at_eof() and len(octets) <= LONGEST_ANSWER:
                    octets += await answer.content.read(LONGEST_ANSWER)
                if len(octets) > LONGEST_ANSWER:
                    raise NoAnswer(f"{answer.url.host} answered more than {LONGEST_ANSWER} octets")
                return Response(answer.status, {key.lower(): value for key, value in answer.headers.items()}, octets)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSent(_sentence(url, error)) from None
        except aiohttp.InvalidURL as error:
            raise NotSent(f"{error} is no URL") from None
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswer(_sentence(url, error)) from None

    async def close(self) -> None:
        for session in (self._kept, self._single):
            if session is not None:
                await session.close()
        self._kept = self._single = None

    def _session(self, once: bool) -> aiohttp.ClientSession:
        if once:
            if self._single is None:
                self._single = self._made(force_close=True)
                # aiohttp repeats PUT and DELETE after a reset, and has no public switch for it; a test holds this one.
                self._single._retry_connection = False
            return self._single
        if self._kept is None:
            self._kept = self._made(keepalive_timeout=75.0)
        return self._kept

    def _made(self, **options: Any) -> aiohttp.ClientSession:
        tls = True if self._tls is None else self._tls
        connector = aiohttp.TCPConnector(socket_factory=self._socket, limit=32, ttl_dns_cache=600, ssl=tls, **options)
        return aiohttp.ClientSession(connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())

    def _socket(self, address: Any) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._mark is not None:
            made.setsockopt(*mark_option(self._mark))
        return made


def _sentence(url: str, error: Exception) -> str:
    """The host, not the whole URL: its query may name identities."""
    host = url.split("/")[2] if url.count("/") >= 2 else url
    if isinstance(error, TimeoutError):
        return f"{host} did not answer in time"
    return f"{host}: {str(error) or type(error).__name__}"
