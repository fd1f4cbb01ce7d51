"""Why a CHILD_SA or a rekey did not come about: what is the peer's defect blames no setting, what is a setting names the right one."""

from __future__ import annotations

import pytest

from gateway.ike.errors import Violation
from gateway.node.failures import named
from gateway.observe.explain import explain
from gateway.observe.refusals import REFUSALS

CHILD = {"tunnel": "a", "peer": "198.51.100.7", "child": "net", "seconds": "31", "detail": "WHAT"}
IKE = {**CHILD, "child": ""}
SETTINGS = ("`esp_proposals`", "`proposals`", "`local_ts` and `remote_ts`")
ASKED = (("", CHILD), ("REKEY_", CHILD), ("IKE_REKEY_", IKE))


def blamed(sentence: str) -> list[str]:
    return [one for one in SETTINGS if one in sentence]


@pytest.mark.parametrize("prefix", [prefix for prefix, _ in ASKED])
@pytest.mark.parametrize("violation", Violation)
def test_an_answer_that_cannot_be_taken_is_the_peer_s(prefix: str, violation: Violation) -> None:
    sentence = explain(*named(f"{prefix}{violation.name}", dict(ASKED)[prefix]))
    ours = "`proposals`" if "IKE" in prefix else "`esp_proposals`"
    expected = {
        Violation.WRONG_KE_GROUP: [ours], Violation.NO_PROPOSAL: [ours], Violation.BAD_KEY_EXCHANGE: [ours],
        Violation.BAD_NONCE: ["`proposals`"], Violation.TRAFFIC_SELECTORS: ["`local_ts` and `remote_ts`"],
    }  # fmt: skip
    assert sentence.startswith("198.51.100.7 answered our re")
    assert "(WHAT)" in sentence
    assert blamed(sentence) == expected.get(violation, [])


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("REKEY_NO_ADDITIONAL_SAS", ["lifetime ends in 31 s", "limit of SAs", "a new IKE_SA is set up in time"]),
        ("IKE_REKEY_NO_ADDITIONAL_SAS", ["limit of SAs", "a new IKE_SA is set up in time"]),
        ("REKEY_GRAMMAR", ["which works until its lifetime ends in 31 s, with a payload missing", "no setting"]),
        ("REKEY_WRONG_KE_GROUP", ["another key exchange than we sent"]),
        ("REKEY_BAD_NONCE", ["with a nonce of a length", "prfsha256"]),
        ("REKEY_SINGLE_PAIR_REQUIRED", ["one address pair", "split the children"]),
        ("REKEY_INTERNAL_ADDRESS_FAILURE", ["(INTERNAL_ADDRESS_FAILURE)", "its log says why"]),
        ("IKE_REKEY_UNKNOWN_8192", ["to rekey the IKE_SA (UNKNOWN_8192)", "its log says why"]),
        ("IKE_REKEY_NO_PROPOSAL_CHOSEN", ["compare `proposals`"]),
        ("IKE_REKEY_INVALID_KE_PAYLOAD", ["the peer's group into `proposals`"]),
    ],
)
def test_each_says_what_it_is(reason: str, words: list[str]) -> None:
    sentence = explain(*named(reason, CHILD))
    assert [word for word in words if word not in sentence] == []


def test_no_two_violations_that_are_told_apart_read_alike() -> None:
    for prefix, context in ASKED:
        told = [explain(*named(f"{prefix}{one.name}", context)) for one in (
            Violation.GRAMMAR, Violation.MALFORMED, Violation.WRONG_KE_GROUP, Violation.BAD_NONCE, Violation.NO_PROPOSAL,
            Violation.TRAFFIC_SELECTORS, Violation.BAD_KEY_EXCHANGE, Violation.CRITICAL_PAYLOAD, Violation.OUT_OF_STATE,
        )]  # fmt: skip
        assert len(set(told)) == len(told)
    assert len(set(REFUSALS.values())) > 30
