"""The checks that one key alone cannot tell: across keys, sections and connections.

Each check yields findings as (severity, path, message); this module turns them into diagnostics at the
place of the path. The checks themselves stand in `checks_connection.py` and `checks_bgp.py`; this file
has those of [dataplane] and [metrics] and of secrets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from gateway.config.checks_authentication import authentication_findings
from gateway.config.checks_bgp import bgp_findings
from gateway.config.checks_connection import connection_findings, pair_findings, prefix_findings
from gateway.config.checks_fabric import fabric_findings
from gateway.config.checks_ha import ha_findings
from gateway.config.checks_ha_fabric import ha_fabric_findings
from gateway.config.checks_instance import instance_findings
from gateway.config.checks_liveness import liveness_findings
from gateway.config.diagnostics import Diagnostic, KeyPath, Severity, in_order, spelled
from gateway.config.findings import Facts, Finding
from gateway.config.model import Config, SecretSource
from gateway.config.positions import Positions
from gateway.config.secrets import INLINE_WARNING, source_problem


def lint(
    config: Config,
    positions: Positions,
    file: str = "gateway.toml",
    left_out: Iterable[str] = (),
    *,
    incomplete: bool = False,
) -> tuple[Diagnostic, ...]:
    """Every finding, sorted by line; `left_out` names connections that have mistakes of their own."""
    facts = Facts(config, positions, frozenset(left_out), incomplete)
    return in_order(
        _diagnostic(severity, path, message, positions, file)
        for check in _CHECKS
        for severity, path, message in check(facts)
    )


def _diagnostic(severity: Severity, path: KeyPath, message: str, positions: Positions, file: str) -> Diagnostic:
    place = positions.at(path)
    return Diagnostic(severity, file, place.line, place.column, spelled(path), message)


def _secret_findings(facts: Facts) -> Iterator[Finding]:
    allowed = facts.config.gateway.allow_inline_secrets
    for path, source in _secret_sources(facts.config):
        problem = source_problem(source, allowed)
        if problem is not None:
            yield "error", path, problem
        elif source.inline is not None:
            yield "warning", path, INLINE_WARNING


def _secret_sources(config: Config) -> Iterator[tuple[KeyPath, SecretSource]]:
    for name, connection in config.connection.items():
        for key, source in (("psk", connection.psk), ("local_key", connection.local_key), ("ppk", connection.ppk)):
            if source is not None:
                yield ("connection", name, key), source
    for name, neighbor in config.bgp.neighbor.items() if config.bgp is not None else ():
        if neighbor.password is not None:
            yield ("bgp", "neighbor", name, "password"), neighbor.password
        if neighbor.bfd is not None and neighbor.bfd.secret is not None:
            yield ("bgp", "neighbor", name, "bfd", "secret"), neighbor.bfd.secret
    if config.ha is not None:
        yield ("ha", "secret"), config.ha.secret
        if config.ha.older_secret is not None:
            yield ("ha", "older_secret"), config.ha.older_secret
        if config.ha.witness is not None and config.ha.witness.secret is not None:
            yield ("ha", "witness", "secret"), config.ha.witness.secret


def _dataplane_findings(facts: Facts) -> Iterator[Finding]:
    plane = facts.config.dataplane
    twice = sorted({cpu for cpu in plane.cpus if plane.cpus.count(cpu) > 1})
    if twice:
        yield (
            "error",
            ("dataplane", "cpus"),
            f"CPU {twice[0]} is given twice; two workers on one CPU only wait for each other",
        )
    elif plane.cpus and plane.workers not in ("auto", len(plane.cpus)):
        message = f"{len(plane.cpus)} given for {plane.workers} workers; name one for each, or leave `workers` out"
        yield "error", ("dataplane", "cpus"), message


def _metrics_findings(facts: Facts) -> Iterator[Finding]:
    metrics = facts.config.metrics
    if metrics.port and not metrics.address.is_loopback:
        message = f"{metrics.address} is not loopback; whoever reaches port {metrics.port} can read metrics and status"
        yield "warning", ("metrics", "address"), message


_CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    connection_findings,
    authentication_findings,
    pair_findings,
    prefix_findings,
    bgp_findings,
    instance_findings,
    liveness_findings,
    _secret_findings,
    _dataplane_findings,
    ha_findings,
    fabric_findings,
    ha_fabric_findings,
    _metrics_findings,
)
