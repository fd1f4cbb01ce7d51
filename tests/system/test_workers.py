"""[dataplane] in a running gatewayd: its threads run where the file says; what it counts is told alike everywhere."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from support.daemon import EX_CONFIG
from support.operated import Site, make_site, run_to_end
from support.scene import Scene

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
