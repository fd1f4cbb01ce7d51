"""ExaBGP's place, taken by something that already knows what it is going to say: what is measured is what follows from it.

It starts the relay as ExaBGP does, answers its commands with ExaBGP's words, and says its lines as fast as they are read.

    standin.sock    "announce COUNT\n", "withdraw COUNT\n"  ->  when (monotonic) the first octet was written

Routes are as ExaBGP 5.0.15 prints them, each in an UPDATE of its own. It needs only the standard library.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

_UPDATE = (
    '{{ "exabgp": "5.0.0", "time": 1795262425.166391, "host" : "vm", "pid" : 7079, "ppid" : 1, "counter": {number}, '
    '"type": "update", "neighbor": {{ "address": {{ "local": "{local}", "peer": "{peer}" }}, "asn": {{ "local": 65010, '
    '"peer": 65001 }}, "router-id": "10.0.0.1" , "direction": "receive", "message": {{ "update": {{ {body} }} }}, '
    '"negotiated": {{ "message_size": 4096, "hold_time": 30, "asn4": true, "refresh": "enhanced", '
    '"families": ["ipv4 unicast"], "nexthop": [] }}  }} }}\n'
)
_ANNOUNCE = (
    '"attribute": {{ "origin": "igp", "as-path": {{"0": {{"element": "as-sequence", "value": [65001]}}}}, '
    '"community": [ [ 65001, {number} ] ] }}, "announce": {{ "ipv4 unicast": {{ "{peer}": [ {{ "nlri": "{prefix}" }} ] }} }}'
)
_WITHDRAW = '"withdraw": {{ "ipv4 unicast": [ {{ "nlri": "{prefix}" }} ] }}'


def main(arguments: list[str]) -> int:
    """`validate` agrees with everything; `server CONF` runs until the relay ends."""
    if arguments[0] == "validate":
        return 0
    conf = Path(arguments[1])
    text = conf.read_text()
    command = re.search(r"\brun (.+);", text)
    neighbors = re.findall(r"^neighbor (\S+) \{.*?local-address (\S+);", text, re.DOTALL | re.MULTILINE)
    assert command is not None
    relay = subprocess.Popen(shlex.split(command[1]), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert relay.stdin is not None
    assert relay.stdout is not None
    output, lock = relay.stdin.fileno(), threading.Lock()
    threading.Thread(target=_serve, args=(conf.parent, output, lock, neighbors), daemon=True).start()
    for line in relay.stdout:
        said = line.decode().strip()
        rows = [_row(peer) for peer, _ in neighbors]
        answer = json.dumps(rows) + "\ndone\n" if said == "show neighbor json" else "done\n"
        with lock:
            _write(output, answer.encode())
    return 0


def _serve(directory: Path, output: int, lock: threading.Lock, neighbors: list[tuple[str, str]]) -> None:
    path = directory / "standin.sock"
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    peer, local = neighbors[0]
    while True:
        client, _ = server.accept()
        verb, count = client.recv(100).decode().split()
        made = "".join(
            _UPDATE.format(number=number, peer=peer, local=local, body=_body(verb, number, peer))
            for number in range(int(count))
        ).encode()
        begun = time.monotonic()
        with lock:
            _write(output, made)
        client.sendall(f"{begun:.6f}".encode())
        client.close()


def _body(verb: str, number: int, peer: str) -> str:
    prefix = f"{20 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.0/24"
    layout = _ANNOUNCE if verb == "announce" else _WITHDRAW
    return layout.format(number=number, peer=peer, prefix=prefix)


def _write(output: int, octets: bytes) -> None:
    view = memoryview(octets)
    while view:
        view = view[os.write(output, view[:65536]) :]


def _row(peer: str) -> dict[str, object]:
    totals = {"sent": {"total": 7}, "received": {"total": 9}}
    side = {"address": peer, "as": 65001, "id": "192.0.2.9", "hold": 30}
    return {"state": "up", "duration": 60, "fsm": "ESTABLISHED", "peer": side, "messages": totals}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
