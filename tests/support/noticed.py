"""What a BGP peer noticed of us: its own counters, its own table looked at all the time, and what our OPEN told it."""

from __future__ import annotations

import json
import re
import threading
from types import TracebackType
from typing import Self

from support.bgp_peers import BirdPeer, FrrPeer


def news(peer: BirdPeer | FrrPeer, session: str) -> tuple[int, ...]:
    """How often this session taught it something, took something back, or began: the same numbers twice, and nothing happened."""
    if isinstance(peer, FrrPeer):
        told = _frr(peer, session)
        return told["messageStats"]["updatesRecv"], told["connectionsDropped"], told["connectionsEstablished"]
    text = peer.ask("show", "protocols", "all", session)
    counts = [re.search(rf"Import {what}:\s+(\d+)", text) for what in ("updates", "withdraws")]
    since = re.search(rf"^{session}\s+BGP\s+\S+\s+\S+\s+(\S+)", text, re.MULTILINE)
    assert since is not None
    return (*(int(one[1]) for one in counts if one), int(since[1].replace(":", "").replace(".", "")))


def forwarding_preserved(peer: BirdPeer | FrrPeer, session: str) -> bool:
    """RFC 4724 3: the F bit of our last OPEN, as it understood it."""
    if isinstance(peer, FrrPeer):
        families = _frr(peer, session)["gracefulRestartInfo"]
        return bool(families["ipv4Unicast"]["fBit"])
    said = peer.ask("show", "protocols", "all", session).partition("Neighbor capabilities")[2]
    return "AF preserved: ipv4" in said.partition("Session:")[0]


def _frr(peer: FrrPeer, session: str) -> dict:
    remote = peer.session(session).remote
    return json.loads(peer.vtysh(f"show bgp neighbors {remote} json"))[remote]


class Watch:
    """Its table, looked at again and again: `missed` are prefixes of `wanted` that were not there at some time."""

    def __init__(self, peer: BirdPeer | FrrPeer, session: str, wanted: set[str]) -> None:
        self._peer, self._session, self._wanted = peer, session, wanted
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.missed: set[str] = set()
        self.looks = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.03):
            self.missed |= self._wanted - self._peer.prefixes(self._session)
            self.looks += 1
