"""Carries out the calls of `ha/address_fabric.py` in AWS: secondary private addresses of network interfaces.

Of IPv4, one call takes an address from whoever has it, and an Elastic IP that is associated with it goes along; AWS does the same for
no IPv6 address, which is taken off first. No address moves between subnets, so both gateways are in one. The role needs
ec2:DescribeNetworkInterfaces and ec2:AssignPrivateIpAddresses; for IPv6 ec2:AssignIpv6Addresses and ec2:UnassignIpv6Addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from gateway.ha.address_values import AddressCall, Assign, Free, Interface, Operation, Outcome, Place, Placed, Places
from gateway.ha.fabric_values import Done, Failed, Read, Why
from gateway.runtime.aws_calls import AwsCalls
from gateway.runtime.aws_client import AwsAccess

SHARED_ADDRESSES = "shared addresses"
THREADS = 4
HINTS = {
    "UnauthorizedOperation": "; give the instance's role ec2:DescribeNetworkInterfaces and ec2:AssignPrivateIpAddresses "
    "(IPv6: ec2:AssignIpv6Addresses and ec2:UnassignIpv6Addresses)",
    "PrivateIpAddressLimitExceeded": "; this type of instance has no room for it at the interface: take another address off, or use a larger type",
    "InvalidParameterValue": "; is it in the subnet of `id` in [ha.fabric.interface.NAME], and no interface's first address?",
    "InvalidNetworkInterfaceID.NotFound": "; are `id` and `peer_id` in [ha.fabric.interface.NAME] right?",
}


@dataclass(frozen=True, slots=True)
class AwsAddressSettings:
    """`endpoint_url` is for tests and private endpoints; without `region` AWS_DEFAULT_REGION counts, boto3 asks no instance for it."""

    region: str = ""
    endpoint_url: str = ""
    mark: int | None = None


class AwsAddresses:
    """`carry_out` for each AddressCall; any number at once."""

    def __init__(self, settings: AwsAddressSettings) -> None:
        access = AwsAccess("ec2", settings.region, settings.endpoint_url, settings.mark, connections=THREADS)
        self._calls = AwsCalls(access, SHARED_ADDRESSES, HINTS)

    async def carry_out(self, call: AddressCall) -> Outcome:
        """How it ended."""
        interface, operation = call.interface, call.operation
        writes = not isinstance(operation, Read)
        return await self._calls.carry_out(lambda client, _: _done(client, interface, operation), writes)

    async def close(self) -> None:
        await self._calls.close()


# --- in a thread ------------------------------------------------------------------------------------------------------


def _done(client: Any, interface: Interface, operation: Operation) -> Outcome:
    match operation:
        case Read():
            return _read(client, interface)
        case Free(addresses):
            client.unassign_ipv6_addresses(NetworkInterfaceId=interface.theirs, Ipv6Addresses=list(addresses))
        case Assign(addresses):
            _assign(client, interface, addresses)
    return Done()


def _assign(client: Any, interface: Interface, addresses: tuple[str, ...]) -> None:
    of4, of6 = ([one for one in addresses if ip_address(one).version == version] for version in (4, 6))
    if of4:
        client.assign_private_ip_addresses(
            NetworkInterfaceId=interface.ours, PrivateIpAddresses=of4, AllowReassignment=True
        )
    if of6:
        client.assign_ipv6_addresses(NetworkInterfaceId=interface.ours, Ipv6Addresses=of6)


def _read(client: Any, interface: Interface) -> Outcome:
    pair = {"Name": "network-interface-id", "Values": [interface.ours, interface.theirs]}
    found = {
        one["NetworkInterfaceId"]: one
        for one in client.describe_network_interfaces(Filters=[pair])["NetworkInterfaces"]
    }
    ours, theirs = found.get(interface.ours), found.get(interface.theirs)
    if ours is None:
        sentence = (
            f"AWS knows no network interface {interface.ours}; correct `id` in [ha.fabric.interface.{interface.name}]"
        )
        return Failed(Why.REFUSED, sentence)
    seen = {one.address: one for one in (*_placed(theirs or {}, Place.PEER), *_placed(ours, Place.OURS))}
    missing = [one for one in interface.addresses if one not in seen]
    for other in _elsewhere(client, str(ours.get("SubnetId", "")), missing):
        seen |= {one.address: one for one in _placed(other, Place.FOREIGN) if one.address in missing}
    placed = tuple(seen.get(one, Placed(one, Place.ABSENT)) for one in interface.addresses)
    return Places(placed, tuple(_remarks(interface, ours, theirs)))


def _elsewhere(client: Any, subnet: str, addresses: list[str]) -> Iterator[Mapping[str, Any]]:
    """Who else in the subnet has them."""
    for version, name in ((4, "addresses.private-ip-address"), (6, "ipv6-addresses.ipv6-address")):
        values = [one for one in addresses if ip_address(one).version == version]
        if values:
            filters = [{"Name": "subnet-id", "Values": [subnet]}, {"Name": name, "Values": values}]
            yield from client.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]


def _placed(found: Mapping[str, Any], place: Place) -> Iterator[Placed]:
    interface = str(found.get("NetworkInterfaceId", ""))
    for one in found.get("PrivateIpAddresses", ()):
        public = str(one.get("Association", {}).get("PublicIp", ""))
        where = Place.FIXED if one.get("Primary") else place
        yield Placed(str(one["PrivateIpAddress"]), where, interface, public)
    for one in found.get("Ipv6Addresses", ()):
        where = Place.FIXED if one.get("IsPrimaryIpv6") else place
        yield Placed(str(ip_address(one["Ipv6Address"])), where, interface)


def _remarks(interface: Interface, ours: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> Iterator[str]:
    if theirs is None:
        yield f"AWS knows no network interface {interface.theirs}; is `peer_id` in [ha.fabric.interface.{interface.name}] right?"
    elif ours.get("SubnetId") != theirs.get("SubnetId"):
        subnets = f"{ours.get('SubnetId')} and {theirs.get('SubnetId')}"
        yield f"the two interfaces are in {subnets}, and AWS moves no address between subnets: put both gateways in one"
