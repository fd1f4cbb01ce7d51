"""Every mistake of mistakes.txt gets exactly the messages written there, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.diagnostics import has_errors
from gateway.config.load import load_text


def mistakes() -> list[tuple[str, str, list[str]]]:
    text = (Path(__file__).parent / "mistakes.txt").read_text()
    found = []
    for section in text.split("=== ")[1:]:
        title, _, rest = section.partition("\n")
        source, _, messages = rest.partition("\n---\n")
        found.append((title, source + "\n", [line for line in messages.split("\n") if line]))
    return found


@pytest.mark.parametrize(("title", "source", "expected"), mistakes(), ids=[title for title, _, _ in mistakes()])
def test_each_mistake_has_its_message(title: str, source: str, expected: list[str]) -> None:
    loaded = load_text(source, "gateway.toml")
    assert [str(item).removeprefix("gateway.toml:") for item in loaded.diagnostics] == expected
    assert (loaded.config is None) == has_errors(loaded.diagnostics)


def test_the_table_is_big_and_has_unique_titles() -> None:
    titles = [title for title, _, _ in mistakes()]
    assert len(titles) == len(set(titles)) > 80


def test_a_number_of_too_many_digits_and_too_deep_nesting_are_messages() -> None:
    (digits,) = load_text("x = " + "9" * 5000, "f").diagnostics
    assert digits.message == "syntax: the number has too many digits"
    (depth,) = load_text("x = " + "[" * 100_000, "f").diagnostics
    assert depth.message == "syntax: arrays or tables are nested too deep"


def test_mistakes_of_different_connections_are_told_together_with_what_lint_finds() -> None:
    source = (
        '[connection.a]\nlocal_addrs = "x"\n'
        "[bgp]\nlocal_as = 65515\n"
        '[bgp.neighbor.n]\naddress = "10.0.0.1"\nremote_as = 65001\nconnection = "a"\n'
    )
    lines = [item.line for item in load_text(source).diagnostics]
    # `connection = "a"` is not told: a exists, it only has mistakes of its own.
    assert lines == [1, 2, 4]
