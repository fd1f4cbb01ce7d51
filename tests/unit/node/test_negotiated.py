"""What the IKE core says of one connection, as people read it: the hint that a peer which tries in vain leaves."""

from __future__ import annotations

import random

import pytest

from gateway.config.load import load_text
from gateway.ike.errors import Violation
from gateway.ike.events import Notice
from gateway.node.negotiated import follow
from gateway.node.settings import Secrets, build
from gateway.node.tunnel import Tunnel
from gateway.observe.explain import explain

TEXT = """
[gateway]
name = "g"
[connection.c]
local_addrs = "10.0.0.1"
remote_addrs = "10.0.0.2"
psk.file = "psk"
protected = ["172.16.0.0/16"]
tunnel_address = ["169.254.21.1/30"]
start_action = "none"
"""


def responder() -> Tunnel:
    loaded = load_text(TEXT)
    assert loaded.config is not None, loaded.diagnostics
    (settings,) = build(loaded.config, Secrets({"c": b"secret"})).tunnels
    return Tunnel(settings, random.Random(1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("why", "setting"),
    [
        (Violation.NO_PROPOSAL, "`proposals`"),
        (Violation.PPK, "`ppk_required`"),
        (Violation.GRAMMAR, "no setting"),
        (Violation.BAD_NONCE, "no setting"),
    ],
)
def test_why_a_peer_s_beginning_was_refused_chooses_the_hint(why: Violation, setting: str) -> None:
    tunnel = responder()
    list(follow(tunnel, Notice("warning", "ike-init-refused", "c", "WHAT", why), False, 5.0))
    assert tunnel.failure is not None
    sentence = explain(tunnel.failure.reason, tunnel.failure.context)
    settings = {one for one in ("`proposals`", "`ppk_required`", "no setting") if one in sentence}
    assert settings == {setting} and "(WHAT)" in sentence


def test_one_that_works_gets_no_hint_and_an_ordinary_notice_is_none() -> None:
    tunnel = responder()
    list(follow(tunnel, Notice("warning", "ike-init-refused", "c", "WHAT", Violation.NO_PROPOSAL), True, 5.0))
    list(follow(tunnel, Notice("warning", "ike-request-refused", "c", "WHAT"), False, 5.0))
    assert tunnel.failure is None
