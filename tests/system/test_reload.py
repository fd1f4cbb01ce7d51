"""A reload touches what changed and nothing else, loses no packet of what did not, and leaves all as it was when refused."""

from __future__ import annotations

import os
import re
import signal
import threading

import pytest
from support.daemon import EX_CONFIG
from support.operated import Site, make_site
from support.pair import nothing_lost
from support.process import LabError, wait_until
from support.scene import GATEWAY_LAN, Scene

pytestmark = pytest.mark.system

SECOND = """
[connection.second]
local_addrs = "198.51.100.2"
remote_addrs = "203.0.113.99"
psk.file = "site.psk"
remote_ts = ["192.168.77.0/24"]
tunnel_address = ["169.254.99.1/30"]
"""
THIRD = """
[bgp.neighbor.third]
address = "10.1.0.9"
remote_as = 65099
"""
PAIR = f"""
[ha]
local_address = "{GATEWAY_LAN}"
remote_address = "10.1.0.5"
secret.file = "site.psk"
"""


@pytest.fixture
def site(scene: Scene) -> Site:
    made = make_site(scene)
    made.start()
    return made


def _spis(site: Site) -> tuple[int, ...]:
    tunnel = site.daemon.tunnel()
    assert tunnel is not None
    return (tunnel["initiator_spi"], *(child["spi_in"] for child in tunnel["children"]))


def _sessions(site: Site) -> dict[str, float]:
    status = site.daemon.status()
    assert status is not None
    return {peer["name"]: peer["established_at"] for peer in status["peers"]}


def test_what_is_unchanged_keeps_every_packet_and_what_is_removed_leaves_nothing(site: Site) -> None:
    before, sessions, spis = site.kernel(), _sessions(site), _spis(site)

    def act() -> None:
        for _ in range(3):
            assert "nothing changed" in site.reload().stdout
        added = site.reload(site.text + SECOND + THIRD)
        assert "+ connection.second" in added.stdout
        assert "+ bgp.neighbor.third" in added.stdout
        wait_until(lambda: "gw-second" in site.kernel(), 5, "the second TUN", logs=[site.daemon.process])
        wait_until(lambda: "third" in _sessions(site), 5, "the third neighbor", logs=[site.daemon.process])
        removed = site.reload()
        assert "- connection.second" in removed.stdout
        wait_until(lambda: site.kernel() == before, 5, "the kernel as before", logs=[site.daemon.process])

    nothing_lost(site.under_traffic(act))
    assert _spis(site) == spis
    assert _sessions(site) == sessions, "the other neighbors' sessions were not touched"


def test_the_sections_beside_the_tunnels_are_applied(site: Site) -> None:
    told = site.reload(
        site.changed('log_level = "info"', 'log_level = "debug"') + PAIR + "\n[metrics]\nport = 9560\n"
    ).stdout
    assert '~ gateway.log_level "info" -> "debug" (in-place)' in told
    assert site.daemon.http("/healthz", 9560)[0] == 200
    with pytest.raises(LabError):
        site.daemon.http("/healthz", 9550)
    wait_until(lambda: ((site.daemon.status() or {}).get("ha") or {}).get("sent", 0) > 3, 5, "heartbeats are sent")
    site.reload()
    assert site.daemon.http("/healthz")[0] == 200
    assert (site.daemon.status() or {})["ha"] is None


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("\n[bgp.neighbor.x]\nfoo = 1\n", r"gateway.toml:\d+:1: bgp.neighbor.x.foo: unknown key"),
        ('\n[metrics]\naddress = "192.0.2.7"\n', "metrics listener 192.0.2.7 port 9550: .*correct metrics.address"),
        (PAIR.replace(GATEWAY_LAN, "10.1.0.77"), "heartbeat 10.1.0.77:4780: .*correct ha.local_address"),
        (SECOND.replace("198.51.100.2", "198.51.100.77"), "UDP 198.51.100.77:500: the address is not on this host"),
        ("\n[dataplane]\nworkers = 1\n", "dataplane.workers takes effect only at a restart"),
    ],
    ids=["file", "metrics address", "heartbeat address", "outer address", "needs a restart"],
)
def test_a_refused_reload_changes_nothing_and_says_why(site: Site, extra: str, words: str) -> None:
    spis = _spis(site)
    said = site.reload(site.text + extra)
    assert said.returncode == EX_CONFIG
    assert "configuration unchanged" in said.stderr
    flat = " ".join(said.stderr.split())
    assert re.search(words, flat), flat
    wait_until(lambda: any(r.get("event") == "reload" and r["level"] == "error" for r in site.log()), 3, "in the log")
    assert _spis(site) == spis
    assert site.daemon.http("/healthz")[0] == 200
    assert (site.daemon.status() or {})["ha"] is None


def test_sighup_is_a_reload_and_its_outcome_is_logged_on_one_line(site: Site) -> None:
    assert site.daemon.process is not None

    def outcome() -> list[str]:
        return [str(record["message"]) for record in site.log() if record.get("event") == "reload"]

    site.daemon.config.write_text(site.text + "\n[bgp.neighbor.x]\nfoo = 1\n")
    os.kill(site.daemon.process.pid, signal.SIGHUP)
    (refused,) = wait_until(outcome, 5, "the refusal in the log")
    assert "configuration unchanged" in refused
    assert "\\n" not in refused
    site.daemon.config.write_text(site.text)
    os.kill(site.daemon.process.pid, signal.SIGHUP)
    wait_until(lambda: "configuration reloaded: nothing changed" in outcome(), 5, "the success in the log")


def test_reloads_during_rekeys_lose_nothing(site: Site) -> None:
    def act() -> None:
        for target in ("site", "site/net") * 3:
            rekey = threading.Thread(target=site.daemon.ctl, args=("rekey", target, "--wait", "10"))
            rekey.start()
            assert site.reload().returncode == 0
            rekey.join()

    nothing_lost(site.under_traffic(act))


@pytest.mark.slow
def test_a_corrected_address_or_key_is_tried_at_once(site: Site) -> None:
    site.reload(site.changed('remote_addrs = "203.0.113.2"', 'remote_addrs = "203.0.113.77"'))
    site.daemon.wait_down()
    wait_until(
        lambda: "does not answer IKE_SA_INIT" in site.daemon.ctl("explain", check=False).stdout, 5, "silence explained"
    )
    site.reload()
    site.daemon.wait_up(3)
    secret = site.daemon.directory / "site.psk"
    right = secret.read_text()
    secret.write_text("not the key of the peer at all\n")
    assert "secrets changed" in site.reload().stdout
    assert site.daemon.up(), "a key counts at the next IKE_AUTH"
    site.daemon.ctl("terminate", "site")
    site.daemon.ctl("initiate", "site", "--wait", "5", check=False)
    wait_until(lambda: (site.daemon.tunnel() or {})["attempts"] >= 3, 10, "the back-off grows")
    secret.write_text(right)
    site.reload()
    site.daemon.wait_up(3)


def test_the_ports_of_an_address_no_connection_names_are_given_back(site: Site) -> None:
    """Later, so that the old IKE_SA can still be ended from there."""
    site.scene.gateway.batch("address add 198.51.100.20/24 dev wan")
    site.reload(site.text + SECOND.replace('"198.51.100.2"', '"198.51.100.20"'))

    def bound() -> bool:
        return "198.51.100.20:" in site.scene.gateway.run("ss", "-uln")

    wait_until(bound, 5, "bound")
    site.reload()
    wait_until(lambda: not bound(), 40, "given back", interval=0.5, logs=[site.daemon.process])
    assert site.daemon.up()
