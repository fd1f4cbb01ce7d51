"""What keeps a shared address from being announced is told, once; a link that is down for now is not that."""

from __future__ import annotations

import asyncio
import errno
from typing import Any, cast

import pytest

from gateway.node.effects import HoldAddresses
from gateway.runtime import shared_addresses
from gateway.runtime.netlink import Netlink
from gateway.runtime.shared_addresses import SharedAddresses


class OneInterface:
    """The kernel has each address on the same interface."""

    async def hold_address(self, address: Any, held: bool) -> str:
        return "eth0" if held else ""


@pytest.mark.parametrize(
    ("number", "events"),
    [(errno.EAFNOSUPPORT, ["address-not-announced"]), (errno.EPERM, ["address-not-announced"]), (errno.ENETDOWN, [])],
)
def test_what_nobody_may_announce_is_told_once(monkeypatch: pytest.MonkeyPatch, number: int, events: list[str]) -> None:
    tried, told = [], []

    def announce(interface: str, address: Any) -> None:
        tried.append(str(address))
        raise OSError(number, "no")

    monkeypatch.setattr(shared_addresses, "_announce", announce)
    monkeypatch.setattr(shared_addresses, "PAUSES", (0.0, 0.001))

    async def scene() -> None:
        netlink = cast(Netlink, OneInterface())
        addresses = SharedAddresses(netlink, lambda level, event, text: told.append((level, event, text)))
        addresses.want(HoldAddresses(("10.0.1.10",), True))
        while len(tried) < 3:
            await asyncio.sleep(0.001)
        await addresses.close()

    asyncio.run(asyncio.wait_for(scene(), 10))
    assert [event for _, event, _ in told] == events
    assert all("10.0.1.10" in text and "eth0" in text for _, _, text in told)
