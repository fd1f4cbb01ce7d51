"""The adapter that [fabric] names: who carries out the calls of `ha/fabric.py`."""

from __future__ import annotations

from gateway.config.model import Fabric
from gateway.runtime.arm import AzureSettings
from gateway.runtime.cloud_http import CloudHttp
from gateway.runtime.fabric_aws import AwsFabric, AwsSettings
from gateway.runtime.fabric_azure import AzureFabric


def cloud_fabric(fabric: Fabric, http: CloudHttp, mark: int | None) -> AzureFabric | AwsFabric:
    """`http` is marked already; boto3 has sockets of its own."""
    if fabric.cloud == "azure":
        return AzureFabric(
            AzureSettings(
                management_url=fabric.management_url,
                imds_url=fabric.imds_url,
                api_version=fabric.api_version,
                client_id=fabric.client_id or "",
            ),
            http,
        )
    return AwsFabric(
        AwsSettings(
            interface=fabric.network_interface or "",
            region=fabric.region or "",
            endpoint_url=fabric.endpoint_url or "",
            # A dry run changes nothing, and neither does it here.
            turn_off_check=fabric.source_dest_check == "disable" and not fabric.dry_run,
            mark=mark,
        )
    )
