"""How the kernel would send protocol 50 to a peer, by asking it: route, link, neighbor. Blocking; one thread's.

The answers are what a raw socket's packets would get: the route by mark, source and rule order, the MTU with what was
learned of the path, the hop limit of the route or the host. Where the kernel would do more to a packet than put an
Ethernet header before it (see `rtneighbors.decode_answer`) there is no answer.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable
from pathlib import Path

from gateway.routing.model import Address
from gateway.runtime import rtneighbors
from gateway.runtime.egress import Pair, Way
from gateway.runtime.rtneighbors import Answer, Link, Neighbor, State
from gateway.runtime.rtnetlink import RTM_GETROUTE, NetlinkError, RouteSocket
from gateway.runtime.rules import RTM_GETRULE, rule_dump

_NET = Path("/proc/sys/net")
_FLOW_LABELS = 0xFFFFF
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Lookup:
    """`secret`: of this run, for IPv6 flow labels."""

    def __init__(self, mark: int, secret: bytes, settings: Path = _NET) -> None:
        self._mark = mark
        self._secret = secret
        self._settings = settings
        self._routes = RouteSocket()

    def close(self) -> None:
        self._routes.close()

    def ways(self, pairs: Iterable[Pair]) -> list[Way | None]:
        """Of each. Links and rules are asked about once."""
        asked = list(pairs)
        told_apart = {version: self._rules_tell_apart(version) for version in {one.remote.version for one in asked}}
        links: dict[int, Link | None] = {}
        return [None if told_apart[one.remote.version] else self._way(one, links) for one in asked]

    def verify(self, neighbors: Iterable[tuple[int, Address]]) -> None:
        """Has the kernel look whether they still answer. What it refuses it tells by its news."""
        self._routes.exchange([rtneighbors.use(interface, address) for interface, address in neighbors])

    def _way(self, pair: Pair, links: dict[int, Link | None]) -> Way | None:
        answer = self._route(pair)
        if answer is None:
            return None
        if answer.interface not in links:
            links[answer.interface] = self._link(answer.interface)
        link = links[answer.interface]
        if link is None or not link.working or not link.ethernet:
            return None
        neighbor = self._neighbor(answer.interface, answer.next_hop)
        return Way(
            interface=link.index,
            next_hop=answer.next_hop,
            mtu=min(link.mtu, answer.mtu or link.mtu),
            hops=answer.hops or self._hops(link.name, pair.remote.version),
            flow_label=self._flow_label(pair),
            link_address=neighbor.link_address if neighbor is not None else None,
        )

    def _route(self, pair: Pair) -> Answer | None:
        question = rtneighbors.route_question(pair.local, pair.remote, self._mark)
        try:
            message = self._routes.ask(RTM_GETROUTE, question, f"no route to {pair.remote}")
        except NetlinkError:
            return None  # unreachable, or our address is not on this host: the raw socket's sendmsg says which
        return rtneighbors.decode_answer(message.body, pair.remote)

    def _link(self, index: int) -> Link | None:
        try:
            message = self._routes.ask(rtneighbors.RTM_GETLINK, rtneighbors.link_question(index), "no such link")
        except NetlinkError:
            return None  # gone since
        return rtneighbors.decode_link(message)

    def _neighbor(self, interface: int, address: Address) -> Neighbor | None:
        question = rtneighbors.neighbor_question(interface, address)
        try:
            message = self._routes.ask(rtneighbors.RTM_GETNEIGH, question, f"no neighbor {address}")
            neighbor = rtneighbors.decode_neighbor(message)
        except NetlinkError:
            neighbor = None  # nobody sent to it yet
        if neighbor is None or neighbor.state in (State.STALE, State(0)):
            self.verify([(interface, address)])
        return neighbor

    def _rules_tell_apart(self, version: int) -> bool:
        messages = self._routes.dump(RTM_GETRULE, rule_dump(_FAMILIES[version]), version)
        return any(rtneighbors.looks_into_packets(message.body) for message in messages)

    def _hops(self, link: str, version: int) -> int:
        name = "ipv4/ip_default_ttl" if version == 4 else f"ipv6/conf/{link}/hop_limit"
        return self._number(name, 64)

    def _flow_label(self, pair: Pair) -> int:
        """RFC 6437 3: the same for one pair of addresses, and not to be guessed; as the kernel's, but for the value."""
        if pair.remote.version == 4 or self._number("ipv6/auto_flowlabels", 1) == 0:
            return 0
        digest = hashlib.blake2s(pair.local.packed + pair.remote.packed, key=self._secret, digest_size=4).digest()
        return int.from_bytes(digest, "big") & _FLOW_LABELS or 1

    def _number(self, name: str, default: int) -> int:
        try:
            return int((self._settings / name).read_text())
        except (OSError, ValueError):
            return default
