"""Checks of BFD and of probes: intervals that cannot be held, addresses that nothing would answer from."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.derive import interface_facing, is_everything, remote_prefixes
from gateway.config.diagnostics import KeyPath
from gateway.config.findings import Facts, Finding
from gateway.config.model import Bfd, Connection, Neighbor, Probe

AZURE_AS = 65515
# Every authenticated packet is made and judged by the interpreter
AUTHENTICATED_FLOOR = 0.3


def liveness_findings(facts: Facts) -> Iterator[Finding]:
    """Of every neighbor and connection that is watched."""
    for name, neighbor in facts.config.bgp.neighbor.items() if facts.config.bgp is not None else ():
        if neighbor.bfd is not None:
            yield from _bfd(("bgp", "neighbor", name, "bfd"), neighbor, neighbor.bfd)
    for name, connection in facts.config.connection.items():
        if connection.probe is not None:
            yield from _probe(("connection", name, "probe"), connection, connection.probe)
        yield from _circuit(facts, ("connection", name), connection)


def _bfd(path: KeyPath, neighbor: Neighbor, bfd: Bfd) -> Iterator[Finding]:
    if bfd.secret is not None and bfd.interval < AUTHENTICATED_FLOOR:
        message = f"{bfd.interval:g} s is too often with a secret; at least {AUTHENTICATED_FLOOR:g} s"
        yield "error", (*path, "interval"), message
    if bfd.interval * bfd.multiplier >= neighbor.hold_time:
        message = f"finds a failure after {bfd.interval * bfd.multiplier:g} s, no sooner than hold_time ({neighbor.hold_time} s)"
        yield "warning", (*path, "interval"), message
    if bfd.multiplier == 1:
        yield "warning", (*path, "multiplier"), "a single lost packet takes the session down; use 3"
    if neighbor.graceful_restart:
        # RFC 5882 4.3: a restart that BFD does not survive looks like a failure
        message = (
            "with BFD the neighbor takes a restart of ours for a failure, and drops the routes it was asked to keep"
        )
        yield "warning", (*path[:-1], "graceful_restart"), message
    if neighbor.remote_as == AZURE_AS:
        message = "neither Azure's route servers nor its VPN gateways have BFD; see [connection.NAME.probe]"
        yield "warning", path, message


def _circuit(facts: Facts, path: KeyPath, connection: Connection) -> Iterator[Finding]:
    circuit = connection.circuit
    if connection.protection == "always":
        if circuit is not None:
            message = 'a circuit that carries in clear stands against `protection = "always"`; write "backup", or take this away'
            yield "error", (*path, "circuit"), message
        return
    beside = facts.config.bgp is not None and any(
        one.connection is None and (one.instance or None) == connection.instance
        for one in facts.config.bgp.neighbor.values()
    )
    if circuit is None and not beside:
        message = "backup of what? name the private circuit by `circuit.address`, or a BGP neighbor beside the tunnels"
        yield "error", (*path, "protection"), message
    if circuit is None:
        return
    if connection.instance is not None:
        # What an instance's table says nothing about goes nowhere (runtime/instance_rules.py)
        message = (
            f"instance '{connection.instance}' has no way by the host's own routes, so nothing would follow the circuit; "
            "let a BGP neighbor beside the tunnels teach the instance the circuit's routes, or take the connection out of it"
        )
        yield "error", (*path, "circuit"), message
    own = circuit.local_address or connection.local_addrs
    if own.version != circuit.address.version:
        yield "error", (*path, "circuit", "address"), f"not of the family of {own}; set circuit.local_address"
    if any(circuit.address in one.network for one in connection.tunnel_address):
        yield (
            "error",
            (*path, "circuit", "address"),
            f"{circuit.address} is inside the tunnel, and says nothing of the circuit",
        )


def _probe(path: KeyPath, connection: Connection, probe: Probe) -> Iterator[Finding]:
    place = (*path, "address")
    own = [one for one in connection.tunnel_address if one.version == probe.address.version]
    if not own:
        message = f"the connection has no IPv{probe.address.version} tunnel_address to ask from"
        yield "error", place, message
        return
    if any(one.ip == probe.address for one in own):
        yield "error", place, f"{probe.address} is our own tunnel_address"
    elif probe.address.version == 6 and interface_facing(connection, probe.address) is None:
        nets = ", ".join(str(one.network) for one in own)
        yield "error", place, f"an IPv6 address must be inside the tunnel's own network ({nets}) to be asked through it"
    carried = remote_prefixes(connection)
    if not any(
        is_everything(prefix) or probe.address in prefix
        for prefix in carried
        if prefix.version == probe.address.version
    ):
        yield (
            "error",
            place,
            f"{probe.address} is in no remote_ts of the connection, so no CHILD_SA carries the question",
        )
