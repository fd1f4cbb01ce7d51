"""The laboratory itself, with strongSwan at both ends: what it claims about a gateway, it can see.

A failure here means that the scene, the peer or the measuring is broken, not gatewayd.
"""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Address

import pytest
from support.capture import Capture, kind_of
from support.impair import cut, loss
from support.netns import Lab, host_state, new_entries
from support.process import LabError, wait_until
from support.scene import (
    GATEWAY_INNER,
    SESSION_GATEWAY,
    SITE_HOST,
    SITE_PREFIXES,
    VNET_HOST,
    VNET_PREFIXES,
    Scene,
)
from support.traffic import Iperf, Stream, Streams, ping
from support.vici_text import parse_events

pytestmark = pytest.mark.system


def test_a_leak_arrives_and_the_capture_sees_it(scene: Scene) -> None:
    capture = Capture(scene.wan, "gateway")
    capture.start()
    stream = Stream(scene.host, VNET_HOST, scene.site, SITE_HOST)
    stream.start(200)
    stream.wait_flowing(5)
    counted = stream.stop()
    seen = capture.stop()
    assert counted.lost == 0
    assert seen.clear == seen.markers == counted.sent
    assert "10.1.1.10" in seen.samples[0]
    assert set(seen.counts) <= {"clear", "arp", "nd"}


def test_the_edge_does_not_answer_in_clear(scene: Scene) -> None:
    assert ping(scene.host, SITE_HOST, 3).lost == 3


@pytest.mark.slow
def test_a_tunnel_between_two_strongswans_carries_bgp_and_survives_rekeys_without_loss(scene: Scene) -> None:
    capture = Capture(scene.wan, "gateway")
    capture.start()
    edge, edge_bird, vnet_bird = scene.edge_charon(), scene.edge_bird(), scene.vnet_bird()
    gateway, gateway_bird = scene.stand_in()
    for daemon in (edge, edge_bird, vnet_bird, gateway, gateway_bird):
        daemon.start()
    established = edge.wait_established()
    assert not established.initiator
    assert "AES_GCM_16/256" in established.suite
    for bird in (edge_bird, vnet_bird):
        bird.wait_established(SESSION_GATEWAY, 20)
    for prefix in VNET_PREFIXES:
        wait_until(lambda wanted=prefix: scene.edge.has_route(wanted), 10, prefix)  # type: ignore[misc]
    for prefix in SITE_PREFIXES:
        wait_until(lambda wanted=prefix: scene.router.has_route(wanted), 10, prefix)  # type: ignore[misc]
    assert edge_bird.learned(SESSION_GATEWAY) == dict.fromkeys(VNET_PREFIXES, GATEWAY_INNER)
    assert ping(scene.site, VNET_HOST, 20).lost == 0

    streams = Streams(scene.site, SITE_HOST, scene.host, VNET_HOST)
    streams.start(1000)
    streams.wait_flowing(5)
    for side in (edge, gateway):
        side.rekey_child()
        side.rekey_ike()
    there, back = streams.stop()
    assert (there.lost, back.lost) == (0, 0)
    assert there.sent > 100

    assert Iperf(scene.host, VNET_HOST).measure(scene.site, 1).gbit_per_s > 0.02
    seen = capture.stop()
    assert (seen.clear, seen.markers) == (0, 0)
    assert seen.counts["esp-4500"] > there.sent + back.sent
    assert seen.counts["ike-500"] == 2
    assert (seen.handshake_ms() or 0) > 0


def test_impairments_are_counted(scene: Scene) -> None:
    stream = Stream(scene.host, VNET_HOST, scene.site, SITE_HOST)
    with loss(scene.wan, 50):
        stream.start(500)
        wait_until(lambda: len(stream.records()) > 100, 5, "some arrive")
        counted = stream.stop()
    assert 0.3 < counted.lost / counted.sent < 0.7
    with cut(scene.wan, "gateway"):
        silent = Stream(scene.host, VNET_HOST, scene.site, SITE_HOST, 7009)
        silent.start(500)
        with pytest.raises(LabError, match="probe datagrams arrive"):
            silent.wait_flowing(0.5)
        counted = silent.stop()
    assert counted.received == 0
    assert counted.sent > 50


def test_nothing_is_left_behind_even_after_a_crash() -> None:
    before = host_state()
    crash = (
        "import os, sys; sys.path.insert(0, sys.argv[1]);"
        "from support.netns import Lab; from support.scene import Scene;"
        "scene = Scene(Lab()); scene.edge_charon().start(); print(scene.lab.prefix, flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    tests = str(next(path for path in map(str, sys.path) if path.rstrip("/").endswith("tests")))
    died = subprocess.run([sys.executable, "-c", crash, tests], capture_output=True, text=True, timeout=30, check=False)
    prefix = died.stdout.strip()
    assert died.returncode == -9
    assert prefix
    with Lab():  # a new laboratory sweeps what the killed one left
        names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert prefix not in names
    assert new_entries(before, host_state()) == []


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        ("udp 500 ike", "ike-500"),
        ("udp 500 rubbish", "clear"),
        ("udp 4500 ike", "ike-4500"),
        ("udp 4500 esp", "esp-4500"),
        ("udp 4500 keepalive", "nat-keepalive"),
        ("udp 4500 rubbish", "clear"),
        ("udp 53 rubbish", "clear"),
        ("icmp", "clear"),
        ("tcp", "clear"),
        ("esp", "esp-50"),
    ],
)
def test_the_classifier_knows_every_kind(packet: str, kind: str) -> None:
    assert kind_of(_frame(packet)) == kind


def test_raw_vici_text_becomes_data() -> None:
    text = "list-sa event {gw {uniqueid=1 vips=[10.0.0.1 10.0.0.2] none=[] child-sas {net-1 {name=net mark=}}}}\n"
    assert parse_events(text + "list-sas reply {}\n", "list-sa") == [
        {
            "gw": {
                "uniqueid": "1",
                "vips": ["10.0.0.1", "10.0.0.2"],
                "none": [],
                "child-sas": {"net-1": {"name": "net", "mark": ""}},
            }
        }
    ]


_IKE = bytes(range(1, 17)) + bytes([33, 0x20, 34, 8]) + bytes(4) + (28).to_bytes(4)
_PAYLOADS = {
    "ike": _IKE,
    "esp": bytes([1, 2, 3, 4]) + bytes(40),
    "keepalive": b"\xff",
    "rubbish": bytes(4) + b"hello" * 8,
}
_PROTOCOLS = {"udp": 17, "icmp": 1, "tcp": 6, "esp": 50}


def _frame(packet: str) -> bytes:
    """An Ethernet frame with an IPv4 packet, described in words."""
    words = packet.split()
    payload = bytes(40)
    if words[0] == "udp":
        port = int(words[1])
        content = _PAYLOADS[words[2]]
        marker = bytes(4) if (port, words[2]) == (4500, "ike") else b""
        body = marker + content
        payload = port.to_bytes(2) * 2 + (8 + len(body)).to_bytes(2) + bytes(2) + body
    addresses = IPv4Address("10.0.0.1").packed + IPv4Address("10.0.0.2").packed
    header = (
        bytes([0x45, 0]) + (20 + len(payload)).to_bytes(2) + bytes(4) + bytes([64, _PROTOCOLS[words[0]]]) + bytes(2)
    )
    return bytes(12) + b"\x08\x00" + header + addresses + payload
