"""The second part of the demo: a pair of gateways, each with an edge router of its own, and a witness between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from support.capture import Capture
from support.cloud_beside import FABRIC_SECTION, AzureBeside
from support.clouds import route
from support.netns import Lab
from support.process import LabError, wait_until
from support.two_gateways import FABRIC, NAMES, TwoGateways

RATE = 1000  # probe datagrams per second and direction
SETTLED = 0.5
"""Seconds for what is under way to arrive."""


class PairPlay:
    """One performance, in a laboratory of its own."""

    def __init__(self, figures: dict[str, Any]) -> None:
        self.figures = figures
        self.lab = Lab()

    def build(self) -> str:
        """Ten machines; ends when the pair is whole and packets pass both ways."""
        self.pair = TwoGateways(self.lab, ha='drain_time = "500ms"', more=FABRIC_SECTION)
        self.azure = AzureBeside(self.pair)
        self.azure.start()
        self.azure.tables(users={"routes": [route("internet", "0.0.0.0/0", kind="Internet")]})
        self.captures = [Capture(self.pair.wan, f"gw{name}", f"wan-{name}") for name in NAMES]
        for capture in self.captures:
            capture.start()
        self.pair.start()
        self.pair.wait_whole()
        self.pair.streams.start(RATE)
        self.pair.streams.wait_flowing(10)
        return (
            f"gw-{self._active} is active (lease of the witness), gw-{self._standby} stands by; heartbeats every 50 ms,\n"
            "  both have a tunnel and BGP; the VNet's router and the site follow the better announcement, a route table of the cloud follows who is active"
        )

    def crash(self) -> str:
        """kill -9 of the active gateway under traffic."""
        active = self.pair.active()
        began = time.monotonic()
        self.pair.daemons[active].kill()
        self.pair.wait_role(1 - active, "active", 10)
        time.sleep(1.0)
        gap, lost = self.pair.gap(began), self.pair.lost(began)
        self.figures["pair_crash_gap_ms"], self.figures["pair_crash_lost"] = round(gap * 1000), list(lost)
        if gap > 2.0:
            raise LabError(f"{gap:.2f} s without a packet")
        return f"gw-{NAMES[1 - active]} took over: {gap * 1000:.0f} ms without packets, lost {lost[0]} and {lost[1]} of {RATE} a second"

    def comes_back(self) -> str:
        """The one that was killed, while the other carries."""
        back = 1 - self.pair.active()

        def act() -> None:
            self.pair.daemons[back].start()
            self.pair.wait_whole()

        said = self._without_loss("pair_return_lost", act)
        return f"gw-{NAMES[back]} stands by again, nothing moves back by itself: {said}"

    def switch_over(self) -> str:
        """`gatewayctl failover`, to the other and back."""

        def act() -> None:
            for _ in range(2):
                self.pair.daemons[self.pair.active()].ctl("failover")
                self.pair.wait_whole()

        return f"there and back: {self._without_loss('pair_switchover_lost', act)}"

    def move_route(self) -> str:
        """Another switchover, seen from the cloud's route table; ARM's server is a process of its own."""
        old, began = self.pair.active(), time.monotonic()
        before = self.azure.next_hop("users")
        if before != FABRIC[old]:
            raise LabError(f"the route table leads to {before or 'nobody'}, and gw-{NAMES[old]} is active")

        def act() -> None:
            self.pair.daemons[old].ctl("failover")
            moved = partial(self.azure.switch, 1 - old, began)
            wait_until(lambda: moved() and self.azure.next_hop("users") == FABRIC[1 - old], 10, "the route is moved")
            self.pair.wait_whole()

        said = self._without_loss("pair_route_moved_lost", act)
        switch = self.azure.switch(1 - old, began)
        assert switch is not None
        self.figures["pair_route_moved_own_ms"] = round(switch.own * 1000, 1)
        return (
            f"172.16.0.0/12 of table `users` led to {before} (gw-{NAMES[old]}), leads to {FABRIC[1 - old]} (gw-{NAMES[1 - old]}):\n"
            f"{switch.own * 1000:.0f} ms of our own from the promotion on, {switch.server * 1000:.1f} ms of the server's; {said}"
        )

    def cut_heartbeats(self) -> str:
        """Only the link between the two: the lease says who is active."""
        before = self.pair.roles()

        def act() -> None:
            self.pair.cut_heartbeats()
            time.sleep(1.5)
            if self.pair.roles() != before:
                raise LabError(f"{before} became {self.pair.roles()}")
            self.pair.join_heartbeats()
            self.pair.wait_whole()

        said = self._without_loss("pair_cut_lost", act)
        return f"gw-{self._active} stays active, gw-{self._standby} does not get the lease: {said}"

    def show(self) -> str:
        """`gatewayctl ha` of the active one."""
        return "$ gatewayctl ha\n" + self.pair.daemons[self.pair.active()].ctl("ha").stdout.rstrip()

    def judge_captures(self) -> str:
        """Both gateways' links to the WAN, through all of it."""
        self.pair.streams.stop()
        seen = [capture.stop() for capture in self.captures]
        clear = sum(one.clear + one.markers for one in seen)
        self.figures["pair_clear_text_packets"] = clear
        if clear:
            raise LabError(f"{clear} packets in clear: {[one.samples for one in seen]}")
        return f"{sum(one.total for one in seen)} packets on the WAN, clear 0"

    def tear_down(self) -> str:
        self.lab.close()
        self.figures["pair_leftovers"] = self.lab.leftovers()
        if self.figures["pair_leftovers"]:
            raise LabError(f"left over: {self.figures['pair_leftovers']}")
        return "nothing left"

    @property
    def _active(self) -> str:
        return NAMES[self.pair.active()]

    @property
    def _standby(self) -> str:
        return NAMES[1 - self.pair.active()]

    def _without_loss(self, figure: str, act: Callable[[], None]) -> str:
        """Nothing may be lost, but what the edges' own kernels drop because strongSwan gets no processor: that is said."""
        dropped, began = self._peers_drops(), time.monotonic()
        act()
        time.sleep(SETTLED)
        lost, theirs = sum(self.pair.lost(began)), self._peers_drops() - dropped
        self.figures[figure] = max(0, lost - theirs)
        if lost > theirs:
            raise LabError(f"{lost} lost, and the peers' machines dropped only {theirs}")
        sent = round((time.monotonic() - began) * 2 * RATE)
        return f"about {sent} datagrams, 0 lost" + (f" but {lost} that strongSwan's machine dropped" if lost else "")

    def _peers_drops(self) -> int:
        return sum(sum(edge.drops().values()) for edge in self.pair.edges)
