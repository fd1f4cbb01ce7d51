"""The [fabric] section: the cloud's route tables that lead to whichever gateway of the pair is active."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gateway.config.addresses import AddressField, PrefixField
from gateway.config.types import Duration, Name, Section, Switch


def _cluster(text: str) -> str:
    """Without `-`, so that no pair's names begin like another's."""
    if not re.fullmatch(r"[a-z0-9]{1,16}", text):
        raise ValueError(f"'{text}' is no name of a pair: 1 to 16 small letters and digits")
    return text


Cluster = Annotated[str, AfterValidator(_cluster)]
Text = Annotated[str, Field(min_length=1, max_length=512)]


class FabricTable(Section):
    """One route table of the cloud, that of the users' subnets for instance.

    Azure: nothing is written into a table that GatewaySubnet uses, unless it has VirtualNetwork routes for `gateway_subnet`
    and `route_server_subnet` of [fabric].
    """

    id: Text = Field(description="the cloud's name of it: Azure /subscriptions/.../routeTables/NAME, AWS rtb-...")
    prefixes: tuple[PrefixField, ...] = Field(
        default=(),
        max_length=400,
        description="prefixes that shall lead to the active gateway; default: those of [fabric]",
    )
    effective_of: Text | None = Field(
        default=None,
        description="Azure: a network interface (/subscriptions/.../networkInterfaces/NAME) in a subnet of the table, whose effective routes are looked at after a switch",
    )


class Fabric(Section):
    """Route tables of the cloud ("Route Table To Modify"): the active gateway of the pair writes the routes that lead to it.

    Only routes of the pair are ever written or removed. In Azure they are known by their names, `gw-CLUSTER-...`; the fence is
    a tag of the table. In AWS a route to a configured prefix is the pair's if it points to one of its two network interfaces; any
    other is left, and told. What others change is found by reading every `check_interval`, and repaired by the active gateway. A prefix
    that is taken out of the configuration is removed from the table: in AWS only if it was configured when the daemon started or
    later. A table that is taken out is left as it is.

    The gateway needs an identity: a managed identity of the VM in Azure, a role of the instance in AWS (boto3, the extra `aws`, is
    needed there). Which permissions, says `docs/ARCHITECTURE.md`. Prefer few, wide prefixes: Azure writes one after the other in a
    table, and each takes seconds.
    """

    cloud: Literal["azure", "aws"] = Field(description="whose route tables")
    cluster: Cluster = Field(description="name of the pair, the same on both gateways, in names of routes and tags")
    address: tuple[AddressField, ...] = Field(
        default=(), max_length=2, description="Azure: our next hop in the tables, one for each family that is written"
    )
    peer_address: tuple[AddressField, ...] = Field(
        default=(), max_length=2, description="Azure: the other gateway's next hop in the tables"
    )
    network_interface: Text | None = Field(default=None, description="AWS: our network interface, eni-...")
    peer_network_interface: Text | None = Field(
        default=None, description="AWS: the other gateway's network interface, eni-..."
    )
    prefixes: tuple[PrefixField, ...] = Field(
        default=(), max_length=400, description="prefixes that shall lead to the active gateway, in every table"
    )
    table: dict[Name, FabricTable] = Field(default_factory=dict, description="route tables by name")
    dry_run: Switch = Field(default=False, description="write nothing; `gatewayctl fabric` shows what would be written")
    check_interval: Duration = Field(
        default=60.0, ge=5, le=3600, description="between readings, by which changes of others are found"
    )
    gateway_subnet: PrefixField | None = Field(default=None, description="Azure: the prefix of GatewaySubnet")
    route_server_subnet: PrefixField | None = Field(default=None, description="Azure: the prefix of RouteServerSubnet")
    source_dest_check: Literal["report", "disable"] = Field(
        default="report",
        description="AWS: the check of our network interface that drops what a gateway forwards. report: told where it is on; disable: turned off",
    )
    client_id: Text | None = Field(
        default=None, description="Azure: which managed identity, where the VM has several; default: the VM's own"
    )
    management_url: Text = Field(
        default="https://management.azure.com", description="Azure: ARM, another one in sovereign clouds"
    )
    imds_url: Text = Field(default="http://169.254.169.254", description="Azure: the instance metadata service")
    api_version: Text = Field(default="2025-05-01", description="Azure: api-version of Microsoft.Network")
    region: Text | None = Field(
        default=None,
        description="AWS: the region, e.g. eu-central-1; default: AWS_DEFAULT_REGION of the unit's environment. The instance is not asked for it",
    )
    endpoint_url: Text | None = Field(
        default=None, description="AWS: EC2's endpoint, e.g. a private one; default: the region's"
    )
