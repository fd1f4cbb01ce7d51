"""Checks of [fabric]: what each cloud needs, ids that are ids, prefixes that can be written, tokens that stay private."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.config.addresses import Prefix
from gateway.config.diagnostics import KeyPath
from gateway.config.fabric_model import Fabric
from gateway.config.findings import Facts, Finding
from gateway.config.service_url import service_url

_RESOURCE = r"(?i)/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Network/"
_FORMS: dict[tuple[str, str], tuple[str, str]] = {
    ("azure", "table"): (
        _RESOURCE + r"routeTables/[^/]+",
        "/subscriptions/.../resourceGroups/.../providers/Microsoft.Network/routeTables/NAME",
    ),
    ("azure", "interface"): (
        _RESOURCE + r"networkInterfaces/[^/]+",
        "/subscriptions/.../resourceGroups/.../providers/Microsoft.Network/networkInterfaces/NAME",
    ),
    ("aws", "table"): (r"rtb-[0-9a-f]+", "rtb-0123456789abcdef0"),
    ("aws", "interface"): (r"eni-[0-9a-f]+", "eni-0123456789abcdef0"),
}
_NEEDED = {"azure": ("address", "peer_address"), "aws": ("network_interface", "peer_network_interface")}
_ELSEWHERE = {
    "azure": ("network_interface", "peer_network_interface", "region", "endpoint_url"),
    "aws": ("address", "peer_address", "gateway_subnet", "route_server_subnet", "client_id"),
}
NAMES = {"azure": "Azure", "aws": "AWS"}


def fabric_findings(facts: Facts) -> Iterator[Finding]:
    """The section, then its tables."""
    fabric = facts.config.fabric
    if fabric is None:
        return
    if facts.config.ha is None and not facts.incomplete:
        yield "error", ("fabric",), "which gateway is the active one is decided by the pair; add [ha]"
    if "name" not in facts.config.gateway.model_fields_set and not facts.incomplete:
        yield (
            "error",
            ("fabric",),
            "the two gateways are told apart by their names; set `name` in [gateway], another on each",
        )
    yield from _keys(fabric)
    yield from _hops(fabric)
    yield from _urls(fabric)
    yield from _prefixes(fabric, ("fabric", "prefixes"), fabric.prefixes)
    yield from _nobody_takes_over(facts)
    if not fabric.table:
        yield "error", ("fabric",), 'no route table is named; add one, e.g. [fabric.table.users] with its id = "..."'
    yield from _tables(facts, fabric)


def _nobody_takes_over(facts: Facts) -> Iterator[Finding]:
    """Said unless it is somebody's choice: BGP moves traffic by itself when a gateway dies, routes of a table do not."""
    ha = facts.config.ha
    if ha is not None and ha.witness is None and "without_witness" not in ha.model_fields_set:
        text = "without a witness nobody takes over from a gateway that fell silent, and the routes go on leading to it; add [ha.witness], or choose `without_witness`"
        yield "warning", ("ha",), text


def _keys(fabric: Fabric) -> Iterator[Finding]:
    for key in _NEEDED[fabric.cloud]:
        if not getattr(fabric, key):
            yield "error", ("fabric",), f"{NAMES[fabric.cloud]} needs `{key}`"
    for key in _ELSEWHERE[fabric.cloud]:
        if getattr(fabric, key):
            other = "AWS" if fabric.cloud == "azure" else "Azure"
            yield "error", ("fabric", key), f'this is for {other}, and cloud = "{fabric.cloud}"'
    for key in ("network_interface", "peer_network_interface") if fabric.cloud == "aws" else ():
        yield from form(fabric.cloud, "interface", ("fabric", key), getattr(fabric, key))


def _hops(fabric: Fabric) -> Iterator[Finding]:
    for key in ("address", "peer_address"):
        addresses = getattr(fabric, key)
        if len({address.version for address in addresses}) < len(addresses):
            yield "error", ("fabric", key), "two of one family; a route has one next hop"
    if fabric.address and set(fabric.address) & set(fabric.peer_address):
        yield "error", ("fabric", "peer_address"), "the same as address; the other gateway has an address of its own"
    elif {each.version for each in fabric.address} != {
        each.version for each in fabric.peer_address
    } and fabric.peer_address:
        yield (
            "error",
            ("fabric", "peer_address"),
            "not of the same families as address; each gateway takes over every route",
        )
    if fabric.network_interface and fabric.network_interface == fabric.peer_network_interface:
        path: KeyPath = ("fabric", "peer_network_interface")
        yield "error", path, "the same as network_interface; the other gateway has an interface of its own"


def _urls(fabric: Fabric) -> Iterator[Finding]:
    for key in ("management_url", "imds_url", "endpoint_url"):
        yield from service_url(("fabric", key), getattr(fabric, key), token=key != "imds_url")


def _tables(facts: Facts, fabric: Fabric) -> Iterator[Finding]:
    seen: dict[str, KeyPath] = {}
    for name, table in fabric.table.items():
        path: KeyPath = ("fabric", "table", name)
        yield from form(fabric.cloud, "table", (*path, "id"), table.id)
        first = seen.setdefault(table.id.lower(), path)
        if first != path:
            message = f"also the id of fabric.table.{first[2]} (line {facts.line(first)}); two would write in turns"
            yield "error", (*path, "id"), message
        if table.effective_of and fabric.cloud == "aws":
            yield "error", (*path, "effective_of"), "this is for Azure; in AWS reading the table shows the same"
        else:
            yield from form(fabric.cloud, "interface", (*path, "effective_of"), table.effective_of)
        if not table.prefixes and not fabric.prefixes:
            yield "error", path, "nothing is to be written there; add `prefixes`, here or in [fabric]"
        yield from _prefixes(fabric, (*path, "prefixes"), table.prefixes)


def _prefixes(fabric: Fabric, path: KeyPath, prefixes: tuple[Prefix, ...]) -> Iterator[Finding]:
    families = {address.version for address in fabric.address}
    seen: set[Prefix] = set()
    for element, prefix in enumerate(prefixes):
        if prefix in seen:
            yield "error", (*path, element), f"{prefix} is given twice"
        seen.add(prefix)
        if families and fabric.cloud == "azure" and prefix.version not in families:
            yield (
                "error",
                (*path, element),
                f"{prefix} needs an IPv{prefix.version} next hop; add one to fabric.address",
            )


def form(cloud: str, kind: str, path: KeyPath, value: str | None) -> Iterator[Finding]:
    """Whether it is an id as the cloud writes them; `kind`: "table" or "interface"."""
    pattern, example = _FORMS[cloud, kind]
    if value and not re.fullmatch(pattern, value):
        yield "error", path, f"'{value}' is no id of {NAMES[cloud]}; write it as \"{example}\""
