"""The [fabric] section: the example files mean what they say, and the core and the adapters get it."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from pathlib import Path

from gateway.config.diff import Impact, diff, worst
from gateway.config.load import load, load_text
from gateway.config.model import Config
from gateway.ha.fabric_values import Hops, Ownership
from gateway.node.fabric_settings import fabric_settings
from gateway.runtime.cloud_http import CloudHttp
from gateway.runtime.fabric_aws import AwsFabric
from gateway.runtime.fabric_azure import AzureFabric
from gateway.runtime.fabric_cloud import cloud_fabric

DIRECTORY = Path(__file__).parents[3] / "config"


def example(name: str) -> Config:
    config = load(DIRECTORY / name).config
    assert config is not None
    return config


def test_azures_example_becomes_the_cores_settings() -> None:
    config = example("azure-pair.toml")
    settings = fabric_settings(config)
    assert settings is not None
    assert (settings.cluster, settings.node, settings.ownership, settings.calls_at_once) == (
        "vnet1",
        "gw-a",
        Ownership.NAME,
        1,
    )
    assert (settings.ours, settings.theirs) == (Hops("10.0.1.4"), Hops("10.0.1.5"))
    assert [table.name for table in settings.tables] == ["users", "servers"]
    assert settings.tables[0].prefixes == (ip_network("172.16.0.0/12"),), "those of the section"
    assert settings.tables[1].effective_of.endswith("/networkInterfaces/vm1")
    assert settings.gateway_subnet == ip_network("10.0.255.0/27")
    assert isinstance(cloud_fabric(config.fabric, CloudHttp(), 1), AzureFabric)


def test_awss_example_becomes_the_cores_settings() -> None:
    config = example("aws-pair.toml")
    settings = fabric_settings(config)
    assert settings is not None
    assert (settings.ownership, settings.calls_at_once) == (Ownership.PREFIX, 4)
    assert settings.ours == Hops("eni-0a1b2c3d4e5f60718", "eni-0a1b2c3d4e5f60718")
    adapter = cloud_fabric(config.fabric, CloudHttp(), 7)
    assert isinstance(adapter, AwsFabric)
    assert adapter._settings.turn_off_check
    assert adapter._settings.mark == 7
    asyncio.run(adapter.close())


def test_without_the_section_there_is_nothing_to_do() -> None:
    assert fabric_settings(example("pair.toml")) is None


def test_a_dry_run_turns_no_check_off() -> None:
    source = (DIRECTORY / "aws-pair.toml").read_text().replace("[fabric]", "[fabric]\ndry_run = true")
    config = load_text(source).config
    assert config is not None
    adapter = cloud_fabric(config.fabric, CloudHttp(), None)
    assert not adapter._settings.turn_off_check
    asyncio.run(adapter.close())


def test_a_changed_table_disturbs_no_tunnel() -> None:
    source = (DIRECTORY / "aws-pair.toml").read_text()
    other = source.replace("[fabric.table.servers]", "[fabric.table.hosts]").replace(
        '172.16.0.0/12"]\nsource', '172.16.0.0/13"]\nsource'
    )
    old, new = load_text(source).config, load_text(other).config
    assert old is not None
    assert new is not None
    changes = diff(old, new)
    assert [str(change).split(" ")[:2] for change in changes] == [
        ["~", "fabric.prefixes"], ["-", "fabric.table.servers"], ["+", "fabric.table.hosts"]
    ]  # fmt: skip
    assert worst(changes) is Impact.IN_PLACE
