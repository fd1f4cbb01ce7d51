"""gatewayd as a program: bad configurations, missing privileges, taken ports, status, metrics, crash and cleanup.

Everything runs in the scene's gateway namespace; a program that may not start must say why in one sentence.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from support.daemon import EX_CONFIG, GatewayDaemon, binary, configuration
from support.pair import EDGE, Pair, make_pair
from support.process import holds_for, wait_until
from support.scene import EDGE_CONNECTION, GATEWAY_OUTER, PSK, SESSION_GATEWAY, SITE_HOST, VNET_HOST, Scene
from support.traffic import Stream

pytestmark = pytest.mark.system

TABLE = "221"


@pytest.fixture
def daemon(scene: Scene) -> GatewayDaemon:
    """Configured, not started; there is no edge that answers."""
    return GatewayDaemon(scene.gateway, configuration(EDGE), {"site.psk": PSK})


@pytest.fixture
def pair(scene: Scene) -> Pair:
    made = make_pair(scene)
    made.establish("gateway")
    return made


def _run(daemon: GatewayDaemon, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """gatewayd to its end, in its namespace; `before` is shell to run first (a failing daemon must not linger)."""
    command = [str(binary("gatewayd")), *arguments]
    argv = daemon.machine.argv(["sh", "-c", f'{before}\nexec "$@"', "sh", *command])
    return subprocess.run(argv, capture_output=True, text=True, timeout=15, check=False)


def _said(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def test_a_bad_configuration_exits_78_and_points_to_the_place(daemon: GatewayDaemon) -> None:
    text = daemon.config.read_text().replace("dpd_delay", "dpd_dely").replace("encap = true", "")
    daemon.config.write_text(text)
    line = next(number for number, content in enumerate(text.splitlines(), 1) if "dpd_dely" in content)
    done = _run(daemon, "--config", str(daemon.config))
    assert done.returncode == EX_CONFIG
    said = done.stdout + done.stderr
    assert re.search(rf"gateway\.toml:{line}:1: .*dpd_dely.*dpd_delay", said), said
    assert "Traceback" not in said
    assert PSK not in said


def test_check_finds_the_same_and_accepts_a_good_file(daemon: GatewayDaemon) -> None:
    assert _run(daemon, "--check", "--config", str(daemon.config)).returncode == 0
    daemon.config.write_text(daemon.config.read_text().replace('"203.0.113.2"', '"not-an-address"'))
    done = _run(daemon, "--check", "--config", str(daemon.config))
    assert done.returncode == EX_CONFIG
    assert re.search(r"gateway\.toml:\d+:\d+: .*remote_addrs", done.stdout + done.stderr)


def test_a_secret_others_can_read_is_refused(daemon: GatewayDaemon) -> None:
    secret = daemon.directory / "site.psk"
    secret.chmod(0o644)
    done = _run(daemon, "--config", str(daemon.config))
    assert done.returncode == EX_CONFIG
    said = done.stdout + done.stderr
    assert "site.psk" in said
    assert "chmod" in said
    assert PSK not in said


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("mount -t tmpfs none /dev/net", "/dev/net/tun"),
        ("", "CAP_NET_ADMIN"),
    ],
    ids=["no /dev/net/tun", "no CAP_NET_ADMIN"],
)
def test_what_is_missing_is_said_in_one_sentence(daemon: GatewayDaemon, before: str, words: str) -> None:
    drop = 'exec setpriv --inh-caps=-net_admin --bounding-set=-net_admin "$@"' if words == "CAP_NET_ADMIN" else ""
    done = _run(daemon, "--config", str(daemon.config), before=before or drop)
    _one_sentence(done, words)


@pytest.mark.parametrize("port", [500, 4500])
def test_a_taken_port_is_said_in_one_sentence(daemon: GatewayDaemon, port: int) -> None:
    hold = (
        "import socket, signal, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1);"
        "s.bind((sys.argv[1], int(sys.argv[2]))); print('bound', flush=True); signal.pause()"
    )
    holder = daemon.machine.start("holder", [sys.executable, "-S", "-E", "-c", hold, GATEWAY_OUTER, str(port)])
    wait_until(lambda: "bound" in holder.log.read_text(), 5, "the port is taken", logs=[holder])
    _one_sentence(_run(daemon, "--config", str(daemon.config)), str(port))


def _one_sentence(done: subprocess.CompletedProcess[str], words: str) -> None:
    said = _said(done)
    assert done.returncode not in (0, EX_CONFIG)
    assert done.returncode > 0, "died of a signal"
    assert words in said[-1], said
    assert "Traceback" not in "\n".join(said)
    assert len([line for line in said if "error" in line.lower() or words in line]) == 1, said


def test_a_second_daemon_on_the_same_socket_is_refused(daemon: GatewayDaemon) -> None:
    daemon.start()
    done = _run(daemon, "--config", str(daemon.config))
    assert done.returncode not in (0, EX_CONFIG)
    assert "Traceback" not in done.stdout + done.stderr
    assert daemon.status() is not None
    assert daemon.stop() == 0


def test_status_as_json_and_as_a_table(pair: Pair) -> None:
    told = json.loads(pair.gateway.ctl("status", "-o", "json").stdout)
    assert told["schema"] == 1
    assert told["ready"]
    (tunnel,) = told["tunnels"]
    assert (tunnel["name"], tunnel["up"], tunnel["ike_state"]) == ("site", True, "ESTABLISHED")
    assert tunnel["children"][0]["state"] == "INSTALLED"
    table = pair.gateway.ctl("status").stdout
    assert "site" in table
    assert "ESTABLISHED" in table
    assert "203.0.113.2" in table
    assert PSK not in table + json.dumps(told)


def test_health_is_an_exit_code(pair: Pair) -> None:
    assert pair.gateway.ctl("health", check=False).returncode == 0
    pair.gateway.stop()
    assert pair.gateway.ctl("health", check=False).returncode == 3
    assert pair.gateway.ctl("status", check=False).returncode == 3


def test_metrics_agree_with_the_traffic(pair: Pair) -> None:
    streams = pair.streams(200)
    wait_until(lambda: len(streams.back.records()) > 100, 10, "100 datagrams")
    streams.stop()
    code, text = pair.gateway.http("/metrics")
    assert code == 200
    assert re.search(r'^gateway_tunnel_up\{tunnel="site"\} 1\.0$', text, re.MULTILINE)
    counters = re.findall(r"^gateway_esp_packets_total\{([^}]*)\} ([\d.e+]+)$", text, re.MULTILINE)
    by_direction = {
        direction: float(value)
        for labels, value in counters
        for direction in ("in", "out")
        if f'direction="{direction}"' in labels
    }
    assert min(by_direction["in"], by_direction["out"]) >= 100
    for path in ("/healthz", "/readyz"):
        assert pair.gateway.http(path)[0] == 200


def test_a_graceful_stop_ends_the_peers_sa_and_keeps_the_guard(pair: Pair) -> None:
    assert pair.gateway.stop() == 0
    wait_until(lambda: pair.charon.sas() == [], 5, "the edge was told to delete the IKE_SA")
    _guarded(pair)
    pair.no_clear_text()


def test_a_graceful_stop_closes_the_bgp_session_inside_the_tunnel(scene: Scene) -> None:
    """Otherwise the edge sends into the tunnel until its hold time is over."""
    charon, bird = scene.edge_charon(), scene.edge_bird()
    charon.start()
    bird.start()
    daemon = GatewayDaemon(scene.gateway, configuration(EDGE_CONNECTION, bgp=True), {"site.psk": PSK})
    daemon.start()
    bird.wait_established(SESSION_GATEWAY, 30, logs=[daemon.process])
    assert daemon.stop() == 0
    wait_until(lambda: not bird.established(SESSION_GATEWAY), 3, "the edge's session is closed", logs=[daemon.process])


def test_kill_9_leaves_the_guard_and_a_restart_recovers(pair: Pair) -> None:
    pair.gateway.kill()
    _guarded(pair)
    pair.gateway.start()
    pair.wait_up(30)
    pair.streams(200, port=7050).stop()
    pair.no_clear_text()


def _guarded(pair: Pair) -> None:
    """A blackhole stands in our table, its rule is there, and datagrams for the site go nowhere."""
    machine = pair.scene.gateway
    blackholes = [route["dst"] for route in machine.routes(TABLE) if route.get("type") == "blackhole"]
    assert blackholes == ["172.16.0.0/16"]
    assert any(str(rule.get("table")) == TABLE for rule in machine.ip_json("rule", "show"))
    stream = Stream(pair.scene.host, VNET_HOST, pair.scene.site, SITE_HOST, 7090)
    stream.start(500)
    holds_for(lambda: not stream.records(), 1.0, "nothing arrives at the site")
    assert stream.stop().sent > 100


def test_cleanup_keeps_the_guard_and_cleanup_all_removes_everything(pair: Pair) -> None:
    pair.gateway.kill()
    kept = _run(pair.gateway, "--cleanup", "--config", str(pair.gateway.config))
    assert kept.returncode == 0, kept.stderr
    assert "guard" in kept.stdout + kept.stderr
    _guarded(pair)
    kinds = {route.get("type", "unicast") for route in pair.scene.gateway.routes(TABLE)}
    assert kinds <= {"blackhole", "throw"}
    removed = _run(pair.gateway, "--cleanup", "--all", "--config", str(pair.gateway.config))
    assert removed.returncode == 0, removed.stderr
    assert pair.scene.gateway.routes(TABLE) == []
    assert [
        rule for rule in pair.scene.gateway.ip_json("rule", "show") if rule["priority"] not in (0, 32766, 32767)
    ] == []
    assert pair.scene.gateway.ip_json("nexthop", "show") == []
    assert [link["ifname"] for link in pair.scene.gateway.ip_json("link", "show")] == ["lo", "wan", "lan"]
    again = _run(pair.gateway, "--cleanup", "--all", "--config", str(pair.gateway.config))
    assert again.returncode == 0


def test_an_exabgp_that_is_killed_is_started_again(scene: Scene) -> None:
    charon, bird = scene.edge_charon(), scene.vnet_bird()
    charon.start()
    bird.start()
    daemon = GatewayDaemon(scene.gateway, configuration(EDGE_CONNECTION, bgp=True), {"site.psk": PSK})
    daemon.start()
    daemon.wait_up()
    daemon.wait_bgp("vnet", 20)
    wait_until(
        lambda: scene.gateway.has_route("10.1.1.0/24", TABLE), 10, "10.1.1.0/24 in table 221", logs=[daemon.process]
    )
    speakers = scene.gateway.pids_of("exabgp")
    assert speakers
    for pid in speakers:
        scene.gateway.end(pid)
    wait_until(lambda: set(scene.gateway.pids_of("exabgp")) - set(speakers), 15, "a new ExaBGP", logs=[daemon.process])
    assert scene.gateway.has_route("10.1.1.0/24", TABLE), "the kernel route outlives its session"
    daemon.wait_bgp("vnet", 30)
