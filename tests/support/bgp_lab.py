"""gatewayd between BGP speakers of any kind, and one function that says whether all tables agree.

    edge 10.99.0.2 ==== ESP ==== 10.99.0.1 gateway 10.1.0.4 -- 10.1.0.1 router 10.1.1.1 -- 10.1.1.4 server
         169.254.21.2, fd00:21::2   (tunnel)       10.1.2.1 -- 10.1.2.2 mate                      (IPv6: fd01:n::)

The edge (a second gatewayd ends the tunnel) is a site behind a connection, the server a route server two hops away, the
mate the other gateway of the pair, over internal BGP. `ClearLab` has neighbors on links of their own and no tunnel.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from support.bgp_peers import Peer
from support.daemon import GatewayDaemon
from support.netns import End, Lab
from support.process import Process, run, wait_until

PSK = "correct horse battery staple 42"
EDGE_AS, SERVER_AS, OUR_AS = 4200000010, 65515, 65001
HOLD = 6
TABLE = "221"
INSIDE = ("169.254.21.0/30", "fd00:21::/64")  # inside the tunnel: routes of ours that BGP has nothing to do with

_HEAD = """
[gateway]
state_directory = "/run/gatewayd-state"
log_level = "info"
[connection.site]
local_addrs = "{ours}"
remote_addrs = "{theirs}"
psk.file = "psk"
start_action = "{action}"
dpd_delay = 5
tunnel_address = [{inside}]
local_ts = ["0.0.0.0/0", "::/0"]
remote_ts = ["0.0.0.0/0", "::/0"]
protected = ["172.16.0.0/16"]
"""


class SiteLab:
    """All three kinds of neighbors, each to be played by whichever speaker; `neighbors`: the sections of the gateway's."""

    def __init__(self, lab: Lab, neighbors: str, secrets: Mapping[str, str]) -> None:
        self.lab = lab
        machines = {name: lab.namespace(name) for name in ("edge", "gateway", "router", "server", "mate")}
        self.machines = machines
        self._links()
        for name in ("gateway", "router", "edge"):
            machines[name].forwarding()
        machines["gateway"].batch("route add 10.1.1.0/24 via 10.1.0.1", "route add fd01:1::/64 via fd01:0::1")
        machines["server"].batch("route add default via 10.1.1.1", "route add ::/0 via fd01:1::1")
        known = {"psk": PSK, **secrets}
        self.gateway = GatewayDaemon(machines["gateway"], _site("start", ours=True) + neighbors, known)
        self.tail_end = GatewayDaemon(machines["edge"], _site("none", ours=False), {"psk": PSK})

    def _links(self) -> None:
        machine, link = self.machines, self.lab.link
        link(End(machine["edge"], "wan", ("10.99.0.2/24",)), End(machine["gateway"], "wan", ("10.99.0.1/24",)))
        link(
            End(machine["gateway"], "lan", ("10.1.0.4/24", "fd01:0::4/64")),
            End(machine["router"], "lan", ("10.1.0.1/24", "fd01:0::1/64")),
        )
        link(
            End(machine["router"], "server", ("10.1.1.1/24", "fd01:1::1/64")),
            End(machine["server"], "lan", ("10.1.1.4/24", "fd01:1::4/64")),
        )
        link(
            End(machine["gateway"], "mate", ("10.1.2.1/24", "fd01:2::1/64")),
            End(machine["mate"], "lan", ("10.1.2.2/24", "fd01:2::2/64")),
        )

    def start(self, peers: Iterable[Peer]) -> None:
        """The tunnel first: a speaker without its address does not begin."""
        self.tail_end.start(wait=False)
        self.gateway.start()
        peers = list(peers)
        for peer in peers:
            if peer.machine is not self.machines["edge"]:
                peer.start()
        self.gateway.wait_up(20, logs=[self.tail_end.process])
        for peer in peers:
            if peer.machine is self.machines["edge"]:
                peer.start()


class ClearLab:
    """A gateway and `count` neighbors beside it: link n is 10.99.n.0/24 and fd99:n::/64, the gateway has .1, the other .2.
    The connection is only there because a gateway has one."""

    def __init__(self, lab: Lab, neighbors: str, secrets: Mapping[str, str] | None = None, count: int = 2) -> None:
        self.lab = lab
        self.machines = {"gateway": lab.namespace("gateway")}
        for number in range(count):
            machine = self.machines[f"peer{number}"] = lab.namespace(f"peer{number}")
            lab.link(
                End(self.machines["gateway"], f"to{number}", (f"10.99.{number}.1/24", f"fd99:{number}::1/64")),
                End(machine, "gw", (f"10.99.{number}.2/24", f"fd99:{number}::2/64")),
            )
        self.machines["gateway"].forwarding()
        head = _HEAD.format(ours="10.99.0.1", theirs="10.99.0.9", action="none", inside='"169.254.21.1/30"')
        known = {"psk": PSK, **(secrets or {})}
        self.gateway = GatewayDaemon(self.machines["gateway"], head + neighbors, known)

    def exabgp(self) -> list[int]:
        return self.machines["gateway"].pids_of("exabgp_start.py")

    def relay(self) -> list[int]:
        return self.machines["gateway"].pids_of("bgp_relay")


def _site(action: str, *, ours: bool) -> str:
    near, far = ("1", "2") if ours else ("2", "1")
    inside = f'"169.254.21.{near}/30", "fd00:21::{near}/64"'
    text = _HEAD.format(ours=f"10.99.0.{near}", theirs=f"10.99.0.{far}", action=action, inside=inside)
    return text if ours else text.replace('protected = ["172.16.0.0/16"]', 'protected = ["10.200.0.0/16"]')


# ---- what is ----


def status(daemon: GatewayDaemon) -> dict[str, Any]:
    """The picture with all BGP routes; empty while nobody answers."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(10)
    try:
        connection.sock.connect(str(daemon.socket))
        connection.request("GET", "/v1/status?routes=all")
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()


def routes(daemon: GatewayDaemon, prefix: str) -> dict[str, dict[str, Any]]:
    """The paths to one prefix, by neighbor."""
    return {one["peer"]: one for one in status(daemon).get("routes", ()) if one["prefix"] == prefix}


def used(daemon: GatewayDaemon, picture: Mapping[str, Any] | None = None) -> dict[str, frozenset[str]]:
    """The loc-RIB: by prefix, the neighbors whose paths are used."""
    found: dict[str, set[str]] = {}
    for one in (picture or status(daemon)).get("routes", ()):
        if one["best"] or one["multipath"]:
            found.setdefault(one["prefix"], set()).add(one["peer"])
    return {prefix: frozenset(names) for prefix, names in found.items()}


def kernel(machine: Any) -> dict[str, frozenset[str]]:
    """Our table of the kernel: by prefix, gateway addresses or devices. Guards (blackholes) and throws are not in it."""
    hops = _nexthops(machine)
    found: dict[str, frozenset[str]] = {}
    for family in ("-4", "-6"):
        for route in machine.ip_json("-N", family, "route", "show", "table", TABLE, "proto", "221"):
            if route.get("type", "unicast") not in ("unicast", "1") or "nhid" not in route:
                continue
            ways = hops.get(route["nhid"], frozenset())
            if ways and "blackhole" not in ways and route["dst"] not in INSIDE:
                found[_whole(route["dst"])] = ways
    return found


def _nexthops(machine: Any) -> dict[int, frozenset[str]]:
    listed = {one["id"]: one for one in machine.ip_json("nexthop", "show")}

    def way(one: Mapping[str, Any]) -> str:
        return "blackhole" if "blackhole" in one else str(one.get("gateway") or one.get("dev", "?"))

    single = {number: way(one) for number, one in listed.items() if "group" not in one}
    return {
        number: frozenset(single.get(member["id"], "?") for member in one["group"])
        for number, one in listed.items() if "group" in one
    }  # fmt: skip


def _whole(text: str) -> str:
    return str(ip_network({"default": "0.0.0.0/0"}.get(text, text)))


# ---- the checker ----


def differences(
    lab: ClearLab | SiteLab,
    expected: Mapping[str, Mapping[str, str]],
    told: Iterable[tuple[Peer, str, Iterable[str]]],
) -> list[str]:
    """Sentences for whatever is not as it has to be.

    `expected`: by prefix, the neighbors whose paths are used, and for each its way in the kernel: a next hop, or a device.
    `told`: peers, their session with us, and exactly the prefixes that it must have from us.
    """
    picture = status(lab.gateway)
    if not picture:
        return ["gatewayd does not answer"]
    loc_rib, table = used(lab.gateway, picture), kernel(lab.machines["gateway"])
    found = []
    for prefix in sorted(expected.keys() | loc_rib.keys()):
        wanted = frozenset(expected.get(prefix, {}))
        if loc_rib.get(prefix, frozenset()) != wanted:
            found.append(f"loc-RIB: {prefix} by {sorted(loc_rib.get(prefix, ()))}, not {sorted(wanted)}")
    for prefix in sorted(expected.keys() | table.keys()):
        wanted = frozenset(expected.get(prefix, {}).values())
        if table.get(prefix, frozenset()) != wanted:
            found.append(f"kernel: {prefix} to {sorted(table.get(prefix, ()))}, not {sorted(wanted)}")
    stale = [f"{one['prefix']} of {one['peer']}" for one in picture["routes"] if one["stale"]]
    found += [f"stale: {one}" for one in stale]
    for peer, session, prefixes in told:
        has, wanted = peer.prefixes(session), frozenset(prefixes)
        found += [f"{peer.kind} {session}: has {one}, which is not for it" for one in sorted(has - wanted)]
        found += [f"{peer.kind} {session}: lacks {one}" for one in sorted(wanted - has)]
    return found


def agree(
    lab: ClearLab | SiteLab,
    expected: Mapping[str, Mapping[str, str]],
    told: Iterable[tuple[Peer, str, Iterable[str]]] = (),
    *,
    seconds: float = 20.0,
    logs: Iterable[Process | None] = (),
) -> None:
    """Wait until there is no difference left, and see that it stays so."""
    told = [(peer, session, frozenset(prefixes)) for peer, session, prefixes in told]
    last: list[str] = []

    def nothing() -> bool:
        last[:] = differences(lab, expected, told)
        return not last

    try:
        wait_until(nothing, seconds, "every table is as expected", interval=0.15, logs=[lab.gateway.process, *logs])
    except AssertionError as error:
        raise AssertionError("\n".join([*last[:40], f"({len(last)} differences)", str(error)[-3000:]])) from None


def exabgp_log(daemon: GatewayDaemon) -> str:
    path = Path(daemon.socket).with_name("exabgp.log")
    return path.read_text(errors="replace") if path.exists() else ""


def signalled(machine: Any, pids: Iterable[int], number: int) -> None:
    """A signal to processes of this machine only."""
    for pid in pids:
        run(("ip", "netns", "exec", machine.full, "kill", f"-{number}", str(pid)))
