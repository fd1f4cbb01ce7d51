"""Hundreds of TUNs at once, and rules that never leave one open, on the real kernel."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from ipaddress import ip_interface, ip_network

import pytest
from support.route_lab import INSIDE, ONPREM, SETTINGS, RouteLab, Tunnel

from gateway.config.model import Config
from gateway.routing.model import (
    OpError,
)
from gateway.runtime import tun
from gateway.runtime.cleanup import cleanup
from gateway.runtime.kernel import LinkSettings
from gateway.runtime.netlink import Netlink
from gateway.runtime.rtnetlink import NetlinkError, Request
from gateway.runtime.rules import Entry

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs network namespaces"),
]


@pytest.fixture
def lab() -> Iterator[RouteLab]:
    with RouteLab() as made:
        yield made


MANY = 200


def test_hundreds_of_tuns_are_configured_at_once_and_deleted_in_the_time_of_one(lab: RouteLab) -> None:
    names = [f"gw-{number}" for number in range(MANY)]
    fds: list[int] = []

    async def main() -> tuple[float, float]:
        async with Netlink(SETTINGS) as netlink:
            for name in names:
                fds.extend(tun.open_tun(name, 2))
            links = [
                LinkSettings(
                    name, 1380, (ip_interface(f"169.254.{n}.1/30"), ip_interface(f"fd00:{n:x}::1/64")), fresh=True
                )
                for n, name in enumerate(names)
            ]
            links[3] = LinkSettings("gw-3", 10_000_000)
            links.insert(7, LinkSettings("gw-none", 1380))
            started = time.perf_counter()
            outcomes = await netlink.configure_links(links)
            configured = time.perf_counter() - started
            refused = [str(one) for one in outcomes if isinstance(one, NetlinkError)]
            assert len(refused) == 2 and "interface gw-3: " in refused[0] and "gw-none does not exist" in refused[1]
            seen = {link["ifname"]: link for link in lab.ip("address", "show", "up", "type", "tun")}
            assert seen.keys() == set(names) - {"gw-3"}, "what is not as wanted is not up"
            assert {(link["mtu"], link["qdisc"], len(link["addr_info"])) for link in seen.values()} == {
                (1380, "noqueue", 2)
            }
            started = time.perf_counter()
            await netlink.delete_links([*names, "gw-none"])
            deleted = time.perf_counter() - started
            assert lab.ip("link", "show", "type", "tun") == []
            return configured, deleted

    configured, deleted = lab.run(main)
    for fd in fds:
        os.close(fd)
    print(f"\n{MANY} TUNs: configured in {configured * 1000:.0f} ms, deleted in {deleted * 1000:.0f} ms")
    assert configured < 2.0 and deleted < 1.0


def test_deleting_some_tuns_leaves_other_links_alone(lab: RouteLab) -> None:
    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            fds = [*tun.open_tun("gw-a", 1), *tun.open_tun("gw-b", 1)]
            await netlink.delete_links(["gw-a"])
            assert {link["ifname"] for link in lab.ip("link")} == {"lo", "va", "gw-b"}
            await netlink.delete_links(["gw-a"])
            await netlink.delete_links([])
            for fd in fds:
                os.close(fd)

    lab.run(main)


def test_a_tun_whose_destinations_change_is_never_without_a_way_that_is_closed(lab: RouteLab) -> None:
    """Between any two requests to the kernel its packets meet the old block or the new one, and end there."""
    one, other = Entry((ip_network("10.1.0.0/16"),)), Entry((ip_network("10.2.0.0/16"), ip_network("10.3.0.0/16")))
    stages: list[list[dict[str, object]]] = []

    async def main() -> None:
        async with Netlink(SETTINGS) as netlink:
            assert netlink._kernel is not None
            (fd,) = tun.open_tun("gw-a", 1)
            exchange = netlink._kernel._routes.exchange
            netlink._kernel._routes.exchange = lambda requests: {  # type: ignore[method-assign]
                position: error for position, request in enumerate(requests) for error in step(request)
            }

            def step(request: Request) -> list[OpError]:
                errors = exchange([request])
                stages.append(lab.ip("rule"))
                return list(errors.values())

            for entry in (one, other, one, Entry(), one):
                await netlink.ensure_rules({"gw-a": entry})
                assert await netlink.ensure_rules({"gw-a": entry}) == []
                gotos = [rule for rule in lab.ip("rule") if rule["priority"] == 22107]
                assert len(gotos) == 1
            os.close(fd)

    lab.run(main)
    assert len(stages) > 50
    led = False
    for rules in stages:
        led = led or any(rule["priority"] == 22107 for rule in rules)
        assert not led or _ends_closed(rules), rules


def _ends_closed(rules: list[dict[str, object]]) -> bool:
    """Follows what `gw-a` lets in, to a destination nobody names."""
    position = 0
    while position < len(rules):
        rule = rules[position]
        position += 1
        if rule.get("iif", "gw-a") != "gw-a" or "dst" in rule or "fwmark" in rule:
            continue
        target = rule.get("goto")
        if target is not None and "unresolved" not in rule:
            position = next(n for n, other in enumerate(rules) if other["priority"] == target)
        elif rule.get("action") == "blackhole":
            return True
        elif rule.get("table") == "main" and "suppress_prefixlen" not in rule:
            return False
    return False


def test_rules_of_tuns_that_live_are_kept_with_their_block_and_those_of_the_dead_are_not(lab: RouteLab) -> None:
    async def main() -> list[str]:
        async with Netlink(SETTINGS) as netlink:
            tunnel = Tunnel(netlink)
            await tunnel.open()
            await netlink.ensure_rules({"gw-edge": Entry((ONPREM,), (INSIDE[0].ip,)), "gw-dead": Entry((ONPREM,))})
            said = await asyncio.to_thread(cleanup, Config(gateway=SETTINGS))
            kept = [rule for rule in lab.ip("rule") if rule.get("protocol") == "221"]
            assert {rule["iif"] for rule in kept if "iif" in rule} == {"gw-edge", "lo", "va"}
            assert _ends_closed([{**rule, "iif": "gw-a"} if rule.get("iif") == "gw-edge" else rule for rule in kept])
            tunnel.close()
            return said

    said = lab.run(main)
    assert "removed IPv4 rule 22107: iif gw-dead goto" in " ".join(said)
