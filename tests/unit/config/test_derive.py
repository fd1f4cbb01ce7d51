"""Shorthands and defaults, worked out."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

from gateway.config.derive import children_of, life_time_of, protected_prefixes, router_id, session_address
from gateway.config.load import load_text
from gateway.config.model import Child, Config, Connection, SecretSource

ENDS = '[connection.a]\nlocal_addrs = "10.0.1.4"\nremote_addrs = "198.51.100.7"\npsk.file = "x"\n'


def config(source: str) -> Config:
    loaded = load_text(source)
    assert loaded.config is not None, loaded.diagnostics
    return loaded.config


def connection(source: str) -> Connection:
    return config(ENDS + source).connection["a"]


def test_a_connection_without_children_has_one_called_net() -> None:
    assert children_of(connection("protected = []\n")) == {"net": Child()}


def test_shorthands_become_the_only_child() -> None:
    children = children_of(
        connection('local_ts = ["10.0.0.0/16"]\nremote_ts = ["10.9.0.0/16"]\nesp_proposals = ["aes128gcm16"]\n')
    )
    assert list(children) == ["net"]
    assert children["net"].local_ts == (ip_network("10.0.0.0/16"),)
    assert children["net"].remote_ts == (ip_network("10.9.0.0/16"),)
    assert children["net"].esp_proposals == ("aes128gcm16",)
    assert children["net"].rekey_time == 3600


def test_children_by_name_stay_as_they_are() -> None:
    children = children_of(
        connection(
            '[connection.a.child.x]\nremote_ts = ["10.8.0.0/16"]\n[connection.a.child.y]\nremote_ts = ["10.9.0.0/16"]\n'
        )
    )
    assert list(children) == ["x", "y"]


def test_protected_is_what_is_written_else_every_remote_selector_once() -> None:
    assert protected_prefixes(connection('protected = ["10.7.0.0/16"]\nremote_ts = ["10.8.0.0/16"]\n')) == (
        ip_network("10.7.0.0/16"),
    )
    two = '[connection.a.child.x]\nremote_ts = ["10.8.0.0/16"]\n'
    two += '[connection.a.child.y]\nremote_ts = ["10.8.0.0/16", "10.9.0.0/16"]\n'
    assert protected_prefixes(connection(two)) == (ip_network("10.8.0.0/16"), ip_network("10.9.0.0/16"))


def test_a_default_route_is_never_protected_by_itself() -> None:
    bare = Connection(
        local_addrs=IPv4Address("10.0.1.4"), remote_addrs=IPv4Address("10.0.1.5"), psk=SecretSource(file="x")
    )
    assert protected_prefixes(bare) == ()


def test_life_time_is_a_tenth_longer_than_rekey_time_unless_written() -> None:
    assert life_time_of(Child()) == 3960
    assert life_time_of(Child(life_time=4000.0)) == 4000


BGP = (
    ENDS + 'protected = []\ntunnel_address = ["fd00::1/126", "169.254.21.1/30"]\n'
    "[bgp]\nlocal_as = 65010\n"
    '[bgp.neighbor.in4]\naddress = "169.254.21.2"\nremote_as = 65020\nconnection = "a"\n'
    '[bgp.neighbor.in6]\naddress = "fd00::2"\nremote_as = 65020\nconnection = "a"\n'
    '[bgp.neighbor.off]\naddress = "169.254.99.2"\nremote_as = 65020\nconnection = "a"\n'
    '[bgp.neighbor.beside]\naddress = "10.0.2.4"\nremote_as = 65020\n'
    '[bgp.neighbor.fixed]\naddress = "10.0.2.5"\nremote_as = 65020\nlocal_address = "10.0.3.3"\n'
)


def test_the_address_of_a_session_faces_its_neighbor() -> None:
    whole = config(BGP)
    assert whole.bgp is not None
    addresses = {name: session_address(whole, neighbor) for name, neighbor in whole.bgp.neighbor.items()}
    assert addresses == {
        "in4": IPv4Address("169.254.21.1"),
        "in6": IPv6Address("fd00::1"),
        "off": None,
        "beside": IPv4Address("10.0.1.4"),
        "fixed": IPv4Address("10.0.3.3"),
    }


def test_the_router_id_is_written_or_the_first_ipv4_address() -> None:
    whole = config(BGP)
    assert whole.bgp is not None
    assert router_id(whole, whole.bgp) == IPv4Address("10.0.1.4")
    inner = config(
        BGP.replace("10.0.1.4", "2001:db8::4")
        .replace("198.51.100.7", "2001:db8::7")
        .replace('[bgp.neighbor.beside]\naddress = "10.0.2.4"', '[bgp.neighbor.beside]\naddress = "2001:db8::9"')
    )
    assert inner.bgp is not None
    assert router_id(inner, inner.bgp) == IPv4Address("169.254.21.1")
    written = config('[bgp]\nlocal_as = 65010\nrouter_id = "192.0.2.1"\n')
    assert written.bgp is not None
    assert router_id(written, written.bgp) == IPv4Address("192.0.2.1")
    pair = config(
        '[gateway]\nname = "gw-a"\n[bgp]\nlocal_as = 65010\n[ha]\nlocal_address = "10.0.1.4"\nremote_address = "10.0.1.5"\nsecret.file = "x"\n'
    )
    assert pair.bgp is not None
    assert router_id(pair, pair.bgp) == IPv4Address("10.0.1.4")
