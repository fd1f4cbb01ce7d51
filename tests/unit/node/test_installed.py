"""How far a CHILD_SA may go before it is rekeyed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.ike_pair import Pair

from gateway.esp.dataplane import Limits
from gateway.ike.events import ChildInstall
from gateway.node.installed import FUZZ, InstalledChild

LIMITS = Limits(soft_octets=1_000_000, hard_octets=1_100_000, soft_packets=2000, hard_packets=2200)


def installed(spi_in: int) -> InstalledChild:
    pair = Pair()
    pair.establish()
    (event,) = pair.left.seen(ChildInstall)
    return InstalledChild(replace(event, spi_in=spi_in), 0.0)


def test_two_ends_configured_alike_do_not_rekey_at_the_same_packet() -> None:
    """RFC 7296 2.8: "should be jittered". The hard limit stays what it is."""
    found = []
    for spi in range(0x1000_0000, 0x1000_0000 + 0x10000, 0x555):
        inbound, outbound = installed(spi).parameters(1, LIMITS, 64)
        assert inbound.limits == outbound.limits
        assert (inbound.limits.hard_octets, inbound.limits.hard_packets) == (1_100_000, 2200)
        found.append(inbound.limits)
    assert len({one.soft_octets for one in found}) == len(found)
    for one in found:
        assert (1 - FUZZ) * 1_000_000 <= one.soft_octets <= 1_000_000
        assert (1 - FUZZ) * 2000 - 1 <= one.soft_packets <= 2000


@pytest.mark.parametrize(
    ("given", "least"), [(Limits(), Limits()), (replace(Limits(), soft_packets=1), replace(Limits(), soft_packets=1))]
)
def test_off_stays_off_and_the_least_is_one(given: Limits, least: Limits) -> None:
    inbound, _ = installed(0xFFFF).parameters(1, given, 64)
    assert inbound.limits == least
