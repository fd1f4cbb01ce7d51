"""The types of configuration values, with what they accept, and the base of every section.

Values that need parsing beyond their type become their final type here, so that nothing downstream parses text again.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema

from gateway.config.dscp import DSCP_NAMES, parse_dscp
from gateway.config.identity import parse_identity
from gateway.config.proposals import parse_esp_proposal, parse_ike_proposal
from gateway.config.units import parse_count, parse_duration, parse_octets, parse_workers


def _ike_proposal(text: str) -> str:
    parse_ike_proposal(text)
    return text


def _esp_proposal(text: str) -> str:
    parse_esp_proposal(text)
    return text


def _identity(text: str) -> str:
    parse_identity(text)
    return text


def _interface(text: str) -> str:
    """As the kernel takes names (IFNAMSIZ)."""
    if not 1 <= len(text.encode()) <= 15 or text in (".", "..") or any(c in "/:" or c.isspace() for c in text):
        raise ValueError(f"'{text}' is no interface name: 1 to 15 octets, no '/', ':' or space")
    return text


_QUANTITY = WithJsonSchema({"type": ["number", "string"]})
Duration = Annotated[float, BeforeValidator(parse_duration), _QUANTITY]
Octets = Annotated[int, BeforeValidator(parse_octets), _QUANTITY]
Count = Annotated[int, BeforeValidator(parse_count), _QUANTITY]
# TOML has types: "179" and true are no numbers, 1 is no switch.
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Switch = Annotated[bool, Strict()]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")]
Asn = Annotated[int, Strict(), Field(ge=1, le=4294967294)]
Metric = Annotated[int, Strict(), Field(ge=0, le=4294967295)]
Port = Annotated[int, Strict(), Field(ge=1, le=65535)]
Workers = Annotated[
    int | Literal["auto"],
    BeforeValidator(parse_workers),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 64}, {"const": "auto"}]}),
]
Dscp = Annotated[
    int | Literal["copy"],
    BeforeValidator(parse_dscp),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 63}, {"enum": ["copy", *DSCP_NAMES]}]}),
]
# glibc's cpu_set_t ends there.
Cpu = Annotated[int, Strict(), Field(ge=0, le=1023)]
FilePath = Annotated[str, Field(min_length=1)]
InterfaceName = Annotated[str, AfterValidator(_interface)]
IkeProposal = Annotated[str, AfterValidator(_ike_proposal)]
EspProposal = Annotated[str, AfterValidator(_esp_proposal)]
Identity = Annotated[str, AfterValidator(_identity)]


class Section(BaseModel):
    """Unknown keys are errors; values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretSource(Section):
    """Where a secret comes from: exactly one of the three."""

    file: str | None = Field(
        default=None,
        description="path, relative to the configuration file; owner root or the service user, mode 0600 or less",
    )
    credential: str | None = Field(default=None, description="name of a systemd credential (LoadCredential=)")
    inline: str | None = Field(
        default=None, repr=False, description="the secret itself; needs gateway.allow_inline_secrets = true"
    )
