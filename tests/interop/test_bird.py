"""The whole BGP path against BIRD 2: Speaker, ExabgpProcess, a real ExaBGP, the relay, and sessions in namespaces.

    gatewayd side (this process) -- UNIX socket -- relay -- ExaBGP [gateway namespace] -- edge (BIRD 0), fabric (BIRD 1)

The edge is a site behind a connection, AS 65010; the fabric plays a route server, AS 65515. We are AS 65001.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import time
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest
from support.bgp_daemon import Daemon, bird_config, eventually, neighbor, run, running
from support.birds import Bird, Lab

from gateway.bgp.events import (
    PeerDown,
    PeerUp,
    Reconfigure,
    Resynchronized,
    Shutdown,
)
from gateway.bgp.settings import SpeakerSettings
from gateway.runtime.exabgp import ExabgpConfigError
from gateway.runtime.left_running import end_stale

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.timeout(120),
]

SITE = ip_network("172.16.0.0/16")
SITE6 = ip_network("2001:db8:16::/48")
VNET = ip_network("10.1.0.0/16")
OWN = ip_network("10.200.0.0/16")


def edge_config(*prefixes: str, extra: str = "", password: str = "s3cret pass") -> str:
    return bird_config(0, 65010, prefixes, extra, f'password "{password}";')


def fabric_config(*prefixes: str) -> str:
    return bird_config(1, 65515, prefixes, "", "")


SETTINGS = SpeakerSettings(
    local_as=65001,
    router_id=IPv4Address("10.99.0.1"),
    advertise=(OWN,),
    stale_time=60.0,
    neighbors=(
        neighbor("edge", 0, 4, 65010, connection="site", password=b"s3cret pass"),
        neighbor("edge6", 0, 6, 65010, connection="site"),
        neighbor("fabric", 1, 4, 65515, multihop=2),
        neighbor("fabric6", 1, 6, 65515),
    ),
)


@pytest.fixture
def lab(tmp_path: Path):  # type: ignore[no-untyped-def]
    with Lab(tmp_path / "birds", 2) as made:
        made.birds[0].start(edge_config(str(SITE), str(SITE6)))
        made.birds[1].start(fabric_config(str(VNET)))
        yield made


def relay_pid(exabgp: int) -> int:
    return int(Path(f"/proc/{exabgp}/task/{exabgp}/children").read_text().split()[0])


async def converged(daemon: Daemon, edge: Bird, fabric: Bird) -> None:
    await eventually("learned", lambda: {SITE, SITE6, VNET} <= daemon.best.keys())
    await eventually("site and own prefix at the fabric", lambda: fabric.has(str(SITE)) and fabric.has(str(OWN)))
    await eventually("VNet and own prefix at the edge", lambda: edge.has(str(VNET)) and edge.has(str(OWN)))


def test_routes_pass_both_ways_over_ipv4_with_md5_and_over_ipv6(tmp_path: Path, lab: Lab) -> None:
    edge, fabric = lab.birds

    async def main() -> None:
        async with running(tmp_path / "run", lab, SETTINGS) as daemon:
            await converged(daemon, edge, fabric)
            assert daemon.best[SITE].connection == "site"
            assert daemon.best[SITE].next_hop == ip_address("10.99.0.2")
            assert daemon.best[SITE6].next_hop == ip_address("fd99:0::2")
            assert daemon.best[VNET].as_path == (65515,)
            text = fabric.route(str(SITE))
            assert "BGP.as_path: 65001 65010" in text
            assert "BGP.next_hop: 10.99.1.1" in text
            await eventually("the IPv6 site prefix at the fabric", lambda: fabric.has(str(SITE6)))
            assert "BGP.next_hop: fd99:1::1" in fabric.route(str(SITE6))
            assert [peer.state for peer in daemon.speaker.peers_status()] == ["Established"] * 4
            assert stat.S_IMODE((tmp_path / "run" / "exabgp.conf").stat().st_mode) == 0o600
            assert stat.S_IMODE((tmp_path / "run" / "bgp.sock").stat().st_mode) == 0o600

            edge.reconfigure(edge_config("172.18.0.0/16", str(SITE6)))
            await eventually("withdrawn everywhere", lambda: SITE not in daemon.best and not fabric.has(str(SITE)))
            await eventually("another in its place", lambda: ip_network("172.18.0.0/16") in daemon.best)

            daemon.command(Shutdown())
            await eventually("drained", lambda: daemon.process.drained)
            await eventually("nothing left at the peers", lambda: not fabric.has(str(OWN)) and not edge.has(str(OWN)))
            assert daemon.speaker.counters["malformed"] == 0
            assert daemon.speaker.counters["errors"] == 0

    run(main())


def test_a_session_flap_keeps_its_routes_stale_and_end_of_rib_sweeps_them(tmp_path: Path, lab: Lab) -> None:
    edge, fabric = lab.birds

    async def main() -> None:
        async with running(tmp_path / "run", lab, SETTINGS) as daemon:
            await converged(daemon, edge, fabric)
            edge.ask("disable", "b4")
            await eventually("session down", lambda: daemon.state("edge") != "Established")
            assert daemon.stale() == {str(SITE)}
            assert SITE in daemon.best
            assert fabric.has(str(SITE))

            edge.reconfigure(edge_config("172.19.0.0/16", str(SITE6)))
            edge.ask("enable", "b4")
            await eventually("the new route", lambda: ip_network("172.19.0.0/16") in daemon.best)
            await eventually("the old one swept", lambda: SITE not in daemon.best and not daemon.stale())
            await eventually("the peers were told", lambda: not fabric.has(str(SITE)))
            await eventually("the edge has ours again", lambda: edge.has(str(VNET)) and edge.has(str(OWN)))
            assert daemon.count(PeerDown) == 1
            assert daemon.count(PeerUp) == 5

    run(main())


def test_a_killed_exabgp_is_started_again_and_synchronised_without_losing_a_route(tmp_path: Path, lab: Lab) -> None:
    edge, fabric = lab.birds

    async def main() -> None:
        async with running(tmp_path / "run", lab, SETTINGS) as daemon:
            await converged(daemon, edge, fabric)
            first = daemon.process.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await eventually("stale", lambda: daemon.stale() == {str(SITE), str(SITE6), str(VNET)})
            await eventually("another process", lambda: daemon.process.pid not in (None, first))
            await eventually("resynchronised", lambda: daemon.count(Resynchronized) == 2 and not daemon.stale(), 40)
            await converged(daemon, edge, fabric)
            assert daemon.withdrawn == []

    run(main())


def test_a_killed_relay_costs_nothing_but_a_synchronisation(tmp_path: Path, lab: Lab) -> None:
    edge, fabric = lab.birds

    async def main() -> None:
        async with running(tmp_path / "run", lab, SETTINGS) as daemon:
            await converged(daemon, edge, fabric)
            await asyncio.sleep(5)  # younger sessions count as still loading, and wait for their End-of-RIB instead
            pid = daemon.process.pid
            assert pid is not None
            edge_pid = int(edge.pidfile.read_text())
            os.kill(edge_pid, signal.SIGSTOP)  # nothing new from the edge: ExaBGP's own table must do
            try:
                os.kill(relay_pid(pid), signal.SIGKILL)
                await eventually("resynchronised", lambda: daemon.count(Resynchronized) == 2 and not daemon.stale())
            finally:
                os.kill(edge_pid, signal.SIGCONT)
            assert daemon.process.pid == pid
            assert daemon.withdrawn == []
            assert daemon.count(PeerDown) == 0

            edge.reconfigure(edge_config("172.20.0.0/16", str(SITE6)))
            await eventually("changes arrive as before", lambda: ip_network("172.20.0.0/16") in daemon.best)
            await eventually("and are passed on", lambda: fabric.has("172.20.0.0/16") and not fabric.has(str(SITE)))

    run(main())


def test_a_daemon_that_starts_again_adopts_exabgp_and_corrects_what_changed_meanwhile(tmp_path: Path, lab: Lab) -> None:
    edge, fabric = lab.birds

    async def main() -> None:
        former = Daemon(tmp_path / "run", lab.gateway, SETTINGS)
        try:
            await former.process.start(SETTINGS)
            await converged(former, edge, fabric)
            pid = former.process.pid
            await former.process.detach()
            former.cancel()
            edge.reconfigure(edge_config("172.21.0.0/16", str(SITE6)))
            await eventually("sessions live on without us", lambda: fabric.has(str(SITE)), 2)
            # the configuration that only concerns us may differ: ExaBGP is adopted all the same
            changed = replace(SETTINGS, advertise=())
            async with running(tmp_path / "run", lab, changed) as daemon:
                await eventually("learned", lambda: {ip_network("172.21.0.0/16"), VNET} <= daemon.best.keys())
                assert daemon.process.pid == pid
                await eventually("leftovers withdrawn", lambda: not fabric.has(str(SITE)) and not edge.has(str(OWN)))
                await eventually("news announced", lambda: fabric.has("172.21.0.0/16") and edge.has(str(VNET)))
                assert SITE not in daemon.best
                assert daemon.count(PeerDown) == 0
        finally:
            await former.process.detach()
            former.cancel()
            end_stale(tmp_path / "run")

    run(main())


def test_a_lost_socket_is_reconnected_with_a_new_generation(tmp_path: Path, lab: Lab) -> None:
    edge, fabric = lab.birds

    async def main() -> None:
        async with running(tmp_path / "run", lab, SETTINGS) as daemon:
            await converged(daemon, edge, fabric)
            daemon.process.relink()
            await eventually("resynchronised", lambda: daemon.count(Resynchronized) == 2)
            assert [e.generation for e in daemon.effects if isinstance(e, Resynchronized)] == [1, 2]
            await eventually("nothing stale", lambda: not daemon.stale(), 70)
            assert daemon.withdrawn == []
            assert daemon.count(PeerDown) == 0

    run(main())


def test_a_reload_adds_a_neighbor_without_touching_the_others(tmp_path: Path, lab: Lab) -> None:
    edge, fabric = lab.birds

    async def main() -> None:
        fewer = replace(SETTINGS, neighbors=SETTINGS.neighbors[:2])
        async with running(tmp_path / "run", lab, fewer) as daemon:
            await eventually("the edge's routes", lambda: {SITE, SITE6} <= daemon.best.keys())
            daemon.command(Reconfigure(SETTINGS))
            await daemon.process.reload(SETTINGS)
            await converged(daemon, edge, fabric)
            assert daemon.count(PeerDown) == 0

            wrong = replace(SETTINGS.neighbors[0], password=b"changed pass")
            changed = replace(SETTINGS, neighbors=(wrong, *SETTINGS.neighbors[1:]))
            daemon.command(Reconfigure(changed))
            await daemon.process.reload(changed)
            await eventually("session down", lambda: daemon.state("edge") != "Established")
            edge.reconfigure(edge_config(str(SITE), str(SITE6), password="changed pass"))
            await eventually("up with the new password", lambda: daemon.state("edge") == "Established", 40)
            await converged(daemon, edge, fabric)
            assert {e.name for e in daemon.effects if isinstance(e, PeerDown)} == {"edge"}

    run(main())


def test_a_configuration_exabgp_refuses_leaves_the_old_one_in_force(tmp_path: Path, lab: Lab) -> None:
    edge, fabric = lab.birds

    async def main() -> None:
        async with running(tmp_path / "run", lab, SETTINGS) as daemon:
            await converged(daemon, edge, fabric)
            before = (tmp_path / "run" / "exabgp.conf").read_bytes()
            bad = replace(SETTINGS, neighbors=(replace(SETTINGS.neighbors[0], hold_time=1),))
            with pytest.raises(ExabgpConfigError, match="hold"):
                await daemon.process.reload(bad)
            assert (tmp_path / "run" / "exabgp.conf").read_bytes() == before
            assert daemon.count(PeerDown) == 0

    run(main())


def test_a_passive_neighbor_connects_to_us_and_generalised_ttl_security_holds(tmp_path: Path, lab: Lab) -> None:
    edge, fabric = lab.birds

    async def main() -> None:
        passive = replace(SETTINGS.neighbors[0], passive=True)
        secured = replace(SETTINGS.neighbors[2], multihop=1, ttl_security=True)
        refused = replace(SETTINGS.neighbors[3], ttl_security=True)
        settings = replace(SETTINGS, neighbors=(passive, secured, refused))
        # BIRD's b4 sends TTL 255 and expects it; its b6 sends 1, which we must not accept
        config = bird_config(1, 65515, (str(VNET),), "", "")
        fabric.reconfigure(config.replace("hold time 9;", "hold time 9; ttl security on;", 1))
        async with running(tmp_path / "run", lab, settings) as daemon:
            await eventually("the passive session", lambda: daemon.state("edge") == "Established", 40)
            await eventually("the secured session", lambda: daemon.state("fabric") == "Established", 40)
            await eventually("routes", lambda: edge.has(str(VNET)) and fabric.has(str(SITE)))
            assert daemon.state("fabric6") != "Established"
            assert "Established" not in fabric.ask("show", "protocols", "b6")

    run(main())


@pytest.mark.slow
def test_a_thousand_routes_and_their_quick_changes_of_mind_end_right(tmp_path: Path, lab: Lab) -> None:
    """Announce, withdraw and announce again in one burst: what ExaBGP's own queue does not keep in order."""
    edge, fabric = lab.birds
    many = [f"172.30.{number // 4}.{number % 4 * 64}/26" for number in range(1000)]

    async def main() -> None:
        async with running(tmp_path / "run", lab, SETTINGS) as daemon:
            await converged(daemon, edge, fabric)
            begun = time.monotonic()
            edge.reconfigure(edge_config(str(SITE6), *many))
            await eventually("learned", lambda: len(daemon.best) == 1002)
            await eventually("announced", lambda: fabric.has(many[-1]) and not fabric.has(str(SITE)))
            assert time.monotonic() - begun < 15
            for keep in (many[::2], many[1::2], many[::3], many[:10]):
                edge.reconfigure(edge_config(str(SITE6), *keep))
            await eventually("learned again", lambda: len(daemon.best) == 12)

            def told() -> set[str]:
                table = fabric.ask("show", "route", "table", "master4", "protocol", "b4")
                return {line.split()[0] for line in table.splitlines() if line.startswith("172.30.")}

            await eventually("exactly those at the fabric", lambda: told() == set(many[:10]))
            await asyncio.sleep(1)
            assert told() == set(many[:10])
            assert daemon.speaker.counters["errors"] == 0

    run(main())
