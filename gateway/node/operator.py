"""What an operator asks of one connection: to begin, to end, to rekey, to send its peer elsewhere."""

from __future__ import annotations

from collections.abc import Collection

from gateway.ike import commands as ike
from gateway.ike.endpoint import IkeEndpoint
from gateway.node.inputs import Operate
from gateway.node.tunnel import Tunnel


def obey(tunnel: Tunnel, endpoint: IkeEndpoint, command: Operate, now: float) -> None:
    """`command` names the connection of `tunnel`."""
    connection, child = command.connection, command.child
    match command.verb:
        case "initiate":
            tunnel.wanted = True
            tunnel.failure = None
            tunnel.back_off.reset()
            tunnel.back_off_of(child).reset()
            tunnel.held -= {child} if child else tunnel.held
        case "terminate":
            tunnel.wanted = tunnel.wanted and bool(child)
            tunnel.held |= {child} - {""}
            endpoint.command(ike.Terminate(connection, child), now)
        case "rekey":
            endpoint.command(ike.Rekey(connection, child), now)
        case "drain":
            _drain(tunnel, endpoint, command.to, now)
        case _:
            return


def are_leaving(connections: Collection[str], endpoint: IkeEndpoint) -> bool:
    """Whether some of their peers, sent elsewhere, still have their tunnel here."""
    return any(sa.redirectable and sa.established for name in connections for sa in endpoint.sas(name))


def _drain(tunnel: Tunnel, endpoint: IkeEndpoint, to: str, now: float) -> None:
    sa = endpoint.primary(tunnel.name)
    if not to or (sa is not None and sa.redirectable):
        # Who goes is not called back
        tunnel.wanted = not to and tunnel.settings.start_action == "start"
    endpoint.command(ike.Drain(tunnel.name, to), now)
