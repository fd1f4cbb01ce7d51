"""The server's blob leases behave as the storage service documents them: what a witness stands on."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clouds import AzureServer, azure
from support.process import wait_until

pytestmark = pytest.mark.system

ONE, TWO = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with azure(tmp_path_factory.mktemp("blob")) as running:
        yield running


class Blob:
    def __init__(self, server: AzureServer, name: str) -> None:
        self.url = f"{server.url}/blob/witness/{name}"
        assert self.call("PUT", "", {}) == (201, "")

    def call(self, method: str, query: str, headers: dict[str, str]) -> tuple[int, str]:
        """(status, x-ms-error-code)"""
        request = urllib.request.Request(f"{self.url}{query}", b"" if method == "PUT" else None, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                self.headers = answer.headers
                return answer.status, ""
        except urllib.error.HTTPError as error:
            return error.code, error.headers["x-ms-error-code"]

    def lease(self, action: str, lease: str = "", **more: str) -> tuple[int, str]:
        headers = {"x-ms-lease-action": action}
        if lease:
            headers["x-ms-proposed-lease-id" if action == "acquire" else "x-ms-lease-id"] = lease
        return self.call(
            "PUT", "?comp=lease", headers | {f"x-ms-{key.replace('_', '-')}": value for key, value in more.items()}
        )

    def state(self) -> str:
        assert self.call("GET", "", {})[0] == 200
        return str(self.headers["x-ms-lease-state"])


def test_one_holds_a_lease_and_gives_it_back(server: AzureServer):
    blob = Blob(server, "a")
    assert blob.lease("acquire", ONE, lease_duration="15") == (201, "")
    assert blob.state() == "leased"
    assert blob.lease("acquire", TWO, lease_duration="15") == (409, "LeaseAlreadyPresent")
    assert blob.lease("renew", TWO) == (409, "LeaseIdMismatchWithLeaseOperation")
    assert blob.lease("renew", ONE) == (200, "")
    assert blob.lease("change", ONE, proposed_lease_id=TWO) == (200, "")
    assert blob.lease("release", TWO) == (200, "")
    assert blob.state() == "available"
    assert blob.lease("acquire", ONE, lease_duration="10") == (400, "InvalidHeaderValue"), "15 to 60 s, or for ever"


def test_a_lease_that_ends_may_be_taken_or_renewed_by_who_had_it(server: AzureServer):
    blob = Blob(server, "b")
    blob.lease("acquire", ONE, lease_duration="15", test_seconds="0.2")
    wait_until(lambda: blob.state() == "expired", 5, "the end of the lease")
    assert blob.lease("renew", ONE) == (200, ""), "nobody else took it"
    wait_until(lambda: blob.state() == "expired", 5, "the end of the lease")
    assert blob.lease("acquire", TWO, lease_duration="15") == (201, "")
    assert blob.lease("renew", ONE) == (409, "LeaseIdMismatchWithLeaseOperation")


def test_a_broken_lease_is_over_at_once_or_after_its_period_and_is_not_renewed(server: AzureServer):
    blob = Blob(server, "c")
    assert blob.lease("break") == (409, "LeaseNotPresentWithLeaseOperation")
    blob.lease("acquire", ONE, lease_duration="60")
    assert blob.lease("break", lease_break_period="30") == (202, "")
    assert blob.headers["x-ms-lease-time"] == "30"
    assert blob.state() == "breaking"
    assert blob.lease("acquire", TWO, lease_duration="15") == (409, "LeaseAlreadyPresent")
    assert blob.lease("renew", ONE) == (409, "LeaseIsBrokenAndCannotBeRenewed")
    assert blob.lease("break", lease_break_period="0") == (202, "")
    assert blob.state() == "broken"
    assert blob.lease("acquire", TWO, lease_duration="-1") == (201, "")
    assert blob.state() == "leased"


def test_metadata_is_written_by_the_holder_alone(server: AzureServer):
    blob = Blob(server, "d")
    blob.lease("acquire", ONE, lease_duration="15")
    assert blob.call("PUT", "?comp=metadata", {"x-ms-meta-epoch": "7"}) == (412, "LeaseIdMissing")
    wrong = {"x-ms-meta-epoch": "7", "x-ms-lease-id": TWO}
    assert blob.call("PUT", "?comp=metadata", wrong) == (412, "LeaseIdMismatchWithBlobOperation")
    assert blob.call("PUT", "?comp=metadata", {"x-ms-meta-epoch": "7", "x-ms-lease-id": ONE}) == (200, "")
    blob.state()
    assert blob.headers["x-ms-meta-epoch"] == "7"
    etag = blob.headers["ETag"]
    stale = {"x-ms-meta-epoch": "8", "x-ms-lease-id": ONE, "If-Match": '"0x0"'}
    assert blob.call("PUT", "?comp=metadata", stale) == (412, "ConditionNotMet")
    assert blob.call("PUT", "?comp=metadata", stale | {"If-Match": etag}) == (200, "")


def test_a_blob_that_is_there_is_not_made_anew(server: AzureServer, tmp_path: Path):
    blob = Blob(server, "e")
    assert blob.call("PUT", "", {"If-None-Match": "*"}) == (409, "BlobAlreadyExists")
