"""The line of the configuration file beside each setting that an explanation names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.cli.client import Client, NotFound, Unreachable
from gateway.cli.views import Json

_NAMED = re.compile(r"`([a-z_]+)`")
Places = dict[str, list[Json]]


def found(client: Client, connection: str, tunnels: Sequence[Json]) -> Places:
    """By tunnel, those of its own explanation: {"key", "file", "lines", "below"}. None from a daemon that is older than this."""
    named = {tunnel["name"]: _NAMED.findall(tunnel.get("explanation") or "") for tunnel in tunnels}
    keys = sorted({key for keys in named.values() for key in keys})
    try:
        document = client.places(connection, keys) if keys else {}
    except (NotFound, Unreachable):
        return {}
    by_tunnel: Places = {}
    for place in document.get("places", ()):
        if place["key"] in named.get(place["connection"], ()):
            one = {"key": place["key"], "file": document["file"], "lines": place["lines"], "below": place["below"]}
            by_tunnel.setdefault(place["connection"], []).append(one)
    return by_tunnel


def shown(snapshot: Json, found: Places) -> Json:
    """The same picture with explanations that say where."""
    tunnels = [
        tunnel | {"explanation": _with_places(tunnel["explanation"], found[tunnel["name"]])}
        if tunnel["name"] in found
        else tunnel
        for tunnel in snapshot["tunnels"]
    ]
    return snapshot | {"tunnels": tunnels}


def _with_places(sentence: str, found: Sequence[Json]) -> str:
    for place in found:
        lines = ", ".join(f"{place['file']}:{line}" for line in place["lines"])
        where = lines or f"not set: add it below {place['file']}:{place['below']}"
        sentence = sentence.replace(f"`{place['key']}`", f"`{place['key']}` ({where})", 1)
    return sentence
