"""TUN, netlink, sockets and ExaBGP with exactly the privileges of the unit, in a network namespace of their own; and the
witness with those of its unit, which are none.

User, capabilities and no-new-privileges are applied for real (setpriv). The system call filter and the address
families are compared with what strace saw, because only systemd itself can apply them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.process import wait_until
from support.witness import Asker, WitnessDaemon, now, play

from gateway.ha.message import Standing
from gateway.ha.witness import Acquire, Release
from gateway.runtime.exabgp import PROGRAM

UNIT = Path(__file__).parents[3] / "systemd" / "gatewayd.service"
TOOLS = ("unshare", "setpriv", "strace", "systemd-analyze")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, TOOLS)) or not Path("/dev/net/tun").exists(),
    reason=f"needs root, /dev/net/tun and {', '.join(TOOLS)}",
)

PROBE = """
import fcntl, os, pwd, socket, struct, subprocess, sys, time
from pyroute2 import IPRoute
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"gwprobe0", 0x5001))  # TUNSETIFF, IFF_TUN|IFF_NO_PI|IFF_VNET_HDR
ike = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ike.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x67770001)
ike.bind(("127.0.0.1", 500))
socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
os.sched_setaffinity(0, os.sched_getaffinity(0))
with IPRoute() as ip:
    index = ip.link_lookup(ifname="gwprobe0")[0]
    ip.link("set", index=index, state="up")
    ip.addr("add", index=index, address="169.254.77.1", prefixlen=30)
    ip.route("add", dst="192.0.2.0/24", oif=index, table=221, proto=221)
    ip.rule("add", table=221, priority=22100)
print("kernel programmed")
settings = {"daemon.user": pwd.getpwuid(os.getuid()).pw_name, "daemon.drop": "true", "api.cli": "false", "tcp.bind": "127.0.0.1", "tcp.port": "179"}
child = subprocess.Popen(
    [sys.executable, "-I", sys.argv[2], "/nowhere", "server", sys.argv[1]],
    env={**os.environ, **{f"exabgp.{key}": value for key, value in settings.items()}}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    try:
        socket.create_connection(("127.0.0.1", 179), 1).close()
    except OSError:
        time.sleep(0.05)
    else:
        print("exabgp listens")
        break
child.terminate()
child.wait(20)
"""
EXABGP = (
    "neighbor 127.0.0.2 { router-id 10.0.0.1; local-address 127.0.0.1; local-as 65001; peer-as 65002; passive true; }\n"
)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Readable by another user, which pytest's own directories are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    return assignments(UNIT)


def assignments(unit: Path) -> dict[str, list[str]]:
    """Every assignment of [Service], repeated keys in order."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.fixture(scope="module")
def trace(directory: Path, unit: dict[str, list[str]]) -> list[str]:
    """Runs the probe; what strace wrote after setpriv handed over."""
    (directory / "probe.py").write_text(PROBE)
    (directory / "exabgp.conf").write_text(EXABGP)
    capabilities = ",".join(
        ["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in unit["AmbientCapabilities"][0].split())]
    )
    done = subprocess.run(
        [
            "unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh",
            "strace", "-f", "-qq", "-o", str(directory / "trace"),
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs",
            f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", f"--bounding-set={capabilities}",
            sys.executable, str(directory / "probe.py"), str(directory / "exabgp.conf"), str(PROGRAM),
        ],
        capture_output=True, text=True, timeout=120, cwd="/",
    )  # fmt: skip
    assert done.stdout == "kernel programmed\nexabgp listens\n", done.stderr
    lines = (directory / "trace").read_text().splitlines()
    handed_over = next(
        number
        for number, line in enumerate(lines)
        if "execve(" in line and "probe.py" in line and "setpriv" not in line
    )
    return lines[handed_over:]


def test_no_system_call_is_filtered(trace: list[str], unit: dict[str, list[str]]):
    used = system_calls(trace)
    assert {"socket", "ioctl", "execve", "sched_setaffinity"} <= used
    assert used - allowed(unit) == set()


def test_no_address_family_is_missing(trace: list[str], unit: dict[str, list[str]]):
    assert {"AF_INET", "AF_NETLINK"} <= families(trace) <= set(unit["RestrictAddressFamilies"][0].split())


def test_the_witness_lives_with_no_privileges_at_all(directory: Path):
    """A life: start, a grant on disk, its end; another user, no capability, nothing that its unit filters."""
    place = directory / "witness"
    place.mkdir()
    daemon = WitnessDaemon(place, '[cluster.pair]\nnumber = 7\nsecret.file = "secret-0"\nlongest_ttl = "500ms"\n')
    daemon.state.mkdir(mode=0o700)
    for owned in (daemon.state, place / "secret-0", place / "notify"):
        os.chown(owned, 65534, 65534)
    drop = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all")
    asker = Asker(daemon, "gw-a", 0.5)
    try:
        daemon.start(wrapper=("strace", "-f", "-qq", "-o", str(place / "trace"), *drop, "--inh-caps=-all"))
        asker.command(Acquire(1))
        play([asker], asker.valid, 20, "the lease is granted")
        asker.command(Release())
        play([asker], lambda: asker.lease.standing(now()) is Standing.FREE, 20, "it was given back")
        strace = daemon.process
        assert strace is not None
        (traced,) = Path(f"/proc/{strace.pid}/task/{strace.pid}/children").read_text().split()
        status = Path(f"/proc/{traced}/status").read_text()
        assert re.findall(r"^Cap\w+:\t(\w+)$", status, re.MULTILINE) == ["0" * 16] * 5
        assert "NoNewPrivs:\t1" in status
        os.kill(int(traced), signal.SIGTERM)
        wait_until(lambda: not strace.running, 20, "it ends", logs=[strace])
        assert strace.returncode == 0, daemon.log()
    finally:
        asker.close()
        daemon.close()
    lines = (place / "trace").read_text().splitlines()
    handed_over = next(number for number, line in enumerate(lines) if "execve(" in line and "--witness" in line)
    after = lines[handed_over + 1 :]  # of setpriv's own
    unit = assignments(UNIT.with_name("gatewayd-witness.service"))
    used = system_calls(after[next(at for at, line in enumerate(after) if "execve(" in line) :])
    assert {"fsync", "rename", "sendmsg", "recvmsg"} <= used
    assert used - allowed(unit) == set()
    assert {"AF_INET", "AF_UNIX"} <= families(after) <= set(unit["RestrictAddressFamilies"][0].split())


def system_calls(trace: list[str]) -> set[str]:
    return {match[1] for line in trace if (match := re.match(r"\d+ +(\w+)\(", line))}


def families(trace: list[str]) -> set[str]:
    return {match[1] for line in trace if (match := re.search(r"socket\((AF_\w+)", line))}


def allowed(unit: dict[str, list[str]]) -> set[str]:
    """By the filter of a unit."""
    found = expand("@default")
    for rule in unit["SystemCallFilter"]:
        names = set().union(*map(expand, rule.removeprefix("~").split()))
        found = found - names if rule.startswith("~") else found | names
    return found


def expand(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    words = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter", name], capture_output=True, text=True, check=True
    ).stdout.splitlines()[1:]
    return set().union(*(expand(word) for word in map(str.strip, words) if word and not word.startswith("#")))
