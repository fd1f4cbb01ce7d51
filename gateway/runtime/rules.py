"""Our ip rules: which there should be, and how one looks on the wire. kernel.py puts them there.

In the order of their priorities, for each family; the first rule whose lookup finds a route decides:

    +0      our own marked traffic            lookup main
    +1, +2  our own to the platform           lookup main        IPv4 only
    +1, +2  what a TUN let in, to the same    blackhole          whatever routes main has: the platform trusts this host
    +3      everything                        lookup our table
    +4      what a TUN let in                 lookup main, but no default route, whole or in pieces
    +5      what a TUN let in, to a prefix    lookup main        one for each prefix the configuration names as ours
    +6      what a TUN let in                 blackhole

The last three are the entry guard, one set per TUN, and one for each of our addresses inside the tunnel, whose answers
have no other way either. Without it a packet from a tunnel whose destination nobody has taught us yet would take main's
default route and leave in clear on the link it came in by, encrypted.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from gateway.config.model import Gateway
from gateway.routing.guard import PLATFORM
from gateway.routing.model import Address, Prefix
from gateway.runtime.rtnetlink import RT_TABLE_MAIN


@dataclass(frozen=True, slots=True)
class Entry:
    """One TUN: the prefixes beyond main's default route that what it lets in may reach, and our addresses on it."""

    destinations: tuple[Prefix, ...] = ()
    addresses: tuple[Address, ...] = ()


Entries = Mapping[str, Entry]
"""By TUN."""

LOOKUP, BLACKHOLE = 1, 6  # FR_ACT_TO_TBL, FR_ACT_BLACKHOLE
ANY_LENGTH = -1
# The kernel's name for the device that locally generated packets come from.
_OURSELVES = "lo"
# Up to these lengths a route of main's is a default route or a piece of one: 0.0.0.0/1 and 128.0.0.0/1, 2000::/3.
_DEFAULT: dict[int, int] = {socket.AF_INET: 7, socket.AF_INET6: 6}
_ABSENT = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """One ip rule of ours: `fwmark`, `destination`, `interface` and `source` select, unset means all."""

    family: int  # AF_INET or AF_INET6
    priority: int
    table: int  # 0 for a blackhole
    fwmark: int = 0
    destination: str = ""  # a prefix
    interface: str = ""  # by which the packet came
    suppress: int = ANY_LENGTH  # routes of at most this prefix length do not count
    action: int = LOOKUP
    source: str = ""  # a prefix

    def __str__(self) -> str:
        selectors = [f"fwmark {self.fwmark:#x}"] if self.fwmark else []
        selectors += [f"from {self.source}"] if self.source else []
        selectors += [f"to {self.destination}"] if self.destination else []
        selectors += [f"iif {self.interface}"] if self.interface else []
        does = "blackhole" if self.action == BLACKHOLE else f"lookup {self.table}"
        suppressed = f" suppress_prefixlength {self.suppress}" if self.suppress != ANY_LENGTH else ""
        version = 4 if self.family == socket.AF_INET else 6
        return f"IPv{version} rule {self.priority}: {' '.join(selectors) or 'from all'} {does}{suppressed}"

    def request(self) -> dict[str, Any]:
        """As pyroute2 takes it, to add it or to remove just this one."""
        request: dict[str, Any] = {"family": self.family, "priority": self.priority, "action": self.action}
        if self.table:
            request["table"] = self.table
        if self.fwmark:
            request["fwmark"] = self.fwmark
        for end, text in (("dst", self.destination), ("src", self.source)):
            if text:
                prefix = ip_network(text)
                request |= {end: str(prefix.network_address), f"{end}_len": prefix.prefixlen}
        if self.interface:
            request["iifname"] = self.interface
        if self.suppress != ANY_LENGTH:
            request["suppress_prefixlen"] = self.suppress
        return request


def rule_of(message: Any) -> Rule:
    """The rule in a message of the kernel's."""
    destination, source = message.get_attr("FRA_DST"), message.get_attr("FRA_SRC")
    suppress = message.get_attr("FRA_SUPPRESS_PREFIXLEN")
    return Rule(
        family=message["family"],
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") or message["table"],
        fwmark=message.get_attr("FRA_FWMARK") or 0,
        destination=str(ip_network(f"{destination}/{message['dst_len']}")) if destination else "",
        interface=message.get_attr("FRA_IIFNAME") or "",
        suppress=ANY_LENGTH if suppress in (None, _ABSENT) else suppress,
        action=message["action"],
        source=str(ip_network(f"{source}/{message['src_len']}")) if source else "",
    )


def wanted_rules(settings: Gateway, ipv6: bool, entries: Entries | None = None) -> list[Rule]:
    """All there should be, in their order."""
    first = settings.rule_priority
    rules = []
    for family in (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,):
        rules.append(Rule(family, first, RT_TABLE_MAIN, fwmark=settings.mark))
        if family == socket.AF_INET:
            # Ours only: what a tunnel lets in has no business with the platform's addresses.
            rules += [
                Rule(family, at, RT_TABLE_MAIN, destination=str(prefix), interface=_OURSELVES)
                for at, prefix in enumerate(PLATFORM, first + 1)
            ]
        rules.append(Rule(family, first + 3, settings.route_table))
        for interface, entry in (entries or {}).items():
            rules += _entry_guard(family, first, interface, entry)
    return rules


def _entry_guard(family: int, first: int, interface: str, entry: Entry) -> Iterator[Rule]:
    """Every packet that our table says nothing about walks past the rules of every TUN, so they are few."""
    version = 4 if family == socket.AF_INET else 6
    if family == socket.AF_INET:
        for at, address in enumerate(PLATFORM, first + 1):
            yield Rule(family, at, 0, destination=str(address), interface=interface, action=BLACKHOLE)
    ours = (str(ip_network(address)) for address in entry.addresses if address.version == version)
    for came, source in ((interface, ""), *((_OURSELVES, address) for address in ours)):
        yield Rule(family, first + 4, RT_TABLE_MAIN, interface=came, source=source, suppress=_DEFAULT[family])
        for prefix in entry.destinations:
            if prefix.version == version:
                yield Rule(family, first + 5, RT_TABLE_MAIN, destination=str(prefix), interface=came, source=source)
        yield Rule(family, first + 6, 0, interface=came, source=source, action=BLACKHOLE)


def difference(wanted: list[Rule], present: list[Rule]) -> tuple[list[Rule], list[Rule]]:
    """What to add, then what to remove; a rule that is there twice is one too many."""
    held = Counter(present)
    missing = [rule for rule in wanted if rule not in held]
    kept = set(wanted)
    surplus = [rule for rule in held if rule not in kept]
    return missing, surplus + [rule for rule in wanted for _ in range(held[rule] - 1)]
