"""Identities as written, and the octets they become."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.identity import IdentityError, IdentitySpec, parse_identity


@pytest.mark.parametrize(
    ("text", "kind", "data"),
    [
        ("192.0.2.1", "ipv4", b"\xc0\x00\x02\x01"),
        ("2001:db8::1", "ipv6", b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
        ("@gw.example.com", "fqdn", b"gw.example.com"),
        ("gw.example.com", "fqdn", b"gw.example.com"),
        ("onprem", "fqdn", b"onprem"),
        ("@10.0.0.300", "fqdn", b"10.0.0.300"),
        ("gw@example.com", "rfc822", b"gw@example.com"),
        ("keyid:0a0B", "key_id", b"\x0a\x0b"),
        ("keyid:0x6777", "key_id", b"gw"),
    ],
)
def test_each_form_has_its_kind(text: str, kind: str, data: bytes) -> None:
    assert parse_identity(text) == IdentitySpec(kind, data, text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "@", "a b", "a@", "@@", "10.0.0.300", "keyid:", "keyid:xyz", "gw.exämple.com", "fe80::1%eth0", "a..b"],
)
def test_anything_else_says_what_is_allowed(text: str) -> None:
    with pytest.raises(IdentityError):
        parse_identity(text)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_an_identity_error(text: str) -> None:
    try:
        spec = parse_identity(text)
    except IdentityError:
        return
    assert spec.text == text
    assert spec.data
