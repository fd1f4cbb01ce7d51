"""A boto3 client that is marked like everything of ours that leaves by the main table, and asks no proxy.

boto3 is the extra `aws`. It finds its credentials itself: those of the instance's role by IMDSv2, or what its environment has.
Retries are the callers' business. What it says in an error is cut before it quotes what was signed, the session token with it.
"""

from __future__ import annotations

import importlib
import os
import socket
import threading
from dataclasses import dataclass
from typing import Any

from gateway.runtime.marking import mark_option

LONGEST_LINE = 300


@dataclass(frozen=True, slots=True)
class AwsAccess:
    """`endpoint_url` is for tests and private endpoints; without `region` AWS_DEFAULT_REGION counts, boto3 asks no instance for it; times in seconds."""

    service: str
    region: str = ""
    endpoint_url: str = ""
    mark: int | None = None
    connect_seconds: float = 3.0
    read_seconds: float = 10.0
    connections: int = 12


class AwsClient:
    """Made at the first call, in whatever thread asks, and again after `discard`."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access
        self._making = threading.Lock()
        self._client: Any = None

    def made(self) -> Any:
        """The client. ModuleNotFoundError without boto3; botocore's errors where it finds no region or credentials."""
        with self._making:
            if self._client is None:
                self._client = self._new()
            return self._client

    def discard(self) -> None:
        """A new client reads its credentials anew."""
        self._client = None

    def _new(self) -> Any:
        access = self._access
        boto3 = importlib.import_module("boto3")
        config = importlib.import_module("botocore.config").Config(
            connect_timeout=access.connect_seconds,
            read_timeout=access.read_seconds,
            retries={"total_max_attempts": 1},
            max_pool_connections=access.connections,
        )
        client = boto3.session.Session().client(
            access.service,
            region_name=access.region or None,
            endpoint_url=access.endpoint_url or None,
            config=config,
        )
        # boto3 has no way to mark its sockets, but lets others send: marked, without a proxy.
        options: list[tuple[int, int, int | bytes]] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        if access.mark is not None:
            options.append(mark_option(access.mark))
        sender = importlib.import_module("botocore.httpsession").URLLib3Session(
            verify=os.environ.get("AWS_CA_BUNDLE") or True,
            timeout=(access.connect_seconds, access.read_seconds),
            max_pool_connections=access.connections,
            socket_options=options,
        )
        client.meta.events.register(f"before-send.{access.service}", lambda request, **_: sender.send(request))
        return client


def missing(what: str) -> str:
    """The sentence for an installation without boto3."""
    return f"{what} of AWS need boto3, which is not installed: install gatewayd with the extra 'aws'"


def unable(error: Exception) -> str:
    """The sentence for what botocore lacks before it can ask anything: a region or credentials."""
    lacks_region = type(error).__name__ == "NoRegionError"
    fix = "set `region` in the same section" if lacks_region else "has the instance a role, and does IMDSv2 answer?"
    return f"{line(error)}; {fix}"


def line(error: Exception) -> str:
    """On one line, and no more than a line: AWS appends encoded reasons of thousands of letters, and of a request whose
    signature it refuses, all that should have been signed."""
    told = str(error).partition("The Canonical String")[0]
    return " ".join(told.split())[:LONGEST_LINE]
