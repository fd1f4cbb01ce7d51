"""What the election says of its decisions to people: no decision of its own."""

from __future__ import annotations

from gateway.ha.message import Standing
from gateway.ha.peer_view import Contact, PeerView
from gateway.ha.roles import ElectionSettings

OF_THE_LEASE = {
    Standing.UNKNOWN: "the witness does not answer",
    Standing.FREE: "the lease is free and not ours yet",
    Standing.OTHER: "another holds the lease",
}


def promotion(peer: PeerView, settings: ElectionSettings, *, taken_back: bool, broken: bool) -> str:
    """Why a gateway becomes active. `taken_back`: what it had offered; `broken`: another's lease."""
    if peer.offers:
        return f"{peer.name} hands over"
    if taken_back:
        return f"{peer.name} did not take over"
    by = ("with the lease" if not broken else "with a broken lease") if settings.witness else ""
    by = by or ("with its consent" if peer.up else f'without a witness, by without_witness = "{settings.none}"')
    state = "is silent" if peer.contact is Contact.SILENT else "is not active"
    return f"{peer.name} {state}; {by}"
