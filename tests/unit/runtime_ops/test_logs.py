"""Three formats, one rule: a peer's text stays on its line, and octets never appear."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.runtime import logs

EVIL = "id\nMESSAGE=forged\x1b[2J\u202e"


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = handlers, level


def written(log_format: logs.Format, *args: object, **extra: object) -> str:
    stream = io.StringIO()
    logs.setup("debug", log_format, stream)
    logging.getLogger("gateway.ike").warning(*args, extra=extra)
    return stream.getvalue()


def test_human_lines():
    line = written(
        "human",
        "peer %s refused",
        "gw",
        tunnel="azure-a",
        child="net",
        notify="NO_PROPOSAL_CHOSEN",
        reason="two words",
        spi_in=0xC3,
    )
    _, rest = line.split(" ", 1)
    assert (
        rest
        == 'WARNING ike [azure-a/net] peer gw refused spi_in=000000c3 notify=NO_PROPOSAL_CHOSEN reason="two words"\n'
    )


def test_json_lines():
    document = json.loads(written("json", "peer %s refused", EVIL, tunnel="azure-a", spi_out=0xC3F1A2B0))
    assert document.pop("time").endswith("+00:00")
    assert document == {
        "level": "warning", "logger": "ike", "message": "peer id\\nMESSAGE=forged\\x1b[2J\\u202e refused",
        "tunnel": "azure-a", "spi_out": "c3f1a2b0",
    }  # fmt: skip


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_a_peer_cannot_forge_a_line(log_format: logs.Format):
    text = written(log_format, "identity %s", EVIL, peer=EVIL, reason=EVIL)
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_octets_and_unlisted_facts_never_appear(log_format: logs.Format):
    key = b"the-secret-key-of-the-pair"
    text = written(
        log_format,
        "key %s %r and %s",
        key,
        bytearray(key),
        memoryview(key),
        psk="the-secret-key-of-the-pair",
        reason=key,
    )
    assert "secret-key" not in text
    assert text.count("<26 octets>") == 4


def test_a_traceback_stays_with_its_record():
    stream = io.StringIO()
    logs.setup("info", "json", stream)
    try:
        raise ValueError(EVIL)
    except ValueError:
        logging.getLogger("gateway").exception("failed")
    assert stream.getvalue().count("\n") == 1
    assert "ValueError: id" in json.loads(stream.getvalue())["traceback"]


def test_the_level_holds():
    stream = io.StringIO()
    logs.setup("warning", "human", stream)
    logging.getLogger("gateway").info("quiet")
    assert stream.getvalue() == ""


def test_the_format_is_chosen_by_what_stderr_is(tmp_path: Path):
    with open(tmp_path / "stderr", "w") as stream:
        status = os.fstat(stream.fileno())
        assert logs.choose("auto", stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}) == "journal"
        assert logs.choose("auto", stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}) == "json"
        assert logs.choose("human", stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}) == "human"
    controller, terminal = os.openpty()
    with open(terminal, "w") as stream:
        assert logs.choose("auto", stream, {}) == "human"
    os.close(controller)


def journal_entry(payload: bytes) -> dict[str, str]:
    """The native protocol, read back."""
    fields, rest = {}, payload
    while rest:
        head, _, rest = rest.partition(b"\n")
        if b"=" in head:
            name, _, value = head.partition(b"=")
        else:
            name, size = head, int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        fields[name.decode()] = value.decode()
    return fields


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[tuple[socket.socket, logging.Logger]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "journal"))
        listener.settimeout(5)
        logger = logging.getLogger("gateway.child")
        handler = logs.JournalHandler(str(tmp_path / "journal"))
        logger.addHandler(handler)
        yield listener, logger
        logger.removeHandler(handler)
        handler.close()


def test_journal_fields(journald: tuple[socket.socket, logging.Logger]):
    listener, logger = journald
    logger.error(
        "rekeyed %s", EVIL, extra={"event": "child-rekeyed", "tunnel": "azure-a", "child": "net", "spi_in": 0xC3F1A2B0}
    )
    fields = journal_entry(listener.recv(65536))
    assert fields["MESSAGE"] == "[azure-a/net] rekeyed id\\nMESSAGE=forged\\x1b[2J\\u202e"
    assert (fields["PRIORITY"], fields["GATEWAY_TUNNEL"], fields["GATEWAY_CHILD"], fields["GATEWAY_SPI_IN"]) == (
        "3",
        "azure-a",
        "net",
        "c3f1a2b0",
    )
    assert fields["MESSAGE_ID"] == logs.message_id("child-rekeyed") == "0033cdb2c2b854cb99fef024a75ea1ff"
    assert fields["CODE_FUNC"] == "test_journal_fields"


def test_a_traceback_is_one_field_of_several_lines(journald: tuple[socket.socket, logging.Logger]):
    listener, logger = journald
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("failed")
    fields = journal_entry(listener.recv(65536))
    assert fields["MESSAGE"].startswith("failed\nTraceback")
    assert fields["MESSAGE"].endswith("ValueError: broken")


def test_a_message_too_large_for_a_datagram_comes_as_a_sealed_file(
    journald: tuple[socket.socket, logging.Logger], monkeypatch: pytest.MonkeyPatch
):
    import fcntl

    listener, logger = journald
    monkeypatch.setattr(logs, "_LONGEST", 10**6)
    logger.warning("x" * 900_000)
    data, descriptors, _, _ = socket.recv_fds(listener, 65536, 1)
    assert data == b""
    assert len(descriptors) == 1
    try:
        assert fcntl.fcntl(descriptors[0], fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
        os.lseek(descriptors[0], 0, os.SEEK_SET)
        assert journal_entry(os.read(descriptors[0], 2_000_000))["MESSAGE"] == "x" * 900_000
    finally:
        os.close(descriptors[0])


def test_without_a_journal_the_record_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    handler = logs.JournalHandler(str(tmp_path / "none"))
    handler.emit(logging.LogRecord("gateway", logging.INFO, "f", 1, "still told", None, None))
    assert "still told" in capsys.readouterr().err
    handler.close()
