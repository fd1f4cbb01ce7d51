"""Whatever goes wrong with a peer is named in one sentence: what, whose setting, the fix. Each is provoked.

Beside test_explanations.py (settings that differ at a strongSwan, in both roles), test_cloud_peers.py (what cloud peers
do) and tests/interop/test_certificates.py: here the peer misbehaves or the path does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from peers.cloud import CloudPeer
from support.daemon import GatewayDaemon, configuration
from support.impair import blocked, doubled
from support.pair import EDGE
from support.process import wait_until
from support.scene import EDGE_OUTER, GATEWAY_OUTER, PSK, VNET_HOST, Scene
from support.traffic import ping

pytestmark = pytest.mark.system

SECOND = "203.0.113.3"
HASTY = "retransmit_timeout = 0.3\nretransmit_tries = 2\nretransmit_base = 1.2\nrekey_check = 0"
SUITE = {"proposals": "aes256gcm16-prfsha384-ecp384", "esp_proposals": "aes256gcm16-ecp384"}


@dataclass(frozen=True, slots=True)
class Fault:
    """`path`: an nftables match of what the WAN loses; `while_up`: the fault comes to a tunnel that works."""

    failure: str
    words: tuple[str, ...]
    faults: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    while_up: bool = False
    up: bool = False


FAULTS = {
    "the peer wants a group that nobody offered": Fault(
        "INVALID_KE_PAYLOAD", ("keeps asking", "ECP_384", "it asks for group 5", "`proposals`"), {"asks_for_group": 5}
    ),
    "the peer drops IKE_AUTH": Fault(
        "NO_ANSWER_ON_4500",
        ("answered on UDP 500 but not on UDP 4500", "3 tries", "see its log"),
        {"silent_in_auth": 1},
    ),
    "UDP 4500 is blocked": Fault(
        "NO_ANSWER_ON_4500", ("answered on UDP 500 but not on UDP 4500", "allow UDP 4500"), path="udp dport 4500"
    ),
    "UDP 500 is blocked": Fault(
        "PEER_UNREACHABLE", ("did not answer IKE_SA_INIT", "UDP 500 and 4500", "`remote_addrs`"), path="udp dport 500"
    ),
    "the peer is down": Fault("PEER_UNREACHABLE", ("did not answer IKE_SA_INIT", "that the peer runs"), {"mute": 1}),
    "the peer deletes what it has set up": Fault(
        "DELETED_BY_PEER", ("as soon as it is set up", "3 times", "see its log"), {"deletes_after_auth": 1}
    ),
    "the peer dies": Fault(
        "DPD_TIMEOUT", ("stopped answering, last heard", "the circuit of connection site"), {"mute": 1}, while_up=True
    ),
    "the peer's ESP does not verify": Fault(
        "", ("not one of its ESP packets verifies", "AES_GCM_16-256"), {"damages_esp": 1}, while_up=True, up=True
    ),
}


@dataclass(slots=True)
class Met:
    scene: Scene
    daemon: GatewayDaemon
    peer: CloudPeer

    def told(self, *words: str, failure: str | None = None, seconds: float = 15.0) -> str:
        """The sentence, as soon as it has the words."""

        def said() -> str:
            tunnel = self.daemon.tunnel() or {}
            right = failure is None or tunnel["last_failure"] == failure
            return str(tunnel["explanation"]) if right and all(one in tunnel["explanation"] for one in words) else ""

        return wait_until(said, seconds, f"{failure} with {words}", logs=[self.daemon.process, self.peer.process])

    def explained(self, up: bool) -> None:
        """gatewayctl says it in one line, and by its exit code whether the tunnel is down."""
        said = self.daemon.ctl("explain", "site", check=False)
        assert said.returncode == (0 if up else 1)
        assert len(said.stdout.splitlines()) == 1
        assert "site" in said.stdout


def meet(
    scene: Scene,
    policy: str,
    wanted: dict[str, str],
    *,
    lines: str = HASTY,
    start_action: str = "start",
    **options: Any,
) -> Met:
    scene.edge.batch(f"address add {SECOND}/24 dev wan")
    edge = EDGE.with_(local_id=EDGE_OUTER, remote_id=GATEWAY_OUTER, **wanted)
    text = configuration(edge, start_action=start_action, connection=lines).replace("dpd_delay = 5", "dpd_delay = 1")
    met = Met(scene, GatewayDaemon(scene.gateway, text, {"site.psk": PSK}), CloudPeer(scene.edge, policy, **options))
    met.peer.start()
    met.daemon.start()
    return met


@contextmanager
def _suffering(met: Met, fault: Fault) -> Iterator[None]:
    with ExitStack() as stack:
        if fault.while_up:
            met.daemon.operate("initiate", "site")
            met.daemon.wait_up()
        if fault.path:
            stack.enter_context(blocked(met.scene.wan, fault.path))
        met.peer.ask("faults", **fault.faults)
        met.daemon.operate("initiate", "site", 0)
        yield
        met.peer.ask("faults")
    met.daemon.operate("terminate", "site")


@pytest.mark.slow
def test_each_fault_has_its_sentence(scene: Scene) -> None:
    met = meet(scene, "aws-restricted", SUITE, changes={"idle": 0})
    met.daemon.wait_up(logs=[met.peer.process])
    met.daemon.operate("terminate", "site")
    for fault in FAULTS.values():
        with _suffering(met, fault):
            if fault.up:
                assert ping(scene.site, VNET_HOST, 3).lost == 3
            met.told(*fault.words, failure=fault.failure)
            met.explained(fault.up or (fault.failure == "DELETED_BY_PEER" and met.daemon.up()))
    met.daemon.operate("initiate", "site")
    met.daemon.wait_up()
    assert ping(scene.site, VNET_HOST, 3).lost == 0
    wait_until(lambda: not (met.daemon.tunnel() or {})["explanation"], 5, "nothing to explain")


def test_a_peer_that_answers_from_another_address_is_no_fault(scene: Scene) -> None:
    met = meet(scene, "aws-restricted", SUITE, changes={"idle": 0}, second=SECOND, faults={"from_elsewhere": 1})
    met.daemon.wait_up(logs=[met.peer.process])
    assert ping(scene.site, VNET_HOST, 3).lost == 0


@pytest.mark.parametrize(
    ("initiator", "since"), [("gateway", "the beginning"), ("peer", "the beginning"), ("gateway", "it works")]
)
def test_a_peer_whose_ike_stays_between_the_ports_500_is_no_fault(scene: Scene, initiator: str, since: str) -> None:
    """Interop: Windows' RAS answers to port 500 what came from 4500 under forced encapsulation (strongSwan PR 2664)."""
    action, between_500 = "start" if initiator == "gateway" else "none", {"ike_between_500": 1}
    met = meet(
        scene, "azure-custom", SUITE, start_action=action, faults=between_500 if since == "the beginning" else {}
    )
    if initiator == "peer":
        assert met.peer.ask("initiate")
    met.daemon.wait_up(logs=[met.peer.process])
    met.peer.ask("faults", **between_500)
    assert ping(scene.site, VNET_HOST, 3).lost == 0
    spi = met.peer.ask("status")["spi"]
    met.daemon.operate("rekey", "site/net")
    wait_until(lambda: met.peer.ask("status")["spi"] != spi, 5, "rekeyed", logs=[met.daemon.process])
    # ESP stays where it was, though each answer came between the ports 500
    assert ping(scene.site, VNET_HOST, 3).lost == 0
    assert (met.daemon.tunnel() or {})["explanation"] == ""


def test_a_peer_that_calls_from_an_address_that_no_connection_has(scene: Scene) -> None:
    met = meet(scene, "azure-custom", SUITE, start_action="none", local=SECOND)
    met.told("only responds")
    assert met.peer.ask("initiate")
    met.told(
        f"nothing is heard of {EDGE_OUTER}, but {SECOND} asks for an IKE_SA", "set `remote_addrs` of connection site"
    )
    met.explained(up=False)


REKEYS: dict[str, tuple[str, dict[str, str], Callable[[CloudPeer], Any], tuple[str, ...]]] = {
    "the peer rekeys without PFS": (
        "azure-default",
        {"proposals": "aes256-sha256-modp1024", "esp_proposals": "aes256-sha256-modp2048"},
        lambda peer: peer.ask("rekey_child"),
        ("we refuse the rekey of the CHILD_SA", "peer offers ESP:AES_GCM_16-256", "MODP_2048", "`esp_proposals`"),
    ),
}


@pytest.mark.parametrize("what", REKEYS)
def test_a_rekey_that_we_refuse_is_named_while_the_tunnel_works_on(scene: Scene, what: str) -> None:
    policy, wanted, act, words = REKEYS[what]
    met = meet(scene, policy, wanted)
    met.daemon.wait_up(logs=[met.peer.process])
    act(met.peer)
    met.told(*words)
    met.explained(up=True)
    assert ping(scene.site, VNET_HOST, 3).lost == 0


def test_a_peer_that_says_it_is_somebody_else(scene: Scene) -> None:
    """As a cloud gateway that knows only its private address."""
    met = meet(scene, "azure-custom", SUITE, local_id="10.0.0.5")
    met.told(f"peer says it is 10.0.0.5, configured is {EDGE_OUTER}", "`remote_id`", failure="WRONG_PEER_IDENTITY")
    met.explained(up=False)


@pytest.mark.slow
@pytest.mark.parametrize("initiator", ["gateway", "peer"])
def test_azure_s_default_policy_meets_a_modern_one(scene: Scene, initiator: str) -> None:
    met = meet(scene, "azure-default", SUITE, start_action="start" if initiator == "gateway" else "none")
    if initiator == "gateway":
        met.told("none of our IKE proposals", "ECP_384", "group 2, modp1024", failure="NO_PROPOSAL_CHOSEN")
    else:
        assert met.peer.ask("initiate")
        met.told("peer offers IKE:AES_CBC-256", "MODP_1024", "`proposals` of connection site", failure="INIT_REFUSED")
    met.explained(up=False)


@pytest.mark.slow
def test_a_peer_whose_lifetime_is_shorter(scene: Scene) -> None:
    met = meet(scene, "aws-restricted", SUITE, changes={"idle": 0}, faults={"life": 4})
    met.daemon.wait_up(logs=[met.peer.process])
    busy = met.scene.site.start("ping", ["ping", "-n", "-q", "-i", "0.2", VNET_HOST])
    met.told("reaches a certain age (4 s, 3 times now)", "`rekey_time` of connection site", seconds=40)
    busy.stop()


@pytest.mark.slow
def test_packets_that_the_replay_window_drops(scene: Scene) -> None:
    """Here because a switch on the way doubles what is ESP; the window cannot tell this from packets that are too late."""
    met = meet(scene, "aws-restricted", SUITE, changes={"idle": 0})
    met.daemon.wait_up(logs=[met.peer.process])
    esp = "udp dport 4500 @th,64,32 != 0"
    with doubled(scene.wan, GATEWAY_OUTER, "gateway", esp):
        assert ping(scene.site, VNET_HOST, 120, interval=0.02).lost == 0
    met.told("so late that the replay window drops them", "`replay_window` of connection site from 4096")
    met.explained(up=True)
