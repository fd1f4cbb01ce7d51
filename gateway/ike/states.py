"""Every state and transition of IKE_SAs and CHILD_SAs, as data. Nothing else changes a state.

What is absent from a table is illegal: for our own inputs that is a LocalError (a bug), for a message
a PeerError OUT_OF_STATE (testing.md: a state reached without authentication).
"""

from __future__ import annotations

from enum import Enum

from gateway.ike.errors import LocalError
from gateway.ike.registry import ExchangeType


class IkeState(Enum):
    CREATED = "CREATED"
    CONNECTING = "CONNECTING"
    ESTABLISHED = "ESTABLISHED"
    REKEYING = "REKEYING"
    REKEYED = "REKEYED"
    DELETING = "DELETING"
    DESTROYING = "DESTROYING"


class Standing(Enum):
    """What we know of the peer's end of an established IKE_SA."""

    ANSWERED = "we answered its IKE_AUTH, and the answer may be lost"
    HELD = "the peer holds it"
    PROVEN = "the peer holds it and knows that we do"


class IkeInput(Enum):
    START = "start"  # IKE_SA_INIT sent or received
    AUTHENTICATED = "authenticated"  # both AUTH payloads verified, or keys inherited by a rekey
    REKEY = "rekey"
    REKEY_FAILED = "rekey failed"
    REPLACED = "replaced"  # the CHILD_SAs moved to a successor
    DELETE = "delete"  # our DELETE is on its way
    CLOSE = "close"


_ALL_LIVE = (
    IkeState.CREATED,
    IkeState.CONNECTING,
    IkeState.ESTABLISHED,
    IkeState.REKEYING,
    IkeState.REKEYED,
    IkeState.DELETING,
)

IKE_TRANSITIONS: dict[tuple[IkeState, IkeInput], IkeState] = {
    (IkeState.CREATED, IkeInput.START): IkeState.CONNECTING,
    (IkeState.CREATED, IkeInput.AUTHENTICATED): IkeState.ESTABLISHED,
    (IkeState.CONNECTING, IkeInput.AUTHENTICATED): IkeState.ESTABLISHED,
    (IkeState.ESTABLISHED, IkeInput.REKEY): IkeState.REKEYING,
    (IkeState.REKEYING, IkeInput.REKEY_FAILED): IkeState.ESTABLISHED,
    (IkeState.ESTABLISHED, IkeInput.REPLACED): IkeState.REKEYED,
    (IkeState.REKEYING, IkeInput.REPLACED): IkeState.REKEYED,
    (IkeState.CONNECTING, IkeInput.DELETE): IkeState.DELETING,
    (IkeState.ESTABLISHED, IkeInput.DELETE): IkeState.DELETING,
    (IkeState.REKEYING, IkeInput.DELETE): IkeState.DELETING,
    (IkeState.REKEYED, IkeInput.DELETE): IkeState.DELETING,
    **{(state, IkeInput.CLOSE): IkeState.DESTROYING for state in _ALL_LIVE},
}

# Requests a state admits. RFC 7296 2.25: while deleting or rekeyed, only INFORMATIONAL makes sense; a
# CREATE_CHILD_SA then gets TEMPORARY_FAILURE from its handler, hence it is admitted.
_ESTABLISHED_REQUESTS = frozenset(
    {ExchangeType.CREATE_CHILD_SA, ExchangeType.IKE_FOLLOWUP_KE, ExchangeType.INFORMATIONAL}
)
IKE_REQUESTS: dict[IkeState, frozenset[ExchangeType]] = {
    IkeState.CREATED: frozenset({ExchangeType.IKE_SA_INIT}),
    IkeState.CONNECTING: frozenset({ExchangeType.IKE_INTERMEDIATE, ExchangeType.IKE_AUTH}),
    IkeState.ESTABLISHED: _ESTABLISHED_REQUESTS,
    IkeState.REKEYING: _ESTABLISHED_REQUESTS,
    IkeState.REKEYED: _ESTABLISHED_REQUESTS,
    IkeState.DELETING: _ESTABLISHED_REQUESTS,
    IkeState.DESTROYING: frozenset(),
}

# RFC 7296 1.2: the original initiator alone sends these. One sent back to it could carry its own AUTH.
_INITIATORS_REQUESTS = frozenset({ExchangeType.IKE_SA_INIT, ExchangeType.IKE_INTERMEDIATE, ExchangeType.IKE_AUTH})


def admits(state: IkeState, exchange: ExchangeType, is_initiator: bool) -> bool:
    """Whether an IKE_SA takes that request; `is_initiator`: we are its original initiator."""
    return exchange in IKE_REQUESTS[state] and not (is_initiator and exchange in _INITIATORS_REQUESTS)


class ChildState(Enum):
    CREATED = "CREATED"
    INSTALLED = "INSTALLED"
    REKEYING = "REKEYING"
    REKEYED = "REKEYED"
    DELETING = "DELETING"
    DELETED = "DELETED"


class ChildInput(Enum):
    INSTALL = "install"
    REKEY = "rekey"
    REKEY_FAILED = "rekey failed"
    REPLACED = "replaced"
    DELETE = "delete"
    REMOVE = "remove"


CHILD_TRANSITIONS: dict[tuple[ChildState, ChildInput], ChildState] = {
    (ChildState.CREATED, ChildInput.INSTALL): ChildState.INSTALLED,
    (ChildState.INSTALLED, ChildInput.REKEY): ChildState.REKEYING,
    (ChildState.REKEYING, ChildInput.REKEY_FAILED): ChildState.INSTALLED,
    (ChildState.INSTALLED, ChildInput.REPLACED): ChildState.REKEYED,
    (ChildState.REKEYING, ChildInput.REPLACED): ChildState.REKEYED,
    (ChildState.INSTALLED, ChildInput.DELETE): ChildState.DELETING,
    (ChildState.REKEYING, ChildInput.DELETE): ChildState.DELETING,
    (ChildState.REKEYED, ChildInput.DELETE): ChildState.DELETING,
    **{(state, ChildInput.REMOVE): ChildState.DELETED for state in ChildState if state is not ChildState.DELETED},
}


def next_ike_state(state: IkeState, event: IkeInput) -> IkeState:
    try:
        return IKE_TRANSITIONS[state, event]
    except KeyError:
        raise LocalError(f"IKE_SA in {state.value} cannot {event.value}") from None


def next_child_state(state: ChildState, event: ChildInput) -> ChildState:
    try:
        return CHILD_TRANSITIONS[state, event]
    except KeyError:
        raise LocalError(f"CHILD_SA in {state.value} cannot {event.value}") from None
