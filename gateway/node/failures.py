"""From the cores' reasons to the names explain.py has sentences for, with the words that choose a variant."""

from __future__ import annotations

from gateway.ike.errors import Violation

_EXACT: dict[str, tuple[str, dict[str, str]]] = {
    "CHILD_LIFETIME_EXPIRED": ("LIFETIME_EXPIRED", {"reason": "time"}),
    "CHILD_LIMIT_REACHED": ("LIMIT_REACHED", {}),
    "NO_PROPOSAL_CHOSEN_SENT": ("NO_PROPOSAL_ACCEPTABLE", {}),
}
_UNUSUAL = frozenset({
    "INVALID_IKE_SPI", "INVALID_MESSAGE_ID", "INVALID_SPI", "INVALID_SELECTORS", "UNACCEPTABLE_ADDRESSES",
    "UNEXPECTED_NAT_DETECTED", "STATE_NOT_FOUND", "TS_MAX_QUEUE",
})  # fmt: skip
"""Error notifications that are no answer to what we ask; so is each that has no name."""
_INITS = {
    Violation.NO_PROPOSAL: "INIT_REFUSED",
    Violation.PPK: "USE_PPK",
    Violation.BAD_KEY_EXCHANGE: "BAD_KEY_EXCHANGE",
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
    """(failure name, context) for observe.explain. `context` has a `child` where it is one that was asked for."""
    if context.get("child"):
        # The proposals of an IKE_SA were agreed on before
        context = {**context, "protocol": "ESP"}
        if reason in Violation.__members__:
            return "CHILD_ANSWER", {**context, "reason": reason}
    if reason in _EXACT:
        name, extra = _EXACT[reason]
        return name, {**context, **extra}
    for prefix, name in _REKEYS.items():
        if reason.startswith(prefix):
            return name, {**context, "reason": reason.removeprefix(prefix)}
    for suffix, extra in _SUFFIXES.items():
        if reason.endswith(suffix):
            reason, context = reason.removesuffix(suffix), {**context, **extra}
            break
    if reason in _UNUSUAL or reason.startswith("UNKNOWN_"):
        return "UNUSUAL_NOTIFICATION", {**context, "got": reason}
    return reason, context


def init_refused(why: Violation) -> str:
    """What a peer is told of that begins an IKE_SA and is refused."""
    return _INITS.get(why, "INIT_BROKEN")


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

AT_ONCE = frozenset({"PEER_CRASHED", "CHILD_LIFETIME_EXPIRED", "CHILD_LIMIT_REACHED", "IKE_LIFETIME_EXPIRED"})
"""Ends of an IKE_SA or a CHILD_SA after which there is nothing to wait for: the other end is there, or somewhere else."""
