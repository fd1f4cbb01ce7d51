"""Every sentence names the failure, the setting, both values and the fix; unknown values leave no holes."""

from __future__ import annotations

import pytest
from support.reasons import OF_EXCHANGES, OF_IKE_SAS, emitted

from gateway.ike.errors import Violation
from gateway.node.failures import init_refused, named
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
        ("UNSUPPORTED_CRITICAL_PAYLOAD", "the peer sends a payload that we do not know", "the peer refuses a payload"),
    ):
        assert explain(failure, {"direction": "sent", "tunnel": "a"}).startswith(sent)
        assert explain(failure, {"direction": "received", "tunnel": "a"}).startswith(received)


def test_every_reason_of_the_protocol_code_has_a_sentence():
    """Reasons are written in ike/ as words; node/failures.py turns them into the names of the table."""
    ends, failed = emitted(*OF_IKE_SAS), emitted(*OF_EXCHANGES)
    assert ends >= {
        "PEER_UNREACHABLE",
        "INVALID_SYNTAX_IKE",
        "UNKNOWN_8192_RECEIVED",
        "CERTIFICATE_WEAK",
        "PEER_CRASHED",
    }
    assert failed >= {
        "NO_PROPOSAL_CHOSEN_ESP",
        "BAD_NONCE",
        "REKEY_GRAMMAR",
        "IKE_REKEY_MALFORMED",
        "CHILD_LIMIT_REACHED",
    }
    assert failed >= {
        "REKEY_NO_ADDITIONAL_SAS",
        "PEER_REKEY_TS_UNACCEPTABLE",
        "PEER_IKE_REKEY_NO_PROPOSAL_CHOSEN",
        "NO_CHILD_SA",
    }
    contexts = [(reason, {"tunnel": "a"}) for reason in ends]
    contexts += [(reason, {"tunnel": "a", "child": "" if "IKE_REKEY" in reason else "net"}) for reason in failed]
    assert [reason for reason, context in contexts if "no explanation" in explain(*named(reason, context))] == []


def test_every_refusal_to_begin_an_ike_sa_has_a_sentence():
    for why in Violation:
        assert "no explanation" not in explain(init_refused(why), {"tunnel": "a", "detail": "WHAT"})
    assert "`proposals`" in explain(init_refused(Violation.NO_PROPOSAL), ALL)
    no_ppk = explain(init_refused(Violation.PPK), ALL)
    assert "`ppk_required`" in no_ppk and "`proposals`" not in no_ppk


def test_a_notification_that_no_key_can_cause_blames_none():
    """RFC 7296 2.21: INVALID_SYNTAX is said of what decrypted and verified, and a pre-shared key is in AUTH alone."""
    for reason in ("INVALID_SYNTAX_RECEIVED", "INVALID_SYNTAX_IKE", "REKEY_INVALID_SYNTAX", "IKE_REKEY_INVALID_SYNTAX"):
        sentence = explain(*named(reason, {**ALL, "child": "net"}))
        assert "INVALID_SYNTAX" in sentence and "psk" not in sentence and "no key is at fault" in sentence


def test_what_was_asked_for_says_whose_proposals_are_meant():
    """A group that the peer refuses for a new CHILD_SA is one of `esp_proposals`."""
    for_child = explain(*named("INVALID_KE_PAYLOAD", {**ALL, "child": "net"}))
    assert "PFS group" in for_child and "`esp_proposals`" in for_child and "`proposals`" not in for_child
    assert "`proposals`" in explain(*named("INVALID_KE_PAYLOAD_IKE", {"tunnel": "a"}))


def test_octets_and_packets_that_are_used_up_name_their_own_settings():
    sentence = explain(*named("CHILD_LIMIT_REACHED", {**ALL, "child": "net"}))
    assert "`rekey_bytes` or `rekey_packets`" in sentence
    assert "rekey_time" not in sentence
    assert "`rekey_time`" in explain(*named("CHILD_LIFETIME_EXPIRED", {**ALL, "child": "net"}))


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
