"""The configuration model: every key, its type, default, unit and one line of help.

Keys follow swanctl.conf where it has a word. `types.py` has the types of values, `bgp_model.py` the [bgp] section.
Proposals and identities stay text, checked here and parsed by `proposals.py` and `identity.py`.
`load.py` adds FILE:LINE:COL, `lint.py` the checks across keys, `secrets.py` reads the secrets,
`derive.py` says what the shorthands and defaults amount to.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Literal

from pydantic import Field

from gateway.config.addresses import Address, AddressField, Interface, InterfaceField, Prefix, PrefixField
from gateway.config.bgp_model import Bgp, Neighbor, Policy, PolicyRule, PrefixList
from gateway.config.fabric_model import Fabric, FabricTable
from gateway.config.ha_model import HaFabric, HaInterface, HaPath, HaPeer, HaVote, HaWitness
from gateway.config.instance_model import Instance
from gateway.config.liveness_model import Bfd, Circuit, Probe
from gateway.config.types import (
    Count,
    Cpu,
    Dscp,
    Duration,
    EspProposal,
    FilePath,
    Identity,
    IkeProposal,
    Integer,
    InterfaceName,
    Name,
    Number,
    Octets,
    Port,
    SecretSource,
    Section,
    Switch,
    Workers,
)

__all__ = [
    "Address",
    "Bfd",
    "Bgp",
    "Child",
    "Circuit",
    "Config",
    "Connection",
    "DataPlane",
    "Fabric",
    "FabricTable",
    "Gateway",
    "HaFabric",
    "HaInterface",
    "HaPath",
    "HaPeer",
    "HaVote",
    "HaWitness",
    "Instance",
    "Interface",
    "Metrics",
    "Neighbor",
    "Observe",
    "Policy",
    "PolicyRule",
    "Prefix",
    "PrefixList",
    "Probe",
    "SecretSource",
    "Section",
]


_EVERYTHING: tuple[Prefix, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


class Child(Section):
    """One CHILD_SA of a connection."""

    local_ts: tuple[PrefixField, ...] = Field(
        default=_EVERYTHING, min_length=1, description="traffic selectors on this side"
    )
    remote_ts: tuple[PrefixField, ...] = Field(
        default=_EVERYTHING, min_length=1, description="traffic selectors on the peer's side"
    )
    esp_proposals: tuple[EspProposal, ...] = Field(
        default=("aes256gcm16-ecp256", "aes256gcm16", "aes128gcm16", "aes256-sha256"),
        min_length=1,
        max_length=64,
        description="ESP proposals in order; a key exchange method means PFS at rekey",
    )
    rekey_time: Duration = Field(
        default=3600.0, ge=60, description="CHILD_SA rekey after this long; a random part of it earlier"
    )
    rekey_bytes: Octets = Field(
        default=0, ge=0, description="rekey after this many octets, a random part of it earlier; 0: off"
    )
    rekey_packets: Count = Field(
        default=0, ge=0, description="rekey after this many packets, a random part of it earlier; 0: off"
    )
    life_time: Duration | None = Field(default=None, description="hard end of a CHILD_SA; default: 110 % of rekey_time")
    replay_window: Integer = Field(default=4096, ge=64, le=65536, description="anti-replay window in packets")


class Connection(Section):
    """One remote site: an IKE_SA, its CHILD_SAs and its TUN.

    `link_mtu` less ESP is how long an inner packet may be. A longer IPv4 packet is fragmented before it is encrypted, so
    that the peer's gateway reassembles nothing. With DF set it is dropped and its sender told the MTU by ICMP, unless
    `df = "clear"`: for sites that filter ICMP, where TCP is helped by its clamped MSS and everything else would hang.
    Such fragments get a new identification, for senders that set DF often leave it zero (RFC 6864). A longer IPv6
    packet is never fragmented, its sender is always told. With `df = "clear"` the TUN has an MTU of 65535, for the
    kernel would answer before us.

    A fixed `dscp` is for links that bill, police or queue the tunnel as one class, or whose operator must not see the
    classes inside; the inner packets keep theirs. IKE is not marked.

    Each end proves itself in its own way: we by `local_cert` and `local_key` if they are given, the peer by a certificate
    under `ca` if that is given, and whoever is left by the `psk`. The certificate must have the identity exactly: a
    domain name, a mailbox or an address in its subjectAltName, or the whole subject, written in its order. Renewed files
    are read by `gatewayctl reload` and used at the next authentication; what is established stays. Of the CAs in `ca`
    one that another of them has certified is believed only through that one.

    What is the host's: the outer DF bit is the kernel's default for sockets, set on IPv4 packets sent singly that fit
    what the host's routes know of the path, not on those that leave by segmentation offload. So what is too long for
    a router on the way may be fragmented there, or dropped; only a right `link_mtu` prevents both. The outer TTL is
    `net.ipv4.ip_default_ttl`, the hop limit `net.ipv6.conf.*.hop_limit`.
    """

    local_addrs: AddressField = Field(description="our outer address")
    remote_addrs: AddressField = Field(description="the peer's outer address")
    local_port: Port = Field(default=500, description="our IKE port")
    remote_port: Port = Field(default=500, description="the peer's IKE port")
    local_id: Identity | None = Field(
        default=None,
        description='our identity: address, FQDN, user@FQDN, keyid:HEX or "C=CH, O=Example, CN=gw"; default: the subject of local_cert, else local_addrs',
    )
    remote_id: Identity | None = Field(
        default=None, description="the identity the peer must prove; default: remote_addrs"
    )
    psk: SecretSource | None = Field(
        default=None, description="pre-shared key; required unless both ends have certificates (`local_cert` and `ca`)"
    )
    local_cert: FilePath | None = Field(
        default=None,
        description="PEM file of our certificate, the intermediate ones after it, relative to the configuration file; with it we prove ourselves by it instead of `psk`",
    )
    local_key: SecretSource | None = Field(
        default=None, description="private key of local_cert, PEM without passphrase"
    )
    ca: tuple[FilePath, ...] = Field(
        default=(),
        max_length=64,
        description="PEM files of the CAs of which one must have certified the peer; with them it proves itself by a certificate that has `remote_id`, instead of `psk`",
    )
    revocation: Literal["off", "relaxed", "ifuri", "strict"] = Field(
        default="relaxed",
        description="whether the peer's certificates are revoked, by OCSP and CRLs, also fetched by plain http from where verified certificates say. Revoked: refused. Not to be found out: relaxed: let in; ifuri: refused if the certificate says whom to ask, also by ldap or https, which are not fetched; strict: refused. off: never asked",
    )
    crl: tuple[FilePath, ...] = Field(
        default=(), max_length=64, description="files with CRLs of the CAs above the peer's certificate, PEM or DER"
    )
    rsa_pss: Switch = Field(
        default=True,
        description="with an RSA key we sign by RSASSA-PSS (RFC 8247); false: PKCS #1 v1.5, for peers that do not know it",
    )
    rsa_sha1: Switch = Field(
        default=False, description="RSA signatures with SHA-1, for a peer that knows no RFC 7427 and with no other"
    )
    ppk: SecretSource | None = Field(
        default=None,
        description="post-quantum preshared key (RFC 8784), mixed into the keys; at least 32 octets, from a random source",
    )
    ppk_id: str | None = Field(
        default=None, min_length=1, max_length=128, description="the name both ends have given the PPK"
    )
    ppk_required: Switch = Field(
        default=True, description="without the PPK no tunnel; false: a peer that has none is let in, with a warning"
    )
    post_quantum: Literal["off", "prefer", "require"] = Field(
        default="off",
        description="ML-KEM-768 as a second key exchange of every IKE_SA (RFC 9370). prefer: each proposal is first offered with it, then as written, and an IKE_SA without it is reported; require: no new IKE_SA without (one that stands is rekeyed to it); off: as `proposals` say",
    )
    proposals: tuple[IkeProposal, ...] = Field(
        default=(
            "aes256gcm16-prfsha384-ecp384",
            "aes256gcm16-prfsha256-ecp256-x25519-modp2048",
            "aes256-aes128-sha256-sha384-ecp256-ecp384-modp2048",
        ),
        min_length=1,
        max_length=32,
        description="IKE proposals in order; `ke1_mlkem768` adds a post-quantum key exchange to one (RFC 9370)",
    )
    encap: Switch = Field(default=True, description="force ESP in UDP 4500 also without a NAT (default towards clouds)")
    start_action: Literal["start", "trap", "none"] = Field(
        default="start", description="start: at once and for ever; trap: at the first packet; none: only respond"
    )
    childless: Switch = Field(
        default=False,
        description="as initiator ask for the first CHILD_SA by itself, with PFS, instead of within IKE_AUTH, if the peer can (RFC 6023); as responder we always can",
    )
    quick_crash_detection: Switch = Field(
        default=True,
        description="tokens by which each end shows the other that it lost its IKE_SAs, as after a crash (RFC 6290); false: it is found out by silence",
    )
    mobike: Switch = Field(
        default=False,
        description="who initiated may change its address or port, and takes the tunnel along (RFC 4555): the peer, or we by a reload with another local_addrs, if local_id says who we are; new IKE_SAs still come from remote_addrs; needs `encap`",
    )
    resource_sas: Integer = Field(
        default=0,
        ge=0,
        le=64,
        description="per-resource CHILD_SAs (RFC 9611) beside each CHILD_SA, so that every worker sends on one of its own: as many are asked for, or taken if the peer asks; best as many as workers; only peers that say they can get any; 0: none",
    )
    redirect: Literal["follow", "ignore"] = Field(
        default="ignore",
        description="what we do when the peer sends us to another gateway (RFC 5685). follow: go there, where the same identity and key must be; ignore: stay at remote_addrs, for which routes, firewalls and the private circuit are made",
    )
    redirect_to: AddressField | None = Field(
        default=None,
        description="the other gateway of the pair, as the peer reaches it: a peer that initiated and follows redirects (RFC 5685) is sent there while that gateway is active and this one attracts nothing; for a peer with one tunnel to one gateway. Default: it has a tunnel to each, and is never sent away",
    )
    rekey_time: Duration = Field(default=14400.0, ge=60, description="IKE_SA rekey after this long")
    reauth_time: Duration = Field(
        default=0.0,
        ge=0,
        description="both ends prove themselves again after this long, by a new IKE_SA that is up before the old one goes (RFC 7296 2.8.3); 0: only when the peer asks for it (RFC 4478)",
    )
    rekey_check: Duration = Field(
        default=30.0,
        ge=0,
        description="so long, at most twice, after a new or changed connection came up, its CHILD_SAs and IKE_SA are rekeyed once, so that a PFS group or proposal that differs shows at once; 0: off",
    )
    dpd_delay: Duration = Field(default=10.0, ge=1, description="liveness check after this much silence from the peer")
    retransmit_timeout: Duration = Field(default=1.0, gt=0, description="first retransmission of an IKE request")
    retransmit_base: Number = Field(default=1.6, ge=1, le=4, description="back-off factor of retransmissions")
    retransmit_tries: Integer = Field(
        default=6, ge=1, le=20, description="retransmissions before the peer counts as dead"
    )
    fragment_size: Integer = Field(
        default=1280,
        ge=0,
        le=65535,
        description="octets of the largest IKE datagram, IP header included; larger messages go in fragments (RFC 7383) if the peer can; at least 256; 0: never",
    )
    instance: Name | None = Field(
        default=None, description="the routing instance it belongs to; default: the gateway's own table"
    )
    tunnel_address: tuple[InterfaceField, ...] = Field(
        default=(), description="our addresses inside the tunnel, on the connection's TUN, e.g. 169.254.21.1/30"
    )
    protected: tuple[PrefixField, ...] | None = Field(
        default=None,
        description="prefixes that must never leave in clear; default: remote_ts; required where that is everything",
    )
    protection: Literal["always", "backup"] = Field(
        default="always",
        description="always: its prefixes leave by the tunnel or not at all; backup: **in clear** by the private circuit while that works (`circuit`, or BGP beside the tunnel), by the tunnel when it fails",
    )
    circuit: Circuit | None = Field(default=None, description='the private circuit; for `protection = "backup"`')
    probe: Probe | None = Field(
        default=None, description="liveness of the tunnel where its peer has no BFD; without it only dpd_delay"
    )
    protect_learned: Switch = Field(
        default=True,
        description="a prefix that BGP taught us in this tunnel stays protected when it is withdrawn, over restarts and reboots, until `gatewayctl guard forget`; nor does a path in clear take its place",
    )
    link_mtu: Integer = Field(
        default=1500, ge=576, le=65535, description="MTU of the path to the peer, outer headers included"
    )
    dscp: Dscp = Field(
        default="copy", description="DSCP of outer ESP packets; copy: the inner packet's. ECN always follows RFC 6040"
    )
    df: Literal["honor", "clear"] = Field(
        default="honor",
        description="IPv4 packets with DF that are too long for the tunnel. honor: answered with ICMP; clear: fragmented",
    )
    local_ts: tuple[PrefixField, ...] | None = Field(
        default=None, min_length=1, description="shorthand for the only child's local_ts"
    )
    remote_ts: tuple[PrefixField, ...] | None = Field(
        default=None, min_length=1, description="shorthand for the only child's remote_ts"
    )
    esp_proposals: tuple[EspProposal, ...] | None = Field(
        default=None, min_length=1, max_length=64, description="shorthand for the only child's esp_proposals"
    )
    child: dict[Name, Child] = Field(default_factory=dict, description="CHILD_SAs by name; default: one named 'net'")


class Metrics(Section):
    """The HTTP listener: /metrics /healthz /readyz."""

    address: AddressField = Field(default=IPv4Address("127.0.0.1"), description="address to listen on")
    port: Integer = Field(default=9550, ge=0, le=65535, description="TCP port to listen on; 0: off")


class Observe(Section):
    """What an operator may take out of the running daemon by gatewayctl, for a limited time each.

    Both are off: who has the keys reads everything. Each use is told in the journal with the user id and process that
    asked, and shown as a problem while it lasts. The daemon writes no file; gatewayctl does, for its user alone.
    What leaves by `dataplane.packet_socket` is in no capture of this host.
    """

    allow_keylog: Switch = Field(
        default=False, description="`gatewayctl keylog` gives the keys of a connection, as Wireshark reads them"
    )
    allow_capture: Switch = Field(
        default=False, description="`gatewayctl capture` gives the outer IKE and ESP packets of a connection"
    )


class Gateway(Section):
    """The daemon itself."""

    name: Name = Field(default="gateway", description="shown in status and logs, sent in heartbeats")
    crypto_engine: Literal["auto", "ipsec-mb", "libcrypto"] = Field(
        default="auto", description="who encrypts; auto: libipsec-mb where the CPU suits it"
    )
    run_directory: str = Field(default="/run/gatewayd", min_length=1, description="control socket and relay socket")
    state_directory: str = Field(default="/var/lib/gatewayd", min_length=1, description="what must survive a restart")
    allow_inline_secrets: Switch = Field(default=False, description='permit inline = "..." secrets in this file')
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least severity logged")
    route_table: Integer = Field(default=221, ge=1, le=4294967295, description="kernel routing table of our routes")
    route_protocol: Integer = Field(default=221, ge=5, le=255, description="rtm_protocol of our routes")
    rule_priority: Integer = Field(default=22100, ge=1, le=32700, description="priority of the first of our ip rules")
    mark: Integer = Field(
        default=0x67770001, ge=1, le=4294967295, description="fwmark of our own IKE, ESP and cloud traffic"
    )


class DataPlane(Section):
    """The threads that carry the packets.

    With `busy_poll_us` a worker that has just worked looks for more, without sleeping, for at most that long: a
    packet that comes meanwhile need not wake it. It costs at most that much CPU time after every burst: nothing on an
    idle gateway, and one whole core per worker where packets come more often. Between two looks it yields, and where
    another process then keeps the core (for more than 0.2 ms) it sleeps as usual for a second. So it is worth it where
    workers have their cores to themselves, see `cpus`.

    With `packet_socket` what connections with `encap = false` send takes a short cut: the daemon asks the kernel for the
    route and the next hop's Ethernet address, follows the news about both, writes the outer IP header itself and hands
    the packet to the network device: a sixth to a third more throughput, a fifth to a third less CPU time. What arrives
    and ESP in UDP are as without it. These packets **bypass the host's output firewall** (nftables, iptables), queueing
    discipline, traffic control, connection tracking and kernel IPsec policies, and tcpdump on the host does not see
    them; only sealed ESP goes there. Whatever the short cut cannot have goes by the raw socket, so nothing is lost: a next hop not
    known (yet) or on no Ethernet, packets longer than the path takes, a device that is down or whose queue is full
    (`gateway_worker_packet_socket_fallbacks_total`). Nothing takes it while the host has ip rules that look at the
    protocol or the TOS; routes by TOS are not seen.
    """

    workers: Workers = Field(
        default="auto", description="how many threads; auto: one for each of `cpus`, else for each CPU of the daemon"
    )
    cpus: tuple[Cpu, ...] = Field(
        default=(),
        max_length=64,
        description="the CPU each worker runs on, in their order; empty: anywhere; compared with this machine at the start",
    )
    busy_poll_us: Integer = Field(
        default=0, ge=0, le=10000, description="microseconds to look for more work before sleeping; 0: off"
    )
    count_cycles: Switch = Field(
        default=False, description="CPU cycles by stage in metrics and status; costs two clock readings per system call"
    )
    packet_socket: Switch = Field(
        default=False,
        description="protocol 50 is sent past the host's IP layer, output firewall and queueing; only for `encap = false`",
    )
    udp_gro: tuple[InterfaceName, ...] = Field(
        default=(),
        max_length=64,
        description="interfaces of the subnets on which the kernel merges arriving UDP datagrams of a flow for us (`ethtool -K` gro, rx-udp-gro-forwarding); stays on when taken out",
    )


class Config(Section):
    """A whole configuration file."""

    gateway: Gateway = Field(default=Gateway(), description="the daemon itself")
    dataplane: DataPlane = Field(default=DataPlane(), description="the threads that carry the packets")
    connection: dict[Name, Connection] = Field(default_factory=dict, description="remote sites by name")
    instance: dict[Name, Instance] = Field(
        default_factory=dict,
        description="routing instances by name; what names none belongs to the gateway's own table",
    )
    bgp: Bgp | None = Field(default=None, description="BGP speaker; without it no BGP")
    ha: HaPeer | None = Field(default=None, description="the other gateway of the pair; without it a single gateway")
    fabric: Fabric | None = Field(default=None, description="the cloud's route tables; without it none are written")
    metrics: Metrics = Field(default=Metrics(), description="the HTTP listener")
    observe: Observe = Field(default=Observe(), description="keys and packets for an operator")
