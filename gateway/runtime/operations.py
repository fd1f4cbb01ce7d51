"""What the control socket may ask for: the picture; initiate, terminate, rekey, reload with their outcome; disclosures."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from gateway.bgp.exabgp_config import restarted
from gateway.config.diff import Change, Impact, diff
from gateway.node.inputs import ForgetLearned, Operate
from gateway.observe.snapshot import ChildStatus, Snapshot, TunnelStatus
from gateway.runtime import answers, memory
from gateway.runtime.clock import boottime
from gateway.runtime.disclosures import Piece, Wish
from gateway.runtime.kept_state import FORMAT
from gateway.runtime.loading import Loaded, LoadError, load_all
from gateway.runtime.pair_operations import VERBS, operate_pair
from gateway.runtime.questions import Question
from gateway.runtime.successor import NotReady, Successor, command_of

if TYPE_CHECKING:
    from gateway.runtime.daemon import Daemon

POLL = 0.02
AT_RESTART = "takes effect only at a restart (systemctl restart gatewayd)"


class DaemonOperations:
    """`control.Operations` on the running daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._reloading = asyncio.Lock()

    async def snapshot(self, all_routes: bool = False) -> Snapshot:
        return await (self._daemon.snapshot(None) if all_routes else self._daemon.snapshot())

    def trace(self, connection: str) -> list[dict[str, object]] | None:
        node = self._daemon.node
        if all(tunnel.name != connection for tunnel in node.settings.tunnels):
            return None
        offset = time.time() - boottime()  # the cores' clock
        return [asdict(replace(line, at=line.at + offset)) for line in node.ike.recorder.lines(connection)]

    def disclose(self, wish: Wish) -> AsyncGenerator[Piece | None, None]:
        return self._daemon.disclosures.disclose(wish)

    async def look(self, question: Question) -> bytes:
        return await answers.answer(self._daemon, question)

    def drain(self, connection: str, to: str) -> tuple[bool, str]:
        node = self._daemon.node
        chosen = [tunnel for tunnel in node.settings.tunnels if connection in ("", tunnel.name)]
        fit = [one for one in chosen if not to or (":" in to) == (":" in one.ike.local.host)]
        for tunnel in fit:
            self._daemon.driver.command(Operate("drain", tunnel.name, to=to))
        names = ", ".join(tunnel.name for tunnel in fit) or "no connection"
        if to and len(fit) < len(chosen):
            return False, f"{to} is of the other address family than some connections; sent there: {names}"
        who = "peers that initiate and follow redirects (RFC 5685)"
        return True, f"{names}: {who} are {f'sent to {to} until `drain --end`' if to else 'no longer sent away'}"

    def guard(self) -> dict[str, object]:
        found = {name: self._guard_of(name) for name in self._daemon.node.tables}
        return {**found.pop(""), "instances": found}

    def _guard_of(self, instance: str) -> dict[str, list[str]]:
        node = self._daemon.node
        members = [tunnel for tunnel in node.settings.tunnels if tunnel.instance == instance]
        protected = {str(prefix) for tunnel in members for prefix in tunnel.protected}
        return {"protected": sorted(protected), "learned": [str(prefix) for prefix in node.tables[instance].kept]}

    def forget(self, prefix: str, instance: str) -> tuple[bool, str]:
        fib = self._daemon.node.tables.get(instance)
        if fib is None:
            return False, f"there is no instance {instance}"
        kept = tuple(fib.kept)
        chosen = tuple(one for one in kept if prefix in ("", str(one)))
        if prefix and not chosen:
            return False, f"{prefix} is not among the {len(kept)} learned prefixes (gatewayctl guard)"
        self._daemon.driver.command(ForgetLearned(chosen, instance))
        again = [str(one) for one in chosen if one in fib.kept]
        still = f"; {', '.join(again[:10])} still lead into a tunnel and stay protected" if again else ""
        return True, f"{len(chosen) - len(again)} prefixes are protected no longer{still}"

    async def operate(self, verb: str, target: str, wait: float) -> tuple[bool, str]:
        if verb == "reload":
            return await self._reload()
        if verb == "plan":
            return await self._plan()
        if verb in VERBS:
            daemon = self._daemon
            return await operate_pair(daemon.node.pairing.ha, VERBS[verb], daemon.driver.command, wait, daemon.stopping)
        name, _, child = target.partition("/")
        before = self._tunnel(name)
        self._daemon.driver.command(Operate(verb, name, child))
        if not wait:
            return True, f"{verb} of {target} is under way"
        done = _OUTCOMES[verb](before, child)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            outcome = done(self._tunnel(name))
            if outcome is not None:
                return outcome
            if self._daemon.stopping.is_set():
                return False, f"{verb} of {target} is still going on, and gatewayd ends"
            await asyncio.sleep(POLL)
        raise TimeoutError(
            f"{verb} of {target} is still going on after {wait:g} s; {self._tunnel(name).explanation or 'no failure so far'}"
        )

    def _tunnel(self, name: str) -> TunnelStatus:
        return self._daemon.tunnel(name)

    async def upgrade(self, program: str) -> tuple[bool, str]:
        daemon = self._daemon
        # Process 1 of a container ends it with itself
        if not daemon.notifier.exists or os.getpid() == 1:
            return (
                False,
                "not upgraded: no service manager started gatewayd that would follow it to another process; restart it",
            )
        async with self._reloading:
            try:
                successor = await _unless(daemon.stopping, Successor.started(command_of(program, sys.argv), FORMAT))
            except NotReady as error:
                text = f"not upgraded: {error}"
                daemon.tell("error", "upgrade-refused", text)
                return False, text
            if successor is None:
                return False, "not upgraded: gatewayd is told to stop"
            return await daemon.ending.upgrade(successor)

    async def _reload(self) -> tuple[bool, str]:
        async with self._reloading:
            ok, lines = await self._reloaded()
        self._daemon.tell("info" if ok else "error", "reload", "; ".join(lines))
        return ok, "\n".join(lines)

    async def _plan(self) -> tuple[bool, str]:
        """What a reload would do; nothing is changed."""
        before = self._daemon.loaded
        try:
            loaded, warnings, changes = await asyncio.to_thread(_load, before)
        except LoadError as error:
            return False, "\n".join(f"would be refused: {line}" for line in str(error).splitlines())
        refused = [change.path for change in changes if change.impact is Impact.RESTART_DAEMON]
        if refused:
            return False, f"would be refused: {', '.join(refused)} {AT_RESTART}"
        told = [f"would change: {change}" for change in changes] or ["would change nothing"]
        return True, "\n".join([*told, *_sessions(before, loaded), *warnings])

    async def _reloaded(self) -> tuple[bool, list[str]]:
        """Whether the file was applied, and what to say of it, line by line."""
        before = self._daemon.loaded
        try:
            loaded, warnings, changes = await asyncio.to_thread(_load, before)
            refused = [change.path for change in changes if change.impact is Impact.RESTART_DAEMON]
            if refused:
                return False, [f"configuration unchanged: {', '.join(refused)} {AT_RESTART}"]
            await self._daemon.reconfigure(loaded)
        except (LoadError, OSError) as error:
            return False, [f"configuration unchanged: {line}" for line in str(error).splitlines()]
        told = [str(change) for change in changes]
        if not told:
            told = ["nothing changed" if loaded.settings == before.settings else "secrets changed"]
        told += _sessions(before, loaded)
        return True, [f"configuration reloaded: {told[0]}", *told[1:], *warnings]


async def _unless(over: asyncio.Event, work: Coroutine[None, None, Successor]) -> Successor | None:
    """What comes of it; None where it is over before."""
    waits = asyncio.ensure_future(over.wait())
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait((waits, working), return_when=asyncio.FIRST_COMPLETED)
        if not over.is_set():
            return await working
        if working.done() and working.exception() is None:
            working.result().end()
        return None
    finally:
        waits.cancel()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _load(before: Loaded) -> tuple[Loaded, list[str], tuple[Change, ...]]:
    """Everything a reload needs to know; not on the loop, because a large configuration takes a second."""
    with memory.undisturbed():
        loaded, warnings = load_all(before.path, before.settings)
        return loaded, warnings, diff(before.config, loaded.config)


def _sessions(before: Loaded, after: Loaded) -> list[str]:
    """What becomes of the BGP sessions there were."""
    old, new = before.settings.bgp, after.settings.bgp
    if old is None or new is None:
        return []
    kept = {neighbor.name for neighbor in new.neighbors}
    ended = ", ".join(neighbor.name for neighbor in old.neighbors if neighbor.name not in kept)
    anew = ", ".join(restarted(old, new))
    return [
        *([f"BGP sessions that end: {ended}"] if ended else []),
        *([f"BGP sessions that begin anew: {anew}"] if anew else []),
    ]


Outcome = tuple[bool, str] | None
Check = Callable[[TunnelStatus], Outcome]


def _child(tunnel: TunnelStatus, name: str) -> ChildStatus | None:
    return next((child for child in tunnel.children if child.name == name), None)


def _initiated(before: TunnelStatus, child: str) -> Check:
    def check(tunnel: TunnelStatus) -> Outcome:
        if tunnel.up:
            return True, f"{tunnel.name} is up: {tunnel.suite}"
        if tunnel.last_failure and tunnel.ike_state == "DOWN" and tunnel.attempts > before.attempts:
            return False, tunnel.explanation
        return None

    return check


def _terminated(before: TunnelStatus, child: str) -> Check:
    def check(tunnel: TunnelStatus) -> Outcome:
        found = _child(tunnel, child)
        down = (
            tunnel.ike_state == "DOWN"
            if not child
            else found is None or found.spi_in != (_child(before, child) or found).spi_in or found.state == "DOWN"
        )
        return (True, f"{tunnel.name}{'/' + child if child else ''} is terminated") if down else None

    return check


def _rekeyed(before: TunnelStatus, child: str) -> Check:
    def counts(tunnel: TunnelStatus) -> tuple[int, int]:
        found = _child(tunnel, child)
        return (
            (found.rekeys_ok, found.rekeys_failed)
            if found is not None
            else (tunnel.ike_rekeys_ok, tunnel.ike_rekeys_failed)
        )

    def check(tunnel: TunnelStatus) -> Outcome:
        if before.ike_state == "DOWN":
            return False, f"{tunnel.name} is down, so there is nothing to rekey"
        (ok, failed), (ok_before, failed_before) = counts(tunnel), counts(before)
        what = f"CHILD_SA {child}" if child else "IKE_SA"
        if ok > ok_before:
            return True, f"{what} of {tunnel.name} is rekeyed"
        return (
            (False, f"rekey of the {what} of {tunnel.name} failed: {tunnel.explanation or tunnel.last_failure}")
            if failed > failed_before
            else None
        )

    return check


_OUTCOMES: dict[str, Callable[[TunnelStatus, str], Check]] = {
    "initiate": _initiated,
    "terminate": _terminated,
    "rekey": _rekeyed,
}
