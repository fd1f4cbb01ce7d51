"""Everything that is fuzzed, by name."""

from __future__ import annotations

from fuzz import codecs, endpoints
from fuzz.target import Target

TARGETS: dict[str, Target] = {target.name: target for target in (*codecs.TARGETS, *endpoints.TARGETS)}
