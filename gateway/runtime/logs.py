"""Where log records go and how they look.

    under systemd (JOURNAL_STREAM is our stderr)   journald's native protocol, one field per fact
    on a terminal, or --log-format human           logfmt: time level logger [tunnel] message key=value
    otherwise, or --log-format json                one JSON object per line

Facts travel as `extra`: logger.info("CHILD_SA installed", extra={"tunnel": "azure-a", "event": "child-installed"}).
Only the names of FIELDS are written, so a careless `extra` cannot leak; octets are shown as their number only, since
what is bytes here is a key, a packet or a payload. Text may come from a peer: it stays on its line.

Nobody waits for who reads the log: IKE, grants and the watchdog are on the thread that writes it. What a journal, pipe or
terminal that stands still does not take is dropped, and counted in the next record that passes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, TextIO
from uuid import UUID, uuid5

from gateway.observe.text import printable
from gateway.runtime.line_writer import LineWriter

Format = Literal["auto", "human", "json", "journal"]

# extra -> journal field
FIELDS = {
    "event": "GATEWAY_EVENT",
    "tunnel": "GATEWAY_TUNNEL",
    "child": "GATEWAY_CHILD",
    "spi_in": "GATEWAY_SPI_IN",
    "spi_out": "GATEWAY_SPI_OUT",
    "peer": "GATEWAY_PEER",
    "exchange": "GATEWAY_EXCHANGE",
    "notify": "GATEWAY_NOTIFY",
    "reason": "GATEWAY_REASON",
}
_HEXADECIMAL = {"spi_in", "spi_out"}
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)
_FULL = (errno.EAGAIN, errno.ENOBUFS)
_LONGEST = 8000  # characters of one message
_JOURNAL_SOCKET = "/run/systemd/journal/socket"
_EVENTS = UUID("6f7a3d5e-2c51-4d0b-9a43-5b6e0f6c1f27")  # namespace of MESSAGE_ID, fixed for ever
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


def setup(
    level: str, log_format: Format = "auto", stream: TextIO | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Makes this the only destination of the root logger."""
    stream = sys.stderr if stream is None else stream
    chosen = choose(log_format, stream, os.environ if environment is None else environment)
    handler: logging.Handler = JournalHandler() if chosen == "journal" else StreamHandler(stream)
    if chosen != "journal":
        handler.setFormatter(JsonFormatter() if chosen == "json" else HumanFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    set_level(level)


def set_level(level: str) -> None:
    """Also at a reload."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    # What these two say at debug is about themselves
    for library in ("pyroute2", "asyncio"):
        logging.getLogger(library).setLevel(max(logging.INFO, root.level))


def choose(log_format: Format, stream: TextIO, environment: Mapping[str, str]) -> Literal["human", "json", "journal"]:
    """What "auto" means for this stream."""
    if log_format != "auto":
        return log_format
    if _is_journal(stream, environment.get("JOURNAL_STREAM", "")):
        return "journal"
    return "human" if stream.isatty() else "json"


def message_id(event: str) -> str:
    """The MESSAGE_ID of an event name, the same in every release: `journalctl MESSAGE_ID=...`."""
    return uuid5(_EVENTS, event).hex


class HumanFormatter(logging.Formatter):
    """12:01:07.412 WARNING ike [azure-a/net] peer refused our proposals reason=NO_PROPOSAL_CHOSEN"""

    def format(self, record: logging.LogRecord) -> str:
        facts = _facts(record)
        where = "/".join(facts.pop(name) for name in ("tunnel", "child") if name in facts)
        at = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        parts = [
            f"{at}.{int(record.msecs):03d}",
            record.levelname,
            _logger(record),
            f"[{where}]" if where else "",
            _message(record),
        ]
        parts += [f"{name}={_quoted(value)}" for name, value in facts.items()]
        return " ".join(part for part in parts if part) + "".join(f"\n    {line}" for line in _trace(record))


class JsonFormatter(logging.Formatter):
    """One object per line; `time` is RFC 3339 in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": _logger(record),
            "message": _message(record),
            **_facts(record),
        }
        trace = _trace(record)
        if trace:
            document["traceback"] = "\n".join(trace)
        return json.dumps(document, ensure_ascii=True)


class StreamHandler(logging.Handler):
    """Lines, written by a thread of their own (line_writer.py)."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._writer = LineWriter(stream)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._lost and self._writer.put(self.format(_of_lost(self._lost)) + "\n"):
                self._lost = 0
            if self._lost or not self._writer.put(self.format(record) + "\n"):
                self._lost += 1
        except (TypeError, ValueError):
            self.handleError(record)  # a call whose arguments do not fit its format

    def flush(self) -> None:
        """Also at the end of the process (logging.shutdown)."""
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
        super().close()


class JournalHandler(logging.Handler):
    """systemd's native journal protocol: one datagram of fields; one too large goes as a sealed memory file."""

    def __init__(self, path: str = _JOURNAL_SOCKET) -> None:
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._lost = 0
        self._instead: StreamHandler | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._lost:
                self._send(_of_lost(self._lost))
                self._lost = 0
            self._send(record)
        except (TypeError, ValueError):
            self.handleError(record)  # a call whose arguments do not fit its format
        except OSError as error:
            if error.errno in _FULL:
                self._lost += 1
            else:
                self._say_instead(record)

    def flush(self) -> None:
        if self._instead is not None:
            self._instead.flush()

    def close(self) -> None:
        self._socket.close()
        if self._instead is not None:
            self._instead.close()
        super().close()

    def _say_instead(self, record: logging.LogRecord) -> None:
        """There is no journal's socket; stderr is the journal's stream, which holds something until there is one again."""
        if self._instead is None:
            self._instead = StreamHandler(sys.stderr)
            self._instead.setFormatter(HumanFormatter())
        self._instead.emit(record)

    def _send(self, record: logging.LogRecord) -> None:
        payload = b"".join(_field(name, value) for name, value in _journal_fields(record))
        try:
            self._socket.sendto(payload, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._path)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
            descriptor = _sealed(payload)
            try:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, sys.byteorder))
                self._socket.sendmsg([], [rights], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._path)
            finally:
                os.close(descriptor)


def _of_lost(count: int) -> logging.LogRecord:
    """What is said of records that nobody took."""
    text = "%d log records before this one are lost: nobody took them in time"
    record = logging.LogRecord("gateway", logging.WARNING, __file__, 0, text, (count,), None)
    record.event = "log-lost"
    return record


def _is_journal(stream: TextIO, journal_stream: str) -> bool:
    """systemd.exec(5): JOURNAL_STREAM is "device:inode" of what stdout or stderr was connected to."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def _message(record: logging.LogRecord) -> str:
    """The record itself stays as it is: other handlers see it too."""
    arguments = record.args
    text = str(record.msg)
    if isinstance(arguments, Mapping):
        text %= {name: _shown(value) for name, value in arguments.items()}
    elif arguments:
        text %= tuple(_shown(value) for value in arguments)
    return printable(text, _LONGEST)


def _shown(value: object) -> object:
    """Octets never appear in a log."""
    return f"<{len(value)} octets>" if isinstance(value, bytes | bytearray | memoryview) else value


def _facts(record: logging.LogRecord) -> dict[str, str]:
    found = {}
    for name in FIELDS:
        value = getattr(record, name, None)
        if value is None or value == "":
            continue
        text = f"{value:08x}" if name in _HEXADECIMAL and isinstance(value, int) else str(_shown(value))
        found[name] = printable(text)
    return found


def _logger(record: logging.LogRecord) -> str:
    return record.name.removeprefix("gateway.")


def _trace(record: logging.LogRecord) -> list[str]:
    """An exception's text may quote a peer as well: each line is escaped by itself."""
    if not record.exc_info or record.exc_info[0] is None:
        return []
    lines = "".join(traceback.format_exception(*record.exc_info)).splitlines()
    return [printable(line) for line in lines]


def _quoted(value: str) -> str:
    return value if value and not set(value) & set(' "=') else json.dumps(value)


def _journal_fields(record: logging.LogRecord) -> list[tuple[str, str]]:
    facts = _facts(record)
    where = "/".join(facts[name] for name in ("tunnel", "child") if name in facts)
    text = "\n".join([f"[{where}] {_message(record)}" if where else _message(record), *_trace(record)])
    fields = [
        ("MESSAGE", text),
        ("PRIORITY", str(next(number for level, number in _PRIORITIES if record.levelno >= level))),
        ("SYSLOG_IDENTIFIER", "gatewayd"),
        ("LOGGER", _logger(record)),
        ("CODE_FILE", record.pathname),
        ("CODE_LINE", str(record.lineno)),
        ("CODE_FUNC", record.funcName or ""),
    ]
    if "event" in facts:
        fields.append(("MESSAGE_ID", message_id(facts["event"])))
    return fields + [(FIELDS[name], value) for name, value in facts.items()]


def _field(name: str, value: str) -> bytes:
    """NAME=value, or with line breaks: NAME, newline, little-endian 64-bit length, value, newline."""
    octets = value.encode("utf-8", "backslashreplace")
    if b"\n" not in octets:
        return name.encode() + b"=" + octets + b"\n"
    return name.encode() + b"\n" + len(octets).to_bytes(8, "little") + octets + b"\n"


def _sealed(payload: bytes) -> int:
    """journald takes only memory files that nobody can change any more."""
    descriptor = os.memfd_create("gatewayd-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, payload)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
