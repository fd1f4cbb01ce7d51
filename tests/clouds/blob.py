"""Blobs with leases, as Azure's storage plays them: available, leased, breaking, broken, expired.

    PUT    /blob/CONTAINER/NAME                 writes it; a leased one only with its lease id; If-Match, If-None-Match: *
    PUT    ...?comp=metadata                    x-ms-meta-*, under the same rule; If-Match
    PUT    ...?comp=lease                       x-ms-lease-action: acquire, renew, change, release, break
    GET    /blob/CONTAINER/NAME                 content, metadata, state of the lease

Leases of 15 to 60 s, or -1 for ever; `x-ms-test-seconds` shortens one for the tests. Who names a version of the protocol must have a
token (`azure.py` looks at it) and say what it makes; without one anything goes, as if the container were everybody's.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from itertools import count
from uuid import uuid4

from aiohttp import web


@dataclass
class Blob:
    content: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    etag: str = ""
    lease: str = ""
    duration: float = 0.0
    ends: float = 0.0
    breaks: float | None = None

    def state(self, now: float) -> str:
        if not self.lease:
            return "available"
        if self.breaks is not None:
            return "breaking" if now < self.breaks else "broken"
        return "leased" if now < self.ends else "expired"

    def is_locked(self, now: float) -> bool:
        return self.state(now) in ("leased", "breaking")


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Blobs:
    def __init__(self) -> None:
        self.blobs: dict[str, Blob] = {}
        self._etags = count(1)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        name = f"{request.match_info['container']}/{request.match_info['name']}"
        try:
            if request.method == "PUT" and request.query.get("comp") == "lease":
                return self._lease(self._existing(name), request)
            if request.method == "PUT":
                return await self._write(name, request)
            if request.method in ("GET", "HEAD"):
                return self._read(self._existing(name))
            raise Refused(405, "UnsupportedHttpVerb")
        except Refused as refused:
            text = f"<?xml version='1.0'?><Error><Code>{refused.code}</Code></Error>"
            headers = {"x-ms-error-code": refused.code}
            return web.Response(status=refused.status, text=text, headers=headers, content_type="application/xml")

    def _existing(self, name: str) -> Blob:
        if name not in self.blobs:
            raise Refused(404, "BlobNotFound")
        return self.blobs[name]

    def _read(self, blob: Blob) -> web.StreamResponse:
        state = blob.state(time.monotonic())
        locked = blob.is_locked(time.monotonic())
        headers = {
            "ETag": blob.etag,
            "x-ms-lease-state": state,
            "x-ms-lease-status": "locked" if locked else "unlocked",
        }
        headers |= {f"x-ms-meta-{key}": value for key, value in blob.metadata.items()}
        return web.Response(text=blob.content, headers=headers)

    async def _write(self, name: str, request: web.Request) -> web.StreamResponse:
        content = await request.text()  # before anything is looked at: from here on nobody comes between
        blob = self.blobs.get(name)
        if "x-ms-version" in request.headers and "x-ms-blob-type" not in request.headers and not request.query:
            raise Refused(400, "MissingRequiredHeader")
        if request.headers.get("If-None-Match") == "*" and blob is not None:
            raise Refused(409, "BlobAlreadyExists")
        if blob is None:
            if request.query.get("comp"):
                raise Refused(404, "BlobNotFound")
            if "If-Match" in request.headers:
                raise Refused(412, "ConditionNotMet")
            blob = self.blobs[name] = Blob()
        elif request.headers.get("If-Match", blob.etag) != blob.etag:
            raise Refused(412, "ConditionNotMet")
        given = request.headers.get("x-ms-lease-id", "")
        if blob.is_locked(time.monotonic()) and given != blob.lease:
            raise Refused(412, "LeaseIdMismatchWithBlobOperation" if given else "LeaseIdMissing")
        if given and not blob.is_locked(time.monotonic()):
            raise Refused(412, "LeaseLost" if blob.lease == given else "LeaseNotPresentWithBlobOperation")
        blob.metadata = {
            key[10:].lower(): value for key, value in request.headers.items() if key.lower().startswith("x-ms-meta-")
        }
        created = request.query.get("comp") != "metadata"
        if created:
            blob.content = content
        blob.etag = f'"0x{next(self._etags):X}"'
        return web.Response(status=201 if created else 200, headers={"ETag": blob.etag})

    def _lease(self, blob: Blob, request: web.Request) -> web.StreamResponse:
        action = request.headers.get("x-ms-lease-action", "")
        given = request.headers.get("x-ms-lease-id", "")
        now = time.monotonic()
        match action:
            case "acquire":
                return self._acquire(blob, request, now)
            case "renew":
                self._holds(blob, given)
                if blob.breaks is not None:
                    raise Refused(409, "LeaseIsBrokenAndCannotBeRenewed")
                blob.ends = now + blob.duration
                return web.Response(headers={"x-ms-lease-id": given, "ETag": blob.etag})
            case "change":
                self._holds(blob, given)
                if not blob.is_locked(now):
                    raise Refused(409, "LeaseNotPresentWithLeaseOperation")
                blob.lease = request.headers["x-ms-proposed-lease-id"]
                return web.Response(headers={"x-ms-lease-id": blob.lease, "ETag": blob.etag})
            case "release":
                self._holds(blob, given)
                blob.lease, blob.breaks = "", None
                return web.Response(headers={"ETag": blob.etag})
            case "break":
                return self._break(blob, request, now)
            case _:
                raise Refused(400, "InvalidHeaderValue")

    def _acquire(self, blob: Blob, request: web.Request, now: float) -> web.StreamResponse:
        proposed = request.headers.get("x-ms-proposed-lease-id") or str(uuid4())
        seconds = int(request.headers.get("x-ms-lease-duration", "0"))
        if seconds != -1 and not 15 <= seconds <= 60:
            raise Refused(400, "InvalidHeaderValue")
        state = blob.state(now)
        if state == "breaking" or (state == "leased" and proposed != blob.lease):
            raise Refused(409, "LeaseAlreadyPresent")
        blob.lease, blob.breaks = proposed, None
        blob.duration = math.inf if seconds == -1 else float(request.headers.get("x-ms-test-seconds", seconds))
        blob.ends = now + blob.duration
        return web.Response(status=201, headers={"x-ms-lease-id": proposed, "ETag": blob.etag})

    def _break(self, blob: Blob, request: web.Request, now: float) -> web.StreamResponse:
        state = blob.state(now)
        if state == "available":
            raise Refused(409, "LeaseNotPresentWithLeaseOperation")
        remaining = max(0.0, (blob.ends if blob.breaks is None else blob.breaks) - now)
        period = request.headers.get("x-ms-lease-break-period")
        # Without a period a lease for ever ends at once, any other when it would have.
        wait = (0.0 if math.isinf(remaining) else remaining) if period is None else min(float(period), remaining)
        blob.breaks = now + wait
        return web.Response(status=202, headers={"x-ms-lease-time": str(math.ceil(wait)), "ETag": blob.etag})

    @staticmethod
    def _holds(blob: Blob, given: str) -> None:
        """An expired lease may be renewed or released by who had it, while nobody else took it."""
        if not given or given != blob.lease:
            raise Refused(409, "LeaseIdMismatchWithLeaseOperation")
