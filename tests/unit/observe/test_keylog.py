"""Keys in Wireshark's words; `tests/system/test_wireshark.py` has them read by tshark."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction, Encryption, Integrity, SaParameters, Suite
from gateway.ike.keymat import IkeKeys
from gateway.ike.proposal import Choice
from gateway.ike.registry import EncryptionId, IntegrityId, KeyExchangeId, PrfId
from gateway.observe.keylog import esp_line, ike_line

SA = SaParameters(
    direction=Direction.OUTBOUND,
    spi=0xC3F1A2B0,
    connection=1,
    suite=Suite(Encryption.AES_GCM_16, 32),
    encryption_key=bytes(range(36)),
    integrity_key=b"",
    local=Endpoint("198.51.100.2", 4500),
    remote=Endpoint("203.0.113.2", 4500),
    selectors=(),
)


def _keys(encryption: EncryptionId, bits: int, integrity: IntegrityId, initiator: bool) -> IkeKeys:
    choice = Choice(
        encryption=encryption, key_bits=bits, prf=PrfId.HMAC_SHA2_256, integrity=integrity,
        key_exchange=KeyExchangeId.ECP_256,
    )  # fmt: skip
    return IkeKeys.initial(choice, b"shared", b"i" * 32, b"r" * 32, bytes(16), initiator)


@pytest.mark.parametrize("initiator", [True, False])
def test_an_ike_sa_is_the_same_line_from_both_ends(initiator: bool) -> None:
    keys = _keys(EncryptionId.AES_CBC, 256, IntegrityId.HMAC_SHA2_256_128, initiator)
    secrets = keys.secrets_for_keylog()
    line = ike_line(0x1, 0x2, secrets, keys.choice)
    first, second, ei, er, cipher, ai, ar, integrity = line.split(",")
    assert (first, second) == ("0000000000000001", "0000000000000002")
    assert cipher == '"AES-CBC-256 [RFC3602]"'
    assert integrity == '"HMAC_SHA2_256_128 [RFC4868]"'
    sealing = keys.sealing if initiator else keys.opening
    assert bytes.fromhex(ei) == sealing.encryption_key
    assert bytes.fromhex(ai) == sealing.integrity_key
    assert len({ei, er, ai, ar}) == 4


def test_a_combined_mode_ike_sa_has_its_salt_and_no_integrity_key() -> None:
    keys = _keys(EncryptionId.AES_GCM_16, 128, IntegrityId.NONE, True)
    fields = ike_line(1, 2, keys.secrets_for_keylog(), keys.choice).split(",")
    assert len(bytes.fromhex(fields[2])) == 20
    assert fields[4:] == ['"AES-GCM-128 with 16 octet ICV [RFC5282]"', "", "", '"NONE [RFC4306]"']


def test_both_directions_of_esp() -> None:
    out = esp_line(SA)
    assert out == (
        '"IPv4","198.51.100.2","203.0.113.2","0xc3f1a2b0","AES-GCM with 16 octet ICV [RFC4106]",'
        f'"0x{bytes(range(36)).hex()}","NULL",""'
    )
    inbound = esp_line(replace(SA, direction=Direction.INBOUND))
    assert inbound.startswith('"IPv4","203.0.113.2","198.51.100.2"')


def test_esp_with_a_separate_integrity_key_over_ipv6() -> None:
    suite = Suite(Encryption.AES_CBC, 16, Integrity.HMAC_SHA2_512_256)
    ends = {"local": Endpoint("2001:db8::1", 4500), "remote": Endpoint("2001:db8::2", 4500)}
    line = esp_line(replace(SA, suite=suite, encryption_key=b"k" * 16, integrity_key=b"a" * 64, **ends))
    assert line.startswith('"IPv6","2001:db8::1","2001:db8::2",')
    assert line.endswith(f'"AES-CBC [RFC3602]","0x{"6b" * 16}","HMAC-SHA-512-256 [RFC4868]","0x{"61" * 64}"')


def test_what_wireshark_has_no_name_for_is_a_comment_in_its_table() -> None:
    chacha = replace(SA, suite=Suite(Encryption.CHACHA20_POLY1305, 32))
    assert esp_line(chacha).startswith("# ")
    keys = _keys(EncryptionId.CHACHA20_POLY1305, 0, IntegrityId.NONE, True)
    assert ike_line(1, 2, keys.secrets_for_keylog(), keys.choice).startswith("# ")
