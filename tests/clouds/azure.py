"""Azure's services as far as the gateway calls them, in a process of its own: ARM's route tables and network interfaces, IMDS, blob leases.

    python -m clouds.azure PORT_FILE

Faithful in what matters: tokens that end, one operation at a time in a route table, operations that go on after the answer, two
routes to one prefix refused, leases with their states. And it misbehaves when told to, by `/admin/faults`: see `Fault`.
Not authentication, not more of ARM than is called.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from aiohttp import web
from clouds.blob import Blobs
from clouds.nics import NIC, Nic, Nics

TABLE = re.compile(
    r"(?i)(/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.Network/routeTables/[^/]+)(/.*)?$"
)
EFFECTIVE = re.compile(
    r"(?i)/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.Network/networkInterfaces/([^/]+)/effectiveRouteTable$"
)
ROUTE_NAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$")
HOP_TYPES = ("Internet", "None", "VirtualAppliance", "VirtualNetworkGateway", "VnetLocal")
STORAGE = "https://storage.azure.com/"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Fault:
    """What happens to the next `times` requests whose method and path match.

    `kind`: status (answer `status` with `code`, `retry_after`), slow (done `seconds` late), late (done, and answered `seconds` late),
    reset (connection gone, nothing done), reset-after (done, then gone), operation-fails (accepted, then fails with `code`), expire (every token ends now), nonsense.
    """

    kind: str
    method: str = ""
    match: str = ""
    times: int = 1
    status: int = 500
    code: str = "InternalServerError"
    retry_after: str = ""
    seconds: float = 1.0

    def takes(self, request: web.Request) -> bool:
        return (
            self.times > 0 and self.method in ("", request.method) and re.search(self.match, request.path) is not None
        )


@dataclass
class RouteTable:
    routes: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    subnets: list[str] = field(default_factory=list)
    busy_until: float = 0.0


class Azure:
    def __init__(self) -> None:
        self.tables: dict[str, RouteTable] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.effective: dict[str, list[dict[str, Any]]] = {}
        self.tokens: dict[str, float] = {}
        self.audiences: dict[str, str] = {}
        """For what resource each token is."""
        self.token_life = 3600.0
        self.latency = 0.0
        """How long an operation of ARM goes on after its answer."""
        self.faults: list[Fault] = []
        self.log: list[dict[str, Any]] = []
        self.blobs = Blobs()
        self.nics = Nics()
        self.events: list[dict[str, Any]] = []
        self._numbers = count(1)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._watch])
        app.router.add_route("*", "/admin/{what}", self._admin)
        app.router.add_get("/metadata/identity/oauth2/token", self._token)
        app.router.add_get("/{machine}/metadata/instance/compute/name", self._machine)
        app.router.add_route("*", "/{machine}/metadata/scheduledevents", self._scheduled)
        app.router.add_get("/operations/{number}", self._operation)
        app.router.add_route("*", "/subscriptions/{rest:.*}", self._arm)
        app.router.add_route("*", "/blob/{container}/{name:.+}", self._blob)
        return app

    # --- misbehaviour -----------------------------------------------------------------------------------------

    @web.middleware
    async def _watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/admin/"):
            return await handler(request)
        body = await request.text()
        at = time.monotonic()
        entry = {"method": request.method, "path": request.path_qs, "body": body, "at": at}
        self.log.append(entry)
        fault = next((fault for fault in self.faults if fault.takes(request)), None)
        if fault is None:
            answer = await handler(request)
            entry["seconds"] = time.monotonic() - at
            return answer
        fault.times -= 1
        request["fault"] = fault
        return await self._misbehave(fault, request, handler)

    async def _misbehave(self, fault: Fault, request: web.Request, handler: Handler) -> web.StreamResponse:
        match fault.kind:
            case "status":
                headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
                headers |= {"x-ms-error-code": fault.code} if request.path.startswith("/blob/") else {}
                return _error(fault.status, fault.code, "on purpose", headers)
            case "slow":
                await asyncio.sleep(fault.seconds)
            case "late":
                answer = await handler(request)
                await asyncio.sleep(fault.seconds)
                return answer
            case "reset":
                return self._cut(request)
            case "reset-after":
                await handler(request)
                return self._cut(request)
            case "expire":
                self.tokens.clear()
            case "nonsense":
                return web.Response(text="<html>a proxy's page</html>", content_type="text/html")
        return await handler(request)

    @staticmethod
    def _cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _admin(self, request: web.Request) -> web.StreamResponse:
        """What a test sets up and looks at."""
        what = request.match_info["what"]
        content = json.loads(await request.text() or "{}")
        match request.method, what:
            case "POST", "tables":
                for name, table in content.items():
                    self.tables[name.lower()] = RouteTable(
                        {route["name"]: route for route in table.get("routes", ())},
                        table.get("tags", {}),
                        table.get("subnets", []),
                    )
            case "POST", "nics":
                self.nics.setup(content)
            case "GET", "nics":
                return web.json_response(self.nics.all())
            case "POST", "faults":
                self.faults = [Fault(**fault) for fault in content]
            case "POST", "settings":
                self.latency = content.get("latency", self.latency)
                self.token_life = content.get("token_life", self.token_life)
            case "POST", "events":
                self.events = content
            case "GET", "events":
                return web.json_response(self.events)
            case "POST", "effective":
                self.effective = content
            case "POST", "forget-log":
                self.log.clear()
            case "GET", "tables":
                return web.json_response({name: _table(table) for name, table in self.tables.items()})
            case "GET", "tokens":
                return web.json_response(list(self.tokens))
            case "GET", "log":
                return web.json_response(self.log)
        return web.json_response({})

    # --- IMDS -------------------------------------------------------------------------------------------------

    async def _token(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Metadata") != "true" or "X-Forwarded-For" in request.headers:
            return web.json_response(
                {"error": "invalid_request", "error_description": "Metadata: true is required"}, status=400
            )
        if "api-version" not in request.query or "resource" not in request.query:
            return web.json_response(
                {"error": "invalid_request", "error_description": "resource is required"}, status=400
            )
        token = f"ey{secrets.token_urlsafe(40)}"
        self.tokens[token] = time.monotonic() + self.token_life
        self.audiences[token] = request.query["resource"]
        return web.json_response({
            "access_token": token, "token_type": "Bearer", "resource": request.query["resource"],
            "expires_in": str(int(self.token_life)), "expires_on": str(int(time.time() + self.token_life)),
        })  # fmt: skip

    async def _machine(self, request: web.Request) -> web.StreamResponse:
        """Each machine has an IMDS of its own; here a path of its own."""
        return web.Response(text=request.match_info["machine"])

    async def _scheduled(self, request: web.Request) -> web.StreamResponse:
        """Scheduled Events: what is announced, and who says that it may begin."""
        if request.headers.get("Metadata") != "true" or "api-version" not in request.query:
            return web.json_response({"error": "Bad request"}, status=400)
        if request.method == "POST":
            started = {one["EventId"] for one in json.loads(await request.text())["StartRequests"]}
            for event in self.events:
                event["EventStatus"] = "Started" if event["EventId"] in started else event["EventStatus"]
            return web.Response()
        return web.json_response({"DocumentIncarnation": len(self.log), "Events": self.events})

    # --- storage ----------------------------------------------------------------------------------------------

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        if "x-ms-version" in request.headers and not self._is_allowed(request, STORAGE):
            return web.Response(status=401, headers={"x-ms-error-code": "InvalidAuthenticationInfo"})
        return await self.blobs.handle(request)

    # --- ARM --------------------------------------------------------------------------------------------------

    def _is_allowed(self, request: web.Request, audience: str = "") -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        is_good = scheme == "Bearer" and self.tokens.get(token, 0.0) > time.monotonic()
        return is_good and audience in ("", self.audiences[token])

    async def _arm(self, request: web.Request) -> web.StreamResponse:
        if not self._is_allowed(request):
            return _error(
                401, "ExpiredAuthenticationToken", "The access token expired.", {"WWW-Authenticate": "Bearer"}
            )
        if "api-version" not in request.query:
            return _error(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
        if (nic := EFFECTIVE.match(request.path)) is not None and request.method == "POST":
            return self._accepted(request, 202, {"result": {"value": self.effective.get(nic[1], [])}})
        if (nic := NIC.match(request.path)) is not None:
            return await self._nic(request, nic[1])
        found = TABLE.match(request.path)
        if found is None or found[1].lower() not in self.tables:
            return _error(404, "ResourceNotFound", "The resource was not found.")
        table, rest = self.tables[found[1].lower()], found[2] or ""
        if rest == "" and request.method == "GET":
            return web.json_response(_table(table))
        if rest == "/providers/Microsoft.Resources/tags/default" and request.method == "PATCH":
            return self._tag(table, json.loads(await request.text()))
        if rest.startswith("/routes/") and request.method in ("PUT", "DELETE"):
            return await self._write(request, table, rest.removeprefix("/routes/"))
        return _error(405, "MethodNotAllowed", "not here")

    def _tag(self, table: RouteTable, content: dict[str, Any]) -> web.StreamResponse:
        if content.get("operation") != "Merge":
            return _error(400, "InvalidTagOperation", "only Merge is played here")
        table.tags |= content["properties"]["tags"]
        return web.json_response({"properties": {"tags": table.tags}})

    async def _write(self, request: web.Request, table: RouteTable, name: str) -> web.StreamResponse:
        if time.monotonic() < table.busy_until:
            return _error(
                429, "RetryableError", "Another operation is updating the route table.",
                {"Retry-After": str(max(1, round(table.busy_until - time.monotonic())))},
            )  # fmt: skip
        if request.method == "DELETE":
            if name not in table.routes:
                return web.Response(status=204)
            return self._accepted(request, 202, {"apply": lambda: table.routes.pop(name, None)}, table)
        wanted = json.loads(await request.text())
        problem = _problem(table, name, wanted.get("properties", {}))
        if problem is not None:
            return _error(400, *problem)
        route = {"name": name, "properties": {**wanted["properties"], "provisioningState": "Succeeded"}}
        status = 200 if name in table.routes else 201
        updating = {"name": name, "properties": {**wanted["properties"], "provisioningState": "Updating"}}
        return self._accepted(
            request, status, {"apply": lambda: table.routes.__setitem__(name, route), "body": updating}, table
        )

    async def _nic(self, request: web.Request, reference: str) -> web.StreamResponse:
        nic = self.nics.found.get(reference.lower())
        if nic is None:
            return _error(404, "ResourceNotFound", "The resource was not found.")
        if request.method == "GET":
            return web.json_response(self.nics.shown(reference))
        if request.method != "PUT":
            return _error(405, "MethodNotAllowed", "not here")
        if time.monotonic() < nic.busy_until:
            left = str(max(1, round(nic.busy_until - time.monotonic())))
            return _error(
                409, "AnotherOperationInProgress", "Another operation on this resource.", {"Retry-After": left}
            )
        wanted = json.loads(await request.text())
        problem = self.nics.problem(reference, wanted, request.headers.get("If-Match", ""))
        if problem is not None:
            return _error(*problem)
        updating = {**wanted, "properties": {**wanted["properties"], "provisioningState": "Updating"}}
        operation = {"apply": lambda: self.nics.put(reference, wanted), "body": updating}
        return self._accepted(request, 200, operation, nic)

    def _accepted(
        self, request: web.Request, status: int, operation: dict[str, Any], table: RouteTable | Nic | None = None
    ) -> web.StreamResponse:
        """An operation that ends later; by then its effect is there, unless it fails."""
        number = str(next(self._numbers))
        fault = request.get("fault")
        fails = fault.code if fault is not None and fault.kind == "operation-fails" else None
        self.operations[number] = {**operation, "ends": time.monotonic() + self.latency, "fails": fails}
        if table is not None:
            table.busy_until = time.monotonic() + self.latency
        asyncio.get_running_loop().call_later(self.latency, self._finish, number)
        if self.latency == 0.0:
            self._finish(number)
        url = f"{request.url.origin()}/operations/{number}?api-version=x"
        headers = {"Location": url, "Retry-After": "10"}
        if "result" not in operation:
            headers["Azure-AsyncOperation"] = url
        return web.json_response(operation.get("body"), status=status, headers=headers)

    def _finish(self, number: str) -> None:
        operation = self.operations[number]
        apply = operation.pop("apply", None)
        if apply is not None and operation["fails"] is None:
            apply()

    async def _operation(self, request: web.Request) -> web.StreamResponse:
        if not self._is_allowed(request):
            return _error(401, "ExpiredAuthenticationToken", "The access token expired.")
        operation = self.operations[request.match_info["number"]]
        pending = time.monotonic() < operation["ends"]
        if "result" in operation:
            return web.Response(status=202) if pending else web.json_response(operation["result"])
        if pending:
            return web.json_response({"status": "InProgress"}, headers={"Retry-After": "10"})
        if operation["fails"] is not None:
            return web.json_response(
                {"status": "Failed", "error": {"code": operation["fails"], "message": "on purpose"}}
            )
        return web.json_response({"status": "Succeeded"})


def _problem(table: RouteTable, name: str, properties: dict[str, Any]) -> tuple[str, str] | None:
    """What ARM would refuse about a route."""
    if not ROUTE_NAME.match(name) or len(name) > 80:
        return "InvalidResourceName", f"Resource name {name} is invalid."
    kind, hop, prefix = (
        properties.get("nextHopType"),
        properties.get("nextHopIpAddress"),
        properties.get("addressPrefix"),
    )
    try:
        ipaddress.ip_network(prefix)
        if kind == "VirtualAppliance":
            ipaddress.ip_address(hop or "")
    except ValueError as error:
        return "InvalidRequestFormat", str(error)
    if kind not in HOP_TYPES:
        return "InvalidNextHopType", f"{kind} is no next hop type."
    for other, route in table.routes.items():
        if other != name and route["properties"]["addressPrefix"] == prefix:
            return (
                "RouteConflict",
                f"Route: {name} conflicts with Route: {other}. Routes cannot have the same AddressPrefix.",
            )
    return None


def _table(table: RouteTable) -> dict[str, Any]:
    return {
        "tags": table.tags,
        "properties": {
            "routes": list(table.routes.values()),
            "subnets": [{"id": subnet} for subnet in table.subnets],
            "provisioningState": "Succeeded",
        },
    }


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)


async def _serve(port_file: Path) -> None:
    runner = web.AppRunner(Azure().app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    ready = port_file.with_suffix(".new")
    ready.write_text(str(port))
    ready.rename(port_file)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
