"""What the two gateways say about copies of SAs, in octets; a connection's state as it stands in the state memory."""

from __future__ import annotations

import struct
from struct import Struct

from gateway.ha.replica import Begin, Gone, Ping, Pong, Record, Said, Whole
from gateway.node.keeping import KeptConnection
from gateway.runtime.kept_state import decode, encode
from gateway.runtime.state_memory import VERSION

_BEGIN, _RECORD, _PING, _PONG = Struct(">HQd"), Struct(">QH"), Struct(">QQd"), Struct(">Q")


class MessageError(ValueError):
    """Not to be understood; str() says why."""


def packed(said: Said) -> bytes:
    """One content of the channel."""
    match said:
        case Begin(epoch, at):
            return b"B" + _BEGIN.pack(VERSION, epoch, at)
        case Record(number, name, content):
            kept = encode(content) if isinstance(content, KeptConnection) else b""
            named = name.encode()
            return b"R" + _RECORD.pack(number, len(named)) + named + kept
        case Whole(number):
            return b"W" + _PONG.pack(number)
        case Ping(ping, number, lasts):
            return b"P" + _PING.pack(ping, number, lasts)
        case Pong(ping):
            return b"O" + _PONG.pack(ping)
        case Gone():
            return b"G"


def unpacked(octets: bytes) -> Said:
    """MessageError for what is none, or of a release that keeps other things of a connection."""
    body = octets[1:]
    try:
        match octets[:1]:
            case b"B":
                return _begun(*_BEGIN.unpack(body))
            case b"R":
                return _record(body)
            case b"W":
                return Whole(*_PONG.unpack(body))
            case b"P":
                return Ping(*_PING.unpack(body))
            case b"O":
                return Pong(*_PONG.unpack(body))
            case b"G":
                return Gone()
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, MessageError):
            raise
        raise MessageError(f"a message {octets[:1]!r} that cannot be read") from error
    raise MessageError(f"a message {octets[:1]!r} that this release does not know")


def _begun(version: int, epoch: int, at: float) -> Begin:
    if version != VERSION:
        raise MessageError(
            f"the other gateway's state is of version {version}, this release has {VERSION}: upgrade both"
        )
    return Begin(epoch, at)


def _record(body: bytes) -> Record:
    number, length = _RECORD.unpack_from(body)
    rest = body[_RECORD.size :]
    content = rest[length:]
    return Record(number, rest[:length].decode(), decode(content) if content else None)
