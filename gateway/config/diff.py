"""What changed between two configurations, and what applying each change costs.

Children are compared as they work, not as they are written: a shorthand moved into [connection.x.child.net]
is no change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from gateway.config.derive import SHORTHANDS, children_of
from gateway.config.diagnostics import KeyPath, spelled
from gateway.config.model import Config, Connection, SecretSource, Section
from gateway.config.written import written

SHOWN = 20
"""Of a list, at most: ten thousand prefixes are no line for a journal."""


class Impact(StrEnum):
    """What a change does to what runs, mildest first."""

    NONE = "none"
    IN_PLACE = "in-place"
    REKEY = "rekey"
    RESTART_TUNNEL = "restart-tunnel"
    RESTART_SESSION = "restart-session"
    RESTART_PAIR = "restart-pair"
    """The lease is another one: who is active gives the role up, and whoever is granted it first has it then."""
    RESTART_DAEMON = "restart-daemon"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; `old` is None for what is new, `new` for what is gone. Secrets are masked."""

    path: str
    old: str | None
    new: str | None
    impact: Impact

    @property
    def sign(self) -> str:
        """`+` new, `-` gone, `~` changed."""
        if self.old is None:
            return "+"
        return "-" if self.new is None else "~"

    def __str__(self) -> str:
        sides = " -> ".join(side for side in (self.old, self.new) if side)
        return f"{self.sign} {self.path} {sides} ({self.impact})".replace("  ", " ")


def diff(old: Config, new: Config) -> tuple[Change, ...]:
    """Every difference, in the order of the file's sections."""
    found = tuple(_changes((), _flat(old), _flat(new)))
    if not any(config.ha is not None and config.ha.shared_addresses for config in (old, new)):
        return found
    return tuple(replace(one, impact=Impact.RESTART_DAEMON) if _decides(one.path) else one for one in found)


def _decides(path: str) -> bool:
    """Whether it says who may have shared addresses. Two gateways that asked two witnesses could both go on with the same SAs."""
    return path == "ha" or (path.startswith("ha.witness") and path not in _OF_ONE_WITNESS)


_OF_ONE_WITNESS = frozenset(f"ha.witness.{name}" for name in ("ttl", "break_lease", "secret", "client_id", "imds_url"))


def worst(changes: Iterable[Change]) -> Impact:
    """The gravest impact of several changes; NONE of none."""
    order = list(Impact)
    return max((change.impact for change in changes), key=order.index, default=Impact.NONE)


def impact_of(path: KeyPath) -> Impact:
    """The impact of a changed key; a test holds the table against the model."""
    return IMPACTS[_pattern(path)]


_NAMED_TABLES: frozenset[str] = frozenset(
    {"connection", "instance", "child", "neighbor", "prefix_list", "policy", "rule", "table", "path"}
)
"""Tables whose keys are names."""

_I = Impact
IMPACTS: dict[str, Impact] = {
    "gateway.name": _I.IN_PLACE,
    "gateway.crypto_engine": _I.RESTART_DAEMON,
    "gateway.run_directory": _I.RESTART_DAEMON,
    "gateway.state_directory": _I.RESTART_DAEMON,
    "gateway.allow_inline_secrets": _I.NONE,
    "gateway.log_level": _I.IN_PLACE,
    "gateway.route_table": _I.RESTART_DAEMON,
    "gateway.route_protocol": _I.RESTART_DAEMON,
    "gateway.rule_priority": _I.RESTART_DAEMON,
    "gateway.mark": _I.RESTART_DAEMON,
    "dataplane.workers": _I.RESTART_DAEMON,
    "dataplane.cpus": _I.RESTART_DAEMON,
    "dataplane.busy_poll_us": _I.RESTART_DAEMON,
    "dataplane.count_cycles": _I.RESTART_DAEMON,
    "dataplane.packet_socket": _I.RESTART_DAEMON,
    "dataplane.udp_gro": _I.IN_PLACE,
    "connection.*.local_addrs": _I.RESTART_TUNNEL,
    "connection.*.remote_addrs": _I.RESTART_TUNNEL,
    "connection.*.local_port": _I.RESTART_TUNNEL,
    "connection.*.remote_port": _I.RESTART_TUNNEL,
    "connection.*.local_id": _I.RESTART_TUNNEL,
    "connection.*.remote_id": _I.RESTART_TUNNEL,
    # A key counts at the next IKE_AUTH; what is established stays.
    "connection.*.psk": _I.IN_PLACE,
    "connection.*.local_cert": _I.IN_PLACE,
    "connection.*.local_key": _I.IN_PLACE,
    "connection.*.ca": _I.IN_PLACE,
    "connection.*.revocation": _I.IN_PLACE,
    "connection.*.crl": _I.IN_PLACE,
    "connection.*.rsa_pss": _I.IN_PLACE,
    "connection.*.rsa_sha1": _I.IN_PLACE,
    "connection.*.ppk": _I.IN_PLACE,
    "connection.*.ppk_id": _I.IN_PLACE,
    "connection.*.ppk_required": _I.IN_PLACE,
    "connection.*.post_quantum": _I.REKEY,
    "connection.*.proposals": _I.REKEY,
    # A token is given when the IKE_SA begins or is rekeyed.
    "connection.*.quick_crash_detection": _I.IN_PLACE,
    # Agreed when the IKE_SA begins.
    "connection.*.mobike": _I.IN_PLACE,
    # Agreed with the CHILD_SA that the others stand beside.
    "connection.*.resource_sas": _I.REKEY,
    "connection.*.redirect": _I.IN_PLACE,
    "connection.*.redirect_to": _I.IN_PLACE,
    "connection.*.encap": _I.RESTART_TUNNEL,
    "connection.*.start_action": _I.IN_PLACE,
    "connection.*.childless": _I.IN_PLACE,
    "connection.*.rekey_time": _I.IN_PLACE,
    "connection.*.reauth_time": _I.IN_PLACE,
    "connection.*.rekey_check": _I.IN_PLACE,
    "connection.*.dpd_delay": _I.IN_PLACE,
    "connection.*.retransmit_timeout": _I.IN_PLACE,
    "connection.*.retransmit_base": _I.IN_PLACE,
    "connection.*.retransmit_tries": _I.IN_PLACE,
    # Whether both can is agreed when the IKE_SA begins.
    "connection.*.fragment_size": _I.IN_PLACE,
    # The SAs stay, BGP sessions from the old address do not.
    "connection.*.instance": _I.IN_PLACE,
    "connection.*.tunnel_address": _I.RESTART_SESSION,
    "connection.*.protected": _I.IN_PLACE,
    "connection.*.protection": _I.IN_PLACE,
    "connection.*.circuit.address": _I.IN_PLACE,
    "connection.*.circuit.local_address": _I.IN_PLACE,
    "connection.*.circuit.interval": _I.IN_PLACE,
    "connection.*.circuit.multiplier": _I.IN_PLACE,
    "connection.*.circuit.hold": _I.IN_PLACE,
    "connection.*.probe.address": _I.IN_PLACE,
    "connection.*.probe.interval": _I.IN_PLACE,
    "connection.*.probe.multiplier": _I.IN_PLACE,
    "connection.*.protect_learned": _I.IN_PLACE,
    "connection.*.link_mtu": _I.IN_PLACE,
    "connection.*.dscp": _I.IN_PLACE,
    "connection.*.df": _I.IN_PLACE,
    "connection.*.child.*.local_ts": _I.REKEY,
    "connection.*.child.*.remote_ts": _I.REKEY,
    "connection.*.child.*.esp_proposals": _I.REKEY,
    "connection.*.child.*.rekey_time": _I.IN_PLACE,
    "connection.*.child.*.rekey_bytes": _I.IN_PLACE,
    "connection.*.child.*.rekey_packets": _I.IN_PLACE,
    "connection.*.child.*.life_time": _I.IN_PLACE,
    "connection.*.child.*.replay_window": _I.REKEY,
    "instance.*.table": _I.RESTART_DAEMON,
    "instance.*.interfaces": _I.IN_PLACE,
    "instance.*.sources": _I.IN_PLACE,
    "instance.*.local": _I.IN_PLACE,
    "bgp.local_as": _I.RESTART_SESSION,
    "bgp.router_id": _I.RESTART_SESSION,
    "bgp.advertise": _I.IN_PLACE,
    "bgp.listen_port": _I.RESTART_SESSION,
    "bgp.stale_time": _I.IN_PLACE,
    "bgp.service": _I.RESTART_DAEMON,
    "bgp.orphan_time": _I.IN_PLACE,
    "bgp.neighbor.*.address": _I.RESTART_SESSION,
    "bgp.neighbor.*.remote_as": _I.RESTART_SESSION,
    "bgp.neighbor.*.local_address": _I.RESTART_SESSION,
    "bgp.neighbor.*.connection": _I.RESTART_SESSION,
    # What it taught us is asked for again.
    "bgp.neighbor.*.instance": _I.IN_PLACE,
    "bgp.neighbor.*.multihop": _I.RESTART_SESSION,
    "bgp.neighbor.*.ttl_security": _I.RESTART_SESSION,
    "bgp.neighbor.*.password": _I.RESTART_SESSION,
    "bgp.neighbor.*.hold_time": _I.RESTART_SESSION,
    "bgp.neighbor.*.passive": _I.RESTART_SESSION,
    "bgp.neighbor.*.advertise": _I.IN_PLACE,
    "bgp.max_paths": _I.IN_PLACE,
    "bgp.prefix_list.*.prefixes": _I.IN_PLACE,
    "bgp.policy.*.default": _I.IN_PLACE,
    "bgp.policy.*.rule.*.prefix_list": _I.IN_PLACE,
    "bgp.policy.*.rule.*.prefixes": _I.IN_PLACE,
    "bgp.policy.*.rule.*.as_path": _I.IN_PLACE,
    "bgp.policy.*.rule.*.communities": _I.IN_PLACE,
    "bgp.policy.*.rule.*.learned_from": _I.IN_PLACE,
    "bgp.policy.*.rule.*.action": _I.IN_PLACE,
    "bgp.policy.*.rule.*.local_preference": _I.IN_PLACE,
    "bgp.policy.*.rule.*.med": _I.IN_PLACE,
    "bgp.policy.*.rule.*.prepend": _I.IN_PLACE,
    "bgp.policy.*.rule.*.next_hop": _I.IN_PLACE,
    "bgp.policy.*.rule.*.set_communities": _I.IN_PLACE,
    "bgp.policy.*.rule.*.add_communities": _I.IN_PLACE,
    "bgp.policy.*.rule.*.delete_communities": _I.IN_PLACE,
    "bgp.neighbor.*.kind": _I.IN_PLACE,
    "bgp.neighbor.*.max_announced": _I.IN_PLACE,
    "bgp.neighbor.*.bfd.interval": _I.IN_PLACE,
    "bgp.neighbor.*.bfd.multiplier": _I.IN_PLACE,
    # The session ends until the other end has the new one.
    "bgp.neighbor.*.bfd.secret": _I.IN_PLACE,
    "bgp.neighbor.*.bfd.key_id": _I.IN_PLACE,
    "bgp.neighbor.*.max_prefixes": _I.IN_PLACE,
    "bgp.neighbor.*.max_prefixes_action": _I.IN_PLACE,
    "bgp.neighbor.*.max_prefixes_restart": _I.IN_PLACE,
    "bgp.neighbor.*.import_policy": _I.IN_PLACE,
    "bgp.neighbor.*.export_policy": _I.IN_PLACE,
    "bgp.neighbor.*.accept_default": _I.IN_PLACE,
    "bgp.neighbor.*.allow_own_as": _I.IN_PLACE,
    "bgp.neighbor.*.transit": _I.IN_PLACE,
    "bgp.neighbor.*.aggregate": _I.IN_PLACE,
    "bgp.neighbor.*.more_specific": _I.IN_PLACE,
    "bgp.neighbor.*.default_route": _I.IN_PLACE,
    "bgp.neighbor.*.outdo": _I.IN_PLACE,
    "bgp.neighbor.*.graceful_restart": _I.RESTART_SESSION,
    "ha.local_address": _I.IN_PLACE,
    "ha.remote_address": _I.IN_PLACE,
    "ha.port": _I.IN_PLACE,
    "ha.secret": _I.IN_PLACE,
    "ha.interval": _I.IN_PLACE,
    "ha.dead_after": _I.IN_PLACE,
    "ha.older_secret": _I.IN_PLACE,
    "ha.cluster": _I.RESTART_PAIR,
    "ha.mode": _I.IN_PLACE,
    "ha.priority": _I.IN_PLACE,
    "ha.preempt": _I.IN_PLACE,
    "ha.preempt_delay": _I.IN_PLACE,
    "ha.without_witness": _I.IN_PLACE,
    "ha.drain_time": _I.IN_PLACE,
    "ha.hold_down": _I.IN_PLACE,
    "ha.scheduled_events": _I.IN_PLACE,
    "ha.imds_url": _I.IN_PLACE,
    "ha.shared_addresses": _I.RESTART_DAEMON,
    # The interfaces are read again, as after a start.
    "ha.fabric.cloud": _I.IN_PLACE,
    "ha.fabric.dry_run": _I.IN_PLACE,
    "ha.fabric.check_interval": _I.IN_PLACE,
    "ha.fabric.client_id": _I.IN_PLACE,
    "ha.fabric.management_url": _I.IN_PLACE,
    "ha.fabric.imds_url": _I.IN_PLACE,
    "ha.fabric.api_version": _I.IN_PLACE,
    "ha.fabric.region": _I.IN_PLACE,
    "ha.fabric.endpoint_url": _I.IN_PLACE,
    "ha.fabric.interface.*.id": _I.IN_PLACE,
    "ha.fabric.interface.*.peer_id": _I.IN_PLACE,
    "ha.fabric.interface.*.addresses": _I.IN_PLACE,
    "ha.path.*.local_address": _I.IN_PLACE,
    "ha.path.*.remote_address": _I.IN_PLACE,
    "ha.path.*.port": _I.IN_PLACE,
    "ha.vote.targets": _I.IN_PLACE,
    "ha.vote.interval": _I.IN_PLACE,
    "ha.vote.multiplier": _I.IN_PLACE,
    "ha.witness.address": _I.RESTART_PAIR,
    "ha.witness.port": _I.RESTART_PAIR,
    "ha.witness.ttl": _I.IN_PLACE,
    "ha.witness.secret": _I.IN_PLACE,
    "ha.witness.break_lease": _I.IN_PLACE,
    "ha.witness.kind": _I.RESTART_PAIR,
    "ha.witness.url": _I.RESTART_PAIR,
    "ha.witness.client_id": _I.IN_PLACE,
    "ha.witness.imds_url": _I.IN_PLACE,
    "ha.witness.table": _I.RESTART_PAIR,
    "ha.witness.bucket": _I.RESTART_PAIR,
    "ha.witness.key": _I.RESTART_PAIR,
    "ha.witness.region": _I.RESTART_PAIR,
    "ha.witness.endpoint_url": _I.RESTART_PAIR,
    # Members of one and the same etcd.
    "ha.witness.endpoints": _I.IN_PLACE,
    "ha.witness.ca": _I.IN_PLACE,
    "ha.witness.certificate": _I.IN_PLACE,
    "ha.witness.private_key": _I.IN_PLACE,
    # Nothing of it is between a packet and its tunnel: the tables are read again.
    "fabric.cloud": _I.IN_PLACE,
    "fabric.cluster": _I.IN_PLACE,
    "fabric.address": _I.IN_PLACE,
    "fabric.peer_address": _I.IN_PLACE,
    "fabric.network_interface": _I.IN_PLACE,
    "fabric.peer_network_interface": _I.IN_PLACE,
    "fabric.prefixes": _I.IN_PLACE,
    "fabric.dry_run": _I.IN_PLACE,
    "fabric.check_interval": _I.IN_PLACE,
    "fabric.gateway_subnet": _I.IN_PLACE,
    "fabric.route_server_subnet": _I.IN_PLACE,
    "fabric.source_dest_check": _I.IN_PLACE,
    "fabric.client_id": _I.IN_PLACE,
    "fabric.management_url": _I.IN_PLACE,
    "fabric.imds_url": _I.IN_PLACE,
    "fabric.api_version": _I.IN_PLACE,
    "fabric.region": _I.IN_PLACE,
    "fabric.endpoint_url": _I.IN_PLACE,
    "fabric.table.*.id": _I.IN_PLACE,
    "fabric.table.*.prefixes": _I.IN_PLACE,
    "fabric.table.*.effective_of": _I.IN_PLACE,
    "metrics.address": _I.IN_PLACE,
    "metrics.port": _I.IN_PLACE,
    "observe.allow_keylog": _I.IN_PLACE,
    "observe.allow_capture": _I.IN_PLACE,
}
# Whole tables that appear disturb nothing that runs; what disappears ends.
_REMOVED: dict[str, Impact] = {
    "connection.*": _I.RESTART_TUNNEL,
    "connection.*.child.*": _I.IN_PLACE,
    "connection.*.probe": _I.IN_PLACE,
    "connection.*.circuit": _I.IN_PLACE,
    "instance.*": _I.IN_PLACE,
    # The speaker's process would have to withdraw and go; a section without neighbors does that in place.
    "bgp": _I.RESTART_DAEMON,
    "bgp.neighbor.*": _I.RESTART_SESSION,
    "bgp.prefix_list.*": _I.IN_PLACE,
    "bgp.policy.*": _I.IN_PLACE,
    "bgp.policy.*.rule.*": _I.IN_PLACE,
    "bgp.neighbor.*.bfd": _I.IN_PLACE,
    "ha": _I.IN_PLACE,
    "ha.path.*": _I.IN_PLACE,
    "ha.fabric": _I.IN_PLACE,
    "ha.fabric.interface.*": _I.IN_PLACE,
    "ha.vote": _I.IN_PLACE,
    "ha.witness": _I.RESTART_PAIR,
    "fabric": _I.IN_PLACE,
    "fabric.table.*": _I.IN_PLACE,
}

# A pair with another kind of agreement begins anew, as after a start.
_ADDED: dict[str, Impact] = {"ha.witness": _I.RESTART_PAIR}

_Flat = Mapping[str, object]


def _flat(section: Section) -> dict[str, object]:
    """A section as nested mappings of final values, without what is absent."""
    values: dict[str, object] = {name: getattr(section, name) for name in type(section).model_fields}
    if isinstance(section, Connection):
        values["child"] = children_of(section)
        for shorthand in SHORTHANDS:
            del values[shorthand]
    return {name: _flat_value(value) for name, value in values.items() if value is not None}


def _flat_value(value: object) -> object:
    if isinstance(value, SecretSource):
        return value
    if isinstance(value, Section):
        return _flat(value)
    if isinstance(value, dict):
        return {name: _flat_value(item) for name, item in value.items()}
    return value


def _changes(path: KeyPath, old: _Flat, new: _Flat) -> Iterator[Change]:
    for key in [*old, *(name for name in new if name not in old)]:
        here = (*path, key)
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _changes(here, before, after)
        elif before != after:
            impact = _impact(here, before, after)
            yield Change(spelled(here), _side(before, after), _side(after, before), impact)


def _impact(path: KeyPath, before: object, after: object) -> Impact:
    if isinstance(before, dict):
        return _REMOVED[_pattern(path)]
    return _ADDED.get(_pattern(path), Impact.IN_PLACE) if isinstance(after, dict) else impact_of(path)


def _side(value: object, other: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, tuple | list) and len(value) > SHOWN:
        return _shortened(value, other if isinstance(other, tuple | list) else ())
    return "" if isinstance(value, dict) else written(value)


def _shortened(items: Sequence[object], others: Sequence[object]) -> str:
    """Of a long list the first, and before these what the other side does not have."""
    texts, known = [written(item) for item in items], {written(other) for other in others}
    first = sorted(texts, key=known.__contains__)[:SHOWN]
    return f"[{', '.join(first)} and {len(texts) - SHOWN} more]"


def _pattern(path: KeyPath) -> str:
    parts: list[str] = []
    for part in path:
        # A name may be any word, also that of a table.
        parts.append("*" if parts and parts[-1] in _NAMED_TABLES else str(part))
    return ".".join(parts)
