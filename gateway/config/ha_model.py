"""The [ha] section: the other gateway of the pair, and who says which of the two is active."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.addresses import AddressField
from gateway.config.types import Duration, FilePath, Integer, Name, Port, SecretSource, Section, Switch

Ttl = Annotated[Duration, Field(ge=0.1, le=60)]
Text = Annotated[str, Field(min_length=1, max_length=512)]


class HaPath(Section):
    """One more way for heartbeats beside the first, for instance through another subnet: the peer is alive while any of them works.
    Both gateways have the same names of paths. None leads through a tunnel: what would be lost with it says nothing of the gateway."""

    local_address: AddressField = Field(description="our address on this path")
    remote_address: AddressField = Field(description="the other gateway's address on this path")
    port: Port = Field(default=4780, description="UDP port on both sides")


class HaWitness(Section):
    """Who grants the lease without which no gateway is active: a third machine that runs `gatewayd --witness`, or a record that both
    gateways reach, in a cloud's storage or in an etcd of your own.

    A node tells who waits the moment the lease is over; put it where it fails with neither of the two: another zone, or the other end of
    the circuit. A storage is asked again and again, so that a failover takes up to `ttl` and a third of it longer. Both gateways name
    the members of one and the same etcd: with two of them, each would grant what it has. The active gateway renews the
    lease three times in `ttl`. After a crash it is over before the other takes it, so a failover takes at least the rest of it, unless the
    lease is broken. Where nobody reaches the witness for that long, nobody is active.
    """

    kind: Literal["node", "azure-blob", "dynamodb", "s3", "etcd"] = Field(
        default="node", description="`gatewayd --witness`, or a record in the cloud's storage or in etcd"
    )
    address: AddressField | None = Field(default=None, description="node: its address")
    port: Port = Field(default=4781, description="node: its UDP port")
    secret: SecretSource | None = Field(default=None, description="node: shared with it; default: the secret of [ha]")
    url: Text | None = Field(
        default=None, description="azure-blob: the blob, https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME"
    )
    client_id: Text | None = Field(
        default=None, description="azure-blob: which managed identity, where the VM has several; default: the VM's own"
    )
    imds_url: Text = Field(default="http://169.254.169.254", description="azure-blob: the instance metadata service")
    table: Text | None = Field(
        default=None, description="dynamodb: the table, with the string `name` as its partition key"
    )
    bucket: Text | None = Field(default=None, description="s3: the bucket")
    key: Text | None = Field(default=None, description="dynamodb, s3, etcd: the item, object or key, one for each pair")
    region: Text | None = Field(
        default=None,
        description="dynamodb, s3: the region, e.g. eu-central-1; default: AWS_DEFAULT_REGION of the unit's environment. The instance is not asked for it",
    )
    endpoint_url: Text | None = Field(
        default=None, description="dynamodb, s3: the service's endpoint, e.g. a private one; default: the region's"
    )
    endpoints: tuple[Text, ...] = Field(
        default=(), max_length=9, description="etcd: its members, https://HOST:2379; any that answers will do"
    )
    ca: FilePath | None = Field(
        default=None, description="etcd: PEM file of the authority of its members' certificates; default: the system's"
    )
    certificate: FilePath | None = Field(
        default=None,
        description="etcd: PEM file of the certificate with which we say who we are; read again when it changes",
    )
    private_key: FilePath | None = Field(default=None, description="etcd: PEM file of the key of `certificate`")
    ttl: Ttl | None = Field(
        default=None,
        description="how long the lease lasts without being renewed; default: 1 s with a node, 6 s with a storage",
    )
    break_lease: Switch = Field(
        default=False,
        description="take the lease from a silent gateway before it is over: faster, and both may forward for a moment; a node must allow it",
    )


class HaVote(Section):
    """The vote of `without_witness = "vote"`: places that both gateways should reach, outside of every tunnel, and that answer ICMP
    echo: routers, the edges' outer addresses, DNS servers; best an odd number of them, behind different links. A silent peer is taken over from where
    more than half of them answer; who is active, hears nothing of the other, and does not reach more than half is active no more.

    Weaker than any witness: where both gateways reach the targets and not each other, both are active.
    """

    targets: tuple[AddressField, ...] = Field(min_length=1, max_length=15, description="addresses that answer pings")
    interval: Duration = Field(default=0.3, ge=0.05, le=10, description="between pings of each")
    multiplier: Integer = Field(default=3, ge=2, le=100, description="unanswered in a row until a target is missed")


class HaInterface(Section):
    """One of this gateway's network interfaces, and the other gateway's in the same subnet, between which shared addresses go."""

    id: Text = Field(description="our network interface: Azure /subscriptions/.../networkInterfaces/NAME, AWS eni-...")
    peer_id: Text = Field(description="the other gateway's, in the same subnet")
    addresses: tuple[AddressField, ...] = Field(
        default=(), max_length=64, description="those of `shared_addresses` that are at this interface; default: all"
    )


class HaFabric(Section):
    """The cloud that has to be told where the shared addresses are: no cloud learns it from what a gateway announces on its link. Whoever
    becomes active assigns them to its own network interface, at the moment at which its kernel gets them, and looks every `check_interval`
    whether they are still there. An address is at neither interface's first place, but a secondary one; no cloud moves it between subnets.

    AWS: AssignPrivateIpAddresses, which takes an address from the other and an Elastic IP with it; boto3, the extra `aws`, is needed.
    Azure: two writes, the address off the other's interface and then to ours, each of which ARM may take tens of seconds for; a public
    IP address goes along. Which permissions, says `docs/ARCHITECTURE.md`. What the cloud refuses, `gatewayctl status`, `ha` and `fabric` say.
    """

    cloud: Literal["azure", "aws"] = Field(description="whose network interfaces")
    interface: dict[Name, HaInterface] = Field(default_factory=dict, description="network interfaces by name")
    dry_run: Switch = Field(default=False, description="write nothing; `gatewayctl fabric` shows what would be written")
    check_interval: Duration = Field(
        default=60.0, ge=5, le=3600, description="between readings, by which changes of others are found"
    )
    client_id: Text | None = Field(
        default=None, description="Azure: which managed identity, where the VM has several; default: the VM's own"
    )
    management_url: Text = Field(
        default="https://management.azure.com", description="Azure: ARM, another one in sovereign clouds"
    )
    imds_url: Text = Field(default="http://169.254.169.254", description="Azure: the instance metadata service")
    api_version: Text = Field(default="2025-05-01", description="Azure: api-version of Microsoft.Network")
    region: Text | None = Field(
        default=None,
        description="AWS: the region, e.g. eu-central-1; default: AWS_DEFAULT_REGION of the unit's environment. The instance is not asked for it",
    )
    endpoint_url: Text | None = Field(
        default=None, description="AWS: EC2's endpoint, e.g. a private one; default: the region's"
    )


class HaPeer(Section):
    """The other gateway of the pair. Both keep their tunnels and BGP sessions; one of them is active: it announces itself as the better
    one, and writes the route tables of [fabric].

    A standby takes over when the other is silent *and* the witness grants it the lease *and* it is healthy itself. Without [ha.witness]
    the two agree while they hear each other; what a silent peer means then is your choice: `stay`, nobody takes over (BGP still moves
    what it can), `promote`, both may be active while they do not hear each other, or `vote`, whoever reaches most of the targets of
    [ha.vote], which may be both.
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
    without_witness: Literal["stay", "promote", "vote"] = Field(
        default="stay",
        description="without [ha.witness]: whether the silence of the active gateway makes a standby active; vote: by [ha.vote]",
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
        description="after a failure of its own a gateway does not take over for so long while the other acts or would; doubles with each",
    )
    scheduled_events: Literal["off", "azure", "aws"] = Field(
        default="off",
        description="before what the cloud's metadata service announces for this machine the other gateway becomes active. azure: Scheduled Events; aws: maintenance from 15 minutes before its time, the end of a spot instance and the recommendation to replace it (IMDSv2)",
    )
    imds_url: Text = Field(
        default="http://169.254.169.254", description="scheduled_events: the instance metadata service"
    )
    shared_addresses: tuple[AddressField, ...] = Field(
        default=(),
        max_length=64,
        description="addresses that only the active gateway has: a connection with such a `local_addrs` goes on at the other gateway as it is, and hosts may have one as their router; a cloud is told by [ha.fabric]",
    )
    fabric: HaFabric | None = Field(
        default=None, description="the cloud that moves the shared addresses; without it the link alone is told"
    )
    path: dict[Name, HaPath] = Field(
        default_factory=dict, max_length=7, description="further ways for heartbeats by name"
    )
    vote: HaVote | None = Field(default=None, description='the targets of `without_witness = "vote"`')
    witness: HaWitness | None = Field(default=None, description="who grants the lease; without it there is none")
