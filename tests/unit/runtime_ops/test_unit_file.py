"""systemd itself judges the unit: it must verify without a word, and the hardening score must hold."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.runtime import unit

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "systemd" / "gatewayd.service"
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with the unit, the two programs and systemd's own units, for --root."""
    units = tmp_path / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    shutil.copy(UNIT, units)
    for other in ("gatewayd-guard.service", "gatewayd-bgp.service", "gatewayd-witness.service"):
        shutil.copy(UNIT.with_name(other), units)
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    for program in ("gatewayd", "gatewayctl"):
        (tmp_path / "usr" / "bin" / program).write_text("#!/bin/sh\n")
        (tmp_path / "usr" / "bin" / program).chmod(0o755)
    library = tmp_path / "usr" / "lib" / "systemd" / "system"
    library.mkdir(parents=True)
    for name in (
        "basic.target",
        "sysinit.target",
        "shutdown.target",
        "network-online.target",
        "network-pre.target",
        "local-fs.target",
        "multi-user.target",
        "-.mount",
        "system.slice",
        "sysinit.target",
    ):
        (library / name).write_text(
            f"[Unit]\nDescription={name}\n" + ("[Mount]\nWhat=/dev/null\nWhere=/\n" if name == "-.mount" else "")
        )
    return tmp_path


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *words], capture_output=True, text=True, timeout=60)


@needs_systemd
def test_the_unit_verifies_without_a_complaint(root: Path):
    done = analyze("verify", "--man=no", f"--root={root}", "gatewayd.service")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_the_guard_of_the_boot_verifies_too_and_comes_before_the_network(root: Path):
    done = analyze("verify", "--man=no", f"--root={root}", "gatewayd-guard.service")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    parser = Settings()
    parser.read(UNIT.with_name("gatewayd-guard.service"))
    assert "network-pre.target" in parser["Unit"]["Before"].split()
    assert parser["Unit"]["Wants"] == "network-pre.target"
    assert parser["Service"]["ExecStart"].endswith("--guard")


@needs_systemd
def test_the_unit_of_exabgp_verifies_too_and_scores(root: Path, capsys: pytest.CaptureFixture[str]):
    done = analyze("verify", "--man=no", f"--root={root}", "gatewayd-bgp.service")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = analyze("security", "--offline=yes", "--no-pager", f"--root={root}", "gatewayd-bgp.service")
    found = re.search(r"Overall exposure level for gatewayd-bgp.service: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    with capsys.disabled():
        print(f" [systemd-analyze security: {found[1]}] ", end="")
    assert float(found[1]) <= 1.5


@needs_systemd
def test_the_unit_of_the_witness_verifies_too_and_scores(root: Path, capsys: pytest.CaptureFixture[str]):
    done = analyze("verify", "--man=no", f"--root={root}", "gatewayd-witness.service")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = analyze("security", "--offline=yes", "--no-pager", f"--root={root}", "gatewayd-witness.service")
    found = re.search(r"Overall exposure level for gatewayd-witness.service: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    with capsys.disabled():
        print(f" [systemd-analyze security: {found[1]}] ", end="")
    assert float(found[1]) <= 1.5


def test_the_witness_has_no_capability_and_keeps_its_state_where_its_configuration_says():
    from gateway.config.witness_model import Witness

    parser, daemon = Settings(), Settings()
    parser.read(UNIT.with_name("gatewayd-witness.service"))
    daemon.read(UNIT)
    service = parser["Service"]
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == ""
    assert service["ExecStart"] == "/usr/bin/gatewayd --witness --config /etc/gatewayd/witness.toml"
    assert Witness().state_directory == f"/var/lib/{service['StateDirectory']}"
    for key in ("Type", "RestartPreventExitStatus", "Restart", "User", "Group", "LimitCORE", "ConfigurationDirectory"):
        assert service[key] == daemon["Service"][key]
    assert set(service["RestrictAddressFamilies"].split()) == {"AF_INET", "AF_INET6", "AF_UNIX"}


def test_exabgp_outlives_a_restart_of_the_daemon_and_is_stopped_before_it():
    daemon, bgp = Settings(), Settings()
    daemon.read(UNIT)
    bgp.read(UNIT.with_name("gatewayd-bgp.service"))
    assert "gatewayd-bgp.service" in daemon["Unit"]["Wants"].split()
    # systemd.unit(5): what is started after another is stopped before it
    assert "gatewayd.service" in bgp["Unit"]["After"].split()
    # any of these would take it along when the daemon is restarted, or crashes
    for key in ("Requires", "BindsTo", "PartOf", "Requisite", "StopPropagatedFrom"):
        assert key not in bgp["Unit"]
    assert "PropagatesStopTo" not in daemon["Unit"]
    assert daemon["Service"]["Environment"] == f"{unit.UNIT}=%n"
    for key in ("User", "Group", "RuntimeDirectory", "RuntimeDirectoryMode", "RuntimeDirectoryPreserve"):
        assert daemon["Service"][key] == bgp["Service"][key]
    assert daemon["Service"]["RuntimeDirectoryPreserve"] == "yes", (
        "else who stops first takes the other's sockets along"
    )
    assert bgp["Service"]["CapabilityBoundingSet"] == bgp["Service"]["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"


@needs_systemd
def test_verification_would_notice_a_mistake(root: Path):
    unit = root / "etc" / "systemd" / "system" / "gatewayd.service"
    unit.write_text(unit.read_text().replace("Type=notify", "Type=notify-relaod"))
    assert "gatewayd.service" in analyze("verify", "--man=no", f"--root={root}", "gatewayd.service").stderr


@needs_systemd
def test_the_hardening_score(root: Path, capsys: pytest.CaptureFixture[str]):
    done = analyze("security", "--offline=yes", "--no-pager", f"--root={root}", "gatewayd.service")
    found = re.search(r"Overall exposure level for gatewayd.service: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    with capsys.disabled():
        print(f" [systemd-analyze security: {found[1]}] ", end="")
    assert float(found[1]) <= 2.5


class Settings(configparser.RawConfigParser):
    """A unit file with repeated keys joined by blanks."""

    def __init__(self) -> None:
        super().__init__(strict=False, interpolation=None, comment_prefixes=("#",))
        self.optionxform = str  # type: ignore[assignment,method-assign]


@pytest.fixture
def service() -> dict[str, str]:
    parser = Settings()
    parser.read(UNIT)
    return dict(parser["Service"])


def test_what_the_daemon_relies_on(service: dict[str, str]):
    assert service["Type"] == "notify"
    assert service["RestartPreventExitStatus"] == "78"
    assert service["Restart"] == "on-failure"
    families = {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET"}
    assert set(service["RestrictAddressFamilies"].split()) == families
    assert service["DeviceAllow"] == "/dev/net/tun rw"
    assert "PrivateDevices" not in service
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"]
    assert service["LimitCORE"] == "0"


def test_paths_are_those_of_the_configuration_defaults(service: dict[str, str]):
    from gateway.cli.client import DEFAULT_SOCKET
    from gateway.config.model import Gateway

    assert Gateway().run_directory == f"/run/{service['RuntimeDirectory']}"
    assert Gateway().state_directory == f"/var/lib/{service['StateDirectory']}"
    assert f"{Gateway().run_directory}/control.sock" == DEFAULT_SOCKET
    users = (ROOT / "systemd" / "gatewayd.sysusers.conf").read_text()
    assert re.search(rf"^u {service['User']} ", users, re.MULTILINE)


def test_what_the_unit_runs_also_runs_with_memory_that_is_never_both_writable_and_executable():
    """MemoryDenyWriteExecute=, as prctl(PR_SET_MDWE), which children inherit. ExaBGP and the libraries must import."""
    script = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0) != 0:
    sys.exit(77)
code = "import uvloop, aiohttp, cryptography.hazmat.primitives.ciphers.aead, pydantic, pyroute2, exabgp.application.server, asyncio; uvloop.run(asyncio.sleep(0)); print('fine')"
sys.exit(subprocess.run([sys.executable, "-c", code]).returncode)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


@pytest.mark.parametrize(
    "key",
    [
        "net.ipv4.ip_forward",
        "net.ipv4.conf.all.rp_filter",
        "net.ipv4.conf.all.send_redirects",
        "net.ipv4.conf.all.src_valid_mark",
        "net.ipv4.fib_multipath_hash_policy",
        "net.ipv6.fib_multipath_hash_policy",
    ],
)
def test_the_kernel_settings_the_daemon_checks_are_shipped_and_exist(key: str):
    shipped = dict(
        re.findall(r"^([\w.]+) = (\d+)$", (ROOT / "config" / "sysctl" / "60-gatewayd.conf").read_text(), re.MULTILINE)
    )
    assert key in shipped
    for name in shipped:
        if name.startswith(("net.ipv4.", "net.ipv6.")):
            assert Path("/proc/sys", *name.split(".")).exists(), name
