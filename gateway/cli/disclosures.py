"""Keys and packets into files, as the daemon gives them: `gatewayctl keylog` and `gatewayctl capture`.

The files are made here, with the rights of whoever runs gatewayctl: new ones only, mode 0600 from the first moment,
never through a symbolic link.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

KEY_TABLES = ("ikev2_decryption_table", "esp_sa")
"""As Wireshark names them in a profile."""


def write_keys(pieces: Iterator[dict[str, Any]], directory: Path) -> Generator[str, None, None]:
    """Into tables of Wireshark's below `directory`; gives sentences for the operator. OSError: they cannot be made."""
    first = next(pieces, None)  # a refusal comes before anything is made
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        tables = {name: stack.enter_context(_new(directory / name)) for name in KEY_TABLES}
        yield f"keys go to {directory}; whoever has these files can read the tunnel: delete them when you are done"
        yield f"to read a capture: WIRESHARK_CONFIG_DIR={directory} wireshark -o esp.enable_encryption_decode:TRUE FILE"
        for piece in _all(first, pieces):
            if piece.get("file") in tables:
                table = tables[piece["file"]]
                table.write(f"{piece['text']}\n".encode())
                table.flush()  # Wireshark may read along
            yield from _sentences(piece)


def write_packets(pieces: Iterator[dict[str, Any]], file: Path) -> Generator[str, None, None]:
    """Into one pcapng file; gives sentences for the operator. OSError: it cannot be made."""
    first = next(pieces, None)
    with _new(file) as target:
        for piece in _all(first, pieces):
            if "data" in piece:
                target.write(base64.b64decode(piece["data"]))
                target.flush()
            yield from _sentences(piece)


def _all(first: dict[str, Any] | None, rest: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if first is not None:
        yield first
        yield from rest


def _sentences(piece: dict[str, Any]) -> Iterator[str]:
    if "end" in piece:
        yield str(piece["end"])


def _new(path: Path) -> IO[bytes]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")
