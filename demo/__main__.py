"""`python -m demo` (root): plays the demo, prints it, writes DEMO_REPORT, and exits non-zero if anything failed."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

from demo.pair import PairPlay
from demo.play import Play
from demo.screen import Screen


def main() -> int:
    """The whole performance; the scene is removed whatever happens."""
    if os.geteuid() != 0:
        print("the demo makes network namespaces and a TUN device: run it as root", file=sys.stderr)
        return 2
    started = time.monotonic()
    screen = Screen()
    play = Play()
    tails = ""
    try:
        if not _perform(screen, play):
            tails = play.lab.tails()
    finally:
        screen.step("everything is removed", play.tear_down)
    if all(outcome.ok for outcome in screen.outcomes):
        tails = _perform_pair(screen, PairPlay(play.figures))
    failed = [outcome.title for outcome in screen.outcomes if not outcome.ok]
    total = time.monotonic() - started
    print(tails, end="")
    _report(screen, play, total, failed)
    verdict = screen.paint("FAILED: " + "; ".join(failed), "red") if failed else screen.paint("all ok", "green")
    print(f"{verdict}, {total:.1f} s")
    return 1 if failed else 0


def _perform(screen: Screen, play: Play) -> bool:
    """The acts in order; the first failure ends the performance, except that the capture is still judged."""
    screen.heading("One gateway, one edge router, one VNet: real daemons in six network namespaces")
    acts: tuple[tuple[str, Callable[[], str]], ...] = (
        ("the scene: hosts, routers, strongSwan and BIRD", play.build_scene),
        ("a clear route exists: without the gateway packets leak", play.prove_clear_route),
        ("gatewayd starts from a configuration file", play.start_gateway),
        ("IKEv2 tunnel up (pre-shared key)", play.tunnel_up),
        ("BGP up with the edge (inside the tunnel) and the VNet", play.bgp_up),
        ("prefixes learned on both sides and in the kernel", play.routes_installed),
        ("ping from host to host", play.ping_through),
        ("TCP throughput both ways (iperf3)", play.throughput),
        ("20 rekeys under load, half by each side: nothing lost", play.rekey_under_load),
        ("kill -9 under traffic: silence instead of clear text", play.killed),
        ("graceful stop under traffic: the same", play.stopped),
        ("the operator's view", lambda: _show(play)),
    )
    if not all(screen.step(title, act) for title, act in acts):
        if hasattr(play, "capture"):
            screen.step("the whole capture of the WAN", play.judge_capture)
        return False
    return screen.step("the whole capture of the WAN", play.judge_capture)


def _perform_pair(screen: Screen, pair: PairPlay) -> str:
    """The second part. What its logs say, if it failed."""
    screen.heading("A pair of gateways, two edge routers, a witness: ten network namespaces")
    acts: tuple[tuple[str, Callable[[], str]], ...] = (
        ("two gateways become a pair", pair.build),
        ("kill -9 of the active one under traffic", pair.crash),
        ("it comes back", pair.comes_back),
        ("planned switchover: gatewayctl failover", pair.switch_over),
        ("the cloud's route table is moved", pair.move_route),
        ("only the heartbeats are cut", pair.cut_heartbeats),
        ("the operator's view", pair.show),
        ("the capture of both gateways' WAN", pair.judge_captures),
    )
    try:
        return "" if all(screen.step(title, act) for title, act in acts) else pair.lab.tails()
    finally:
        screen.step("everything is removed", pair.tear_down)


def _show(play: Play) -> str:
    status, metrics = play.show_status()
    return f"$ gatewayctl status\n{status}\n$ curl http://127.0.0.1:9550/metrics\n{metrics}"


def _report(screen: Screen, play: Play, seconds: float, failed: list[str]) -> None:
    """DEMO_REPORT=FILE: the figures and the steps as JSON."""
    path = os.environ.get("DEMO_REPORT")
    if not path:
        return
    steps = [
        {"title": o.title, "ok": o.ok, "seconds": round(o.seconds, 3), "detail": o.detail} for o in screen.outcomes
    ]
    report = {"ok": not failed, "failed": failed, "seconds": round(seconds, 1), **play.figures, "steps": steps}
    with open(path, "w", encoding="utf-8") as sink:
        json.dump(report, sink, indent=2)
        sink.write("\n")


if __name__ == "__main__":
    sys.exit(main())
