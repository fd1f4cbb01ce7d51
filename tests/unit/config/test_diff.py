"""Differences between configurations and what they cost."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from pydantic import BaseModel

from gateway.config.diff import IMPACTS, Change, Impact, diff, impact_of, worst
from gateway.config.load import load_text
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
)

BASE = """
[gateway]
name = "gw-a"
allow_inline_secrets = true
[connection.a]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.7"
psk.inline = "hunter2hunter2hunter2"
protected = ["172.16.0.0/16"]
tunnel_address = ["169.254.21.1/30"]
esp_proposals = ["aes256gcm16"]
[bgp]
local_as = 65010
[bgp.neighbor.n]
address = "169.254.21.2"
remote_as = 65020
connection = "a"
[ha]
local_address = "10.0.1.4"
remote_address = "10.0.1.5"
secret.file = "x"
"""


def config(source: str = BASE) -> Config:
    loaded = load_text(source)
    assert loaded.config is not None, loaded.diagnostics
    return loaded.config


def changed(*replacements: tuple[str, str]) -> tuple[Change, ...]:
    source = BASE
    for old, new in replacements:
        assert old in source
        source = source.replace(old, new)
    return diff(config(), config(source))


def test_the_same_is_no_change() -> None:
    assert diff(config(), config()) == ()
    assert worst(()) is Impact.NONE


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("198.51.100.7", "198.51.100.8",
         '~ connection.a.remote_addrs "198.51.100.7" -> "198.51.100.8" (restart-tunnel)'),
        ('["172.16.0.0/16"]', '["172.17.0.0/16"]',
         '~ connection.a.protected ["172.16.0.0/16"] -> ["172.17.0.0/16"] (in-place)'),
        ("[bgp]", 'dpd_delay = "30s"\n[bgp]', "~ connection.a.dpd_delay 10 -> 30 (in-place)"),
        ("[bgp]", 'local_id = "gw"\n[bgp]', '+ connection.a.local_id "gw" (restart-tunnel)'),
        ("aes256gcm16", "aes128gcm16",
         '~ connection.a.child.net.esp_proposals ["aes256gcm16"] -> ["aes128gcm16"] (rekey)'),
        ("[bgp]", 'redirect_to = "192.0.2.9"\n[bgp]', '+ connection.a.redirect_to "192.0.2.9" (in-place)'),
        ("65010", "65011", "~ bgp.local_as 65010 -> 65011 (restart-session)"),
        ('secret.file = "x"', 'secret.credential = "x"',
         '~ ha.secret { file = "x" } -> { credential = "x" } (in-place)'),
        ('secret.file = "x"', 'secret.file = "x"\n[ha.witness]\nkind = "etcd"\nendpoints = ["https://a", "https://b"]\nkey = "k"',
         "+ ha.witness (restart-pair)"),
        ('secret.file = "x"', 'secret.file = "x"\ncluster = 7', "~ ha.cluster 0 -> 7 (restart-pair)"),
        ("[bgp]", "[metrics]\nport = 1\n[bgp]", "~ metrics.port 9550 -> 1 (in-place)"),
        ("[bgp]", "[dataplane]\nworkers = 2\n[bgp]", '~ dataplane.workers "auto" -> 2 (restart-daemon)'),
        ("hunter2hunter2hunter2", "hunter3hunter3hunter3",
         '~ connection.a.psk { inline = "***" } -> { inline = "***" } (in-place)'),
    ],
)  # fmt: skip
def test_one_changed_key_is_one_change_with_its_impact(old: str, new: str, expected: str) -> None:
    assert [str(change) for change in changed((old, new))] == [expected]


def test_another_witness_costs_the_active_role_once_and_another_term_of_the_lease_does_not() -> None:
    witnessed = BASE + '[ha.witness]\naddress = "10.0.9.9"\n'

    def impacts(text: str) -> list[tuple[str, Impact]]:
        return [(one.path, one.impact) for one in diff(config(witnessed), config(text))]

    assert impacts(witnessed.replace("9.9", "9.8")) == [("ha.witness.address", Impact.RESTART_PAIR)]
    assert impacts(BASE) == [("ha.witness", Impact.RESTART_PAIR)], "silence means something else from now on"
    assert impacts(witnessed + 'ttl = "2s"\n') == [("ha.witness.ttl", Impact.IN_PLACE)]


def test_of_a_long_list_the_first_are_told_and_how_many_more_there_are() -> None:
    many = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(10_000)]

    def advertising(prefixes: list[str]) -> Config:
        return config(BASE.replace("[bgp]\n", f"[bgp]\nadvertise = {json.dumps(prefixes)}\n"))

    (new,) = diff(advertising([]), advertising(many))
    assert new.new is not None
    assert new.new.startswith('["10.0.0.0/24", "10.0.1.0/24", ')
    assert new.new.endswith(' "10.0.19.0/24" and 9980 more]')
    # What differs comes first
    (other,) = diff(advertising(many), advertising([*many[:5000], "192.0.2.0/24", *many[5001:]]))
    assert str(other).startswith('~ bgp.advertise ["10.19.136.0/24", "10.0.0.0/24", ')
    assert ' -> ["192.0.2.0/24", "10.0.0.0/24", ' in str(other)
    assert len(str(other)) < 1000


def test_whole_tables_appear_and_disappear_as_one_change() -> None:
    one = config()
    two = config(BASE[: BASE.index("[bgp]")])
    assert [str(change) for change in diff(one, two)] == ["- bgp (restart-daemon)", "- ha (in-place)"]
    assert [str(change) for change in diff(two, one)] == ["+ bgp (in-place)", "+ ha (in-place)"]
    renamed = changed(("connection.a", "connection.b"), ('connection = "a"', 'connection = "b"'))
    assert [(change.sign, change.path, change.impact) for change in renamed] == [
        ("-", "connection.a", Impact.RESTART_TUNNEL),
        ("+", "connection.b", Impact.IN_PLACE),
        ("~", "bgp.neighbor.n.connection", Impact.RESTART_SESSION),
    ]
    assert worst(renamed) is Impact.RESTART_SESSION


def test_a_shorthand_written_as_a_child_is_no_change() -> None:
    assert (
        changed(('esp_proposals = ["aes256gcm16"]', '[connection.a.child.net]\nesp_proposals = ["aes256gcm16"]')) == ()
    )


def test_secrets_never_stand_in_a_change() -> None:
    assert "hunter" not in repr(changed(("hunter2hunter2hunter2", "hunter3hunter3hunter3")))


SECTIONS: dict[str, type[BaseModel]] = {
    "gateway": Gateway,
    "dataplane": DataPlane,
    "connection.*": Connection,
    "connection.*.child.*": Child,
    "connection.*.probe": Probe,
    "connection.*.circuit": Circuit,
    "bgp": Bgp,
    "instance.*": Instance,
    "bgp.neighbor.*": Neighbor,
    "bgp.prefix_list.*": PrefixList,
    "bgp.policy.*": Policy,
    "bgp.policy.*.rule.*": PolicyRule,
    "bgp.neighbor.*.bfd": Bfd,
    "ha": HaPeer,
    "ha.fabric": HaFabric,
    "ha.fabric.interface.*": HaInterface,
    "ha.path.*": HaPath,
    "ha.vote": HaVote,
    "ha.witness": HaWitness,
    "fabric": Fabric,
    "fabric.table.*": FabricTable,
    "metrics": Metrics,
    "observe": Observe,
}


def test_every_key_of_the_model_has_an_impact_and_no_other() -> None:
    shorthands = {f"connection.*.{name}" for name in ("local_ts", "remote_ts", "esp_proposals")}
    keys = {f"{path}.{name}" for path, model in SECTIONS.items() for name in model.model_fields}
    tables = {"connection.*.child", "connection.*.probe", "connection.*.circuit", "bgp.neighbor", "bgp.neighbor.*.bfd"}
    tables |= {"bgp.prefix_list", "bgp.policy", "bgp.policy.*.rule", "fabric.table", "ha.path", "ha.vote", "ha.witness"}
    tables |= {"ha.fabric", "ha.fabric.interface"}
    assert set(IMPACTS) == keys - shorthands - tables
    assert impact_of(("connection", "child", "child", "neighbor", "remote_ts")) is Impact.REKEY


def test_impacts_are_ordered_mildest_first() -> None:
    order = [
        Impact.NONE,
        Impact.IN_PLACE,
        Impact.REKEY,
        Impact.RESTART_TUNNEL,
        Impact.RESTART_SESSION,
        Impact.RESTART_PAIR,
        Impact.RESTART_DAEMON,
    ]
    for mild, grave in pairwise(order):
        assert worst([Change("x", "1", "2", grave), Change("y", "1", "2", mild)]) is grave
