"""BIRD 2, FRR and GoBGP behind one face: sessions, routes with attributes in, their own tables out.

    peer = BirdPeer(machine, asn, router_id, sessions, routes)    or FrrPeer, GobgpPeer
    peer.start(); peer.told("gateway") -> {prefix: Told}; peer.announce([...]); peer.established("gateway")

What a peer was told is read from its own table by its own tool (birdc, vtysh, gobgp), never from ours. None of the three
writes routes to a kernel here. Reconnection is quick, so that a recovery is measured and not the peer's patience.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from support.netns import Namespace
from support.process import Process, run, wait_until

FRR = Path("/usr/lib/frr")
PROGRAMS = ("bird", "birdc", "vtysh", "gobgp", "gobgpd")


@dataclass(frozen=True, slots=True)
class Session:
    """One session as the peer is configured for it."""

    name: str
    local: str
    remote: str
    remote_as: int
    multihop: int = 0
    password: str = ""
    ttl_security: bool = False
    passive: bool = False
    hold: int = 9
    restart: int = 0  # graceful restart, seconds

    @property
    def version(self) -> int:
        return ip_address(self.local).version


@dataclass(frozen=True, slots=True)
class Route:
    """What the peer originates. `path`: ASes behind it, so that it seems to have come through them."""

    prefix: str
    path: tuple[int, ...] = ()
    med: int | None = None
    local_preference: int | None = None
    communities: tuple[str, ...] = ()
    large: tuple[str, ...] = ()

    @property
    def version(self) -> int:
        return ip_network(self.prefix).version

    @property
    def plain(self) -> bool:
        return self == Route(self.prefix)


@dataclass(frozen=True, slots=True)
class Told:
    """One route in the peer's table that came from us."""

    path: tuple[int, ...]
    next_hop: str
    med: int | None = None
    local_preference: int | None = None
    communities: frozenset[str] = frozenset()
    large: frozenset[str] = frozenset()


class Peer(ABC):
    """See the module. `restart` is what an operator's restart of the daemon is; `kill` is a crash."""

    kind = ""

    def __init__(
        self, machine: Namespace, asn: int, router_id: str, sessions: Sequence[Session], routes: Sequence[Route] = ()
    ) -> None:
        self.machine, self.asn, self.router_id = machine, asn, router_id
        self.sessions, self.routes = tuple(sessions), tuple(routes)
        self.process: Process | None = None
        self.directory = machine.directory / self.kind
        self.directory.mkdir(exist_ok=True)

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def established(self, session: str) -> bool: ...

    @abstractmethod
    def told(self, session: str) -> dict[str, Told]:
        """Everything this session taught it."""

    def prefixes(self, session: str) -> set[str]:
        """The prefixes of these: cheaper where there are thousands."""
        return set(self.told(session))

    @abstractmethod
    def announce(self, routes: Sequence[Route]) -> None:
        """These from now on, and no others."""

    @abstractmethod
    def capabilities(self, session: str) -> set[str]:
        """Of "as4", "extended", "refresh", "restart": those agreed with us."""

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill(signal.SIGKILL)

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def session(self, name: str) -> Session:
        return next(one for one in self.sessions if one.name == name)

    def wait_established(self, *names: str, seconds: float = 20.0, logs: Iterable[Process | None] = ()) -> None:
        for name in names or [one.name for one in self.sessions]:
            wait_until(
                lambda name=name: self.established(name), seconds, f"{self.kind}: session {name} Established",
                interval=0.1, logs=[self.process, *logs],
            )  # fmt: skip


class BirdPeer(Peer):
    """Its protocols are named as the sessions."""

    kind = "bird"

    def start(self) -> None:
        (self.directory / "bird.conf").write_text(self._configuration())
        argv = ["bird", "-f", "-c", str(self.directory / "bird.conf"), "-s", self._socket]
        self.process = self.machine.start("bird", [*argv, "-P", str(self.directory / "bird.pid")])
        wait_until(lambda: "BIRD" in self.ask("show", "status"), 5, "BIRD's control socket", logs=[self.process])

    @property
    def _socket(self) -> str:
        return str(self.directory / "bird.ctl")

    def ask(self, *words: str) -> str:
        return run(("birdc", "-s", self._socket, *words), check=False)

    def established(self, session: str) -> bool:
        return "Established" in self.ask("show", "protocols", session)

    def capabilities(self, session: str) -> set[str]:
        text = self.ask("show", "protocols", "all", session)
        theirs = text.partition("Neighbor capabilities")[2].partition("Session:")[0]
        words = {"4-octet AS": "as4", "Extended message": "extended", "Route refresh": "refresh"}
        found = {short for word, short in words.items() if word in theirs}
        return found | ({"restart"} if "Restart time" in theirs else set())

    def announce(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        (self.directory / "bird.conf").write_text(self._configuration())
        assert "Reconfig" in (answer := self.ask("configure")), answer

    def told(self, session: str) -> dict[str, Told]:
        found: dict[str, Told] = {}
        prefix = ""
        for line in self.ask("show", "route", "protocol", session, "all").splitlines():
            if start := re.match(r"^([0-9a-f:.]+/\d+)\s", line):
                prefix = start[1]
                found[prefix] = Told((), "")
            elif attribute := re.match(r"^\s+BGP\.(\w+): ?(.*)", line):
                found[prefix] = replace(found[prefix], **_bird_attribute(attribute[1], attribute[2]))
        return found

    def prefixes(self, session: str) -> set[str]:
        rows = self.ask("show", "route", "protocol", session).splitlines()
        return {row.split()[0] for row in rows if re.match(r"^[0-9a-f:.]+/\d+\s", row)}

    def _configuration(self) -> str:
        tables = "".join(
            f"protocol static s{version} {{ ipv{version}; "
            + "".join(f"route {route.prefix} blackhole;\n" for route in self.routes if route.version == version)
            + "}\n"
            for version in (4, 6)
        )
        filters = "".join(
            f"filter own{version} {{ if source != RTS_STATIC then reject;\n"
            + "".join(_bird_changes(one) for one in self.routes if one.version == version and not one.plain)
            + "accept; }\n"
            for version in (4, 6)
        )
        sessions = "\n".join(self._session(one) for one in self.sessions)
        return f"log stderr all;\nrouter id {self.router_id};\nprotocol device {{ }}\n{tables}{filters}{sessions}\n"

    def _session(self, one: Session) -> str:
        lines = [f"local {one.local} as {self.asn};", f"neighbor {one.remote} as {one.remote_as};"]
        if one.multihop:
            lines.append(f"multihop {one.multihop};")
        elif one.remote_as == self.asn:
            lines.append("direct;")
        if one.password:
            lines.append(f'password "{one.password}";')
        if one.ttl_security:
            lines.append("ttl security on;")
        if one.passive:
            lines.append("passive on;")
        if one.restart:
            lines.append(f"graceful restart on; graceful restart time {one.restart};")
        lines.append(f"hold time {one.hold}; enable extended messages on;")
        lines.append("connect delay time 1; connect retry time 1; error wait time 1, 2; error forget time 1;")
        channel = f"ipv{one.version} {{ import all; export filter own{one.version}; next hop self; }};"
        return f"protocol bgp {one.name} {{ {' '.join(lines)} {channel} }}"


def _bird_changes(route: Route) -> str:
    """In the export filter: a MED set anywhere before it does not leave the AS."""
    changes = [f"bgp_path.prepend({asn});" for asn in reversed(route.path)]
    if route.med is not None:
        changes.append(f"bgp_med = {route.med};")
    if route.local_preference is not None:
        changes.append(f"bgp_local_pref = {route.local_preference};")
    changes += [f"bgp_community.add(({one.replace(':', ',')}));" for one in route.communities]
    changes += [f"bgp_large_community.add(({one.replace(':', ',')}));" for one in route.large]
    return f"if net = {route.prefix} then {{ {' '.join(changes)} }}\n"


def _bird_attribute(name: str, value: str) -> dict[str, Any]:
    pairs = re.findall(r"\(([\d, ]+)\)", value)
    lists = frozenset(pair.replace(" ", "").replace(",", ":") for pair in pairs)
    values: dict[str, dict[str, Any]] = {
        "as_path": {"path": tuple(int(asn) for asn in value.split() if asn.isdigit())},
        "next_hop": {"next_hop": value.split()[0] if value else ""},
        "med": {"med": int(value) if value.isdigit() else None},
        "local_pref": {"local_preference": int(value) if value.isdigit() else None},
        "community": {"communities": lists},
        "large_community": {"large": lists},
    }
    return values.get(name, {})


class FrrPeer(Peer):
    """bgpd without zebra. Sessions are groups by address; a route's attributes are a route-map of its own."""

    kind = "frr"

    def start(self) -> None:
        self.directory.chmod(0o755)
        (self.directory / "bgpd.conf").write_text(self._configuration())
        for path in (self.directory, *self.directory.iterdir()):
            shutil.chown(path, "frr", "frr")
        for parent in (self.machine.directory, self.machine.directory.parent):
            parent.chmod(0o755)
        argv = [
            str(FRR / "bgpd"),
            "-Z",
            "-f",
            str(self.directory / "bgpd.conf"),
            "-i",
            str(self.directory / "bgpd.pid"),
        ]
        argv += ["--vty_socket", str(self.directory), "--log", "stdout", "-S"]
        (self.directory / "bgpd.vty").unlink(missing_ok=True)
        self.process = self.machine.start("bgpd", argv)
        wait_until((self.directory / "bgpd.vty").exists, 10, "bgpd's socket", logs=[self.process])

    def vtysh(self, *commands: str) -> str:
        asked = [word for command in commands for word in ("-c", command)]
        return run(("vtysh", "--vty_socket", str(self.directory), *asked), check=False)

    def established(self, session: str) -> bool:
        return self._neighbor(session).get("bgpState") == "Established"

    def capabilities(self, session: str) -> set[str]:
        known = self._neighbor(session).get("neighborCapabilities", {})
        both = {
            "as4": known.get("4byteAs") == "advertisedAndReceived",
            "extended": known.get("extendedMessage") == "advertisedAndReceived",
            "refresh": "advertisedAndReceived" in str(known.get("routeRefresh")),
            "restart": known.get("gracefulRestart") == "advertisedAndReceived",
        }
        return {name for name, agreed in both.items() if agreed}

    def _neighbor(self, session: str) -> dict[str, Any]:
        remote = self.session(session).remote
        answer: dict[str, Any] = _json(self.vtysh(f"show bgp neighbors {remote} json"))
        return answer.get(remote, {})

    def announce(self, routes: Sequence[Route]) -> None:
        before, self.routes = set(self.routes), tuple(routes)
        gone = [route for route in before if route not in self.routes]
        new = [route for route in self.routes if route not in before]
        lines = ["configure terminal"]
        lines += [line for route in new for line in _frr_map(route)]
        lines.append(f"router bgp {self.asn}")
        for version in (4, 6):
            lines.append(f"address-family ipv{version} unicast")
            lines += [f"no network {one.prefix}" for one in gone if one.version == version]
            lines += [_frr_network(one) for one in new if one.version == version]
            lines.append("exit-address-family")
        text = self.directory / "change.conf"
        text.write_text("\n".join(lines[1:]) + "\n")
        run(("vtysh", "--vty_socket", str(self.directory), "-f", str(text)), timeout=30)

    def prefixes(self, session: str) -> set[str]:
        one = self.session(session)
        table = _json(self.vtysh(f"show bgp ipv{one.version} unicast json"))
        routes = table.get("routes", {}).items()
        return {prefix for prefix, paths in routes if any(path.get("peerId") == one.remote for path in paths)}

    def told(self, session: str) -> dict[str, Told]:
        one = self.session(session)
        asked = [f"show bgp ipv{one.version} unicast {prefix} json" for prefix in sorted(self.prefixes(session))]
        found: dict[str, Told] = {}
        for entry in _documents(self.vtysh(*asked) if asked else ""):
            for path in entry.get("paths", ()):
                if path.get("peer", {}).get("peerId") == one.remote:
                    found[entry["prefix"]] = _frr_told(path)
        return found

    def _configuration(self) -> str:
        lines = [line for route in self.routes for line in _frr_map(route)]
        lines += [f"router bgp {self.asn}", f" bgp router-id {self.router_id}", " no bgp ebgp-requires-policy"]
        lines += [" no bgp default ipv4-unicast", " no bgp network import-check", " no bgp suppress-duplicates"]
        if restart := max(one.restart for one in self.sessions):
            lines += [" bgp graceful-restart", f" bgp graceful-restart restart-time {restart}"]
        for one in self.sessions:
            lines += [f" neighbor {one.remote} {line}" for line in self._session(one)]
        for version in (4, 6):
            lines.append(f" address-family ipv{version} unicast")
            lines += [f"  {_frr_network(one)}" for one in self.routes if one.version == version]
            for one in self.sessions:
                if one.version == version:
                    lines += [f"  neighbor {one.remote} {word}" for word in ("activate", "next-hop-self")]
                    lines.append(f"  neighbor {one.remote} soft-reconfiguration inbound")
            lines.append(" exit-address-family")
        return "\n".join([*lines, ""])

    def _session(self, one: Session) -> list[str]:
        lines = [
            f"remote-as {one.remote_as}",
            f"update-source {one.local}",
            f"timers {max(one.hold // 3, 1)} {one.hold}",
        ]
        lines += ["timers connect 1", "advertisement-interval 0"]
        if one.ttl_security:
            lines.append("ttl-security hops 1")
        elif one.multihop:
            lines.append(f"ebgp-multihop {one.multihop}")
        if one.remote_as != self.asn:
            lines.append("disable-connected-check")
        if one.password:
            lines.append(f"password {one.password}")
        if one.passive:
            lines.append("passive")
        return [line for line in lines if not (line.startswith("disable") and one.ttl_security)]


def _frr_name(route: Route) -> str:
    return "map-" + re.sub(r"[^0-9a-f]", "-", route.prefix)


def _frr_network(route: Route) -> str:
    return f"network {route.prefix}" + ("" if route.plain else f" route-map {_frr_name(route)}")


def _frr_map(route: Route) -> list[str]:
    if route.plain:
        return []
    name = _frr_name(route)
    lines = [f"no route-map {name}", f"route-map {name} permit 10"]
    if route.path:
        lines.append(" set as-path prepend " + " ".join(map(str, route.path)))
    if route.med is not None:
        lines.append(f" set metric {route.med}")
    if route.local_preference is not None:
        lines.append(f" set local-preference {route.local_preference}")
    if route.communities:
        lines.append(" set community " + " ".join(route.communities))
    if route.large:
        lines.append(" set large-community " + " ".join(route.large))
    return [*lines, "exit"]


def _frr_told(path: dict[str, Any]) -> Told:
    hops = [hop["ip"] for hop in path.get("nexthops", ()) if hop.get("scope") != "link-local"]
    preference = path.get("locPrf")
    return Told(
        path=tuple(int(asn) for asn in path.get("aspath", {}).get("string", "").split() if asn.isdigit()),
        next_hop=hops[0] if hops else "",
        med=path.get("metric"),
        local_preference=preference,
        communities=frozenset(path.get("community", {}).get("string", "").split()),
        large=frozenset(path.get("largeCommunity", {}).get("string", "").split()),
    )


class GobgpPeer(Peer):
    """gobgpd. Its routes are told to it one by one through its own API."""

    kind = "gobgp"

    def start(self) -> None:
        (self.directory / "gobgp.toml").write_text(self._configuration())
        argv = ["gobgpd", "-f", str(self.directory / "gobgp.toml"), "-t", "toml", "--api-hosts", "127.0.0.1:50051"]
        self.process = self.machine.start("gobgpd", [*argv, "--log-level", "info", "--pprof-disable"])
        wait_until(
            lambda: self.gobgp("global").startswith("AS:"), 10, "gobgpd's API", interval=0.1, logs=[self.process]
        )
        for route in self.routes:
            self._add(route)

    def gobgp(self, *words: str) -> str:
        return self.machine.run("gobgp", *words, check=False)

    def established(self, session: str) -> bool:
        text = self.gobgp("neighbor", self.session(session).remote)
        return "BGP state = ESTABLISHED" in text or "BGP state = BGP_FSM_ESTABLISHED" in text

    def capabilities(self, session: str) -> set[str]:
        text = self.gobgp("neighbor", self.session(session).remote)
        words = {"4-octet-as": "as4", "route-refresh": "refresh", "graceful-restart": "restart"}
        return {
            short for word, short in words.items()
            if re.search(rf"\n\s+{word}:\s+advertised and received", text)
        }  # fmt: skip

    def announce(self, routes: Sequence[Route]) -> None:
        before, self.routes = self.routes, tuple(routes)
        for route in set(before) - set(self.routes):
            self.gobgp("global", "rib", "del", route.prefix, "-a", f"ipv{route.version}")
        for route in self.routes:
            if route not in before:
                self._add(route)

    def told(self, session: str) -> dict[str, Told]:
        one = self.session(session)
        text = self.gobgp("neighbor", one.remote, "adj-in", "-a", f"ipv{one.version}", "-j")
        table = _json(text)
        entries = table.items() if isinstance(table, dict) else []
        return {prefix: _gobgp_told(paths[0]) for prefix, paths in entries if isinstance(paths, list) and paths}

    def _add(self, route: Route) -> None:
        own = next(one.local for one in self.sessions if one.version == route.version)
        words = [route.prefix, "nexthop", own, "origin", "igp"]
        if route.path:
            words += ["aspath", " ".join(map(str, route.path))]
        if route.med is not None:
            words += ["med", str(route.med)]
        if route.local_preference is not None:
            words += ["local-pref", str(route.local_preference)]
        if route.communities:
            words += ["community", ",".join(route.communities)]
        if route.large:
            words += ["large-community", ",".join(route.large)]
        self.machine.run("gobgp", "global", "rib", "add", *words, "-a", f"ipv{route.version}")

    def _configuration(self) -> str:
        parts = [f'[global.config]\nas = {self.asn}\nrouter-id = "{self.router_id}"\n']
        parts += [self._session(one) for one in self.sessions]
        return "\n".join(parts)

    def _session(self, one: Session) -> str:
        text = f"""[[neighbors]]
[neighbors.config]
neighbor-address = "{one.remote}"
peer-as = {one.remote_as}
auth-password = "{one.password}"
[neighbors.timers.config]
hold-time = {one.hold}
keepalive-interval = {max(one.hold // 3, 1)}
connect-retry = 1
idle-hold-time-after-reset = 1
[neighbors.transport.config]
local-address = "{one.local}"
passive-mode = {str(one.passive).lower()}
"""
        if one.multihop:
            text += f"[neighbors.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = {one.multihop}\n"
        if one.ttl_security:
            text += "[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255\n"
        if one.restart:
            text += f"[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = {one.restart}\n"
        text += f'[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = "ipv{one.version}-unicast"\n'
        if one.restart:
            text += "[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n"
        return text


def _gobgp_told(path: dict[str, Any]) -> Told:
    told = Told((), "")
    for attribute in path.get("attrs", ()):
        kind, value = attribute.get("type"), attribute.get("value")
        if kind == 2:
            told = replace(told, path=tuple(asn for part in attribute["as_paths"] for asn in part["asns"]))
        elif kind in (3, 14) and attribute.get("nexthop"):
            told = replace(told, next_hop=attribute["nexthop"])
        elif kind == 4:
            told = replace(told, med=attribute["metric"])
        elif kind == 5:
            told = replace(told, local_preference=value)
        elif kind == 8:
            told = replace(
                told, communities=frozenset(f"{one >> 16}:{one & 0xFFFF}" for one in attribute["communities"])
            )
        elif kind == 32:
            told = replace(told, large=frozenset(_large(one) for one in value))
    return told


def _large(value: Any) -> str:
    return value if isinstance(value, str) else ":".join(str(number) for number in value.values())


def _documents(text: str) -> Iterator[Any]:
    """JSON objects, one after the other."""
    decoder, position = json.JSONDecoder(), 0
    while (start := text.find("{", position)) >= 0:
        value, position = decoder.raw_decode(text, start)
        yield value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}


KINDS: dict[str, type[Peer]] = {one.kind: one for one in (BirdPeer, FrrPeer, GobgpPeer)}
