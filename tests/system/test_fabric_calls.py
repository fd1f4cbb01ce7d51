"""What the daemon's end of the route tables promises: every call is answered once, whatever becomes of configuration and adapter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.clouds import AzureServer, azure, route, table_id
from support.fabric_cloud import Random01

from gateway.config.load import load_text
from gateway.config.model import Config
from gateway.ha.fabric import Fabric
from gateway.ha.fabric_values import Activate, Call, Configure, Contents, Failed, Outcome, Read, Switched, Table, Why
from gateway.node.fabric_settings import fabric_settings
from gateway.runtime.fabric_calls import FabricCalls

pytestmark = pytest.mark.system


def config(server: AzureServer, prefixes: str = '["172.16.0.0/12"]', more: str = "") -> Config:
    loaded = load_text(
        '[gateway]\nname = "gw-a"\n[ha]\nlocal_address = "10.0.1.4"\nremote_address = "10.0.1.5"\nsecret.file = "pair.secret"\n'
        '[fabric]\ncloud = "azure"\ncluster = "pair"\naddress = ["10.0.1.4"]\npeer_address = ["10.0.1.5"]\n'
        f'management_url = "{server.url}"\nimds_url = "{server.url}"\nprefixes = {prefixes}\n{more}'
        f'[fabric.table.users]\nid = "{table_id("users")}"\n'
    )
    assert loaded.config is not None, loaded.diagnostics
    return loaded.config


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_from_the_file_to_the_cloud_and_on_over_a_reload(tmp_path: Path):
    with azure(tmp_path) as server:
        server.tables(users={"routes": [route("default", "0.0.0.0/0", "10.0.9.9")]})

        async def scene() -> None:
            first = config(server)
            core = Fabric(fabric_settings(first), Random01(1), time.monotonic())
            events: list[object] = []

            def drain() -> None:
                for effect in core.poll():
                    if isinstance(effect, Call):
                        calls.call(effect)
                    else:
                        events.append(effect)

            def answered(ticket: int, outcome: Outcome) -> None:
                core.computed(ticket, outcome, time.monotonic())
                drain()

            calls = FabricCalls(None, answered)
            calls.configure(first.fabric)
            core.command(Activate(1), time.monotonic())
            drain()
            await until(lambda: any(isinstance(event, Switched) for event in events))
            second = config(server, '["172.16.0.0/12", "192.168.0.0/16"]')
            adapter = calls._cloud
            calls.configure(second.fabric)
            assert calls._cloud is adapter, "prefixes are the core's, and the token is kept"
            core.command(Configure(fabric_settings(second)), time.monotonic())
            drain()
            await until(lambda: len(server.routes("users")) == 3)
            await calls.close()

        asyncio.run(scene())
        assert server.routes("users") == {
            "default": "0.0.0.0/0 -> 10.0.9.9",
            "gw-pair-172.16.0.0_12": "172.16.0.0/12 -> 10.0.1.4",
            "gw-pair-192.168.0.0_16": "192.168.0.0/16 -> 10.0.1.4",
        }
        assert sum("oauth2" in entry["path"] for entry in server.log()) == 1


def test_a_call_is_answered_once_by_the_adapter_it_was_begun_with_and_a_defect_is_an_answer(tmp_path: Path):
    with azure(tmp_path) as server:
        server.tables(users={})

        async def scene() -> list[tuple[int, Outcome]]:
            answers: list[tuple[int, Outcome]] = []
            calls = FabricCalls(None, lambda ticket, outcome: answers.append((ticket, outcome)))
            table = Table("users", table_id("users"), ())
            calls.call(Call(1, table, Read()))
            calls.configure(config(server).fabric)
            server.misbehave({"kind": "slow", "match": "routeTables", "seconds": 0.3})
            calls.call(Call(2, table, Read()))
            calls.configure(config(server, more='client_id = "other"\n').fabric)
            assert len(calls._retired) == 1
            calls.call(Call(3, table, "no operation"))  # type: ignore[arg-type]
            calls.call(Call(4, Table("x", None, ()), Read()))  # type: ignore[arg-type]
            await until(lambda: len(answers) == 4)
            assert calls._retired == set()
            calls.call(Call(5, table, Read()))
            await calls.close()
            return answers

        answers = dict(asyncio.run(scene()))
    assert answers[1] == Failed(Why.UNREACHABLE, "no cloud is configured")
    assert isinstance(answers[2], Contents)
    assert all(isinstance(outcome, Failed | type(None)) for ticket, outcome in answers.items() if ticket > 2)
    assert 5 not in answers, "nothing is answered once it is closed"
