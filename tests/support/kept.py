"""What must be the same after a restart, a crash or an upgrade of the gateway: SAs, device, and no number used twice."""

from __future__ import annotations

from collections import Counter

from support.managed import Managed
from support.netns import Namespace
from support.pair import Pair
from support.process import wait_until
from support.twins import Tap

ESP_AT = 14 + 20 + 8  # behind Ethernet, IPv4 and UDP


class Wire:
    """What left by one device: (SPI, sequence number, IV) of every ESP packet."""

    def __init__(self, machine: Namespace, device: str) -> None:
        self.tap = Tap(machine, device)
        self.seen: list[tuple[bytes, bytes, bytes]] = []

    def gather(self) -> None:
        for frame in self.tap.outgoing("esp-4500"):
            esp = frame[ESP_AT:]
            self.seen.append((esp[:4], esp[4:8], esp[8:16]))

    def gather_more(self, count: int) -> None:
        """Wait for as many packets from now on."""
        self.gather()
        wanted = len(self.seen) + count
        wait_until(lambda: self.gather() or len(self.seen) >= wanted, 10, f"{count} more ESP packets leave")

    def nothing_twice(self, at_least: int) -> None:
        self.gather()
        assert len(self.seen) >= at_least
        for what in (lambda one: (one[0], one[1]), lambda one: (one[0], one[2])):
            assert [key for key, count in Counter(map(what, self.seen)).items() if count > 1] == []


def managed(pair: Pair) -> Managed:
    """Established, under a manager."""
    pair.capture.start()
    pair.charon.start()
    found = Managed(pair.gateway)
    found.start()
    pair.wait_up()
    return found


def ike_spis(pair: Pair) -> tuple[str, str]:
    tunnel = pair.gateway.tunnel()
    assert tunnel is not None
    return tunnel["initiator_spi"], tunnel["responder_spi"]


def child_spis(pair: Pair) -> set[str]:
    """As the edge has them."""
    return {child.spi_in for sa in pair.charon.sas() for child in sa.children}


def devices(pair: Pair) -> list[int]:
    return [link["ifindex"] for link in pair.gateway.machine.ip_json("link", "show") if link["ifname"] == "gw-site"]


def said(pair: Pair, event: str) -> list[str]:
    status = pair.gateway.status()
    assert status is not None
    return [entry["text"] for entry in status["journal"] if entry["event"] == event]


def iperf_connections(pair: Pair) -> int:
    return pair.scene.site.run("ss", "-Hnt", "state", "established", "dport", "=", ":5201").count("\n")
