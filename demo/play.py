"""The demo's acts: what is done, what must hold afterwards, and the figures that come of it.

Every act returns the sentence that is shown for it, or raises what went wrong. Nothing is simulated: gatewayd,
strongSwan and BIRD are real processes in network namespaces; the verdict on clear text is read from a capture.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from support.bird import Bird
from support.capture import Capture, Classified
from support.daemon import GatewayDaemon
from support.netns import Lab, host_state, new_entries
from support.process import LabError, holds_for, wait_until
from support.scene import PSK, SESSION_GATEWAY, SITE_HOST, SITE_PREFIXES, VNET_HOST, VNET_PREFIXES, Scene
from support.strongswan import Strongswan
from support.traffic import Iperf, Stream, Streams, ping, result

CONFIGURATION = Path(__file__).with_name("gateway.toml")
TABLE = "221"
REKEYS = 5  # of each kind, by each side
ATTEMPTS = 3
"""Of a measurement that the peer's machine spoils by dropping packets for want of processor time."""
RATE = 1000  # probe datagrams per second and direction
OUTAGE = 3.0  # seconds the gateway stays dead
TCP_BACKGROUND = 10  # seconds
TCP_MEGABITS = 10  # modest, so that no queue of the peer overflows and fakes a loss


class Play:
    """One performance."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self._host_before = host_state()
        self.lab = Lab()
        self._captures: list[Classified] = []

    def build_scene(self) -> str:
        """Six machines, strongSwan on the edge, BIRD on the edge and in the VNet; no gateway yet."""
        self.scene = Scene(self.lab)
        self.charon: Strongswan = self.scene.edge_charon()
        self.charon.start()
        self.edge_bird: Bird = self.scene.edge_bird()
        self.vnet_bird: Bird = self.scene.vnet_bird()
        self.edge_bird.start()
        self.vnet_bird.start()
        return (
            "site 172.16.1.10 - edge (strongSwan, BIRD) 203.0.113.2 == WAN ==\n"
            "  198.51.100.2 gateway 10.1.0.4 - VNet router (BIRD) - host 10.1.1.10"
        )

    def prove_clear_route(self) -> str:
        """The control: without gatewayd a packet does cross the WAN in clear, and the capture does see it."""
        control = Capture(self.scene.wan, "gateway", "control")
        control.start()
        stream = Stream(self.scene.host, VNET_HOST, self.scene.site, SITE_HOST, port=7100)
        stream.start(100)
        stream.wait_flowing(5)
        arrived = stream.stop().received
        seen = control.stop()
        if not arrived or not seen.clear or not seen.markers:
            raise LabError(
                f"the clear route does not work ({arrived} arrived, capture saw {seen.counts}): no leak could be shown"
            )
        return f"{arrived} datagrams arrived unencrypted, the capture counts {seen.clear}: a leak would be seen"

    def start_gateway(self) -> str:
        """gatewayd from a configuration file; the capture of the WAN runs from before it to the end."""
        self.capture = Capture(self.scene.wan, "gateway")
        self.capture.start()
        self.gateway = GatewayDaemon(self.scene.gateway, CONFIGURATION.read_text(), {"site.psk": PSK})
        self.gateway.start()
        assert self.gateway.process is not None
        return f"gatewayd --config gateway.toml, pid {self.gateway.process.pid}"

    def tunnel_up(self) -> str:
        """IKEv2 with a pre-shared key, and a CHILD_SA, on both sides."""
        tunnel = self.gateway.wait_up(logs=[self.charon.process])
        self.charon.wait_established()
        assert self.gateway.process is not None
        since_start = (tunnel["established_at"] - self.gateway.process.started_at) * 1000
        handshake = self.capture.so_far().handshake_ms()
        self.figures["ike_established_ms"] = round(since_start, 1)
        self.figures["ike_handshake_ms"] = round(handshake, 1) if handshake is not None else None
        suites = f"{tunnel['suite']}, ESP {tunnel['children'][0]['suite']}"
        return (
            f"{since_start:.0f} ms after the daemon's start, {handshake or 0:.0f} ms after the first packet: {suites}"
        )

    def bgp_up(self) -> str:
        """BGP with the edge inside the tunnel, and with the VNet router."""
        watched = [self.gateway.process]
        self.edge_bird.wait_established(SESSION_GATEWAY, 20, logs=watched)
        self.vnet_bird.wait_established(SESSION_GATEWAY, 20, logs=watched)
        for name in ("edge", "vnet"):
            self.gateway.wait_bgp(name)
        self.figures["bgp_sessions_established"] = 2
        return "169.254.21.2 (AS 65001, inside the tunnel) and 10.1.0.1 (AS 65515)"

    def routes_installed(self) -> str:
        """What was learned is in the kernel: table 221 here, the main table of both routers."""
        tables = (
            (self.scene.gateway, TABLE, (*SITE_PREFIXES, *VNET_PREFIXES)),
            (self.scene.edge, "main", VNET_PREFIXES),
            (self.scene.router, "main", SITE_PREFIXES),
        )
        for machine, table, prefixes in tables:
            for prefix in prefixes:
                what = f"{prefix} in table {table} of {machine.name}"
                wait_until(partial(machine.has_route, prefix, table), 15, what, logs=[self.gateway.process])
        self.figures["routes_installed"] = len(SITE_PREFIXES) + len(VNET_PREFIXES)
        return f"{', '.join(SITE_PREFIXES)} towards the site;\n{', '.join(VNET_PREFIXES)} towards the VNet"

    def ping_through(self) -> str:
        """100 echo requests at 10 ms from the site to the VNet."""
        wait_until(
            lambda: ping(self.scene.site, VNET_HOST, 1).lost == 0,
            10,
            "the first ping arrives",
            logs=[self.gateway.process],
        )
        measured = ping(self.scene.site, VNET_HOST, 100, 0.01)
        self.figures["ping_sent"], self.figures["ping_lost"] = measured.sent, measured.lost
        if measured.lost:
            raise LabError(f"{measured.lost} of {measured.sent} pings lost")
        return f"{measured.sent} sent, {measured.lost} lost, at most {measured.max_ms:.1f} ms"

    def throughput(self) -> str:
        """One TCP stream each way; strongSwan's user-space ESP on the edge is the bound here."""
        self.iperf = Iperf(self.scene.host, VNET_HOST)
        inward = self.iperf.measure(self.scene.site, 2)
        outward = self.iperf.measure(self.scene.site, 2, reverse=True)
        self.figures["tcp_gbit_per_s"] = round(min(inward.gbit_per_s, outward.gbit_per_s), 3)
        self.figures["tcp_to_vnet_gbit_per_s"] = round(inward.gbit_per_s, 3)
        self.figures["tcp_to_site_gbit_per_s"] = round(outward.gbit_per_s, 3)
        rates = f"{inward.gbit_per_s:.3f} Gbit/s to the VNet, {outward.gbit_per_s:.3f} Gbit/s to the site"
        return f"{rates} (the peer is strongSwan's libipsec)"

    def rekey_under_load(self) -> str:
        """Five CHILD_SA and five IKE_SA rekeys by each side while datagrams and a TCP stream flow: nothing is lost."""
        again = []
        for attempt in range(ATTEMPTS):
            told, void = self._rekey_under_load(7200 + 2 * attempt, last=attempt + 1 == ATTEMPTS)
            if not void:
                break
            again.append(f"\ndone again: {void}")
        return told + "".join(again)

    def _rekey_under_load(self, port: int, last: bool) -> tuple[str, str]:
        """What to tell, and why it has to be done again: the peer's machine lost packets of its own."""
        drops_before = {machine.name: machine.drops() for machine in self.lab.namespaces.values()}
        streams = self._streams(port)
        background = self.iperf.background(self.scene.site, TCP_BACKGROUND, TCP_MEGABITS)
        for _ in range(REKEYS):
            self.gateway.rekey_child()
            self.charon.rekey_child()
            self.gateway.rekey_ike()
            self.charon.rekey_ike()
        tcp = result(background, TCP_BACKGROUND + 20)
        there, back = streams.stop()
        lost = there.lost + back.lost
        self.figures["rekeys"] = REKEYS * 4
        self.figures["rekey_packets_sent"] = there.sent + back.sent
        self.figures["rekey_packets_lost"] = lost
        self.figures["rekey_max_delay_ms"] = round(max(there.max_delay, back.max_delay) * 1000, 1)
        if lost and there.void and not last:
            return "", there.void
        if lost:
            where = {
                name: {what: count - drops_before[name].get(what, 0) for what, count in machine.drops().items()}
                for name, machine in self.lab.namespaces.items()
            }
            raise LabError(
                f"{there.lost} of {there.sent} lost to the VNet, {back.lost} of {back.sent} to the site\n"
                f"numbers {there.missing} {back.missing}; dropped by the machines' kernels: {where}"
            )
        told = (
            f"{REKEYS * 4} rekeys, {there.sent + back.sent} datagrams, 0 lost, "
            f"{there.duplicated + back.duplicated} duplicated, at most {self.figures['rekey_max_delay_ms']} ms late;\n"
            f"TCP beside it {tcp.gbit_per_s * 1000:.0f} Mbit/s"
        )
        return told, ""

    def killed(self) -> str:
        """kill -9 under traffic: silence, not clear text; then a fresh start."""
        return self._outage("kill", "kill -9", self.gateway.kill)

    def stopped(self) -> str:
        """A graceful stop under traffic: the same."""

        def stop() -> None:
            code = self.gateway.stop()
            if code != 0:
                raise LabError(f"gatewayd ended with {code} after SIGTERM")

        return self._outage("stop", "SIGTERM", stop)

    def show_status(self) -> tuple[str, str]:
        """What an operator sees: gatewayctl status and some lines of /metrics."""
        status = self.gateway.ctl("status").stdout
        code, metrics = self.gateway.http("/metrics")
        if code != 200:
            raise LabError(f"/metrics answered {code}")
        wanted = (
            "gateway_tunnel_up",
            "gateway_bgp_peer_up",
            "gateway_esp_packets_total",
            "gateway_child_sa_rekeys_total",
            "gateway_routes",
        )
        shown = [line for line in metrics.splitlines() if line.startswith(wanted)]
        if not any(line.startswith("gateway_tunnel_up") and line.endswith(" 1.0") for line in shown):
            raise LabError("/metrics does not say that the tunnel is up")
        return status, "\n".join(shown[:12])

    def judge_capture(self) -> str:
        """Every packet that crossed the WAN since the gateway started, by class."""
        found = self.capture.stop()
        self.figures["clear_text_packets"] = found.clear
        self.figures["captured_packets"] = found.total
        self.figures["capture_classes"] = dict(found.counts)
        self.figures["capture_dropped"] = found.dropped
        classes = ", ".join(f"{kind} {count}" for kind, count in sorted(found.counts.items()))
        if found.clear or found.markers:
            raise LabError(
                "\n".join(
                    [f"clear text on the WAN: {classes}; {found.markers} probe payloads readable", *found.samples]
                )
            )
        return f"{found.total} packets: {classes};\nclear 0" + (
            f" ({found.dropped} not captured)" if found.dropped else ""
        )

    def tear_down(self) -> str:
        """Nothing is left: no namespace, process, device, route, rule or nftables table."""
        self.lab.close()
        left = self.lab.leftovers() + new_entries(self._host_before, host_state())
        self.figures["leftovers"] = left
        if left:
            raise LabError("left behind: " + "; ".join(left))
        return "no namespace, process, device, route or rule left"

    def _streams(self, port: int) -> Streams:
        streams = Streams(self.scene.site, SITE_HOST, self.scene.host, VNET_HOST, port, peer=self.scene.edge)
        streams.start(RATE)
        streams.wait_flowing(10)
        return streams

    def _outage(self, key: str, words: str, end: Callable[[], object]) -> str:
        """End the daemon under traffic, watch the WAN, start it again, measure the recovery."""
        watch = Capture(self.scene.wan, "gateway", f"wan-{key}")
        watch.start()
        streams = self._streams(7300 if key == "kill" else 7400)
        end()
        ended = time.monotonic()
        directions = (streams.there, streams.back)
        silent = lambda: all(direction.received_since(ended) is None for direction in directions)  # noqa: E731
        holds_for(silent, OUTAGE, f"no datagram passes after {words}")
        guard = [route for route in self.scene.gateway.routes(TABLE) if route.get("type") == "blackhole"]
        if not guard:
            raise LabError(f"no blackhole route is left in table {TABLE}")
        restarted = time.monotonic()
        self.gateway.start()
        recovered = streams.wait_flowing(30, restarted) - restarted
        self.gateway.wait_up()
        there, back = streams.stop()
        seen = watch.stop()
        self.figures[f"{key}_recovery_ms"] = round(recovered * 1000)
        self.figures[f"{key}_clear_text_packets"] = seen.clear
        self.figures[f"{key}_packets_lost"] = there.lost + back.lost
        if seen.clear or seen.markers:
            raise LabError("\n".join([f"{seen.clear} clear packets on the WAN after {words}", *seen.samples]))
        return (
            f"{OUTAGE:g} s dead: 0 clear packets on the WAN, {guard[0]['dst']} blackholed by the guard;\n"
            f"traffic both ways {recovered:.2f} s after the start"
        )
