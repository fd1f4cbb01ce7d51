"""Carries out the calls of `ha/address_fabric.py` in Azure: secondary ipConfigurations of network interfaces, through ARM.

Azure has no call that moves an address. The other gateway's interface is written without it, then ours with it, each as a whole: what
else it has stays as it was read, and where somebody changed it meanwhile nothing is written (If-Match). A public IP address goes
along. So that it is not forgotten when the gateway ends between the two writes, the first leaves its id as a tag there.

Each write takes ARM from some seconds to tens of them. The identity needs, on both interfaces, Microsoft.Network/networkInterfaces/{read,
write}; on what an interface refers to, virtualNetworks/subnets/join/action, publicIPAddresses/join/action, and
networkSecurityGroups/join/action or applicationSecurityGroups/joinIpConfiguration/action where it has such.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.ha.address_interface import short
from gateway.ha.address_values import AddressCall, Assign, Free, Interface, Outcome, Place, Placed, Places
from gateway.ha.fabric_values import Done, Failed, Read, Why, canonical
from gateway.runtime.arm import Arm, AzureSettings, mapping
from gateway.runtime.cloud_http import CloudHttp

HINTS: dict[int | str, str] = {
    403: "; give the identity Microsoft.Network/networkInterfaces/read and /write on both gateways' interfaces, and the "
    "join actions of their subnets, public addresses and security groups",
    404: "; are `id` and `peer_id` in [ha.fabric.interface.NAME] right, and may the identity see them?",
    "PrivateIPAddressNotInSubnet": "; share an address of the subnet that `id` in [ha.fabric.interface.NAME] is in",
    "PrivateIPAddressIsAllocated": "; take it off there, or share another address in [ha] shared_addresses",
    "PublicIPAddressInUse": "; dissociate it there",
}
TAG = "gw-left-"
"""And the address: the public IP address that it had when it was taken off the interface with this tag."""
LONGEST_TAG = 256
_ALONG = (
    "publicIPAddress",
    "loadBalancerBackendAddressPools",
    "loadBalancerInboundNatRules",
    "applicationGatewayBackendAddressPools",
    "gatewayLoadBalancer",
)
"""What is an address's own in an ipConfiguration; the rest is its interface's."""


class AzureAddresses:
    """`carry_out` for each AddressCall; any number at once."""

    def __init__(self, settings: AzureSettings, http: CloudHttp) -> None:
        self._arm = Arm(settings, http, HINTS)
        self._along: dict[str, dict[str, Any]] = {}
        """By address, as it was last seen somewhere: what goes along."""

    async def carry_out(self, call: AddressCall) -> Outcome:
        """How it ended."""
        match call.operation:
            case Read():
                return await self._read(call.interface)
            case Free(addresses):
                return await self._free(call.interface.theirs, addresses)
            case Assign(addresses):
                return await self._assign(call.interface, addresses)

    async def close(self) -> None:
        await self._arm.close()

    # --- operations -------------------------------------------------------------------------------------------

    async def _read(self, interface: Interface) -> Outcome:
        ours, theirs = await asyncio.gather(self._nic(interface.ours), self._nic(interface.theirs, absent=True))
        if isinstance(ours, Failed):
            return ours
        if isinstance(theirs, Failed):
            return theirs
        seen: dict[str, Placed] = {}
        for nic, place, reference in ((theirs, Place.PEER, interface.theirs), (ours, Place.OURS, interface.ours)):
            for one in nic.configurations:
                address, where = address_of(one), Place.FIXED if _is_primary(one) else place
                seen[address] = Placed(address, where, reference, short(_public(one)))
                self._along[address] = _companions(one)
        placed = tuple(seen.get(one, Placed(one, Place.ABSENT)) for one in interface.addresses)
        return Places(placed, tuple(_remarks(interface, ours, theirs)))

    async def _free(self, reference: str, addresses: tuple[str, ...]) -> Outcome:
        nic = await self._nic(reference)
        if isinstance(nic, Failed):
            return nic
        gone = [one for one in nic.configurations if address_of(one) in addresses and not _is_primary(one)]
        if not gone:
            return Done()
        self._along |= {address_of(one): _companions(one) for one in gone}
        left = {f"{TAG}{address_of(one)}": _public(one) for one in gone if 0 < len(_public(one)) <= LONGEST_TAG}
        return await self._write(nic, [one for one in nic.configurations if one not in gone], {**nic.tags, **left})

    async def _assign(self, interface: Interface, addresses: tuple[str, ...]) -> Outcome:
        nic = await self._nic(interface.ours)
        if isinstance(nic, Failed):
            return nic
        present = {address_of(one) for one in nic.configurations}
        coming = [one for one in addresses if one not in present]
        if not coming:
            return Done()
        if (failure := await self._remember(interface, coming)) is not None:
            return failure
        names = {str(one.get("name")) for one in nic.configurations}
        made = [_configuration(one, nic.primary, self._along.get(one, {}), names) for one in coming]
        tags = {key: value for key, value in nic.tags.items() if key.removeprefix(TAG) not in coming}
        return await self._write(nic, [*nic.configurations, *made], tags)

    async def _remember(self, interface: Interface, addresses: Iterable[str]) -> Failed | None:
        """What goes along with an address that this process never saw anywhere: somebody may have ended in the middle of a move."""
        unknown = [one for one in addresses if one not in self._along]
        if not unknown:
            return None
        theirs = await self._nic(interface.theirs, absent=True)
        if isinstance(theirs, Failed):
            return theirs
        for address in unknown:
            public = theirs.tags.get(f"{TAG}{address}", "")
            self._along[address] = {"publicIPAddress": {"id": public}} if public else {}
        return None

    # --- interfaces -------------------------------------------------------------------------------------------

    async def _nic(self, reference: str, absent: bool = False) -> Nic | Failed:
        answer = await self._arm.ask("GET", self._arm.url(reference), absent=absent)
        if isinstance(answer, Failed):
            return answer
        if answer.status == 404:
            return Nic(reference, {})
        nic = Nic(reference, answer.json())
        if not any(map(_is_primary, nic.configurations)):
            # Written so, it would lose what it does have.
            return Failed(Why.BUSY, f"ARM's answer has no first address of {short(reference)}; it is asked again")
        return nic

    async def _write(self, nic: Nic, configurations: list[Mapping[str, Any]], tags: Mapping[str, str]) -> Outcome:
        content = {key: value for key, value in nic.content.items() if key != "etag"}
        properties = {**mapping(content.get("properties")), "ipConfigurations": configurations}
        body = {**content, "tags": tags, "properties": properties}
        written = await self._arm.write("PUT", self._arm.url(nic.reference), body, str(nic.content.get("etag", "")))
        return written if isinstance(written, Failed) else Done()


class Nic:
    """A network interface as ARM has it; one without content is not there."""

    def __init__(self, reference: str, content: Any) -> None:
        self.reference = reference
        self.content = mapping(content)
        found = mapping(self.content.get("properties")).get("ipConfigurations")
        self.configurations = [mapping(one) for one in found] if isinstance(found, list) else []
        self.tags = {str(key): str(value) for key, value in mapping(self.content.get("tags")).items()}

    @property
    def primary(self) -> Mapping[str, Any]:
        return mapping(next(filter(_is_primary, self.configurations), {}).get("properties"))

    @property
    def subnet(self) -> str:
        return str(mapping(self.primary.get("subnet")).get("id", ""))


def address_of(configuration: Mapping[str, Any]) -> str:
    """Its private address; Azure writes IPv6 as it was given."""
    return canonical(str(mapping(configuration.get("properties")).get("privateIPAddress", ""))).partition("/")[0]


def _is_primary(configuration: Mapping[str, Any]) -> bool:
    return bool(mapping(configuration.get("properties")).get("primary"))


def _public(configuration: Mapping[str, Any]) -> str:
    public = mapping(mapping(configuration.get("properties")).get("publicIPAddress"))
    return str(public.get("id") or "")


def _companions(configuration: Mapping[str, Any]) -> dict[str, Any]:
    properties = mapping(configuration.get("properties"))
    return {key: properties[key] for key in _ALONG if properties.get(key)}


def _configuration(
    address: str, primary: Mapping[str, Any], along: Mapping[str, Any], names: set[str]
) -> dict[str, Any]:
    """In the subnet and the security groups of the interface that it comes to."""
    name = f"gw-{address.replace(':', '-')}"
    properties: dict[str, Any] = {
        "privateIPAddress": address,
        "privateIPAllocationMethod": "Static",
        "privateIPAddressVersion": "IPv6" if ":" in address else "IPv4",
        "primary": False,
        "subnet": primary.get("subnet"),
        **along,
    }
    if groups := primary.get("applicationSecurityGroups"):
        properties["applicationSecurityGroups"] = groups
    return {"name": name if name not in names else f"{name}-shared", "properties": properties}


def _remarks(interface: Interface, ours: Nic, theirs: Nic) -> Iterator[str]:
    key = f"[ha.fabric.interface.{interface.name}]"
    if not theirs.content:
        yield f"ARM knows no network interface {short(interface.theirs)}; is `peer_id` in {key} right?"
    elif ours.subnet.lower() != theirs.subnet.lower():
        subnets = f"{short(ours.subnet)} and {short(theirs.subnet)}"
        yield f"the two interfaces are in {subnets}, and Azure has an address in one subnet only: put both gateways in one"
