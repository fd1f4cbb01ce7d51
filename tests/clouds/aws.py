"""AWS as moto plays it, in a process of its own, and a server that misbehaves when told to.

    python -m clouds.aws PORT_FILE

`POST /admin/faults` takes a list of {action, times, kind}: error (answer `code` with `status`), slow (done `seconds` late), late (done, and
answered `seconds` late), nonsense, reset (connection gone, nothing done), reset-after (done, then gone). An action is EC2's `Action`,
DynamoDB's operation, S3's GetObject or PutObject. `GET /admin/log` is the list of actions asked for.
"""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from clouds.aws_addresses import complete
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Respond = Callable[..., Any]
ERROR = "<?xml version='1.0'?><Response><Errors><Error><Code>{0}</Code><Message>on purpose</Message></Error></Errors></Response>"


class Misbehaving:
    def __init__(self, application: Any) -> None:
        self._application = application
        self._faults: list[dict[str, Any]] = []
        self._log: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()
        """moto looks at a condition and then writes, with nothing that keeps others from coming between."""

    def __call__(self, environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        if environ["PATH_INFO"].startswith("/admin/"):
            return self._admin(environ["PATH_INFO"], body, respond)
        asked = _asked(environ, body)
        fault = self._next_fault(asked)
        kind = fault.get("kind")
        if kind == "error":
            media, text = _error(environ, fault["code"], fault.get("message", "on purpose"))
            respond(f"{fault.get('status', 400)} on purpose", [("Content-Type", media)])
            return [text.encode()]
        if kind == "nonsense":
            respond("502 on purpose", [("Content-Type", "text/html")])
            return [b"<!doctype html><p>a proxy's page"]
        if kind == "slow":
            time.sleep(fault["seconds"])
        if kind == "reset":
            _cut(environ)
            return []
        with self._one_at_a_time:
            answer = list(self._application(environ, respond))
        if kind == "reset-after":
            _cut(environ)
            return []
        if kind == "late":
            time.sleep(fault["seconds"])
        return answer

    def _next_fault(self, asked: dict[str, str]) -> dict[str, Any]:
        with self._lock:
            self._log.append(asked)
            for fault in self._faults:
                if fault["times"] > 0 and fault["action"] == asked.get("Action"):
                    fault["times"] -= 1
                    return fault
        return {}

    def _admin(self, path: str, body: bytes, respond: Respond) -> Iterable[bytes]:
        with self._lock:
            answer: Any = {}
            if path == "/admin/faults":
                self._faults = json.loads(body)
            elif path == "/admin/forget-log":
                self._log.clear()
            elif path == "/admin/log":
                answer = self._log
            respond("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(answer).encode()]


def _asked(environ: dict[str, Any], body: bytes) -> dict[str, str]:
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return {"Action": target.rpartition(".")[2]}
    if _is_s3(environ):
        return {"Action": f"{environ['REQUEST_METHOD'].capitalize()}Object"}
    return {key: values[0] for key, values in parse_qs(body.decode()).items()}


def _is_s3(environ: dict[str, Any]) -> bool:
    return "/s3/aws4_request" in environ.get("HTTP_AUTHORIZATION", "")


def _error(environ: dict[str, Any], code: str, message: str) -> tuple[str, str]:
    """The media type, and the error as the service says it."""
    if "HTTP_X_AMZ_TARGET" in environ:
        error = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}
        return "application/x-amz-json-1.0", json.dumps(error)
    if _is_s3(environ):
        return "application/xml", f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return "text/xml", ERROR.format(code)


def _cut(environ: dict[str, Any]) -> None:
    """The server's own files still hold the connection, so it is ended rather than closed; what they write is lost."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


def serve(port_file: Path) -> None:
    complete()
    application = Misbehaving(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    ready = port_file.with_suffix(".new")
    ready.write_text(str(server.server_port))
    ready.rename(port_file)
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
