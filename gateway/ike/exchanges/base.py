"""An exchange that we initiate, from its first octet to its response (strongSwan calls it a task)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike.registry import ExchangeType, KeyExchangeId, NotifyType

if TYPE_CHECKING:
    from gateway.ike.errors import PeerError
    from gateway.ike.message import Message
    from gateway.ike.payloads import Notify
    from gateway.ike.sa import IkeSa
    from gateway.ike.window import Datagrams

NONCE_OCTETS = 32
"""RFC 7296 2.10: at least half the key of the PRF, and 16."""


def wanted_group(error: Notify) -> dict[str, str]:
    """RFC 7296 1.2: INVALID_KE_PAYLOAD names the group that the responder wants. For explain.py."""
    if error.type != NotifyType.INVALID_KE_PAYLOAD or len(error.data) != 2:
        return {}
    group = KeyExchangeId(int.from_bytes(error.data, "big"))
    return {"theirs": group.name if group.known else f"group {int(group)}"}


class Exchange:
    """One at a time per IKE_SA; it ends by `sa.finish` or `sa.destroy`."""

    kind: ExchangeType
    spi = 0
    """Of an IKE_SA that it is about to make."""
    only_asks = False
    """Whether its answer says no more than that the peer is there."""

    def still_wanted(self, sa: IkeSa) -> bool:
        """Asked when its turn comes; False drops it silently."""
        return sa.established

    def start(self, sa: IkeSa, now: float) -> None:
        """Sends the request, at once or after a Compute."""
        raise AssertionError("every exchange starts in its own way")

    def again(self, sa: IkeSa, now: float) -> Datagrams | None:
        """What is sent instead at a repetition; None: the same octets, as RFC 7296 2.1 wants it."""
        return None

    def expects(self, message: Message) -> bool:
        """Whether an authentic response is one to this request at all; message IDs say so for all that have one of their own."""
        return True

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        """Takes the opened, grammatical response. False: not the answer, keep waiting."""
        raise AssertionError("every exchange ends in its own way")

    def on_error(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """The response was authentic but wrong, or public-key work on it failed."""
        sa.destroy(now, "PROTOCOL_VIOLATION", {"detail": str(error)})

    def on_timeout(self, sa: IkeSa, now: float) -> None:
        """RFC 7296 2.4: retransmissions exhausted, the peer is dead to us."""
        sa.destroy(now, "DPD_TIMEOUT", {"exchange": self.kind.name, "seconds": f"{now - sa.last_heard:.0f}"})

    def on_deleted(self, sa: IkeSa, now: float) -> None:
        """The peer deleted the IKE_SA before it answered; `sa` is about to be destroyed."""

    def on_unknown_deleted(self, spi_out: int) -> None:
        """The peer deleted a CHILD_SA that we do not know, or not yet."""
