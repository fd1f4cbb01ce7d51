"""Fetches CRLs and OCSP responses by HTTP: bounded in time, size and number, asked once for all who wait, never followed elsewhere.

What a certificate names is not ours: a URL may not lead to this host, its links or the cloud's services beside it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import aiohttp

from gateway.contract import Fetch
from gateway.runtime.marking import mark_option

log = logging.getLogger(__name__)
SECONDS = 5.0
AT_ONCE, AT_ONE_HOST = 32, 4
"""Fetches under way; a server that does not answer holds up its own only."""
FORBIDDEN = {"168.63.129.16", "fd00:ec2::254"}
"""Beside what is link-local, as 169.254.169.254 is: they trust this host."""


class Fetcher:
    """Answers each Fetch by `answered(ticket, octets or None)`."""

    def __init__(self, mark: int, answered: Callable[[int, bytes | None], None]) -> None:
        self._mark = mark
        self._answered = answered
        self._running: dict[tuple[str, bytes], asyncio.Task[bytes | None]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._by_host: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def fetch(self, effect: Fetch) -> None:
        key = (effect.url, effect.body)
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._bounded(effect), name=f"fetch {effect.url}")
            task.add_done_callback(lambda _: self._running.pop(key, None))
        task.add_done_callback(lambda done: None if done.cancelled() else self._answered(effect.ticket, done.result()))

    async def close(self) -> None:
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _bounded(self, effect: Fetch) -> bytes | None:
        try:
            host = urlsplit(effect.url).netloc
            at_host = self._by_host.setdefault(host, asyncio.Semaphore(AT_ONE_HOST))
            async with asyncio.timeout(2 * SECONDS), at_host, self._places, asyncio.timeout(SECONDS):
                return await self._get(effect)
        except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
            log.warning("%s: %s", effect.url, str(error) or type(error).__name__, extra={"event": "fetch-failed"})
            return None

    async def _get(self, effect: Fetch) -> bytes:
        connector = aiohttp.TCPConnector(socket_factory=self._socket, force_close=True)
        async with aiohttp.ClientSession(connector=connector, trust_env=False, auto_decompress=False) as session:
            method = "POST" if effect.body else "GET"
            headers = {"Content-Type": effect.media} if effect.body else {}
            async with session.request(
                method, effect.url, data=effect.body or None, headers=headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise ValueError(f"answered {response.status}")
                octets = b""
                async for piece in response.content.iter_chunked(65536):
                    octets += piece
                    if len(octets) > effect.limit:
                        raise ValueError(f"more than {effect.limit} octets")
                return octets

    def _is_ours(self, family: int, place: Any) -> bool:
        """To an address of this host the kernel goes from that address."""
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.setsockopt(*mark_option(self._mark))
            probe.connect(place)
            return bool(probe.getsockname()[0] == place[0])

    def _socket(self, address: Any) -> socket.socket:
        """Marked as ours, so that it goes outside of every tunnel; refused where nothing of a CA can be."""
        family, kind, protocol, _, place = address
        host = ip_address(str(place[0]).partition("%")[0])
        mapped = getattr(host, "ipv4_mapped", None) or host
        if (
            mapped.is_loopback
            or mapped.is_link_local
            or mapped.is_multicast
            or mapped.is_unspecified
            or str(mapped) in FORBIDDEN
            or self._is_ours(family, place)
        ):
            raise OSError(errno.EACCES, f"{host} is nobody's CA")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        made.setsockopt(*mark_option(self._mark))
        return made
