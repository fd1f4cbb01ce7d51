"""One CHILD_SA as the IKE core knows it (RFC 4301 4.1: a pair of SAs, one each way)."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.ike.payloads import TrafficSelector
from gateway.ike.proposal import Choice
from gateway.ike.settings import ChildSettings
from gateway.ike.states import ChildInput, ChildState, next_child_state

LINGER = 5.0
"""Seconds an inbound SA outlives its DELETE, for packets still on their way."""
PROOF_PATIENCE = 60.0
"""Seconds until the peer has either had our answer or given up."""


@dataclass(slots=True)
class ChildSa:
    """`spi_in` is ours, `spi_out` the peer's. Times on the core's clock; None is never."""

    settings: ChildSettings
    spi_in: int
    spi_out: int
    choice: Choice
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    installed_at: float
    rekey_at: float
    life_at: float
    state: ChildState = ChildState.CREATED
    active: bool = False
    left: bool = False
    """Nothing is sent on it any more; what the peer sends still comes."""
    proven: bool = True
    """The peer is known to hold it. False after our answer, which the peer may not have had."""
    successor: ChildSa | None = None
    shared: bool = False
    """Both ends said that there may be others like it (RFC 9611)."""
    left_out: int = 0
    """Sequence numbers that are never used, because the peer asked for it (RFC 6311)."""
    limited: bool = False
    """It has come near a limit of octets, packets or sequence numbers, so its rekey does not wait."""
    refused: bool = False
    """The peer does not rekey it."""
    planned_at: float = 0.0
    """When its lifetime asks for the rekey; `rekey_at` may be earlier, for other reasons."""

    @property
    def name(self) -> str:
        return self.settings.name

    def advance(self, event: ChildInput) -> None:
        self.state = next_child_state(self.state, event)

    @property
    def usable(self) -> bool:
        return self.state in (ChildState.INSTALLED, ChildState.REKEYING) and not self.left

    def deadlines(self) -> list[float]:
        # Once its DELETE is under way only the answer ends it
        times = [] if self.state is ChildState.DELETING else [self.life_at]
        if self.state is ChildState.INSTALLED:
            times.append(self.rekey_at)
        return times


@dataclass(slots=True)
class Lingering:
    """An inbound SA to be removed from the data plane at `at`."""

    child: str
    spi_in: int
    at: float
