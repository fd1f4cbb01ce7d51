"""The control socket: what `gatewayctl` speaks to. HTTP on a UNIX socket, for root and the daemon's own user.

    GET  /v1/status       -> the snapshot as JSON; of BGP routes some, with ?routes=all all
    POST /v1/operations   {"verb": "rekey", "target": "azure-a/net", "wait": 30} -> {"ok": true, "text": "..."}
                          {"verb": "drain", "target": "azure-a" or none for all, "to": "192.0.2.1" or none to end it}
                          {"verb": "upgrade", "program": "/..." or none for the installed one}: answered by the old daemon
                         {"verb": "ha-failover", "wait": 10}, also ha-drain, ha-undrain, ha-maintenance, ha-resume: of the pair
                          {"verb": "forget", "target": "10.1.0.0/16", or none for all} of what was learned in tunnels; "instance": "..."
    GET  /v1/guard        -> {"protected": [...], "learned": [...], "instances": {"...": {"protected": [...], "learned": [...]}}}
    what questions.py knows -> {"schema": 1, ...}; of a policy test with mistakes in its file: {"errors": ["FILE:LINE:COL ...", ...]}, 422
    POST /v1/disclosures  {"kind": "keylog", "target": "azure-a", "for": 300} -> JSON lines while it goes on, {"end": "..."} last

Status of an operation: 200 done or refused (`ok` tells), 400 not understood, 404 no such connection or child,
504 not finished in time. Knows nothing about the gateway but `Operations`.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Protocol

from aiohttp import web

from gateway.observe.snapshot import Snapshot
from gateway.runtime import memory, questions
from gateway.runtime.disclosures import Piece, Refused, Wish
from gateway.runtime.faults import DIRECTORY, explained
from gateway.runtime.fd_store import Inherited
from gateway.runtime.http import LAST_ANSWERS

VERBS_WITH_TARGET = ("initiate", "terminate", "rekey")
VERBS_OF_PAIR = ("ha-failover", "ha-drain", "ha-undrain", "ha-resume", "ha-maintenance")
VERBS = (*VERBS_WITH_TARGET, *VERBS_OF_PAIR, "drain", "forget", "reload", "plan", "upgrade")
LONGEST_WAIT = 600.0
LONGEST_BODY = 4096
LONGEST_DISCLOSURE = 3600.0
DEFAULT_PACKETS, MOST_PACKETS = 10_000, 100_000
KEPT_AS = "control"
_USER = web.RequestKey("user", int)
_ASKER = web.RequestKey("asker", str)
_GRACE = 1.0  # the operation may answer "timed out" in its own words first
_PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class Operations(Protocol):
    """What the daemon offers to its operator."""

    async def snapshot(self, all_routes: bool = False) -> Snapshot:
        """The picture of now, with a few BGP routes or all of them."""

    def trace(self, connection: str) -> list[dict[str, object]] | None:
        """The last IKE messages of a connection, oldest first; None: there is no such connection."""

    def disclose(self, wish: Wish) -> AsyncGenerator[Piece | None, None]:
        """Keys or packets, as they come; None: nothing new. Refused comes before the first piece."""

    async def operate(self, verb: str, target: str, wait: float) -> tuple[bool, str]:
        """Does it and waits up to `wait` seconds for the outcome: (success, one sentence).

        `target` is "connection" or "connection/child", and empty for the verbs "reload" and "plan" (what it would do). TimeoutError: still going on.
        """

    async def upgrade(self, program: str) -> tuple[bool, str]:
        """Whether a new process, of `program` or of what is installed, has taken over; and one sentence."""

    def guard(self) -> dict[str, object]:
        """The prefixes that cannot leave in clear: "protected" by the configuration, "learned" in tunnels; the same of
        each of the "instances"."""

    def forget(self, prefix: str, instance: str) -> tuple[bool, str]:
        """Ends the protection of a prefix learned in a tunnel, or of all of them; of one routing instance or of none."""

    async def look(self, question: questions.Question) -> bytes:
        """A document of JSON. NotThere, Unusable."""

    def drain(self, connection: str, to: str) -> tuple[bool, str]:
        """Sends who initiates that connection, or any of them, to another address from now on; none: no longer."""


class AlreadyRunning(Exception):
    """Another daemon answers on the control socket."""


class ControlServer:
    """Serves `operations` on a UNIX socket of mode 0600."""

    def __init__(self, operations: Operations, path: str | Path) -> None:
        self._path = Path(path)
        self._listener: socket.socket | None = None
        self._site: web.SockSite | None = None
        self._runner = web.AppRunner(
            application(operations),
            access_log=None,
            max_line_size=1024,
            max_field_size=1024,
            keepalive_timeout=5.0,
            shutdown_timeout=LAST_ANSWERS,
        )

    async def start(self, inherited: Inherited | None = None) -> None:
        """`inherited`: with the listener of the daemon before, where that passed it on."""
        self._listener = self._adopted(inherited.take(KEPT_AS)) if inherited is not None else None
        if self._listener is None:
            with explained(f"control socket {self._path}", DIRECTORY):
                self._listener = _listen(self._path)
        await self._runner.setup()
        self._site = web.SockSite(self._runner, self._listener)
        await self._site.start()

    @property
    def held(self) -> dict[str, list[int]]:
        """The listener, for a daemon that takes over."""
        return {KEPT_AS: [self._listener.fileno()]} if self._listener is not None else {}

    async def pass_on(self) -> None:
        """Who asks from now on waits for the one that holds a copy of the listener; what was asked here is still answered."""
        if self._site is not None:
            await self._site.stop()
        self._listener = None

    async def stop(self) -> None:
        await self._runner.cleanup()
        if self._listener is not None:
            self._path.unlink(missing_ok=True)
            self._listener = None

    def _adopted(self, fds: Sequence[int]) -> socket.socket | None:
        found = None
        for one in (socket.socket(fileno=fd) for fd in fds):
            if found is None and one.getsockname() == str(self._path) and self._path.is_socket():
                found = one
            else:
                one.close()
        return found


def application(operations: Operations) -> web.Application:
    """The routes; `ControlServer` puts them on the socket."""
    app = web.Application(middlewares=[_authorize], client_max_size=LONGEST_BODY)
    app.router.add_get("/v1/status", _status(operations))
    app.router.add_get("/v1/trace/{connection}", _trace(operations))
    app.router.add_get("/v1/guard", _guard(operations))
    for path, parse in _QUERIES.items():
        app.router.add_get(path, _queries(operations, parse))
    app.router.add_post("/v1/policy-tests", _policy_tests(operations))
    app.router.add_post("/v1/operations", _operations(operations))
    app.router.add_post("/v1/disclosures", _disclosures(operations))
    return app


@dataclass(frozen=True, slots=True)
class _Request:
    verb: str
    target: str
    wait: float
    to: str = ""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The file mode already keeps others out; this holds also when somebody loosened it."""
    peer = request.transport.get_extra_info("socket") if request.transport else None
    if peer is None:
        return _answer(False, "the connection is gone", 400)
    pid, uid, _ = _PEER_CREDENTIALS.unpack(
        peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    )
    if uid not in (0, os.geteuid()):
        return _answer(False, f"user id {uid} may not control the gateway", 403)
    request[_USER] = uid
    request[_ASKER] = f"user id {uid} (process {pid})"
    return await handler(request)


def _status(operations: Operations) -> Handler:
    async def status(request: web.Request) -> web.StreamResponse:
        # A thousand tunnels are megabytes of text: not on the loop
        with memory.uncollected():
            taken = await operations.snapshot(request.query.get("routes") == "all")
            text = await asyncio.to_thread(lambda: json.dumps(taken.to_json()))
        return web.Response(text=text, content_type="application/json")

    return status


def _trace(operations: Operations) -> Handler:
    async def trace(request: web.Request) -> web.StreamResponse:
        name = request.match_info["connection"]
        lines = operations.trace(name)
        if lines is None:
            return _answer(False, _missing(await operations.snapshot(), _Request("trace", name, 0.0)), 404)
        return web.json_response({"connection": name, "lines": lines})

    return trace


def _operations(operations: Operations) -> Handler:
    async def operate(request: web.Request) -> web.StreamResponse:
        try:
            wanted = _parse(await request.text())
        except (ValueError, RecursionError, web.HTTPRequestEntityTooLarge) as error:
            return _answer(False, f"request not understood: {error}", 400)
        if wanted.verb == "upgrade":
            if wanted.target and request[_USER] != 0:
                return _answer(False, f"user id {request[_USER]} may not choose the program: only root may", 200)
            return _answer(*await operations.upgrade(wanted.target), 200)
        if wanted.verb == "forget":
            return _answer(*operations.forget(wanted.target, wanted.to), 200)
        missing = _missing(await operations.snapshot(), wanted) if wanted.target else ""
        if missing:
            return _answer(False, missing, 404)
        if wanted.verb == "drain":
            return _answer(*operations.drain(wanted.target, wanted.to), 200)
        try:
            async with asyncio.timeout(wanted.wait + _GRACE):
                ok, text = await operations.operate(wanted.verb, wanted.target, wanted.wait)
        except TimeoutError as error:
            return _answer(
                False,
                str(error) or f"{wanted.verb} {wanted.target} did not finish in {wanted.wait:g} s and goes on",
                504,
            )
        return _answer(ok, text, 200)

    return operate


def _guard(operations: Operations) -> Handler:
    async def guard(request: web.Request) -> web.StreamResponse:
        text = await asyncio.to_thread(json.dumps, operations.guard())
        return web.Response(text=text, content_type="application/json")

    return guard


_QUERIES: dict[str, Callable[[Mapping[str, str]], questions.Question]] = {
    "/v1/advertised": questions.advertised,
    "/v1/table": questions.table,
    "/v1/lookup": questions.lookup,
    "/v1/places": questions.places,
}


def _queries(operations: Operations, parse: Callable[[Mapping[str, str]], questions.Question]) -> Handler:
    async def ask(request: web.Request) -> web.StreamResponse:
        try:
            question = parse(request.query)
        except ValueError as error:
            return _answer(False, f"request not understood: {error}", 400)
        return await _answered(operations, question)

    return ask


def _policy_tests(operations: Operations) -> Handler:
    async def test(request: web.Request) -> web.StreamResponse:
        try:
            body = await _long_body(request)
            question = await asyncio.to_thread(questions.policy_test, body)
        except (ValueError, RecursionError) as error:
            return _answer(False, f"request not understood: {error}", 400)
        return await _answered(operations, question)

    return test


async def _answered(operations: Operations, question: questions.Question) -> web.Response:
    try:
        document = await operations.look(question)
    except questions.NotThere as error:
        return _answer(False, str(error), 404)
    except questions.Unusable as error:
        return web.json_response({"ok": False, "errors": list(error.args)}, status=422)
    return web.Response(body=document, content_type="application/json", charset="utf-8")


async def _long_body(request: web.Request) -> bytes:
    """A configuration is longer than any other request."""
    pieces = bytearray()
    async for piece in request.content.iter_any():
        pieces += piece
        if len(pieces) > questions.LONGEST_FILE:
            raise ValueError(f"a configuration of more than {questions.LONGEST_FILE} octets")
    return bytes(pieces)


def _disclosures(operations: Operations) -> Handler:
    async def disclose(request: web.Request) -> web.StreamResponse:
        try:
            wish = _parse_wish(await request.text(), request[_ASKER])
        except (ValueError, RecursionError, web.HTTPRequestEntityTooLarge) as error:
            return _answer(False, f"request not understood: {error}", 400)
        missing = _missing(await operations.snapshot(), _Request(wish.kind, wish.connection, 0.0))
        if missing:
            return _answer(False, missing, 404)
        async with aclosing(operations.disclose(wish)) as pieces:
            try:
                first = await anext(pieces)
            except Refused as error:
                return _answer(False, str(error), 403)
            return await _streamed(request, first, pieces)

    return disclose


async def _streamed(
    request: web.Request, first: Piece | None, rest: AsyncGenerator[Piece | None, None]
) -> web.StreamResponse:
    """One JSON object a line. Who asked may go at any time: that ends it, also while there is nothing to tell."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    piece = first
    while request.transport is not None and not request.transport.is_closing():
        if piece is not None:
            try:
                await response.write(json.dumps(piece).encode() + b"\n")
            except ConnectionError:
                break
        try:
            piece = await anext(rest)
        except StopAsyncIteration:
            await response.write_eof()
            break
    return response


def _parse_wish(body: str, asker: str) -> Wish:
    document = json.loads(body)
    if not isinstance(document, dict) or not document.keys() <= {"kind", "target", "for", "packets"}:
        raise ValueError("expected an object with kind, target, for and packets")
    kind, target, packets = document.get("kind"), document.get("target"), document.get("packets", DEFAULT_PACKETS)
    seconds = document.get("for")
    if kind not in ("keylog", "capture"):
        raise ValueError("kind must be keylog or capture")
    if not isinstance(target, str) or not 0 < len(target) <= 80 or "/" in target:
        raise ValueError("target must be a connection")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST_DISCLOSURE:
        raise ValueError(f"for must be more than 0 and at most {LONGEST_DISCLOSURE:g} seconds")
    if isinstance(packets, bool) or not isinstance(packets, int) or not 0 < packets <= MOST_PACKETS:
        raise ValueError(f"packets must be 1 to {MOST_PACKETS}")
    return Wish(kind, target, float(seconds), packets, asker)


def _parse(body: str) -> _Request:
    document = json.loads(body)
    if isinstance(document, dict) and document.get("verb") == "drain":
        return _parse_drain(document)
    if isinstance(document, dict) and document.get("verb") == "forget":
        return _parse_forget(document)
    if isinstance(document, dict) and document.get("verb") == "upgrade":
        return _parse_upgrade(document)
    if not isinstance(document, dict) or not document.keys() <= {"verb", "target", "wait"}:
        raise ValueError("expected an object with verb, target and wait")
    verb, target, wait = document.get("verb"), document.get("target", ""), document.get("wait", 0)
    if verb not in VERBS:
        raise ValueError(f"verb must be one of {', '.join(VERBS)}")
    if not isinstance(target, str) or len(target) > 80 or (verb in VERBS_WITH_TARGET) != bool(target):
        raise ValueError("target must be CONNECTION or CONNECTION/CHILD, and absent for the gateway itself")
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= LONGEST_WAIT:
        raise ValueError(f"wait must be 0 to {LONGEST_WAIT:g} seconds")
    return _Request(verb, target, float(wait))


def _parse_drain(document: dict[str, object]) -> _Request:
    if not document.keys() <= {"verb", "target", "to"}:
        raise ValueError("expected an object with verb, target and to")
    target, to = document.get("target", ""), document.get("to", "")
    if not isinstance(target, str) or len(target) > 80 or "/" in target:
        raise ValueError("target must be a connection, and absent for all of them")
    if not isinstance(to, str) or (to and not _is_address(to)):
        raise ValueError("to must be an address, and absent to end it")
    return _Request("drain", target, 0.0, to)


def _parse_forget(document: dict[str, object]) -> _Request:
    target = document.get("target", "")
    instance = document.get("instance", "")
    if not document.keys() <= {"verb", "target", "instance"} or not isinstance(target, str):
        raise ValueError("expected an object with verb, target and instance")
    if not isinstance(instance, str) or len(instance) > 80:
        raise ValueError("instance must be the name of a routing instance")
    try:
        return _Request("forget", str(ip_network(target)) if target else "", 0.0, instance)
    except ValueError:
        raise ValueError("target must be a prefix, and absent for all of them") from None


def _parse_upgrade(document: dict[str, object]) -> _Request:
    program = document.get("program", "")
    if not document.keys() <= {"verb", "program"} or not isinstance(program, str):
        raise ValueError("expected an object with verb and program")
    if program and (not program.startswith("/") or "\0" in program):
        raise ValueError("program must be an absolute path, and absent for the one that is installed")
    return _Request("upgrade", program, 0.0)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _missing(snapshot: Snapshot, wanted: _Request) -> str:
    """Says what does not exist, and what does; empty when all is there."""
    if not wanted.target:
        return ""
    name, _, child = wanted.target.partition("/")
    tunnels = {tunnel.name: [c.name for c in tunnel.children] for tunnel in snapshot.tunnels}
    if name not in tunnels:
        return f"no connection {name!r}; there are: {', '.join(tunnels) or 'none'}"
    if "/" in wanted.target and child not in tunnels[name]:
        return (
            f"no child {child!r} in connection {name}; there are: {', '.join(dict.fromkeys(tunnels[name])) or 'none'}"
        )
    return ""


def _answer(ok: bool, text: str, status: int) -> web.Response:
    return web.json_response({"ok": ok, "text": text}, status=status)


def _listen(path: Path) -> socket.socket:
    """Binds with the final mode from the first moment; a socket nobody answers on is a leftover and replaced."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            refused = probe.connect_ex(str(path)) == errno.ECONNREFUSED
        if not refused:
            raise AlreadyRunning(f"another gatewayd answers on {path}")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # unix(7): a bound socket file takes the mode of the socket's inode, less the umask.
    os.fchmod(listener.fileno(), 0o600)
    listener.bind(str(path))
    listener.setblocking(False)
    return listener
