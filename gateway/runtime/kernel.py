"""The kernel's network state, synchronously, by raw rtnetlink; what only a cleanup needs by pyroute2.

Everything here blocks and belongs to one thread: netlink.py gives it one of its own, cleanup.py uses it directly.
Touches only what is ours: our table and protocol, our rules, devices with our name prefix.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError as PyrouteError

from gateway.config.model import Gateway
from gateway.node.instances import InstanceSettings
from gateway.routing.model import OWN_TABLE, Address, Dump, Op, OpError, Prefix, Resolution, RouteKind
from gateway.runtime import rtlinks, tun
from gateway.runtime.instance_rules import instance_rules
from gateway.runtime.rtlinks import IPV6_MINIMUM_MTU, RTM_GETADDR, Interface
from gateway.runtime.rtnetlink import RT_TABLE_MAIN, KernelRoute, NetlinkError, Request, RouteSocket, our_entries
from gateway.runtime.rules import (
    GOTO,
    RTM_GETRULE,
    Entries,
    Rule,
    decode_rule,
    difference,
    rule_dump,
    wanted_rules,
)

# rtm_protocol of routes that mean "this prefix is on this link": kernel, router advertisement, DHCP.
_CONNECTED_ORIGINS = (2, 9, 16)
_IFF_LOWER_UP = 0x10000


@dataclass(frozen=True, slots=True)
class Device:
    """A leftover candidate: one TUN with our name prefix."""

    index: int
    name: str
    in_use: bool  # some process has its fd open


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """How one of our TUNs is to be."""

    name: str
    mtu: int
    addresses: tuple[Interface, ...] = ()
    up: bool = True
    fresh: bool = False  # just made, so that nothing is lost by another queueing discipline


class Kernel:
    """Thread-bound; close() when done."""

    def __init__(self, settings: Gateway) -> None:
        self._settings = settings
        self._routes = RouteSocket()
        # A loop of its own: pyroute2 cannot run on a uvloop loop.
        self._loop = asyncio.SelectorEventLoop()
        self._ip = IPRoute(use_event_loop=self._loop)
        self.ipv6 = Path("/proc/net/if_inet6").exists()

    @property
    def port(self) -> int:
        """Sender of our route changes in notifications."""
        return self._routes.port

    def close(self) -> None:
        self._ip.close()
        self._routes.close()
        if not self._loop.is_closed():
            self._loop.close()

    def apply(self, ops: Sequence[Op], table: int = OWN_TABLE) -> dict[int, OpError]:
        """All operations in order; errors by position."""
        return self._routes.apply(ops, table or self._settings.route_table, self._settings.route_protocol)

    def dump(self, table: int = OWN_TABLE) -> Dump:
        """Our routes of one table and nexthops, and every nexthop id in use."""
        nexthops = self._routes.nexthops()
        protocol = self._settings.route_protocol
        routes = self._routes.routes(table or self._settings.route_table, protocol)
        return Dump(tuple(our_entries(routes, nexthops, protocol)), frozenset(nexthop.id for nexthop in nexthops))

    def ensure_rules(
        self, entries: Entries, remove: bool = True, instances: Sequence[InstanceSettings] = ()
    ) -> list[str]:
        """Adds what is missing, then (`remove`) takes away rules of ours that are no longer wanted; says what it did."""
        links = [name for _, name in socket.if_nameindex() if not name.startswith(tun.PREFIX) and name != "lo"]
        wanted, done = wanted_rules(self._settings, self.ipv6, entries, links), []
        for family in (socket.AF_INET, socket.AF_INET6) if self.ipv6 else (socket.AF_INET,):
            # Before our own table is looked up
            wanted = instance_rules(family, self._settings.rule_priority, instances, entries) + wanted
        missing, surplus = difference(wanted, self.rules())
        protocol = self._settings.route_protocol
        # What a goto leads to is complete before it leads there
        for chosen in ([r for r in missing if r.action != GOTO], [r for r in missing if r.action == GOTO]):
            self._exchange([(str(rule), rule.add(protocol)) for rule in chosen])
            done += [f"added {rule}" for rule in chosen]
        if remove:
            done += self.remove_rules(surplus)
            if any(rule.action == GOTO for rule in surplus):
                # The kernel does not tell two gotos from one place apart: it may have taken the other
                lost, _ = difference(wanted, self.rules())
                self._exchange([(str(rule), rule.add(protocol)) for rule in lost])
        return done

    def rules(self) -> list[Rule]:
        """The rules with our protocol, as they are to be removed: gotos first, then the last first, for a rule that leads
        into our table goes before its exceptions."""
        found = []
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)) if self.ipv6 else ((4, socket.AF_INET),):
            for message in self._routes.dump(RTM_GETRULE, rule_dump(family), version):
                protocol, rule = decode_rule(message.body)
                if protocol == self._settings.route_protocol:
                    found.append(rule)
        return sorted(sorted(found, reverse=True), key=lambda rule: rule.action != GOTO)

    def remove_rules(self, rules: Iterable[Rule]) -> list[str]:
        going = list(rules)
        protocol = self._settings.route_protocol
        self._exchange([(str(rule), rule.remove(protocol)) for rule in going], gone=(errno.ENOENT,))
        return [f"removed {rule}" for rule in going]

    def configure_link(
        self,
        name: str,
        mtu: int,
        addresses: Sequence[Interface],
        up: bool = True,
    ) -> int:
        """MTU, exactly these addresses (link-local apart), up or down; returns the index."""
        (outcome,) = self.configure_links([LinkSettings(name, mtu, tuple(addresses), up)])
        if isinstance(outcome, NetlinkError):
            raise outcome
        return outcome

    def configure_links(self, links: Sequence[LinkSettings]) -> list[int | NetlinkError]:
        """Of each its index, or why it is not as wanted: then it is not up either.

        Step by step for all of them: a link that comes up makes the kernel work on it, and the next request wait for that.
        """
        outcomes: dict[str, int | NetlinkError] = {}
        for link in links:
            found = self.link_index(link.name)
            missing = NetlinkError(errno.ENODEV, f"interface {link.name} does not exist")
            outcomes[link.name] = missing if found is None else found
        fresh = [i for link in links if link.fresh and isinstance(i := outcomes[link.name], int)]
        # A kernel without disciplines refuses, and needs none
        self._routes.exchange([rtlinks.no_queue(index) for index in fresh])
        for step in (self._mtu, self._inside, self._state):
            requests = [
                (link.name, request)
                for link in links
                if isinstance(index := outcomes[link.name], int)
                for request in step(index, link)
            ]
            errors = self._routes.exchange([request for _, request in requests])
            for position, error in errors.items():
                name = requests[position][0]
                outcomes[name] = NetlinkError(error.number, f"interface {name}: {error.text}")
        return [outcomes[link.name] for link in links]

    def _mtu(self, index: int, link: LinkSettings) -> list[Request]:
        return [rtlinks.set_mtu(index, link.mtu)]

    def _inside(self, index: int, link: LinkSettings) -> list[Request]:
        wanted = frozenset(link.addresses)
        bodies = (message.body for message in self._routes.dump(RTM_GETADDR, rtlinks.addresses_of(index)))
        present = rtlinks.decode_addresses(bodies, index)
        requests = [rtlinks.no_generated_address(index)] if self.ipv6 and link.mtu >= IPV6_MINIMUM_MTU else []
        requests += [rtlinks.delete_address(index, address) for address in sorted(present - wanted, key=str)]
        return requests + [rtlinks.add_address(index, address) for address in sorted(wanted - present, key=str)]

    def _state(self, index: int, link: LinkSettings) -> list[Request]:
        return [rtlinks.set_up(index, link.up)]

    def delete_links(self, names: Sequence[str]) -> None:
        """All at once; those that are gone already are no error."""
        indexes = [index for name in names if (index := self.link_index(name)) is not None]
        self._exchange([(f"interface {index}", rtlinks.leave(index)) for index in indexes], gone=(errno.ENODEV,))
        if indexes:
            self._exchange([("our interfaces", rtlinks.delete_leaving())], gone=(errno.ENODEV,))

    def link_index(self, name: str) -> int | None:
        """None if there is no such device."""
        try:
            return socket.if_nametoindex(name)
        except OSError:
            return None

    def tuns(self) -> list[Device]:
        """TUN devices with our prefix."""
        return [
            Device(link["index"], link.get_attr("IFLA_IFNAME"), bool(link["flags"] & _IFF_LOWER_UP))
            for link in self._ip.get_links()
            if link.get_attr("IFLA_IFNAME").startswith(tun.PREFIX) and _kind(link) == "tun"
        ]

    def delete_link(self, device: Device) -> None:
        with _named(f"interface {device.name}"):
            self._ip.link("del", index=device.index)

    def connected_prefixes(self) -> list[Prefix]:
        """Prefixes on this host's links, our TUNs and the loopback apart."""
        skip = {index for index, name in socket.if_nameindex() if name.startswith(tun.PREFIX) or name == "lo"}
        found = {route.prefix for route in self._routes.routes(RT_TABLE_MAIN) if _is_connected(route, skip)}
        return sorted(found, key=lambda prefix: (prefix.version, prefix))

    def interface_for(self, next_hop: Address) -> Resolution | None:
        """How the main table reaches `next_hop`. It is asked with our mark, which our own table is closed to: a route would
        resolve its own next hop. While a rule of an older version stands that is not so, and what our table says does not
        count."""
        try:
            route = self._routes.route_to(next_hop, self._settings.mark)
        except NetlinkError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES):
                return None
            raise
        if route.kind != RouteKind.UNICAST or not route.interface or route.multipath:
            return None
        # RFC 4271 9.1.2.1
        if route.table == self._settings.route_table:
            return None
        return Resolution(route.gateway or next_hop, route.interface)

    def interfaces_towards(self, addresses: Sequence[Address]) -> list[str]:
        """Names of the devices by which the main table reaches these; those it does not reach are left out."""
        found = [self.interface_for(address) for address in addresses]
        indexes = dict.fromkeys(one.interface for one in found if one is not None)
        return [name for index in indexes for name in [self._name_of(index)] if name]

    def hold_address(self, address: Address, held: bool) -> str:
        """The whole address, without a network, on the interface whose network has it, or on none; the interface it is on now, or ""."""
        whole = ip_interface(address)
        bodies = (message.body for message in self._routes.dump(RTM_GETADDR, rtlinks.addresses_of(0)))
        present = rtlinks.holders(bodies, whole)
        if not held:
            gone = [(f"{address}", rtlinks.delete_address(index, whole)) for index in present]
            self._exchange(gone, gone=(errno.EADDRNOTAVAIL, errno.ENODEV))
            return ""
        if not present:
            found = self.interface_for(address)
            if found is None:
                raise NetlinkError(errno.ENETUNREACH, "no interface has a network with it")
            self._exchange([(f"{address}", rtlinks.add_address(found.interface, whole))], gone=(errno.EEXIST,))
            present = [found.interface]
        return self._name_of(present[0])

    def _name_of(self, index: int) -> str:
        try:
            return socket.if_indextoname(index)
        except OSError:
            return ""  # gone since

    def _exchange(self, requests: Sequence[tuple[str, Request]], gone: tuple[int, ...] = ()) -> None:
        """NetlinkError names the first that was refused; `gone`: errors that say there is nothing to do."""
        errors = self._routes.exchange([request for _, request in requests])
        for position, error in sorted(errors.items()):
            if error.number not in gone:
                raise NetlinkError(error.number, f"{requests[position][0]}: {error.text}")


@contextmanager
def _named(what: str) -> Iterator[None]:
    """pyroute2's error with the object's name, as one of ours."""
    try:
        yield
    except PyrouteError as error:
        raise NetlinkError(error.code, f"{what}: {os.strerror(error.code)}") from error


def _kind(link: Any) -> str:
    information = link.get_attr("IFLA_LINKINFO")
    return str(information.get_attr("IFLA_INFO_KIND")) if information else ""


def _is_connected(route: KernelRoute, skip: set[int]) -> bool:
    on_link = route.interface and route.interface not in skip and route.gateway is None and not route.multipath
    return bool(
        on_link and route.kind == RouteKind.UNICAST and route.prefix.prefixlen and route.protocol in _CONNECTED_ORIGINS
    )
