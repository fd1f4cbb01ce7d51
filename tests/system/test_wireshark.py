"""`gatewayctl keylog` and `gatewayctl capture` together: tshark reads every message of a tunnel, and finds no fault.

What is encrypted by us is judged here by a third party: every IKE message decrypts, its payloads parse, ESP shows the
inner packets, nothing is malformed and no expert of Wireshark's warns about what we send.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import subprocess
from pathlib import Path

import pytest
from support.daemon import binary
from support.pair import EDGE, Pair, make_pair
from support.process import run, wait_until
from support.scene import GATEWAY_OUTER, SITE_HOST, VNET_HOST, Scene
from support.traffic import Iperf, ping
from support.twins import Twins, make_twins

pytestmark = [pytest.mark.system, pytest.mark.slow]

SECONDS = 8
ALLOWED = "[observe]\nallow_keylog = true\nallow_capture = true\n"
SUITES = {
    "gcm": ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp256"),
    "cbc": ("aes256-sha256-ecp256", "aes256-sha256-ecp256"),
    "gcm8-and-large-messages": ("aes128gcm8-prfsha256-x25519", "aes128gcm8-modp3072"),
}


def _disclose(ends: Pair | Twins, *arguments: str) -> subprocess.Popen[str]:
    argv = [str(binary("gatewayctl")), "--socket", str(ends.gateway.socket), *arguments]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finished(one: subprocess.Popen[str]) -> str:
    text, _ = one.communicate(timeout=SECONDS + 10)
    assert one.returncode == 0, text
    return text


def _tshark(capture: Path, profile: Path, *arguments: str, check: bool = True) -> list[str]:
    """Lines of tshark with our tables as its profile; `check`: of the ICVs."""
    checked = f"esp.enable_authentication_check:{str(check).upper()}"
    options = ("-o", "esp.enable_encryption_decode:TRUE", "-o", checked)
    argv = ("env", f"WIRESHARK_CONFIG_DIR={profile}", "tshark", "-n", "-r", str(capture), *options, *arguments)
    return run(argv, timeout=60).splitlines()


def _fields(capture: Path, profile: Path, show: str, *names: str, check: bool = True) -> list[tuple[str, ...]]:
    wanted = [word for name in names for word in ("-e", name)]
    lines = _tshark(capture, profile, "-Y", show, "-T", "fields", *wanted, check=check)
    return [tuple(line.split("\t")) for line in lines]


@pytest.mark.parametrize("suite", SUITES)
def test_tshark_reads_all_of_it_and_finds_no_fault(scene: Scene, tmp_path: Path, suite: str) -> None:
    ike, esp = SUITES[suite]
    size = "fragment_size = 400" if "large" in suite else ""
    pair = make_pair(scene, EDGE.with_(proposals=ike, esp_proposals=esp), initiator="edge", connection=size)
    pair.gateway.config.write_text(ALLOWED + pair.gateway.config.read_text())
    pair.start()
    keys, file = tmp_path / "keys", tmp_path / "site.pcapng"
    keylog = _disclose(pair, "keylog", "site", "--for", f"{SECONDS}s", "--to", str(keys))
    capture = _disclose(pair, "capture", "site", "--for", f"{SECONDS}s", "--to", str(file))
    wait_until(lambda: file.exists() and (keys / "esp_sa").exists(), 10, "both go on")
    status = pair.gateway.status()
    assert status is not None
    assert sum("disclosed to user id 0" in problem for problem in status["problems"]) == 2
    pair.charon.initiate()
    pair.wait_up()
    assert ping(scene.host, SITE_HOST, 3).lost == 0
    pair.gateway.rekey_child()
    pair.gateway.rekey_ike()
    pair.charon.rekey_child()
    assert ping(scene.site, VNET_HOST, 3).lost == 0
    pair.charon.rekey_ike()
    pair.gateway.ctl("terminate", "site")
    assert "keys of 3 IKE_SAs and 6 ESP SAs" in _finished(keylog)
    assert ", 0 lost" in _finished(capture)
    for written in (file, *keys.iterdir()):
        assert stat.S_IMODE(written.stat().st_mode) == 0o600
    _judge(file, keys)
    _audited(pair)
    _nothing_secret_elsewhere(pair, keys)


def test_datagrams_joined_by_offload_are_shown_as_the_wire_has_them(scene: Scene, tmp_path: Path) -> None:
    pair = make_pair(scene)
    pair.gateway.config.write_text(ALLOWED + pair.gateway.config.read_text())
    pair.establish("gateway")
    keys, file = tmp_path / "keys", tmp_path / "site.pcapng"
    capture = _disclose(pair, "capture", "site", "--for", "5s", "--to", str(file))
    keylog = _disclose(pair, "keylog", "site", "--for", "5s", "--to", str(keys))
    wait_until(lambda: file.exists() and (keys / "esp_sa").exists(), 10, "both go on")
    # blocks of 4 KB: the VNet host leaves their segmentation to others
    server = Iperf(scene.site, SITE_HOST)
    server.measure(scene.host, 1, megabits=8)
    server.stop()
    assert ", 0 lost" in _finished(capture)
    assert "keys of 1 IKE_SAs and 2 ESP SAs" in _finished(keylog)
    tunnel = pair.gateway.tunnel()
    assert tunnel is not None
    (child,) = tunnel["children"]
    packets = _fields(file, keys, f"esp && ip.src == {GATEWAY_OUTER}", "frame.len", "esp.icv_good", "esp.sequence")
    assert len(packets) == child["packets_out"] > 500
    assert [int(number) for *_, number in packets] == list(range(1, len(packets) + 1))
    assert {good for _, good, _ in packets} == {"1"}
    assert max(int(octets) for octets, *_ in packets) <= 1500
    assert _longest(pair.capture.path) > 1514  # so something was joined


@pytest.mark.parametrize("suite", ["aes256gcm16-esn-ecp256", "aes256-sha256-esn-ecp256"])
def test_protocol_50_with_extended_sequence_numbers_is_read_too(scene: Scene, tmp_path: Path, suite: str) -> None:
    """Keys of SAs that stood before, and of a rekey. Wireshark 4.0 knows no ESN, so it cannot check the ICVs."""
    twins = make_twins(scene, suite, encap=False, sections=ALLOWED)
    twins.establish()
    keys, file = tmp_path / "keys", tmp_path / "site.pcapng"
    capture = _disclose(twins, "capture", "site", "--for", "6s", "--to", str(file))
    keylog = _disclose(twins, "keylog", "site", "--for", "6s", "--to", str(keys))
    wait_until(lambda: file.exists() and (keys / "esp_sa").exists(), 10, "both go on")
    assert ping(scene.host, SITE_HOST, 3).lost == 0
    twins.edge.rekey_child()
    assert ping(scene.site, VNET_HOST, 3).lost == 0
    assert ", 0 lost" in _finished(capture)
    assert "keys of 1 IKE_SAs and 4 ESP SAs" in _finished(keylog)
    packets = _fields(file, keys, "esp", "ip.proto", "icmp.type", "ip.src", check=False)
    assert len(packets) == 12
    assert {(protocols, kind) for protocols, kind, _ in packets} == {("50,1", "8"), ("50,1", "0")}
    assert all(decrypted for _, decrypted in _fields(file, keys, "isakmp", "frame.number", "isakmp.enc.decrypted"))


def test_the_messages_of_a_peer_that_is_refused_are_read_too(scene: Scene, tmp_path: Path) -> None:
    """Its IKE_SA lives for a moment only."""
    pair = make_pair(scene, EDGE.with_(psk="not the secret of the gateway"), initiator="edge")
    pair.gateway.config.write_text(ALLOWED + pair.gateway.config.read_text())
    pair.start()
    keys, file = tmp_path / "keys", tmp_path / "site.pcapng"
    capture = _disclose(pair, "capture", "site", "--for", "4s", "--to", str(file))
    keylog = _disclose(pair, "keylog", "site", "--for", "4s", "--to", str(keys))
    wait_until(lambda: file.exists() and (keys / "esp_sa").exists(), 10, "both go on")
    pair.charon.swanctl("--initiate", "--child", "net", "--timeout", "5", check=False)
    assert ", 0 lost" in _finished(capture)
    assert "keys of 1 IKE_SAs and 0 ESP SAs" in _finished(keylog)
    said = _fields(file, keys, "isakmp.exchangetype == 35", "ip.src", "isakmp.notify.msgtype")
    assert said[-1] == (GATEWAY_OUTER, "24")  # AUTHENTICATION_FAILED


def _longest(pcap: Path) -> int:
    """Octets of the longest frame that tcpdump saw, cut off or not."""
    data, at, longest = pcap.read_bytes(), 24, 0
    while at + 16 <= len(data):
        captured, octets = struct.unpack_from("<II", data, at + 8)
        at, longest = at + 16 + captured, max(longest, octets)
    return longest


def _judge(file: Path, keys: Path) -> None:
    # every message after IKE_SA_INIT came out of its SK or SKF payload: what was inside has a name
    sealed = _fields(file, keys, "isakmp && isakmp.exchangetype != 34", "frame.number", "isakmp.enc.decrypted")
    assert len(sealed) >= 14
    assert all(decrypted for _, decrypted in sealed), sealed
    exchanges = {kind for (kind,) in _fields(file, keys, "isakmp", "isakmp.exchangetype")}
    assert exchanges == {"34", "35", "36", "37"}
    # ESP down to the pings, both directions, before and after rekeys
    packets = _fields(file, keys, "esp", "ip.src", "esp.spi", "icmp.type", "esp.icv_good")
    assert len(packets) == 12
    assert {kind for _, _, kind, _ in packets} == {"8", "0"}
    assert {good for *_, good in packets} == {"1"}
    assert all("," in source for source, *_ in packets)  # outer and inner header
    assert len({spi for _, spi, *_ in packets}) >= 4
    # 4194304 is a note: warnings and errors are above it
    faults = _fields(
        file,
        keys,
        f"ip.src == {GATEWAY_OUTER} && (_ws.malformed || _ws.expert.severity >= 4194304)",
        "_ws.expert.message",
    )
    assert faults == []


def _audited(pair: Pair) -> None:
    assert pair.gateway.process is not None
    log = pair.gateway.process.log.read_text()
    told = [json.loads(line) for line in log.splitlines() if '"keylog-' in line or '"capture-' in line]
    assert [one["event"] for one in told if "keylog" in one["event"]] == ["keylog-started", "keylog-ended"]
    assert [one["event"] for one in told if "capture" in one["event"]] == ["capture-started", "capture-ended"]
    assert all(f"user id {os.getuid()} (process " in one["message"] for one in told)
    status = pair.gateway.status()
    assert status is not None
    assert not [problem for problem in status["problems"] if "disclosed" in problem]


def _nothing_secret_elsewhere(pair: Pair, keys: Path) -> None:
    """The files are the only place: not the log, not the status, not the trace."""
    assert pair.gateway.process is not None
    secrets = set(re.findall(r"[0-9a-f]{32,}", "".join(table.read_text() for table in keys.iterdir())))
    assert len(secrets) >= 12
    said = [
        pair.gateway.process.log.read_text(),
        json.dumps(pair.gateway.status()),
        pair.gateway.ctl("trace", "site").stdout,
    ]
    assert not [secret for secret in secrets for text in said if secret in text]


def test_a_daemon_that_stops_does_not_wait_for_it(scene: Scene, tmp_path: Path) -> None:
    pair = make_pair(scene, initiator="edge")
    pair.gateway.config.write_text(ALLOWED + pair.gateway.config.read_text())
    pair.gateway.start()
    keylog = _disclose(pair, "keylog", "site", "--for", "1h", "--to", str(tmp_path / "keys"))
    wait_until((tmp_path / "keys" / "esp_sa").exists, 10, "it goes on")
    assert pair.gateway.stop(5) == 0
    assert "keys of 0 IKE_SAs and 0 ESP SAs" in _finished(keylog)


def test_both_are_off_unless_the_configuration_allows_them(scene: Scene, tmp_path: Path) -> None:
    pair = make_pair(scene, initiator="edge")
    pair.gateway.start()
    for arguments in (
        ("keylog", "site", "--to", str(tmp_path / "k")),
        ("capture", "site", "--to", str(tmp_path / "p")),
    ):
        done = pair.gateway.ctl(*arguments, check=False)
        assert done.returncode == 1
        assert f"observe.allow_{arguments[0]} is not true" in done.stderr
    assert list(tmp_path.iterdir()) == []
