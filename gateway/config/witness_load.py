"""witness.toml: a checked `WitnessConfig`, or every mistake at once. The work is `load.py`'s; here are the checks across keys.

Inline secrets are not taken: the file of a machine that serves many pairs would hold the secrets of them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway.config.diagnostics import Diagnostic, KeyPath, Severity, spelled
from gateway.config.load import Checked, Form, load_as, load_text_as
from gateway.config.positions import Positions
from gateway.config.secrets import source_problem
from gateway.config.types import SecretSource
from gateway.config.witness_model import WitnessConfig

_INLINE = "inline secrets are not taken here; use file or credential"


def load_witness(path: Path) -> Checked[WitnessConfig]:
    """Reads and checks a file; never raises for what is in it, nor for its absence."""
    return load_as(_FORM, path)


def load_witness_text(source: str, file: str = "witness.toml") -> Checked[WitnessConfig]:
    """Checks a text; `file` is only for the messages."""
    return load_text_as(_FORM, source, file)


def secret_sources(config: WitnessConfig) -> Iterator[tuple[KeyPath, SecretSource]]:
    """Every secret, and the key that names it; of each cluster the current one first."""
    for name, cluster in config.cluster.items():
        yield ("cluster", name, "secret"), cluster.secret
        for number, older in enumerate(cluster.older_secrets):
            yield ("cluster", name, "older_secrets", number), older


def _lint(
    config: WitnessConfig, positions: Positions, file: str, removed: Sequence[KeyPath] | None
) -> Iterator[Diagnostic]:
    for severity, path, message in (*_numbers(config, positions), *_secrets(config), *_nobody(config, removed)):
        place = positions.at(path)
        yield Diagnostic(severity, file, place.line, place.column, spelled(path), message)


def _numbers(config: WitnessConfig, positions: Positions) -> Iterator[tuple[Severity, KeyPath, str]]:
    first: dict[int, str] = {}
    for name, cluster in config.cluster.items():
        other = first.setdefault(cluster.number, name)
        if other != name:
            line = positions.at(("cluster", other, "number")).line
            text = (
                f"{cluster.number} is cluster {other}'s, line {line}; two pairs with one number would share one lease"
            )
            yield "error", ("cluster", name, "number"), text


def _secrets(config: WitnessConfig) -> Iterator[tuple[Severity, KeyPath, str]]:
    for path, source in secret_sources(config):
        problem = _INLINE if source.inline is not None else source_problem(source, allow_inline=False)
        if problem is not None:
            yield "error", path, problem


def _nobody(config: WitnessConfig, removed: Sequence[KeyPath] | None) -> Iterator[tuple[Severity, KeyPath, str]]:
    if not config.cluster and removed is None:
        yield "warning", (), "no [cluster.NAME]: it serves nobody"


_FORM = Form(WitnessConfig, _lint, {("cluster",): 2, ("witness",): 2})
