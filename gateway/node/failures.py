"""From the cores' reasons to the names explain.py has sentences for, with the words that choose a variant."""

from __future__ import annotations

_EXACT: dict[str, tuple[str, dict[str, str]]] = {
    "CHILD_LIFETIME_EXPIRED": ("LIFETIME_EXPIRED", {"reason": "time"}),
    "CHILD_LIMIT_REACHED": ("LIFETIME_EXPIRED", {"reason": "octets, packets or sequence numbers"}),
    "NO_PROPOSAL_CHOSEN_SENT": ("NO_PROPOSAL_ACCEPTABLE", {}),
    "NO_PROPOSAL": ("NO_PROPOSAL_ACCEPTABLE", {}),
    "TRAFFIC_SELECTORS": ("TS_UNACCEPTABLE", {"direction": "sent"}),
}
_SUFFIXES: dict[str, dict[str, str]] = {
    "_IKE": {"protocol": "IKE"},
    "_ESP": {"protocol": "ESP"},
    "_SENT": {"direction": "sent"},
    "_RECEIVED": {"direction": "received"},
}
_REKEYS = {
    "IKE_REKEY_": "IKE_REKEY_FAILED",
    "REKEY_": "REKEY_FAILED",
    "PEER_IKE_REKEY_": "PEER_IKE_REKEY_REFUSED",
    "PEER_REKEY_": "PEER_REKEY_REFUSED",
}


def named(reason: str, context: dict[str, str]) -> tuple[str, dict[str, str]]:
    """(failure name, context) for observe.explain."""
    if reason in _EXACT:
        name, extra = _EXACT[reason]
        return name, {**context, **extra}
    for prefix, name in _REKEYS.items():
        if reason.startswith(prefix):
            return name, {**context, "reason": reason.removeprefix(prefix)}
    for suffix, extra in _SUFFIXES.items():
        if reason.endswith(suffix):
            return reason.removesuffix(suffix), {**context, **extra}
    return reason, context


REKEYS = frozenset(_REKEYS.values())
"""Failures of what works still."""

OWN_INTENT = {
    "TERMINATED": "DELETED_BY_OPERATOR",
    "STOPPING": "DELETED_BY_OPERATOR",
    "REMOVED_FROM_CONFIGURATION": "DELETED_BY_OPERATOR",
    "CONFIGURATION_CHANGED": "CONFIGURATION_CHANGED",
    "AT_THE_OTHER_GATEWAY": "AT_THE_OTHER_GATEWAY",
}
"""Ends we wanted ourselves: no failures, and no reason to back off."""

AT_ONCE = frozenset({"PEER_CRASHED", "CHILD_LIFETIME_EXPIRED", "CHILD_LIMIT_REACHED"})
"""Ends of an IKE_SA or a CHILD_SA after which there is nothing to wait for: the other end is there, or somewhere else."""
