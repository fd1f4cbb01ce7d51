"""The configuration model of the witness, `gatewayd --witness`: witness.toml. Written as `model.py` is."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Literal

from pydantic import Field

from gateway.config.addresses import AddressField
from gateway.config.types import Duration, Integer, Name, Port, SecretSource, Section, Switch


class Witness(Section):
    """The process itself: a third machine that both gateways of a pair can ask, and that says which of them acts.

    It runs neither on one of the two nor where a fault that cuts off one of them cuts off the witness with the other: in
    another availability zone or region, or on-premises. It answers nobody who does not know a cluster's secret. What it
    granted last is in `state_directory`, one file for each cluster; whoever puts back an older file makes it grant an
    epoch twice. Nothing is read again while it runs: restart it. A restart takes no lease away, but nothing new is
    granted for a cluster's `longest_ttl`.
    """

    address: AddressField = Field(
        default=IPv4Address("0.0.0.0"),
        description='address to listen on; "0.0.0.0": every IPv4 address of the host; "::": every address',
    )
    port: Port = Field(default=4781, description="UDP port to listen on")
    state_directory: str = Field(
        default="/var/lib/gatewayd-witness", min_length=1, description="the last grants, which must survive a restart"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least severity logged")


class Cluster(Section):
    """One pair of gateways. Any number of pairs share a witness, each with its number and, better, its secret.

    A secret is changed without an interruption so: the new one into `older_secrets` here, and restart; then both into
    the gateways; then the two change places here, and restart; then the old one out of everywhere.
    """

    number: Integer = Field(ge=0, le=4294967295, description="the number that both gateways give their pair")
    secret: SecretSource = Field(description="shared by the pair and the witness; at least 16 octets")
    older_secrets: tuple[SecretSource, ...] = Field(
        default=(),
        max_length=3,
        description="taken too, but nothing is sent with them",
    )
    longest_ttl: Duration = Field(
        default=10.0,
        ge=0.1,
        le=60,
        description="the longest lease a gateway may ask for, and for how long nothing is granted after a start",
    )
    break_allowed: Switch = Field(
        default=False,
        description="a gateway that fences the other by other means may take its lease before it is over",
    )


class WitnessConfig(Section):
    """A whole witness.toml."""

    witness: Witness = Field(default=Witness(), description="the process itself")
    cluster: dict[Name, Cluster] = Field(default_factory=dict, description="pairs of gateways by name")
