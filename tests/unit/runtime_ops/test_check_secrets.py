"""`gatewayd --check --secrets`: what is wrong with the files of secrets, at the line that names them, and never what is in them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.reachable import for_everybody

import gateway
from gateway.runtime.main import main

CONFIG = """\
[connection.a]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.7"
psk.file = "a.psk"
ppk.file = "a.ppk"
ppk_id = "a"
remote_ts = ["172.16.0.0/16"]

[connection.b]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.8"
psk.credential = "b.psk"
remote_ts = ["172.17.0.0/16"]
"""
PSK, PPK = b"correct horse battery staple", b"\x5a" * 32


def written(directory: Path, **files: bytes) -> Path:
    for name, octets in ({"a_psk": PSK, "a_ppk": PPK} | files).items():
        file = directory / name.replace("_", ".")
        file.write_bytes(octets)
        file.chmod(0o600)
    path = directory / "gateway.toml"
    path.write_text(CONFIG)
    return path


def checked(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    code = main(["--check", "--config", str(path), *options])
    return code, capsys.readouterr().out.replace(f"{path.parent}/", "")


def test_good_files_are_ok_and_a_credential_is_not_to_be_had_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    code, said = checked(written(tmp_path), capsys, "--secrets")
    assert code == 0
    assert "gateway.toml:12:1: warning: connection.b.psk: credential 'b.psk': systemd passed no credentials" in said
    assert said.endswith("gateway.toml: 1 warning\n")
    (tmp_path / "b.psk").write_bytes(PSK)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert checked(tmp_path / "gateway.toml", capsys, "--secrets") == (0, "gateway.toml: ok\n")


@pytest.mark.parametrize(
    ("files", "line", "words", "severity"),
    [
        ({"a_psk": b""}, 4, "connection.a.psk: the pre-shared key is empty", "error"),
        ({"a_psk": b"\n"}, 4, "connection.a.psk: the pre-shared key is empty", "error"),
        ({"a_psk": b"short"}, 4, "connection.a.psk: the pre-shared key has 5 octets; use 20", "warning"),
        (
            {"a_ppk": bytes(31)},
            5,
            "connection.a.ppk: the post-quantum preshared key has 31 octets; at least 32",
            "error",
        ),
        ({"a_psk": b"0xzz"}, 4, "connection.a.psk: the pre-shared key begins with 0x but is not hexadecimal", "error"),
        ({"a_psk": b" spaced out it is, is it not? "}, 4, "begins or ends with white space", "warning"),
    ],
    ids=["empty", "a newline", "short", "too short", "no hexadecimal", "white space"],
)
def test_what_is_in_a_file_is_judged_at_the_line_that_names_it(
    files: dict[str, bytes], line: int, words: str, severity: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, **files)
    code, said = checked(path, capsys, "--secrets")
    assert code == (78 if severity == "error" else 0)
    (found,) = [one for one in said.splitlines() if words in one]
    assert found.startswith(f"gateway.toml:{line}:1: " + ("warning: " if severity == "warning" else "connection"))
    assert checked(path, capsys, "--secrets", "--strict")[0] == 78
    # Without the option nothing is read
    assert checked(path, capsys) == (0, "gateway.toml: ok\n")
    assert "spaced" not in said


def test_a_file_that_is_not_there_or_that_others_may_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    (tmp_path / "a.psk").unlink()
    (tmp_path / "a.ppk").chmod(0o644)
    code, said = checked(path, capsys, "--secrets")
    assert code == 78
    # All at once, each with its line
    assert "gateway.toml:4:1: connection.a.psk: cannot read a.psk: No such file or directory" in said
    assert re.search(r"gateway.toml:5:1: connection.a.ppk: a.ppk has mode 0644, .*chmod 0600", said)


def test_json_has_them_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, a_psk=b"")
    _, said = checked(path, capsys, "--secrets", "-o", "json")
    found = json.loads(said)["diagnostics"]
    assert [(one["line"], one["path"]) for one in found if one["severity"] == "error"] == [(4, "connection.a.psk")]


def test_mistakes_of_the_file_itself_come_first_and_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, a_psk=b"")
    path.write_text(CONFIG.replace("remote_ts", "remote_st", 1))
    code, said = checked(path, capsys, "--secrets")
    assert code == 78
    assert "remote_st" in said
    assert "is empty" not in said


@pytest.mark.skipif(os.getuid() != 0, reason="changes its user")
def test_it_needs_no_root_where_the_files_can_be_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As a user of the group, say: what is his he may check; what he may not read is named, with its line."""
    nobody, directory = 65534, tmp_path_factory.mktemp("check")
    path = written(directory)
    for_everybody(path)
    os.chown(directory / "a.psk", nobody, nobody)
    script = "import os, sys; os.setuid(65534); from gateway.runtime.main import main; sys.exit(main(sys.argv[1:]))"
    # What is imported is imported before: a user need not be able to read where this test finds it
    script = script.replace("os.setuid(65534); from", "from").replace("sys.exit", "os.setuid(65534); sys.exit")
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "--check", "--secrets", "--config", str(path)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(Path(gateway.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 78, done.stderr
    assert "gateway.toml:5:1: connection.a.ppk: cannot read" in done.stdout
    assert "Permission denied" in done.stdout
    assert "connection.a.psk" not in done.stdout
