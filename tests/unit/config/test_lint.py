"""The checks across keys hold as laws, beside the messages of mistakes.txt."""

from __future__ import annotations

import time
from ipaddress import IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.checks_bgp import AZURE_AS
from gateway.config.checks_connection import AWS_RESERVED
from gateway.config.diagnostics import warnings_as_errors
from gateway.config.lint import lint
from gateway.config.load import load_text
from gateway.config.model import Config
from gateway.config.positions import index


def two(first: str, second: str) -> str:
    source = ""
    for name, last, protected in (("a", 1, first), ("b", 2, second)):
        source += f'[connection.{name}]\nlocal_addrs = "192.0.2.9"\nremote_addrs = "198.51.100.{last}"\n'
        source += f'psk.file = "x"\nprotected = ["{protected}"]\n'
    return source


networks = st.builds(
    lambda third, length: str(IPv4Network((0x0A000000 | third << 8, length), strict=False)),
    st.integers(0, 255),
    st.integers(12, 24),
)


@given(networks, networks)
def test_overlap_of_protected_prefixes_is_found_exactly_when_there_is_one(first: str, second: str) -> None:
    found = [item for item in load_text(two(first, second)).diagnostics if "overlaps" in item.message]
    overlap = ip_network(first).overlaps(ip_network(second)) and first != second
    assert len(found) == int(overlap)
    assert all(item.severity == "warning" for item in found)


@pytest.mark.parametrize(
    "asn",
    [23456, 65535, 65536, 65551, 65552, 131071, 8074, 8075, 12076, 65515, 65516, 65517, 65518, 65519, 65520],
)
def test_reserved_as_numbers_are_refused_as_our_own(asn: int) -> None:
    (item,) = load_text(f'[bgp]\nlocal_as = {asn}\nrouter_id = "10.0.0.1"\n').diagnostics
    assert (item.severity, item.line, item.path) == ("error", 2, "bgp.local_as")
    assert f"AS {asn} is" in item.message


@pytest.mark.parametrize("asn", [1, 8073, 8076, 64495, 64512, 65514, 65521, 65534, 131072, 4294967294])
def test_other_as_numbers_are_not(asn: int) -> None:
    assert load_text(f'[bgp]\nlocal_as = {asn}\nrouter_id = "10.0.0.1"\n').diagnostics == ()


def test_azures_own_as_is_fine_for_a_neighbor() -> None:
    source = (
        '[bgp]\nlocal_as = 65010\nrouter_id = "10.0.0.1"\n[bgp.neighbor.rs]\naddress = "10.0.2.4"\n'
        f'remote_as = {AZURE_AS}\nmultihop = 2\nlocal_address = "10.0.1.4"\n'
    )
    assert load_text(source).diagnostics == ()


@pytest.mark.parametrize("reserved", [str(net) for net in AWS_RESERVED])
def test_each_of_the_seven_reserved_prefixes_is_refused(reserved: str) -> None:
    host = next(IPv4Network(reserved).hosts())
    source = two("10.1.0.0/16", "10.1.0.0/16") + f'tunnel_address = ["{host}/30"]\n'
    (item,) = load_text(source).diagnostics
    assert (item.severity, item.line) == ("error", 11)
    assert reserved in item.message
    assert len(AWS_RESERVED) == 7


def test_strict_turns_every_warning_into_an_error() -> None:
    loaded = load_text('[metrics]\naddress = "0.0.0.0"\n')
    assert [item.severity for item in loaded.diagnostics] == ["warning"]
    assert [item.severity for item in warnings_as_errors(loaded.diagnostics)] == ["error"]
    assert loaded.config is not None


def test_a_configuration_built_in_code_is_linted_without_positions() -> None:
    config = Config.model_validate({"bgp": {"local_as": 65515}})
    found = lint(config, index(""))
    assert {(item.line, item.column) for item in found} == {(1, 1)}
    assert {item.path for item in found} == {"bgp.local_as", "bgp.router_id"}


def test_a_thousand_connections_are_checked_in_seconds() -> None:
    source = ""
    for number in range(1000):
        high, low = divmod(number, 250)
        source += f'[connection.c{number}]\nlocal_addrs = "192.0.2.9"\nremote_addrs = "100.64.{high}.{low + 1}"\n'
        source += (
            f'psk.file = "x"\nremote_ts = ["10.{high}.{low}.0/24"]\ntunnel_address = ["172.16.{high}.{low + 1}/32"]\n'
        )
    start = time.process_time()
    assert load_text(source).diagnostics == ()
    # Quadratic checks would take a minute.
    assert time.process_time() - start < 10
