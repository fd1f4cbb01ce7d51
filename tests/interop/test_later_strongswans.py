"""gatewayd against later generations of strongSwan, out of Debian trees that `tools/debian-tree` makes.

Release 13 is strongSwan 6.0.1, release 14 is 6.1: what 5.9.8 proves in `test_strongswan`, shorter, and in both roles.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.impair import blocked
from support.pair import EDGE, ENDS, make_pair, nothing_lost
from support.process import wait_until
from support.scene import Scene
from support.strongswan import log_of

pytestmark = [pytest.mark.interop, pytest.mark.slow]

VERSIONS = {"13": "strongSwan 6.0.", "14": "strongSwan 6."}
SUITES = {
    "gcm": ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp256", "AES_GCM_16/256"),
    "cbc": ("aes256-sha256-modp2048", "aes256-sha256-modp2048", "AES_CBC/256/HMAC_SHA2_256_128"),
    "chacha20": ("chacha20poly1305-prfsha256-x25519", "chacha20poly1305-x25519", "CHACHA20_POLY1305"),
}
DELETE_CHILD = 'iifname "gateway" udp length 81'
"""Of one CHILD_SA, encapsulated: no other message of ours is as long, and no ESP packet can be."""


@pytest.mark.parametrize("release", VERSIONS)
def test_its_rekey_before_it_has_had_our_delete_loses_nothing(scene: Scene, release: str) -> None:
    """6.0.1 takes the old CHILD_SA for the newest then, drops the one in between unsaid, and what we send on that is lost."""
    pair = make_pair(scene, initiator="gateway", release=release)
    pair.establish("gateway")
    streams = pair.streams()
    with blocked(scene.wan, DELETE_CHILD):
        pair.gateway.rekey_child()
        made = {child.spi_in for child in pair.charon.wait_established().children}
        assert len(made) == 2, "the old one is there"
        pair.charon.swanctl("--rekey", "--child", EDGE.child)
        wait_until(lambda: "received TEMPORARY_FAILURE" in log_of(pair.charon).read_text(), 5, "it is put off")
    # It asks again after 5 to 15 s
    wait_until(
        lambda: {one.spi_in for one in pair.charon.wait_established().installed()} - made, 30, "rekeyed after all"
    )
    nothing_lost(streams.stop())
    pair.no_clear_text()


PPK = "a secret of which no quantum computer has ever heard, nor will"


def _suites() -> Iterator[Any]:
    """Of the newest release the usual suite only."""
    for release, suite, initiator in itertools.product(VERSIONS, SUITES, ENDS):
        if release == "14" and suite != "gcm":
            continue
        yield pytest.param(release, suite, initiator, id=f"{release}-{suite}-{initiator}")


@pytest.mark.parametrize(("release", "suite", "initiator"), list(_suites()))
def test_psk_tunnel_is_rekeyed_by_both_without_loss(scene: Scene, release: str, suite: str, initiator: str) -> None:
    ike, esp, listed = SUITES[suite]
    edge = EDGE.with_(proposals=ike, esp_proposals=esp)
    pair = make_pair(scene, edge, initiator=initiator, release=release)
    pair.establish(initiator)
    assert VERSIONS[release] in log_of(pair.charon).read_text()
    pair.rekeyed_by_both_without_loss()
    newest = pair.charon.wait_established().installed()[-1]
    assert newest.suite.startswith(listed)
    assert newest.group  # PFS
    pair.no_clear_text()


@pytest.mark.parametrize("initiator", ENDS)
@pytest.mark.parametrize("release", VERSIONS)
def test_messages_larger_than_the_path_takes_go_in_fragments(scene: Scene, release: str, initiator: str) -> None:
    """RFC 7383."""
    edge = EDGE.with_(esp_proposals="aes256gcm16-modp3072")
    size = "fragment_size = 300"
    pair = make_pair(scene, edge, initiator=initiator, connection=size, settings=[size], release=release)
    pair.establish(initiator)
    pair.rekeyed_by_both_without_loss()
    text = log_of(pair.charon).read_text()
    assert "received fragment #1 of" in text
    assert re.search(r"splitting IKE message .* into \d+ fragments", text)
    pair.no_clear_text()


@pytest.mark.parametrize("initiator", ENDS)
@pytest.mark.parametrize("release", VERSIONS)
def test_a_post_quantum_preshared_key_is_mixed_in(scene: Scene, release: str, initiator: str) -> None:
    """RFC 8784."""
    edge = EDGE.with_(ppk=("quantum", PPK), extra={"ppk_id": "quantum", "ppk_required": "yes"})
    text = 'ppk.file = "site.ppk"\nppk_id = "quantum"'
    pair = make_pair(scene, edge, initiator=initiator, connection=text, secrets={"site.ppk": PPK}, release=release)
    pair.establish(initiator)
    pair.rekeyed_by_both_without_loss()
    assert "using PPK for PPK_ID 'quantum'" in log_of(pair.charon).read_text()
    pair.no_clear_text()


@pytest.mark.parametrize("release", VERSIONS)
def test_a_peer_that_would_rather_be_childless_may(scene: Scene, release: str) -> None:
    """RFC 6023 3: who is told CHILDLESS_IKEV2_SUPPORTED asks for its CHILD_SA by itself, with PFS."""
    pair = make_pair(scene, EDGE.with_(extra={"childless": "prefer"}), initiator="edge", release=release)
    pair.establish("edge")
    text = log_of(pair.charon).read_text()
    assert "generating CREATE_CHILD_SA request 2 [ SA No KE TSi TSr" in text
    assert not [line for line in text.splitlines() if "IKE_AUTH" in line and " SA TSi TSr" in line]
    pair.rekeyed_by_both_without_loss()
    pair.no_clear_text()
