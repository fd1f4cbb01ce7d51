"""A CHILD_SA in the data plane: how far it may send, how far it has received, and what it carried, across processes.

Numbers move too fast to be written down one by one. What is kept runs ahead of what is sent, by up to GRANT, and behind what is
received, by up to SEEN_STEP.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.esp.dataplane import Limits, SaCounters, SaParameters
from gateway.ike.events import ChildInstall
from gateway.node import security_associations

GRANT = 1 << 24
"""Sequence numbers beyond those in use that a worker may send; at a million packets a second Python must come by every 8 s."""
SEEN_STEP = 1 << 16
FUZZ = 0.1
"""Of `rekey_bytes` and `rekey_packets`, as of `rekey_time`."""


@dataclass(frozen=True, slots=True)
class Used:
    """What an SA carried in processes before this one."""

    packets_in: int = 0
    octets_in: int = 0
    packets_out: int = 0
    octets_out: int = 0


@dataclass(slots=True)
class InstalledChild:
    """A pair of SAs. `granted`: nothing above was ever sent; `sent`: all up to it belongs to processes before this one;
    `seen`: the highest number received, as far as it is kept."""

    event: ChildInstall
    installed_at: float
    granted: int = 0
    sent: int = 0
    seen: int = 0
    used: Used = Used()

    def __post_init__(self) -> None:
        self.granted = self._limit(self.sent)

    def parameters(
        self, connection: int, limits: Limits, window: int, *, fenced: bool = False
    ) -> tuple[SaParameters, SaParameters]:
        """Inbound, outbound."""
        limits = _early(limits, self.event.spi_in)
        inbound, outbound = security_associations.parameters(self.event, connection, limits, window)
        used = self.used
        return (
            replace(inbound, sequence=self.seen, limits=_left(limits, used.packets_in, used.octets_in)),
            replace(
                outbound, sequence=self.sent, limits=_left(limits, used.packets_out, used.octets_out), fenced=fenced
            ),
        )

    def read(self, inbound: SaCounters | None, outbound: SaCounters | None) -> bool:
        """Whether the counters ask for more, or show that more is to be kept."""
        before = (self.granted, self.seen)
        if outbound is not None and outbound.sequence > self.granted - GRANT // 2:
            self.granted = self._limit(outbound.sequence)
        if inbound is not None and inbound.sequence >= self.seen + SEEN_STEP:
            self.seen = inbound.sequence
        return before != (self.granted, self.seen)

    def at_the_end(self, inbound: SaCounters, outbound: SaCounters) -> InstalledChild:
        """As the next process shall have it, after the last packet of this one. Its `granted` is exact."""
        before = self.used
        used = Used(
            before.packets_in + inbound.packets, before.octets_in + inbound.octets,
            before.packets_out + outbound.packets, before.octets_out + outbound.octets,
        )  # fmt: skip
        found = replace(self, seen=max(self.seen, inbound.sequence), used=used)
        found.granted = max(self.sent, outbound.sequence)
        return found

    def _limit(self, sequence: int) -> int:
        return min(sequence + GRANT, security_associations.sequence_limit(self.event.choice))


def _early(limits: Limits, spi: int) -> Limits:
    """Up to FUZZ before the soft limits, so that two ends configured alike do not rekey at the same packet. By the SPI, which is
    random and the other end's is another: the next process finds the same."""
    share = 1.0 - FUZZ * (spi & 0xFFFF) / 0x10000
    octets, packets = int(limits.soft_octets * share), int(limits.soft_packets * share)
    return replace(
        limits,
        soft_octets=limits.soft_octets and max(1, octets),
        soft_packets=limits.soft_packets and max(1, packets),
    )


def _left(limits: Limits, packets: int, octets: int) -> Limits:
    """Of a lifetime; what is over is over with the next packet. 0 stays: no limit."""
    return Limits(
        limits.soft_octets and max(1, limits.soft_octets - octets),
        limits.hard_octets and max(1, limits.hard_octets - octets),
        limits.soft_packets and max(1, limits.soft_packets - packets),
        limits.hard_packets and max(1, limits.hard_packets - packets),
    )
