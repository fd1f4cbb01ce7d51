"""The addresses that only the active gateway of a pair has: on this host or not, and its neighbors on the link told.

Added as /32 or /128, so that no route comes or goes with them, to the interface whose network has them. What has the same address with
another length was put there by somebody else and is left alone. On a link whose switch does not learn from what we announce, as in a
cloud, the cloud has to be told as well, which happens beside this (`ha/address_fabric.py`).
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain, repeat
from struct import Struct

from gateway.node.effects import HoldAddresses
from gateway.runtime.netlink import Netlink

PAUSES = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds between announcements, the last one for ever; a neighbor that missed the first hears another."""
_ETH_P_ARP = 0x0806
_ARP = Struct(">6s6sHHHBBH6s4s6s4s")
_EVERYBODY = b"\xff" * 6
_NA = Struct(">BBHB3x16sBB6s")  # RFC 4861 4.4 and the option of 4.6.1
_NEIGHBOR_ADVERTISEMENT, _OVERRIDE, _TARGET_LINK_LAYER, _HOPS = 136, 0x20, 2, 255

_FORBIDDEN = {
    errno.EAFNOSUPPORT: "this service may not open packet sockets; its unit needs RestrictAddressFamilies=AF_PACKET",
    errno.EPERM: "packet sockets need CAP_NET_RAW",
    errno.EACCES: "packet sockets need CAP_NET_RAW",
}

Tell = Callable[[str, str, str], None]
"""Level, event, text."""


class SharedAddresses:
    """The last order counts, and is carried out again and again: a link that was down, or somebody else, may undo it."""

    def __init__(self, netlink: Netlink, tell: Tell) -> None:
        self._netlink, self._tell = netlink, tell
        self._turn = asyncio.Lock()
        self._wanted = HoldAddresses((), False)
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: set[str] = set()

    def want(self, effect: HoldAddresses) -> None:
        if effect == self._wanted:
            return
        self._wanted = effect
        for text in effect.addresses:
            task = asyncio.create_task(self._tend(effect, text), name="shared-address")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """None is left on a host whose daemon ends."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._wanted = HoldAddresses(self._wanted.addresses, False)
        for text in self._wanted.addresses:
            await self._move(self._wanted, text)

    async def _tend(self, effect: HoldAddresses, text: str) -> None:
        for pause in chain(PAUSES, repeat(PAUSES[-1])):
            await asyncio.sleep(pause)
            interface = await self._move(effect, text)
            if effect is not self._wanted:
                return
            if interface:
                self._announce(interface, text)

    def _announce(self, interface: str, text: str) -> None:
        """Told once where it can never be done; a link that is down is announced on when it is there."""
        try:
            _announce(interface, ip_address(text))
        except OSError as error:
            if (why := _FORBIDDEN.get(error.errno or 0)) is not None and why not in self._told:
                self._told.add(why)
                what = f"that the shared address {text} is here is told nobody on {interface}"
                self._tell(
                    "error", "address-not-announced", f"{what}, whose neighbors send to the other gateway: {why}"
                )

    async def _move(self, effect: HoldAddresses, text: str) -> str:
        """The interface it is on now; "" for none."""
        async with self._turn:
            if effect is not self._wanted:
                return ""
            try:
                return await self._netlink.hold_address(ip_address(text), effect.held)
            except OSError as error:
                verb = "be added to" if effect.held else "be taken off"
                self._tell("error", "address-not-moved", f"the shared address {text} cannot {verb} this host: {error}")
                return ""


def _announce(interface: str, address: IPv4Address | IPv6Address) -> None:
    if isinstance(address, IPv4Address):
        _announce4(interface, address)
    else:
        _announce6(interface, address)


def _announce4(interface: str, address: IPv4Address) -> None:
    """A gratuitous ARP request (RFC 5227 3: the announcement), which every neighbor's table follows."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as made:
        made.bind((interface, _ETH_P_ARP))
        mac = made.getsockname()[4]
        packed = address.packed
        made.send(_ARP.pack(_EVERYBODY, mac, _ETH_P_ARP, 1, 0x0800, 6, 4, 1, mac, packed, bytes(6), packed))


def _announce6(interface: str, address: IPv6Address) -> None:
    """An unsolicited neighbor advertisement with the override flag (RFC 4861 7.2.6); the kernel fills in the checksum."""
    index = socket.if_nametoindex(interface)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as asked:
        asked.bind((interface, 0))
        mac = asked.getsockname()[4]
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as made:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)
        made.bind((str(address), 0, 0, index))
        octets = _NA.pack(_NEIGHBOR_ADVERTISEMENT, 0, 0, _OVERRIDE, address.packed, _TARGET_LINK_LAYER, 1, mac)
        made.sendto(octets, ("ff02::1", 0, 0, index))
