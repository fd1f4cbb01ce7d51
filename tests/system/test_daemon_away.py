"""BGP while the daemon is away: sessions and announced routes stay, for `orphan_time`; then they go. Seen from the peers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.netns import Lab
from support.process import ended, holds_for, wait_until
from support.two_fabrics import OWN, TwoFabrics, Unit, manager

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SERVICE, RELAY, EXABGP = "gateway.runtime.bgp_unit", "bgp_relay.py", "exabgp_start.py"
Play = Callable[..., TwoFabrics]


@pytest.fixture
def play(lab: Lab) -> Iterator[Play]:
    made: list[TwoFabrics] = []

    def begin(**lines: str) -> TwoFabrics:
        made.append(TwoFabrics(lab, **lines))
        made[0].start()
        made[0].alpha.noticed()
        made[0].beta.noticed()
        return made[0]

    yield begin
    for one in made:
        one.close()


def test_a_killed_daemon_that_is_back_within_two_seconds_goes_unnoticed(play: Play) -> None:
    scene = play()
    since = scene.alpha.up_since(), scene.beta.up_since()
    told = scene.alpha.routes(), scene.beta.routes()
    speaker = scene.pid_of(EXABGP)
    scene.daemon.kill()
    time.sleep(1.0)
    scene.daemon.start()
    wait_until(lambda: "RIBs agree" in str(scene.daemon.status()), 20, "synchronised", logs=[scene.daemon.process])
    wait_until(lambda: scene.learned("172.16.0.0/16") and scene.learned("10.1.0.0/16"), 20, "kernel routes")
    holds_for(lambda: (scene.alpha.routes(), scene.beta.routes()) == told, 2.0, "what the peers have")
    assert (scene.alpha.up_since(), scene.beta.up_since()) == since
    assert scene.pid_of(EXABGP) == speaker
    scene.unnoticed()


@pytest.mark.slow
def test_what_changed_while_the_daemon_was_away_is_put_right_and_nothing_else(play: Play) -> None:
    scene = play()
    scene.daemon.kill()
    scene.alpha.announce(["172.17.0.0/16", "172.18.0.0/16"])
    scene.daemon.config.write_text(scene.daemon.config.read_text().replace(f'"{OWN}"', f'"{OWN}", "10.201.0.0/16"'))
    scene.daemon.start()
    wait_until(
        lambda: not scene.beta.has("172.16.0.0/16") and scene.beta.has("172.17.0.0/16"), 30, "the other table",
        logs=[scene.daemon.process],
    )  # fmt: skip
    wait_until(lambda: scene.alpha.has("10.201.0.0/16"), 10, "the new prefix of ours")
    assert scene.beta.has("172.18.0.0/16")
    assert scene.alpha.noticed() == []
    (gone,) = scene.beta.noticed()
    assert "172.16.0.0/16" in gone


@pytest.mark.slow
def test_a_neighbor_that_was_changed_while_the_daemon_was_away_is_the_only_one_to_begin_anew(play: Play) -> None:
    scene = play()
    scene.daemon.kill()
    text = scene.daemon.config.read_text()
    head, _, tail = text.rpartition("hold_time = 30")
    scene.daemon.config.write_text(f"{head}hold_time = 24{tail}")
    scene.daemon.start()
    wait_until(lambda: any("State changed to stop" in line or "removed" in line for line in scene.beta.noticed()), 30,
               "beta's session ends", logs=[scene.daemon.process])  # fmt: skip
    scene.told("10.1.0.0/16", "172.16.0.0/16")
    assert not [line for line in scene.alpha.noticed() if "State changed" in line]


def test_a_daemon_that_stays_away_does_not_go_on_attracting_traffic(play: Play) -> None:
    scene = play(bgp="orphan_time = 1", neighbor="graceful_restart = 120")
    service, speaker = scene.pid_of(SERVICE), scene.pid_of(EXABGP)
    scene.daemon.kill()
    begun = time.monotonic()
    wait_until(lambda: not scene.alpha.routes() and not scene.beta.routes(), 10, "every route withdrawn")
    took = time.monotonic() - begun
    assert 0.8 < took < 4
    assert [line for line in scene.beta.noticed() if OWN in line], "withdrawn, not only lost with the session"
    wait_until(lambda: ended(service) and ended(speaker), 15, "service and ExaBGP end")
    assert not scene.alpha.up_since()
    scene.daemon.start()
    scene.told("10.1.0.0/16", "172.16.0.0/16")


def test_relay_and_service_may_be_killed_without_a_session_noticing(play: Play) -> None:
    scene = play()
    for victim in (RELAY, SERVICE):
        speaker = scene.pid_of(EXABGP)
        former = scene.end(victim)
        wait_until(lambda v=victim, f=former: set(scene.gateway.pids_of(v)) - {f}, 20, f"another {victim}")
        prefix = f"172.2{len(victim)}.0.0/16"
        scene.alpha.announce(["172.16.0.0/16", prefix])
        wait_until(lambda p=prefix: scene.beta.has(p), 30, "news are passed on", logs=[scene.daemon.process])
        assert scene.pid_of(EXABGP) == speaker
        scene.alpha.announce(["172.16.0.0/16"])
        wait_until(lambda p=prefix: not scene.beta.has(p), 30, "and taken back", logs=[scene.daemon.process])
        assert all(prefix in line for line in scene.beta.noticed())
        assert scene.alpha.noticed() == []


@pytest.mark.slow
def test_an_exabgp_without_its_service_ends_by_itself(play: Play) -> None:
    scene = play(neighbor="graceful_restart = 120")
    speaker = scene.pid_of(EXABGP)
    scene.daemon.kill()
    scene.end(SERVICE)
    wait_until(lambda: not scene.beta.routes() and not scene.alpha.routes(), 45, "every route withdrawn")
    assert [line for line in scene.beta.noticed() if OWN in line]
    wait_until(lambda: ended(speaker), 15, "its end")


def test_a_planned_stop_withdraws_before_it_closes(play: Play) -> None:
    scene = play(neighbor="graceful_restart = 120")
    service, speaker = scene.pid_of(SERVICE), scene.pid_of(EXABGP)
    assert scene.daemon.stop(20) == 0
    assert ended(service)
    assert ended(speaker)
    for fabric in (scene.alpha, scene.beta):
        what = [line for line in fabric.noticed() if OWN in line or "State changed" in line]
        assert OWN in what[0], what
        assert fabric.routes() == set()


@pytest.mark.slow
def test_the_dry_run_of_a_reload_names_the_sessions_that_would_begin_anew(play: Play) -> None:
    scene = play()
    text = scene.daemon.config.read_text()
    head, _, tail = text.rpartition("hold_time = 30")
    scene.daemon.config.write_text(f"{head}hold_time = 24{tail}")
    planned = scene.daemon.ctl("reload", "--dry-run").stdout
    assert "would change: ~ bgp.neighbor.beta.hold_time 30 -> 24 (restart-session)" in planned
    assert "BGP sessions that begin anew: beta\n" in planned
    scene.unnoticed()
    scene.daemon.config.write_text(text.replace("[bgp]", "[bgp]\nfoo = 1"))
    refused = scene.daemon.ctl("reload", "--dry-run", check=False)
    assert refused.returncode == 78
    assert "bgp.foo: unknown key" in refused.stderr


@pytest.mark.slow
def test_a_restart_by_systemd_withdraws_nothing_and_a_stop_everything(lab: Lab, tmp_path: Path) -> None:
    scene = TwoFabrics(lab, neighbor="graceful_restart = 120")
    unit = Unit(scene)
    scene.start(environment=manager(tmp_path / "bin", "71 gatewayd.service restart running"))
    try:
        since, speaker = scene.beta.up_since(), scene.pid_of(EXABGP)
        scene.beta.noticed()
        scene.alpha.noticed()
        assert scene.daemon.stop(20) == 0
        scene.unnoticed()
        scene.restart(environment=manager(tmp_path / "bin", "71 gatewayd.service stop running"))
        wait_until(lambda: "RIBs agree" in str(scene.daemon.status()), 20, "synchronised", logs=[scene.daemon.process])
        wait_until(lambda: scene.learned("172.16.0.0/16"), 20, "kernel routes")
        scene.unnoticed()
        assert (scene.beta.up_since(), scene.pid_of(EXABGP)) == (since, speaker)
        assert scene.daemon.stop(20) == 0
        assert ended(speaker)
        assert unit.process.running
        assert [line for line in scene.beta.noticed() if OWN in line], "withdrawn"
        scene.restart(environment=manager(tmp_path / "bin", ""))
        scene.told("10.1.0.0/16", "172.16.0.0/16")
        # as at a shutdown of the host: this unit first, while the daemon still carries packets
        scene.beta.noticed()
        assert unit.stop() == 0
        assert [line for line in scene.beta.noticed() if OWN in line], "withdrawn"
        Unit(scene)
        scene.told("10.1.0.0/16", "172.16.0.0/16")
    finally:
        scene.close()


@pytest.mark.slow
def test_a_service_of_another_release_makes_way_without_a_session_noticing(play: Play) -> None:
    scene = play()
    service, speaker = scene.pid_of(SERVICE), scene.pid_of(EXABGP)
    scene.daemon.kill()
    with socket.socket(socket.AF_UNIX) as newer:
        newer.settimeout(10)
        newer.connect(str(scene.daemon.socket.with_name("bgp-service.sock")))
        assert b'"hello"' in newer.recv(4096)
        newer.sendall(b'!{"kind": "restart"}\n')
        while newer.recv(4096):
            pass
    scene.daemon.start()
    scene.alpha.announce(["172.16.0.0/16", "172.29.0.0/16"])
    wait_until(lambda: scene.beta.has("172.29.0.0/16"), 30, "news are passed on", logs=[scene.daemon.process])
    assert (scene.pid_of(SERVICE), scene.pid_of(EXABGP)) == (service, speaker)
    scene.unnoticed()
