"""How the daemon ends: for good, for the next process to go on (a restart), or with one ready to take over (an upgrade).

    stop     withdraw, say goodbye to the peers, let go; the guard stays in the kernel
    restart  nobody is told: tunnels, devices, sockets, routes and BGP sessions wait for the next process
    upgrade  the same, but the next process waits already, and this one ends when that one forwards

In a pair, who attracts traffic hands over to the other gateway first, whichever it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from enum import Enum, auto
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.ha.roles import Operate, Verb
from gateway.node import inputs
from gateway.node.operator import are_leaving
from gateway.runtime import systemd
from gateway.runtime.clock import boottime
from gateway.runtime.loading import LoadError, load_all
from gateway.runtime.successor import NotReady, Successor

if TYPE_CHECKING:
    from gateway.runtime.daemon import Daemon

STOP_PATIENCE = 3.0
LEAVE_PATIENCE = 0.5
"""Seconds for exchanges under way to end before a restart: what they are for is lost otherwise."""
log = logging.getLogger("gateway")


class End(Enum):
    """Who goes on with what is in the kernel."""

    CLOSED = auto()
    """Nobody: only the guard is left."""
    LEFT = auto()
    """The next process, or the one that took over."""
    FORSAKEN = auto()
    """One that was to take over and did not: the service manager starts the next, because this one ends as failed."""


class Ending:
    """Of one daemon. `successor`: the process that is ready to take over, if there is one; `succeeded`: what came of it."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.successor: Successor | None = None
        self.succeeded: asyncio.Future[tuple[bool, str]] | None = None
        self.told = False
        """By a signal: whoever wants the daemon to stop wants no other one."""

    async def upgrade(self, successor: Successor) -> tuple[bool, str]:
        """Ends the daemon, which `successor` takes over from; whether it did, and one sentence."""
        self.successor = successor
        self.succeeded = asyncio.get_running_loop().create_future()
        self._daemon.stopping.set()
        return await self.succeeded

    async def end(self) -> bool:
        """Whichever it is; False when the daemon goes on after all."""
        if self.successor is None:
            await self._stop()
            return True
        successor, self.successor = self.successor, None
        try:
            return await self._be_succeeded(successor)
        finally:
            # Who asked waits for an answer, also where this one fails in a way that nobody thought of
            if self.succeeded is not None and not self.succeeded.done():
                self._report(False, "not upgraded: gatewayd failed, see its log")

    async def _stop(self) -> None:
        daemon = self._daemon
        log.info("stopping", extra={"event": "stopping"})
        daemon.notifier.stopping()
        daemon.disclosures.close()
        await self._hand_over()
        # Who ends as failed is started again, as after a crash
        followed = daemon.failed or await systemd.restarting()
        restarting = followed and await self._can_be_followed()
        if daemon.bgp.outlives and restarting:
            log.info("restarting: BGP sessions and announced routes stay", extra={"event": "bgp-left"})
            await daemon.bgp.leave()
        else:
            await daemon.bgp.stop()
        if restarting and daemon.store.exists:
            await self._leave()
        else:
            await self._close_tunnels()

    async def _leave(self) -> None:
        """All that takes time comes before the halt: from then on nobody forwards until the next process does, which begins when
        this one has ended."""
        daemon = self._daemon
        await daemon.close_servers()
        await self._settle()
        daemon.ended = End.LEFT
        await daemon.end_tasks()
        await daemon.rest()
        await self._halt()
        log.info("restarting: the tunnels stay", extra={"event": "tunnels-left"})

    async def _be_succeeded(self, successor: Successor) -> bool:
        """All that takes time comes before the halt, while packets still pass. False: the daemon goes on."""
        daemon = self._daemon
        log.info("upgrading to gatewayd %s, process %d", successor.release, successor.pid, extra={"event": "upgrading"})
        handed_over = await self._hand_over()
        await self._settle()
        obstacle = self._obstacle(successor)
        if obstacle:
            successor.end()
            self._report(False, f"not upgraded: {obstacle}")
            if self.told:
                await self._stop()
            elif handed_over:
                daemon.driver.command(Operate(Verb.RESUME))
            return self.told
        # Whatever happens from here on, a process goes on: the successor, or the one that the manager starts after it
        daemon.ended = End.FORSAKEN
        daemon.disclosures.close()
        await daemon.bgp.leave()
        await daemon.end_tasks()
        await daemon.rest()
        try:
            await self._halt()
            successor.take(daemon.held())
            await daemon.rest_listeners()
            await successor.serves()
        except (NotReady, OSError) as error:
            successor.end()
            self._report(False, f"not upgraded, and left to the service manager, which starts it again: {error}")
            return True
        daemon.ended = End.LEFT
        self._report(True, f"upgraded from gatewayd {__version__} to {successor.release}, process {successor.pid}")
        return True

    def _obstacle(self, successor: Successor) -> str:
        """Why the daemon goes on at the last moment; empty: the manager has been told, so that it listens to the other."""
        if self.told:
            return "gatewayd is told to stop"
        if not successor.alive:
            return "it ended after it was ready"
        try:
            self._daemon.notifier.main_process(successor.pid)
        except OSError as error:
            # It would take our end for the service's, and end the other
            return f"the service manager does not take the news ({error})"
        return ""

    def _report(self, done: bool, text: str) -> None:
        level, event = (logging.INFO, "upgraded") if done else (logging.ERROR, "upgrade-failed")
        log.log(level, "%s", text, extra={"event": event})
        if self.succeeded is not None and not self.succeeded.done():
            self.succeeded.set_result((done, text))

    async def _can_be_followed(self) -> bool:
        """By a process that reads the same file. One that refuses it would leave the peers to find out by themselves."""
        try:
            await asyncio.to_thread(load_all, self._daemon.loaded.path)
        except LoadError as error:
            log.error("the next start will fail, so the tunnels end now: %s", error, extra={"event": "tunnels-end"})
            return False
        return True

    async def _settle(self) -> None:
        """What exchanges under way are for is lost otherwise."""
        deadline = time.monotonic() + LEAVE_PATIENCE
        while time.monotonic() < deadline and not self._daemon.node.keeper.at_rest:
            await asyncio.sleep(0.005)

    async def _halt(self) -> None:
        """After the last packet, what is kept is exact: of every SA, whoever has read its counters before."""
        daemon = self._daemon
        daemon.driver.rest()
        await asyncio.to_thread(daemon.dataplane.halt)
        counters = inputs.Counters(daemon.dataplane.sa_counters(), {})
        daemon.driver.last(lambda node, now: node.command(counters, now))
        for keep in daemon.node.keeper.at_the_end():
            daemon.kept.keep(keep)
        daemon.kept.end()

    async def _close_tunnels(self) -> None:
        daemon = self._daemon
        await daemon.write_down()
        daemon.driver.command(inputs.Stop())
        daemon.driver.command(inputs.CloseTunnels())
        deadline = time.monotonic() + STOP_PATIENCE
        while time.monotonic() < deadline and any(
            daemon.node.ike.sas(tunnel.name) for tunnel in daemon.node.settings.tunnels
        ):
            await asyncio.sleep(0.02)
        daemon.kept.forget()
        daemon.sockets.forget()
        await daemon.end_tasks()

    async def _hand_over(self) -> bool:
        """Who attracts traffic lets the other take over before anything ends here; without another, or where it does not, it just
        ends. Whether it had anything to hand over."""
        node = self._daemon.node
        pair = node.pairing.ha
        if pair is None or not pair.has_duties or (node.replication.acting and not pair.has_heir):
            return False  # whoever lets go of shared addresses without an heir takes their tunnels down
        self._daemon.driver.command(Operate(Verb.MAINTENANCE))
        deadline = boottime() + STOP_PATIENCE
        while boottime() < deadline and pair.has_heir and not pair.is_relieved:
            await asyncio.sleep(0.01)
        while boottime() < deadline and are_leaving(node.pairing.sent_away, node.ike):
            await asyncio.sleep(0.01)
        return True
