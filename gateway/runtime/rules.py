"""Our ip rules: which there should be, and how one looks on the wire. kernel.py puts them there.

In the order of their priorities, for each family; the first rule whose lookup finds a route decides:

    +0      our own marked traffic            lookup main        two marks: outside of all tunnels, and inside
    +1, +2  our own to the platform           lookup main        IPv4 only
    +3, +4  what belongs to an instance       see instance_rules.py
    +5      all but our own outside           lookup our table
    +6      what came by another link         goto +9            past the TUNs: a short cut, no more
    +7      what a TUN let in                 goto its block
    +8      what a TUN let in                 blackhole          if there is no such block
    +9      everything                        nothing
    32766   everything else                   lookup main        not ours
    far behind, nobody comes here but by goto:
            what main has no route for        unreachable        as it is without any rule
    block   to the platform                   blackhole          IPv4 only; whatever routes main has: it trusts this host
            everything                        lookup main, but no default route, whole or in pieces
            to a prefix                       lookup main        one for each prefix the configuration names as ours
            everything                        blackhole

A block is shared by all TUNs whose connections name the same prefixes, so a packet that a TUN let in and our table says
nothing about meets one short rule per TUN; all others meet none, or two where the link is younger than the rules, or where
the packet is this host's own and TUNs have addresses. +7 and +8 are there also for each
of our addresses inside the tunnel, whose answers have no other way either. Together they are the entry guard. Without
it a packet from a tunnel whose destination nobody has taught us yet would take main's default route and leave in clear on
the link it came in by, encrypted. A goto whose target is gone goes on to the next rule: that is what +8 is for.

What is ours and belongs outside of all tunnels, as IKE, ESP and the probe of a private circuit, goes nowhere where main has no
way: inside one it would go in a circle, or find out that the tunnel works and take that for the circuit.
"""

from __future__ import annotations

import socket
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from gateway.config.model import Gateway
from gateway.routing.guard import PLATFORM
from gateway.routing.model import Address, Prefix
from gateway.runtime.rtnetlink import NLM_F_CREATE, RT_TABLE_MAIN, Request, attribute, attributes


@dataclass(frozen=True, slots=True)
class Entry:
    """One TUN: the prefixes beyond main's default route that what it lets in may reach, our addresses on it, and the name of
    its instance."""

    destinations: tuple[Prefix, ...] = ()
    addresses: tuple[Address, ...] = ()
    instance: str = ""


Entries = Mapping[str, Entry]
"""By TUN."""

# FR_ACT_*
LOOKUP, GOTO, NOTHING, BLACKHOLE, UNREACHABLE = 1, 2, 3, 6, 7
ANY_LENGTH = -1
APART, APART_CLOSED, TABLE, PAST, ENTRY, CLOSED, END = 3, 4, 5, 6, 7, 8, 9
"""Priorities above the first."""
LINKS = 8
"""Links with a short cut, at most: a host may have hundreds, of containers."""
# The kernel's name for the device that locally generated packets come from.
OURSELVES = "lo"
# Up to these lengths a route of main's is a default route or a piece of one: 0.0.0.0/1 and 128.0.0.0/1, 2000::/3.
_DEFAULT: dict[int, int] = {socket.AF_INET: 7, socket.AF_INET6: 6}
_ABSENT = 0xFFFFFFFF
# Blocks lie behind main's rule and default's, each gateway's (by its first priority) apart from every other's.
_BLOCKS, _BLOCKS_OF_ONE, _BLOCK = 1_000_000_000, 100_000, 10
_RTM_NEWRULE, _RTM_DELRULE = 32, 33
RTM_GETRULE = 34
_HEADER = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, reserved, reserved, action, flags
_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK = 1, 2, 3, 4, 6, 10
_FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_PROTOCOL = 14, 15, 21
_INVERT = 0x2  # FIB_RULE_INVERT
_BESIDE = 0x40000000  # the bit by which our two marks differ
_U32 = struct.Struct("=I")
_DOES = {NOTHING: "nop", BLACKHOLE: "blackhole", UNREACHABLE: "unreachable"}


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """One ip rule of ours: `fwmark`, `destination`, `interface` and `source` select, unset means all; with `inverted` what
    they do not."""

    family: int  # AF_INET or AF_INET6
    priority: int
    table: int  # 0 where it is no lookup
    fwmark: int = 0
    destination: str = ""  # a prefix
    interface: str = ""  # by which the packet came
    suppress: int = ANY_LENGTH  # routes of at most this prefix length do not count
    action: int = LOOKUP
    source: str = ""  # a prefix
    target: int = 0  # the priority to go to
    inverted: bool = False

    def __str__(self) -> str:
        selectors = [f"fwmark {self.fwmark:#x}"] if self.fwmark else []
        selectors += [f"from {self.source}"] if self.source else []
        selectors += [f"to {self.destination}"] if self.destination else []
        selectors += [f"iif {self.interface}"] if self.interface else []
        does = f"goto {self.target}" if self.action == GOTO else _DOES.get(self.action, f"lookup {self.table}")
        suppressed = f" suppress_prefixlength {self.suppress}" if self.suppress != ANY_LENGTH else ""
        version = 4 if self.family == socket.AF_INET else 6
        selected = f"{'not ' * self.inverted}{' '.join(selectors) or 'from all'}"
        return f"IPv{version} rule {self.priority}: {selected} {does}{suppressed}"

    def add(self, protocol: int) -> Request:
        """Not exclusive: to the kernel a goto elsewhere, or the same for fewer packets, is the same rule."""
        return Request(_RTM_NEWRULE, NLM_F_CREATE, self._body(protocol))

    def remove(self, protocol: int) -> Request:
        """Of several gotos from one place the kernel takes the oldest."""
        return Request(_RTM_DELRULE, 0, self._body(protocol))

    def _body(self, protocol: int) -> bytes:
        ends = [ip_network(text) if text else None for text in (self.destination, self.source)]
        lengths = [end.prefixlen if end else 0 for end in ends]
        low = self.table if self.table < 256 else 0
        flags = _INVERT if self.inverted else 0
        body = _HEADER.pack(self.family, *lengths, 0, low, 0, 0, self.action, flags)
        for kind, end in zip((_FRA_DST, _FRA_SRC), ends, strict=True):
            body += attribute(kind, end.network_address.packed) if end else b""
        body += attribute(_FRA_IIFNAME, self.interface.encode() + b"\0") if self.interface else b""
        numbers = (
            (_FRA_PRIORITY, self.priority),
            (_FRA_TABLE, self.table),
            (_FRA_FWMARK, self.fwmark),
            (_FRA_GOTO, self.target),
        )
        for kind, number in numbers:
            body += attribute(kind, _U32.pack(number)) if number else b""
        if self.suppress != ANY_LENGTH:
            body += attribute(_FRA_SUPPRESS_PREFIXLEN, _U32.pack(self.suppress))
        return body + attribute(_FRA_PROTOCOL, bytes((protocol,)))


def rule_dump(family: int) -> bytes:
    """The body of a dump of one family's rules."""
    return _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)


def decode_rule(body: bytes) -> tuple[int, Rule]:
    """(its protocol, the rule) in a message of the kernel's."""
    family, destination_length, source_length, _, low, _, _, action, flags = _HEADER.unpack_from(body)
    found = attributes(body, _HEADER.size)

    def number(kind: int, default: int = 0) -> int:
        return int(_U32.unpack(found[kind])[0]) if kind in found else default

    suppress = number(_FRA_SUPPRESS_PREFIXLEN, _ABSENT)
    rule = Rule(
        family=family,
        priority=number(_FRA_PRIORITY),
        table=number(_FRA_TABLE, low),
        fwmark=number(_FRA_FWMARK),
        destination=_prefix(found.get(_FRA_DST), destination_length),
        interface=found.get(_FRA_IIFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        suppress=ANY_LENGTH if suppress == _ABSENT else suppress,
        action=action,
        source=_prefix(found.get(_FRA_SRC), source_length),
        target=number(_FRA_GOTO),
        inverted=bool(flags & _INVERT),
    )
    return found.get(_FRA_PROTOCOL, b"\0")[0], rule


def wanted_rules(
    settings: Gateway, ipv6: bool, entries: Entries | None = None, links: Sequence[str] = ()
) -> list[Rule]:
    """All there should be, those of instances apart (instance_rules.py), in the order they are to be made: every TUN's way
    out is closed before it is opened. `links`: those of this host that are no TUNs of ours."""
    ours = {interface: entry for interface, entry in (entries or {}).items() if not entry.instance}
    first = settings.rule_priority
    rules = []
    for family in (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,):
        marks = (settings.mark, inside(settings.mark))
        rules += [Rule(family, first, RT_TABLE_MAIN, fwmark=mark) for mark in marks]
        if family == socket.AF_INET:
            # Ours only: what a tunnel lets in has no business with the platform's addresses.
            rules += [
                Rule(family, at, RT_TABLE_MAIN, destination=str(prefix), interface=OURSELVES)
                for at, prefix in enumerate(PLATFORM, first + 1)
            ]
        rules.append(Rule(family, first + TABLE, settings.route_table, fwmark=settings.mark, inverted=True))
        if ours:
            guard = _entry_guard(family, first, ours)
            rules += [*guard, Rule(family, first + END, 0, action=NOTHING)]
            # Answers of our addresses inside a tunnel must not get past their guard
            addressed = any(rule.interface == OURSELVES for rule in guard)
            past = sorted(links)[:LINKS] + ([] if addressed else [OURSELVES])
            rules += [Rule(family, first + PAST, 0, interface=o, action=GOTO, target=first + END) for o in past]
    return rules


def inside(mark: int) -> int:
    """The mark of what is ours and bound to a TUN: of IPv6 the kernel sends nothing by a device that no route leads to, so
    unlike the rest of ours it finds what our table says about that device."""
    return mark ^ (_BESIDE if mark != _BESIDE else _BESIDE >> 1)


def is_entry_guard(rule: Rule, settings: Gateway) -> bool:
    """Whether it closes the way of what TUNs let in, rather than leading into our table."""
    return rule.priority > settings.rule_priority + TABLE


def _entry_guard(family: int, first: int, entries: Entries) -> list[Rule]:
    version = 4 if family == socket.AF_INET else 6
    named = {
        interface: tuple(str(prefix) for prefix in entry.destinations if prefix.version == version)
        for interface, entry in entries.items()
    }
    blocks = _places(set(named.values()), _BLOCKS + first * _BLOCKS_OF_ONE)
    rules = [Rule(family, _BLOCKS + first * _BLOCKS_OF_ONE, 0, action=UNREACHABLE)]
    for destinations, start in blocks.items():
        rules += _block(family, start, destinations)
    gotos = []
    for interface, entry in entries.items():
        ours = (str(ip_network(address)) for address in entry.addresses if address.version == version)
        for came, source in ((interface, ""), *((OURSELVES, address) for address in ours)):
            rules.append(Rule(family, first + CLOSED, 0, interface=came, source=source, action=BLACKHOLE))
            target = blocks[named[interface]] + (version == 6)  # there is no rule at the very start of an IPv6 block
            gotos.append(Rule(family, first + ENTRY, 0, interface=came, source=source, action=GOTO, target=target))
    return rules + gotos


def _places(sets: set[tuple[str, ...]], base: int) -> dict[tuple[str, ...], int]:
    """The priority at which each block starts: always the same for the same prefixes, so that others may come and go."""
    slots = _BLOCKS_OF_ONE // _BLOCK
    places: dict[int, tuple[str, ...]] = {}
    for destinations in sorted(sets):
        slot = zlib.crc32(" ".join(destinations).encode()) % (slots - 1)
        while slot in places:
            slot = (slot + 1) % (slots - 1)
        places[slot] = destinations
    return {destinations: base + (slot + 1) * _BLOCK for slot, destinations in sorted(places.items())}


def _block(family: int, start: int, destinations: tuple[str, ...]) -> Iterator[Rule]:
    """Its end first: it is closed before it is opened."""
    yield Rule(family, start + 3, 0, action=BLACKHOLE)
    if family == socket.AF_INET:
        for address in PLATFORM:
            yield Rule(family, start, 0, destination=str(address), action=BLACKHOLE)
    yield Rule(family, start + 1, RT_TABLE_MAIN, suppress=_DEFAULT[family])
    for prefix in destinations:
        yield Rule(family, start + 2, RT_TABLE_MAIN, destination=prefix)


def difference(wanted: list[Rule], present: list[Rule]) -> tuple[list[Rule], list[Rule]]:
    """What to add, then what to remove; a rule that is there twice is one too many."""
    held = Counter(present)
    missing = [rule for rule in wanted if rule not in held]
    kept = set(wanted)
    surplus = [rule for rule in held if rule not in kept]
    return missing, surplus + [rule for rule in wanted for _ in range(held[rule] - 1)]


def _prefix(address: bytes | None, length: int) -> str:
    return str(ip_network((address, length))) if address else ""
