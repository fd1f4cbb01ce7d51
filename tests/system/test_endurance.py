"""Many rekeys and floods of rubbish: nothing lost, memory and files flat; and what must never be seen anywhere is not."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.capture import Capture
from support.operated import Site, make_site
from support.pair import nothing_lost
from support.process import wait_until
from support.scene import EDGE_OUTER, GATEWAY_OUTER, PSK, VNET_HOST, Scene
from support.traffic import ping

from gateway.ike.doubt import STOOD_STILL

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
HISTOGRAM_PARTS = ("bucket", "count", "sum")
MD5 = "a password of the session 17"
DPD_DELAY = 5
"""Seconds, as configured here."""
FLOOD = """
import random, socket, sys, time
random.seed(7)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 0))
def ike(spis, exchange, flags, body):
    return spis + bytes([33, 0x20, exchange, flags]) + random.randbytes(4) + (28 + len(body)).to_bytes(4, "big") + body
for n in range(20000):
    body = random.randbytes(random.choice((0, 1, 3, 4, 8, 20, 32, 60, 300, 1200)))
    data = (
        body,
        bytes(4) + body,
        ike(random.randbytes(8) + bytes(8), 34, 8, body),
        bytes(4) + ike(random.randbytes(16), random.choice((35, 36, 37)), random.choice((0, 8, 32)), body),
        random.randbytes(8) + body,
    )[n % 5]
    s.sendto(data, (sys.argv[2], random.choice((500, 4500))))
    if n % 50 == 0:
        time.sleep(0.002)  # 25 datagrams a millisecond: the pace is part of the load
"""


@pytest.fixture
def site(scene: Scene) -> Site:
    made = make_site(scene)
    made.start()
    return made


@pytest.mark.slow
def test_200_rekeys_lose_nothing_and_cost_no_memory(site: Site) -> None:
    def rekeys(count: int) -> None:
        for number in range(count):
            ok, text = site.daemon.operate("rekey", "site/net" if number % 2 else "site")
            assert ok, text

    rekeys(40)
    memory, files = site.memory()
    nothing_lost(site.under_traffic(lambda: rekeys(200), rate=500))
    grown, more = site.memory()
    assert grown - memory < 1500, "kilobytes"
    assert abs(more - files) <= 2
    # strongSwan forgets to remove some that it lists as DELETED when their IKE_SA is rekeyed meanwhile
    wait_until(lambda: installed(site) == 1, 10, "one CHILD_SA is left at the edge")


@pytest.mark.slow
def test_20000_datagrams_of_rubbish_change_nothing(site: Site) -> None:
    memory, files = site.memory()

    def flood() -> None:
        for _ in range(2):
            site.scene.edge.run(sys.executable, "-S", "-E", "-c", FLOOD, EDGE_OUTER, GATEWAY_OUTER)

    nothing_lost(site.under_traffic(flood, rate=200))
    status = site.daemon.status()
    assert status is not None
    rejected = {why: count for why, count in status["ike_rejected"].items() if count}
    assert sum(rejected.values()) > 5_000, rejected
    grown, more = site.memory()
    assert grown - memory < 4000, "kilobytes"
    assert abs(more - files) <= 2
    assert len(site.log()) < 200, "a flood is no flood in the log"
    assert [record for record in site.log() if "traceback" in record] == []


def test_secrets_are_nowhere_but_where_they_must_be(scene: Scene) -> None:
    site = make_site(scene)
    secret = site.daemon.directory / "bgp.key"
    secret.touch(mode=0o600)
    secret.write_text(MD5 + "\n")
    text = site.changed("remote_as = 65515", 'remote_as = 65515\npassword.file = "bgp.key"')
    text = text.replace('log_level = "info"', 'log_level = "debug"')
    site.daemon.config.write_text(text)
    site.charon.start()
    site.daemon.start()
    site.daemon.wait_up()
    site.daemon.operate("rekey", "site")
    site.daemon.operate("rekey", "site/net")
    (site.daemon.directory / "site.psk").write_text(PSK + " of another kind\n")
    site.reload(text)
    site.daemon.operate("terminate", "site")
    site.daemon.operate("initiate", "site", 3)
    assert site.daemon.process is not None
    proc = f"/proc/{site.daemon.process.pid}"
    wait_until(lambda: site.scene.gateway.pids_of("bgp_relay"), 10, "ExaBGP runs with its relay")
    pids = [pid for word in ("exabgp_start.py", "bgp_relay") for pid in site.scene.gateway.pids_of(word)]
    speakers = [f"/proc/{pid}" for pid in pids]
    seen = {
        "log": site.daemon.process.log.read_text(),
        "status": json.dumps(site.daemon.status()) + site.daemon.ctl("status", "-o", "wide").stdout,
        "sas": site.daemon.ctl("sas", "-o", "json").stdout + site.daemon.ctl("explain", check=False).stdout,
        "metrics": site.daemon.http("/metrics")[1] + site.daemon.http("/")[1],
        **{f"{at}/{name}": Path(at, name).read_text() for at in (proc, *speakers) for name in ("cmdline", "environ")},
        **{path.name: path.read_text() for path in site.daemon.socket.parent.glob("exabgp.log*")},
    }
    for where, content in seen.items():
        for form in _FORMS:
            assert not any(form(secret) in content for secret in (PSK, MD5)), where
        assert "Traceback" not in content, where
    assert re.search(r"Max core file size\s+0\s+0", Path(proc, "limits").read_text())
    holders = [
        path for path in site.daemon.socket.parent.iterdir() if path.is_file() and _base64(MD5) in path.read_text()
    ]
    assert [path.name for path in holders] == ["exabgp.conf"]
    assert holders[0].stat().st_mode & 0o077 == 0


def test_every_metric_of_a_running_daemon_is_documented_and_well_formed(site: Site) -> None:
    _, text = site.daemon.http("/metrics")
    documented = dict(
        re.findall(r"^\| `(gateway_\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    )
    types = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    helped = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    ours = {name: kind for name, kind in types.items() if name.startswith("gateway_")}
    optional = {name for name in documented if name.startswith("gateway_ha_")}
    assert set(ours) - set(documented) == set()
    assert set(documented) - set(ours) <= optional
    assert {name: documented[name] for name in ours} == ours
    samples = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line and not line.startswith("#")}
    histograms = {f"{name}_{part}" for name, kind in types.items() if kind == "histogram" for part in HISTOGRAM_PARTS}
    assert samples <= set(types) | histograms, "every sample belongs to a family"
    for name, kind in ours.items():
        assert len(helped[name]) > 8, name
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|milliseconds|kb|percent|minutes)(_|$)", name), f"{name}: base units only"
    assert "NaN" not in text


@pytest.mark.slow
def test_a_peer_that_crashes_and_comes_back_is_found_again(site: Site) -> None:
    """kill -9 of the edge: it forgets its SAs and says nothing. Liveness ends ours; nothing leaves in clear meanwhile."""
    capture = Capture(site.scene.wan, "gateway")
    capture.start()
    site.reload(site.changed("dpd_delay = 5", "dpd_delay = 1\nretransmit_timeout = 0.5\nretransmit_tries = 5"))
    site.charon.kill()

    def doubted() -> bool:
        said = site.daemon.ctl("explain", check=False).stdout
        return "is up for" in said and "does not answer any more (INFORMATIONAL sent" in said

    wait_until(doubted, 10, "a doubt, before the verdict", logs=[site.daemon.process])
    wait_until(
        lambda: (site.daemon.tunnel() or {})["last_failure"] == "DPD_TIMEOUT", 15, "noticed", logs=[site.daemon.process]
    )
    assert "stopped answering" in site.daemon.ctl("explain", check=False).stdout
    site.charon.start()
    site.daemon.wait_up(40)
    site.daemon.wait_bgp("edge", 40)
    assert capture.stop().clear == 0


def test_a_suspended_daemon_comes_back(site: Site) -> None:
    """SIGSTOP for longer than the BGP hold time is a crash to the neighbors; shorter ones must cost nothing."""
    assert site.daemon.process is not None
    spis = (site.daemon.tunnel() or {})["initiator_spi"]
    os.kill(site.daemon.process.pid, signal.SIGSTOP)
    wait_until(lambda: _state(site.daemon.process.pid) == "T", 2, "stopped")  # type: ignore[union-attr]
    os.kill(site.daemon.process.pid, signal.SIGCONT)
    nothing_lost(site.under_traffic(lambda: None))
    assert (site.daemon.tunnel() or {})["initiator_spi"] == spis


@pytest.mark.slow
def test_an_edge_that_forgot_a_suspended_daemon_has_it_back_within_seconds(site: Site) -> None:
    """The edge lost the IKE_SA meanwhile, does not say so, and only responds: it would take a whole series of repetitions to find out."""
    assert site.daemon.process is not None
    old = (site.daemon.tunnel() or {})["initiator_spi"]
    os.kill(site.daemon.process.pid, signal.SIGSTOP)
    site.charon.kill()
    site.charon.start()
    time.sleep(DPD_DELAY + STOOD_STILL + 2)
    assert site.charon.established() is None
    os.kill(site.daemon.process.pid, signal.SIGCONT)

    def anew() -> bool:
        tunnel = site.daemon.tunnel() or {}
        return tunnel.get("initiator_spi") not in (0, None, old) and site.charon.established() is not None

    wait_until(anew, 6, "another IKE_SA", logs=[site.daemon.process])
    assert "may have lost this IKE_SA" in site.daemon.process.log.read_text()
    wait_until(lambda: ping(site.scene.site, VNET_HOST, 1).lost == 0, 30, "the way there", logs=[site.daemon.process])


def _base64(secret: str) -> str:
    return base64.b64encode(secret.encode()).decode()


_FORMS: tuple[Callable[[str], str], ...] = (str, lambda secret: secret.encode().hex(), _base64)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def installed(site: Site) -> int:
    """CHILD_SAs that the edge uses."""
    sa = site.charon.established()
    assert sa is not None, "the edge has no IKE_SA"
    return len([child for child in sa.children if child.state == "INSTALLED"])
