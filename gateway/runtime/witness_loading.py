"""From the path of a witness.toml to the settings of the witness node; every problem at once. As `loading.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.config.diagnostics import Diagnostic, KeyPath, Severity, in_order
from gateway.config.load import Checked
from gateway.config.positions import index
from gateway.config.secrets import WITNESS_SECRET
from gateway.config.witness_load import load_witness, secret_sources
from gateway.config.witness_model import WitnessConfig
from gateway.ha.witness_node import ClusterSettings
from gateway.runtime.loading import LoadError, at_place
from gateway.runtime.secrets_reader import SecretReader


@dataclass(frozen=True, slots=True)
class LoadedWitness:
    """What a witness.toml came to; `clusters` and their `names` by number."""

    config: WitnessConfig
    clusters: dict[int, ClusterSettings]
    names: dict[int, str]


def load_witness_all(path: Path) -> tuple[LoadedWitness, list[str]]:
    """The loaded configuration and its warnings; LoadError when it cannot be used."""
    found = load_witness(path)
    if found.config is None:
        raise LoadError(found.diagnostics, found.source)
    secrets, reader = _read(found.config, path.parent, checking=False)
    told = in_order((*found.diagnostics, *_placed(path, found.source, reader)))
    if reader.problems:
        raise LoadError(told, found.source)
    clusters = {
        one.number: ClusterSettings(tuple(secrets[name]), one.longest_ttl, one.break_allowed)
        for name, one in found.config.cluster.items()
    }
    names = {one.number: name for name, one in found.config.cluster.items()}
    return LoadedWitness(found.config, clusters, names), [str(one) for one in told]


def check_witness_secrets(path: Path, found: Checked[WitnessConfig]) -> tuple[Diagnostic, ...]:
    """What `gatewayd --witness --check --secrets` finds in the files that a good configuration names."""
    if found.config is None:
        return ()
    return _placed(path, found.source, _read(found.config, path.parent, checking=True)[1])


def _read(config: WitnessConfig, directory: Path, checking: bool) -> tuple[dict[str, list[bytes]], SecretReader]:
    """The secrets of each cluster by its name, the current one first."""
    reader = SecretReader(directory, checking)
    secrets: dict[str, list[bytes]] = {}
    for path, source in secret_sources(config):
        secrets.setdefault(str(path[1]), []).append(reader.read(path, source, WITNESS_SECRET))
    return secrets, reader


def _placed(path: Path, source: str, reader: SecretReader) -> tuple[Diagnostic, ...]:
    positions = index(source)
    told: list[tuple[Severity, KeyPath, str]] = [("error", *one) for one in reader.problems]
    told += [("warning", *one) for one in reader.warnings]
    return tuple(at_place(positions, path, *one) for one in told)
