"""Secrets: read with care, never shown."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path

import pytest

from gateway.config.model import SecretSource
from gateway.config.secrets import BGP_PASSWORD, HA_SECRET, PSK, Purpose, Read, Secret, SecretError, read_secret

LONG = b"correct horse battery staple"


def written(path: Path, octets: bytes, mode: int = 0o600) -> SecretSource:
    path.write_bytes(octets)
    path.chmod(mode)
    return SecretSource(file=path.name)


def read(source: SecretSource, base: Path, allow_inline: bool = False, purpose: Purpose = PSK) -> Read:
    return read_secret(source, base, base / "credentials", allow_inline, uid=os.getuid(), purpose=purpose)


@pytest.mark.parametrize("newline", [b"", b"\n", b"\r\n"])
def test_a_file_is_read_without_its_trailing_newline(tmp_path: Path, newline: bytes) -> None:
    found = read(written(tmp_path / "psk", LONG + newline), tmp_path)
    assert found.secret.reveal() == LONG
    assert found.warnings == ()


def test_an_absolute_path_is_not_relative_to_the_configuration(tmp_path: Path) -> None:
    written(tmp_path / "psk", LONG)
    assert read(SecretSource(file=str(tmp_path / "psk")), Path("/nonexistent")).secret.reveal() == LONG


@pytest.mark.parametrize(
    ("octets", "secret"), [(b"0x" + LONG.hex().encode(), LONG), (b"0sAAECAwQFBgcICQoLDA0ODxAREhM=", bytes(range(20)))]
)
def test_hexadecimal_and_base64_are_decoded_as_strongswan_does(tmp_path: Path, octets: bytes, secret: bytes) -> None:
    assert read(written(tmp_path / "psk", octets + b"\n"), tmp_path).secret.reveal() == secret


def test_a_bgp_password_is_taken_literally(tmp_path: Path) -> None:
    found = read(written(tmp_path / "md5", b"0x41\n"), tmp_path, purpose=BGP_PASSWORD)
    assert found.secret.reveal() == b"0x41"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o601])
def test_a_file_others_may_use_is_refused_with_the_chmod_to_run(tmp_path: Path, mode: int) -> None:
    source = written(tmp_path / "psk", LONG, mode)
    with pytest.raises(SecretError, match=f"mode {mode:04o}, others may use it; run: chmod 0600 {tmp_path}/psk"):
        read(source, tmp_path)


def test_a_file_of_another_user_is_refused_with_the_chown_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path / "psk", LONG)
    status = os.stat_result((0o100600, 0, 0, 1, 4242, 0, len(LONG), 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda self: status)
    with pytest.raises(SecretError, match="belongs to user 4242; run: chown 1000 "):
        read_secret(source, tmp_path, None, False, uid=1000)


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"0x\n", "is empty"),
        (b"0xzz", "begins with 0x but is not hexadecimal"),
        (b"0s???", "begins with 0s but is not base64"),
    ],
)
def test_unusable_contents_are_refused_and_not_repeated(tmp_path: Path, octets: bytes, said: str) -> None:
    with pytest.raises(SecretError, match=said) as caught:
        read(written(tmp_path / "psk", octets), tmp_path)
    assert "zz" not in str(caught.value)


def test_a_missing_file_a_directory_and_a_fifo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="No such file or directory"):
        read(SecretSource(file="none"), tmp_path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in (".", "fifo"):
        with pytest.raises(SecretError, match="is not a regular file"):
            read(SecretSource(file=name), tmp_path)


def test_a_short_psk_warns_and_a_short_heartbeat_secret_is_refused(tmp_path: Path) -> None:
    source = written(tmp_path / "psk", b"fifteen octets.")
    assert read(source, tmp_path).warnings == ("the pre-shared key has 15 octets; use 20 or more random ones",)
    with pytest.raises(SecretError, match="heartbeat secret has 15 octets; at least 16"):
        read(source, tmp_path, purpose=HA_SECRET)


def test_a_bgp_password_longer_than_the_kernel_takes_is_refused(tmp_path: Path) -> None:
    assert len(read(written(tmp_path / "ok", b"x" * 80), tmp_path, purpose=BGP_PASSWORD).secret) == 80
    with pytest.raises(SecretError, match="at most 80 are possible"):
        read(written(tmp_path / "md5", b"x" * 81), tmp_path, purpose=BGP_PASSWORD)


def test_credentials_come_from_their_directory(tmp_path: Path) -> None:
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "onprem.psk").write_bytes(LONG)
    assert read(SecretSource(credential="onprem.psk"), tmp_path).secret.reveal() == LONG
    with pytest.raises(SecretError, match="add LoadCredential=other:PATH to the unit and restart it"):
        read(SecretSource(credential="other"), tmp_path)
    with pytest.raises(SecretError, match="systemd passed no credentials"):
        read_secret(SecretSource(credential="onprem.psk"), tmp_path, None, False, uid=0)


@pytest.mark.parametrize("name", ["../psk", "", ".", "..", "a/b", "a\0b"])
def test_a_credential_is_a_name_not_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(SecretError, match="not the name of a credential"):
        read(SecretSource(credential=name), tmp_path)


@pytest.mark.parametrize("name", ["", " ", "a\0b"])
def test_a_file_needs_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(SecretError, match="not the path of a file"):
        read(SecretSource(file=name), tmp_path)


def test_inline_secrets_need_permission_and_are_always_warned_about(tmp_path: Path) -> None:
    source = SecretSource(inline=LONG.decode())
    with pytest.raises(SecretError, match=r"set gateway\.allow_inline_secrets = true"):
        read(source, tmp_path)
    found = read(source, tmp_path, allow_inline=True)
    assert found.secret.reveal() == LONG
    assert len(found.warnings) == 1


@pytest.mark.parametrize(
    "source", [SecretSource(), SecretSource(file="a", credential="b"), SecretSource(file="a", inline="b")]
)
def test_exactly_one_source_is_needed(tmp_path: Path, source: SecretSource) -> None:
    with pytest.raises(SecretError, match="exactly one of file, credential or inline"):
        read(source, tmp_path, allow_inline=True)


def test_a_secret_does_not_show_pickle_copy_or_serialise() -> None:
    secret = Secret(LONG)
    assert repr(secret) == str(secret) == f"{secret}" == "Secret(***)"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError):
            leak(secret)
    with pytest.raises(TypeError):
        hash(secret)


def test_secrets_compare_by_value_and_only_with_secrets() -> None:
    assert Secret(LONG) == Secret(LONG)
    assert Secret(LONG) != Secret(LONG + b"x")
    assert Secret(LONG) != LONG


def test_a_wiped_secret_is_empty() -> None:
    secret = Secret(LONG)
    octets = secret._octets
    secret.wipe()
    assert not secret
    assert len(secret) == 0
    assert secret.reveal() == bytes(octets) == b""


def test_an_inline_secret_is_not_in_the_repr_of_the_model() -> None:
    assert "hunter2" not in repr(SecretSource(inline="hunter2"))
