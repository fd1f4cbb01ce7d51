"""The record of the lease as an Azure blob: replaced with If-Match on its ETag, made with If-None-Match: *.

The content is the record, so one answer has both and one write changes both. A write that something on the way repeats is refused
the second time, for the ETag is another by then; so kept connections may be used, which save a renewal the TLS handshake.

The identity needs the role "Storage Blob Data Contributor" on the container, which must exist. The blob must be replaced by nobody
else: no life-cycle rule, no immutability policy, no lease; and be asked of the account's primary endpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate

from gateway.ha.recorded_lease import Conflict, Load, Loaded, Reply, Save, Saved, Step
from gateway.ha.witness import Failed
from gateway.runtime.azure_identity import ManagedIdentity, Unavailable
from gateway.runtime.cloud_http import CloudError, CloudHttp, Response

RESOURCE = "https://storage.azure.com/"
API_VERSION = "2021-12-02"
CHANGED = frozenset({"ConditionNotMet", "TargetConditionNotMet", "BlobAlreadyExists", "BlobNotFound"})
"""412, 409 and 404: somebody wrote, made or deleted it since we looked."""
HINTS = {
    "AuthorizationPermissionMismatch": "; has the identity the role Storage Blob Data Contributor on this container?",
    "AuthorizationFailure": "; does the account's network rule let this machine in?",
    "ContainerNotFound": "; the container is not made by us",
    "LeaseIdMissing": "; somebody has an Azure lease on the blob: break it",
}


@dataclass(frozen=True, slots=True)
class BlobSettings:
    """`url` is the blob's own: https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME."""

    url: str
    imds_url: str = "http://169.254.169.254"
    client_id: str = ""
    request_seconds: float = 5.0


class BlobStore:
    """Any number of steps at once."""

    def __init__(self, settings: BlobSettings, http: CloudHttp) -> None:
        self._settings = settings
        self._http = http
        self._identity = ManagedIdentity(http, settings.imds_url, RESOURCE, settings.client_id)

    async def do(self, step: Step) -> Reply:
        """How it went."""
        try:
            token = await self._identity.token()
            answer = await self._asked(step, token)
        except Unavailable as error:
            return Failed(error.failure.sentence)
        except CloudError as error:
            return Failed(str(error))
        if answer.status == 401:
            self._identity.discard(token)
        reply = _loaded(answer) if isinstance(step, Load) else _saved(answer)
        # An error may quote the request; the token stays here all the same.
        return Failed(reply.reason.replace(token, "***")) if isinstance(reply, Failed) else reply

    async def close(self) -> None:
        await self._identity.close()

    async def _asked(self, step: Step, token: str) -> Response:
        headers = {
            "Authorization": f"Bearer {token}",
            "x-ms-version": API_VERSION,
            "x-ms-date": formatdate(usegmt=True),
        }
        url, seconds = self._settings.url, self._settings.request_seconds
        if isinstance(step, Load):
            return await self._http.request("GET", url, headers, seconds=seconds)
        headers |= _condition(step) | {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/json"}
        return await self._http.request("PUT", url, headers, step.content, seconds=seconds)


def _condition(step: Save) -> dict[str, str]:
    return {"If-Match": step.tag} if step.tag else {"If-None-Match": "*"}


def _loaded(answer: Response) -> Reply:
    if answer.status == 200:
        return _tagged(answer, lambda tag: Loaded(answer.body, tag))
    return Loaded(None, "") if _code(answer) == "BlobNotFound" else _failed(answer)


def _saved(answer: Response) -> Reply:
    if answer.status == 201:
        return _tagged(answer, Saved)
    return Conflict() if _code(answer) in CHANGED else _failed(answer)


def _tagged(answer: Response, made: Callable[[str], Reply]) -> Reply:
    tag = answer.headers.get("etag", "")
    return made(tag) if tag else Failed("the answer has no ETag: is this a blob storage?")


def _code(answer: Response) -> str:
    return answer.headers.get("x-ms-error-code", "")


def _failed(answer: Response) -> Failed:
    code = _code(answer)
    return Failed(f"blob storage answered {answer.status}{f' {code}' if code else ''}{HINTS.get(code, '')}")
