"""The instance metadata service of one EC2 instance as far as the gateway calls it, in a process of its own.

    python -m clouds.imds PORT_FILE [PORT]

IMDSv2: nothing without a token, a token by PUT with a time to live, categories that do not apply answered with 404. `POST /admin/announce` sets
what each path below /latest/meta-data/ answers; `/admin/faults` takes a list of {match, times, kind}: status (answer `status`), reset, nonsense,
expire (every token ends now). `GET /admin/log` tells what was asked for.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

LONGEST = 21600


class Metadata:
    def __init__(self) -> None:
        self.announced: dict[str, Any] = {}
        self.tokens: dict[str, float] = {}
        self.faults: list[dict[str, Any]] = []
        self.log: list[str] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/admin/{what}", self._admin)
        app.router.add_route("*", "/latest/{path:.*}", self._serve)
        return app

    async def _admin(self, request: web.Request) -> web.StreamResponse:
        content = json.loads(await request.text() or "null")
        match request.method, request.match_info["what"]:
            case "POST", "announce":
                self.announced = content
            case "POST", "faults":
                self.faults = content
            case "GET", "log":
                return web.json_response(self.log)
        return web.json_response({})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.log.append(f"{request.method} {request.path}")
        for fault in self.faults:
            if fault["times"] > 0 and re.search(fault.get("match", ""), request.path):
                fault["times"] -= 1
                match fault["kind"]:
                    case "status":
                        return web.Response(status=fault["status"])
                    case "reset":
                        assert request.transport is not None
                        request.transport.abort()
                        return web.Response()
                    case "nonsense":
                        return web.Response(text="<html>a proxy's page</html>", content_type="text/html")
                    case "expire":
                        self.tokens.clear()
        path = request.match_info["path"]
        return self._token(request) if path == "api/token" else self._data(request, path)

    def _token(self, request: web.Request) -> web.StreamResponse:
        life = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if request.method != "PUT" or not life.isdigit() or not 0 < int(life) <= LONGEST:
            return web.Response(status=400)
        if "X-Forwarded-For" in request.headers:
            return web.Response(status=403)
        token = secrets.token_urlsafe(40)
        self.tokens[token] = time.monotonic() + int(life)
        return web.Response(text=token)

    def _data(self, request: web.Request, path: str) -> web.StreamResponse:
        token = request.headers.get("X-aws-ec2-metadata-token", "")
        if self.tokens.get(token, 0.0) < time.monotonic():
            return web.Response(status=401)
        found = self.announced.get(path.removeprefix("meta-data/"))
        return web.Response(status=404) if found is None else web.Response(text=json.dumps(found))


async def _run(port_file: Path, port: int) -> None:
    runner = web.AppRunner(Metadata().app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    ready = port_file.with_suffix(".new")
    ready.write_text(str(runner.addresses[0][1]))
    ready.rename(port_file)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
