"""What [fabric] means for the core of the route tables."""

from __future__ import annotations

from gateway.config.addresses import Address
from gateway.config.model import Config, Fabric
from gateway.ha.fabric_values import FabricSettings, Hops, Ownership, Table

AWS_CALLS_AT_ONCE = 4
"""In one table: AWS takes several, ARM refuses the second."""


def fabric_settings(config: Config) -> FabricSettings | None:
    """None where no route table is ours to write."""
    fabric = config.fabric
    if fabric is None:
        return None
    aws = fabric.cloud == "aws"
    return FabricSettings(
        cluster=fabric.cluster,
        node=config.gateway.name,
        ours=_hops(fabric.network_interface, fabric.address),
        theirs=_hops(fabric.peer_network_interface, fabric.peer_address),
        tables=_tables(fabric),
        ownership=Ownership.PREFIX if aws else Ownership.NAME,
        calls_at_once=AWS_CALLS_AT_ONCE if aws else 1,
        check_interval=fabric.check_interval,
        dry_run=fabric.dry_run,
        gateway_subnet=fabric.gateway_subnet,
        route_server_subnet=fabric.route_server_subnet,
    )


def _tables(fabric: Fabric) -> tuple[Table, ...]:
    return tuple(
        Table(name, table.id, table.prefixes or fabric.prefixes, table.effective_of or "")
        for name, table in fabric.table.items()
    )


def _hops(interface: str | None, addresses: tuple[Address, ...]) -> Hops:
    if interface is not None:
        return Hops(interface, interface)
    by_family = {address.version: str(address) for address in addresses}
    return Hops(by_family.get(4, ""), by_family.get(6, ""))
