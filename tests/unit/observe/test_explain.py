"""Every sentence names the failure, the setting, both values and the fix; unknown values leave no holes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.node.failures import named
from gateway.observe.explain import SENTENCES, explain

ALL = {
    "tunnel": "azure-b", "peer": "198.51.100.7", "ours": "OUR-VALUE", "theirs": "THEIR-VALUE", "tries": 6,
    "seconds": 31, "expected": "onprem", "got": "router.example", "reason": "WHY", "detail": "WHAT", "child": "net",
    "local_ts": "OUR-VALUE", "remote_ts": "THEIR-VALUE", "exchange": "IKE_SA_INIT", "sent": 3, "times": 3, "octets": 4000, "fragments": 4,
}  # fmt: skip


def test_no_proposal_chosen_tells_ike_from_esp():
    ike = explain(
        "NO_PROPOSAL_CHOSEN",
        {"protocol": "IKE", "peer": "198.51.100.7", "tunnel": "azure-b", "ours": "aes256gcm16-prfsha384-ecp384"},
    )
    esp = explain(
        "NO_PROPOSAL_CHOSEN", {"protocol": "ESP", "peer": "198.51.100.7", "tunnel": "azure-b", "ours": "aes256gcm16"}
    )
    assert ike.startswith(
        "198.51.100.7 accepted none of our IKE proposals (NO_PROPOSAL_CHOSEN), we offered aes256gcm16-prfsha384-ecp384;"
    )
    assert "`proposals` of connection azure-b" in ike
    assert "`esp_proposals` of connection azure-b" in esp
    assert "PFS" in esp


def test_authentication_failed_tells_who_refused():
    received = explain("AUTHENTICATION_FAILED", {"direction": "received", "tunnel": "a", "ours": "gw-a"})
    sent = explain("AUTHENTICATION_FAILED", {"direction": "sent", "tunnel": "a"})
    assert "refused our authentication" in received
    assert "we said we are gw-a" in received
    assert "local_id" in received
    assert "we refused" in sent
    assert "pre-shared keys differ" in sent


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("PEER_UNREACHABLE", ["after 6 tries", "remote_addrs", "UDP 500 and 4500"]),
        ("NO_ANSWER_ON_4500", ["after 6 tries", "answered on UDP 500", "allow UDP 4500"]),
        (
            "WRONG_PEER_IDENTITY",
            ["another identity than the one configured (WHAT)", "`remote_id` of connection azure-b"],
        ),
        ("TS_UNACCEPTABLE", ["we proposed OUR-VALUE on our side and THEIR-VALUE on its", "`local_ts` and `remote_ts`"]),
        ("INVALID_KE_PAYLOAD", ["we sent OUR-VALUE", "asks for THEIR-VALUE"]),
        ("DPD_TIMEOUT", ["last heard 31 s ago"]),
        ("DELETED_BY_PEER", ["deleted the IKE_SA of connection azure-b"]),
    ],
)
def test_the_named_failures_say_what_whose_and_how(failure: str, words: list[str]):
    sentence = explain(failure, ALL)
    assert [word for word in words if word not in sentence] == []


@pytest.mark.parametrize("failure", SENTENCES)
def test_every_sentence_is_one_line_without_holes(failure: str):
    name, _, variant = failure.partition("/")
    key = {"protocol": variant, "direction": variant, "reason": variant}
    for context in ({**ALL, **key}, {**key, "tunnel": "azure-b"}):
        sentence = explain(name, context)
        assert "{" not in sentence
        assert "None" not in sentence
        assert "\n" not in sentence
        assert ". " not in f"{sentence} ", "one sentence, its end left to the caller"
        assert "no explanation" not in sentence


def test_refusing_and_being_refused_are_told_apart():
    for failure, sent, received in (
        ("TS_UNACCEPTABLE", "we refused the traffic selectors of the peer", "the peer refused our traffic selectors"),
        ("INVALID_SYNTAX", "we could not make sense", "the peer could not parse"),
    ):
        assert explain(failure, {"direction": "sent", "tunnel": "a"}).startswith(sent)
        assert explain(failure, {"direction": "received", "tunnel": "a"}).startswith(received)


def test_every_reason_of_the_protocol_code_has_a_sentence():
    """Reasons are written in ike/ and node/ as words; node/failures.py turns them into the names of the table."""
    root = Path(__file__).parents[3] / "gateway"
    text = "".join(
        path.read_text()
        for path in [*root.glob("ike/exchanges/*.py"), root / "ike" / "sa.py", root / "ike" / "endpoint.py"]
    )
    reasons = set(re.findall(r'(?:destroy|close)\([^)"]*"([A-Z][A-Z_]+)"', text))
    assert len(reasons) >= 5
    for reason in reasons:
        assert "no explanation" not in explain(*named(reason, {"tunnel": "a"})), reason


def test_a_clause_with_an_unknown_value_is_left_out():
    assert "offered" not in explain("NO_PROPOSAL_CHOSEN", {"protocol": "IKE", "tunnel": "a"})
    assert "None" not in explain("PEER_UNREACHABLE", {"tunnel": "a", "tries": None})


def test_an_unknown_failure_is_honest():
    sentence = explain("SOLAR_FLARE", {"tunnel": "a", "got": "x"})
    assert sentence == ("SOLAR_FLARE on connection a, for which there is no explanation; what is known: got x")
    assert explain("", {}) == "an unnamed failure, for which there is no explanation; what is known: nothing more"


def test_peer_supplied_values_cannot_break_the_line():
    sentence = explain("WRONG_PEER_IDENTITY", {"tunnel": "a", "detail": "{tunnel} evil\n\x1b[2Jroot " + "x" * 5000})
    assert "\n" not in sentence
    assert "\x1b" not in sentence
    assert "evil\\n\\x1b[2Jroot" in sentence
    assert "({tunnel} " in sentence, "values are not templates"
    assert len(sentence) < 800
