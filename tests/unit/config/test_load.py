"""load() takes any file: never an exception, always a place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config.diagnostics import render
from gateway.config.load import load, load_text

GOOD = (Path(__file__).parents[3] / "config" / "pair.toml").read_text()

words = st.sampled_from(
    [
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ",",
        ".",
        "\n",
        "\r\n",
        '"',
        '"""',
        "'",
        "'''",
        "#",
        "\\",
        " ",
        "\t",
        "\x00",
        "connection",
        "onprem",
        "local_addrs",
        "bgp",
        "neighbor",
        "psk",
        "inline",
        "file",
        "protected",
        "child",
        "gateway",
        "1",
        "-1",
        "1.5",
        "inf",
        "nan",
        "true",
        "1979-05-27",
        '"10.0.0.0/8"',
        '"4h"',
        "9" * 30,
        "\ufeff",
        "😀",
    ]
)


@given(st.text() | st.lists(words, max_size=60).map("".join))
@example('"\\UFFFFFFFF" = 1\n')
@example('[connection.a]\nrekey_time = "' + "9" * 400 + 'h"\n')
@example("[connection.a]\npsk.file = \"\\u0000\"\nlocal_addrs='::1'\nremote_addrs='::2'\n")
@example("connection.a.local_addrs = 1\nconnection.a = 5\n")
@example("[[connection]]\n[connection.a]\n")
def test_any_text_loads_or_says_where_it_is_wrong(source: str) -> None:
    loaded = load_text(source)
    assert (loaded.config is None) == any(item.severity == "error" for item in loaded.diagnostics)
    for item in loaded.diagnostics:
        assert min(item.line, item.column) >= 1
        assert item.message
    assert isinstance(render(loaded.diagnostics, source, color=True), str)


@given(st.data())
def test_a_good_file_with_one_piece_replaced_never_raises(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(GOOD)))
    stop = data.draw(st.integers(start, min(start + 40, len(GOOD))))
    source = GOOD[:start] + data.draw(words) + GOOD[stop:]
    loaded = load_text(source)
    lines = source.replace("\r\n", "\n").count("\n") + 1
    assert all(1 <= item.line <= lines for item in loaded.diagnostics)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def as_toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(name)} = {as_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value)
    text = "" if value is None else str(value)
    return '"' + "".join(f"\\U{ord(char):08x}" for char in text if not 0xD800 <= ord(char) < 0xE000) + '"'


KEYS = [
    "local_addrs", "psk", "proposals", "tunnel_address", "protected", "remote_ts", "child", "rekey_time", "local_id",
    "retransmit_base", "local_port", "encap",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), json_like))
def test_any_value_of_any_key_is_accepted_or_reported_at_that_key(values: dict[str, object]) -> None:
    source = "[connection.a]\n" + "".join(f"{name} = {as_toml(value)}\n" for name, value in values.items())
    for item in load_text(source).diagnostics:
        assert item.path.startswith("connection.a")


def test_a_missing_file_and_a_directory_are_diagnostics(tmp_path: Path) -> None:
    (missing,) = load(tmp_path / "none.toml").diagnostics
    assert str(missing) == f"{tmp_path}/none.toml:1:1: cannot read the file: No such file or directory"
    (directory,) = load(tmp_path).diagnostics
    assert directory.message == "cannot read the file: Is a directory"


def test_octets_that_are_not_utf8_are_reported_at_their_place(tmp_path: Path) -> None:
    path = tmp_path / "latin1.toml"
    path.write_bytes(b'[gateway]\nname = "gr\xfc"\n')
    (item,) = load(path).diagnostics
    assert (item.line, item.column, item.message) == (2, 11, "not UTF-8; save the file as UTF-8 text")


@pytest.mark.parametrize("octets", [b"\xef\xbb\xbf[gateway]\nname = 'a'\n", b"[gateway]\r\nname = 'a'\r\n"])
def test_windows_files_load(tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "gateway.toml"
    path.write_bytes(octets)
    loaded = load(path)
    assert loaded.diagnostics == ()
    assert loaded.config is not None
    assert loaded.config.gateway.name == "a"


def test_an_empty_file_is_a_gateway_with_defaults() -> None:
    loaded = load_text("")
    assert loaded.diagnostics == ()
    assert loaded.config is not None
    assert loaded.config.connection == {}
    assert loaded.config.gateway.route_table == 221
