"""The [ha.fabric] section: what the examples have in comments means what it says, and the core and the adapters get it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.config.diff import Impact, diff, worst
from gateway.config.effective import effective_toml
from gateway.config.load import load_text
from gateway.config.model import Config
from gateway.ha.address_values import AddressSettings, Interface
from gateway.node.address_settings import address_settings
from gateway.runtime.addresses_aws import AwsAddresses
from gateway.runtime.addresses_azure import AzureAddresses
from gateway.runtime.addresses_cloud import address_cloud
from gateway.runtime.cloud_http import CloudHttp

DIRECTORY = Path(__file__).parents[3] / "config"


def config(cloud: str, *changes: tuple[str, str]) -> Config:
    """The example with what it has in comments."""
    text = (DIRECTORY / f"{cloud}-pair.toml").read_text()
    begin, end = text.index("# [ha.fabric]"), text.index("\n[fabric]")
    text = text[:begin] + text[begin:end].replace("# ", "") + text[end:]
    text = text.replace("# shared_addresses", "shared_addresses")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    loaded = load_text(text)
    assert loaded.config is not None, loaded.diagnostics
    return loaded.config


def settings(made: Config) -> AddressSettings:
    assert made.ha is not None
    found = address_settings(made.ha)
    assert found is not None
    return found


@pytest.mark.parametrize(("cloud", "adapter"), [("azure", AzureAddresses), ("aws", AwsAddresses)])
def test_the_examples_become_the_cores_settings_and_an_adapter(cloud: str, adapter: type) -> None:
    made = config(cloud)
    (interface,) = settings(made).interfaces
    assert (interface.name, interface.addresses) == ("wan", ("10.0.1.10",)), "all of the shared ones"
    assert interface.ours != interface.theirs
    assert interface.freed == (frozenset(["10.0.1.10"]) if cloud == "azure" else frozenset())
    assert made.ha is not None
    assert made.ha.fabric is not None

    async def scene() -> None:
        http = CloudHttp()
        found = address_cloud(made.ha.fabric, http, 7)
        assert isinstance(found, adapter)
        await found.close()
        await http.close()

    asyncio.run(scene())


def test_two_interfaces_have_their_own_addresses_and_aws_reassigns_no_ipv6() -> None:
    more = (
        'addresses = ["10.0.1.10"]\n[ha.fabric.interface.lan]\nid = "eni-1"\npeer_id = "eni-2"\n'
        'addresses = ["2001:DB8:0::10", "10.0.7.10"]\n'
    )
    made = config(
        "aws",
        ('shared_addresses = ["10.0.1.10"]', 'shared_addresses = ["10.0.1.10", "2001:db8::10", "10.0.7.10"]'),
        ('peer_id = "eni-0a1b2c3d4e5f60719"\n', f'peer_id = "eni-0a1b2c3d4e5f60719"\n{more}'),
        ("[ha.fabric]\n", "[ha.fabric]\ndry_run = true\ncheck_interval = 30\n"),
    )
    found = settings(made)
    assert (found.check_interval, found.dry_run) == (30.0, True)
    assert found.interfaces[1] == Interface(
        "lan", "eni-1", "eni-2", ("2001:db8::10", "10.0.7.10"), frozenset(["2001:db8::10"])
    )
    shown = effective_toml(made)
    assert "[ha.fabric.interface.lan]" in shown
    assert load_text(shown.replace('psk = "***"', "")).config is not None


def test_without_the_section_or_shared_addresses_nobody_is_told() -> None:
    made = config("azure")
    assert made.ha is not None
    assert address_settings(made.ha.model_copy(update={"fabric": None})) is None
    assert address_settings(made.ha.model_copy(update={"shared_addresses": ()})) is None


def test_its_changes_are_made_in_place() -> None:
    before = config("azure")
    changes = diff(before, config("azure", ('cloud = "azure"\n[ha', 'cloud = "azure"\ndry_run = true\n[ha')))
    assert [change.path for change in changes] == ["ha.fabric.dry_run"]
    assert worst(changes) is Impact.IN_PLACE
