"""ExaBGP's language: its JSON events and answers parsed, our text commands rendered.

ExaBGP 5.0.15 prints one line per event: JSON objects (events, rows of a dump), a JSON list (the answer
to `show neighbor json`), and plain text (`done`, `error`). `parse_line` never raises: a line that does
not hold what it must is a `Malformed`. Not a BGP codec: the wire format is ExaBGP's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from json import JSONDecoder
from typing import Any, NamedTuple

from gateway.bgp.path import ORIGINS, Announcement, Attributes
from gateway.bgp.prefixes import Address, Prefix, parse_address, parse_prefix

# Interop: ExaBGP 5.0.15 prints well-known communities by name in dumps and as numbers in events.
WELL_KNOWN = {"no-export": "65535:65281", "no-advertise": "65535:65282", "no-export-subconfed": "65535:65283",
              "no-peer": "65535:65284", "blackhole": "65535:666"}  # fmt: skip
FAMILIES = {"ipv4 unicast": 4, "ipv6 unicast": 6}
ROUTE_REFRESH, GRACEFUL_RESTART = "2", "64"  # codes of capabilities
MAX_LINE = 8 * 1024 * 1024
_DECODER = JSONDecoder()

SHOW_NEIGHBORS = "show neighbor json"
SHOW_ADJ_RIB_IN = "show adj-rib in json"
SHOW_ADJ_RIB_OUT = "show adj-rib out json"
CLEAR_ADJ_RIB_OUT = "clear adj-rib out"


@dataclass(frozen=True, slots=True)
class Ack:
    """`done` or `error`: the oldest unanswered command was dealt with. Not a proof of success."""

    ok: bool


@dataclass(frozen=True, slots=True)
class SessionState:
    peer: Address
    state: str  # connected, up, down
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FsmState:
    peer: Address
    state: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer's OPEN."""

    peer: Address
    asn: int
    router_id: int
    hold_time: int
    refreshes: bool = True  # RFC 2918: it takes a ROUTE-REFRESH
    tells_end: bool = True  # RFC 4724 3: it knows graceful restart


class Update(NamedTuple):
    """`fault`: some of `withdrawn` were announced with attributes that make no sense (RFC 7606 2, treat-as-withdraw).
    `partial`: ExaBGP left a malformed attribute out, and the whole UPDATE out of its own adj-RIB-in."""

    peer: Address
    announced: tuple[tuple[Prefix, Address], ...]
    attributes: Attributes
    withdrawn: tuple[Prefix, ...]
    fault: str = ""
    partial: bool = False


@dataclass(frozen=True, slots=True)
class EndOfRib:
    """RFC 4724 2: the initial table of one family is complete."""

    peer: Address
    version: int


@dataclass(frozen=True, slots=True)
class Refresh:
    """RFC 7313: `begin` and `end` bracket a re-advertised table; `request` asks for ours."""

    peer: Address
    version: int
    subtype: str


@dataclass(frozen=True, slots=True)
class Notified:
    peer: Address
    sent: bool
    code: int
    subcode: int
    text: str


@dataclass(frozen=True, slots=True)
class RibRow:
    """One line of `show adj-rib in|out json`; which of the two, the order of the answers tells."""

    peer: Address
    prefix: Prefix
    next_hop: Address
    attributes: Attributes
    fault: str = ""


@dataclass(frozen=True, slots=True)
class NeighborRow:
    peer: Address
    up: bool
    seconds: int  # since it went up, or down
    fsm: str
    router_id: int
    sent: int
    received: int
    refreshes: bool = True


@dataclass(frozen=True, slots=True)
class NeighborList:
    rows: tuple[NeighborRow, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """A line that is well formed and of no interest."""

    what: str


@dataclass(frozen=True, slots=True)
class Malformed:
    why: str


FromPeer = SessionState | FsmState | Opened | Update | EndOfRib | Refresh | Notified | RibRow
"""What one neighbor's session says."""
Message = FromPeer | Ack | NeighborList | Ignored | Malformed


def parse_line(line: str) -> Message:
    """One line of ExaBGP's output as a message; any line at all is answered, none raises."""
    line = line.strip()
    if line in ("done", "error"):
        return Ack(line == "done")
    if not line.startswith(("{", "[")):
        return Ignored(line[:80])
    if len(line) > MAX_LINE:
        return Malformed("line too long")
    try:
        value, end = _DECODER.raw_decode(line)
        if end != len(line):
            return Malformed("more than one value in a line")
        return _neighbor_list(value) if isinstance(value, list) else _object(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Malformed(f"{type(error).__name__}: {error}"[:200])


def in_parts(message: Message, most: int) -> Iterator[Message]:
    """An UPDATE may have thousands of prefixes: as several, each announcing `most` at most."""
    if not isinstance(message, Update) or len(message.announced) <= most:
        yield message
        return
    for start in range(0, len(message.announced), most):
        part = message.announced[start : start + most]
        yield message._replace(announced=part, withdrawn=() if start else message.withdrawn)


def render_announce(peer: Address, prefix: Prefix, announcement: Announcement) -> str:
    """The command that announces `prefix` to one neighbor only.

    Interop: ExaBGP 5.0.15 sends `as-path` verbatim, without our AS in front, and without it makes one up;
    `next-hop self` over another family's session is the router-id. So both are always explicit.
    """
    words = [f"neighbor {peer} announce route {prefix} next-hop {announcement.next_hop} origin {announcement.origin}"]
    words.append("as-path [ " + "".join(f"{asn} " for asn in announcement.as_path) + "]")
    if announcement.med is not None:
        words.append(f"med {announcement.med}")
    if announcement.local_preference is not None:
        words.append(f"local-preference {announcement.local_preference}")
    if announcement.communities:
        words.append(f"community [ {' '.join(announcement.communities)} ]")
    if announcement.large_communities:
        words.append(f"large-community [ {' '.join(announcement.large_communities)} ]")
    return " ".join(words)


def render_withdraw(peer: Address, prefix: Prefix) -> str:
    return f"neighbor {peer} withdraw route {prefix}"


def render_route(peer: Address, prefix: Prefix, announcement: Announcement | None) -> str:
    """None: it is announced no longer."""
    return render_withdraw(peer, prefix) if announcement is None else render_announce(peer, prefix, announcement)


def render_refresh(peer: Address, version: int) -> str:
    """RFC 2918: ask the peer for its whole table again."""
    return f"neighbor {peer} announce route-refresh ipv{version} unicast"


def render_end_of_rib(peer: Address, version: int) -> str:
    """RFC 4724 2: what was to be announced after the session began has been."""
    return f"neighbor {peer} announce eor ipv{version} unicast"


def render_teardown(peer: Address) -> str:
    """RFC 4486 4: Cease, Maximum Number of Prefixes Reached."""
    return f"neighbor {peer} teardown 1"


def _object(value: Mapping[str, Any]) -> Message:
    if "route" in value and "peer" in value:
        return _rib_row(value)
    kind = value["type"]
    if not isinstance(kind, str):
        raise TypeError("type is no text")
    parse = _EVENTS.get(kind)
    if parse is None or "neighbor" not in value:
        return Ignored(kind[:80])
    neighbor = value["neighbor"]
    return parse(_address(neighbor["address"]["peer"]), neighbor)


def _state(peer: Address, neighbor: Mapping[str, Any]) -> Message:
    return SessionState(peer, str(neighbor["state"]), str(neighbor.get("reason", "")))


def _fsm(peer: Address, neighbor: Mapping[str, Any]) -> Message:
    return FsmState(peer, str(neighbor["state"]))


def _open(peer: Address, neighbor: Mapping[str, Any]) -> Message:
    if neighbor.get("direction") != "receive":
        return Ignored("open sent")
    message = neighbor["open"]
    capabilities = message.get("capabilities", (ROUTE_REFRESH, GRACEFUL_RESTART))
    return Opened(
        peer, _number(message["asn"]), int(ip_address(message["router_id"])), _number(message["hold_time"]),
        refreshes=ROUTE_REFRESH in capabilities, tells_end=GRACEFUL_RESTART in capabilities,
    )  # fmt: skip


def _notification(peer: Address, neighbor: Mapping[str, Any]) -> Message:
    body = neighbor["notification"]
    sent = neighbor.get("direction") == "send"
    return Notified(peer, sent, _number(body["code"]), _number(body["subcode"]), str(body.get("message", ""))[:200])


def _refresh(peer: Address, neighbor: Mapping[str, Any]) -> Message:
    body = neighbor["route-refresh"]
    version = FAMILIES.get(f"{body['afi']} {body['safi']}")
    return Ignored("refresh") if version is None else Refresh(peer, version, str(body["subtype"]))


def _update(peer: Address, neighbor: Mapping[str, Any]) -> Message:
    if neighbor.get("direction", "receive") != "receive":
        return Ignored("update sent")
    message = neighbor["message"]
    if "eor" in message:
        version = FAMILIES.get(f"{message['eor']['afi']} {message['eor']['safi']}")
        return Ignored("eor") if version is None else EndOfRib(peer, version)
    update = message["update"]
    attribute = update.get("attribute", {})
    withdrawn = [
        _prefix(nlri["nlri"])
        for family, nlris in update.get("withdraw", {}).items() if family in FAMILIES
        for nlri in nlris
    ]  # fmt: skip
    announced: dict[Prefix, Address] = {}
    nowhere: dict[Prefix, None] = {}
    for family, next_hops in update.get("announce", {}).items():
        if family in FAMILIES:
            _announced(next_hops, announced, nowhere)
    attributes, fault = _judged(attribute) if announced or nowhere else (Attributes(), "")
    if not fault and nowhere:
        fault = "no next hop"
    error = str(attribute.get("error", ""))
    if fault:
        withdrawn += (*announced, *nowhere)
        announced = {}
    elif error == "treat-as-withdraw":
        fault = "malformed attribute"
    return Update(peer, tuple(announced.items()), attributes, tuple(withdrawn), fault, error == "discard")


def _announced(next_hops: Mapping[str, Any], announced: dict[Prefix, Address], nowhere: dict[Prefix, None]) -> None:
    """RFC 2545 3: an IPv6 next hop may be a pair, global and link-local. `nowhere`: those where stands what is no address.

    Interop: ExaBGP 5.0.15 then lists every prefix twice, once under each; the global one is kept.
    """
    for text, nlris in next_hops.items():
        prefixes = [_prefix(nlri["nlri"]) for nlri in nlris]
        try:
            next_hop = _address(text)
        except ValueError:
            nowhere.update(dict.fromkeys(prefix for prefix in prefixes if prefix not in announced))
            continue
        for prefix in prefixes:
            known = announced.get(prefix)
            if known is None or known.is_link_local:
                announced[prefix] = next_hop
                if nowhere:
                    nowhere.pop(prefix, None)


def _judged(value: Mapping[str, Any]) -> tuple[Attributes, str]:
    """The attributes of an announcement, or what is wrong with them.

    Interop: ExaBGP 5.0.15 passes on what lacks a mandatory attribute, an ORIGIN of 3 and more (as "invalid"), AS 0, and the
    segments of confederations, which it calls sequences.
    """
    # RFC 7606 3 d: a missing well-known mandatory attribute is treat-as-withdraw. An empty AS_PATH is not printed either, and
    # right inside our own AS; policy.py refuses it from another.
    if "origin" not in value:
        return Attributes(), "no origin"
    try:
        attributes = _attributes(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Attributes(), str(error)[:80]
    # RFC 7607 2: an UPDATE with AS 0 in its path is malformed
    if 0 in attributes.as_path:
        return Attributes(), "AS 0 in the path"
    return attributes, ""


def _rib_row(value: Mapping[str, Any]) -> Message:
    nlri = value["route"]["nlri"]
    family = f"{nlri['family']['afi']} {nlri['family']['safi']}"
    if family not in FAMILIES:
        return Ignored("row")
    peer, prefix = _address(value["peer"]["address"]), _prefix(nlri["prefix"])
    attributes, fault = _judged(value["route"].get("attributes", {}))
    try:
        return RibRow(peer, prefix, _address(nlri["nexthop"]), attributes, fault)
    except ValueError:
        return RibRow(peer, prefix, _address("0.0.0.0" if prefix.version == 4 else "::"), attributes, "no next hop")


def _neighbor_list(value: list[Any]) -> Message:
    return NeighborList(tuple(_neighbor_row(row) for row in value))


def _neighbor_row(row: Mapping[str, Any]) -> NeighborRow:
    router_id = row["peer"].get("id")
    messages = row["messages"]
    return NeighborRow(
        peer=ip_address(row["peer"]["address"]),
        # Interop: ExaBGP 5.0.15 says "down" with an unrelated duration in the first second of a session
        up=row["fsm"] == "ESTABLISHED",
        seconds=_number(row["duration"]) if row["state"] == "up" else 0,
        fsm=str(row["fsm"]),
        router_id=int(ip_address(router_id)) if router_id else 0,
        sent=_number(messages["sent"].get("total", 0)),
        received=_number(messages["received"].get("total", 0)),
        refreshes=bool(row["peer"].get("capabilities", {}).get("route-refresh", True)),
    )


def _attributes(value: Mapping[str, Any]) -> Attributes:
    origin = value.get("origin", "incomplete")
    if origin not in ORIGINS:
        raise ValueError(f"origin {origin!r}")
    as_path, length = _as_path(value.get("as-path", {}))
    return Attributes(
        origin=origin,
        as_path=as_path,
        as_path_length=length,
        med=_optional(value.get("med")),
        local_preference=_optional(value.get("local-preference")),
        communities=tuple(_community(item, 2) for item in value.get("community", ())),
        large_communities=tuple(_community(item, 3) for item in value.get("large-community", ())),
    )


def _as_path(value: Mapping[str, Any]) -> tuple[tuple[int, ...], int]:
    """The ASes and the length for comparison: RFC 4271 9.1.2.2 a, RFC 5065 5.3 (confederations count nothing)."""
    path: list[int] = []
    length = 0
    for segment in value.values():
        numbers, element = segment["value"], segment["element"]
        # RFC 7606 7.2: a segment without an AS
        if not numbers:
            raise ValueError("empty segment in the path")
        path += map(_number, numbers)
        if element == "as-sequence":
            length += len(numbers)
        elif element == "as-set":
            length += 1
    return tuple(path), length


def _community(value: Any, parts: int) -> str:
    if isinstance(value, str) and value in WELL_KNOWN:
        return WELL_KNOWN[value]
    numbers = [int(part) for part in value.split(":")] if isinstance(value, str) else value
    if len(numbers) != parts or max(map(_number, numbers)) > 0xFFFFFFFF:
        raise ValueError(f"community {value!r}"[:80])
    return ":".join(map(str, numbers))


def _prefix(text: Any) -> Prefix:
    if not isinstance(text, str):
        raise TypeError("prefix is no text")
    return parse_prefix(text)


def _address(text: Any) -> Address:
    if not isinstance(text, str):
        raise TypeError("address is no text")
    return parse_address(text)


def _number(value: Any) -> int:
    if type(value) is int and 0 <= value <= 0xFFFFFFFFFFFFFFFF:  # a truth value is none
        return value
    raise ValueError(f"number {value!r}"[:80])


def _optional(value: Any) -> int | None:
    return None if value is None else _number(value)


_EVENTS: dict[str, Callable[[Address, Mapping[str, Any]], Message]] = {
    "state": _state,
    "fsm": _fsm,
    "open": _open,
    "update": _update,
    "notification": _notification,
    "refresh": _refresh,
}
