"""What is measured on a side. Every function returns quantities by name, or raises when the traffic went elsewhere."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support.netns import Namespace
from support.process import LabError, Process, wait_until
from support.traffic import Iperf

from benchmarks.errors import BenchError
from benchmarks.native_programs import lines, program
from benchmarks.search import Quantities, highest_rate
from benchmarks.side import RIGHT_HOST, Side, cpu_seconds, threads
from benchmarks.sides import Gatewayd

SMALL = 64  # octets of UDP payload
BIG = 1380  # octets of an inner packet
_LOSS = 0.01
_HEADERS = 28  # IPv4 and UDP
_RATE_FIRST = 10_000
_STEPS_FIRST, _STEPS_AGAIN = (1.6, 1.2, 1.07), (1.1, 1.04)
_SEGMENTS = 46
_CORE_LEAST = 0.9  # of the core, below which the worker was kept from it
_numbers = itertools.count(1)


def tcp(side: Side, seconds: float, flows: int = 1) -> Quantities:
    """iperf3 from the left host to the right one: Gbit/s received, CPU seconds of both gateways per GB."""
    port = 5200 + next(_numbers) % 1000
    server = Iperf(side.right_host, RIGHT_HOST, port)
    try:
        mark = side.mark()
        length = str(max(1, round(seconds)))
        argv = ("iperf3", "-c", RIGHT_HOST, "-p", str(port), "-t", length, "-P", str(flows), "-J")
        text = side.left_host.run(*argv, "--connect-timeout", "5000", check=False, timeout=seconds + 30)
    finally:
        server.stop()
    try:
        report: dict[str, Any] = json.loads(text)
        received = report["end"]["sum_received"]
        octets, mss = int(received["bytes"]), int(report["start"]["tcp_mss_default"])
    except (ValueError, KeyError):
        raise BenchError(f"{side.label}: iperf3 failed: {text[-400:]}") from None
    if octets == 0:
        raise BenchError(f"{side.label}: nothing arrived")
    sender, receiver = side.passed(mark, octets)
    gigabytes = octets / 1e9
    return {
        "gbit": received["bits_per_second"] / 1e9,
        "mss": mss,
        "retransmits": report["end"]["sum_sent"].get("retransmits", 0),
        "cpu_sender": sender / gigabytes,
        "cpu_receiver": receiver / gigabytes,
    }


def tcp_8(side: Side, seconds: float) -> Quantities:
    return tcp(side, seconds, 8)


# ---- UDP, single datagrams ----


def udp_single(side: Side, seconds: float) -> Quantities:
    """The highest rate of 64-byte datagrams, each a packet of its own on the wire, of which less than 1 % is lost."""
    known = side.rates.get("udp")
    step = max(0.3, seconds / 4)
    with _cutting(side):
        found = highest_rate(
            lambda rate: _udp_attempts(side, rate, step),
            known * 0.92 if known else _RATE_FIRST,
            _STEPS_AGAIN if known else _STEPS_FIRST,
        )
    if found is None:
        raise BenchError(f"{side.label}: more than 1 % is lost at any rate")
    side.rates["udp"] = found.rate
    return {**found.quantities, "sender_bound": float(found.sender_bound)}


@contextmanager
def _cutting(side: Side) -> Iterator[None]:
    """The sender's device takes single datagrams only, so the kernel cuts its messages before they leave: cheaper by half
    than as many calls, and the sender shares its cores with the gateways."""
    side.left_host.batch("link set eth0 gso_max_segs 1")
    try:
        yield
    finally:
        side.left_host.batch("link set eth0 gso_max_segs 65535")


def _udp_attempts(side: Side, rate: float, seconds: float) -> Quantities | None:
    """None when 1 % or more is lost twice: one hiccup of a shared machine is no limit."""
    for _ in range(2):
        found = _udp_attempt(side, rate, seconds)
        if found["loss"] < _LOSS:
            return found
    return None


def _udp_attempt(side: Side, rate: float, seconds: float) -> Quantities:
    port = str(20000 + next(_numbers) % 10000)
    mark = side.mark()
    sink = _listening(side.right_host, "udp-sink", [program("udp_load"), "sink", RIGHT_HOST, port, str(seconds + 10)])
    text = side.left_host.run(program("udp_load"), "send", RIGHT_HOST, port, str(SMALL), f"{rate:.0f}", str(seconds))
    try:
        sink.wait(seconds + 15)
    except LabError as error:
        raise BenchError(str(error)) from None
    sent, counted = json.loads(text), json.loads(sink.log.read_text().splitlines()[-1])
    if counted["foreign"] or not counted["ended"]:
        raise BenchError(f"{side.label}: the sink saw {counted}")
    received = counted["received"]
    if received:
        side.passed(mark, received * (SMALL + _HEADERS))
    return {
        "mpps": received / sent["seconds"] / 1e6,
        "offered": sent["sent"] / sent["seconds"] / 1e6,
        "loss": 1 - received / sent["sent"],
    }


# ---- latency ----


def latency(side: Side, seconds: float) -> Quantities:
    """64-byte requests and responses over UDP, one at a time."""
    port = str(20000 + next(_numbers) % 10000)
    server = _listening(side.right_host, "udp-rr", [program("udp_rr"), "serve", RIGHT_HOST, port])
    try:
        mark = side.mark()
        text = side.left_host.run(
            program("udp_rr"), "ask", RIGHT_HOST, port, str(SMALL), str(seconds), timeout=seconds + 20
        )
    finally:
        server.stop()
    found = json.loads(text)
    if found["count"] < 100 or found["lost"] > found["count"] / 100:
        raise BenchError(f"{side.label}: {found['lost']} lost, {found['count']} answered")
    side.passed(mark, found["count"] * (SMALL + _HEADERS))
    return {"p50": found["p50_us"], "p99": found["p99_us"]}


# ---- one core, sealing and sending ----


def seal_and_send(side: Side, seconds: float) -> Quantities:
    """Millions of 1380-byte packets a second that a gateway with one worker on one core seals and sends.

    The other gateway is stopped, so that its socket, which takes merged datagrams, fills and throws away: a dark sink.
    The generator on the left host fills the other core with super-packets.
    """
    assert isinstance(side, Gatewayd)
    daemons = side.daemons()
    assert daemons is not None
    sealing, dark = daemons
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("this needs two cores")
    side.alive()
    before_pinning = {thread: os.sched_getaffinity(thread) for thread in threads(sealing.pid)}
    _pin({thread: {cores[0]} for thread in before_pinning})
    dark.signal(signal.SIGSTOP)
    try:
        before, cpu = side.packets_out(), cpu_seconds(sealing.pid)
        octets = side.wan_octets(side.right, "rx")
        flood = [program("udp_load"), "flood", RIGHT_HOST, "9", str(BIG - _HEADERS), str(_SEGMENTS), str(seconds)]
        sent = json.loads(side.left_host.run("taskset", "-c", str(cores[1]), *flood, timeout=seconds + 20))
        time.sleep(0.2)  # the TUN's queue runs empty
        packets, busy = side.packets_out() - before, cpu_seconds(sealing.pid) - cpu
        arrived = side.wan_octets(side.right, "rx") - octets
    finally:
        dark.signal(signal.SIGCONT)
        _pin(before_pinning)
    if packets == 0 or arrived < packets * BIG:
        raise BenchError(f"{side.label}: {packets} packets sealed, but {arrived} octets on the WAN")
    side.alive()
    if busy / sent["seconds"] < _CORE_LEAST:
        raise BenchError(f"the worker had {busy / sent['seconds']:.0%} of its core: other work runs on this machine")
    return {
        "mpps": packets / sent["seconds"] / 1e6,
        "offered": sent["sent"] / sent["seconds"] / 1e6,
        "us_per_packet": busy / packets * 1e6,
        "core_busy": busy / sent["seconds"],
    }


def _pin(wanted: Mapping[int, set[int]]) -> None:
    for thread, cores in wanted.items():
        with suppress(ProcessLookupError):  # a thread of a pool may end at any time
            os.sched_setaffinity(thread, cores)


def raw_seal(_: None, seconds: float) -> Quantities:
    """libipsec-mb's own seal rate for the same packets, one core."""
    (found,) = lines("micro_esp", "raw", "gcm-128", str(BIG), str(min(1.0, seconds)))
    return {"mpps": float(found["mpps"])}


def _listening(machine: Namespace, name: str, argv: list[str]) -> Process:
    """A server that says "ready" first."""
    process = machine.start(f"{name}-{next(_numbers)}", argv)
    log: Path = process.log
    try:
        wait_until(lambda: log.read_text().startswith("ready"), 5, f"{name} listens", logs=[process])
    except LabError as error:
        raise BenchError(str(error)) from None
    return process
