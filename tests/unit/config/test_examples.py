"""The example files work as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load import load
from gateway.config.model import SecretSource
from gateway.config.secrets import HA_SECRET, PSK, WITNESS_SECRET, Purpose, read_secret
from gateway.config.witness_load import load_witness, secret_sources

DIRECTORY = Path(__file__).parents[3] / "config"
WITNESS = DIRECTORY / "witness.toml"
EXAMPLES = sorted(path for path in DIRECTORY.glob("*.toml") if path != WITNESS)


def test_the_examples_are_there() -> None:
    assert {path.name for path in EXAMPLES} >= {"edge-to-aws.toml", "edge-to-azure.toml", "gateway.toml", "pair.toml"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_load_without_a_single_finding(path: Path) -> None:
    loaded = load(path)
    # What a version does not do yet is said wherever it is asked for
    assert [one.message for one in loaded.diagnostics] == []
    assert loaded.config is not None
    assert loaded.config.connection


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_their_secrets_are_read_from_where_they_say(path: Path, tmp_path: Path) -> None:
    config = load(path).config
    assert config is not None
    sources = [(connection.psk, PSK) for connection in config.connection.values()]
    sources += [(config.ha.secret, HA_SECRET)] if config.ha is not None else []
    _are_read(sources, tmp_path)


def test_the_example_of_the_witness_loads_without_a_single_finding() -> None:
    loaded = load_witness(WITNESS)
    assert loaded.diagnostics == ()
    assert loaded.config is not None
    assert len(loaded.config.cluster) == 2


def test_its_secrets_are_read_from_where_they_say(tmp_path: Path) -> None:
    config = load_witness(WITNESS).config
    assert config is not None
    sources = [(source, WITNESS_SECRET) for _, source in secret_sources(config)]
    assert len(sources) == 3
    _are_read(sources, tmp_path)


def _are_read(sources: list[tuple[SecretSource | None, Purpose]], tmp_path: Path) -> None:
    for source, purpose in sources:
        assert isinstance(source, SecretSource)
        place = tmp_path / (source.file or f"credentials/{source.credential}")
        place.parent.mkdir(exist_ok=True)
        place.write_text("correct horse battery staple\n")
        place.chmod(0o600)
        found = read_secret(source, tmp_path, tmp_path / "credentials", False, uid=place.stat().st_uid, purpose=purpose)
        assert found.secret.reveal() == b"correct horse battery staple"
        assert found.warnings == ()


def test_the_smallest_file_is_small_and_still_whole() -> None:
    path = DIRECTORY / "gateway.toml"
    assert len(path.read_text().splitlines()) <= 15
    config = load(path).config
    assert config is not None
    assert config.bgp is not None
    assert len(config.bgp.neighbor) == 2


def test_the_pair_has_a_heartbeat_and_bgp_inside_the_tunnel() -> None:
    config = load(DIRECTORY / "pair.toml").config
    assert config is not None
    assert config.ha is not None
    assert config.bgp is not None
    assert config.bgp.neighbor["edge"].connection == "onprem"
