"""What [ha.fabric] means for the core of the shared addresses."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.config.addresses import Address
from gateway.config.model import HaFabric, HaPeer
from gateway.ha.address_values import AddressSettings, Interface


def address_settings(ha: HaPeer) -> AddressSettings | None:
    """None where no cloud is to be told."""
    fabric = ha.fabric
    if fabric is None or not ha.shared_addresses:
        return None
    interfaces = tuple(
        Interface(
            name,
            one.id,
            one.peer_id,
            tuple(map(str, one.addresses or ha.shared_addresses)),
            frozenset(_freed(fabric, one.addresses or ha.shared_addresses)),
        )
        for name, one in fabric.interface.items()
    )
    return AddressSettings(interfaces, fabric.check_interval, fabric.dry_run)


def _freed(fabric: HaFabric, addresses: Iterable[Address]) -> Iterable[str]:
    """Who has them must let go first: always in Azure, and in AWS of IPv6, of which it reassigns none."""
    return (str(one) for one in addresses if fabric.cloud == "azure" or one.version == 6)
