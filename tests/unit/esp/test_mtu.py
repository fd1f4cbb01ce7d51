"""Inner MTU and MSS against the published tables of cloud gateways, and against real packet sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.esp_material import ALL_SUITES, SeededRandom, keys_for

from gateway.esp.dataplane import Encryption, Integrity, Suite
from gateway.esp.mtu import inner_mtu, outer_octets, tcp_mss
from gateway.esp.packet import seal

GCM = Suite(Encryption.AES_GCM_16, 32)


def cbc(integrity: Integrity) -> Suite:
    return Suite(Encryption.AES_CBC, 32, integrity)


@pytest.mark.parametrize(
    ("suite", "link", "outer_ipv6", "plain", "encapsulated"),
    [
        (GCM, 1500, False, (1446, 1406), (1438, 1398)),
        (cbc(Integrity.HMAC_SHA1_96), 1500, False, (1438, 1398), (1422, 1382)),
        (cbc(Integrity.HMAC_SHA2_256_128), 1500, False, (1438, 1398), (1422, 1382)),
        (cbc(Integrity.HMAC_SHA2_384_192), 1500, False, (1422, 1382), (1422, 1382)),
        (cbc(Integrity.HMAC_SHA2_512_256), 1500, False, (1422, 1382), (1406, 1366)),
        (Suite(Encryption.CHACHA20_POLY1305, 32), 1500, False, (1446, 1406), (1438, 1398)),
        (Suite(Encryption.AES_GCM_12, 16), 1500, False, (1450, 1410), (1442, 1402)),
        (Suite(Encryption.AES_GCM_8, 32), 1500, False, (1454, 1414), (1446, 1406)),
        (GCM, 1500, True, (1426, 1386), (1418, 1378)),
        (GCM, 1400, False, (1346, 1306), (1338, 1298)),
    ],
)
def test_the_published_table_is_reproduced(
    suite: Suite, link: int, outer_ipv6: bool, plain: tuple[int, int], encapsulated: tuple[int, int]
) -> None:
    for encapsulate, (mtu, mss) in ((False, plain), (True, encapsulated)):
        assert inner_mtu(suite, link, outer_ipv6, encapsulate) == mtu
        assert tcp_mss(mtu, ipv6=False) == mss
        assert tcp_mss(mtu, ipv6=True) == mss - 20


@given(st.sampled_from(ALL_SUITES), st.integers(576, 9200), st.booleans(), st.booleans())
def test_a_packet_of_the_inner_mtu_just_fits_the_link(
    suite: Suite, link: int, outer_ipv6: bool, encapsulate: bool
) -> None:
    mtu = inner_mtu(suite, link, outer_ipv6, encapsulate)
    overhead = (40 if outer_ipv6 else 20) + (8 if encapsulate else 0)
    keys, random = keys_for(suite), SeededRandom()
    assert len(seal(keys, 256, 1, bytes(mtu), 4, random)) + overhead <= link
    assert len(seal(keys, 256, 1, bytes(mtu + 1), 4, random)) + overhead > link


@pytest.mark.parametrize("link", [0, 40, 60, 67])
def test_a_link_without_room_carries_nothing(link: int) -> None:
    assert inner_mtu(GCM, link, outer_ipv6=True, encapsulate=True) <= 2
    assert tcp_mss(inner_mtu(GCM, link, outer_ipv6=True, encapsulate=True), ipv6=False) == 0


@given(st.sampled_from(ALL_SUITES), st.integers(508, 9200), st.booleans(), st.booleans())
def test_what_a_packet_is_on_the_link_is_what_sealing_makes_of_it(
    suite: Suite, inner: int, outer_ipv6: bool, encapsulate: bool
) -> None:
    outer = outer_octets(suite, inner, outer_ipv6, encapsulate)
    overhead = (40 if outer_ipv6 else 20) + (8 if encapsulate else 0)
    assert len(seal(keys_for(suite), 256, 1, bytes(inner), 4, SeededRandom())) + overhead == outer
    # So a path that took this one takes every packet under a link_mtu of its length
    assert inner <= inner_mtu(suite, outer, outer_ipv6, encapsulate) < inner + 16
