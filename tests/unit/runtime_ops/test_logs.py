"""Three formats, one rule: a peer's text stays on its line, and octets never appear."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.runtime import logs
from gateway.runtime.line_writer import MOST

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
    return said(stream)


def said(stream: io.StringIO) -> str:
    (handler,) = logging.getLogger().handlers
    handler.flush()
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
    assert said(stream).count("\n") == 1
    assert "ValueError: id" in json.loads(said(stream))["traceback"]


def test_the_level_holds():
    stream = io.StringIO()
    logs.setup("warning", "human", stream)
    logging.getLogger("gateway").info("quiet")
    assert said(stream) == ""


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
    handler.flush()
    assert "still told" in capsys.readouterr().err
    handler.close()


def test_a_journal_that_stands_still_is_not_waited_for_and_hears_of_what_it_missed(
    journald: tuple[socket.socket, logging.Logger], capsys: pytest.CaptureFixture[str]
):
    listener, logger = journald
    room = 0
    begun = time.monotonic()
    for number in range(2000):  # net.unix.max_dgram_qlen is some hundreds at most
        logger.warning("record %d", number)
    assert time.monotonic() - begun < 5
    listener.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            assert journal_entry(listener.recv(65536))["MESSAGE"] == f"record {room}"
            room += 1
    assert 0 < room < 2000
    logger.warning("goes on")
    told, last = (journal_entry(listener.recv(65536)) for _ in range(2))
    assert told["MESSAGE"] == f"{2000 - room} log records before this one are lost: nobody took them in time"
    assert told["GATEWAY_EVENT"] == "log-lost"
    assert last["MESSAGE"] == "goes on"
    assert capsys.readouterr().err == "", "stderr is the same journal's stream"


LOGS_AND_ENDS = """
import io, logging, os, sys, time
from gateway.runtime import logs
logs.setup("info", "json")
begun = time.monotonic()
for number in range(20_000):
    logging.getLogger("gateway").info("record %d of a log that nobody reads", number)
os.write(1, b"%f" % (time.monotonic() - begun))
"""


def test_a_pipe_that_nobody_reads_is_not_waited_for_at_the_end_neither():
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", LOGS_AND_ENDS], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert float(process.stdout.read()) < 10
        assert time.monotonic() - begun < 25
        assert process.stderr is not None
        assert process.stderr.read().startswith(b'{"time"')


def test_all_is_written_when_the_process_ends():
    done = subprocess.run(
        [sys.executable, "-c", LOGS_AND_ENDS.replace("20_000", "2000")], capture_output=True, timeout=30, check=True
    )
    lines = done.stderr.splitlines()
    assert [json.loads(line)["message"].split()[1] for line in lines] == [str(number) for number in range(2000)]


def test_what_a_pipe_missed_is_said_when_it_is_read_again():
    reading, writing = os.pipe()
    with open(writing, "w") as stream:
        logs.setup("info", "json", stream)
        count = 2 * MOST // 100
        for number in range(count):
            logging.getLogger("gateway").info("record %d of a log that nobody reads", number)
        with open(reading, "rb", buffering=0) as reader:
            heard: list[bytes] = []
            thread = threading.Thread(target=lambda: heard.extend(reader))
            thread.start()
            (handler,) = logging.getLogger().handlers
            handler.flush()
            logging.getLogger("gateway").info("goes on")
            handler.flush()
            handler.close()
            logging.getLogger().handlers = []
            stream.close()
            thread.join(10)
    *passed, told, last = (json.loads(line)["message"] for line in heard)
    assert len(passed) < count
    assert told == f"{count - len(passed)} log records before this one are lost: nobody took them in time"
    assert last == "goes on"
