"""Per-resource CHILD_SAs (RFC 9611) between two gatewayds: one for each worker, on the wire, through rekeys and a delete."""

from __future__ import annotations

import pytest
from support.pair import nothing_lost
from support.process import wait_until
from support.scene import VNET_HOST, Scene
from support.traffic import Iperf
from support.twins import Tap, Twins, make_twins

pytestmark = pytest.mark.system

WORKERS = "[dataplane]\nworkers = 2\n"
ETHERNET_IP_UDP = 14 + 20 + 8


def twins_of(scene: Scene, ask: int, take: int) -> Twins:
    """The gateway asks for so many, the edge takes so many."""
    twins = make_twins(scene, "aes256gcm16-ecp256", encap=True)
    for daemon, count in ((twins.gateway, ask), (twins.edge, take)):
        text = daemon.config.read_text().replace("[connection.site]\n", f"[connection.site]\nresource_sas = {count}\n")
        daemon.config.write_text(text + WORKERS)
    twins.establish()
    return twins


def counted(twins: Twins, count: int) -> bool:
    """Both say that they have so many beside the common one."""
    found = [child["resource_sas"] for one in (twins.gateway, twins.edge) for child in (one.tunnel() or {})["children"]]
    return found == [count, count]


def spis(frames: list[bytes]) -> set[bytes]:
    return {frame[ETHERNET_IP_UDP : ETHERNET_IP_UDP + 4] for frame in frames}


def test_each_worker_has_one_of_its_own_and_no_rekey_loses_anything(scene: Scene) -> None:
    twins = twins_of(scene, 2, 2)
    streams = twins.streams()
    wait_until(lambda: counted(twins, 2), 15, "two beside the common one", logs=[twins.gateway.process])
    tap = Tap(scene.wan, "gateway")
    for daemon in (twins.gateway, twins.edge):
        daemon.rekey_child()
        daemon.rekey_ike()
    wait_until(lambda: counted(twins, 2), 15, "two beside the common one, rekeyed", logs=[twins.gateway.process])
    nothing_lost(streams.stop())
    tap.outgoing()
    load = Iperf(scene.host, VNET_HOST)
    load.measure(scene.site, 2, flows=8)
    load.stop()
    used = spis(tap.outgoing("esp-4500"))
    tap.close()
    # Of three inbound SAs of the gateway those of the edge's two workers carry what comes
    assert len(used) == 2
    assert (twins.gateway.tunnel() or {})["explanation"] == ""
    twins.wire()


@pytest.mark.slow
def test_a_peer_that_takes_fewer_says_so_once_and_one_that_takes_none_is_not_asked(scene: Scene) -> None:
    twins = twins_of(scene, 4, 1)
    wait_until(lambda: counted(twins, 1), 15, "one beside the common one", logs=[twins.gateway.process])
    notifies = (twins.gateway.tunnel() or {})["notifies"]
    assert notifies["TS_MAX_QUEUE in"] == 1
    assert (twins.gateway.tunnel() or {})["last_failure"] == ""
    text = twins.edge.config.read_text().replace("resource_sas = 1", "resource_sas = 0")
    twins.edge.config.write_text(text)
    streams = twins.streams()
    twins.edge.ctl("reload")
    wait_until(lambda: counted(twins, 0), 15, "none beside the common one", logs=[twins.gateway.process])
    nothing_lost(streams.stop())
    assert (twins.gateway.tunnel() or {})["notifies"]["TS_MAX_QUEUE in"] == 1
