"""Network interfaces as ARM has them: read and written as a whole, refused where they would not fit.

Played are the refusals that a move of an address can meet: a resource that changed since it was read (If-Match), an address or a public
address that another interface has, one that is outside of the subnet, a first ipConfiguration that is missing. The errors' codes are
ARM's own.
"""

from __future__ import annotations

import copy
import ipaddress
import re
from dataclasses import dataclass, field
from itertools import count
from typing import Any

NIC = re.compile(
    r"(?i)(/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.Network/networkInterfaces/[^/]+)$"
)
READ_ONLY = ("etag", "id", "name", "type")
Problem = tuple[int, str, str]


@dataclass
class Nic:
    content: dict[str, Any]
    etag: str = ""
    busy_until: float = 0.0

    @property
    def configurations(self) -> list[dict[str, Any]]:
        return list(self.content["properties"]["ipConfigurations"])


@dataclass
class Nics:
    """`subnets`: by the end of their ids, their prefixes."""

    found: dict[str, Nic] = field(default_factory=dict)
    subnets: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._etags = count(1)

    def setup(self, content: dict[str, Any]) -> None:
        self.subnets = content["subnets"]
        self.found = {}
        for reference, nic in content["nics"].items():
            self.put(reference, nic)

    def put(self, reference: str, content: dict[str, Any]) -> None:
        """As it is from now on."""
        nic = self.found.setdefault(reference.lower(), Nic({}))
        nic.etag = f'W/"{next(self._etags):08}"'
        nic.content = copy.deepcopy({key: value for key, value in content.items() if key not in READ_ONLY})
        nic.content["properties"]["provisioningState"] = "Succeeded"
        for one in nic.configurations:
            one["properties"]["provisioningState"] = "Succeeded"

    def shown(self, reference: str) -> dict[str, Any]:
        nic = self.found[reference.lower()]
        own = {"id": reference, "name": reference.rpartition("/")[2], "etag": nic.etag}
        return {**own, "type": "Microsoft.Network/networkInterfaces", **nic.content}

    def all(self) -> dict[str, Any]:
        return {reference: self.shown(reference) for reference in self.found}

    def problem(self, reference: str, wanted: Any, etag: str) -> Problem | None:
        """What ARM would refuse about it: status, code, message."""
        nic = self.found[reference.lower()]
        if etag not in ("", "*", nic.etag):
            return 412, "PreconditionFailed", "Precondition failed."
        configurations = wanted["properties"].get("ipConfigurations", ())
        firsts = [one for one in configurations if one["properties"].get("primary")]
        if not configurations:
            return 400, "InvalidIPConfigCount", "Network interface must have one or more IP configurations."
        if [one["name"] for one in firsts] != [
            one["name"] for one in nic.configurations if one["properties"].get("primary")
        ]:
            return (
                400,
                "IpConfigDeleteNotSupported",
                "Deletion and renaming of primary IP Configuration is not supported",
            )
        if len({one["name"] for one in configurations}) < len(configurations):
            return 400, "DuplicateResourceName", "Resource has two child resources with the same name."
        return next(filter(None, (self._misfit(reference.lower(), one["properties"]) for one in configurations)), None)

    def _misfit(self, reference: str, properties: dict[str, Any]) -> Problem | None:
        address, public = properties["privateIPAddress"], properties.get("publicIPAddress", {}).get("id")
        subnet = properties["subnet"]["id"]
        if ipaddress.ip_address(address) not in ipaddress.ip_network(self.subnets[subnet.rpartition("/")[2]]):
            return (
                400,
                "PrivateIPAddressNotInSubnet",
                f"Private static IP address {address} does not belong to the range of subnet prefix.",
            )
        for other, nic in self.found.items():
            for one in nic.configurations if other != reference else ():
                theirs = one["properties"]
                if (theirs["privateIPAddress"], theirs["subnet"]["id"]) == (address, subnet):
                    return 400, "PrivateIPAddressIsAllocated", f"{address} is already allocated to resource {other}."
                if public and theirs.get("publicIPAddress", {}).get("id") == public:
                    return 400, "PublicIPAddressInUse", f"{public} is already allocated to resource {other}."
        return None
