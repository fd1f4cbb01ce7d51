"""Runs a command that gets no packet sockets, as under systemd without RestrictAddressFamilies=AF_PACKET.

python -m support.without_packet_sockets COMMAND ...
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _FIRST_ARGUMENT = 0, 16  # offsets in struct seccomp_data
_SOCKET = {"x86_64": 41, "aarch64": 198}


def main() -> None:
    load, equal, answer = 0x20, 0x15, 0x06
    code = [
        (load, 0, 0, _NUMBER), (equal, 0, 3, _SOCKET[platform.machine()]),
        (load, 0, 0, _FIRST_ARGUMENT), (equal, 0, 1, socket.AF_PACKET),
        (answer, 0, 0, _ERRNO | errno.EAFNOSUPPORT), (answer, 0, 0, _ALLOW),
    ]  # fmt: skip
    octets = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(octets)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_SECCOMP, _MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
