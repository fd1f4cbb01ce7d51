"""`dscp` and `df` of a connection through the running daemon: what is on the wire, and reloads that lose nothing."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.capture import Capture, kind_of
from support.netns import Namespace
from support.operated import Site, make_site
from support.pair import nothing_lost
from support.process import wait_until
from support.scene import GATEWAY_OUTER, SITE_HOST, VNET_HOST, Scene

pytestmark = pytest.mark.system

AF11, ECT0, EF, CS6 = 10 << 2, 2, 46 << 2, 48 << 2
DF, MF, OFFSET = 0x4000, 0x2000, 0x1FFF
REMOTE = 'remote_addrs = "203.0.113.2"'
WHOLE = 1472
"""Payload of an echo request of 1500 octets: longer than any inner packet may be."""


@pytest.fixture
def site(scene: Scene) -> Site:
    made = make_site(scene)
    made.start()
    return made


def packets(path: Path) -> Iterator[bytes]:
    """The frames of a capture whose IPv4 header is whole."""
    data = path.read_bytes()
    at = 24
    while at + 16 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 8)
        frame = data[at + 16 : at + 16 + length]
        at += 16 + length
        if len(frame) >= 34 and frame[12:14] == b"\x08\x00":
            yield frame


def seen(machine: Namespace, device: str, name: str, act: Callable[[], object]) -> list[bytes]:
    """What crossed the device meanwhile."""
    capture = Capture(machine, device, name)
    capture.start()
    act()
    capture.stop()
    return list(packets(capture.path))


def sent_esp(frames: list[bytes]) -> list[bytes]:
    """The outer IPv4 headers of the gateway's ESP."""
    ours = bytes(int(part) for part in GATEWAY_OUTER.split("."))
    return [frame[14:34] for frame in frames if kind_of(frame) == "esp-4500" and frame[26:30] == ours]


def whole(headers: list[bytes]) -> bool:
    """No fragments. DF is the kernel's choice: what it cuts from one send has none."""
    return not any(struct.unpack_from("!H", header, 6)[0] & (MF | OFFSET) for header in headers)


def echo(site: Site, options: str) -> str:
    """Five echo requests from a host in the VNet, that remembers no path MTU, to the site; what ping says."""
    site.scene.host.batch("route flush cache")
    return site.scene.host.run("sh", "-c", f"ping -n -c 5 -i 0.05 -W 1 {options} {SITE_HOST} 2>&1 || true")


def settled(site: Site, keys: str, told: str) -> None:
    """A reload with these keys in the connection."""
    answer = site.reload(site.changed(REMOTE, f"{REMOTE}\n{keys}"))
    assert answer.returncode == 0, answer.stderr
    assert told in answer.stdout


def mtu_of_the_tun(site: Site) -> int:
    (link,) = site.scene.gateway.ip_json("link", "show", "gw-site")
    return int(link["mtu"])


def spis(site: Site) -> tuple[int, ...]:
    tunnel = site.daemon.tunnel()
    assert tunnel is not None
    return (tunnel["initiator_spi"], *(child["spi_in"] for child in tunnel["children"]))


def test_a_fixed_dscp_is_on_every_esp_packet_and_ecn_is_still_the_inner_one(site: Site) -> None:
    before = spis(site)
    marks: dict[str, set[int]] = {}

    def measured(phase: str) -> None:
        frames = seen(site.scene.wan, "gateway", phase, lambda: echo(site, f"-Q {AF11 | ECT0}"))
        headers = sent_esp(frames)
        assert len(headers) >= 5
        marks[phase] = {header[1] for header in headers}
        # as docs/configuration.md says of the kernel's part
        assert {header[8] for header in headers} == {64}, "net.ipv4.ip_default_ttl"
        assert whole(headers)

    def act() -> None:
        measured("copied")
        settled(site, 'dscp = "ef"', '~ connection.site.dscp "copy" -> 46 (in-place)')
        measured("fixed")
        settled(site, "dscp = 0", "~ connection.site.dscp 46 -> 0 (in-place)")
        measured("zero")
        assert '0 -> "copy" (in-place)' in site.reload().stdout
        measured("copied again")

    nothing_lost(site.under_traffic(act))
    assert marks["copied"] >= {0, AF11 | ECT0}
    assert marks["fixed"] == {EF, EF | ECT0}
    assert marks["zero"] == {0, ECT0}
    assert marks["copied again"] >= {0, AF11 | ECT0}
    assert spis(site) == before


def test_with_df_cleared_what_is_too_long_arrives_in_fragments_that_were_encrypted_one_by_one(site: Site) -> None:
    before, mtu = spis(site), mtu_of_the_tun(site)
    assert mtu < 1500
    large = f"-M do -s {WHOLE}"

    def refused() -> None:
        said = echo(site, large)
        assert f"Frag needed and DF set (mtu = {mtu})" in said
        assert "0 received" in said

    def act() -> None:
        refused()
        settled(site, 'df = "clear"', '~ connection.site.df "honor" -> "clear" (in-place)')
        wait_until(lambda: mtu_of_the_tun(site) == 65535, 5, "a TUN that takes what is too long")
        outer: list[bytes] = []
        inner = seen(
            site.scene.site, "eth0", "site", lambda: outer.extend(seen(site.scene.wan, "gateway", "wan", carried))
        )
        check_fragments(inner, mtu)
        assert whole(sent_esp(outer)), "no outer packet was fragmented"
        assert '"clear" -> "honor" (in-place)' in site.reload().stdout
        wait_until(lambda: mtu_of_the_tun(site) == mtu, 5, "the TUN as before")
        refused()

    def carried() -> None:
        said = echo(site, large)
        assert "5 received" in said
        assert "wrong data byte" not in said

    nothing_lost(site.under_traffic(act))
    assert spis(site) == before


@pytest.mark.slow
def test_both_count_from_the_start_and_after_a_lost_device_too(site: Site) -> None:
    site.daemon.stop()
    site.daemon.config.write_text(site.changed(REMOTE, f'{REMOTE}\ndscp = "cs6"\ndf = "clear"'))
    site.daemon.start()
    for lost in (False, True):
        if lost:
            site.scene.gateway.batch("link delete gw-site")
        site.wait_up()
        wait_until(
            lambda: "5 received" in echo(site, f"-M do -s {WHOLE}"),
            15,
            "too long and there",
            logs=[site.daemon.process],
        )
        assert mtu_of_the_tun(site) == 65535
        name = "after" if lost else "before"
        headers = sent_esp(seen(site.scene.wan, "gateway", name, lambda: echo(site, f"-Q {AF11 | ECT0}")))
        assert {header[1] for header in headers} >= {CS6 | ECT0}
        assert {header[1] & 0xFC for header in headers} == {CS6}


def check_fragments(frames: list[bytes], mtu: int) -> None:
    """The five echo requests as the site's host got them: two fragments each, no DF, identifications of their own."""
    ends = bytes(int(part) for address in (VNET_HOST, SITE_HOST) for part in address.split("."))
    arrived = [frame[14:] for frame in frames if frame[23] == 1 and frame[26:34] == ends]
    assert len(arrived) == 10
    numbers: dict[int, list[int]] = {}
    for packet in arrived:
        length, number, field = struct.unpack_from("!HHH", packet, 2)
        assert length <= mtu
        assert not field & DF
        numbers.setdefault(number, []).append(field)
    assert len(numbers) == 5
    for first, second in numbers.values():
        assert (first, second & MF) == (MF, 0)
        assert second & OFFSET == (mtu - 20) // 8
