"""Carries out the calls of `ha/fabric.py` in AWS: routes of VPC route tables, by boto3 in threads of its own.

boto3 is the extra `aws`; without it every call says so. It finds its credentials itself: those of the instance's role by IMDSv2, or
what its environment has. Retries are the core's business, not boto3's. The role needs ec2:DescribeRouteTables, ReplaceRoute,
CreateRoute, DeleteRoute, CreateTags, DescribeNetworkInterfaces; ModifyNetworkInterfaceAttribute only to turn off the source/destination
check, without which AWS drops what a gateway forwards.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.ha.fabric_values import (
    APPLIANCE,
    Call,
    Contents,
    Done,
    Failed,
    Mark,
    Operation,
    Outcome,
    Put,
    Read,
    Remove,
    SeenRoute,
    Verify,
    Why,
    canonical,
)
from gateway.runtime.aws_calls import AwsCalls
from gateway.runtime.aws_client import AwsAccess, line

ROUTE_TABLES = "route tables"
THREADS = 12
CHECK_AGAIN = 300.0
"""So often the source/destination check is looked at."""
_TARGETS = (
    ("GatewayId", "gateway"),
    ("NatGatewayId", "NAT gateway"),
    ("TransitGatewayId", "transit gateway"),
    ("VpcPeeringConnectionId", "VPC peering"),
    ("EgressOnlyInternetGatewayId", "egress-only gateway"),
    ("CarrierGatewayId", "carrier gateway"),
    ("LocalGatewayId", "local gateway"),
    ("CoreNetworkArn", "core network"),
    ("InstanceId", "instance"),
)


@dataclass(frozen=True, slots=True)
class AwsSettings:
    """`interface` is ours. `endpoint_url` is for tests and private endpoints; without `region` AWS_DEFAULT_REGION counts, boto3 asks no instance for it."""

    interface: str
    region: str = ""
    endpoint_url: str = ""
    turn_off_check: bool = False
    mark: int | None = None


class AwsFabric:
    """`carry_out` for each Call; any number at once."""

    def __init__(self, settings: AwsSettings) -> None:
        self._settings = settings
        access = AwsAccess("ec2", settings.region, settings.endpoint_url, settings.mark, connections=THREADS)
        self._calls = AwsCalls(access, ROUTE_TABLES)
        self._remarks: tuple[str, ...] = ()
        self._remarked_at: float | None = None

    async def carry_out(self, call: Call) -> Outcome:
        """How it ended."""
        table, operation = call.table.reference, call.operation
        return await self._calls.carry_out(
            lambda client, errors: self._done(client, table, operation, errors), not isinstance(operation, Read)
        )

    async def close(self) -> None:
        await self._calls.close()

    # --- in a thread ------------------------------------------------------------------------------------------

    def _done(self, client: Any, table: str, operation: Operation, errors: Any) -> Outcome:
        match operation:
            case Read():
                return self._read(client, table, errors)
            case Put(route, replace):
                return self._put(client, table, route, replace, errors)
            case Remove(route):
                return _removed(client, table, route, errors)
            case Mark(key, epoch):
                client.create_tags(Resources=[table], Tags=[{"Key": key, "Value": str(epoch)}])
                return Done()
            case Verify():
                return Failed(Why.REFUSED, "AWS has no effective routes; reading the table shows them")

    def _read(self, client: Any, table: str, errors: Any) -> Outcome:
        found = client.describe_route_tables(RouteTableIds=[table])["RouteTables"]
        if len(found) != 1:
            return Failed(Why.REFUSED, f"AWS knows no route table {table}")
        (content,) = found
        return Contents(
            routes=tuple(_route(item) for item in content.get("Routes", ())),
            tags=tuple((item["Key"], item["Value"]) for item in content.get("Tags", ())),
            subnets=tuple(item.get("SubnetId", "") for item in content.get("Associations", ())),
            remarks=self._checked(client, errors),
        )

    def _put(self, client: Any, table: str, route: SeenRoute, replace: bool, errors: Any) -> Outcome:
        arguments = {"RouteTableId": table, **_destination(route), "NetworkInterfaceId": route.hop}
        if replace:
            try:
                client.replace_route(**arguments)
            except errors.ClientError as error:
                if not _is_missing(error):
                    raise
            else:
                return Done()
        # Where there is a route by now, this one is refused: nobody's is overwritten.
        client.create_route(**arguments)
        return Done()

    def _checked(self, client: Any, errors: Any) -> tuple[str, ...]:
        """What is to be said of the source/destination check; turned off if that is asked for."""
        now = time.monotonic()
        if self._remarked_at is not None and now - self._remarked_at < CHECK_AGAIN:
            return self._remarks
        interface = self._settings.interface
        try:
            (found,) = client.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"]
            on = found.get("SourceDestCheck", True)
            if on and self._settings.turn_off_check:
                client.modify_network_interface_attribute(
                    NetworkInterfaceId=interface, SourceDestCheck={"Value": False}
                )
                on = False
            said = (
                f"the source/destination check of {interface} is on: AWS drops what this gateway forwards; turn it off"
            )
            self._remarks = (said,) if on else ()
        except (errors.ClientError, errors.BotoCoreError) as error:
            self._remarks = (f"whether the source/destination check of {interface} is off is not known: {line(error)}",)
        self._remarked_at = now
        return self._remarks


def _removed(client: Any, table: str, route: SeenRoute, errors: Any) -> Outcome:
    try:
        client.delete_route(RouteTableId=table, **_destination(route))
    except errors.ClientError as error:
        if not _is_missing(error):
            raise
    return Done()


def _is_missing(error: Any) -> bool:
    told = error.response.get("Error", {})
    return told.get("Code") == "InvalidRoute.NotFound" or "no route defined" in str(told.get("Message", ""))


def _destination(route: SeenRoute) -> dict[str, str]:
    return {"DestinationIpv6CidrBlock" if ":" in route.prefix else "DestinationCidrBlock": route.prefix}


def _route(item: Mapping[str, Any]) -> SeenRoute:
    names = ("DestinationCidrBlock", "DestinationIpv6CidrBlock", "DestinationPrefixListId")
    prefix = canonical(next((str(item[name]) for name in names if item.get(name)), ""))
    if item.get("NetworkInterfaceId"):
        return SeenRoute(prefix, APPLIANCE, str(item["NetworkInterfaceId"]))
    found = next(((str(item[name]), kind) for name, kind in _TARGETS if item.get(name)), ("", "unknown"))
    return SeenRoute(prefix, found[1], found[0])
