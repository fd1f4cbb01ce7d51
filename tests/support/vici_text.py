"""The text that `swanctl --raw` prints, as data.

    list-sa event {site {uniqueid=1 version=2 ... remote-vips=[] child-sas {net-1 {name=net ...}}}}

Values hold no blanks except inside `[ ]`, where they are a list.
"""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<close>\})|(?P<key>[^\s={}\[\]]+)(?:=\[(?P<list>[^\]]*)\]|=(?P<value>[^\s}]*)|\s*(?P<open>\{)))"
)


def parse_events(text: str, event: str) -> list[dict[str, Any]]:
    """The sections of every `<event> event {...}` in the text."""
    found = []
    for match in re.finditer(rf"^{re.escape(event)} event \{{", text, re.MULTILINE):
        section, _ = _section(text, match.end())
        if section:
            found.append(section)
    return found


def _section(text: str, at: int) -> tuple[dict[str, Any], int]:
    section: dict[str, Any] = {}
    while True:
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"not swanctl's raw format at {text[at : at + 40]!r}")
        at = match.end()
        if match["close"]:
            return section, at
        if match["open"]:
            section[match["key"]], at = _section(text, at)
        elif match["list"] is not None:
            section[match["key"]] = match["list"].split()
        else:
            section[match["key"]] = match["value"]
