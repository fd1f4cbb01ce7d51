"""Sentences for explain.py: why a CHILD_SA or a rekey that we asked for did not come about.

The peer either refuses by a notification, or answers with what cannot be taken (`errors.Violation`). A setting is named
only where one is at fault; nearly every answer that cannot be taken is a defect, which no setting heals.

    CHILD_ANSWER        the first CHILD_SA or another one; its refusals have sentences of their own in explain.py
    REKEY_FAILED        of a CHILD_SA, which works on
    IKE_REKEY_FAILED    of the IKE_SA, which works on
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.ike.errors import Violation

Clauses = tuple[str, ...]

_LEFT_CHILD = ", which works until its lifetime ends in {seconds} s"
_LEFT_IKE = ", which works on until a new one takes its place"

# What was asked for -> (words for it, what is left of the old one, the setting that has its proposals)
_ASKED = {
    "CHILD_ANSWER": ("our request for a CHILD_SA", "", "`esp_proposals`"),
    "REKEY_FAILED": ("our rekey of the CHILD_SA", _LEFT_CHILD, "`esp_proposals`"),
    "IKE_REKEY_FAILED": ("our rekey of the IKE_SA", _LEFT_IKE, "`proposals`"),
}

_DEFECT = (
    "; this is a defect of one of the two implementations and no setting: report it with a trace of connection {tunnel}"
)
_WRONG: dict[Violation, tuple[str, str]] = {
    # RFC 7296 1.3
    Violation.WRONG_KE_GROUP: (
        "with another key exchange than we sent, where it should have asked for its own group",
        "; a defect of the peer: leave the one group that both have in SETTING of connection {tunnel}",
    ),
    # RFC 7296 2.10
    Violation.BAD_NONCE: (
        "with a nonce of a length that is not allowed",
        "; a defect of the peer: if the nonce is too short for the PRF, leave a smaller one (prfsha256) in `proposals` of connection {tunnel}",
    ),
    # RFC 7296 2.7
    Violation.NO_PROPOSAL: (
        "with a choice that we did not offer or cannot take",
        "; it misreads our proposals: leave one suite alone in SETTING of connection {tunnel}",
    ),
    # RFC 7296 2.9
    Violation.TRAFFIC_SELECTORS: (
        "with traffic selectors that reach beyond those we asked for, and it may only narrow them",
        "; give the peer the networks of `local_ts` and `remote_ts` of connection {tunnel} (ours local = its remote), or widen these",
    ),
    Violation.BAD_KEY_EXCHANGE: (
        "with a key exchange value that is not valid",
        "; this is a defect of the peer or an attack: try another group in SETTING of connection {tunnel}",
    ),
    Violation.CRITICAL_PAYLOAD: (
        "with a payload that we do not know and may not ignore",
        "; switch off at the peer the extension that it belongs to, for connection {tunnel}",
    ),
    Violation.GRAMMAR: ("with a payload missing, or one that does not belong there", _DEFECT),
    Violation.MALFORMED: ("with a length or a value that is out of range", _DEFECT),
}
_WRONG_SOMEHOW = ("with something that breaks the protocol", _DEFECT)


def _wrong_answers() -> Iterator[tuple[str, Clauses]]:
    for name, (asked, left, setting) in _ASKED.items():
        for violation in Violation:
            how, fix = _WRONG.get(violation, _WRONG_SOMEHOW)
            clauses = (
                f"{{peer}} answered {asked}",
                f"{left}," if left else "",
                f" {how}",
                " ({detail})",
                fix.replace("SETTING", setting),
            )
            yield f"{name}/{violation.name}", tuple(clause for clause in clauses if clause)


def _of_a_rekey(name: str, group: str, setting: str) -> Iterator[tuple[str, Clauses]]:
    """Refusals that say the same of a CHILD_SA and of the IKE_SA."""
    asked, left, _ = _ASKED[name]
    what = asked.removeprefix("our rekey of ")
    refuses = f"{{peer}} refuses to rekey {what}"
    yield name, (f"{refuses}", " ({reason})", left, "; its log says why, for connection {tunnel}")
    yield f"{name}/NO_ADDITIONAL_SAS", (
        f"{refuses} (NO_ADDITIONAL_SAS)", left,
        "; it cannot rekey at all, or has a limit of SAs, which may be raised there; for connection {tunnel} a new IKE_SA is set up in time all the same",
    )  # fmt: skip
    yield f"{name}/INVALID_SYNTAX", (
        f"{refuses} (INVALID_SYNTAX)", left, "; it could not parse our request, or its policy forbids it",
        ", and no key is at fault: look into its log for what it did not understand, and if it is an extension (as ML-KEM of `post_quantum`) switch that off in connection {tunnel}",
    )  # fmt: skip
    yield f"{name}/INVALID_KE_PAYLOAD", (
        f"{refuses} with our {group} (INVALID_KE_PAYLOAD)", left, ", we offered {ours}", ", it asks for {theirs}",
        f"; put the peer's {group} into {setting} of connection {{tunnel}}",
    )  # fmt: skip


_STATES_DIFFER = "; what the two ends know of the IKE_SA does not fit any more, so a new one is being set up beside it: nothing to change here, if it comes again look at the peer's log"

REFUSALS: dict[str, Clauses] = {
    **dict(_wrong_answers()),
    **dict(_of_a_rekey("REKEY_FAILED", "PFS group", "`esp_proposals`")),
    **dict(_of_a_rekey("IKE_REKEY_FAILED", "group", "`proposals`")),
    "REKEY_FAILED/NO_PROPOSAL_CHOSEN": (
        "{peer} refuses to rekey the CHILD_SA (NO_PROPOSAL_CHOSEN)",
        _LEFT_CHILD,
        ", we offered {ours}",
        "; the first CHILD_SA is made without a PFS group, so most likely that differs: put the peer's group into `esp_proposals` of connection {tunnel}, or one proposal without a group if it has none (as Azure without a custom policy, for AES-GCM)",
    ),
    "REKEY_FAILED/TS_UNACCEPTABLE": (
        "{peer} refuses to rekey the CHILD_SA with our traffic selectors (TS_UNACCEPTABLE)",
        _LEFT_CHILD,
        ", we proposed {local_ts} on our side and {remote_ts} on its",
        "; `local_ts` and `remote_ts` of connection {tunnel} must mirror the peer's networks (ours local = its remote)",
    ),
    "REKEY_FAILED/SINGLE_PAIR_REQUIRED": (
        "{peer} refuses to rekey the CHILD_SA with more than one address pair (SINGLE_PAIR_REQUIRED)",
        _LEFT_CHILD,
        "; split the children of connection {tunnel} into single prefixes",
    ),
    # RFC 7296 2.25
    "REKEY_FAILED/TEMPORARY_FAILURE": (
        "{peer} has put off every rekey of the CHILD_SA for minutes (TEMPORARY_FAILURE)",
        _LEFT_CHILD,
        _STATES_DIFFER,
    ),
    "IKE_REKEY_FAILED/TEMPORARY_FAILURE": (
        "{peer} has put off every rekey of the IKE_SA for minutes (TEMPORARY_FAILURE)",
        _STATES_DIFFER,
    ),
    "IKE_REKEY_FAILED/NO_PROPOSAL_CHOSEN": (
        "{peer} refuses to rekey the IKE_SA (NO_PROPOSAL_CHOSEN)",
        _LEFT_IKE,
        ", we offered {ours}",
        "; compare `proposals` of connection {tunnel} with the peer's IKE (phase 1) algorithms and group",
    ),
}
"""By "FAILURE/reason", or "FAILURE" for the notifications that say no more than their name."""
