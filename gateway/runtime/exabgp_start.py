"""ExaBGP's program as we start it: ExaBGP 5.0.15 itself, with three things put right that no setting of it reaches.

    exabgp_start.py FILE server CONFIGURATION

It runs in ExaBGP's process and changes three methods before anything else happens; whatever they are called elsewhere in another
release, it does not start, and says so. It imports nothing of the gateway.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from exabgp.application.main import main  # type: ignore[import-untyped]
from exabgp.bgp.message.open.capability import REFRESH  # type: ignore[import-untyped]
from exabgp.bgp.message.open.capability.graceful import Graceful  # type: ignore[import-untyped]
from exabgp.reactor.delay import Delay  # type: ignore[import-untyped]
from exabgp.reactor.peer import Peer  # type: ignore[import-untyped]

LONGEST_WAIT = 5
"""Seconds between two attempts to connect."""


def forwarding_as_it_is(extract: Callable[[Any], list[bytes]], file: str) -> Callable[[Any], list[bytes]]:
    """RFC 4724 3: the F bit says that forwarding state was preserved. Interop: ExaBGP 5.0.15 always sets it; here it is set
    while `file` stands, looked at for every OPEN. Without it a peer drops at once what it kept of our routes."""

    def told(capability: Any) -> list[bytes]:
        state = Graceful.FORWARDING_STATE if os.path.exists(file) else 0
        for family in capability:
            capability[family] = state
        return extract(capability)

    return told


def markers_are_no_requests(resend: Callable[..., None]) -> Callable[..., None]:
    """RFC 7313 4: the messages that begin and end a refresh ask for nothing. Interop: ExaBGP 5.0.15 takes them for requests, not
    enhanced ones, and announces everything again at each; real ones are always enhanced where both know how."""

    def requested(peer: Any, enhanced: bool, family: Any = None) -> None:
        if enhanced or peer.proto is None or peer.proto.negotiated.refresh != REFRESH.ENHANCED:
            resend(peer, enhanced, family)

    return requested


def calls_again_soon(increase: Callable[[Any], None]) -> Callable[[Any], None]:
    """RFC 4271 10: ConnectRetryTime is whatever one likes. Interop: ExaBGP 5.0.15 waits ever longer, up to 60 s; a tunnel that comes up after a
    while, or an address that comes with the active role, would be without its session for as long, and routers that only listen do not call."""

    def increased(delay: Any) -> None:
        increase(delay)
        delay._next = min(delay._next, LONGEST_WAIT)

    return increased


if __name__ == "__main__":
    Graceful.extract = forwarding_as_it_is(Graceful.extract, sys.argv.pop(1))
    Peer.resend = markers_are_no_requests(Peer.resend)
    Delay.increase = calls_again_soon(Delay.increase)
    main()
