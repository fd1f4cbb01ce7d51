"""The [instance.NAME] sections: routing instances, for customers that use the same prefixes."""

from __future__ import annotations

from pydantic import Field

from gateway.config.addresses import PrefixField
from gateway.config.types import Integer, InterfaceName, Section


class Instance(Section):
    """A routing instance: connections and neighbors that hear nothing of any other's prefixes.

    It has a routing table of its own. Looked up there is what comes by its interfaces and out of its tunnels, and nothing
    else; what the table says nothing about goes to the prefixes named `local` by the host's own routes, and else nowhere.
    So two customers may use the same prefixes, and never reach one another.
    """

    table: Integer = Field(ge=256, le=4095, description="kernel routing table of the instance, its alone")
    interfaces: tuple[InterfaceName, ...] = Field(
        default=(), max_length=64, description="interfaces of its subnets; what arrives there belongs to it"
    )
    sources: tuple[PrefixField, ...] = Field(
        default=(),
        max_length=256,
        description="of what arrives there only packets with such a source, where several instances share an interface",
    )
    local: tuple[PrefixField, ...] = Field(
        default=(),
        max_length=256,
        description="prefixes on its side of the gateway: reached by the host's own routes, and announced to its neighbors",
    )
