"""The configuration as a JSON Schema for editors and as a reference for people, from the model alone.

python -m gateway.config.schema > docs/configuration.md
python -m gateway.config.schema json > config/gateway.schema.json
python -m gateway.config.schema witness-json > config/witness.schema.json
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config.derive import SHORTHANDS
from gateway.config.diff import IMPACTS
from gateway.config.dscp import parse_dscp
from gateway.config.model import (
    Bfd,
    Bgp,
    Child,
    Circuit,
    Config,
    Connection,
    DataPlane,
    Fabric,
    FabricTable,
    Gateway,
    HaFabric,
    HaInterface,
    HaPath,
    HaPeer,
    HaVote,
    HaWitness,
    Instance,
    Metrics,
    Neighbor,
    Observe,
    Policy,
    PolicyRule,
    PrefixList,
    Probe,
    SecretSource,
)
from gateway.config.proposals import keywords
from gateway.config.units import parse_count, parse_duration, parse_octets, parse_workers
from gateway.config.witness_model import Cluster, Witness, WitnessConfig
from gateway.config.written import written

_SECTIONS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("gateway", "gateway", Gateway),
    ("dataplane", "dataplane", DataPlane),
    ("connection.NAME", "connection.*", Connection),
    ("connection.NAME.child.NAME", "connection.*.child.*", Child),
    ("connection.NAME.circuit", "connection.*.circuit", Circuit),
    ("connection.NAME.probe", "connection.*.probe", Probe),
    ("instance.NAME", "instance.*", Instance),
    ("bgp", "bgp", Bgp),
    ("bgp.neighbor.NAME", "bgp.neighbor.*", Neighbor),
    ("bgp.policy.NAME", "bgp.policy.*", Policy),
    ("bgp.policy.NAME.rule.NAME", "bgp.policy.*.rule.*", PolicyRule),
    ("bgp.prefix_list.NAME", "bgp.prefix_list.*", PrefixList),
    ("bgp.neighbor.NAME.bfd", "bgp.neighbor.*.bfd", Bfd),
    ("ha", "ha", HaPeer),
    ("ha.path.NAME", "ha.path.*", HaPath),
    ("ha.fabric", "ha.fabric", HaFabric),
    ("ha.fabric.interface.NAME", "ha.fabric.interface.*", HaInterface),
    ("ha.vote", "ha.vote", HaVote),
    ("ha.witness", "ha.witness", HaWitness),
    ("fabric", "fabric", Fabric),
    ("fabric.table.NAME", "fabric.table.*", FabricTable),
    ("metrics", "metrics", Metrics),
    ("observe", "observe", Observe),
)
_QUANTITIES: dict[Callable[[object], object], str] = {
    parse_duration: "duration",
    parse_octets: "octets",
    parse_count: "count",
    parse_workers: 'integer, 1 to 64, or `"auto"`',
    parse_dscp: '`"copy"`, integer, 0 to 63, or a name: `"cs0"` to `"cs7"`, `"af11"` to `"af43"`, `"ef"`, `"va"`, `"le"`',
}
_FORMATS = {"ip-address": "address", "ipv4": "IPv4 address", "ip-prefix": "prefix", "ip-interface": "address/length"}

_INTRODUCTION = """\
# gateway.toml

The reference of every key, generated from the model (`gateway/config/schema.py`). `gatewayd --check --config FILE`
names every mistake with line and column; unknown keys are errors. With `--secrets` it reads the files of secrets and
certificates too, as whoever runs it may. Examples are in `config/`.

- **duration**: seconds as a number, or `"500ms"`, `"30s"`, `"45m"`, `"4h"`, `"1d"`.
- **octets**: a number, or `"500M"`, `"100G"` (decimal), `"64Mi"`, `"1Gi"` (binary). **count**: a number, or `"10M"`.
- **name**: 1 to 32 letters, digits, `_`, `.` or `-`.
- **secret**: a table with exactly one of `file`, `credential`, `inline`, e.g. `psk.file = "secrets/onprem.psk"`.
- **on reload** says what a changed key does to what runs: `none`, `in-place`, `rekey`, `restart-tunnel`,
  `restart-session` (BGP), `restart-pair` (who is active gives it up, and whoever gets the new lease first has it),
  `restart-daemon`.
"""


_WITNESS = """\
# witness.toml

Of `gatewayd --witness`, which grants each pair of gateways its lease. Checked by `gatewayd --witness --check --config FILE`.
Secrets are written as in gateway.toml, but not `inline`.
"""


def json_schema(model: type[BaseModel] = Config, title: str = "gateway.toml") -> dict[str, Any]:
    """JSON Schema (2020-12) of a whole file."""
    schema = model.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | {
        key: value for key, value in schema.items() if key != "title"
    }


def witness_json_schema() -> dict[str, Any]:
    """The same of witness.toml."""
    return json_schema(WitnessConfig, "witness.toml")


def reference_markdown() -> str:
    """docs/configuration.md."""
    lines = [_INTRODUCTION]
    for title, pattern, model in _SECTIONS:
        lines += [f"## [{title}]", "", inspect.getdoc(model) or "", "", *_rows(pattern, model), ""]
    lines += ["## Secrets", "", inspect.getdoc(SecretSource) or "", "", "| key | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {field.description} |" for name, field in SecretSource.model_fields.items()]
    lines += [
        "",
        "Files must belong to root or the service user and have no mode bits for group and others. A trailing",
    ]
    lines += ["newline is not part of the secret. `0x...` is hexadecimal and `0s...` base64, as in strongSwan.", ""]
    lines += [*_proposal_lines(), "", *_witness_lines()]
    return "\n".join(lines) + "\n"


def _rows(pattern: str, model: type[BaseModel]) -> Iterator[str]:
    yield "| key | type | default | on reload | meaning |"
    yield "|---|---|---|---|---|"
    for name, field in model.model_fields.items():
        if get_origin(field.annotation) is dict or _is_table(field):
            continue
        impact = "rekey" if model is Connection and name in SHORTHANDS else str(IMPACTS[f"{pattern}.{name}"])
        yield f"| `{name}` | {_type(field)} | {_default(field)} | {impact} | {field.description} |"


def _witness_lines() -> Iterator[str]:
    yield from _WITNESS.split("\n")
    for title, model in (("witness", Witness), ("cluster.NAME", Cluster)):
        yield from (f"## [{title}]", "", inspect.getdoc(model) or "", "")
        yield from ("| key | type | default | meaning |", "|---|---|---|---|")
        for name, field in model.model_fields.items():
            yield f"| `{name}` | {_type(field)} | {_default(field)} | {field.description} |"
        yield ""


def _is_table(field: FieldInfo) -> bool:
    """One with a heading of its own."""
    return any(section in get_args(field.annotation) for _, _, section in _SECTIONS)


def _proposal_lines() -> Iterator[str]:
    yield "## Proposals"
    yield ""
    yield "Keywords joined by `-`, several of a kind allowed, first preferred: `aes256gcm16-prfsha384-ecp384`. An IKE"
    yield "proposal needs encryption, key exchange, and a PRF where encryption has its own integrity (GCM and ChaCha20; else"
    yield "the integrity's hash). An ESP proposal takes no PRF; with a key exchange method it has PFS. Neither GCM nor ChaCha20"
    yield "mixes with CBC in one proposal. `modp1024`, `gcm8` and `gcm12` are only used where they are written, and warned"
    yield "about: the latter cut the integrity check value to 8 and 12 octets, so that forged packets pass more easily."
    yield ""
    yield "| transform | keywords |"
    yield "|---|---|"
    for kind, names in keywords().items():
        yield f"| {kind} | {' '.join(f'`{name}`' for name in names)} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None or value == ():
        return "not set" if value is None else "`[]`"
    return f"`{written(value)}`"


def _type(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    inner = [item for item in get_args(annotation) if item is not type(None)]
    if type(None) in get_args(annotation):
        annotation = inner[0] if len(inner) == 1 else annotation
    return _named_type(annotation, tuple(field.metadata)) + _range(field.metadata)


def _named_type(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    if hasattr(annotation, "__metadata__"):
        return _named_type(annotation.__origin__, (*metadata, *annotation.__metadata__))
    for item in metadata:
        if getattr(item, "func", None) in _QUANTITIES:
            return _QUANTITIES[item.func]
        if isinstance(form := getattr(item, "json_schema", None), dict) and form.get("format") in _FORMATS:
            return _FORMATS[form["format"]]
        if getattr(item, "pattern", None):
            return "name"
    if get_origin(annotation) is tuple:
        return f"array of {_named_type(get_args(annotation)[0])}"
    choices = [item for item in get_args(annotation) if isinstance(item, str)]
    if choices:
        return " \\| ".join(f'`"{item}"`' for item in choices)
    return {int: "integer", float: "number", bool: "boolean", str: "text", SecretSource: "secret"}[annotation]


def _range(metadata: list[Any]) -> str:
    bounds = {word: getattr(item, word) for item in metadata for word in ("gt", "ge", "le") if hasattr(item, word)}
    low, high = bounds.get("ge"), bounds.get("le")
    if low is not None and high is not None:
        return f", {low:g} to {high:g}" if high < 10**6 else f", {low} to {high}"
    if low is not None and low > 0:
        return f", at least {low:g}"
    return ", more than 0" if "gt" in bounds else ""


_SCHEMAS = {"json": json_schema, "witness-json": witness_json_schema}

if __name__ == "__main__":
    wanted = _SCHEMAS.get(sys.argv[1]) if sys.argv[1:] else None
    print(json.dumps(wanted(), indent=1) if wanted is not None else reference_markdown(), end="")
