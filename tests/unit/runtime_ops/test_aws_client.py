"""What boto3 lacks before it can ask anything is said with the fix."""

from __future__ import annotations

import asyncio

import pytest

from gateway.ha.fabric_values import Failed, Why
from gateway.ha.recorded_lease import Load
from gateway.ha.witness import Failed as NotLoaded
from gateway.runtime.aws_calls import AwsCalls
from gateway.runtime.aws_client import AwsAccess
from gateway.runtime.witness_aws import DynamoSettings, DynamoStore


@pytest.fixture(autouse=True)
def _no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an instance: a role, and nothing in the environment."""
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")


def test_without_a_region_the_section_is_named_and_not_the_role() -> None:
    async def scene() -> Failed:
        calls = AwsCalls(AwsAccess("ec2"), "route tables")
        answer = await calls.carry_out(lambda client, errors: client.describe_route_tables(), writes=False)
        await calls.close()
        assert isinstance(answer, Failed)
        return answer

    found = asyncio.run(scene())
    assert found.why is Why.UNREACHABLE
    assert found.sentence == "You must specify a region.; set `region` in the same section"


def test_nor_does_a_witness_in_the_cloud_guess_it() -> None:
    async def scene() -> NotLoaded:
        store = DynamoStore(DynamoSettings("leases", "vpc1"))
        answer = await store.do(Load())
        await store.close()
        assert isinstance(answer, NotLoaded)
        return answer

    assert asyncio.run(scene()).reason.endswith("; set `region` in the same section")
