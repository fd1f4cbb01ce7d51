"""SO_MARK has all 32 bits."""

from __future__ import annotations

import socket
import sys

import pytest

from gateway.runtime.marking import mark_option


@pytest.mark.parametrize("mark", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_every_mark_can_be_set(mark: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(*mark_option(mark))
        assert int.from_bytes(one.getsockopt(socket.SOL_SOCKET, socket.SO_MARK, 4), sys.byteorder) == mark
