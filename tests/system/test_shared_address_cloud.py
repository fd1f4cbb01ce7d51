"""A pair whose outer address moves in a cloud: no neighbor learns from what is announced where it is, but from whom ARM says.

The scene is that of `test_shared_address.py`, but that hosts and edge have the shared addresses in their tables for good, at the machine
at which the cloud has them: `follow` is the cloud's network, which does what ARM's answers say.
"""

from __future__ import annotations

import json
import time

import pytest
from support.cloud_beside import URL, AzureBeside
from support.clouds import nic, nic_id
from support.netns import Lab
from support.process import wait_until
from support.shared_address import FABRIC, OUTER, ROUTER, SHARED, WITNESS, SharedAddress

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
NAMES = "ab"
SECTION = f"""
[ha.fabric]
cloud = "azure"
management_url = "{URL}"
imds_url = "{URL}"
check_interval = 5
[ha.fabric.interface.wan]
id = "{nic_id("wan-{me}")}"
peer_id = "{nic_id("wan-{peer}")}"
addresses = ["{SHARED}"]
[ha.fabric.interface.lan]
id = "{nic_id("lan-{me}")}"
peer_id = "{nic_id("lan-{peer}")}"
addresses = ["{ROUTER}"]
"""


class InCloud:
    """The scene, the cloud's server, and what the cloud's network does."""

    def __init__(self, lab: Lab) -> None:
        self.scene = SharedAddress(lab, fabric=SECTION)
        self.azure = AzureBeside(self.scene, WITNESS)
        self.azure.start()
        nics = {f"wan-{name}": nic(OUTER[at], subnet="wan") for at, name in enumerate(NAMES)}
        nics["wan-b"] = nic(OUTER[1], SHARED, subnet="wan", public="edge")
        self.azure.nics(**nics, **{f"lan-{name}": nic(FABRIC[at], subnet="lan") for at, name in enumerate(NAMES)})

    def at(self, address: str) -> str:
        """Which gateway's interface has it; "" none."""
        network = "wan" if address == SHARED else "lan"
        return "".join(name for name in NAMES if address in self.azure.addresses(f"{network}-{name}"))

    def follow(self, address: str, at: int) -> None:
        """As the cloud's network does once ARM is through; PERMANENT entries change for nothing that is announced."""
        machine, link = (self.scene.edge, "wan") if address == SHARED else (self.scene.host, "eth0")
        where = (
            self.scene.gateways[at]
            .run("cat", f"/sys/class/net/{'wan' if address == SHARED else 'lan'}/address")
            .strip()
        )
        machine.batch(f"neighbor replace {address} lladdr {where} dev {link} nud permanent")

    def arrive(self, at: int, seconds: float = 10.0) -> None:
        logs = [daemon.process for daemon in self.scene.daemons]
        for address in (SHARED, ROUTER):
            wait_until(
                lambda address=address: self.at(address) == NAMES[at],
                seconds,
                f"{address} is at gw-{NAMES[at]}",
                logs=logs,
            )
            self.follow(address, at)

    def start(self) -> int:
        """Both gateways; which one is active."""
        self.scene.start_others()
        for daemon in self.scene.daemons:
            daemon.start()
        wait_until(
            lambda: "active" in self.scene.roles(), 30, "one is active", logs=[d.process for d in self.scene.daemons]
        )
        self.arrive(self.scene.active())
        self.scene.wait_whole()
        self.scene.streams.start(500)
        self.scene.streams.wait_flowing(10)
        return self.scene.active()


@pytest.fixture
def cloud(lab: Lab) -> InCloud:
    return InCloud(lab)


def interface(cloud: InCloud, at: int, name: str) -> dict[str, object]:
    status = cloud.scene.daemons[at].status()
    assert status is not None
    return next(one for one in status["addresses"]["interfaces"] if one["name"] == name)


def told(cloud: InCloud, at: int, *words: str) -> bool:
    """Whether one of the problems in its status has them all."""
    status = cloud.scene.daemons[at].status()
    return status is not None and any(all(word in one for word in words) for one in status["problems"])


def spis(cloud: InCloud, at: int) -> tuple[str, str]:
    tunnel = cloud.scene.daemons[at].tunnel()
    assert tunnel is not None
    return tunnel["initiator_spi"], tunnel["responder_spi"]


def test_the_cloud_moves_the_address_and_the_sas_go_on(cloud: InCloud) -> None:
    active = cloud.start()
    scene, other = cloud.scene, 1 - active
    assert cloud.azure.addresses(f"wan-{NAMES[active]}")[SHARED] == "edge", "the public address came along"
    before = spis(cloud, active)
    cloud.azure.admin("settings", {"latency": 0.3})
    scene.daemons[active].kill()
    killed = time.monotonic()
    scene.wait_role(other, "active", 10)
    # What the dead one's kernel still has is no obstacle, and what the new one announces moves nobody's entry
    assert other in scene.holders()
    assert cloud.at(SHARED) != NAMES[other], "the role did not wait for the cloud"
    cloud.arrive(other)
    scene.streams.wait_flowing(5)
    print(f" [{scene.gap(killed) * 1000:.0f} ms with 0.3 s of ARM's for each write]", end=" ")
    assert spis(cloud, other) == before
    assert len(scene.charon.sas()) == 1
    assert cloud.azure.addresses(f"wan-{NAMES[other]}")[SHARED] == "edge"
    (moved,) = scene.journal(other, "ha-addresses-moved")[-1:]
    assert "after it was asked for" in moved
    seconds = interface(cloud, other, "wan")["move_seconds"]
    assert isinstance(seconds, float)
    assert 0.6 <= seconds < 3.0
    assert f"{SHARED}: here (wan-{NAMES[other]})" in scene.daemons[other].ctl("ha").stdout


def test_a_cloud_that_refuses_hinders_no_role_and_nobody_is_told_that_the_address_is_here(cloud: InCloud) -> None:
    active = cloud.start()
    scene, other = cloud.scene, 1 - active
    refusal = {
        "kind": "status",
        "status": 403,
        "code": "AuthorizationFailed",
        "method": "PUT",
        "match": "networkInterfaces/wan",
        "times": 999,
    }
    cloud.azure.misbehave(refusal)
    scene.daemons[active].ctl("failover", "--wait", "5")
    scene.wait_role(other, "active", 10)
    wait_until(lambda: interface(cloud, other, "wan")["trouble"] != "", 10, "it is told")
    assert scene.active() == other
    assert cloud.at(SHARED) == NAMES[active]
    wait_until(lambda: cloud.at(ROUTER) == NAMES[other], 10, "the other interface is not hindered")
    sentence = (
        f"for the cloud {SHARED} is at the other gateway's interface: {SHARED}: ARM answered 403 AuthorizationFailed"
    )
    wait_until(lambda: told(cloud, other, sentence, "give the identity"), 10, "a sentence says why")
    shown = scene.daemons[other].ctl("ha").stdout
    assert f"{SHARED}: at the other gateway (wan-{NAMES[active]})" in shown
    assert "PROBLEM  wan:" in scene.daemons[other].ctl("fabric").stdout
    metrics = scene.daemons[other].http("/metrics")[1]
    assert f'gateway_ha_cloud_address{{address="{SHARED}",interface="wan",place="peer"}} 1.0' in metrics
    assert 'gateway_ha_cloud_troubled{interface="wan"} 1.0' in metrics
    cloud.azure.misbehave()
    cloud.arrive(other, 30)
    scene.streams.wait_flowing(10)
    wait_until(lambda: interface(cloud, other, "wan")["trouble"] == "", 10, "it is over")
    assert json.loads(scene.daemons[other].ctl("fabric", "-o", "json").stdout)["fabric"]["addresses"]["active"] is True
