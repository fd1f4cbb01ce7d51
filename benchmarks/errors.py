"""Why a case has no number: it failed, or this machine cannot run it."""

from __future__ import annotations


class BenchError(Exception):
    """The measurement is void: traffic went astray, a process died, conditions differ."""


class Unavailable(Exception):
    """A peer or a feature is not here; nothing was measured."""
