"""The few requests gatewayctl makes, over the daemon's UNIX socket, with the standard library's HTTP client."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

DEFAULT_SOCKET = "/run/gatewayd/control.sock"
_PATIENCE = 10.0  # seconds for an answer, besides the time an operation itself may take
_LONG_PATIENCE = 60.0  # for ten thousand routes, and for a large file


class Unreachable(Exception):
    """No daemon, no permission, or something else that answers on the socket."""


class NotFound(Exception):
    """The daemon does not know the object."""


class Refusal(Exception):
    """The daemon may not do it."""


class TimedOut(Exception):
    """The operation did not finish in the time given."""


class Mistaken(Exception):
    """The configuration that was given has mistakes; str() has one a line."""


class Client:
    """One daemon. Each call is one connection."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path or os.environ.get("GATEWAYCTL_SOCKET") or DEFAULT_SOCKET

    def status(self, all_routes: bool = False) -> dict[str, Any]:
        """The snapshot, with a few BGP routes or all of them."""
        status, document = self._ask("GET", "/v1/status?routes=all" if all_routes else "/v1/status", None, _PATIENCE)
        if status != 200 or document.get("schema") != 1:
            raise Unreachable(document.get("text") or f"unexpected answer from {self._path} (status {status})")
        return document

    def trace(self, connection: str) -> list[dict[str, Any]]:
        """The last IKE messages of a connection, oldest first."""
        status, document = self._ask("GET", f"/v1/trace/{quote(connection, safe='')}", None, _PATIENCE)
        if status == 404:
            raise NotFound(str(document.get("text", f"no trace of {connection!r}")))
        if status != 200:
            raise Unreachable(document.get("text") or f"unexpected answer from {self._path} (status {status})")
        return list(document["lines"])

    def operate(self, verb: str, target: str, wait: float) -> tuple[bool, str]:
        """(success, sentence)."""
        return self._operation({"verb": verb, "target": target, "wait": wait}, wait)

    def drain(self, target: str, to: str) -> tuple[bool, str]:
        """(success, sentence)."""
        return self._operation({"verb": "drain", "target": target, "to": to}, 0.0)

    def forget(self, prefix: str, instance: str = "") -> tuple[bool, str]:
        """(success, sentence)."""
        where = {"instance": instance} if instance else {}
        return self._operation({"verb": "forget", "target": prefix, **where}, 0.0)

    def upgrade(self, program: str, wait: float) -> tuple[bool, str]:
        """(success, sentence)."""
        chosen = {"program": program} if program else {}
        return self._operation({"verb": "upgrade", **chosen}, wait)

    def guard(self) -> dict[str, Any]:
        """The prefixes that cannot leave in clear."""
        status, document = self._ask("GET", "/v1/guard", None, _PATIENCE)
        if status != 200:
            raise Unreachable(f"unexpected answer from {self._path} (status {status})")
        return document

    def advertised(self, peer: str) -> dict[str, Any]:
        """What a neighbor, or each of them, is told."""
        return self._question("/v1/advertised", {"peer": peer})

    def table(self) -> dict[str, Any]:
        """Every entry of the daemon's routing tables."""
        return self._question("/v1/table", {})

    def lookup(self, address: str, source: str, instance: str) -> dict[str, Any]:
        """The way to an address."""
        return self._question("/v1/lookup", {"address": address, "from": source, "instance": instance})

    def places(self, connection: str, keys: Iterable[str]) -> dict[str, Any]:
        """The lines of the daemon's configuration file that set these keys."""
        return self._question("/v1/places", {"connection": connection, "keys": ",".join(keys)})

    def policy_test(self, peer: str, direction: str, policy: str, file: str = "", text: str = "") -> dict[str, Any]:
        """What another file, or a policy by its name, would change."""
        given = {"file": file, "text": text} if file else {}
        body = json.dumps({"peer": peer, "direction": direction, "policy": policy, **given})
        return self._answered(*self._ask("POST", "/v1/policy-tests", body, _LONG_PATIENCE))

    def _question(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        given = urlencode({name: value for name, value in query.items() if value})
        return self._answered(*self._ask("GET", f"{path}?{given}", None, _LONG_PATIENCE))

    def _answered(self, status: int, document: dict[str, Any]) -> dict[str, Any]:
        if status == 404:
            raise NotFound(str(document.get("text", "")))
        if status == 422:
            raise Mistaken("\n".join(map(str, document.get("errors", ()))))
        if status != 200:
            raise Unreachable(document.get("text") or f"unexpected answer from {self._path} (status {status})")
        return document

    def _operation(self, request: dict[str, Any], wait: float) -> tuple[bool, str]:
        status, document = self._ask("POST", "/v1/operations", json.dumps(request), wait + _PATIENCE)
        text = str(document.get("text", ""))
        if status == 404:
            raise NotFound(text)
        if status == 504:
            raise TimedOut(text)
        if status != 200:
            raise Unreachable(text or f"unexpected answer from {self._path} (status {status})")
        return bool(document.get("ok")), text

    def disclose(self, kind: str, target: str, seconds: float, packets: int) -> Iterator[dict[str, Any]]:
        """Pieces as they come; the last one has `end`. Refused by the daemon: Refusal."""
        request = json.dumps({"kind": kind, "target": target, "for": seconds, "packets": packets})
        connection = _UnixConnection(self._path, seconds + _PATIENCE)
        try:
            with self._explained(seconds + _PATIENCE):
                connection.request("POST", "/v1/disclosures", request)
                response = connection.getresponse()
                if response.status != 200:
                    raise _REFUSALS.get(response.status, Unreachable)(str(json.loads(response.read()).get("text", "")))
                piece: dict[str, Any] = {}
                for line in response:
                    piece = json.loads(line)
                    yield piece
                if "end" not in piece:
                    raise Unreachable("gatewayd ended it early")
        finally:
            connection.close()

    def _ask(self, method: str, url: str, body: str | None, timeout: float) -> tuple[int, dict[str, Any]]:
        connection = _UnixConnection(self._path, timeout)
        try:
            with self._explained(timeout):
                connection.request(method, url, body)
                response = connection.getresponse()
                document = json.loads(response.read())
        finally:
            connection.close()
        if not isinstance(document, dict):
            raise Unreachable(f"no usable answer from {self._path}")
        return response.status, document

    @contextmanager
    def _explained(self, timeout: float) -> Iterator[None]:
        """What can go wrong on the way, as sentences."""
        try:
            yield
        except TimeoutError as error:
            raise TimedOut(f"gatewayd did not answer in {timeout:g} s") from error
        except PermissionError as error:
            raise Unreachable(f"not allowed to use {self._path}; run as root or as the daemon's user") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise Unreachable(
                f"gatewayd does not run, or its control socket is not {self._path} (see --socket)"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"no usable answer from {self._path}: {error}") from error


_REFUSALS: dict[int, type[Exception]] = {403: Refusal, 404: NotFound}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
