"""The record of the lease as the value of a key in etcd (v3.4 or later), over its JSON gateway: a quorum of one's own machines.

A save is one transaction: put, if the value is still the one we know, or if there is no such key. The value itself is the tag, for no
two are alike. Reads are etcd's own default, linearizable: a member that lost its leader answers none. So any member may be asked, one
after the other until one answers, first the one that answered last; also with a save that a silent member may have carried out, for then
the next one refuses it, and who asks sees that it is there.

etcd's own leases are not used, for the reasons for which Azure's are not (`witness_cloud.py`): they last two seconds at least, by a clock
that begins anew with each new leader, and carry no epoch.

Members are asked by TLS, with a certificate of our own where they ask for one; the files are read again when they change. Not here:
etcd's users and roles, which its JSON gateway knows by name and password only.
"""

from __future__ import annotations

import ssl
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.ha.recorded_lease import Conflict, Load, Loaded, Reply, Save, Saved, Step
from gateway.ha.witness import Failed
from gateway.runtime.cloud_http import CloudError, CloudHttp, Response

HEADERS = {"Content-Type": "application/json"}
SHOWN = 160


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """`endpoints` of one cluster's members; `ca`, `certificate` and `private_key` are PEM files, "" for the system's and for none."""

    endpoints: tuple[str, ...]
    key: str
    ca: str = ""
    certificate: str = ""
    private_key: str = ""
    mark: int | None = None
    request_seconds: float = 2.0


class EtcdStore:
    """Any number of steps at once."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._settings = settings
        self._key = _base64(settings.key.encode())
        self._endpoints = list(settings.endpoints)
        self._files: tuple[tuple[str, int], ...] = ()
        self._http: CloudHttp | None = None

    async def do(self, step: Step) -> Reply:
        """How it went, with whichever member answered."""
        try:
            http = await self._client()
        except (OSError, ssl.SSLError) as error:
            return Failed(f"TLS towards etcd: {error}")
        failed = Failed("etcd has no member")
        for endpoint in tuple(self._endpoints):
            try:
                answer = await self._asked(http, endpoint, step)
            except CloudError as error:
                failed = Failed(str(error))
                continue
            reply = self._told(answer, step) if answer.status == 200 else _refused(answer)
            if not isinstance(reply, Failed):
                self._prefer(endpoint)
                return reply
            failed = Failed(f"{endpoint}: {reply.reason}")
        return failed

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _client(self) -> CloudHttp:
        """With the files as they are now. OSError: one cannot be read; SSLError: it is not what it should be."""
        named = (self._settings.ca, self._settings.certificate, self._settings.private_key)
        files = tuple((name, Path(name).stat().st_mtime_ns) for name in named if name)
        if self._http is None or files != self._files:
            tls = self._tls()
            await self.close()
            self._files, self._http = files, CloudHttp(self._settings.mark, tls)
        return self._http

    def _tls(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.create_default_context(cafile=settings.ca or None)
        if settings.certificate:
            context.load_cert_chain(settings.certificate, settings.private_key or None)
        return context

    async def _asked(self, http: CloudHttp, endpoint: str, step: Step) -> Response:
        what, body = ("range", {"key": self._key}) if isinstance(step, Load) else ("txn", self._transaction(step))
        url = f"{endpoint.rstrip('/')}/v3/kv/{what}"
        return await http.request("POST", url, HEADERS, body, seconds=self._settings.request_seconds)

    def _transaction(self, step: Save) -> dict[str, Any]:
        """etcd compares nothing with a key that is not there, so that never holds."""
        same = {"target": "VALUE", "value": step.tag} if step.tag else {"target": "CREATE", "create_revision": "0"}
        put = {"request_put": {"key": self._key, "value": _base64(step.content)}}
        return {"compare": [{"key": self._key, "result": "EQUAL", **same}], "success": [put]}

    def _told(self, answer: Response, step: Step) -> Reply:
        content = answer.json()
        if not isinstance(content, dict) or "header" not in content:
            return Failed("this is no answer of etcd's")
        if isinstance(step, Save):
            # Its JSON leaves out what is false
            return Saved(_base64(step.content)) if content.get("succeeded") is True else Conflict()
        return _loaded(content.get("kvs") or [])

    def _prefer(self, endpoint: str) -> None:
        if self._endpoints[0] != endpoint:
            self._endpoints.remove(endpoint)
            self._endpoints.insert(0, endpoint)


def _loaded(found: list[Mapping[str, Any]]) -> Reply:
    if not found:
        return Loaded(None, "")
    try:
        tag = found[0]["value"]
        return Loaded(b64decode(tag, validate=True), tag)
    except (KeyError, TypeError, NotBase64, ValueError):
        return Failed("the key has no value, or one that cannot be read")


def _refused(answer: Response) -> Failed:
    content = answer.json()
    said = content.get("message") or content.get("error") if isinstance(content, dict) else ""
    return Failed(f"etcd answered {answer.status} {str(said or '')[:SHOWN]}".rstrip())


def _base64(octets: bytes) -> str:
    return b64encode(octets).decode()
