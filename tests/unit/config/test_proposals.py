"""Proposal strings and what they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.model import Child, Connection
from gateway.config.proposals import (
    ProposalError,
    ProposalSpec,
    keywords,
    parse_esp_proposal,
    parse_ike_proposal,
    weaknesses,
)

IKE = {
    "aes256gcm16-prfsha384-ecp384": ProposalSpec((("aes-gcm-16", 256),), (), ("sha384",), ("ecp384",)),
    "aes128gcm128-prfsha256-curve25519": ProposalSpec((("aes-gcm-16", 128),), (), ("sha256",), ("x25519",)),
    "chacha20poly1305-prfsha256-x25519": ProposalSpec((("chacha20-poly1305", 0),), (), ("sha256",), ("x25519",)),
    "aes256-sha256-modp2048": ProposalSpec((("aes-cbc", 256),), ("sha256",), ("sha256",), ("modp2048",)),
    "AES128-SHA1-PRFSHA512-MODP1024": ProposalSpec((("aes-cbc", 128),), ("sha1",), ("sha512",), ("modp1024",)),
    "aes256-aes128-sha2_256-sha384-ecp256-x25519": ProposalSpec(
        (("aes-cbc", 256), ("aes-cbc", 128)), ("sha256", "sha384"), ("sha256", "sha384"), ("ecp256", "x25519")
    ),
}
ESP = {
    "aes256gcm16": ProposalSpec((("aes-gcm-16", 256),), esn=(True, False)),
    "aes128gcm8-aes256gcm96": ProposalSpec((("aes-gcm-8", 128), ("aes-gcm-12", 256)), esn=(True, False)),
    "aes192gcm12-aes192gcm64-noesn": ProposalSpec((("aes-gcm-12", 192), ("aes-gcm-8", 192)), esn=(False,)),
    "ChaCha20Poly1305-aes256gcm16-x25519": ProposalSpec(
        (("chacha20-poly1305", 0), ("aes-gcm-16", 256)), key_exchange=("x25519",), esn=(True, False)
    ),
    "aes256gcm16-ecp256-esn": ProposalSpec((("aes-gcm-16", 256),), key_exchange=("ecp256",), esn=(True,)),
    "aes192-sha512-noesn": ProposalSpec((("aes-cbc", 192),), ("sha512",), esn=(False,)),
    "aes256-sha-modp3072-modp4096-noesn-esn": ProposalSpec(
        (("aes-cbc", 256),), ("sha1",), (), ("modp3072", "modp4096"), (False, True)
    ),
}


@pytest.mark.parametrize(("text", "spec"), IKE.items())
def test_ike_proposals(text: str, spec: ProposalSpec) -> None:
    assert parse_ike_proposal(text) == spec
    assert spec.aead == ("gcm" in text or "chacha" in text)


@pytest.mark.parametrize(("text", "spec"), ESP.items())
def test_esp_proposals(text: str, spec: ProposalSpec) -> None:
    assert parse_esp_proposal(text) == spec


def test_defaults_of_the_model_parse_and_are_not_weak() -> None:
    for text in Connection.model_fields["proposals"].default:
        assert weaknesses(parse_ike_proposal(text)) == ()
    for text in Child.model_fields["esp_proposals"].default:
        assert weaknesses(parse_esp_proposal(text)) == ()


def test_modp1024_is_weak_and_says_what_to_use() -> None:
    (said,) = weaknesses(parse_ike_proposal("aes256-sha1-modp1024"))
    assert "1024-bit" in said
    assert "use modp2048 or ecp256" in said


@pytest.mark.parametrize(("name", "octets"), [("aes128gcm8", 8), ("aes256gcm64", 8), ("aes192gcm12", 12)])
def test_a_short_integrity_check_value_is_weak_once_and_named(name: str, octets: int) -> None:
    (said,) = weaknesses(parse_esp_proposal(f"{name}-aes256gcm{octets}-ecp256"))
    assert f"gcm{octets} cuts the integrity check value to {octets} octets" in said
    assert "RFC 4106" in said
    (also,) = weaknesses(parse_ike_proposal(f"{name}-prfsha256-ecp256"))
    assert also == said
    assert weaknesses(parse_esp_proposal("aes256gcm16-chacha20poly1305")) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("aes256gcm16-sha256", "AES-GCM has its own integrity; remove sha256"),
        ("aes256", "lacks an integrity algorithm"),
        ("aes256gcm16-aes256-sha256", "write two proposals"),
        ("aes256gcm16-prfsha256", "ESP has no PRF; remove prfsha256"),
        ("ecp256", "lacks an encryption algorithm"),
        ("chacha20poly1305-sha256", "ChaCha20-Poly1305 has its own integrity; remove sha256"),
        ("chacha20poly1305-aes256gcm8-aes256-sha256", "mixes ChaCha20-Poly1305 and AES-GCM with AES-CBC"),
        ("chacha20poly1350", "unknown keyword 'chacha20poly1350'.*did you mean 'chacha20poly1305'"),
        ("chacha20-poly1305", "unknown keyword 'chacha20'.*did you mean 'chacha20poly1305'"),
        ("aes128gmc12", "unknown keyword 'aes128gmc12'.*did you mean 'aes128gcm12'"),
        ("aes128gcm1", "unknown keyword 'aes128gcm1'.*did you mean 'aes128gcm16'"),
        ("aes265gcm8", "unknown keyword 'aes265gcm8'.*did you mean 'aes256gcm8'"),
        ("3des-md5", "3des is not supported: 64-bit blocks"),
        ("aes256gcm61", "unknown keyword 'aes256gcm61'.*did you mean 'aes256gcm16'"),
        ("aes256-sha265", "did you mean 'sha256'"),
        ("aes256gcm16--esn", "a keyword is missing"),
        ("  ", "the proposal is empty"),
    ],
)
def test_esp_mistakes_name_their_cure(text: str, said: str) -> None:
    with pytest.raises(ProposalError, match=said):
        parse_esp_proposal(text)


def test_the_example_of_a_missing_prf_is_itself_right() -> None:
    with pytest.raises(ProposalError, match="'aes128gcm16-aes256gcm16-prfsha384-ecp256'"):
        parse_ike_proposal("aes128gcm16-aes256gcm16-ecp256")
    parse_ike_proposal("aes128gcm16-aes256gcm16-prfsha384-ecp256")


every_keyword = [keyword for group in keywords().values() for keyword in group]


@given(st.lists(st.sampled_from(every_keyword), min_size=1, max_size=7))
def test_what_is_accepted_keeps_the_rules(tokens: list[str]) -> None:
    text = "-".join(tokens)
    for parse in (parse_ike_proposal, parse_esp_proposal):
        try:
            spec = parse(text)
        except ProposalError:
            continue
        assert len({kind == "aes-cbc" for kind, _ in spec.encryption}) == 1
        assert bool(spec.integrity) != spec.aead
        if parse is parse_ike_proposal:
            assert (bool(spec.prf), bool(spec.key_exchange), bool(spec.esn)) == (True, True, False)
        else:
            assert (bool(spec.prf), bool(spec.esn)) == (False, True)


@given(st.text(max_size=30))
def test_any_text_parses_or_is_a_proposal_error(text: str) -> None:
    try:
        spec = parse_esp_proposal(text)
    except ProposalError:
        return
    assert spec.encryption


def test_key_exchanges_after_the_first() -> None:
    spec = parse_ike_proposal("aes256gcm16-prfsha384-x25519-ke2_mlkem1024-ke1_mlkem768-ke1_none-ke7_ecp384")
    assert spec.key_exchange == ("x25519",)
    assert spec.additional == ((1, ("mlkem768", "none")), (2, ("mlkem1024",)), (7, ("ecp384",)))
    assert spec.post_quantum
    assert spec.with_ml_kem() is spec
    optional = parse_esp_proposal("aes256gcm16-x25519-ke1_mlkem768-ke1_none")
    assert not optional.post_quantum
    assert optional.with_ml_kem().additional == ((1, ("mlkem768", "none")), (2, ("mlkem768",)))
    plain = parse_ike_proposal("aes256-sha256-ecp256")
    assert plain.with_ml_kem() == parse_ike_proposal("aes256-sha256-ecp256-ke1_mlkem768")
