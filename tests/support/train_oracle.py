"""What a train of parcels must become at the outbound half of a data plane: the model of the whole, from the RFCs.

Segments and fragments come from inner_packets.py, selectors from gateway/esp/spd.py; nothing is sealed here.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from support import inner_packets as model
from support.inner_packets import Parcel
from support.train_plane import Sa

from gateway.esp.dataplane import Direction
from gateway.esp.spd import parse_flow, selector_matches

Ordered = dict[tuple[int, bytes], list[bytes]]


@dataclass(slots=True)
class Outcome:
    """What a train must become: inner packets by SA and flow, in order, and drops."""

    packets: Ordered = field(default_factory=lambda: defaultdict(list))
    drops: Counter[tuple[int, str]] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        return sum(map(len, self.packets.values()))


@dataclass(slots=True)
class Oracle:
    """The model of the whole outbound half, for one train after the other."""

    sas: dict[int, Sa]
    policies: dict[int, tuple[int, ...]]
    mtu: int
    mss: tuple[int, int]
    clear_df: bool = False

    def take(self, outcome: Outcome, connection: int, parcel: Parcel) -> None:
        total = model.whole_length(parcel.packet)
        try:
            at = model.layout(parcel.packet[:total]) if total is not None else None
        except ValueError:
            at = None
        flow = parse_flow(parcel.packet)
        if at is None or total is None or flow is None:
            outcome.drops[connection, "inner_malformed"] += 1
            return
        packet = model.clamped(parcel.packet[:total], self.mss, whole=not parcel.vnet.flags & model.NEEDS_CSUM)
        segments = model.split(Parcel(parcel.vnet, packet))
        spi = next((spi for spi in self.policies[connection] if self._carries(spi, packet)), None)
        if spi is None:
            outcome.drops[connection, "no_sa"] += len(segments)
            return
        mtu = max(self.mtu, 1280) if at.ipv6 else self.mtu
        if max(map(len, segments)) > mtu:
            # RFC 8200 5, RFC 791 3.1: routers fragment IPv4 without DF, nothing else
            if at.ipv6 or (struct.unpack_from("!H", packet, 6)[0] & model.DONT_FRAGMENT and not self.clear_df):
                outcome.drops[connection, "too_big"] += len(segments)
                return
            segments = [piece for segment in segments for piece in model.fragments(segment, mtu)]
        for segment in segments:
            outcome.packets[spi, model.flow_of(segment)].append(segment)

    def _carries(self, spi: int, packet: bytes) -> bool:
        flow = parse_flow(packet)
        assert flow is not None
        return any(selector_matches(one, flow, Direction.OUTBOUND) for one in self.sas[spi].selectors)
