"""Traffic through the scene and what became of it: UDP probe streams, iperf3, ping.

A `Stream` is one direction; `Streams` both. Loss is counted over everything sent since the start, or over a window of
sending times, so that "lost during the rekeys" and "time to recover" are answered by the same records.
"""

from __future__ import annotations

import json
import re
import struct
import sys
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from support.netns import Namespace
from support.process import LabError, Process, wait_until

_PROBE = Path(__file__).with_name("traffic_probe.py")
_RECORD = struct.Struct("=Idd")


@dataclass(frozen=True, slots=True)
class Loss:
    """What became of a stream, or of a window of it."""

    sent: int
    received: int
    lost: int
    duplicated: int
    max_delay: float
    max_gap: float  # the longest silence at the receiver
    missing: tuple[int, ...] = ()  # the first few sequence numbers
    void: str = ""  # why a loss says nothing about us


class Stream:
    """One direction of numbered datagrams."""

    def __init__(self, sender: Namespace, source: str, receiver: Namespace, target: str, port: int = 7001) -> None:
        self._sender, self._source = sender, source
        self._receiver, self._target = receiver, target
        self._port = port
        self._records = receiver.directory / f"probe-{port}-{time.monotonic_ns()}.bin"
        self._receiving: Process | None = None
        self._sending: Process | None = None
        self.rate = 0.0
        self.first_sent = 0.0

    def start(self, rate: float = 1000, payload: int = 200) -> None:
        """Start the receiver, then the sender; returns when both run."""
        self.rate = rate
        python = (sys.executable, "-S", "-E", str(_PROBE))
        listen = [*python, "receive", self._target, str(self._port), str(self._records)]
        self._receiving = self._receiver.start(f"probe-receive-{self._records.stem}", listen)
        wait_until(self._records.exists, 5, "probe receiver listens", logs=[self._receiving])
        talk = [*python, "send", self._source, self._target, str(self._port), str(rate), str(payload)]
        self._sending = self._sender.start(f"probe-send-{self._records.stem}", talk)
        self.first_sent = time.monotonic()

    def records(self) -> list[tuple[int, float, float]]:
        """(sequence number, sent at, received at) of what has arrived until now."""
        data = self._records.read_bytes() if self._records.exists() else b""
        return list(_RECORD.iter_unpack(data[: len(data) - len(data) % _RECORD.size]))

    def received_since(self, moment: float) -> float | None:
        """When the first datagram *sent* after `moment` arrived; None if none did."""
        arrivals = [received for _, sent, received in self.records() if sent >= moment]
        return min(arrivals, default=None)

    def wait_flowing(self, seconds: float, moment: float | None = None) -> float:
        """Wait for a datagram sent after `moment` (default now) to arrive; returns when it did."""
        since = time.monotonic() if moment is None else moment
        watched = [self._sending, self._receiving]
        wait_until(lambda: self.received_since(since) is not None, seconds, "probe datagrams arrive", logs=watched)
        arrival = self.received_since(since)
        assert arrival is not None
        return arrival

    def lost_between(self, start: float, end: float) -> int:
        """Datagrams sent in [start, end) that have not arrived, by the schedule of the sender."""
        numbers = {number for number, sent, _ in self.records() if start <= sent < end}
        if not numbers:
            return round((end - start) * self.rate)
        return max(numbers) - min(numbers) + 1 - len(numbers)

    def stop(self) -> Loss:
        """Stop the sender, let the last datagrams arrive, stop the receiver, count."""
        assert self._sending is not None
        assert self._receiving is not None
        self._sending.stop()
        words = self._sending.log.read_text().split()
        if len(words) != 2:
            raise LabError(f"probe sender failed\n{self._sending.tail()}")
        self._settle(int(words[0]))
        self._receiving.stop()
        return _loss(self.records(), int(words[0]))

    def _settle(self, sent: int) -> None:
        """Wait until everything arrived or nothing has for 0.5 s."""
        count, changed = -1, time.monotonic()
        while time.monotonic() - changed < 0.5:
            now_arrived = len({number for number, _, _ in self.records()})
            if now_arrived != count:
                count, changed = now_arrived, time.monotonic()
            if count >= sent:
                return
            time.sleep(0.05)


class Streams:
    """Both directions between two hosts.

    `peer`: the machine of somebody else's gateway on the way. When its own kernel's counters account for all that is
    missing (a user-space peer that got no processor while its socket filled), the measurement is void.
    """

    def __init__(
        self,
        left: Namespace,
        left_address: str,
        right: Namespace,
        right_address: str,
        port: int = 7001,
        peer: Namespace | None = None,
    ) -> None:
        self._peer = peer
        self._dropped_before = 0
        self.there = Stream(left, left_address, right, right_address, port)
        self.back = Stream(right, right_address, left, left_address, port + 1)

    def start(self, rate: float = 1000, payload: int = 200) -> None:
        self._dropped_before = self._dropped()
        self.there.start(rate, payload)
        self.back.start(rate, payload)

    def wait_flowing(self, seconds: float, moment: float | None = None) -> float:
        """Both directions carry datagrams sent after `moment`; returns when the later one did."""
        since = time.monotonic() if moment is None else moment
        return max(self.there.wait_flowing(seconds, since), self.back.wait_flowing(seconds, since))

    def stop(self) -> tuple[Loss, Loss]:
        there, back = self.there.stop(), self.back.stop()
        lost, dropped = there.lost + back.lost, self._dropped() - self._dropped_before
        if 0 < lost <= dropped:
            void = f"{lost} lost, {dropped} dropped by the kernel of the peer's machine"
            return replace(there, void=void), replace(back, void=void)
        return there, back

    def _dropped(self) -> int:
        return sum(self._peer.drops().values()) if self._peer is not None else 0


@dataclass(frozen=True, slots=True)
class Ping:
    sent: int
    lost: int
    max_ms: float


def ping(
    source: Namespace, target: str, count: int = 100, interval: float = 0.01, *, size: int = 56, wait: int = 1
) -> Ping:
    """ICMP echo; never raises for loss."""
    text = source.run(
        "ping", "-n", "-q", "-c", str(count), "-i", str(interval), "-s", str(size), "-W", str(wait), target,
        check=False, timeout=count * interval + wait + 10,
    )  # fmt: skip
    numbers = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    if numbers is None:
        raise LabError(f"ping {target}: {text}")
    times = re.search(r"= [\d.]+/[\d.]+/([\d.]+)/", text)
    return Ping(int(numbers[1]), int(numbers[1]) - int(numbers[2]), float(times[1]) if times else 0.0)


@dataclass(frozen=True, slots=True)
class Throughput:
    gbit_per_s: float
    retransmits: int


class Iperf:
    """An iperf3 server on one host and clients on another."""

    def __init__(self, server: Namespace, address: str, port: int = 5201) -> None:
        self._address, self._port = address, port
        self._server = server.start(f"iperf3-{port}", ["iperf3", "-s", "-B", address, "-p", str(port), "--forceflush"])
        listening = f"{address}:{port}"
        wait_until(lambda: listening in server.run("ss", "-Hltn"), 5, "iperf3 listens", logs=[self._server])

    def measure(
        self, client: Namespace, seconds: int = 2, *, reverse: bool = False, flows: int = 1, megabits: int = 0
    ) -> Throughput:
        """One TCP stream, or several at once, to the end; `megabits`: at most, each."""
        text = client.run(
            *self._argv(seconds, reverse=reverse, megabits=megabits, flows=flows), check=False, timeout=seconds + 20
        )
        return _throughput(text)

    def background(self, client: Namespace, seconds: int, megabits: int) -> Process:
        """A TCP stream of limited rate while other things happen; read it with `result`."""
        return client.start(
            f"iperf3-client-{time.monotonic_ns()}", self._argv(seconds, reverse=False, megabits=megabits)
        )

    def stop(self) -> None:
        self._server.stop()

    def _argv(self, seconds: int, *, reverse: bool, megabits: int, flows: int = 1) -> list[str]:
        argv = [
            "iperf3",
            "-c",
            self._address,
            "-p",
            str(self._port),
            "-t",
            str(seconds),
            "-P",
            str(flows),
            "-J",
            "--connect-timeout",
            "5000",
        ]
        # small blocks when limited: a burst of 128 KB overflows the UDP socket of a user-space peer
        return argv + (["-R"] if reverse else []) + (["-b", f"{megabits}M", "-l", "4K"] if megabits else [])


def result(client: Process, seconds: float) -> Throughput:
    """Wait for a background client and read its report."""
    client.wait(seconds)
    return _throughput(client.log.read_text())


def _throughput(text: str) -> Throughput:
    try:
        report: dict[str, Any] = json.loads(text)
        end = report["end"]
        return Throughput(end["sum_received"]["bits_per_second"] / 1e9, int(end["sum_sent"].get("retransmits", 0)))
    except (ValueError, KeyError):
        raise LabError(f"iperf3 failed: {text[-600:]}") from None


def _loss(records: list[tuple[int, float, float]], sent: int) -> Loss:
    numbers = {number for number, _, _ in records}
    arrivals = sorted(received for _, _, received in records)
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    missing = [number for number in range(sent) if number not in numbers]
    return Loss(
        sent=sent,
        received=len(numbers),
        lost=len(missing),
        duplicated=len(records) - len(numbers),
        max_delay=max((received - at for _, at, received in records), default=0.0),
        max_gap=max(gaps, default=0.0),
        missing=tuple(missing[:20]),
    )
