"""News of the kernel that are lost (ENOBUFS), with ten thousand routes: all is read again, put right, and nothing foreign touched."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from support.netns import Lab
from support.process import wait_until
from support.two_fabrics import TwoFabrics

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]

ROUTES, FLOOD = 10_000, 20_000
MONITORED = 0x40  # RTNLGRP_IPV4_ROUTE as a bit of /proc/net/netlink
CONNECTION = """
[connection.site]
local_addrs = "10.99.0.1"
remote_addrs = "10.99.0.2"
psk.file = "site.psk"
local_ts = ["10.200.0.0/16"]
remote_ts = ["172.30.0.0/16"]
start_action = "none"
tunnel_address = ["169.254.21.1/30"]
"""


@pytest.fixture
def scene(lab: Lab) -> Iterator[TwoFabrics]:
    made = TwoFabrics(lab)
    made.daemon.config.write_text(made.daemon.config.read_text() + CONNECTION)
    key = made.daemon.config.parent / "site.psk"
    key.touch(mode=0o600)
    key.write_text("correct horse battery staple 42\n")
    yield made
    made.close()


def dropped(scene: TwoFabrics) -> int:
    """Messages that the kernel had no room for, at the sockets that listen to changes of routes."""
    rows = [line.split() for line in scene.gateway.run("cat", "/proc/net/netlink").splitlines()[1:]]
    return sum(int(row[8]) for row in rows if row[1] == "0" and int(row[3], 16) & MONITORED)


def held(scene: TwoFabrics) -> dict[str, list[str]]:
    """What there is of ours and of others, without numbers of nexthops and of links."""
    rows = scene.gateway.routes("221")
    link = scene.gateway.ip_json("address", "show", "dev", "gw-site")[0]
    return {
        "ours": sorted(f"{row.get('type', '')} {row['dst']} {row.get('gateway', '')}" for row in rows),
        "rules": scene.gateway.run("ip", "rule").splitlines(),
        "rules6": scene.gateway.run("ip", "-6", "rule").splitlines(),
        "tun": [str(link["mtu"]), link["operstate"], *(one["local"] for one in link["addr_info"])],
        "foreign": scene.gateway.run("ip", "route", "show", "table", "777", check=False).splitlines(),
        "foreign here": scene.gateway.run("ip", "route", "show", "table", "221", "protocol", "99").splitlines(),
    }


def test_what_was_changed_unheard_is_put_right_and_what_is_foreign_stays(scene: TwoFabrics) -> None:
    many = [f"20.{number >> 8}.{number & 255}.0/24" for number in range(ROUTES)]
    scene.start(many)
    logs = [scene.daemon.process]
    wait_until(lambda: len(scene.gateway.routes("221")) >= ROUTES, 60, "in the kernel", logs=logs)
    scene.gateway.batch("route add 192.0.2.0/24 via 10.99.1.2 table 221 protocol 99")
    closed = ("ip", "route", "show", "172.30.0.0/16", "table", "221")
    wait_until(lambda: len(scene.gateway.run(*closed).splitlines()) == 2, 10, "the tunnel's route", logs=logs)
    before = held(scene)
    scene.beta.noticed()
    process = scene.daemon.process
    assert process is not None

    process.signal(signal.SIGSTOP)
    flood = [f"30.{number >> 8}.{number & 255}.0/24" for number in range(FLOOD)]
    for verb in ("add", "del", "add"):
        scene.gateway.run(
            "ip", "-batch", "-", stdin="".join(f"route {verb} blackhole {one} table 777\n" for one in flood), timeout=60
        )
    assert dropped(scene) > 0, "or this would prove nothing"
    gone = "".join(f"route del {one} table 221\n" for one in many[:3000])
    scene.gateway.run("ip", "-batch", "-", stdin=gone, timeout=60)
    scene.gateway.batch(
        "rule del priority 22105",
        "route del blackhole 172.30.0.0/16 table 221 metric 4294967295",
        "link del gw-site",
    )
    foreign = scene.gateway.run("ip", "route", "show", "table", "777").splitlines()
    process.signal(signal.SIGCONT)

    wanted = {**before, "foreign": foreign}

    def right() -> bool:
        return "gw-site" in scene.gateway.run("ip", "link") and held(scene) == wanted

    begun = time.monotonic()
    wait_until(right, 30, "all is as it was", interval=0.2, logs=logs)
    assert time.monotonic() - begun < 20
    assert len(foreign) == FLOOD
    assert scene.beta.noticed() == [], "nobody heard of it"
