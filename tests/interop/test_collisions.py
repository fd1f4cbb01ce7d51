"""gatewayd and strongSwan rekey at the same moment: each has asked before it hears the other (RFC 7296 2.8.1, 2.8.2, 2.25).

both ask, the WAN router drops IKE and nothing else -> it passes again -> both repeat, and each finds the other's in its way
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.impair import blocked
from support.pair import EDGE, Pair, make_pair, nothing_lost
from support.process import wait_until
from support.scene import Scene
from support.strongswan import log_of

pytestmark = [pytest.mark.interop]

IKE_ALONE = "udp dport 4500 @th,64,32 0"
"""By the non-ESP marker (RFC 3948 2.2)."""
WHAT = ("net", "")
"""The CHILD_SA, the IKE_SA."""
SAID = {
    ("net", "net"): "detected (CHILD_REKEY collision with CHILD_REKEY|rekey collision for CHILD_SA)",
    ("", ""): "detected IKE_REKEY collision with IKE_REKEY",
}
"""By strongSwan 5.9 or 6.0, where it finds both of one kind."""


def _rows() -> Iterator[Any]:
    for release, ours, theirs in itertools.product(("12", "13"), WHAT, WHAT):
        quick = (release, ours, theirs) == ("12", "net", "net")
        name = "-".join((release, *("child" if one else "ike" for one in (ours, theirs))))
        yield pytest.param(release, ours, theirs, id=name, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("release", "ours", "theirs"), list(_rows()))
def test_both_rekey_at_the_same_moment_and_nothing_is_lost(scene: Scene, release: str, ours: str, theirs: str) -> None:
    pair = make_pair(scene, EDGE.with_(esp_proposals="aes256gcm16-ecp256"), release=release)
    pair.establish("gateway")
    streams = pair.streams()
    for _ in range(2):
        before = _both(pair)
        with blocked(scene.wan, IKE_ALONE):
            pair.gateway.operate("rekey", f"site/{ours}" if ours else "site", 0)
            pair.charon.swanctl("--rekey", *(("--child", EDGE.child) if theirs else ("--ike", EDGE.name)))
        wait_until(
            lambda before=before: _settled(pair, before, {ours, theirs}), 30, "one of each, and they agree",  # type: ignore[misc]
            logs=[pair.gateway.process, pair.charon.process],
        )  # fmt: skip
    nothing_lost(streams.stop())
    if (ours, theirs) in SAID:
        assert re.search(SAID[ours, theirs], log_of(pair.charon).read_text())
    pair.no_clear_text()


def _both(pair: Pair) -> tuple[tuple[str, ...], ...]:
    """SPIs of the IKE_SA and of the CHILD_SA, where both ends have one of each and the same; empty where they have not."""
    tunnel, sas = pair.gateway.tunnel(), pair.charon.sas()
    if tunnel is None or len(sas) != 1 or len(tunnel["children"]) != 1 or len(sas[0].children) != 1:
        return ()
    (child,), (theirs,) = tunnel["children"], sas[0].children
    ends = [f"{tunnel[name]:016x}" for name in ("initiator_spi", "responder_spi")]
    pairs = [f"{child[name]:08x}" for name in ("spi_in", "spi_out")]
    if ends != list(sas[0].spis) or pairs != [theirs.spi_out, theirs.spi_in] or theirs.state != "INSTALLED":
        return ()
    return tuple(ends), tuple(pairs)


def _settled(pair: Pair, before: tuple[tuple[str, ...], ...], rekeyed: set[str]) -> bool:
    """What was to be rekeyed was, and nothing is left of what it replaced."""
    now = _both(pair)
    return bool(now) and (now[0] != before[0] or "" not in rekeyed) and (now[1] != before[1] or "net" not in rekeyed)
