"""What moto 5.2 leaves out of addresses of network interfaces, played as AWS does it.

moto takes no notice of AllowReassignment: it assigns an address that another interface has to both of them, with or without. AWS takes it
from the other, and the Elastic IP with it, or refuses where reassignment is not allowed; it never moves an interface's first address.
Of IPv6 it reassigns none. And moto compares the filters on addresses with first addresses only.
"""

from __future__ import annotations

from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.elastic_network_interfaces import NetworkInterface, NetworkInterfaceBackend
from moto.ec2.responses.elastic_network_interfaces import ElasticNetworkInterfaces


def complete() -> None:
    """Of this process."""
    ElasticNetworkInterfaces.assign_private_ip_addresses = _assigned(
        ElasticNetworkInterfaces.assign_private_ip_addresses
    )
    NetworkInterfaceBackend.assign_ipv6_addresses = _assigned6(NetworkInterfaceBackend.assign_ipv6_addresses)
    NetworkInterface.get_filter_value = _filtered(NetworkInterface.get_filter_value)


def _assigned(original: Any) -> Any:
    def assign(self: Any) -> Any:
        ours = self.ec2_backend.get_network_interface(self._get_param("NetworkInterfaceId"))
        for address in self._get_param("PrivateIpAddresses", []):
            for other in _others(self.ec2_backend, ours):
                taken = [one for one in other.private_ip_addresses if one["PrivateIpAddress"] == address]
                if taken and (taken[0].get("Primary") or self._get_param("AllowReassignment") not in (True, "true")):
                    raise EC2ClientError("InvalidParameterValue", f"[{address}] is assigned to {other.id}")
                other.private_ip_addresses = [one for one in other.private_ip_addresses if one not in taken]
        return original(self)

    return assign


def _assigned6(original: Any) -> Any:
    def assign(self: Any, eni_id: str, ipv6_addresses: list[str] | None = None, ipv6_count: int | None = None) -> Any:
        for other in _others(self, self.get_network_interface(eni_id)):
            if set(other.ipv6_addresses) & set(ipv6_addresses or ()):
                raise EC2ClientError("InvalidIPAddress.InUse", f"in use by {other.id}")
        return original(self, eni_id, ipv6_addresses, ipv6_count)

    return assign


def _filtered(original: Any) -> Any:
    def value(self: Any, filter_name: str, method_name: str | None = None) -> Any:
        if filter_name == "addresses.private-ip-address":
            return [one["PrivateIpAddress"] for one in self.private_ip_addresses]
        if filter_name == "ipv6-addresses.ipv6-address":
            return list(self.ipv6_addresses)
        return original(self, filter_name, method_name)

    return value


def _others(backend: Any, ours: Any) -> list[Any]:
    return [one for one in backend.enis.values() if one.id != ours.id and one.subnet.id == ours.subnet.id]
