"""Configuration values as TOML text, secrets masked; what `diff.py` and `effective.py` show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface

from gateway.config.model import SecretSource

MASK = "***"


def written(value: object) -> str:
    """One value as it could stand in the file."""
    if isinstance(value, SecretSource):
        return _source(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(written(item) for item in value)}]"
    if isinstance(value, IPv4Interface | IPv6Interface):
        return _quoted(value.with_prefixlen)
    return _quoted(str(value))


def _source(source: SecretSource) -> str:
    given = [
        f"{name} = {_quoted(MASK if name == 'inline' else text)}"
        for name in ("file", "credential", "inline")
        if (text := getattr(source, name)) is not None
    ]
    return f"{{ {', '.join(given)} }}"


def _quoted(text: str) -> str:
    # JSON's escapes are a subset of TOML's; DEL is the one character TOML wants escaped beside them.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
