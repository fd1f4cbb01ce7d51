"""What the daemon and the service that runs ExaBGP say to each other beside ExaBGP's own lines.

    service -> daemon   hello (version, release, pid)   state   up (generation)   down   configured   refused (text)   stopped
    daemon -> service   hello (version, release)   configure (text, orphan_time, forwards)   relink   end   stop   restart

Each is one line: an exclamation mark, then a JSON object with its "kind". Neither ExaBGP nor any command for it begins a line so.
`hello` and `restart` never change: by them two releases that do not understand each other find that out, and the older
service makes way for the one that is installed. Everything else may change together with VERSION.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

VERSION = 2
SOCKET = "bgp-service.sock"
_MARK = b"!"


def frame(kind: str, **fields: object) -> bytes:
    return _MARK + json.dumps({"kind": kind, **fields}).encode()


def unframe(line: bytes) -> Mapping[str, Any] | None:
    """None: a line of ExaBGP's. What makes no sense has the kind ""."""
    if not line.startswith(_MARK):
        return None
    try:
        value = json.loads(line[1:])
    except ValueError:
        return {"kind": ""}
    return value if isinstance(value, dict) and isinstance(value.get("kind"), str) else {"kind": ""}
