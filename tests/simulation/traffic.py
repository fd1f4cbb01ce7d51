"""Probes: what hosts behind the two gateways send to each other all the time, and the question who lost one.

Every 10 ms around exchanges and faults, every 200 ms else, of every child in both directions. A probe may be lost by the
network, and by a node only while the link has an excuse to be down: then its sender has no SA, or its receiver dropped it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from simulation.links import End, Link
from simulation.network import Copy, Fate, Network, Passage
from simulation.shell import Shell
from simulation.trace import Broken, Trace

from gateway.esp.dataplane import Direction

PROBE_INTERVAL, DENSE_INTERVAL, DENSE_TIME = 0.2, 0.01, 0.06
WORKERS = 3  # of a node's data plane; each has packets of everything
LATE = 4.0
"""A probe that took longer than this may find its SA gone."""

Schedule = Callable[[float, Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Probe:
    """One inner packet that a host sent."""

    packet: bytes
    sent_at: float
    epoch: int


class Traffic:
    """Of both sites of a link. `numbers` are those of the probes of all links."""

    def __init__(self, link: Link, network: Network, trace: Trace, schedule: Schedule, numbers: Iterator[int]) -> None:
        self.sent = self.delivered = 0
        self._numbers = numbers
        self._link, self._network, self._trace, self._schedule = link, network, trace, schedule
        ends = link.ends
        self._packets = [
            [_packet(end, other, index) for index in range(len(link.children))]
            for end, other in (ends, ends[::-1])
        ]  # fmt: skip
        self._waiting: dict[int, Probe] = {}
        self._next_at = 0.0
        self._dense_until = 0.0

    def begin(self, now: float) -> None:
        """The hosts start to send; once."""
        if not self._next_at:
            self._arm(now + PROBE_INTERVAL)

    def look_closely(self, now: float) -> None:
        """Something happens: for a moment every 10 ms."""
        self._dense_until = now + DENSE_TIME
        if self._next_at > now + DENSE_INTERVAL:
            self._arm(now + DENSE_INTERVAL)

    def _arm(self, at: float) -> None:
        self._next_at = at
        self._schedule(at, lambda: self.send_all(at) if self._next_at == at else None)

    def send_all(self, now: float) -> None:
        """One packet of every child in both directions."""
        for index in range(2):
            for child in range(len(self._link.children)):
                self._send(index, child, now)
        self._arm(now + (DENSE_INTERVAL if now < self._dense_until else PROBE_INTERVAL))

    def _send(self, index: int, child: int, now: float) -> None:
        """A host of one site sends to the other."""
        end = self._link.talking[index]
        shell = end.shell
        if end.tunnel is None or shell.frozen or not end.leads(child):
            return
        self.sent += 1
        number = next(self._numbers)
        packet = self._packets[index][child] + number.to_bytes(8, "big")
        held = shell.sad.copy()  # the node may remove an SA as soon as it hears that this was its last packet
        datagrams = shell.send_inside(end.connection, packet, number % WORKERS)
        if not datagrams and self._link.up:
            raise Broken(f"{shell.name} has a tunnel but no SA for {self._link.children[child]}")
        for data, local, remote in datagrams:
            key = held[Direction.OUTBOUND, end.number, int.from_bytes(data[:4], "big")].encryption_key
            self._trace.esp(shell.name, key, data)
            epoch = self._link.epoch if self._link.up else -1
            self._waiting[number] = Probe(packet, now, epoch)
            self._network.send(shell.name, data, local, remote, now, number)

    def arrived(self, passage: Passage, copy: Copy, shell: Shell, packets: list[bytes], now: float) -> None:
        """A copy of something reached a running node, which opened it to `packets`. A good copy of a probe that was not yet
        taken must be taken; a node that was not ready for the first may take the second."""
        probe = self._waiting.get(passage.probe) if copy.fate is Fate.INTACT else None
        if probe is None:
            if packets:
                what = "repeated" if copy.fate is Fate.INTACT else "forged"
                raise Broken(f"{shell.name} took a {what} ESP packet")
        elif packets == [probe.packet]:
            self.delivered += 1
            del self._waiting[passage.probe]
        elif packets:
            raise Broken(f"{shell.name} opened another packet than the one sent")
        elif self._link.up and self._link.epoch == probe.epoch and now - probe.sent_at < LATE:
            drops = {reason: count for (_, reason), count in shell.dataplane.drop_counters().items()}
            sent = f"sent at {probe.sent_at:.3f} on SPI {passage.data[:4].hex()}"
            raise Broken(f"{shell.name} dropped probe {passage.probe} {sent}: {drops}")


def _packet(end: End, other: End, child: int) -> bytes:
    """IPv4 and UDP headers of a probe: from the first host of our child's network to the first of the other's."""
    source, target = other.prefixes[child][1].packed, end.prefixes[child][1].packed
    header = bytes((0x45, 0)) + (36).to_bytes(2, "big") + bytes(4) + bytes((64, 17)) + bytes(2) + source + target
    return header + (9).to_bytes(2, "big") * 2 + (16).to_bytes(2, "big") + bytes(2)
