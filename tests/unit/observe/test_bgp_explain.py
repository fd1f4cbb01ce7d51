"""Every NOTIFICATION has a sentence that names the neighbor, whose setting it is, and what to do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from gateway.bgp.events import PeerStatus
from gateway.config.bgp_model import Bgp, Neighbor
from gateway.observe.bgp_explain import NOTIFICATIONS, RECEIVED, SENT, explain_peer

PEER = PeerStatus(
    "edge", "10.9.0.2", 65010, "Idle", "10.9.0.1", "site", None, local_as=65001, hold_time=30, limit_in=4000,
    told_as=65011, told_hold=2,
)  # fmt: skip


@pytest.mark.parametrize("key", NOTIFICATIONS)
def test_every_sentence_is_whole_and_speaks_of_settings_that_exist(key: tuple[bool, int, int | None]) -> None:
    sent, code, subcode = key
    text = explain_peer(replace(PEER, notification=(sent, code, subcode or 0)))
    assert "10.9.0.2" in text and ";" in text
    assert "{" not in text and "None" not in text and "\n" not in text
    assert text.endswith(f"(NOTIFICATION {'sent' if sent else 'received'} {code}/{subcode or 0})")
    named = set(re.findall(r"`(\w+)`", text)) - {"max_prefixes", "bgp"}
    assert named <= set(Neighbor.model_fields) | set(Bgp.model_fields), named


def test_the_values_of_both_sides_are_named() -> None:
    wrong_as = explain_peer(replace(PEER, notification=(SENT, 2, 2)))
    assert wrong_as.startswith(
        "10.9.0.2 says it is AS 65011, and `remote_as` of neighbor edge is 65010; set `remote_as` to 65011"
    )
    assert "expects another AS of us than 65001" in explain_peer(replace(PEER, notification=(RECEIVED, 2, 2)))
    assert "offers a hold time of 2 s" in explain_peer(replace(PEER, notification=(SENT, 2, 6)))
    assert "our hold time of 30 s; raise `hold_time`" in explain_peer(replace(PEER, notification=(RECEIVED, 2, 6)))
    assert "says it is AS another" in explain_peer(replace(PEER, notification=(SENT, 2, 2), told_as=None))


def test_a_code_nobody_knows_is_told_as_it_is() -> None:
    assert explain_peer(replace(PEER, notification=(RECEIVED, 77, 3))) == (
        "10.9.0.2 ended the session; see its log (NOTIFICATION received 77/3)"
    )


def test_silence_is_explained_by_what_is_configured() -> None:
    """TCP MD5 and GTSM drop in silence; nobody says which of them it is."""
    plain = explain_peer(PEER)
    assert plain.startswith(
        "10.9.0.2 does not answer: it has not 10.9.0.1 with AS 65001 as a neighbor; or it expects a password"
    )
    assert "more than 1 hop away (`multihop` of neighbor edge)" in plain and "connection site is down" in plain
    keyed = explain_peer(replace(PEER, password=True, connection=""))
    assert keyed.startswith("10.9.0.2 does not answer: `password` of neighbor edge is not the one configured there")
    assert "expects a password" not in keyed and "TCP port 179 is blocked" in keyed
    secured = explain_peer(replace(PEER, ttl_security=True))
    assert "`ttl_security` of neighbor edge is not set there too" in secured and "`multihop`" not in secured
    assert explain_peer(replace(PEER, passive=True)).startswith("10.9.0.2 did not call us: ")


def test_a_session_that_stands_needs_no_explanation_and_one_put_off_has_its_own() -> None:
    assert explain_peer(replace(PEER, state="Established", notification=(SENT, 2, 2))) == ""
    assert "announced more than 4000 prefixes" in explain_peer(replace(PEER, suspended_until=9.0))
