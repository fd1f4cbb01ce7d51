"""The demo is played once, and its report says what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of one performance; a failed one shows all that was printed."""
    path = tmp_path_factory.mktemp("demo") / "report.json"
    played = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env={**os.environ, "DEMO_REPORT": str(path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert played.returncode == 0, played.stdout + played.stderr
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_every_step_is_ok(report: dict[str, Any]) -> None:
    assert report["ok"]
    assert [step["title"] for step in report["steps"] if not step["ok"]] == []
    assert len(report["steps"]) >= 22


def test_the_tunnel_and_bgp_come_up(report: dict[str, Any]) -> None:
    assert 0 < report["ike_established_ms"] < 10_000
    assert 0 < report["ike_handshake_ms"] < 2_000
    assert report["bgp_sessions_established"] == 2
    assert report["routes_installed"] == 5


def test_traffic_passes_without_loss(report: dict[str, Any]) -> None:
    assert (report["ping_sent"], report["ping_lost"]) == (100, 0)
    assert report["tcp_gbit_per_s"] > 0.01


def test_rekeys_lose_nothing(report: dict[str, Any]) -> None:
    assert report["rekeys"] == 20
    assert report["rekey_packets_sent"] > 5_000
    assert report["rekey_packets_lost"] == 0


def test_nothing_leaves_in_clear(report: dict[str, Any]) -> None:
    assert report["clear_text_packets"] == 0
    assert report["kill_clear_text_packets"] == report["stop_clear_text_packets"] == 0
    assert report["captured_packets"] > 10_000
    assert set(report["capture_classes"]) <= {
        "arp",
        "nd",
        "ike-500",
        "ike-4500",
        "esp-4500",
        "nat-keepalive",
        "icmp-error",
    }


def test_it_recovers_and_leaves_nothing_behind(report: dict[str, Any]) -> None:
    assert report["kill_recovery_ms"] < 20_000
    assert report["stop_recovery_ms"] < 20_000
    assert report["leftovers"] == []


def test_the_pair_loses_nothing_but_by_a_crash(report: dict[str, Any]) -> None:
    assert 50 < report["pair_crash_gap_ms"] < 2_000
    assert sum(report["pair_crash_lost"]) > 0, "the traffic ran"
    assert report["pair_return_lost"] == report["pair_switchover_lost"] == report["pair_cut_lost"] == 0
    assert report["pair_route_moved_lost"] == 0
    assert 0 < report["pair_route_moved_own_ms"] < 1_000
    assert report["pair_clear_text_packets"] == 0
    assert report["pair_leftovers"] == []
