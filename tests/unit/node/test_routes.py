"""What the FIB is told of BGP's best paths where some lead into a tunnel that is only a backup, and others always do."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from gateway.bgp.events import BestChanged
from gateway.bgp.path import Attributes, Path
from gateway.node.routes import route_commands
from gateway.routing.model import RemoveRoute, SetRoute, ViaCircuit

PREFIX = ip_network("172.16.1.0/24")
STRICT, BACKUP = "strict", "backup"


def path(connection: str) -> Path:
    end = ip_address("169.254.1.1")
    return Path(PREFIX, f"edge of {connection}", connection, end, Attributes(), end, 65010, True, 1)


def told(change: BestChanged) -> tuple[bool, bool]:
    """Whether it stays closed once learned, and whether it follows the circuit."""
    commands = list(route_commands(change, keep={STRICT}, circuits={BACKUP}))
    routes = {one.source: one for one in commands if isinstance(one, SetRoute)}
    if "circuit-bgp" in routes:
        assert routes["circuit-bgp"].target == ViaCircuit(BACKUP)
    else:
        assert RemoveRoute(PREFIX, "circuit-bgp") in commands
    return routes["bgp"].keep, "circuit-bgp" in routes


def test_what_a_backup_alone_teaches_follows_its_circuit() -> None:
    assert told(BestChanged(PREFIX, path(BACKUP))) == (False, True)
    assert told(BestChanged(PREFIX, path(STRICT))) == (True, False)


@pytest.mark.parametrize("standing_by", [False, True])
@pytest.mark.parametrize(("first", "second"), [(BACKUP, STRICT), (STRICT, BACKUP)])
def test_where_flows_also_take_a_tunnel_that_is_no_backup_nothing_leaves_in_clear(
    first: str, second: str, standing_by: bool
) -> None:
    change = (
        BestChanged(PREFIX, path(first), (), path(second))
        if standing_by
        else BestChanged(PREFIX, path(first), (path(second),))
    )
    assert told(change) == (True, False)


def test_a_circuit_that_is_configured_no_longer_leaves_no_route_behind() -> None:
    for change in (BestChanged(PREFIX, path(BACKUP)), BestChanged(PREFIX, None)):
        assert RemoveRoute(PREFIX, "circuit-bgp") in list(route_commands(change))
