"""Blocks to the terminal: rich with colours on state words on a terminal, plain aligned text when piped.

Values may come from a peer: control characters are escaped before anything is printed.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gateway.cli.views import Block, Table, aligned
from gateway.observe.text import printable

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {
    "green": ("ESTABLISHED", "INSTALLED", "Established", "READY", "UP"),
    "yellow": ("CONNECTING", "REKEYING", "REKEYED", "DELETING", "CREATED", "OpenSent", "OpenConfirm", "warning"),
    "red": ("DOWN", "NOT READY", "PROBLEM", "Idle", "Active", "Connect", "error"),
}
# A state word fills its cell, or stands between two blanks on each side of a line.
_STANDING_ALONE = r"(?:^|(?<=  ))(?:%s)(?=  |$)"


@dataclass(frozen=True, slots=True)
class Style:
    """What the global options said."""

    form: Literal["table", "wide", "json", "csv"] = "table"
    header: bool = True
    color: Literal["auto", "always", "never"] = "auto"

    @property
    def wide(self) -> bool:
        """Every column; a spreadsheet has room for them."""
        return self.form in ("wide", "csv")

    @property
    def colored(self) -> bool:
        """NO_COLOR (any value) wins over auto, not over an explicit wish."""
        if self.color == "auto":
            return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        return self.color == "always"


class NoTable(Exception):
    """There is nothing to print as CSV."""


def show_view(blocks: Sequence[Block], style: Style) -> None:
    """As `show`, or the one table among the blocks as CSV. NoTable."""
    if style.form != "csv":
        show(blocks, style)
        return
    tables = [block for block in blocks if isinstance(block, Table)]
    if len(tables) != 1:
        raise NoTable("this view is not one table; use -o json")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    clean = _cleaned(tables[0])
    if style.header:
        writer.writerow([heading or "Use" for heading in clean.headings])
    writer.writerows([_harmless(cell) for cell in row] for row in clean.rows)
    sys.stdout.flush()


def _harmless(cell: str) -> str:
    """A spreadsheet takes for a formula what begins so; what a peer says must not become one."""
    return f"'{cell}" if len(cell) > 1 and cell[0] in "=+-@" else cell


def show(blocks: Iterable[Block], style: Style) -> None:
    """Prints the blocks in order."""
    if not style.colored and not sys.stdout.isatty():
        for block in map(_clean, blocks):
            sys.stdout.write("".join(f"{line}\n" for line in _lines(block, style)))
        sys.stdout.flush()
        return
    console = _console(style)
    for block in map(_clean, blocks):
        _draw(console, block, style)


def show_json(document: Any) -> None:
    """Control characters are escaped by JSON itself."""
    print(json.dumps(document, indent=2))


def complain(text: str) -> None:
    """A refused configuration comes with several lines."""
    for line in text.splitlines():
        print(f"gatewayctl: {printable(line)}", file=sys.stderr)


def _lines(block: Block, style: Style) -> Iterable[str]:
    return [block] if isinstance(block, str) else aligned(block, style.header)


def _clean(block: Block) -> Block:
    if isinstance(block, str):
        return printable(block, 10_000)
    return _cleaned(block)


def _cleaned(table: Table) -> Table:
    return Table(table.headings, tuple(tuple(printable(cell, 10_000) for cell in row) for row in table.rows))


def _console(style: Style) -> Console:
    from rich.console import Console

    return Console(
        force_terminal=style.colored or None,
        no_color=not style.colored,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        width=None if sys.stdout.isatty() else 10_000,
    )


def _draw(console: Console, block: Block, style: Style) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    def colored(text: str) -> Text:
        shown = Text(text)
        for color, words in _COLOURS.items():
            shown.highlight_regex(_STANDING_ALONE % "|".join(words), color)
        return shown

    if isinstance(block, str):
        console.print(colored(block), soft_wrap=True)
        return
    table = RichTable(box=None, show_header=style.header, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in block.headings:
        table.add_column(heading, overflow="fold")
    for row in block.rows:
        table.add_row(*(colored(cell) for cell in row))
    console.print(table)
