"""Azure's services beside a pair of gateways: the server of `tests/clouds` on the witness's machine, and on each gateway the address by
which it is reached. Tokens go only to https or to loopback, so each gateway finds it on its own loopback."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.clouds import AzureServer, announcement, table_id
from support.netns import Namespace
from support.process import wait_until
from support.shared_address import SharedAddress
from support.two_gateways import WITNESS, TwoGateways

PORT = 8080
URL = f"http://127.0.0.1:{PORT}"
TESTS = Path(__file__).parents[1]
FABRIC_SECTION = f"""
[fabric]
cloud = "azure"
cluster = "pair"
address = ["{{fabric}}"]
peer_address = ["{{other}}"]
management_url = "{URL}"
imds_url = "{URL}"
prefixes = ["172.16.0.0/12"]
check_interval = 5
[fabric.table.users]
id = "{table_id("users")}"
"""
SCHEDULED_EVENTS = f"""
scheduled_events = "azure"
imds_url = "{URL}/vm-{{name}}"
"""
BLOB_WITNESS = f"""
[ha.witness]
kind = "azure-blob"
url = "{URL}/blob/pairs/lease"
imds_url = "{URL}"
ttl = "1500ms"
"""
_ASK = """
import json, sys, urllib.request
url, method = sys.argv[1:]
body = sys.stdin.read()
request = urllib.request.Request(url, body.encode() if body else None, method=method)
print(urllib.request.urlopen(request, timeout=10).read().decode())
"""
_FORWARD = """
import asyncio, sys
async def pour(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def serve(reader, writer):
    try:
        there, back = await asyncio.open_connection(sys.argv[3], int(sys.argv[4]))
    except OSError:
        writer.close()
        return
    await asyncio.gather(pour(reader, back), pour(there, writer))
async def main():
    server = await asyncio.start_server(serve, sys.argv[1], int(sys.argv[2]))
    await server.serve_forever()
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Switch:
    """How long it took from a promotion until a table led there, in seconds, and how much of that the server of ARM took for itself."""

    whole: float
    server: float

    @property
    def own(self) -> float:
        """Ours, and that of the two processes that carry the connection on."""
        return self.whole - self.server


class AzureBeside(AzureServer):
    """`start` before the gateways. `address` is the witness's."""

    def __init__(self, pair: TwoGateways | SharedAddress, address: str = WITNESS) -> None:
        self.pair = pair
        self.machine = pair.witness
        self._address = address

    def start(self) -> None:
        port_file = self.machine.directory / "azure.port"
        command = (sys.executable, "-m", "clouds.azure", str(port_file))
        self.process = self.machine.start("azure", command, env={**os.environ, "PYTHONPATH": str(TESTS)})
        wait_until(port_file.exists, 30, "Azure's server", logs=[self.process])
        self.url = f"http://127.0.0.1:{port_file.read_text()}"
        self._forward(self.machine, (self._address, PORT), ("127.0.0.1", int(port_file.read_text())))
        for gateway in self.pair.gateways:
            self._forward(gateway, ("127.0.0.1", PORT), (self._address, PORT))

    def next_hop(self, table: str, prefix: str = "172.16.0.0/12") -> str:
        """To which address the table sends a prefix; "" nowhere."""
        found = [
            route.partition(" -> ")[2] for route in self.routes(table).values() if route.startswith(f"{prefix} ->")
        ]
        return found[0] if found else ""

    def switch(self, at: int, since: float, table: str = "users") -> Switch | None:
        """The last one that a gateway made, if it began after `since`, of CLOCK_MONOTONIC."""
        status = self.pair.daemons[at].status()
        found = [one for one in status["fabric"]["tables"] if one["name"] == table] if status else []
        writes = [one for one in self.writes() if one["at"] >= since and "/routes/" in one["path"] and "seconds" in one]
        if not found or found[0]["switch_seconds"] is None or not writes:
            return None
        return Switch(found[0]["switch_seconds"], sum(one["seconds"] for one in writes))

    def _forward(self, machine: Namespace, here: tuple[str, int], there: tuple[str, int]) -> None:
        words = [str(part) for part in (*here, *there)]
        machine.start(f"forward-{here[0]}", (sys.executable, "-S", "-E", "-c", _FORWARD, *words))

    def _call(self, method: str, what: str, content: object = None) -> Any:
        text = "" if content is None else json.dumps(content)
        url = f"{self.url}/admin/{what}"
        return json.loads(self.machine.run(sys.executable, "-S", "-E", "-c", _ASK, url, method, stdin=text) or "null")


class MetadataBeside:
    """AWS's instance metadata service of each gateway, on that machine's loopback, as `tests/clouds/imds.py` plays it. `start` before the
    gateways."""

    SECTION = f'\nscheduled_events = "aws"\nimds_url = "{URL}"\n'

    def __init__(self, pair: TwoGateways) -> None:
        self.pair = pair

    def start(self) -> None:
        for gateway in self.pair.gateways:
            port_file = gateway.directory / "imds.port"
            argv = (sys.executable, "-m", "clouds.imds", str(port_file), str(PORT))
            process = gateway.start("imds", argv, env={**os.environ, "PYTHONPATH": str(TESTS)})
            wait_until(port_file.exists, 30, "the metadata service", logs=[process])

    def announce(self, at: int, **what: object) -> None:
        """To one gateway; see `clouds.MetadataServer.announce`."""
        content = json.dumps(announcement(**what))
        self.pair.gateways[at].run(
            sys.executable, "-S", "-E", "-c", _ASK, f"{URL}/admin/announce", "POST", stdin=content
        )
