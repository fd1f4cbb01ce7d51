"""gatewayctl keylog and capture: which files, whose, and how it ends."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import stat
from pathlib import Path

import pytest
from support.control_fixture import Run, SampleOperations

KEYS = [
    {"begun": "keys"},
    {"file": "ikev2_decryption_table", "text": "0001,0002"},
    {"file": "esp_sa", "text": '"IPv4"'},
    {"file": "../elsewhere", "text": "no"},
    {"file": "esp_sa", "text": '"IPv6"'},
    {"end": "keys of 1 IKE_SAs and 2 ESP SAs"},
]


def test_keys_go_into_the_tables_of_a_wireshark_profile(daemon: SampleOperations, ctl: Run, tmp_path: Path):
    daemon.pieces = KEYS
    target = tmp_path / "profile"
    previous = os.umask(0)
    try:
        code, out, _ = ctl("keylog", "azure-a", "--for", "90s", "--to", str(target))
    finally:
        os.umask(previous)
    assert code == 0
    assert "delete them" in out
    assert "keys of 1 IKE_SAs and 2 ESP SAs" in out
    assert (target / "ikev2_decryption_table").read_text() == "0001,0002\n"
    assert (target / "esp_sa").read_text() == '"IPv4"\n"IPv6"\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["control.sock", "profile"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()} == {0o600}
    (wish,) = daemon.wishes
    assert (wish.kind, wish.connection, wish.seconds) == ("keylog", "azure-a", 90.0)
    assert wish.asker == f"user id {os.geteuid()} (process {os.getpid()})"


def test_packets_go_into_one_file(daemon: SampleOperations, ctl: Run, tmp_path: Path):
    parts = [b"\x0a\x0d\x0d\x0a", bytes(range(256))]
    daemon.pieces = [{"file": "capture", "data": base64.b64encode(part).decode()} for part in parts]
    daemon.pieces.append({"end": "2 packets, 0 lost"})
    target = tmp_path / "x.pcapng"
    code, out, _ = ctl("capture", "azure-a", "--to", str(target), "--packets", "7")
    assert (code, out) == (0, "2 packets, 0 lost\n")
    assert target.read_bytes() == b"".join(parts)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    (wish,) = daemon.wishes
    assert (wish.kind, wish.seconds, wish.packets) == ("capture", 60.0, 7)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_there_is_never_written_to(daemon: SampleOperations, ctl: Run, tmp_path: Path, kind: str):
    daemon.pieces = [{"file": "capture", "data": "AAAA"}, {"end": "1 packets, 0 lost"}]
    target, other = tmp_path / "x.pcapng", tmp_path / "other"
    if kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(other)
    code, _, err = ctl("capture", "azure-a", "--to", str(target))
    assert code == 1
    assert "exists" in err
    assert not other.exists()
    assert daemon.over.wait(5)


def test_an_answer_that_breaks_off_is_no_success(daemon: SampleOperations, ctl: Run, tmp_path: Path):
    daemon.pieces = [{"file": "capture", "data": "AAAA"}]
    daemon.breaks_off = True
    code, _, err = ctl("capture", "azure-a", "--to", str(tmp_path / "x.pcapng"))
    assert code == 3
    assert "ended it early" in err
    assert (tmp_path / "x.pcapng").stat().st_size == 3


def test_a_refusal_leaves_nothing_behind(daemon: SampleOperations, ctl: Run, tmp_path: Path):
    daemon.refusal = "observe.allow_keylog is not true"
    code, _, err = ctl("keylog", "azure-a", "--to", str(tmp_path / "keys"))
    assert code == 1
    assert "observe.allow_keylog is not true" in err
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("keylog", "azure-z", "--to", "k"), 4),
        (("keylog", "azure-a"), 2),
        (("keylog", "azure-a", "--to", "k", "--for", "2h"), 2),
        (("keylog", "azure-a", "--to", "k", "--for", "soon"), 2),
        (("capture", "azure-a", "--to", "k", "--packets", "0"), 2),
        (("capture", "azure-a", "--to", "k", "--packets", "100001"), 2),
    ],
)
def test_exit_codes(daemon: SampleOperations, ctl: Run, words: tuple[str, ...], code: int):
    assert ctl(*words)[0] == code
    assert daemon.wishes == []


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "shell", "target": "azure-a", "for": 1},
        {"kind": "keylog", "target": "azure-a/net", "for": 1},
        {"kind": "keylog", "target": "azure-a", "for": 3601},
        {"kind": "keylog", "target": "azure-a", "for": True},
        {"kind": "keylog", "target": "azure-a"},
        {"kind": "capture", "target": "azure-a", "for": 1, "packets": 10**9},
        {"kind": "keylog", "target": "azure-a", "for": 1, "to": "/etc/passwd"},
    ],
)
def test_the_daemon_checks_by_itself(daemon: SampleOperations, tmp_path: Path, body: dict[str, object]):
    connection = _connected(tmp_path)
    connection.request("POST", "/v1/disclosures", json.dumps(body))
    assert connection.getresponse().status == 400
    connection.close()
    assert daemon.wishes == []


def test_it_is_over_when_the_asker_leaves(daemon: SampleOperations, tmp_path: Path):
    connection = _connected(tmp_path)
    connection.request("POST", "/v1/disclosures", json.dumps({"kind": "keylog", "target": "azure-a", "for": 600}))
    response = connection.getresponse()
    assert response.status == 200
    assert not daemon.over.wait(0.2)
    response.close()
    connection.close()
    assert daemon.over.wait(5)


def _connected(directory: Path) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(directory / "control.sock"))
    return connection
