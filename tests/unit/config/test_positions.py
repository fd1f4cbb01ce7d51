"""The position index finds every key that tomllib finds, where it stands."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from gateway.config.diagnostics import KeyPath
from gateway.config.positions import Position, index

SOURCE = '''\
top = 1
"quoted key".'other' = "a # no comment"   # comment = 5
text = """
[not.a.table] \\"""
key = 5"""
literal = \'\'\'
also = 1
\'\'\'

[a.b]   # header
x.y = { p = 1, q.r = [ { s = 2 }, { s = 3 } ] }
list = [
  "one", # first = 1
  [ "two" ],
]
  [ "dotted.name" . c ]
  k = '[x]'
[[array]]
n = 1
[array.sub]
m = 2
[[array]]
n = 3
[[array.deep]]
o = 4
'''

EXPECTED: dict[KeyPath, tuple[int, int]] = {
    ("top",): (1, 1),
    ("quoted key",): (2, 1),
    ("quoted key", "other"): (2, 14),
    ("text",): (3, 1),
    ("literal",): (6, 1),
    ("a",): (10, 1),
    ("a", "b"): (10, 1),
    ("a", "b", "x"): (11, 1),
    ("a", "b", "x", "y"): (11, 3),
    ("a", "b", "x", "y", "p"): (11, 9),
    ("a", "b", "x", "y", "q"): (11, 16),
    ("a", "b", "x", "y", "q", "r"): (11, 18),
    ("a", "b", "x", "y", "q", "r", 0): (11, 24),
    ("a", "b", "x", "y", "q", "r", 0, "s"): (11, 26),
    ("a", "b", "x", "y", "q", "r", 1): (11, 35),
    ("a", "b", "x", "y", "q", "r", 1, "s"): (11, 37),
    ("a", "b", "list"): (12, 1),
    ("a", "b", "list", 0): (13, 3),
    ("a", "b", "list", 1): (14, 3),
    ("a", "b", "list", 1, 0): (14, 5),
    ("dotted.name",): (16, 3),
    ("dotted.name", "c"): (16, 3),
    ("dotted.name", "c", "k"): (17, 3),
    ("array",): (18, 1),
    ("array", 0): (18, 1),
    ("array", 0, "n"): (19, 1),
    ("array", 0, "sub"): (20, 1),
    ("array", 0, "sub", "m"): (21, 1),
    ("array", 1): (22, 1),
    ("array", 1, "n"): (23, 1),
    ("array", 1, "deep"): (24, 1),
    ("array", 1, "deep", 0): (24, 1),
    ("array", 1, "deep", 0, "o"): (25, 1),
}


def paths(value: object, here: KeyPath = ()) -> list[KeyPath]:
    """Every path of a parsed document."""
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    found: list[KeyPath] = [here] if here else []
    for key, item in items:
        found += paths(item, (*here, key))
    return found


def test_every_kind_of_key_has_its_line_and_column() -> None:
    assert set(paths(tomllib.loads(SOURCE))) == set(EXPECTED)
    assert index(SOURCE).places == EXPECTED
    assert index(SOURCE).duplicates == ()


def test_a_path_that_is_not_written_is_at_the_nearest_table() -> None:
    positions = index(SOURCE)
    assert positions.at(("a", "b", "missing", "deeper")) == (10, 1)
    assert positions.at(("nowhere",)) == (1, 1)
    assert not positions.has(("nowhere",))
    assert positions.has(("a", "b", "list", 1))


def test_carriage_returns_do_not_count() -> None:
    assert index(SOURCE.replace("\n", "\r\n")).places == EXPECTED


def test_keys_given_twice_are_named_with_both_places() -> None:
    twice = index("[a]\nb = 1\n[c]\n[a]\nb = 2\n").duplicates
    assert [(item.path, item.first, item.second) for item in twice] == [
        (("a",), Position(1, 1), Position(4, 1)),
        (("a", "b"), Position(2, 1), Position(5, 1)),
    ]


names = st.text(st.characters(min_codepoint=1, max_codepoint=0xD7FF), min_size=1, max_size=6) | st.sampled_from(
    ["a", "b-1", "_"]
)
values = st.recursive(
    st.integers(-9, 9) | st.booleans() | st.text(st.characters(min_codepoint=1, max_codepoint=0xD7FF), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


def key_text(name: str) -> str:
    return name if name in ("a", "b-1", "_") else '"' + "".join(f"\\U{ord(char):08X}" for char in name) + '"'


def value_text(value: object, blank: str) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f" {key_text(name)} = {value_text(item, ' ')}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + blank + ("," + blank).join(value_text(item, blank) for item in value) + blank + "]"
    if isinstance(value, str):
        return key_text(value) if value not in ("a", "b-1", "_") else f"'{value}'"
    return str(value).lower()


@given(
    st.dictionaries(names, st.dictionaries(names, values, max_size=4), max_size=4),
    st.sampled_from(["", " ", "\n", " # c\n "]),
)
def test_every_path_of_any_document_is_found_where_its_text_begins(document: dict[str, object], blank: str) -> None:
    source = ""
    for table, content in document.items():
        assert isinstance(content, dict)
        source += f"[{key_text(table)}]\n"
        source += "".join(f"{key_text(name)} = {value_text(item, blank)}\n" for name, item in content.items())
    assert tomllib.loads(source) == document
    places = index(source).places
    assert set(places) == set(paths(document))
    lines = source.split("\n")
    for path, place in places.items():
        rest = lines[place.line - 1][place.column - 1 :]
        last = path[-1]
        assert rest.startswith("[" if len(path) == 1 else key_text(last) if isinstance(last, str) else rest[0])


@given(st.text())
def test_any_text_is_indexed_without_an_exception(source: str) -> None:
    index(source)
    index("a = " + source)
    index("[" + source)


def test_deep_nesting_ends_the_scan_quietly() -> None:
    positions = index("a = 1\nb = " + "[" * 5000 + "\n")
    assert positions.has(("a",))
