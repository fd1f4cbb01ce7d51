"""`dscp` and `df` of a connection: what may be written, what it means, what a change of it costs."""

from __future__ import annotations

import pytest

from gateway.config.diff import diff
from gateway.config.dscp import DSCP_NAMES, parse_dscp
from gateway.config.effective import effective_toml
from gateway.config.load import load_text
from gateway.config.model import Config
from gateway.config.schema import json_schema

BASE = """
[connection.a]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.7"
psk.file = "x"
remote_ts = ["172.16.0.0/16"]
"""
EXPECTED = 'expected "copy", a whole number, 0 to 63, or a name such as "ef", "cs6" or "af41"'


def config(keys: str = "") -> Config:
    loaded = load_text(BASE + keys, "x")
    assert loaded.config is not None, loaded.diagnostics
    return loaded.config


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"copy"', "copy"), ("0", 0), ("63", 63), ('"cs0"', 0), ('"cs1"', 8), ('"cs6"', 48), ('"cs7"', 56),
        # RFC 2597 6
        ('"af11"', 10), ('"af12"', 12), ('"af13"', 14), ('"af21"', 18), ('"af33"', 30), ('"af41"', 34), ('"af43"', 38),
        # RFC 3246, RFC 5865, RFC 8622
        ('"ef"', 46), ('"va"', 44), ('"le"', 1), ('"AF41"', 34), ('"EF"', 46), ('"Copy"', "copy"),
    ],
)  # fmt: skip
def test_a_dscp_is_a_number_a_name_or_a_copy(written: str, meant: int | str) -> None:
    assert config(f"dscp = {written}").connection["a"].dscp == meant


def test_without_the_keys_everything_is_as_the_rfcs_have_it() -> None:
    connection = config().connection["a"]
    assert (connection.dscp, connection.df) == ("copy", "honor")


@pytest.mark.parametrize("bad", ["64", "-1", "true", "4.5", '"46"', '"af14"', '"af01"', '"cs8"', '"be"', '""', "[46]"])
def test_anything_else_is_told_where_it_stands(bad: str) -> None:
    loaded = load_text(BASE + f"dscp = {bad}\n", "x")
    assert [str(one) for one in loaded.diagnostics] == [f"x:7:1: connection.a.dscp: {EXPECTED}"]


def test_df_knows_two_words() -> None:
    assert config('df = "clear"').connection["a"].df == "clear"
    (told,) = load_text(BASE + 'df = "set"\n', "x").diagnostics
    assert str(told) == "x:7:1: connection.a.df: 'set' is not one of honor, clear"


def test_no_two_names_mean_the_same_and_all_fit() -> None:
    assert len(set(DSCP_NAMES.values())) == len(DSCP_NAMES) == 8 + 12 + 3
    assert all(parse_dscp(name) == parse_dscp(code) == code for name, code in DSCP_NAMES.items())


def test_a_change_is_made_in_place_and_another_way_to_write_it_is_none() -> None:
    assert [str(one) for one in diff(config(), config('dscp = "ef"\ndf = "clear"'))] == [
        '~ connection.a.dscp "copy" -> 46 (in-place)',
        '~ connection.a.df "honor" -> "clear" (in-place)',
    ]
    assert diff(config('dscp = "EF"'), config("dscp = 46")) == ()
    assert diff(config(), config('dscp = "copy"\ndf = "honor"')) == ()


def test_the_effective_configuration_and_the_schema_have_it() -> None:
    lines = effective_toml(config('dscp = "cs6"')).split("\n")
    assert "dscp = 48" in lines
    assert 'df = "honor"  # default' in lines
    properties = json_schema()["$defs"]["Connection"]["properties"]
    number, names = properties["dscp"]["anyOf"]
    assert (number["minimum"], number["maximum"]) == (0, 63)
    assert set(names["enum"]) == {"copy", *DSCP_NAMES}
    assert properties["df"]["enum"] == ["honor", "clear"]
