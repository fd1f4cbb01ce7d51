"""Addresses, prefixes and interface addresses, and what is said when they are none."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.addresses import parse_address, parse_interface, parse_ipv4_address, parse_prefix


def test_text_becomes_values_and_values_stay() -> None:
    assert parse_address("192.0.2.1") == parse_address(ip_address("192.0.2.1")) == ip_address("192.0.2.1")
    assert parse_prefix("2001:db8::/32") == parse_prefix(ip_network("2001:db8::/32")) == ip_network("2001:db8::/32")
    assert parse_interface("fd00::1/126") == parse_interface(ip_interface("fd00::1/126")) == ip_interface("fd00::1/126")


def test_a_bare_address_is_its_own_prefix() -> None:
    assert parse_prefix("10.0.0.1") == ip_network("10.0.0.1/32")


def test_both_addresses_of_a_31_and_the_first_of_an_ipv6_prefix_are_hosts() -> None:
    for text in ("10.0.0.0/31", "10.0.0.1/31", "10.0.0.1/32", "fd00::/64"):
        assert str(parse_interface(text)) == text


@pytest.mark.parametrize(
    ("parse", "value", "said"),
    [
        (parse_address, "10.0.0.1/24", 'write the address alone: "10.0.0.1"'),
        (parse_address, "gw.example.com", "names are not looked up"),
        (parse_address, 167772161, "expected an address"),
        (parse_address, ip_interface("10.0.0.1/24"), "has a prefix length"),
        (parse_ipv4_address, "::1", "is an IPv6 address"),
        (parse_prefix, "10.0.0.1/8", "did you mean '10.0.0.0/8'"),
        (parse_prefix, "10.0.0.0/33", "is not a prefix"),
        (parse_prefix, 10, "expected a prefix"),
        (parse_interface, "10.0.0.1", 'write it as "10.0.0.1/30"'),
        (parse_interface, "fd00::1", 'write it as "fd00::1/126"'),
        (parse_interface, "10.0.0.0/30", "is the network address"),
        (parse_interface, "10.0.0.3/30", "is the broadcast address"),
        (parse_interface, "x/30", "is not an address with a prefix length"),
        (parse_interface, None, "expected an address with its prefix length"),
    ],
)
def test_what_is_none_is_told_with_the_cure(parse: Callable[[object], object], value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        parse(value)


@given(st.ip_addresses(), st.integers(0, 128))
def test_the_guess_for_host_bits_is_itself_accepted(address: object, length: int) -> None:
    text = f"{address}/{length}"
    try:
        parse_prefix(text)
    except ValueError as error:
        if "did you mean" in str(error):
            guess = str(error).split("did you mean '")[1].removesuffix("'?")
            assert parse_prefix(guess) == ip_network(text, strict=False)
        else:
            assert length > 32
