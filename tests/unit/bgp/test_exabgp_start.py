"""What is put right in ExaBGP's own program, shown on the ExaBGP that is installed. On the wire: tests/system/test_bgp_restart.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from exabgp.bgp.message.open.capability import REFRESH
from exabgp.bgp.message.open.capability.graceful import Graceful
from exabgp.protocol.family import AFI, SAFI
from exabgp.reactor.delay import Delay

from gateway.runtime.exabgp_start import LONGEST_WAIT, calls_again_soon, forwarding_as_it_is, markers_are_no_requests


def test_the_forwarding_bit_is_set_while_the_file_stands(tmp_path: Path) -> None:
    """RFC 4724 3: restart flags and time; address family, subsequent one, flags of which the first is F."""
    file = tmp_path / "forwards"
    extract = forwarding_as_it_is(Graceful.extract, str(file))
    capability = Graceful().set(0x8, 120, [(AFI.ipv4, SAFI.unicast, Graceful.FORWARDING_STATE)])
    assert extract(capability) == [bytes.fromhex("8078 0001 01 00")]
    file.touch()
    assert extract(capability) == [bytes.fromhex("8078 0001 01 80")]
    file.unlink()
    assert extract(capability) == [bytes.fromhex("8078 0001 01 00")]


@pytest.mark.parametrize(
    ("agreed", "enhanced", "resent"),
    [
        pytest.param(REFRESH.ENHANCED, True, True, id="a request"),
        pytest.param(REFRESH.ENHANCED, False, False, id="the beginning or the end of a refresh"),
        pytest.param(REFRESH.NORMAL, False, True, id="a request of who knows no markers"),
    ],
)
def test_only_a_request_for_routes_makes_them_be_sent_again(agreed: int, enhanced: bool, resent: bool) -> None:
    calls: list[tuple[object, ...]] = []
    peer = SimpleNamespace(proto=SimpleNamespace(negotiated=SimpleNamespace(refresh=agreed)))
    markers_are_no_requests(lambda *words: calls.append(words))(peer, enhanced, ("ipv4", "unicast"))
    assert calls == ([(peer, enhanced, ("ipv4", "unicast"))] if resent else [])


def test_who_was_not_reached_for_long_is_called_again_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("exabgp.reactor.delay.time.time", lambda: now)
    theirs, ours = Delay(), Delay()
    for _ in range(30):
        theirs.increase()
        calls_again_soon(Delay.increase)(ours)
    now += LONGEST_WAIT + 0.1
    assert theirs.backoff(), "else there is nothing to put right"
    assert not ours.backoff()
