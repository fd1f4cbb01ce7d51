"""The control socket over a real UNIX socket, under uvloop."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import stat
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
import uvloop
from support.control_fixture import SampleOperations, served
from support.reachable import for_everybody
from support.snapshots import HEALTHY, TROUBLED

from gateway.runtime import control
from gateway.runtime.control import AlreadyRunning, ControlServer
from gateway.runtime.fd_store import Inherited
from gateway.runtime.http import LAST_ANSWERS
from gateway.runtime.questions import Advertised, Lookup, NotThere, Places, PolicyTest, Table, Unusable


def ask(path: Path, method: str, url: str, body: object = None) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request(method, url, body=body if body is None or isinstance(body, str | bytes) else json.dumps(body))
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, json.loads(text) if response.headers.get_content_type() == "application/json" else {
        "text": text
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def test_status_is_the_snapshot(path: Path):
    with served(SampleOperations(TROUBLED), path):
        status, document = ask(path, "GET", "/v1/status")
    assert status == 200
    assert document == json.loads(json.dumps(TROUBLED.to_json()))
    assert document["schema"] == 1


def test_the_socket_is_ours_alone_and_goes_away(path: Path):
    with served(SampleOperations(HEALTHY), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_operations_reach_the_daemon(path: Path):
    with served(SampleOperations(TROUBLED), path) as operations:
        operations.answer = (False, "the peer refused")
        answer = ask(path, "POST", "/v1/operations", {"verb": "rekey", "target": "azure-a/net", "wait": 12})
        assert answer == (200, {"ok": False, "text": "the peer refused"})
        assert ask(path, "POST", "/v1/operations", {"verb": "reload"})[0] == 200
        assert operations.asked == [("rekey", "azure-a/net", 12.0), ("reload", "", 0.0)]


def test_questions_about_routes_reach_the_daemon(path: Path):
    with served(SampleOperations(TROUBLED), path) as operations:
        operations.document = {"table": []}
        assert ask(path, "GET", "/v1/table")[1]["table"] == []
        assert ask(path, "GET", "/v1/advertised?peer=edge")[0] == 200
        assert ask(path, "GET", "/v1/places?keys=psk,proposals&connection=a")[0] == 200
        assert ask(path, "GET", "/v1/lookup?address=10.1.0.1&from=10.2.0.1&instance=blue")[0] == 200
        large = {"peer": "edge", "text": "x" * 1_000_000}
        assert ask(path, "POST", "/v1/policy-tests", large)[0] == 200, "a configuration is longer than other requests"
        here, there = ip_address("10.2.0.1"), ip_address("10.1.0.1")
        test = PolicyTest("edge", "both", "", large["text"])
        assert operations.questions == [
            Table(),
            Advertised("edge"),
            Places(("psk", "proposals"), "a"),
            Lookup(there, here, "blue"),
            test,
        ]
        operations.problem = NotThere("no such thing")
        assert ask(path, "GET", "/v1/table") == (404, {"ok": False, "text": "no such thing"})
        operations.problem = Unusable("f:1:1: a", "f:2:1: b")
        wrong = (422, {"ok": False, "errors": ["f:1:1: a", "f:2:1: b"]})
        assert ask(path, "POST", "/v1/policy-tests", large) == wrong


def test_questions_not_understood_are_refused(path: Path):
    with served(SampleOperations(TROUBLED), path) as operations:
        for url in (
            f"places?keys={'a,' * 65}",
            "places?key=psk",
            "table?x=1",
            "advertised?pear=edge",
            "lookup",
            "lookup?address=x",
            f"advertised?peer={'a' * 81}",
        ):
            assert ask(path, "GET", f"/v1/{url}")[0] == 400, url
        for body in ("[]", b"\xff", "[" * 4000, "x" * ((4 << 20) + 1)):
            assert ask(path, "POST", "/v1/policy-tests", body)[0] == 400
        assert operations.questions == []
        assert ask(path, "GET", "/v1/status")[0] == 200


def test_a_trace_is_of_one_connection(path: Path):
    with served(SampleOperations(TROUBLED), path) as operations:
        operations.traces["azure-a"] = [{"at": 1.5, "text": "IKE_SA established"}]
        assert ask(path, "GET", "/v1/trace/azure-a") == (
            200,
            {"connection": "azure-a", "lines": [{"at": 1.5, "text": "IKE_SA established"}]},
        )
        assert ask(path, "GET", "/v1/trace/azure-x") == (
            404,
            {"ok": False, "text": "no connection 'azure-x'; there are: azure-a, onprem-b"},
        )


def test_unknown_targets_are_not_found_and_say_what_exists(path: Path):
    with served(SampleOperations(TROUBLED), path) as operations:
        status, answer = ask(path, "POST", "/v1/operations", {"verb": "initiate", "target": "azure-x"})
        assert (status, answer["text"]) == (404, "no connection 'azure-x'; there are: azure-a, onprem-b")
        status, answer = ask(path, "POST", "/v1/operations", {"verb": "initiate", "target": "azure-a/lan"})
        assert (status, answer["text"]) == (404, "no child 'lan' in connection azure-a; there are: net")
        assert operations.asked == []


def test_a_drain_names_a_connection_or_all_of_them(path: Path):
    with served(SampleOperations(TROUBLED), path) as operations:
        for body in ({"target": "azure-a", "to": "192.0.2.1"}, {"to": "2001:db8::1"}, {}):
            assert ask(path, "POST", "/v1/operations", {"verb": "drain", **body})[0] == 200
        assert ask(path, "POST", "/v1/operations", {"verb": "drain", "target": "nope"})[0] == 404
        assert [words for _, words, _ in operations.asked] == ["azure-a>192.0.2.1", ">2001:db8::1", ">"]


def test_an_upgrade_names_a_program_by_its_whole_path_or_none(path: Path):
    with served(SampleOperations(TROUBLED), path) as operations:
        for body in ({}, {"program": "/opt/gatewayd"}):
            assert ask(path, "POST", "/v1/operations", {"verb": "upgrade", **body})[0] == 200
        for wrong in (
            {"program": "gatewayd"},
            {"program": "/a\0b"},
            {"program": 7},
            {"target": "azure-a"},
            {"wait": 1},
        ):
            assert ask(path, "POST", "/v1/operations", {"verb": "upgrade", **wrong})[0] == 400
        assert [program for _, program, _ in operations.asked] == ["", "/opt/gatewayd"]


def test_only_root_chooses_the_program_of_an_upgrade(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The daemon's own user has less rights than the daemon."""
    script = """if 1:
        import http.client, os, socket, sys
        os.setuid(65534)
        for body in ('{"verb":"upgrade","program":"/opt/gatewayd"}', '{"verb":"upgrade"}'):
            c = http.client.HTTPConnection("localhost"); c.sock = socket.socket(socket.AF_UNIX); c.sock.connect(sys.argv[1])
            c.request("POST", "/v1/operations", body)
            print(c.getresponse().read().decode())
        """
    monkeypatch.setattr(control.os, "geteuid", lambda: 65534)
    with served(SampleOperations(HEALTHY), path) as operations:
        os.chmod(path, 0o666)
        for_everybody(path)
        done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=20)
        first, second = map(json.loads, done.stdout.splitlines())
        assert first == {"ok": False, "text": "user id 65534 may not choose the program: only root may"}
        assert second["ok"] is True
        assert operations.asked == [("upgrade", "", 0.0)]


def test_a_listener_that_is_passed_on_turns_nobody_away(path: Path):
    """Who asks between the two waits; the old one answers what it was asked, and takes nothing away when it ends."""

    async def scenario() -> None:
        old, new = SampleOperations(HEALTHY), SampleOperations(HEALTHY)
        first = ControlServer(old, path)
        await first.start()
        held = {name: [os.dup(fd) for fd in fds] for name, fds in first.held.items()}
        await first.pass_on()
        assert first.held == {}
        waiting = asyncio.create_task(asyncio.to_thread(ask, path, "POST", "/v1/operations", {"verb": "reload"}))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        second = ControlServer(new, path)
        await second.start(Inherited(held))
        await first.stop()
        assert (await waiting)[0] == 200
        assert (old.asked, new.asked) == ([], [("reload", "", 0.0)])
        assert path.exists()
        await second.stop()
        assert not path.exists()

    uvloop.run(scenario())


def test_a_listener_of_another_place_is_not_taken(path: Path):
    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX) as elsewhere:
            elsewhere.bind(str(path.with_name("other.sock")))
            elsewhere.listen()
            server = ControlServer(SampleOperations(HEALTHY), path)
            inherited = Inherited({"control": [os.dup(elsewhere.fileno())]})
            await server.start(inherited)
            assert inherited.close() == []
            assert (await asyncio.to_thread(ask, path, "GET", "/v1/status"))[0] == 200
            await server.stop()

    uvloop.run(scenario())


def test_an_operation_that_does_not_finish_is_a_timeout(path: Path):
    with served(SampleOperations(TROUBLED), path) as operations:
        operations.hang = True
        assert ask(path, "POST", "/v1/operations", {"verb": "initiate", "target": "azure-a", "wait": 1})[0] == 504


@pytest.mark.parametrize(
    "body",
    [
        "", "[]", "{", "nonsense", '{"verb":"destroy","target":"azure-a"}', '{"verb":"rekey"}', '{"verb":"reload","target":"a"}',
        '{"verb":"rekey","target":"azure-a","wait":601}', '{"verb":"rekey","target":"azure-a","wait":NaN}',
        '{"verb":"rekey","target":"azure-a","wait":true}', '{"verb":"rekey","target":7}', '{"verb":"rekey","target":"azure-a","x":1}',
        '{"verb":"rekey","target":"' + "a" * 81 + '"}', '{"verb":"rekey","target":"' + "a" * 5000 + '"}', "[" * 4000, b"\xff\xfe",
        '{"verb":"rekey","target":"azure-a","to":"192.0.2.1"}', '{"verb":"drain","to":"gw.example"}', '{"verb":"drain","to":7}',
        '{"verb":"drain","target":"azure-a/net"}', '{"verb":"drain","target":"azure-a","wait":3}', '{"verb":"drain","target":null}',
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_reaches_nobody(path: Path, body: str | bytes):
    with served(SampleOperations(TROUBLED), path) as operations:
        status, answer = ask(path, "POST", "/v1/operations", body)
        assert status == 400
        assert answer["ok"] is False
        assert operations.asked == []
        assert ask(path, "GET", "/v1/status")[0] == 200, "and the server goes on"


def test_long_request_lines_and_headers_are_refused(path: Path):
    with served(SampleOperations(HEALTHY), path):
        assert ask(path, "GET", "/v1/status?" + "x" * 5000)[0] == 400
        assert ask(path, "GET", "/v1/nothing")[0] == 404


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_another_user_is_refused_even_when_the_file_mode_would_let_it_in(path: Path):
    script = """
import http.client, os, socket, sys
s = socket.socket(socket.AF_UNIX)
os.setuid(65534)
s.connect(sys.argv[1])
c = http.client.HTTPConnection("localhost"); c.sock = s
c.request("POST", "/v1/operations", '{"verb":"terminate","target":"azure-a"}')
print(c.getresponse().status)
"""
    with served(SampleOperations(HEALTHY), path) as operations:
        os.chmod(path, 0o666)
        for_everybody(path)
        done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=20)
        assert done.stdout.strip() == "403", done.stderr
        assert operations.asked == []


def test_a_second_daemon_is_refused_and_a_leftover_is_replaced(path: Path):
    async def start_and_stop() -> None:
        server = ControlServer(SampleOperations(HEALTHY), path)
        await server.start()
        await server.stop()

    with served(SampleOperations(HEALTHY), path):
        with pytest.raises(AlreadyRunning, match="another gatewayd"):
            uvloop.run(start_and_stop())
        assert ask(path, "GET", "/v1/status")[0] == 200, "the first one was not disturbed"
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(str(path))
    uvloop.run(start_and_stop())


def test_an_operation_that_is_waited_for_does_not_hold_its_end_up(path: Path):
    class Waits(SampleOperations):
        async def operate(self, verb: str, target: str, wait: float) -> tuple[bool, str]:
            asked.set()
            return await asyncio.Future()

    async def run() -> None:
        server = ControlServer(Waits(TROUBLED), path)
        await server.start()
        reader, writer = await asyncio.open_unix_connection(path)
        body = b'{"verb": "initiate", "target": "azure-a", "wait": 60}'
        writer.write(b"POST /v1/operations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await asked.wait()
        async with asyncio.timeout(10 * LAST_ANSWERS):
            await server.stop()
            assert await reader.read() == b""
        writer.close()
        await server.stop()
        assert not path.exists()

    asked = asyncio.Event()
    uvloop.run(run())
