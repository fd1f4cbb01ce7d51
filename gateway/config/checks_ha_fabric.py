"""Checks of [ha.fabric]: something to move, ids that are ids, each address at one interface, tokens that stay private."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.addresses import Address
from gateway.config.checks_fabric import NAMES, form
from gateway.config.diagnostics import KeyPath
from gateway.config.findings import Facts, Finding
from gateway.config.ha_model import HaFabric, HaInterface
from gateway.config.service_url import service_url

_PATH: KeyPath = ("ha", "fabric")
_ELSEWHERE = {"azure": ("region", "endpoint_url"), "aws": ("client_id",)}


def ha_fabric_findings(facts: Facts) -> Iterator[Finding]:
    """The section, then its interfaces."""
    ha = facts.config.ha
    if ha is None or ha.fabric is None:
        return
    fabric = ha.fabric
    if not ha.shared_addresses:
        yield "error", _PATH, "there is nothing to move; name the addresses in `shared_addresses` of [ha]"
    for key in _ELSEWHERE[fabric.cloud]:
        if getattr(fabric, key):
            other = NAMES["aws" if fabric.cloud == "azure" else "azure"]
            yield "error", (*_PATH, key), f'this is for {other}, and cloud = "{fabric.cloud}"'
    for key in ("management_url", "imds_url", "endpoint_url"):
        yield from service_url((*_PATH, key), getattr(fabric, key), token=key != "imds_url")
    if not fabric.interface:
        yield (
            "error",
            _PATH,
            'no network interface is named; add one, e.g. [ha.fabric.interface.wan] with its id = "..." and peer_id = "..."',
        )
    else:
        yield from _interfaces(facts, fabric, ha.shared_addresses)


def _interfaces(facts: Facts, fabric: HaFabric, shared: tuple[Address, ...]) -> Iterator[Finding]:
    taken: dict[Address, str] = {}
    for name, interface in fabric.interface.items():
        path: KeyPath = (*_PATH, "interface", name)
        yield from _ids(fabric, path, interface)
        for address in interface.addresses or shared:
            first = taken.setdefault(address, name)
            if first != name:
                line = facts.line((*_PATH, "interface", first))
                message = f"{address} is at ha.fabric.interface.{first} (line {line}) already; give each interface its `addresses`"
                yield "error", path, message
            elif address not in shared:
                yield "error", (*path, "addresses"), f"{address} is none of the `shared_addresses` of [ha]"
    for address in shared:
        if address not in taken:
            message = (
                f"{address} of `shared_addresses` is at none of the interfaces: nobody tells the cloud that it moved"
            )
            yield "warning", _PATH, message


def _ids(fabric: HaFabric, path: KeyPath, interface: HaInterface) -> Iterator[Finding]:
    for key in ("id", "peer_id"):
        yield from form(fabric.cloud, "interface", (*path, key), getattr(interface, key))
    if interface.id.lower() == interface.peer_id.lower():
        yield "error", (*path, "peer_id"), "the same as id; the other gateway has an interface of its own"
