"""What is generated from the model is current, and the effective configuration loads again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.config.diff import diff
from gateway.config.effective import effective_toml
from gateway.config.load import load, load_text
from gateway.config.model import Connection
from gateway.config.schema import json_schema, reference_markdown, witness_json_schema

ROOT = Path(__file__).parents[3]
EXAMPLES = ("gateway.toml", "aws-pair.toml", "azure-pair.toml", "edge-to-aws.toml", "edge-to-azure.toml", "pair.toml")


def test_the_committed_reference_is_current() -> None:
    committed = (ROOT / "docs" / "configuration.md").read_text()
    assert committed == reference_markdown(), "run: python -m gateway.config.schema > docs/configuration.md"


def test_the_committed_schema_is_current() -> None:
    committed = json.loads((ROOT / "config" / "gateway.schema.json").read_text())
    assert committed == json_schema(), "run: python -m gateway.config.schema json > config/gateway.schema.json"


def test_the_committed_schema_of_the_witness_is_current() -> None:
    committed = json.loads((ROOT / "config" / "witness.schema.json").read_text())
    assert committed == witness_json_schema(), (
        "run: python -m gateway.config.schema witness-json > config/witness.schema.json"
    )


def test_the_reference_has_the_keys_of_the_witness() -> None:
    text = reference_markdown()
    assert "| `longest_ttl` | duration, 0.1 to 60 | `10` |" in text
    assert "| `number` | integer, 0 to 4294967295 | **required** |" in text
    assert "| `older_secrets` | array of secret | `[]` |" in text


def test_the_reference_has_a_row_for_every_key() -> None:
    text = reference_markdown()
    for name, field in Connection.model_fields.items():
        if name not in ("child", "probe", "circuit"):
            assert f"| `{name}` |" in text
            assert str(field.description) in text
    assert "| `rekey_time` | duration, at least 60 | `14400` | in-place | IKE_SA rekey after this long |" in text
    assert "not set" in text
    assert "| `remote_addrs` | address | **required** | restart-tunnel |" in text


def test_the_schema_refuses_unknown_keys_and_names_what_is_required() -> None:
    connection = json_schema()["$defs"]["Connection"]
    assert connection["additionalProperties"] is False
    assert connection["required"] == ["local_addrs", "remote_addrs"]
    assert connection["properties"]["start_action"]["enum"] == ["start", "trap", "none"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_effective_configuration_loads_and_means_the_same(name: str) -> None:
    config = load(ROOT / "config" / name).config
    assert config is not None
    again = load_text(effective_toml(config))
    assert again.config is not None, again.diagnostics
    assert diff(config, again.config) == ()


def test_the_effective_configuration_marks_defaults_and_works_out_what_is_absent() -> None:
    config = load(ROOT / "config" / "gateway.toml").config
    assert config is not None
    lines = effective_toml(config).split("\n")
    assert 'remote_addrs = "198.51.100.7"' in lines
    assert "dpd_delay = 10  # default" in lines
    assert '# remote_id = "198.51.100.7"  # default' in lines
    assert '# router_id = "10.0.1.4"  # default' in lines
    assert '# local_address = "169.254.21.1"  # default' in lines
    assert "# life_time = 3960  # default" in lines
    assert "# password is not set" in lines


def test_the_effective_configuration_masks_inline_secrets_and_derives_protected() -> None:
    source = (
        "[gateway]\nallow_inline_secrets = true\n[connection.a]\nlocal_addrs = '::1'\nremote_addrs = '::2'\n"
        'psk.inline = "hunter2hunter2hunter2"\nremote_ts = ["2001:db8::/32"]\n'
    )
    config = load_text(source).config
    assert config is not None
    text = effective_toml(config)
    assert 'psk = { inline = "***" }' in text
    assert "hunter" not in text
    assert '# protected = ["2001:db8::/32"]  # default' in text
    assert (
        '[connection.a.child.net]\nlocal_ts = ["0.0.0.0/0", "::/0"]  # default\nremote_ts = ["2001:db8::/32"]\n' in text
    )
