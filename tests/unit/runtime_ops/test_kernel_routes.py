"""The entry guard's life: rules before the TUN is up, changed by a reload, gone with the TUN."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_network
from typing import Any

import pytest

from gateway.node.effects import CloseTunnel, OpenTunnel, SetInstances, SetTunnelMtu
from gateway.node.inputs import TunnelFailed, TunnelReady
from gateway.node.instances import InstanceSettings
from gateway.routing.model import (
    Applied,
    ConnectionAdded,
    InterfaceGone,
    NextHopResolved,
    Prefix,
    Resolve,
    Resync,
    RouteOps,
)
from gateway.runtime.kernel import LinkSettings
from gateway.runtime.kernel_routes import BATCH, KernelRoutes
from gateway.runtime.netlink import Change, LinkGone, LinkUp, OursRemoved
from gateway.runtime.rtnetlink import NetlinkError
from gateway.runtime.rules import Entry

VNET, OTHER = ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16")


class FakeNetlink:
    """Remembers what was asked, in order."""

    def __init__(self) -> None:
        self.mtus: dict[str, int] = {}  # by interface, as last configured
        self.said: list[tuple[str, Any]] = []
        self.rules_fail = False
        self.belonging: dict[str, str] = {}  # instances by interface
        self.index = 6
        self.gone: set[str] = set()  # interfaces that somebody deleted
        self.led_to: set[int] = set()  # tables, by rules of ours that stand
        self.notify: Callable[[Change], None] = lambda _: None

    async def tables_of_instances(self) -> set[int]:
        return self.led_to

    async def ensure_rules(
        self, entries: dict[str, Entry] | None = None, remove: bool = True, instances: Sequence[InstanceSettings] = ()
    ) -> list[str]:
        if self.rules_fail:
            raise NetlinkError(errno.ENOMEM, "no room for a rule")
        named = {interface: entry.destinations for interface, entry in (entries or {}).items()}
        self.belonging = {interface: entry.instance for interface, entry in (entries or {}).items()}
        self.said.append(("rules" if remove else "rules added", named))
        return []

    async def configure_links(self, links: list[LinkSettings]) -> list[int]:
        self.said += [("up", link.name) for link in links]
        self.mtus.update({link.name: link.mtu for link in links})
        return [self.index for _ in links]

    async def delete_links(self, names: list[str]) -> None:
        self.said.append(("deleted", names))

    async def link_index(self, name: str) -> int | None:
        return None if name in self.gone else self.index

    async def connected_prefixes(self) -> list[Prefix]:
        return []

    def monitor(self, callback: Callable[[Change], None]) -> None:
        self.notify = callback

    def unmonitor(self) -> None:
        self.notify = lambda _: None


class Stage:
    def __init__(self) -> None:
        self.netlink = FakeNetlink()
        self.commands: list[object] = []
        self.routes = KernelRoutes(self.netlink, self.commands.append)  # type: ignore[arg-type]

    def open(self, name: str = "a", *destinations: Prefix) -> None:
        self.routes.open_tunnel(OpenTunnel(1, name, 1400, (), tuple(map(str, destinations))))

    async def said(self) -> list[tuple[str, Any]]:
        """Since last asked."""
        await self.routes.idle()
        said, self.netlink.said = self.netlink.said, []
        return said


def play(scenario: Callable[[Stage], Awaitable[None]]) -> None:
    async def main() -> None:
        stage = Stage()
        await stage.routes.prepare()
        # Another table's rule may hold the only guard until ours is in
        stage.routes.set_instances(SetInstances((), {}, guarded=False))
        assert await stage.said() == [("rules added", {})]
        stage.routes.set_instances(SetInstances((), {}))
        assert await stage.said() == [("rules", {})], "what nobody wants goes then, though there be no TUN"
        await scenario(stage)
        await stage.routes.close()

    asyncio.run(main())


def test_the_rules_of_all_tuns_are_there_before_the_first_is_up() -> None:
    async def scenario(stage: Stage) -> None:
        stage.open("a", VNET)
        stage.open("b")
        assert await stage.said() == [("rules", {"gw-a": (VNET,), "gw-b": ()}), ("up", "gw-a"), ("up", "gw-b")]

    play(scenario)


def test_at_a_start_one_call_is_for_what_goes_and_for_all_tuns() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.routes.prepare()
        stage.routes.set_instances(SetInstances((), {}, guarded=False))
        await stage.said()
        stage.routes.set_instances(SetInstances((), {}))
        stage.open("a", VNET)
        stage.open("b")
        assert await stage.said() == [("rules", {"gw-a": (VNET,), "gw-b": ()}), ("up", "gw-a"), ("up", "gw-b")]
        await stage.routes.close()

    asyncio.run(main())


def test_a_tun_without_rules_stays_down_until_there_are_rules() -> None:
    async def scenario(stage: Stage) -> None:
        stage.netlink.rules_fail = True
        stage.open("a", VNET)
        stage.routes.set_mtu(SetTunnelMtu(1, "a", 1380, 1340, 1320), ())
        assert await stage.said() == []
        assert not any(isinstance(command, TunnelReady) for command in stage.commands)
        stage.netlink.rules_fail = False
        stage.open("a", VNET)
        assert await stage.said() == [("rules", {"gw-a": (VNET,)}), ("up", "gw-a")]
        assert TunnelReady("a", 6) in stage.commands

    play(scenario)


def test_a_new_mtu_leaves_the_rules_alone_and_other_destinations_replace_them() -> None:
    async def scenario(stage: Stage) -> None:
        stage.open("a", VNET)
        await stage.said()
        stage.routes.set_mtu(SetTunnelMtu(1, "a", 1380, 1340, 1320), ())
        assert await stage.said() == [("up", "gw-a")]
        stage.routes.set_mtu(SetTunnelMtu(1, "a", 1380, 1340, 1320, (str(OTHER),)), ())
        assert await stage.said() == [("rules", {"gw-a": (OTHER,)}), ("up", "gw-a")]

    play(scenario)


def test_where_df_is_disregarded_the_kernel_leaves_the_mtu_to_the_data_plane() -> None:
    async def scenario(stage: Stage) -> None:
        for opening, cleared, mtu in ((True, True, 65535), (False, False, 1380), (False, True, 65535)):
            if opening:
                stage.open("a")
            stage.routes.set_mtu(SetTunnelMtu(1, "a", 1380, 1340, 1320, clear_df=cleared), ())
            assert await stage.said()
            assert stage.netlink.mtus == {"gw-a": mtu}

    play(scenario)


@pytest.mark.parametrize(("deleted", "said"), [(True, [("rules", {})]), (False, [])], ids=["deleted", "down"])
def test_the_rules_go_with_the_tun_but_not_when_it_is_only_down(deleted: bool, said: list[Any]) -> None:
    async def scenario(stage: Stage) -> None:
        stage.open("a", VNET)
        await stage.said()
        stage.netlink.notify(LinkGone(6, "gw-a", deleted=deleted))
        assert await stage.said() == said

    play(scenario)


def test_late_news_of_the_old_tun_does_not_take_the_rules_of_the_new_one() -> None:
    async def scenario(stage: Stage) -> None:
        stage.open("a", VNET)
        await stage.said()
        stage.open("a", VNET)
        stage.netlink.index = 7
        stage.netlink.notify(LinkGone(6, "gw-a", deleted=True))
        stage.netlink.notify(LinkUp(7, "gw-a"))
        assert ("up", "gw-a") in (said := await stage.said())
        assert not [entries for kind, entries in said if kind == "rules" and "gw-a" not in entries]
        stage.netlink.notify(OursRemoved())
        assert await stage.said() == [("rules", {"gw-a": (VNET,)})]

    play(scenario)


def test_a_tun_made_again_at_once_keeps_its_rules() -> None:
    """The node answers the loss of a TUN by opening it again, within the same notification."""

    async def scenario(stage: Stage) -> None:
        stage.open("a", VNET)
        await stage.said()
        stage.netlink.index = 7
        stage.routes._command = lambda command: stage.open("a", VNET) if "Gone" in repr(command) else None
        stage.netlink.notify(LinkGone(6, "gw-a", deleted=True))
        said = await stage.said()
        assert said[-1] == ("up", "gw-a")
        assert all(entries == {"gw-a": (VNET,)} for kind, entries in said if kind == "rules")

    play(scenario)


def test_many_tuns_are_made_in_batches_with_the_mtu_last_asked_for_and_nothing_is_overtaken() -> None:
    class Devices:
        def __init__(self, netlink: FakeNetlink) -> None:
            self.netlink = netlink

        async def make(self, wanted: list[OpenTunnel]) -> list[OpenTunnel]:
            self.netlink.said.append(("made", [(one.name, one.mtu) for one in wanted]))
            return [one for one in wanted if one.name != "n1"]

        async def close(self, names: list[str]) -> None:
            self.netlink.said.append(("closed", names))

    async def scenario(stage: Stage) -> None:
        stage.routes._devices = Devices(stage.netlink)
        count = BATCH + 3
        for number in range(count):
            stage.open(f"n{number}")
            stage.routes.set_mtu(SetTunnelMtu(1, f"n{number}", 1300 + number, 0, 0), ())
        stage.routes.close_tunnel(CloseTunnel(1, "n0"))
        stage.routes.close_tunnel(CloseTunnel(1, "n2"))
        stage.open("n0")
        said = await stage.said()
        batches = [value for kind, value in said if kind == "made"]
        whole = [(f"n{number}", 1300 + number) for number in range(count)]
        assert batches == [whole[:BATCH], whole[BATCH:], [("n0", 1400)]]
        assert [kind for kind, _ in said if kind in ("made", "closed", "rules")] == [
            "made",
            "rules",
            "made",
            "closed",
            "made",
        ]
        assert ("closed", ["gw-n0", "gw-n2"]) in said
        ready = [command.name for command in stage.commands if isinstance(command, TunnelReady)]
        assert ready == [f"n{number}" for number in range(count) if number != 1] + ["n0"]
        assert ("up", "gw-n1") not in said

    play(scenario)


def test_one_link_that_is_refused_does_not_stop_the_others() -> None:
    async def scenario(stage: Stage) -> None:
        async def configure_links(links: list[LinkSettings]) -> list[int | NetlinkError]:
            return [NetlinkError(errno.EINVAL, "no") if link.name == "gw-b" else 9 for link in links]

        stage.netlink.configure_links = configure_links  # type: ignore[method-assign, assignment]
        for name in ("a", "b", "c"):
            stage.open(name)
        await stage.said()
        told = [c for c in stage.commands if isinstance(c, TunnelReady | TunnelFailed)]
        assert told == [TunnelReady("a", 9), TunnelFailed("b"), TunnelReady("c", 9)]

    play(scenario)


def test_the_rules_of_a_tun_follow_its_connection_into_another_instance() -> None:
    known = (InstanceSettings("blue", 301), InstanceSettings("red", 302))

    async def scenario(stage: Stage) -> None:
        stage.routes.set_instances(SetInstances(known, {"a": "blue"}))
        stage.open("a", VNET)
        await stage.said()
        assert stage.netlink.belonging == {"gw-a": "blue"}
        # the instances are the same, and nothing else of the TUN changes
        stage.routes.set_instances(SetInstances(known, {"a": "red"}))
        assert [kind for kind, _ in await stage.said()] == ["rules"]
        assert stage.netlink.belonging == {"gw-a": "red"}
        stage.routes.set_instances(SetInstances(known, {"a": "red"}))
        assert await stage.said() == []

    play(scenario)


def test_rules_that_led_into_an_instance_stay_until_the_guard_stands_elsewhere() -> None:
    async def scenario(stage: Stage) -> None:
        stage.routes.set_instances(SetInstances((InstanceSettings("blue", 301),), {"a": "blue"}))
        stage.open("a", VNET)
        await stage.said()
        stage.routes.set_instances(SetInstances((), {"a": ""}, guarded=False))
        assert [kind for kind, _ in await stage.said()] == ["rules added"]
        stage.routes.set_instances(SetInstances((), {"a": ""}))
        assert [kind for kind, _ in await stage.said()] == ["rules"]

    play(scenario)


@pytest.mark.parametrize("gone", [False, True])
def test_when_news_were_lost_a_tun_is_looked_for_and_made_as_it_shall_be(gone: bool) -> None:
    """Somebody may have deleted it, or taken it down, or its address away, and nobody heard of it."""

    async def scenario(stage: Stage) -> None:
        stage.open("a", VNET)
        await stage.said()
        stage.commands.clear()
        stage.netlink.gone = {"gw-a"} if gone else set()
        stage.netlink.notify(OursRemoved(lost_messages=True))
        said = await stage.said()
        assert Resync() in stage.commands
        assert (InterfaceGone(6) in stage.commands) is gone
        assert (ConnectionAdded("a", 6) in stage.commands) is not gone
        assert (("up", "gw-a") in said) is not gone
        assert ("rules", {} if gone else {"gw-a": (VNET,)}) in said
        stage.commands.clear()
        stage.netlink.notify(OursRemoved())
        assert await stage.said() and stage.commands == [Resync()], "with nothing lost the TUNs are not looked at"

    play(scenario)


class Unforeseen(FakeNetlink):
    """What its libraries raise is not always an error of the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = True

    def _fail(self) -> None:
        if self.failing:
            raise KeyError("an attribute that an older kernel does not send")

    async def apply(self, ops: Sequence[object], table: int) -> dict[int, object]:
        self._fail()
        return {}

    async def interface_for(self, address: object) -> None:
        self._fail()

    async def configure_links(self, links: list[LinkSettings]) -> list[int]:
        self._fail()
        return await super().configure_links(links)

    async def link_index(self, name: str) -> int | None:
        self._fail()
        return await super().link_index(name)


class Unmakeable:
    async def make(self, wanted: Sequence[OpenTunnel]) -> Sequence[OpenTunnel]:
        raise ValueError("no such device")

    async def close(self, names: Sequence[str]) -> None: ...


def unforeseen(scenario: Callable[[Stage, Unforeseen], Awaitable[None]]) -> None:
    async def main() -> None:
        stage, netlink = Stage(), Unforeseen()
        stage.netlink = stage.routes._netlink = netlink  # type: ignore[assignment]
        await stage.routes.prepare()
        stage.routes.set_instances(SetInstances((), {}))
        async with asyncio.timeout(10):
            await stage.said()
            await scenario(stage, netlink)
        assert not stage.routes.worker.done()
        await stage.routes.close()

    asyncio.run(main())


def test_a_failure_that_nobody_thought_of_ends_its_job_only(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(stage: Stage, netlink: Unforeseen) -> None:
        stage.open("a", VNET)
        await stage.said()
        assert TunnelFailed("a") in stage.commands
        stage.netlink.notify(OursRemoved(lost_messages=True))
        netlink.failing = False
        stage.open("a", VNET)
        assert ("up", "gw-a") in await stage.said()
        assert TunnelReady("a", 6) in stage.commands

    unforeseen(scenario)
    said = [record for record in caplog.records if record.exc_info and record.exc_info[0] is KeyError]
    assert said
    assert all(record.levelname == "ERROR" and hasattr(record, "event") for record in said)


def test_the_fib_has_an_answer_whatever_fails() -> None:
    async def scenario(stage: Stage, netlink: Unforeseen) -> None:
        op: Any = object()
        stage.routes.apply(RouteOps(7, (op, op), 221))
        stage.routes.resolve(Resolve(VNET[1]))
        await stage.said()
        (applied,) = [command for command in stage.commands if isinstance(command, Applied)]
        assert (applied.ticket, applied.table) == (7, 221)
        assert [error.number for error in applied.errors.values()] == [errno.EIO, errno.EIO]
        assert NextHopResolved(VNET[1], None) in stage.commands

    unforeseen(scenario)


def test_devices_that_cannot_be_made_are_told_to_the_node_one_by_one() -> None:
    async def scenario(stage: Stage, netlink: Unforeseen) -> None:
        stage.routes._devices = Unmakeable()
        stage.open("a")
        stage.open("b")
        await stage.said()
        assert [command for command in stage.commands if isinstance(command, TunnelFailed)] == [
            TunnelFailed("a"),
            TunnelFailed("b"),
        ]

    unforeseen(scenario)


def test_what_the_node_fails_to_make_of_one_tunnel_keeps_no_other_from_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ready: list[str] = []

        def node(command: object) -> None:
            if isinstance(command, TunnelReady):
                if command.name == "a":
                    raise ValueError("a state that nobody thought of")
                ready.append(command.name)

        routes = KernelRoutes(FakeNetlink(), node)  # type: ignore[arg-type]
        await routes.prepare()
        for number, name in enumerate("abc"):
            routes.open_tunnel(OpenTunnel(number, name, 1400, (), ()))
        await routes.idle()
        assert ready == ["b", "c"]
        await routes.close()

    asyncio.run(main())
    assert "a state that nobody thought of" in caplog.text
