"""A model of ExaBGP's side of the conversation, for tests without processes.

It prints events in ExaBGP 5.0.15's format, executes our commands on its own tables, and answers them in order.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from gateway.bgp.events import Effect, FollowNextHop, NextHop, SendLine
from gateway.bgp.settings import Address, Prefix, SpeakerSettings
from gateway.bgp.speaker import Speaker

ROUTE = re.compile(r"neighbor (\S+) (announce|withdraw) route (\S+)(.*)")


def event(kind: str, peer: str, body: Mapping[str, Any], **head: Any) -> str:
    neighbor = {"address": {"local": "x", "peer": peer}, "asn": {"local": 1, "peer": 2}, **body}
    return json.dumps({"exabgp": "5.0.0", "time": 1.0, "counter": 1, "type": kind, **head, "neighbor": neighbor})


def attribute(
    as_path: Iterable[int] = (), *, origin: str = "igp", sets: Iterable[int] = (), **more: Any
) -> dict[str, Any]:
    segments: dict[str, Any] = {}
    if path := list(as_path):
        segments["0"] = {"element": "as-sequence", "value": path}
    if members := list(sets):
        segments["1"] = {"element": "as-set", "value": members}
    return {"origin": origin, "as-path": segments, **{key.replace("_", "-"): value for key, value in more.items()}}


def update(
    peer: str,
    announce: Mapping[str, Iterable[str]] | None = None,
    withdraw: Iterable[str] = (),
    attributes: Mapping[str, Any] | None = None,
) -> str:
    """`announce`: next hop -> prefixes."""
    body: dict[str, Any] = {}
    if announce or attributes:
        body["attribute"] = dict(attributes or attribute([65010]))
    if announce:
        family = _family(next(iter(next(iter(announce.values())))))
        body["announce"] = {family: {hop: [{"nlri": one} for one in prefixes] for hop, prefixes in announce.items()}}
    if gone := list(withdraw):
        body["withdraw"] = {_family(gone[0]): [{"nlri": one} for one in gone]}
    return event("update", peer, {"direction": "receive", "message": {"update": body}})


def end_of_rib(peer: str, afi: str = "ipv4") -> str:
    return event("update", peer, {"direction": "receive", "message": {"eor": {"afi": afi, "safi": "unicast"}}})


def state(peer: str, value: str, reason: str = "") -> str:
    return event("state", peer, {"state": value, **({"reason": reason} if reason else {})})


def refresh(peer: str, subtype: str, afi: str = "ipv4") -> str:
    body = {"direction": "receive", "route-refresh": {"afi": afi, "safi": "unicast", "subtype": subtype}}
    return event("refresh", peer, body)


def row(peer: str, prefix: str, next_hop: str, attributes: Mapping[str, Any]) -> str:
    afi = "ipv6" if ":" in prefix else "ipv4"
    nlri = {"prefix": prefix, "nexthop": next_hop, "family": {"afi": afi, "safi": "unicast"}}
    return json.dumps({"peer": {"address": peer}, "route": {"nlri": nlri, "attributes": dict(attributes)}})


def neighbor_row(peer: str, *, up: bool, seconds: int = 60) -> dict[str, Any]:
    totals = {"sent": {"total": 7}, "received": {"total": 9}}
    side = {"address": peer, "as": 1, "id": "192.0.2.9" if up else None, "hold": 30}
    fsm = "ESTABLISHED" if up else "ACTIVE"
    young = not up or seconds == 0
    return {"state": "down" if young else "up", "duration": seconds, "fsm": fsm, "peer": side, "messages": totals}


@dataclass
class ModelPeer:
    up: bool = False
    since: float = 0.0
    adj_in: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    adj_out: dict[Prefix, str] = field(default_factory=dict)


class ExabgpModel:
    """Feeds a Speaker. `peers` is by address text. Commands wait in `unanswered` until `answer` executes them.

    As in ExaBGP, a command is executed when its turn comes, and its answer is printed in order with the events. Only a
    dump is a snapshot that may be printed while events happen: put `execute`'s lines in the command's place for that.
    """

    def __init__(self, speaker: Speaker, settings: SpeakerSettings) -> None:
        self.speaker = speaker
        self.peers = {str(neighbor.address): ModelPeer() for neighbor in settings.neighbors}
        self.unanswered: deque[str | list[str]] = deque()
        self.sent: list[str] = []
        self.effects: list[Effect] = []
        self.most_unanswered = 0
        self.now = 0.0
        self.nowhere: set[Address] = set()  # next hops that are not reached
        self.unknown: set[Address] = set()  # of which nobody knows yet
        self.followed: set[tuple[Address, str]] = set()  # with the instance

    def say(self, line: str) -> None:
        self.speaker.receive(line, self.now)
        self.drain()

    def command(self, command: Any) -> None:
        self.speaker.command(command, self.now)
        self.drain()

    def drain(self) -> None:
        for effect in self.speaker.poll():
            self.effects.append(effect)
            if isinstance(effect, SendLine):
                self.sent.append(effect.text)
                self.unanswered.append(effect.text)
            elif isinstance(effect, FollowNextHop):
                self.follow(effect)
        self.most_unanswered = max(self.most_unanswered, len(self.unanswered))

    def follow(self, effect: FollowNextHop) -> None:
        if not effect.wanted:
            self.followed.remove((effect.address, effect.instance))
            return
        self.followed.add((effect.address, effect.instance))
        if effect.address not in self.unknown:
            self.command(NextHop(effect.address, effect.address not in self.nowhere, effect.instance))

    def reach(self, address: Address, reached: bool) -> None:
        """The underlay changes."""
        self.unknown.discard(address)
        (self.nowhere.discard if reached else self.nowhere.add)(address)
        for followed, instance in sorted(self.followed):
            if followed == address:
                self.command(NextHop(address, reached, instance))

    def answer(self, count: int = 10**9) -> None:
        """Deliver up to `count` answers, and those to what is sent meanwhile."""
        while self.unanswered and count > 0:
            count -= 1
            command = self.unanswered.popleft()
            for line in self.execute(command) if isinstance(command, str) else command:
                self.say(line)

    def advance(self, seconds: float) -> None:
        """Let time pass, with every deadline in it met exactly."""
        end = self.now + seconds
        while (deadline := self.speaker.next_deadline()) is not None and deadline <= end:
            before = (deadline, len(self.effects))
            self.now = max(self.now, deadline)
            self.speaker.handle_deadline(self.now)
            self.drain()
            after = (self.speaker.next_deadline(), len(self.effects))
            assert before != after, "a deadline that does nothing comes back for ever"
        self.now = end

    def settle(self, seconds: float = 3.0) -> None:
        self.answer()
        step = 0.1 if seconds < 20 else 2.0
        for _ in range(int(seconds / step)):
            self.advance(step)
            self.answer()

    # ---- what the peers and the process do ----

    def peer_up(self, peer: str) -> None:
        model = self.peers[peer]
        model.up, model.since = True, self.now
        model.adj_in.clear()
        self.say(state(peer, "up"))

    def peer_down(self, peer: str, reason: str = "gone") -> None:
        self.peers[peer].up = False
        self.say(state(peer, "down", reason))

    def announce(self, peer: str, prefix: str, next_hop: str, attributes: dict[str, Any]) -> None:
        self.peers[peer].adj_in[prefix] = (next_hop, attributes)
        self.say(update(peer, {next_hop: [prefix]}, attributes=attributes))

    def withdraw(self, peer: str, prefix: str) -> None:
        self.peers[peer].adj_in.pop(prefix, None)
        self.say(update(peer, withdraw=[prefix]))

    def lose_answers(self) -> None:
        self.unanswered.clear()

    def execute(self, text: str) -> list[str]:
        if text == "show neighbor json":
            rows = [
                neighbor_row(address, up=peer.up, seconds=int(self.now - peer.since))
                for address, peer in self.peers.items()
            ]
            return [json.dumps(rows), "done"]
        if text == "show adj-rib in json":
            return [*(row(a, p, *route) for a, peer in self.peers.items() for p, route in peer.adj_in.items()), "done"]
        if text == "show adj-rib out json":
            rows = [(a, str(p)) for a, peer in self.peers.items() for p in peer.adj_out]
            return [*(row(a, p, a, attribute()) for a, p in rows), "done"]
        match = ROUTE.fullmatch(text)
        if match is None:
            return ["done"]
        peer = self.peers.get(match[1])
        if peer is None:
            return ["error"]
        prefix = ip_network(match[3])
        if match[2] == "announce":
            peer.adj_out[prefix] = text
        else:
            peer.adj_out.pop(prefix, None)
        return ["done"]


def _family(prefix: str) -> str:
    return "ipv6 unicast" if ":" in prefix else "ipv4 unicast"
