"""The adapter that [ha.fabric] names: who carries out the calls of `ha/address_fabric.py`."""

from __future__ import annotations

from gateway.config.model import HaFabric
from gateway.runtime.addresses_aws import AwsAddresses, AwsAddressSettings
from gateway.runtime.addresses_azure import AzureAddresses
from gateway.runtime.arm import AzureSettings
from gateway.runtime.cloud_http import CloudHttp


def address_cloud(fabric: HaFabric, http: CloudHttp, mark: int | None) -> AzureAddresses | AwsAddresses:
    """`http` is marked already; boto3 has sockets of its own."""
    if fabric.cloud == "aws":
        return AwsAddresses(AwsAddressSettings(fabric.region or "", fabric.endpoint_url or "", mark))
    return AzureAddresses(
        AzureSettings(
            management_url=fabric.management_url,
            imds_url=fabric.imds_url,
            api_version=fabric.api_version,
            client_id=fabric.client_id or "",
        ),
        http,
    )
