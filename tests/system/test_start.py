"""What keeps gatewayd from starting is one sentence with its fix and the right exit code, and nothing is left behind."""

from __future__ import annotations

import json
import re

import pytest
from support.daemon import EX_CONFIG, GatewayDaemon
from support.operated import Site, make_site, run_to_end
from support.process import wait_until
from support.scene import Scene

pytestmark = pytest.mark.system

HOLDER = (
    "python3 -c \"import socket, time; s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', 9550));"
    ' s.listen(); print(); time.sleep(30)" >/tmp/held & while ! [ -s /tmp/held ]; do :; done'
)
PAIR = '\n[ha]\nlocal_address = "10.1.0.77"\nremote_address = "10.1.0.5"\nsecret.file = "site.psk"\n'


@pytest.fixture
def site(scene: Scene) -> Site:
    return make_site(scene)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "[gateway]",
            '[gateway]\nrun_directory = "/proc/nowhere/gw"',
            "run directory /proc/nowhere/gw: .*gateway.run_directory",
        ),
        ("[gateway]", '[gateway]\nrun_directory = "/etc/hostname"', "run directory /etc/hostname: File exists"),
        ("[bgp]", '[metrics]\naddress = "192.0.2.7"\n[bgp]', "metrics listener 192.0.2.7 port 9550: .*metrics.address"),
        ("[bgp]", f"{PAIR}[bgp]", "heartbeat 10.1.0.77:4780: .*ha.local_address"),
        ('"198.51.100.2"', '"198.51.100.9"', "UDP 198.51.100.9:500: the address is not on this host"),
    ],
    ids=["run directory", "run directory a file", "metrics address", "heartbeat address", "outer address"],
)
def test_what_is_not_to_be_had(site: Site, old: str, new: str, words: str) -> None:
    site.daemon.config.write_text(site.changed(old, new))
    before = site.kernel()
    done = run_to_end(site.daemon, "--config", str(site.daemon.config))
    said = [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]
    errors = [record["message"] for record in said if record["level"] == "error"]
    assert done.returncode == 1
    assert len(errors) == 1
    assert re.match(f"cannot start: {words}", errors[0]), errors
    assert "Errno" not in errors[0]
    assert not [record for record in said if "traceback" in record]
    assert site.kernel() == before
    assert not site.daemon.socket.exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00[gateway]", None], ids=["empty", "not text", "a directory"])
def test_a_file_that_is_none(site: Site, content: bytes | None) -> None:
    path = site.daemon.directory / "other.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    checked = run_to_end(site.daemon, "--check", "--config", str(path))
    assert "Traceback" not in checked.stdout + checked.stderr
    if content == b"":
        assert checked.returncode == 0
    else:
        assert checked.returncode == EX_CONFIG
        assert f"{path}:1:1: " in checked.stdout


def test_what_check_says_is_what_the_daemon_says(site: Site) -> None:
    mistakes = (
        site.text.replace("dpd_delay", "dpd_dely")
        .replace("remote_as = 65001", "remote_as = 0")
        .replace("aes256gcm16-ecp256", "aes257")
    )
    site.daemon.config.write_text(mistakes)
    checked = run_to_end(site.daemon, "--check", "--config", str(site.daemon.config))
    started = run_to_end(site.daemon, "--config", str(site.daemon.config))
    assert checked.returncode == started.returncode == EX_CONFIG
    told = _places(checked.stdout)
    assert len(told) >= 3
    assert _places(started.stderr) == told
    site.daemon.config.write_text(site.text)
    site.daemon.start()
    site.daemon.config.write_text(mistakes)
    reloaded = site.daemon.ctl("reload", check=False)
    assert reloaded.returncode == EX_CONFIG
    assert all(place in reloaded.stderr for place in told)


def _places(text: str) -> list[str]:
    return re.findall(r"gateway\.toml:\d+:\d+: .*", text)


def test_a_missing_exabgp_is_a_problem_that_is_shown_and_the_tunnel_works(site: Site) -> None:
    site.charon.start()
    exabgp = __import__("exabgp").__path__[0]
    hidden = GatewayDaemon(site.scene.gateway, site.text, {})
    argv = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {exabgp}; exec "$@"', "sh"]
    hidden.start(wrapper=argv)
    hidden.wait_up()

    def problems() -> list[str]:
        found = [problem for problem in (hidden.status() or {})["problems"] if "ExaBGP" in problem]
        return [str(problem) for problem in found]

    (problem,) = wait_until(problems, 10, "a problem in the status", logs=[hidden.process])
    assert "cannot be started" in problem
    assert "Python package exabgp" in problem
    assert "ExaBGP cannot be started" in hidden.ctl("health", check=False).stdout
    assert (hidden.status() or {})["exabgp"] == "down"
    assert hidden.stop() == 0
