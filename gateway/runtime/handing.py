"""What the daemon and the one that takes over from it (`gatewayctl upgrade`) say to each other, over a socketpair.

    the new process, loading      hello(pid) ->                <- welcome + stderr
                                  ready(release, reads) ->           or refused(text), or silence
    the old one, halted                                        <- kept(names) + descriptors, ... go
    the new one, forwarding       serving ->

Each datagram of SOCK_SEQPACKET is one JSON object. They may be of different releases: `PROTOCOL` changes with the meaning of any of it.
"""

from __future__ import annotations

import json
import os
import socket
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PROTOCOL = 1
LONGEST = 1 << 16
AT_ONCE = 200  # descriptors in a datagram, fewer than SCM_MAX_FD


@dataclass(frozen=True, slots=True)
class Message:
    """`fds` are the receiver's."""

    kind: str
    facts: Mapping[str, object]
    fds: Sequence[int] = ()

    def text(self, name: str) -> str:
        value = self.facts.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int:
        value = self.facts.get(name)
        return value if isinstance(value, int) else 0

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.facts.get(name)
        return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    return ours, theirs


def say(by: socket.socket, kind: str, fds: Sequence[int] = (), **facts: object) -> None:
    """OSError when nobody is there any more."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    by.sendmsg([json.dumps({"kind": kind, **facts}).encode()], rights, socket.MSG_NOSIGNAL)


def hear(by: socket.socket) -> Message | None:
    """The next one; None when the other is gone. OSError as the socket gives it, ValueError for what is none."""
    try:
        data, found, _, _ = by.recvmsg(LONGEST, socket.CMSG_SPACE(AT_ONCE * 4), socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    fds = array("i")
    for level, kind, content in found:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not data:
        return None
    try:
        document = json.loads(data)
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            raise ValueError("not a message")
    except ValueError:
        for fd in fds:
            os.close(fd)
        raise
    return Message(document["kind"], document, tuple(fds))


def say_kept(by: socket.socket, kept: Mapping[str, Sequence[int]]) -> None:
    """Descriptors by name, in as many datagrams as they need."""
    flat = [(name, fd) for name, fds in kept.items() for fd in fds]
    for first in range(0, len(flat), AT_ONCE):
        some = flat[first : first + AT_ONCE]
        say(by, "kept", [fd for _, fd in some], names=[name for name, _ in some])
