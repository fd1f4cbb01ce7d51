"""gatewayd against Libreswan 5.2: a second, unrelated IKEv2 in both roles; see `support.libreswan` for what is not proved.

Proved: IKE_SA_INIT, IKE_AUTH by PSK, rekeys of CHILD_SAs and IKE_SAs by either end, liveness checks by either end,
deletes by either end, refusals; that both ends have the same ESP keys after each of it.
"""

from __future__ import annotations

import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.daemon import GatewayDaemon, binary, configuration
from support.libreswan import KernelSa, Libreswan
from support.pair import EDGE, ENDS
from support.process import wait_until
from support.scene import PSK, Scene

pytestmark = [pytest.mark.interop, pytest.mark.slow]

# name: ours for IKE and ESP, theirs, what gatewayd calls the ESP suite
SUITES = {
    "gcm": ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384", "aes_gcm256-sha2_384-dh20", "aes_gcm256-none-dh20"),
    "cbc": ("aes256-sha256-modp2048", "aes256-sha256-modp2048", "aes256-sha2_256-dh14", "aes256-sha2_256-dh14"),
    "chacha20": (
        "chacha20poly1305-prfsha512-x25519", "chacha20poly1305-x25519",
        "chacha20_poly1305-sha2_512-dh31", "chacha20_poly1305-none-dh31",
    ),
}  # fmt: skip


@dataclass(slots=True)
class Ends:
    """gatewayd and pluto."""

    gateway: GatewayDaemon
    pluto: Libreswan

    def agree(self) -> None:
        """Both list the same CHILD_SA, with the SPIs the other way round."""
        child = self.pluto.wait_child()
        (ours,) = self.gateway.wait_up()["children"]
        assert (ours["spi_in"], ours["spi_out"]) == (child.spi_out, child.spi_in)


def _ends(scene: Scene, suite: str, initiator: str, *, settings: str = "") -> Ends:
    ike, esp, their_ike, their_esp = SUITES[suite]
    edge = EDGE.with_(proposals=ike, esp_proposals=esp)
    pluto = Libreswan(scene.edge, edge, ike=their_ike, esp=their_esp, settings=settings)
    text = configuration(edge, start_action="start" if initiator == "gateway" else "none")
    text = "[observe]\nallow_keylog = true\n" + text
    ends = Ends(GatewayDaemon(scene.gateway, text, {"site.psk": PSK}), pluto)
    pluto.start()
    ends.gateway.start()
    if initiator == "edge":
        pluto.initiate()
    ends.agree()
    return ends


@pytest.mark.parametrize("initiator", ENDS)
@pytest.mark.parametrize("suite", SUITES)
def test_set_up_rekeys_by_both_and_delete(scene: Scene, tmp_path: Path, suite: str, initiator: str) -> None:
    ends = _ends(scene, suite, initiator)
    argv = [binary("gatewayctl"), "--socket", ends.gateway.socket, "keylog", "site", "--to", tmp_path / "keys"]
    keylog = subprocess.Popen(argv)
    wait_until((tmp_path / "keys" / "esp_sa").exists, 10, "keys are told")
    for one in (ends.gateway, ends.pluto):
        one.rekey_child()
        ends.agree()
        one.rekey_ike()
        ends.agree()
        one.rekey_child()
        ends.agree()
    keylog.send_signal(signal.SIGINT)
    assert keylog.wait(5) == 0
    _keys_are_the_same((tmp_path / "keys" / "esp_sa").read_text(), ends.pluto.kernel_sas())
    if initiator == "gateway":
        ends.gateway.ctl("terminate", "site")
    else:
        ends.pluto.terminate()
    ends.gateway.wait_down()
    wait_until(lambda: not ends.pluto.children() and not ends.pluto.ike_sas(), 5, "pluto has no SA")
    assert "ERROR" not in ends.pluto.log().split("loading secrets", 1)[-1]


def _keys_are_the_same(esp_sa: str, kernel: dict[int, KernelSa]) -> None:
    """What gatewayd tells Wireshark is what pluto gave its kernel, for the first pair of SAs and those of four rekeys."""
    ours = {}
    for line in esp_sa.splitlines():
        _, _, destination, spi, _, encryption, _, integrity = re.findall(r'"([^"]*)"', line)
        ours[int(spi, 16)] = (destination, *(bytes.fromhex(key[2:]) for key in (encryption, integrity)))
    assert len(ours) == 10
    assert ours == {spi: (sa.destination, sa.encryption, sa.integrity) for spi, sa in kernel.items() if spi in ours}


@pytest.mark.parametrize("asks", ENDS)
def test_liveness_is_asked_and_answered(scene: Scene, asks: str) -> None:
    """RFC 7296 2.4: empty INFORMATIONAL requests. Ours come after five seconds of silence."""
    ends = _ends(scene, "gcm", "gateway", settings="dpddelay=1\ndpdtimeout=10" if asks == "edge" else "")
    request, response = ("-->", "<--") if asks == "gateway" else ("<--", "-->")

    def rungs(arrow: str, kind: str) -> list[str]:
        return re.findall(rf"{arrow}  INFORMATIONAL {kind} \d+ +\(", ends.gateway.ctl("trace", "site").stdout)

    wait_until(lambda: rungs(request, "request"), 10, f"the {asks} asks", interval=0.5)
    wait_until(lambda: rungs(response, "response"), 5, "an answer", interval=0.5)
    ends.agree()


def test_wrong_psk_is_refused_by_both(scene: Scene) -> None:
    edge = EDGE.with_(psk="not the secret of the gateway")
    _, _, ike, esp = SUITES["gcm"]
    pluto = Libreswan(scene.edge, edge, ike=ike, esp=esp)
    gateway = GatewayDaemon(scene.gateway, configuration(EDGE), {"site.psk": PSK})
    pluto.start()
    gateway.start()
    assert "AUTHENTICATION_FAILED" in gateway.wait_failure()
    pluto.whack("--initiate", "--asynchronous")
    pluto.wait_log("AUTHENTICATION_FAILED")
    assert not gateway.up()
    assert pluto.children() == []
