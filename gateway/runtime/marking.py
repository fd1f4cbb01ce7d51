"""SO_MARK: what the daemon sends itself goes by the main table (docs/ARCHITECTURE.md, rules)."""

from __future__ import annotations

import socket
import sys


def mark_option(mark: int) -> tuple[int, int, bytes]:
    """For `setsockopt`, whose integers are signed: a mark has all 32 bits."""
    return socket.SOL_SOCKET, socket.SO_MARK, mark.to_bytes(4, sys.byteorder)
