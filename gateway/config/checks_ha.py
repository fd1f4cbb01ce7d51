"""Checks of [ha]: addresses of paths, ports, names, and what a witness makes of the rest."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.addresses import Address
from gateway.config.derive import NAT_T_PORT, copy_lasts, lease_ttl, pair_paths
from gateway.config.diagnostics import KeyPath
from gateway.config.findings import Facts, Finding
from gateway.config.ha_model import HaPath, HaPeer, HaWitness
from gateway.config.service_url import is_private, service_url

_NEEDED = {
    "node": ("address",),
    "azure-blob": ("url",),
    "dynamodb": ("table", "key"),
    "s3": ("bucket", "key"),
    "etcd": ("endpoints", "key"),
}
_AWS = {"key", "region", "endpoint_url"}
_USED = {
    "node": {"address", "port", "secret"},
    "azure-blob": {"url", "client_id", "imds_url"},
    "dynamodb": {"table", *_AWS},
    "s3": {"bucket", *_AWS},
    "etcd": {"endpoints", "key", "ca", "certificate", "private_key"},
}
LONGEST_WAIT = 30.0
"""Seconds without an answer after which peers give a tunnel up: AWS by default, others at 45 s and more."""
_OF_A_KIND = set().union(*_USED.values())


def ha_findings(facts: Facts) -> Iterator[Finding]:
    """The first path, then the others, then who decides."""
    ha = facts.config.ha
    if ha is None:
        return
    if "name" not in facts.config.gateway.model_fields_set and not facts.incomplete:
        yield (
            "error",
            ("ha",),
            "the two gateways are told apart by their names; set `name` in [gateway], another on each",
        )
    seen: dict[tuple[Address, Address, int], KeyPath] = {}
    for where, path in pair_paths(facts.config):
        yield from _path(facts, where, path)
        ends = (path.local_address, path.remote_address, path.port)
        first = seen.setdefault(ends, where)
        if first is not where:
            yield (
                "error",
                where,
                f"the same addresses as those of line {facts.line(first)}; it would fail with that one",
            )
    yield from service_url(("ha", "imds_url"), ha.imds_url, token=False)
    yield from _vote(ha)
    yield from _witness(facts, ha)
    yield from _shared(facts, ha)


def _vote(ha: HaPeer) -> Iterator[Finding]:
    if ha.vote is None:
        if ha.without_witness == "vote":
            yield "error", ("ha", "without_witness"), '"vote" needs the targets of [ha.vote]'
        return
    if ha.without_witness != "vote":
        yield "warning", ("ha", "vote"), 'has no effect without `without_witness = "vote"`'
    taken = {ha.local_address, ha.remote_address}
    taken |= {address for path in ha.path.values() for address in (path.local_address, path.remote_address)}
    for at, target in enumerate(ha.vote.targets):
        where = ("ha", "vote", "targets", at)
        if target in taken:
            yield "error", where, f"{target} is one of the two gateways; a target is somewhere else"
        elif target in ha.vote.targets[:at]:
            yield "error", where, f"{target} has one vote, and is there already"
        elif target.version != ha.local_address.version:
            yield "error", where, "not of the same family as local_address of [ha]"
    if len(ha.vote.targets) % 2 == 0:
        text = "an even number; with one more it can do without one more of them"
        yield "warning", ("ha", "vote", "targets"), text


def _path(facts: Facts, where: KeyPath, path: HaPeer | HaPath) -> Iterator[Finding]:
    if path.local_address == path.remote_address:
        yield (
            "error",
            (*where, "remote_address"),
            "the same as local_address; the other gateway has an address of its own",
        )
    if path.local_address.version != path.remote_address.version:
        yield "error", (*where, "remote_address"), "not of the same family as local_address"
    ike_ports = {connection.local_port for connection in facts.config.connection.values()} or {500}
    if path.port in ike_ports | {NAT_T_PORT}:
        message = f"UDP port {path.port} is taken by IKE; choose another, e.g. 4780, on both gateways"
        yield "error", (*where, "port"), message


def _shared(facts: Facts, ha: HaPeer) -> Iterator[Finding]:
    path = ("ha", "shared_addresses")
    if not ha.shared_addresses:
        return
    if ha.witness is None:
        yield "error", path, "needs [ha.witness]: without a lease both gateways could use the same SAs at once"
    if ha.mode == "active-active":
        yield "error", path, 'not with mode = "active-active": only one gateway has these addresses'
    wait = copy_lasts(ha.interval * ha.dead_after, lease_ttl(ha.witness))
    if ha.witness is not None and wait > LONGEST_WAIT:
        cause: KeyPath = ("ha", "dead_after") if ha.witness.ttl is None else ("ha", "witness", "ttl")
        message = (
            f"when the standby dies, the peers of `shared_addresses` get no answer for {wait:g} s, 1 s and twice dead_after x interval and the "
            f"lease's `ttl` together; above {LONGEST_WAIT:g} s they give their tunnels up: shorten these"
        )
        yield "error", cause, message
    if ha.witness is not None and ha.witness.break_lease:
        yield (
            "warning",
            path,
            "a lease that was broken leaves no copy to go on from: after a crash the connections begin anew",
        )
    for name, connection in facts.config.connection.items():
        if connection.redirect_to is not None and connection.local_addrs in ha.shared_addresses:
            message = "has no use: its local_addrs moves to the other gateway, and the peer notices nothing"
            yield "error", ("connection", name, "redirect_to"), message
    own = {path.local_address for path in ha.path.values()} | {ha.local_address}
    for address in ha.shared_addresses:
        if address in own:
            yield "error", path, f"{address} is this gateway's own, by which the two talk with each other"


def _witness(facts: Facts, ha: HaPeer) -> Iterator[Finding]:
    witness, path = ha.witness, ("ha", "witness")
    if witness is None:
        return
    if ha.without_witness != "stay":
        yield "warning", ("ha", "without_witness"), "has no effect: there is a witness"
    for key in _NEEDED[witness.kind]:
        if not getattr(witness, key):
            yield "error", path, f'kind = "{witness.kind}" needs `{key}`'
    for key in sorted(_OF_A_KIND - _USED[witness.kind]):
        if getattr(witness, key) != type(witness).model_fields[key].default:
            kinds = " or ".join(f'"{kind}"' for kind, used in _USED.items() if key in used)
            yield "error", (*path, key), f'this is for kind = {kinds}, and kind = "{witness.kind}"'
    yield from _node(ha, witness.address)
    for key in ("url", "endpoint_url"):
        yield from service_url((*path, key), getattr(witness, key), token=True)
    yield from service_url((*path, "imds_url"), witness.imds_url, token=False)
    yield from _etcd(witness)


def _etcd(witness: HaWitness) -> Iterator[Finding]:
    path = ("ha", "witness")
    for at, endpoint in enumerate(witness.endpoints):
        found = list(service_url((*path, "endpoints", at), endpoint, token=False))
        yield from found
        if not found and not is_private(endpoint):
            message = f"'{endpoint}': the lease could be read and changed on the way; use https"
            yield "error", (*path, "endpoints", at), message
    if (witness.certificate is None) != (witness.private_key is None):
        given, missing = ("certificate", "private_key") if witness.certificate else ("private_key", "certificate")
        yield "error", (*path, given), f"needs `{missing}`, too"


def _node(ha: HaPeer, address: Address | None) -> Iterator[Finding]:
    if address is None:
        return
    ours = {ha.local_address, *(path.local_address for path in ha.path.values())}
    theirs = {ha.remote_address, *(path.remote_address for path in ha.path.values())}
    if address in ours | theirs:
        whose = "ours" if address in ours else "the other gateway's"
        message = f"{address} is {whose}; a witness that fails together with a gateway lets nobody take over"
        yield "error", ("ha", "witness", "address"), message
    if address.version != ha.local_address.version:
        yield "error", ("ha", "witness", "address"), "not of the same family as local_address of [ha]"
