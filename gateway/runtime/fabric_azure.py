"""Carries out the calls of `ha/fabric.py` in Azure: routes of route tables (user-defined routes), through ARM.

A write may go on after its answer: then ARM names an operation, which is asked until it ended. Each call is answered in bounded
time, and never raises. The role needs, on the tables: Microsoft.Network/routeTables/read, .../routeTables/routes/{read,write,delete},
Microsoft.Resources/tags/write; to verify, Microsoft.Network/networkInterfaces/effectiveRouteTable/action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from gateway.ha.fabric_values import (
    Call,
    Contents,
    Done,
    Effective,
    Failed,
    Mark,
    Outcome,
    Put,
    Read,
    Remove,
    SeenRoute,
    Verify,
    Why,
    canonical,
)
from gateway.runtime.arm import Arm, AzureSettings, mapping
from gateway.runtime.cloud_http import CloudHttp

TAGS_API_VERSION = "2021-04-01"
HINTS: dict[int | str, str] = {
    403: "; does the identity have the role on this table?",
    404: "; is the route table's id right, and may the identity see it?",
}


class AzureFabric:
    """`carry_out` for each Call; any number at once."""

    def __init__(self, settings: AzureSettings, http: CloudHttp) -> None:
        self._arm = Arm(settings, http, HINTS)

    async def carry_out(self, call: Call) -> Outcome:
        """How it ended."""
        table = call.table.reference
        match call.operation:
            case Read():
                return await self._read(table)
            case Put(route):
                return await self._write("PUT", self._route(table, route), _body(route))
            case Remove(route):
                return await self._write("DELETE", self._route(table, route))
            case Mark(key, epoch):
                tags = (
                    f"{self._arm.base}{table}/providers/Microsoft.Resources/tags/default?api-version={TAGS_API_VERSION}"
                )
                merged = {"operation": "Merge", "properties": {"tags": {key: str(epoch)}}}
                return await self._write("PATCH", tags, merged)
            case Verify(interface):
                return await self._effective(interface)

    async def close(self) -> None:
        await self._arm.close()

    # --- operations -------------------------------------------------------------------------------------------

    async def _read(self, table: str) -> Outcome:
        answer = await self._arm.ask("GET", self._arm.url(table))
        return answer if isinstance(answer, Failed) else _contents(answer.json())

    async def _write(self, method: str, url: str, body: object = None) -> Outcome:
        answer = await self._arm.write(method, url, body)
        return answer if isinstance(answer, Failed) else Done()

    async def _effective(self, interface: str) -> Outcome:
        answer = await self._arm.result(self._arm.url(f"{interface}/effectiveRouteTable"))
        return answer if isinstance(answer, Failed) else Effective(tuple(_effective_routes(answer.json())))

    def _route(self, table: str, route: SeenRoute) -> str:
        return self._arm.url(f"{table}/routes/{quote(route.name, safe='')}")


# --- what ARM says ----------------------------------------------------------------------------------------------------


def _body(route: SeenRoute) -> dict[str, Any]:
    return {
        "properties": {
            "addressPrefix": route.prefix,
            "nextHopType": route.kind,
            "nextHopIpAddress": route.hop,
        }
    }


def _contents(content: Any) -> Outcome:
    properties = mapping(mapping(content).get("properties"))
    if not isinstance(properties.get("routes"), list):
        return Failed(Why.BUSY, "ARM's answer is no route table")
    return Contents(
        routes=tuple(_route(mapping(item)) for item in properties["routes"]),
        tags=tuple((str(key), str(value)) for key, value in mapping(mapping(content).get("tags")).items()),
        subnets=tuple(str(mapping(item).get("id", "")) for item in properties.get("subnets") or ()),
    )


def _route(item: Mapping[str, Any]) -> SeenRoute:
    properties = mapping(item.get("properties"))
    return SeenRoute(
        prefix=canonical(str(properties.get("addressPrefix", ""))),
        kind=str(properties.get("nextHopType", "")),
        hop=str(properties.get("nextHopIpAddress") or ""),
        name=str(item.get("name", "")),
    )


def _effective_routes(content: Any) -> list[SeenRoute]:
    return [
        SeenRoute(canonical(str(prefix)), str(item.get("nextHopType", "")), next(map(str, item.get("nextHopIpAddress") or ()), ""))
        for item in map(mapping, mapping(content).get("value") or ())
        if item.get("state") == "Active"
        for prefix in item.get("addressPrefix") or ()
    ]  # fmt: skip
