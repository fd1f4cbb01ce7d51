"""Routes, nexthops, rules, TUNs and cleanup on the real kernel, in network namespaces."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Interface, ip_address, ip_network

import pytest
from support.route_lab import ONPREM, SETTINGS, SIX, Driver, RouteLab, Tunnel

from gateway.config.model import Config
from gateway.routing.guard import GUARD_METRIC, THROW_METRIC
from gateway.routing.model import (
    ConnectionAdded,
    ConnectionDown,
    ConnectionUp,
    Group,
    InterfaceGone,
    Nexthop,
    Op,
    Prefix,
    RemoveRoute,
    Resolution,
    Resync,
    Route,
    RouteKind,
    SetProtected,
    SetRoute,
    SetThrows,
    Verb,
    ViaConnection,
    ViaNextHop,
)
from gateway.runtime import tun
from gateway.runtime.cleanup import cleanup
from gateway.runtime.netlink import Change, LinkGone, LinkUp, Netlink, OursRemoved, UnderlayChanged
from gateway.runtime.rtnetlink import NetlinkError

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs network namespaces"),
]

EDGE = ViaConnection("edge")
ENDPOINTS = frozenset({ip_address("203.0.113.7"), ip_address("2001:db8:99::7")})


@pytest.fixture
def lab() -> Iterator[RouteLab]:
    with RouteLab() as made:
        yield made


async def connected(netlink: Netlink, protected: frozenset[Prefix], *routes: Prefix) -> tuple[Driver, Tunnel, int]:
    """Rules, guard, a tunnel that is up, and routes into it."""
    await netlink.ensure_rules()
    driver, tunnel = Driver(netlink), Tunnel(netlink)
    exempt = SetThrows(frozenset(await netlink.connected_prefixes()), ENDPOINTS)
    await driver.tell(exempt, SetProtected(protected))
    index = await tunnel.open()
    await driver.tell(
        ConnectionAdded("edge", index), ConnectionUp("edge"), *(SetRoute(prefix, EDGE) for prefix in routes)
    )
    return driver, tunnel, index


def test_rules_are_in_order_complete_and_not_doubled(lab: RouteLab) -> None:
    lab.batch(lab.gw, "rule add priority 22102 to 192.0.2.1 lookup main")
    before = lab.state()

    async def main() -> tuple[list[str], list[str]]:
        async with Netlink(SETTINGS) as netlink:
            return await netlink.ensure_rules(), await netlink.ensure_rules()

    first, second = lab.run(main)
    assert (len(first), second) == (8, [])
    ours = [
        (r["priority"], "not" in r, r.get("fwmark"), r.get("dst"), r["table"])
        for r in lab.ip("rule")
        if r.get("protocol") == "221"
    ]
    assert ours == [
        (22100, False, "0x67770001", None, "main"),
        (22100, False, "0x27770001", None, "main"),
        (22101, False, None, "169.254.169.254", "main"),
        (22102, False, None, "168.63.129.16", "main"),
        (22105, True, "0x67770001", None, "221"),
    ]
    six = [
        (r["priority"], "not" in r, r.get("fwmark"), r["table"])
        for r in lab.ip("-6", "rule")
        if r.get("protocol") == "221"
    ]
    assert six == [
        (22100, False, "0x67770001", "main"),
        (22100, False, "0x27770001", "main"),
        (22105, True, "0x67770001", "221"),
    ]
    lab.sync(lambda: cleanup(Config(gateway=SETTINGS), all=True))
    assert lab.state() == before


def test_rules_of_an_older_configuration_are_replaced(lab: RouteLab) -> None:
    async def main() -> list[str]:
        async with Netlink(SETTINGS) as netlink:
            await netlink.ensure_rules()
        async with Netlink(SETTINGS.model_copy(update={"mark": 0x99, "rule_priority": 500})) as netlink:
            return await netlink.ensure_rules()

    assert "removed IPv4 rule 22100: fwmark 0x67770001 lookup 254" in lab.run(main)
    assert [r["priority"] for r in lab.ip("rule") if r.get("protocol") == "221"] == [500, 500, 501, 502, 505]


def test_our_table_s_rule_of_an_older_version_is_closed_to_our_mark(lab: RouteLab) -> None:
    """To the kernel the two differ in nothing that names a rule which is to go."""

    async def main() -> list[str]:
        async with Netlink(SETTINGS) as netlink:
            return [*await netlink.ensure_rules(), *await netlink.ensure_rules()]

    for family in ("-4", "-6"):
        lab.ip(family, "rule", "add", "priority", "22105", "lookup", "221", "protocol", "221")
    assert sorted(line for line in lab.run(main) if line.startswith("removed")) == [
        f"removed IPv{v} rule 22105: from all lookup 221" for v in (4, 6)
    ]
    for family in ("-4", "-6"):
        (left,) = [rule for rule in lab.ip(family, "rule") if rule["priority"] == 22105]
        assert ("not" in left, left["fwmark"]) == (True, "0x67770001")


def test_both_families_go_into_the_tunnel_and_fail_closed_when_it_is_down(lab: RouteLab) -> None:
    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            driver, tunnel, _ = await connected(netlink, frozenset({ONPREM, SIX}), ONPREM, SIX)
            assert driver.fib.status().problems == ()
            assert (lab.way("172.16.0.1"), lab.way("2001:db8:5::1")) == ("gw-edge", "gw-edge")
            await driver.tell(ConnectionDown("edge"))
            assert (lab.way("172.16.0.1"), lab.way("2001:db8:5::1")) == ("", "")
            assert not lab.pings("172.16.0.1")
            await driver.tell(ConnectionUp("edge"))
            assert (lab.way("172.16.0.1"), lab.way("2001:db8:5::1")) == ("gw-edge", "gw-edge")
            tunnel.close()

    assert lab.pings("172.16.0.1")
    lab.run(main)


def test_five_thousand_routes_are_installed_and_moved_by_one_message(
    lab: RouteLab, record_property: pytest.RecordProperty
) -> None:
    prefixes = [ip_network((0xAC10_0000 + (n << 6), 26)) for n in range(5000)]

    async def main() -> tuple[float, float, float]:
        async with Netlink(SETTINGS) as netlink:
            driver, tunnel, _ = await connected(netlink, frozenset({ONPREM}))
            started = time.perf_counter()
            await driver.tell(*(SetRoute(prefix, EDGE) for prefix in prefixes))
            installed = time.perf_counter() - started
            assert driver.fib.status().installed == 5000
            driver.batches.clear()
            started = time.perf_counter()
            await driver.tell(ConnectionDown("edge"))
            moved = time.perf_counter() - started
            (batch,) = driver.batches
            assert [(op.verb, type(op.entry)) for op in batch] == [(Verb.REPLACE, Group)]
            assert lab.way("172.16.0.1") == lab.way("172.17.9.9") == ""
            await driver.tell(ConnectionUp("edge"))
            assert lab.way("172.17.9.9") == "gw-edge"
            started = time.perf_counter()
            await driver.tell(Resync())
            read = time.perf_counter() - started
            assert len(driver.batches) == 2
            tunnel.close()
        return installed, moved, read

    installed, moved, read = lab.run(main)
    print(
        f"\n5000 routes: installed in {installed * 1000:.0f} ms, failed over in {moved * 1000:.1f} ms, read back in {read * 1000:.0f} ms"
    )
    record_property("failover_ms", moved * 1000)
    assert moved < 0.5
    assert lab.table() == [
        ("blackhole", "172.16.0.0/12", GUARD_METRIC),
        ("throw", "10.0.1.0/24", THROW_METRIC),
        ("throw", "168.63.129.16", THROW_METRIC),
        ("throw", "169.254.169.254", THROW_METRIC),
        ("throw", "203.0.113.7", THROW_METRIC),
    ]


def test_a_closed_tun_leaves_the_guard_and_the_clear_default_route_is_not_used(lab: RouteLab) -> None:
    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            driver, tunnel, index = await connected(netlink, frozenset({ONPREM, SIX}), ONPREM, SIX)
            tunnel.close()
            assert lab.table()[0] == ("blackhole", "172.16.0.0/12", GUARD_METRIC)
            assert not [entry for entry in lab.table() if entry[0] == "unicast"]
            assert (lab.way("172.16.0.1"), lab.way("2001:db8:5::1")) == ("", "")
            assert not lab.pings("172.16.0.1")
            assert not lab.pings("2001:db8:5::1")
            # The device is back under another index: so are its routes.
            await driver.tell(InterfaceGone(index))
            again = await tunnel.open()
            await driver.tell(ConnectionAdded("edge", again))
            assert (lab.way("172.16.0.1"), lab.way("2001:db8:5::1")) == ("gw-edge", "gw-edge")
            assert driver.fib.status().problems == ()
            tunnel.close()

    assert lab.pings("172.16.0.1")
    assert lab.pings("2001:db8:5::1")
    lab.run(main)


def test_a_protected_default_route_spares_our_own_traffic_the_link_and_the_platform(lab: RouteLab) -> None:
    everything = frozenset({ip_network("0.0.0.0/0"), ip_network("::/0")})

    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            _, tunnel, _ = await connected(netlink, everything, *everything)
            check("gw-edge")
            tunnel.close()
            check("")

    def check(way: str) -> None:
        assert (lab.way("172.16.0.1"), lab.way("2001:db8:5::1")) == (way, way)
        # Our own IKE and ESP, by their mark; to the peer also without it.
        assert lab.pings("172.16.0.1", "-m", str(SETTINGS.mark))
        assert lab.pings("203.0.113.7", "-m", str(SETTINGS.mark))
        for address in ("203.0.113.7", "2001:db8:99::7", "10.0.1.1", "fd01::1", "169.254.169.254", "168.63.129.16"):
            assert lab.way(address) == "va", address
            assert lab.pings(address), address

    lab.run(main)


def test_an_underlay_next_hop_is_resolved_through_the_main_table_to_the_router_on_the_link(lab: RouteLab) -> None:
    vnet, vnet6, hop = ip_network("10.9.0.0/16"), ip_network("2001:db8:77::/48"), ip_address("10.0.77.4")

    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            driver, tunnel, _ = await connected(netlink, frozenset({ONPREM}), ip_network("0.0.0.0/0"))
            va = await netlink.link_index("va")
            assert va is not None
            assert await netlink.interface_for(hop) == Resolution(ip_address("10.0.1.1"), va)
            assert await netlink.interface_for(ip_address("10.0.1.9")) == Resolution(ip_address("10.0.1.9"), va)
            assert await netlink.interface_for(ip_address("10.0.1.4")) is None  # ourselves
            await driver.tell(SetRoute(vnet, ViaNextHop(hop)))
            assert lab.way("10.9.1.1") == "va"
            # RFC 4271 9.1.2.1: a route is no way to its own next hop, also where main knows none and the kernel goes on
            lab.batch(lab.gw, "route delete default", "route delete ::/0")
            await driver.tell(
                SetRoute(vnet, ViaNextHop(ip_address("10.0.1.1"))), SetRoute(vnet6, ViaNextHop(ip_address("fd01::1")))
            )
            assert (lab.way("10.9.1.9"), lab.way("2001:db8:77::9")) == ("va", "va")
            assert await netlink.interface_for(ip_address("10.9.1.9")) is None
            assert await netlink.interface_for(ip_address("2001:db8:77::9")) is None
            lab.batch(lab.gw, "route add default via 10.0.1.1", "route add ::/0 via fd01::1")
            assert await netlink.interface_for(ip_address("fd01::1")) == Resolution(ip_address("fd01::1"), va)
            assert lab.way("8.8.8.8") == "gw-edge"
            await driver.tell(RemoveRoute(vnet))
            assert lab.way("10.9.1.1") == "gw-edge"
            tunnel.close()

    lab.run(main)


def test_what_somebody_else_removed_is_noticed_and_restored(lab: RouteLab) -> None:
    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            driver, tunnel, _ = await connected(netlink, frozenset({ONPREM}), ONPREM, ip_network("172.16.9.0/24"))
            wanted = lab.state()
            changes: asyncio.Queue[Change] = asyncio.Queue()
            netlink.monitor(changes.put_nowait)
            removals = (
                "route del 172.16.9.0/24 table 221",
                "route del blackhole 172.16.0.0/12 metric 4294967295 table 221",
                "nexthop flush protocol 221",
                "rule del priority 22105",
            )
            for removal in removals:
                lab.batch(lab.gw, removal)
                assert await asyncio.wait_for(changes.get(), 5) == OursRemoved()
            assert lab.state() != wanted
            await netlink.ensure_rules()
            await driver.tell(Resync())
            assert lab.state() == wanted
            assert changes.empty()  # our own repairs are no news
            tunnel.close()

    lab.run(main)


def test_links_and_underlay_changes_are_reported(lab: RouteLab) -> None:
    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            changes: list[Change] = []
            netlink.monitor(changes.append)
            tunnel = Tunnel(netlink)
            index = await tunnel.open()
            await until(lambda: any(isinstance(c, LinkUp) and (c.index, c.name) == (index, "gw-edge") for c in changes))
            tunnel.close()
            await until(lambda: LinkGone(index, "gw-edge", deleted=True) in changes)
            changes.clear()
            lab.batch(lab.gw, "route add 198.51.100.0/24 via 10.0.1.1")
            await until(lambda: UnderlayChanged() in changes)

    lab.run(main)


def test_a_link_that_flaps_between_two_wake_ups_is_reported_as_what_it_is_now(lab: RouteLab) -> None:
    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            changes: list[Change] = []
            netlink.monitor(changes.append)
            lab.batch(lab.gw, *(f"link set va {state}" for state in ("down", "up", "down")))  # blocks this loop
            await until(lambda: bool(changes))
            assert [c for c in changes if isinstance(c, LinkGone | LinkUp)] == [LinkGone(await index(netlink), "va")]

    async def index(netlink: Netlink) -> int:
        found = await netlink.link_index("va")
        assert found is not None
        return found

    lab.run(main)


def test_a_flood_of_notifications_ends_in_one_request_to_read_again(
    lab: RouteLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.runtime.netlink._RECEIVE_BUFFER", 32768)

    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            changes: list[Change] = []
            netlink.monitor(changes.append)
            lab.batch(lab.gw, *(f"route add 198.51.{n}.0/24 via 10.0.1.1" for n in range(200)))  # blocks this loop
            await until(lambda: OursRemoved(lost_messages=True) in changes)
            changes.clear()
            lab.batch(lab.gw, "route add 192.0.2.0/24 via 10.0.1.1")
            await until(lambda: UnderlayChanged() in changes)

    lab.run(main)


def test_errors_name_what_the_kernel_said(lab: RouteLab) -> None:
    vnet = ip_network("10.9.0.0/16")
    ops = (
        Op(Verb.ADD, Route(vnet, 20, RouteKind.UNICAST, 0x67770100)),
        Op(Verb.ADD, Route(vnet, 20, RouteKind.BLACKHOLE)),
        Op(Verb.ADD, Route(vnet, 20, RouteKind.BLACKHOLE)),
        Op(Verb.ADD, Nexthop(0x67770001, 4, 4711)),
        Op(Verb.DELETE, Route(vnet, 99, RouteKind.BLACKHOLE)),
        Op(Verb.DELETE, Route(vnet, 20, RouteKind.BLACKHOLE)),
    )

    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            errors = await netlink.apply(ops)
            assert {position: error.number for position, error in errors.items()} == {
                0: errno.EINVAL,
                2: errno.EEXIST,
                3: errno.EINVAL,
                4: errno.ESRCH,
            }
            assert errors[0].text == "Invalid argument: Nexthop id does not exist"
            assert errors[3].text == "Invalid argument: Invalid device index"
            with pytest.raises(NetlinkError, match="interface gw-none does not exist"):
                await netlink.configure_link("gw-none", 1400, ())
            with pytest.raises(NetlinkError, match="interface va: "):
                await netlink.configure_link("va", 10_000_000, ())

    lab.run(main)


def test_of_many_operations_each_refusal_finds_its_own(lab: RouteLab) -> None:
    """The kernel is asked to confirm the last of a chunk only, and here also the last of one is refused."""
    routes = [Route(ip_network(f"20.{n >> 8}.{n & 255}.0/24"), 20, RouteKind.BLACKHOLE) for n in range(1000)]
    doubled = {0, 7, 199, 200, 642, 999}

    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            assert await netlink.apply([Op(Verb.ADD, routes[n]) for n in sorted(doubled)]) == {}
            errors = await netlink.apply([Op(Verb.ADD, route) for route in routes])
            assert {position: error.number for position, error in errors.items()} == dict.fromkeys(
                doubled, errno.EEXIST
            )
            assert set(routes) <= set((await netlink.dump()).entries)

    lab.run(main)


def test_of_our_own_routes_the_kernel_tells_us_nothing(lab: RouteLab) -> None:
    """Others hear of them, and we of theirs."""
    ours = [Route(ip_network(f"20.0.{n}.0/24"), 20, RouteKind.BLACKHOLE) for n in range(200)]

    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            changes: list[Change] = []
            netlink.monitor(changes.append)
            watch = netlink._monitor
            assert watch is not None
            asyncio.get_running_loop().remove_reader(watch)  # what comes stays in the socket
            await netlink.apply([Op(Verb.ADD, route) for route in ours])
            with pytest.raises(BlockingIOError):
                watch.recv(1 << 16)
            lab.batch(lab.gw, f"route del blackhole {ours[0].prefix} metric 20 table 221")
            assert ours[0].prefix.network_address.packed in watch.recv(1 << 16)

    lab.run(main)


def test_foreign_routes_in_our_table_and_foreign_nexthops_stay(lab: RouteLab) -> None:
    lab.batch(lab.gw, "nexthop add id 1735852032 via 10.0.1.1 dev va protocol 99")
    lab.batch(lab.gw, "route add 10.9.0.0/16 via 10.0.1.1 table 221 protocol 99 metric 20")
    foreign = lab.state()

    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            driver, tunnel, _ = await connected(netlink, frozenset({ONPREM}), ONPREM, ip_network("10.9.0.0/16"))
            assert driver.fib.state(ip_network("10.9.0.0/16")).error == "File exists"
            assert driver.fib.state(ONPREM).installed
            tunnel.close()

    lab.run(main)
    lab.sync(lambda: cleanup(Config(gateway=SETTINGS), all=True))
    assert lab.state() == foreign


def test_a_link_gets_exactly_its_addresses_and_connected_prefixes_leave_tunnels_out(lab: RouteLab) -> None:
    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            tunnel = Tunnel(netlink)
            index = await tunnel.open(queues=2)
            assert await netlink.link_index("gw-edge") == index
            assert await netlink.connected_prefixes() == [
                ip_network("10.0.1.0/24"),
                ip_network("fd01::/64"),
                ip_network("fe80::/64"),
            ]
            other = IPv4Interface("169.254.22.1/30")
            await netlink.configure_link("gw-edge", 1380, (other,))
            (link,) = lab.ip("address", "show", "dev", "gw-edge")
            assert (link["mtu"], [a["local"] for a in link["addr_info"]]) == (1380, ["169.254.22.1"])
            await netlink.configure_link("gw-edge", 1000, (other,))  # too small for IPv6, which is no error
            tunnel.close()
            assert await netlink.link_index("gw-edge") is None

    lab.run(main)


def test_a_tun_that_exists_is_refused_in_one_sentence(lab: RouteLab) -> None:
    def body() -> str:
        fds = tun.open_tun("gw-edge", 2)
        try:
            with pytest.raises(tun.TunError) as refused:
                tun.open_tun("gw-edge", 1)
            return str(refused.value)
        finally:
            for fd in fds:
                os.close(fd)

    assert lab.sync(body) == f"TUN device gw-edge: {tun._REASONS[errno.EBUSY]}"


_CHILD = """
import asyncio, sys
sys.path[:0] = {path!r}
import test_netlink as t
async def main():
    async with t.Netlink(t.SETTINGS) as netlink:
        driver, tunnel, _ = await t.connected(netlink, frozenset({{t.ONPREM, t.SIX}}), t.ONPREM, t.SIX)
        await driver.tell(t.SetRoute(t.ip_network("10.9.0.0/16"), t.ViaNextHop(t.ip_address("10.0.1.1"))))
        print("ready", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def kill_a_gateway(lab: RouteLab) -> None:
    path = [os.path.dirname(__file__), *sys.path]
    command = ("ip", "netns", "exec", lab.gw, sys.executable, "-c", _CHILD.format(path=path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert lab.way("172.16.0.1") == "gw-edge"
        child.send_signal(signal.SIGKILL)


def test_cleanup_after_a_kill_keeps_the_guard_and_all_removes_everything(lab: RouteLab) -> None:
    lab.wait_settled()
    before = lab.state()
    kill_a_gateway(lab)
    lab.batch(lab.gw, "tuntap add gw-left mode tun")
    assert not lab.pings("172.16.0.1")
    said = lab.sync(lambda: cleanup(Config(gateway=SETTINGS)))
    assert "removed interface gw-left" in said
    assert "kept the guard: 172.16.0.0/12, 2001:db8:5::/48 cannot leave in clear (cleanup --all removes it)" in said
    assert not lab.pings("172.16.0.1")
    assert lab.pings("203.0.113.7")
    left = {name: set(now) - set(before[name]) for name, now in lab.state().items()}
    assert (left["nexthops"], left["links"]) == (set(), set())
    assert [r["priority"] for r in (*lab.ip("rule"), *lab.ip("-6", "rule")) if r.get("protocol") == "221"] == [
        22105,
        22105,
    ]
    assert {kind for kind, _, _ in (*lab.table("-4"), *lab.table("-6"))} == {"blackhole", "throw"}
    again = lab.state()
    lab.sync(lambda: cleanup(Config(gateway=SETTINGS)))
    assert lab.state() == again
    lab.sync(lambda: cleanup(Config(gateway=SETTINGS), all=True))
    assert lab.state() == before
    assert lab.sync(lambda: cleanup(Config(gateway=SETTINGS), all=True)) == []
    assert lab.pings("172.16.0.1")


def test_a_restart_finds_the_guard_in_force_and_takes_over(lab: RouteLab) -> None:
    kill_a_gateway(lab)

    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            driver, tunnel, _ = await connected(netlink, frozenset({ONPREM, SIX}), ONPREM)
            assert driver.fib.status().stale == 1  # 10.9.0.0/16, until the sweep
            touched = [op for ops in driver.batches for op in ops if isinstance(op.entry, Route)]
            assert [op.entry.prefix for op in touched] == [ONPREM]  # the guard was not touched
            tunnel.close()

    lab.run(main)


def test_a_tun_held_by_a_process_is_not_cleaned_away(lab: RouteLab) -> None:
    async def main() -> list[str]:
        async with Netlink(SETTINGS) as netlink:
            tunnel = Tunnel(netlink)
            await tunnel.open()
            said = await asyncio.to_thread(cleanup, Config(gateway=SETTINGS))
            tunnel.close()
            return said

    assert "kept interface gw-edge: a running process holds it" in lab.run(main)


def test_our_table_may_have_a_large_number(lab: RouteLab) -> None:
    settings = SETTINGS.model_copy(update={"route_table": 100_000})

    async def main() -> None:
        async with Netlink(settings) as netlink:
            await netlink.ensure_rules()
            driver = Driver(netlink)
            await driver.tell(SetProtected(frozenset({ONPREM})))
            fresh = replace(await netlink.dump(), used_ids=frozenset())
            assert Route(ONPREM, GUARD_METRIC, RouteKind.BLACKHOLE) in fresh.entries
            assert lab.way("172.16.0.1") == ""

    lab.run(main)
    lab.sync(lambda: cleanup(Config(gateway=settings), all=True))
    assert lab.way("172.16.0.1") == "va"


async def until(condition: object, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)
