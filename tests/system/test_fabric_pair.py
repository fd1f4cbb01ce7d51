"""Two gateways and the cloud, three processes: one is killed or stopped in the middle of a switch, the other takes over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clouds import TESTS, AzureServer, azure, route, table_id
from support.process import holds_for, wait_until

from gateway.ha.fabric_table import STALE

pytestmark = pytest.mark.system

ADDRESSES = {"gw-a": "10.0.1.4", "gw-b": "10.0.1.5"}
TABLES = ("users", "servers")
PREFIXES = tuple(f"10.{number}.0.0/16" for number in range(100, 106))
FOREIGN = route("default", "0.0.0.0/0", "10.0.9.9")


class Gateway:
    def __init__(self, name: str, server: AzureServer, directory: Path) -> None:
        (peer,) = set(ADDRESSES) - {name}
        path = directory / f"{name}.toml"
        tables = "".join(f'[fabric.table.{table}]\nid = "{table_id(table)}"\n' for table in TABLES)
        path.write_text(
            f'[gateway]\nname = "{name}"\n[ha]\nlocal_address = "{ADDRESSES[name]}"\nremote_address = "{ADDRESSES[peer]}"\n'
            f'secret.file = "pair.secret"\n[fabric]\ncloud = "azure"\ncluster = "pair"\naddress = ["{ADDRESSES[name]}"]\n'
            f'peer_address = ["{ADDRESSES[peer]}"]\nmanagement_url = "{server.url}"\nimds_url = "{server.url}"\n'
            f"prefixes = {list(PREFIXES)}\n{tables}"
        )
        self._log = directory / f"{name}.log"
        with self._log.open("ab") as sink:
            self.process = subprocess.Popen(
                ("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "support.fabric_process", str(path), "0.3"),
                stdin=subprocess.PIPE, stdout=sink, stderr=sink, env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
            )  # fmt: skip

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()

    def said(self) -> str:
        return self._log.read_text()

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AzureServer]:
    with azure(tmp_path) as running:
        running.tables(**{name: {"routes": [FOREIGN]} for name in TABLES})
        running.admin("settings", {"latency": 0.15})
        yield running


@pytest.fixture
def pair(server: AzureServer, tmp_path: Path) -> Iterator[dict[str, Gateway]]:
    started = {name: Gateway(name, server, tmp_path) for name in ADDRESSES}
    try:
        reads = len(TABLES) * len(started)
        wait_until(
            lambda: (
                sum(entry["method"] == "GET" and "/routeTables/" in entry["path"] for entry in server.log()) >= reads
            ),
            30,
            "both read",
        )
        yield started
    finally:
        for gateway in started.values():
            gateway.end()


def hops(server: AzureServer) -> list[str]:
    """Where the pair's routes lead, of both tables."""
    return [
        where.partition(" -> ")[2]
        for table in TABLES
        for name, where in server.routes(table).items()
        if name != "default"
    ]


def is_all(server: AzureServer, name: str) -> bool:
    return hops(server) == [ADDRESSES[name]] * len(PREFIXES) * len(TABLES)


def in_the_middle(server: AzureServer, name: str) -> bool:
    return 2 <= hops(server).count(ADDRESSES[name]) < 10


def test_killed_in_the_middle_of_a_switch_and_back_with_an_old_epoch(
    server: AzureServer, pair: dict[str, Gateway], tmp_path: Path
):
    pair["gw-a"].tell("activate 1")
    wait_until(lambda: in_the_middle(server, "gw-a"), 20, "gw-a is in the middle of it")
    pair["gw-a"].end()
    pair["gw-b"].tell("activate 2")
    wait_until(lambda: is_all(server, "gw-b"), 30, f"gw-b has it all: {pair['gw-b'].said()}")
    wait_until(lambda: server.tags("servers").get("gw-pair-epoch-gw-b") == "2", 10, "its epoch")
    pair["gw-a"] = Gateway("gw-a", server, tmp_path)
    pair["gw-a"].tell("activate 1")
    wait_until(lambda: "HigherEpoch" in pair["gw-a"].said(), 20, "the old one is told")
    holds_for(lambda: is_all(server, "gw-b"), 1.0, "and writes nothing")
    assert all(server.routes(table)["default"] == "0.0.0.0/0 -> 10.0.9.9" for table in TABLES)


def test_stopped_in_the_middle_and_continued_after_the_other_took_over(server: AzureServer, pair: dict[str, Gateway]):
    pair["gw-a"].tell("activate 1")
    wait_until(lambda: in_the_middle(server, "gw-a"), 20, "gw-a is in the middle of it")
    pair["gw-a"].process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    pair["gw-b"].tell("activate 2")
    wait_until(lambda: is_all(server, "gw-b"), 30, "gw-b has it all")
    wait_until(lambda: server.tags("servers").get("gw-pair-epoch-gw-b") == "2", 10, "its epoch")
    holds_for(lambda: is_all(server, "gw-b"), stopped + STALE + 0.5 - time.monotonic(), "nobody else writes")
    pair["gw-a"].process.send_signal(signal.SIGCONT)
    wait_until(lambda: "HigherEpoch" in pair["gw-a"].said(), 20, "who was stopped is told")
    holds_for(lambda: is_all(server, "gw-b"), 2.0, "and writes nothing")
    assert "HigherEpoch" not in pair["gw-b"].said()
