"""gatewayd and strongSwan 5.9.8 over everything that can be configured: each algorithm in both roles, and bad networks.

The suites are one table: every ESP suite, and with it every key exchange method, IKE cipher and PRF several times. A
row is one connection in a scene that stays: set up, rekeyed by both ends, used, deleted. Rows are played in both roles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import pytest
from support.half_open import PROPOSAL, leave_half_open
from support.impair import loss, source_nat
from support.pair import EDGE, ENDS, Pair, make_pair, nothing_lost
from support.process import wait_until
from support.scene import EDGE_OUTER, GATEWAY_OUTER, NAT_OUTER, SITE_HOST, Scene
from support.strongswan import log_of
from support.traffic import ping

from gateway.config.proposals import keywords

pytestmark = [pytest.mark.interop, pytest.mark.slow]

COMBINED = {
    f"aes{bits}gcm{icv}": f"AES_GCM_{icv}-{bits}" for icv in (16, 12, 8) for bits in (128, 192, 256)
} | {"chacha20poly1305": "CHACHA20_POLY1305"}  # fmt: skip
INTEGRITY = {
    "sha1": "HMAC_SHA1_96",
    "sha256": "HMAC_SHA2_256_128",
    "sha384": "HMAC_SHA2_384_192",
    "sha512": "HMAC_SHA2_512_256",
}
SEPARATE = {
    f"aes{bits}-{word}": f"AES_CBC-{bits}/{name}" for bits in (128, 192, 256) for word, name in INTEGRITY.items()
}
SUITES = SEPARATE | COMBINED
KEY_EXCHANGES = {
    "ecp256": "ECP_256",
    "ecp384": "ECP_384",
    "ecp521": "ECP_521",
    "x25519": "CURVE25519",
    "modp1024": "MODP_1024",
    "modp2048": "MODP_2048",
    "modp3072": "MODP_3072",
    "modp4096": "MODP_4096",
}
PRFS = {
    "prfsha256": "HMAC_SHA2_256",
    "prfsha384": "HMAC_SHA2_384",
    "prfsha512": "HMAC_SHA2_512",
    "prfsha1": "HMAC_SHA1",
}
RELEASES = ("12", "13")
"""Debian's: strongSwan 5.9.8 and 6.0; the suites are played with the first, and with the others in test_later_strongswans.py."""
# who is behind the NAT: its address, the address it appears under, the WAN router's device towards the other
NAT_SIDES = {
    "edge": (EDGE_OUTER, NAT_OUTER, "gateway"),
    "gateway": (GATEWAY_OUTER, "203.0.113.1", "edge"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One connection, in the words of its configuration; IKE and ESP have different ciphers and groups."""

    ike: str
    ike_group: str
    prf: str
    esp: str
    esp_group: str

    def __str__(self) -> str:
        return f"{self.ike_proposal}_{self.esp_proposal}"

    @property
    def ike_proposal(self) -> str:
        return f"{self.ike}-{self.prf}-{self.ike_group}"

    @property
    def esp_proposal(self) -> str:
        return f"{self.esp}-{self.esp_group}"


def rows() -> Iterator[Row]:
    """All ESP suites; the other columns have other lengths and so meet in changing company."""
    ike = cycle([*COMBINED, *SEPARATE])
    groups, prfs, others = cycle(KEY_EXCHANGES), cycle(PRFS), cycle(reversed(KEY_EXCHANGES))
    next(prfs)
    for esp in SUITES:
        yield Row(next(ike), next(groups), next(prfs), esp, next(others))


def test_the_table_has_everything_that_can_be_configured() -> None:
    known = keywords()
    table = list(rows())
    assert {row.ike for row in table} == {row.esp for row in table} == set(SUITES)
    assert set(SUITES) == {
        suite
        for cipher in known["encryption"]
        for suite in ([cipher] if cipher in COMBINED else [f"{cipher}-{one}" for one in known["integrity"]])
    }
    classic = {word for word in known["key exchange"] if not word.startswith("mlkem")}
    assert {row.ike_group for row in table} == {row.esp_group for row in table} == set(KEY_EXCHANGES) == classic
    assert {row.prf for row in table} == set(PRFS) == set(known["PRF"])


@pytest.mark.parametrize("initiator", ENDS)
def test_every_suite(scene: Scene, subtests: pytest.Subtests, initiator: str) -> None:
    pair = make_pair(scene, initiator="edge")  # nobody starts by himself
    pair.start()
    for row in rows():
        with subtests.test(str(row), initiator=initiator):
            _configure(pair, row)
            _initiate(pair, initiator)
            _agree(pair, row, rekeyed=False)
            _rekey(pair, "net")
            _rekey(pair, "")
            pair.charon.rekey_child()
            pair.charon.rekey_ike()
            _agree(pair, row, rekeyed=True)
            # Nothing lost in a rekey is asked elsewhere: strongSwan drops what waits in it when an SA of its own ends
            wait_until(lambda: ping(scene.host, SITE_HOST, 2).lost == 0, 10, "traffic through the last of them")
        _take_down(pair, initiator)
    pair.no_clear_text()


def _configure(pair: Pair, row: Row) -> None:
    changed = {"proposals": row.ike_proposal, "esp_proposals": row.esp_proposal}
    lines = []
    for line in pair.gateway.config.read_text().splitlines():
        key = line.partition(" = ")[0]
        lines.append(f'{key} = ["{changed[key]}"]' if key in changed else line)
    pair.gateway.config.write_text("\n".join(lines) + "\n")
    ok, text = pair.gateway.operate("reload", "")
    assert ok, text
    pair.charon.connections = [EDGE.with_(proposals=row.ike_proposal, esp_proposals=row.esp_proposal)]
    pair.charon.write()
    pair.charon.load()


def _initiate(pair: Pair, initiator: str, wait: float = 10.0) -> None:
    if initiator == "edge":
        pair.charon.initiate(timeout=wait)
    else:
        ok, text = pair.gateway.operate("initiate", "site", wait)
        assert ok, text
    pair.wait_up()


def _rekey(pair: Pair, child: str, wait: float = 10.0) -> None:
    ok, text = pair.gateway.operate("rekey", f"site/{child}" if child else "site", wait)
    assert ok, text


def _agree(pair: Pair, row: Row, *, rekeyed: bool) -> None:
    """Both ends list the suites of the table; a CHILD_SA has a group once it is rekeyed."""
    tunnel, peer = pair.gateway.wait_up(), pair.charon.wait_established()
    (ours,), theirs = tunnel["children"], peer.installed()[-1]
    assert (f"{ours['spi_in']:08x}", f"{ours['spi_out']:08x}") == (theirs.spi_out, theirs.spi_in)
    assert ours["suite"].removesuffix("/NO_ESN") == SUITES[row.esp]
    assert theirs.suite == SUITES[row.esp].replace("-", "/")
    assert theirs.group == (_theirs(row.esp_group) if rekeyed else "")
    prf, group = f"PRF_{PRFS[row.prf]}", KEY_EXCHANGES[row.ike_group]
    assert tunnel["suite"] == f"{SUITES[row.ike]}/{prf}/{group}"
    assert peer.suite == f"{SUITES[row.ike].replace('-', '/')}/{prf}/{_theirs(row.ike_group)}"


def _theirs(group: str) -> str:
    return KEY_EXCHANGES[group].replace("CURVE25519", "CURVE_25519")


def _take_down(pair: Pair, initiator: str) -> None:
    """Who made it deletes it."""
    if initiator == "edge":
        pair.charon.swanctl("--terminate", "--ike", EDGE.name, check=False)
    else:
        pair.gateway.operate("terminate", "site")
    wait_until(lambda: not pair.gateway.up() and pair.charon.sas() == [], 30, "nothing is left of it")


@pytest.mark.parametrize("behind", ENDS)
@pytest.mark.parametrize("release", RELEASES)
def test_a_nat_in_the_middle(scene: Scene, release: str, behind: str) -> None:
    """Who is behind it initiates."""
    inside, outside, device = NAT_SIDES[behind]
    with source_nat(scene.wan, inside, device, outside):
        pair = make_pair(scene, initiator=behind, gateway_sees=outside if behind == "edge" else "", release=release)
        if behind == "gateway":
            pair.charon.connections = [EDGE.with_(remote=outside)]
            pair.charon.write()
        pair.establish(behind)
        pair.rekeyed_by_both_without_loss()
        tunnel = pair.gateway.tunnel()
        assert tunnel is not None
        assert tunnel["nat"] in {"edge": ("remote", "both"), "gateway": ("local", "both")}[behind]
        pair.no_clear_text()


@pytest.mark.parametrize("release", RELEASES)
def test_a_gateway_that_initiates_is_asked_for_a_cookie(scene: Scene, release: str) -> None:
    """RFC 7296 2.6. strongSwan asks once an address has three half-open IKE_SAs."""
    pair = make_pair(scene, EDGE.with_(proposals=PROPOSAL), initiator="edge", release=release)
    pair.start()
    leave_half_open(scene.gateway, GATEWAY_OUTER, EDGE_OUTER, 3, lambda: len(pair.charon.sas()))
    _initiate(pair, "gateway")
    assert "N(COOKIE)" in pair.gateway.ctl("trace", "site").stdout
    _used(pair)
    pair.no_clear_text()


@pytest.mark.parametrize("release", RELEASES)
def test_an_edge_that_initiates_is_asked_for_a_cookie(scene: Scene, release: str) -> None:
    """RFC 7296 2.6, 2.7: also where the first guess of the group was wrong."""
    edge = EDGE.with_(proposals="aes256gcm16-prfsha384-ecp256-x25519")
    pair = make_pair(scene, edge, initiator="edge", release=release)
    pair.gateway.config.write_text(pair.gateway.config.read_text().replace(edge.proposals, PROPOSAL))
    pair.start()

    def half_open() -> int:
        status = pair.gateway.status()
        return int(status["ike_half_open"]) if status else 0

    leave_half_open(scene.edge, EDGE_OUTER, GATEWAY_OUTER, 64, half_open)
    pair.charon.initiate()
    pair.wait_up()
    text = log_of(pair.charon).read_text()
    assert "parsed IKE_SA_INIT response 0 [ N(COOKIE) ]" in text
    assert "parsed IKE_SA_INIT response 0 [ N(INVAL_KE) ]" in text
    _used(pair)
    pair.charon.rekey_ike()  # those half-open are no reason to refuse it
    pair.no_clear_text()


def _used(pair: Pair) -> None:
    """It is a tunnel as any other."""
    streams = pair.streams()
    _rekey(pair, "net")
    pair.charon.rekey_child()
    _rekey(pair, "")
    nothing_lost(streams.stop())


LOSS = 10


@pytest.mark.parametrize(("release", "initiator"), [*(("12", end) for end in ENDS), ("13", "gateway")])
def test_a_tenth_of_all_packets_is_lost_both_ways(scene: Scene, release: str, initiator: str) -> None:
    """Everything is repeated until it is done: tunnels, each rekeyed by both ends."""
    pair = make_pair(scene, initiator="edge", release=release)
    pair.start()
    for _ in range(3):
        _live_through_loss(scene, pair, initiator)
    for _ in range(9):  # three rounds of a dozen packets may all have come through, twelve of them will not
        if _retransmissions(pair):
            break
        _live_through_loss(scene, pair, initiator)
    assert _retransmissions(pair) > 0
    pair.no_clear_text()


def _live_through_loss(scene: Scene, pair: Pair, initiator: str) -> None:
    """Up, each SA rekeyed by each end, used and down again."""
    with loss(scene.wan, LOSS):
        # an IKE_SA that the peer has forgotten before it had our DELETE is given up after 30 s
        _initiate(pair, initiator, 45)
        _rekey(pair, "net", 45)
        pair.charon.rekey_child(45)
        _rekey(pair, "", 45)
        pair.charon.rekey_ike(45)
    pair.wait_up()
    assert ping(scene.host, SITE_HOST, 2).lost == 0
    _take_down(pair, initiator)


def _retransmissions(pair: Pair) -> int:
    tunnel = pair.gateway.tunnel()
    assert tunnel is not None
    return int(tunnel["retransmissions"])
