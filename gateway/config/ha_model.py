"""The [ha] section: the other gateway of the pair, and who says which of the two is active."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.config.addresses import AddressField
from gateway.config.types import Duration, Integer, Name, Port, SecretSource, Section, Switch


class HaPath(Section):
    """One more way for heartbeats beside the first, for instance through another subnet: the peer is alive while any of them works.
    Both gateways have the same names of paths. None leads through a tunnel: what would be lost with it says nothing of the gateway."""

    local_address: AddressField = Field(description="our address on this path")
    remote_address: AddressField = Field(description="the other gateway's address on this path")
    port: Port = Field(default=4780, description="UDP port on both sides")


class HaWitness(Section):
    """A third machine that runs `gatewayd --witness`: it grants the lease without which no gateway is active.

    Put it where it fails with neither of the two: another zone, or the other end of the circuit. `ttl` is how long the lease lasts that
    the active gateway renews three times in it: after a crash it is over before the other takes it, so a failover takes at least that long
    at worst, unless the lease is broken. Where nobody reaches the witness for that long, nobody is active.
    """

    address: AddressField = Field(description="of the witness node")
    port: Port = Field(default=4781, description="its UDP port")
    ttl: Duration = Field(default=1.0, ge=0.1, le=60, description="how long the lease lasts without being renewed")
    secret: SecretSource | None = Field(
        default=None, description="shared with the witness node; default: the secret of [ha]"
    )
    break_lease: Switch = Field(
        default=False,
        description="take the lease from a silent gateway before it is over: faster, and both may forward for a moment; the witness must allow it",
    )


class HaPeer(Section):
    """The other gateway of the pair. Both keep their tunnels and BGP sessions; one of them is active: it announces itself as the better
    one, and writes the route tables of [fabric].

    A standby takes over when the other is silent *and* the witness grants it the lease *and* it is healthy itself. Without [ha.witness]
    the two agree while they hear each other; what a silent peer means then is your choice: `stay`, nobody takes over (BGP still moves
    what it can), or `promote`, both may be active while they do not hear each other.
    """

    local_address: AddressField = Field(description="our address of the heartbeat")
    remote_address: AddressField = Field(description="the other gateway's address")
    port: Port = Field(default=4780, description="UDP port on both sides")
    secret: SecretSource = Field(description="shared by the pair; at least 16 octets")
    older_secret: SecretSource | None = Field(
        default=None, description="still understood, so that the secret is changed on one gateway after the other"
    )
    interval: Duration = Field(default=0.2, ge=0.02, le=10, description="between heartbeats")
    dead_after: Integer = Field(default=5, ge=2, le=100, description="heartbeats missed before the peer counts as down")
    cluster: Integer = Field(
        default=0, ge=0, le=4294967295, description="number of the pair, where one witness serves several"
    )
    mode: Literal["active-standby", "active-active"] = Field(
        default="active-standby",
        description="active-active: a healthy standby announces itself as good as the active one, so that both carry traffic",
    )
    priority: Integer = Field(
        default=100, ge=0, le=65535, description="the higher one is active where both could be, at the first election"
    )
    preempt: Switch = Field(
        default=False, description="with the higher priority, take over from a healthy active gateway"
    )
    preempt_delay: Duration = Field(default=60.0, ge=0, le=86400, description="only after full health for so long")
    without_witness: Literal["stay", "promote"] = Field(
        default="stay",
        description="without [ha.witness]: whether the silence of the active gateway makes a standby active",
    )
    drain_time: Duration = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="a gateway that handed over goes on forwarding what still comes for so long",
    )
    hold_down: Duration = Field(
        default=5.0,
        ge=0,
        le=300,
        description="after a failure of its own a gateway does not take over for so long while the other is there; doubles with each",
    )
    path: dict[Name, HaPath] = Field(
        default_factory=dict, max_length=7, description="further ways for heartbeats by name"
    )
    witness: HaWitness | None = Field(default=None, description="who grants the lease; without it there is none")
