"""What an operator asks of the pair: failover, drain, maintenance, and the end of these; with the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.ha.message import Role
from gateway.ha.roles import Operate, Verb
from gateway.node.high_availability import HighAvailability
from gateway.runtime.clock import boottime

POLL = 0.01
VERBS = {f"ha-{verb.value}": verb for verb in Verb}
_LEAVES = (Verb.FAILOVER, Verb.DRAIN, Verb.MAINTENANCE)


async def operate_pair(
    ha: HighAvailability | None, verb: Verb, command: Callable[[Operate], None], wait: float, ends: asyncio.Event
) -> tuple[bool, str]:
    """(success, one sentence), within `wait` seconds, or when gatewayd `ends`. TimeoutError: still going on."""
    if ha is None:
        return False, "this gateway is on its own: there is no [ha] in its configuration"
    role, peer = ha.pair.election.role, _peer(ha)
    command(Operate(verb))
    if ha.refusal:
        return False, f"{verb.value} is not possible now: {ha.refusal}"
    if verb not in _LEAVES or (role is not Role.ACTIVE and verb is not Verb.FAILOVER):
        return True, f"{verb.value}: this gateway is {ha.pair.election.role.name}"
    if not wait:
        return True, f"{verb.value} is under way"
    deadline = boottime() + wait
    while boottime() < deadline:
        now = ha.pair.election.role
        if role is Role.ACTIVE and _left(ha):
            taken = f"{_peer(ha)} is ACTIVE" if _peer_acts(ha) else "nobody is active"
            return True, f"{verb.value}: this gateway is {now.name}, {taken}"
        if role is not Role.ACTIVE and now is Role.ACTIVE:
            return True, f"{verb.value}: this gateway is ACTIVE, epoch {ha.pair.election.acting_epoch}"
        if ends.is_set():
            return False, f"{verb.value} is still going on, and gatewayd ends"
        await asyncio.sleep(POLL)
    raise TimeoutError(f"{verb.value} is still going on after {wait:g} s; {peer} did not answer it yet")


def _left(ha: HighAvailability) -> bool:
    role = ha.pair.election.role
    return role in (Role.STANDBY, Role.FAULT) or (role is Role.DRAINING and _peer_acts(ha))


def _peer_acts(ha: HighAvailability) -> bool:
    said = ha.pair.heartbeat.peer_advertised
    return said is not None and said.role is Role.ACTIVE


def _peer(ha: HighAvailability) -> str:
    return ha.pair.heartbeat.status(boottime()).peer_name or "the other gateway"
