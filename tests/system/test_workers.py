"""[dataplane] in a running gatewayd: its threads run where the file says; what it counts is told alike everywhere."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from support.daemon import EX_CONFIG
from support.operated import Site, make_site, run_to_end
from support.process import wait_until
from support.scene import SITE_HOST, Scene

pytestmark = pytest.mark.system

CPUS = sorted(os.sched_getaffinity(0))


@pytest.fixture
def site(scene: Scene) -> Site:
    return make_site(scene)


def test_pinned_busy_workers_carry_packets_and_tell_what_they_did(site: Site) -> None:
    order = CPUS[::-1][:2]
    site.text += f"\n[dataplane]\ncpus = {order}\nbusy_poll_us = 200\ncount_cycles = true\n"
    site.daemon.config.write_text(site.text)
    site.start()
    assert sum(loss.lost for loss in site.under_traffic(lambda: None)) == 0
    assert site.daemon.process is not None
    tasks = Path(f"/proc/{site.daemon.process.pid}/task").iterdir()
    pinned = {(task / "comm").read_text().strip(): os.sched_getaffinity(int(task.name)) for task in tasks}
    names = [f"gw-worker-{number}" for number in range(len(order))]
    assert [pinned[name] for name in names] == [{cpu} for cpu in order]
    assert all(cpus == set(CPUS) for name, cpus in pinned.items() if name not in names)

    told = json.loads(site.daemon.ctl("status", "-o", "json").stdout)
    workers = told["workers"]
    (tunnel,) = told["tunnels"]
    assert [worker["cpu"] for worker in workers] == order
    for direction in ("in", "out"):
        # Counters of tunnels are read just before those of workers, and packets go on.
        carried = sum(worker[f"packets_{direction}"] for worker in workers)
        assert 200 < tunnel[f"packets_{direction}"] <= carried <= tunnel[f"packets_{direction}"] + 50
    assert sum(worker["empty_polls"] for worker in workers) > 0
    assert all(sum(worker["cycles"][stage] for worker in workers) > 0 for stage in workers[0]["cycles"])
    assert "SealCycles" in site.daemon.ctl("workers", "-o", "wide").stdout
    _, text = site.daemon.http()
    counted = re.findall(r'^gateway_worker_batch_size_sum\{direction="out",worker="\d"\} (\S+)$', text, re.MULTILINE)
    assert len(counted) == len(order)
    assert sum(map(float, counted)) > 200


def test_a_cpu_this_machine_lacks_keeps_it_from_starting(site: Site) -> None:
    site.daemon.config.write_text(f"{site.text}\n[dataplane]\ncpus = [{CPUS[0]}, 1023]\n")
    line = len(site.text.splitlines()) + 3
    done = run_to_end(site.daemon, "--config", str(site.daemon.config))
    assert done.returncode == EX_CONFIG
    assert f"gateway.toml:{line}:1: dataplane.cpus: CPU 1023 is not one that gatewayd may run on: " in done.stderr
    assert run_to_end(site.daemon, "--check", "--config", str(site.daemon.config)).returncode == 0


_TRAINS = """
import socket, struct, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind(("", 9998))
for _ in range(10):
    try:
        made.sendmsg([bytes(32 * 64)], [(socket.IPPROTO_UDP, 103, struct.pack("=H", 64))], 0, (sys.argv[1], 9999))
    except ConnectionRefusedError:
        pass
"""


def counted(site: Site) -> tuple[int, int]:
    """TUN reads, packets sealed."""
    workers = json.loads(site.daemon.ctl("workers", "-o", "json").stdout)["workers"]
    return sum(w["calls"]["tun_reads"] for w in workers), sum(w["packets_out"] for w in workers)


def reads_and_packets(site: Site) -> tuple[int, int]:
    """What 10 trains of 32 datagrams, each of its own on the wire, cost: TUN reads, packets sealed."""
    before = counted(site)
    site.scene.router.run(sys.executable, "-c", _TRAINS, SITE_HOST)
    wait_until(lambda: counted(site)[1] - before[1] >= 320, 5, "all are sealed")
    reads, packets = counted(site)
    return reads - before[0], packets - before[1]


@pytest.mark.slow
def test_datagrams_of_a_subnet_come_merged_where_the_file_says_so(site: Site) -> None:
    site.start()
    site.scene.router.batch("link set gateway gso_max_segs 1")  # it cuts trains into datagrams
    reads, packets = reads_and_packets(site)
    assert reads > packets * 0.9
    done = site.reload(f'{site.text}\n[dataplane]\nudp_gro = ["lan", "nowhere"]\n')
    assert "dataplane.udp_gro" in done.stdout
    (problem,) = wait_until(
        lambda: [one for one in (site.daemon.status() or {})["problems"] if "udp_gro" in one], 5, "a problem is told"
    )
    assert problem.startswith("dataplane.udp_gro: interface nowhere does not exist")
    reads, packets = reads_and_packets(site)
    assert reads < packets * 0.3
    done = site.reload(f'{site.text}\n[dataplane]\nudp_gro = ["lan"]\n')
    wait_until(lambda: not any("udp_gro" in one for one in (site.daemon.status() or {})["problems"]), 5, "it is gone")


def test_what_the_kernel_drops_before_a_worker_reads_it_is_counted(site: Site) -> None:
    site.start()
    site.scene.router.batch("link set gateway gso_max_segs 1")
    before = counted(site)[1]
    assert site.daemon.process is not None
    site.daemon.process.signal(signal.SIGSTOP)
    for _ in range(4):
        site.scene.router.run(sys.executable, "-c", _TRAINS, SITE_HOST)
    site.daemon.process.signal(signal.SIGCONT)

    def outcome() -> tuple[int, int]:
        tunnel = site.daemon.tunnel() or {}
        return counted(site)[1] - before, tunnel["drops"]["tun_queue_full"]

    wait_until(lambda: sum(outcome()) >= 4 * 320, 5, "each is sealed or counted as dropped")
    sealed, dropped = outcome()
    assert sealed > 400
    assert dropped > 400
    assert sealed + dropped < 4 * 320 + 50  # BGP goes on beside it
    _, text = site.daemon.http()
    assert f'gateway_esp_drops_total{{direction="out",reason="tun_queue_full",tunnel="site"}} {dropped}' in text
