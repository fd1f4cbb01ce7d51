"""gatewayctl against a real control server: what it prints and how it exits."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.control_fixture import Run, SampleOperations
from support.snapshots import DOWN, HEALTHY, PEER, TROUBLED, UP

from gateway.observe.snapshot import ChildStatus, WorkerStatus
from gateway.runtime.questions import NotThere, Places

ROOT = Path(__file__).parents[3]


def test_sas_are_drawn_as_the_field_knows_them(daemon: SampleOperations, ctl: Run):
    code, out, _ = ctl("sas", "azure-a")
    assert (code, out) == (0, """\
azure-a   ESTABLISHED  IKEv2  initiator   203.0.113.10[4500] 'gw-a' <-> 198.51.100.7[4500] 'onprem'   NAT: local
  AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384   up 2h 14m, rekey in 1h 31m, heard 4s ago
  net       INSTALLED    TUNNEL  ESP:AES_GCM_16-256/ESN   10.1.0.0/16 <-> 172.16.0.0/16   rekey in 45m
    in  c3f1a2b0      8.1 GB      6.2 M pkts     1s ago   replay 0   auth-fail 0
    out 5d0e77c1      1.4 GB      1.9 M pkts     2s ago   seq 0.04 % used
""")  # fmt: skip


def test_bgp_peers_have_the_columns_of_the_cloud_cli(daemon: SampleOperations, ctl: Run):
    _, out, _ = ctl("bgp", "peers")
    header, row = out.splitlines()
    assert header.split() == [
        "Neighbor",
        "ASN",
        "State",
        "ConnectedDuration",
        "RoutesReceived",
        "MessagesSent",
        "MessagesReceived",
    ]
    assert row.split() == ["169.254.21.1", "65515", "Established", "17:54:06", "3", "1232", "1194"]
    assert len(ctl("bgp", "peers", "--no-header")[1].splitlines()) == 1


def test_bfd_sessions_show_their_state_what_it_means_and_how_soon_silence_is_noticed(
    daemon: SampleOperations, ctl: Run
):
    shown = ctl("bfd")[1]
    assert "Session" in shown
    row = next(line for line in shown.splitlines() if "bfd edge" in line)
    assert row.split()[:6] == ["bfd", "edge", "169.254.21.2", "UP", "up", "1h"]
    assert "300 ms" in row
    assert row.split()[-1] == "2"
    wide = next(line for line in ctl("bfd", "-o", "wide")[1].splitlines() if "bfd edge" in line)
    for value in ("azure-a", "100 ms", "36000", "35990", "3"):
        assert value in wide


def test_workers_show_packets_bursts_and_queues(daemon: SampleOperations, ctl: Run):
    header, row = ctl("workers")[1].splitlines()
    assert header.split() == ["Worker", "Cpu", "CpuTime", "In", "Out", "BurstIn", "BurstOut", "Waiting", "Lost"]
    assert re.split(r"  +", row) == ["0", "1", "1.50s", "4.0 k", "1.1 k", "88.9", "44.0", "2.3 kB", "3"]
    assert json.loads(ctl("workers", "-o", "json")[1])["workers"][0]["cycles"]["seal"] == 330000


def test_workers_show_cycles_by_stage_and_packet_only_where_they_are_counted(daemon: SampleOperations, ctl: Run):
    header, row = ctl("workers", "-o", "wide")[1].splitlines()
    shown = dict(zip(header.split(), re.split(r"  +", row), strict=True))
    assert (shown["SealCycles"], shown["ReadCycles"], shown["OpenCycles"]) == ("300", "1", "2")
    assert (shown["EmptyPolls"], shown["UdpSends"]) == ("77", "30")
    assert "SendCycles" not in shown
    daemon.picture = replace(HEALTHY, workers=(WorkerStatus(0, 5, 0.0, idle=True), WorkerStatus(1, 6, 0.0, idle=True)))
    header, first, _ = ctl("workers", "-o", "wide")[1].splitlines()
    assert "Cycles" not in header
    assert first.split()[1:7] == ["any", "0.00s", "0", "0", "-", "-"]


def test_workers_show_packet_sockets_only_where_they_are_used(daemon: SampleOperations, ctl: Run):
    assert "PacketSends" not in ctl("workers", "-o", "wide")[1]
    used = WorkerStatus(0, 5, 0.0, idle=True, calls={"packet_sends": 9}, fallbacks={"full": 2, "refused": 1})
    daemon.picture = replace(HEALTHY, workers=(used, WorkerStatus(1, 6, 0.0, idle=True)))
    header, first, second = ctl("workers", "-o", "wide")[1].splitlines()
    assert header.split()[-2:] == ["PacketSends", "Fallbacks"]
    assert (first.split()[-2:], second.split()[-2:]) == (["9", "3"], ["0", "0"])
    assert "PacketSends" not in ctl("workers")[1]


def test_a_session_of_days_is_shown_as_azure_shows_it(daemon: SampleOperations, ctl: Run):
    daemon.picture = replace(
        HEALTHY, peers=(replace(PEER, established_at=HEALTHY.now - 2 * 86400 - 61), replace(PEER, established_at=None))
    )
    rows = ctl("bgp", "peers", "--no-header")[1].splitlines()
    assert [row.split()[3] for row in rows] == ["2.00:01:01", "-"]


def test_bgp_routes_mark_the_best_path_and_say_why(daemon: SampleOperations, ctl: Run):
    _, out, _ = ctl("bgp", "routes")
    _, best, other = out.splitlines()
    assert best.startswith(">    172.16.0.0/16")
    assert "65515-64601" in best
    assert best.endswith("shorter AS path")
    assert other.startswith("     172.16.0.0/16")
    assert other.endswith("longer AS path")


def test_status_names_what_is_wrong_and_does_not_cut_values(daemon: SampleOperations, ctl: Run):
    code, out, _ = ctl("status", "-o", "wide")
    assert code == 0
    for text in (
        "PROBLEM  net.ipv4.ip_forward is 0",
        "AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384",
        "the peer refused our proposals",
        "IKE_SA established",
    ):
        assert text in out
    assert "…" not in out
    assert "\x1b" not in out


def test_json_is_the_snapshot(daemon: SampleOperations, ctl: Run):
    assert json.loads(ctl("-o", "json", "status")[1]) == json.loads(json.dumps(TROUBLED.to_json()))
    document = json.loads(ctl("sas", "azure-a", "-o", "json")[1])
    assert document["schema"] == 1
    assert [t["name"] for t in document["tunnels"]] == ["azure-a"]
    assert json.loads(ctl("bgp", "routes", "-ojson")[1])["routes"][0]["reason"] == "shorter AS path"


@pytest.mark.parametrize(
    "words", [["status", "--output=json"], ["--output", "json", "status"], ["st", "-o", "json"], ["stat", "-ojson"]]
)
def test_options_stand_anywhere_and_commands_are_abbreviated(daemon: SampleOperations, ctl: Run, words: list[str]):
    assert json.loads(ctl(*words)[1])["name"] == "gw-a"


def test_ambiguous_and_unknown_commands_are_usage_errors(daemon: SampleOperations, ctl: Run):
    assert ctl("re", "azure-a")[0] == 2, "rekey or reload"
    assert ctl("frobnicate")[0] == 2
    assert ctl("rekey")[0] == 2
    assert ctl("rekey", "azure-a", "--wait", "-1")[0] == 2
    assert daemon.asked == []


def test_operations_and_their_exit_codes(daemon: SampleOperations, ctl: Run):
    daemon.answer = (True, "azure-a/net rekeyed")
    assert ctl("rekey", "azure-a/net", "--wait", "5") == (0, "azure-a/net rekeyed\n", "")
    daemon.answer = (False, "the peer refused")
    assert ctl("initiate", "azure-a") == (1, "", "gatewayctl: the peer refused\n")
    daemon.answer = (False, "configuration unchanged:\ngateway.toml:3:1: unknown key")
    assert ctl("reload") == (
        78,
        "",
        "gatewayctl: configuration unchanged:\ngatewayctl: gateway.toml:3:1: unknown key\n",
    )
    assert ctl("terminate", "nope")[0] == 4
    daemon.hang = True
    code, _, err = ctl("terminate", "azure-a", "--wait", "1")
    assert code == 5
    assert "did not finish in 1 s" in err
    assert daemon.asked == [
        ("rekey", "azure-a/net", 5.0),
        ("initiate", "azure-a", 30.0),
        ("reload", "", 30.0),
        ("terminate", "azure-a", 1.0),
    ]


def test_the_guard_is_shown_and_what_was_learned_forgotten(daemon: SampleOperations, ctl: Run):
    shown = ctl("guard", "show")[1]
    assert [line.split() for line in shown.splitlines()][1:] == [
        ["172.16.0.0/16", "protected"],
        ["10.9.0.0/16", "learned"],
        ["172.16.0.0/16", "protected", "blue"],
    ]
    assert json.loads(ctl("guard", "show", "-ojson")[1])["learned"] == ["10.9.0.0/16"]
    daemon.answer = (True, "1 prefixes are protected no longer")
    assert ctl("guard", "forget", "10.9.0.0/16")[0] == ctl("guard", "forget", "--all")[0] == 0
    assert daemon.asked == [("forget", "10.9.0.0/16", 0.0), ("forget", "", 0.0)]
    assert ctl("guard", "forget", "10.9.0.0/16", "--instance", "blue")[0] == 0
    assert daemon.asked[-1] == ("forget", "blue>10.9.0.0/16", 0.0)
    assert ctl("guard", "forget")[0] == ctl("guard", "forget", "10.9.0.0/16", "--all")[0] == 2
    assert ctl("guard", "forget", "10.9.0.1/16")[0] != 0
    daemon.answer = (False, "not among them")
    assert ctl("guard", "forget", "10.8.0.0/16")[0] == 1


def test_a_drain_goes_somewhere_or_ends(daemon: SampleOperations, ctl: Run):
    daemon.answer = (True, "sent to 192.0.2.1")
    assert ctl("drain", "azure-a", "--to", "192.0.2.1") == (0, "sent to 192.0.2.1\n", "")
    assert ctl("drain", "--end")[0] == 0
    assert ctl("drain")[0] == ctl("drain", "--to", "192.0.2.1", "--end")[0] == 2
    assert ctl("drain", "nope", "--end")[0] == 4
    assert [words for _, words, _ in daemon.asked] == ["azure-a>192.0.2.1", ">"]


def test_an_unreachable_daemon_is_3_and_says_what_to_look_at(ctl: Run, tmp_path: Path):
    code, _, err = ctl("--socket", str(tmp_path / "none"), "status")
    assert code == 3
    assert "does not run" in err
    assert ctl("health", "--nagios", "--socket", str(tmp_path / "none"))[0] == 3
    assert ctl("version", "--socket", str(tmp_path / "none"))[0] == 0


def test_explain_says_why_and_exits_1_while_something_is_down(daemon: SampleOperations, ctl: Run):
    code, out, _ = ctl("explain", "onprem-b")
    assert (code, out) == (1, "onprem-b is DOWN: the peer refused our proposals. Attempts so far: 4. Next in 12s.\n")
    assert ctl("explain", "azure-a")[:2] == (0, "azure-a is up for 2h 14m.\n")
    assert ctl("explain", "nope")[0] == 4


def test_explain_has_the_line_of_each_setting_that_it_names(daemon: SampleOperations, ctl: Run):
    text = "it refused; put `proposals` and `psk` of connection onprem-b right, or add `proposals` there, see `gatewayctl trace`"
    down = replace(DOWN, explanation=text)
    daemon.picture = replace(TROUBLED, tunnels=(UP, down))
    places = [
        {"connection": "onprem-b", "key": "proposals", "lines": [12, 20], "below": 9},
        {"connection": "onprem-b", "key": "psk", "lines": [], "below": 9},
        {"connection": "azure-a", "key": "psk", "lines": [3], "below": 2},
    ]
    daemon.document = {"file": "/etc/g.toml", "places": places}
    told = "put `proposals` (/etc/g.toml:12, /etc/g.toml:20) and `psk` (not set: add it below /etc/g.toml:9) of connection onprem-b right, or add `proposals` there"
    assert told in ctl("explain", "onprem-b")[1]
    assert daemon.questions == [Places(("proposals", "psk"), "onprem-b")]
    shown = json.loads(ctl("-o", "json", "explain")[1])["tunnels"]
    assert [one["places"] for one in shown] == [
        [],
        [
            {"key": "proposals", "file": "/etc/g.toml", "lines": [12, 20], "below": 9},
            {"key": "psk", "file": "/etc/g.toml", "lines": [], "below": 9},
        ],
    ]
    assert shown[1]["explanation"] == text
    assert daemon.questions[1] == Places(("proposals", "psk"))


def test_explain_of_a_daemon_that_knows_no_places_is_the_sentence_alone(daemon: SampleOperations, ctl: Run):
    daemon.picture = replace(TROUBLED, tunnels=(replace(DOWN, explanation="put `psk` right"),))
    daemon.problem = NotThere("no such question")
    assert "put `psk` right. Attempts" in ctl("explain")[1]


def test_explain_names_the_missing_child(daemon: SampleOperations, ctl: Run):
    half = replace(UP, up=False, children=(*UP.children, ChildStatus(name="lan", state="DOWN")))
    daemon.picture = replace(HEALTHY, tunnels=(half,))
    assert "the IKE_SA is established, but not the CHILD_SA lan" in ctl("explain")[1]


def test_health(daemon: SampleOperations, ctl: Run):
    assert ctl("health")[0] == 0, "a tunnel down is no reason to restart the container"
    assert ctl("health", "--nagios")[0] == 2
    daemon.picture = replace(HEALTHY, problems=("rp_filter is strict",))
    assert ctl("health", "--nagios")[:2] == (1, "GATEWAY WARNING - rp_filter is strict | tunnels_up=1;;;0;1\n")
    daemon.picture = HEALTHY
    assert ctl("health", "--nagios")[:2] == (0, "GATEWAY OK - 1/1 tunnels up | tunnels_up=1;;;0;1\n")
    daemon.picture = replace(HEALTHY, ready=False)
    assert ctl("health")[0] == 1


def test_what_a_peer_says_cannot_steer_the_terminal(daemon: SampleOperations, ctl: Run):
    evil = "x\x1b[2J\nforged  UP"
    daemon.picture = replace(
        TROUBLED, tunnels=(replace(UP, remote_id=evil), replace(DOWN, explanation=evil, last_failure=evil))
    )
    for words in (
        ["status", "-o", "wide"],
        ["sas"],
        ["explain"],
        ["status", "--color", "always"],
        ["status", "-o", "json"],
    ):
        out = ctl(*words)[1]
        assert "\x1b[2J" not in out, words
        assert "\nforged" not in out, words


def test_color_only_where_wanted(daemon: SampleOperations, ctl: Run, monkeypatch: pytest.MonkeyPatch):
    colored = ctl("status", "--color", "always")[1]
    assert "\x1b[32mESTABLISHED\x1b[0m" in colored
    assert "\x1b[31mDOWN\x1b[0m" in colored
    assert "\x1b" not in ctl("status", "--color", "never")[1]


@pytest.mark.parametrize(("environment", "expected"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_color_unless_no_color(daemon: SampleOperations, environment: dict[str, str], expected: bool):
    controller, terminal = pty.openpty()
    inherited = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.main", "status"],
        stdout=terminal, stderr=subprocess.PIPE, cwd=ROOT, env={**inherited, "TERM": "xterm", "COLUMNS": "200", "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    while select.select([controller], [], [], 20)[0]:
        try:
            piece = os.read(controller, 65536)
        except OSError:
            break  # the other end is closed
        shown += piece
    _, errors = process.communicate(timeout=20)
    os.close(controller)
    assert process.returncode == 0, errors
    assert (b"\x1b[32mESTABLISHED" in shown) is expected
    assert b"ESTABLISHED" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_repeats_until_interrupted(daemon: SampleOperations, number: signal.Signals):
    """In the background of a shell, too, which starts it with SIGINT ignored."""
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' INT; exec {sys.executable} -m gateway.cli.main status --watch 0.1"],
        stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    seen, deadline = 0, time.monotonic() + 20
    while seen < 3 and time.monotonic() < deadline:
        seen += process.stdout.readline().startswith("gw-a  READY")
    process.send_signal(number)
    process.communicate(timeout=20)  # what it writes meanwhile finds a reader
    assert (seen, process.returncode) == (3, 0)


def test_every_command_has_an_example(ctl: Run):
    commands = ("status", "sas", "initiate", "terminate", "rekey", "reload", "health", "explain", "version")
    for words in (*((name,) for name in commands), ("bgp", "peers"), ("bgp", "routes")):
        code, out, _ = ctl(*words, "--help")
        assert code == 0
        assert f"Example: gatewayctl {' '.join(words)}" in " ".join(out.split())


def test_showing_help_needs_neither_rich_nor_the_server_side():
    script = "import sys; from gateway.cli.main import main; main(['--help']); print([m for m in ('rich', 'aiohttp', 'pydantic', 'asyncio') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=30,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_trace_is_a_ladder(daemon: SampleOperations, ctl: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    line = {"at": 1e9, "outgoing": True, "exchange": "IKE_SA_INIT", "response": False, "message_id": 0,
            "text": "SA KE No", "octets": 264, "datagrams": 1, "repeated": 2}  # fmt: skip
    answer = line | {"at": 1e9 + 0.0194, "outgoing": False, "response": True, "octets": 280, "repeated": 0}
    parts = line | {"at": 1e9 + 1, "exchange": "IKE_AUTH", "message_id": 1, "datagrams": 3, "repeated": 0}
    ended = line | {"at": 1e9 + 2, "exchange": "", "text": "IKE_SA ended: DPD_TIMEOUT"}
    check = line | {"exchange": "INFORMATIONAL", "text": "", "octets": 80, "repeated": 0}
    checks = check | {"at": 1e9 + 1.5, "message_id": 21, "octets": 3200, "repeated": 2, "folded": 40}
    last = check | {"at": 1e9 + 1.6, "outgoing": False, "response": True, "message_id": 22, "folded": 0}
    daemon.traces["azure-a"] = [line, answer, parts, checks, last, ended]
    assert ctl("trace", "azure-a") == (0, """\
01:46:40.000  -->  IKE_SA_INIT request 0        SA KE No   (264 octets, sent again 2 times)
01:46:40.019  <--  IKE_SA_INIT response 0       SA KE No   (280 octets, +19 ms)
01:46:41.000  -->  IKE_AUTH request 1           SA KE No   (264 octets, 3 fragments)
01:46:41.500  <->  INFORMATIONAL                40 empty ones, liveness checks and their answers   (3200 octets, sent again 2 times)
01:46:41.600  <--  INFORMATIONAL response 22       (80 octets)
01:46:42.000       IKE_SA ended: DPD_TIMEOUT
""", "")  # fmt: skip
    code, out, _ = ctl("-o", "json", "trace", "azure-a")
    assert (code, json.loads(out)) == (0, daemon.traces["azure-a"])
    daemon.traces["onprem-b"] = []
    assert ctl("trace", "onprem-b")[1] == "nothing was sent or received yet\n"
    code, _, err = ctl("trace", "azure-x")
    assert (code, err) == (4, "gatewayctl: no connection 'azure-x'; there are: azure-a, onprem-b\n")


def test_an_upgrade_is_to_what_is_installed_or_to_a_program(daemon: SampleOperations, ctl: Run):
    daemon.answer = (True, "upgraded from gatewayd 1.0 to 1.1, process 7")
    assert ctl("upgrade") == (0, "upgraded from gatewayd 1.0 to 1.1, process 7\n", "")
    daemon.answer = (False, "not upgraded: it gives no reason")
    assert ctl("upgrade", "--program", "/opt/gatewayd") == (1, "", "gatewayctl: not upgraded: it gives no reason\n")
    assert ctl("upgrade", "--program", "gatewayd")[0] == 1
    assert [program for _, program, _ in daemon.asked] == ["", "/opt/gatewayd", f"{Path.cwd()}/gatewayd"]
