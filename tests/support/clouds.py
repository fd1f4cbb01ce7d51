"""The clouds' servers as processes of their own, and how a test sets them up and looks into them."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from support.process import Process, wait_until

TESTS = Path(__file__).parents[1]
SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/net/providers/Microsoft.Network"


def table_id(name: str) -> str:
    return f"{SUBSCRIPTION}/routeTables/{name}"


def nic_id(name: str) -> str:
    return f"{SUBSCRIPTION}/networkInterfaces/{name}"


def public_id(name: str) -> str:
    return f"{SUBSCRIPTION}/publicIPAddresses/{name}"


def nic(first: str, *further: str, subnet: str = "gateways", public: str = "") -> dict[str, Any]:
    """A network interface; `public` goes with the first of the further addresses."""
    configurations = []
    for number, address in enumerate((first, *further)):
        properties: dict[str, Any] = {
            "privateIPAddress": address,
            "privateIPAllocationMethod": "Static",
            "primary": number == 0,
            "subnet": {"id": f"{SUBSCRIPTION}/virtualNetworks/hub/subnets/{subnet}"},
        }
        if public and number == 1:
            properties["publicIPAddress"] = {"id": public_id(public)}
        configurations.append({"name": "first" if number == 0 else f"shared-{number}", "properties": properties})
    return {
        "location": "westeurope",
        "tags": {"owner": "network"},
        "properties": {"enableIPForwarding": True, "ipConfigurations": configurations},
    }


class AzureServer:
    """`tests/clouds/azure.py` from outside."""

    def __init__(self, url: str, process: Process) -> None:
        self.url, self.process = url, process

    def admin(self, what: str, content: object) -> None:
        self._call("POST", what, content)

    def tables(self, **tables: dict[str, Any]) -> None:
        self.admin("tables", {table_id(name): table for name, table in tables.items()})

    def nics(self, **nics: dict[str, Any]) -> None:
        subnets = {"gateways": "10.0.1.0/24", "other": "10.0.2.0/24", "gateways6": "2001:db8:1::/64"}
        subnets |= {"lan": "10.1.4.0/24", "wan": "198.51.100.0/24"}
        self.admin("nics", {"subnets": subnets, "nics": {nic_id(name): content for name, content in nics.items()}})

    def nic(self, name: str) -> dict[str, Any]:
        return dict(self._call("GET", "nics")[nic_id(name).lower()])

    def addresses(self, name: str) -> dict[str, str]:
        """Of a network interface: each private address, and the public one that goes with it."""
        found = [one["properties"] for one in self.nic(name)["properties"]["ipConfigurations"]]
        return {
            one["privateIPAddress"]: one.get("publicIPAddress", {}).get("id", "").rpartition("/")[2] for one in found
        }

    def misbehave(self, *faults: dict[str, Any]) -> None:
        self.admin("faults", faults)

    def routes(self, name: str) -> dict[str, str]:
        """Of a table: the name of each route and where it leads."""
        routes = self._call("GET", "tables")[table_id(name).lower()]["properties"]["routes"]
        return {route["name"]: hop(route) for route in routes}

    def tags(self, name: str) -> dict[str, str]:
        return dict(self._call("GET", "tables")[table_id(name).lower()]["tags"])

    def tokens(self) -> list[str]:
        return list(self._call("GET", "tokens"))

    def log(self) -> list[dict[str, Any]]:
        return list(self._call("GET", "log"))

    def writes(self) -> list[dict[str, Any]]:
        return [entry for entry in self.log() if entry["method"] in ("PUT", "DELETE", "PATCH")]

    def _call(self, method: str, what: str, content: object = None) -> Any:
        return _admin(self.url, method, what, content)


def hop(route: dict[str, Any]) -> str:
    properties = route["properties"]
    return f"{properties['addressPrefix']} -> {properties.get('nextHopIpAddress') or properties['nextHopType']}"


def route(name: str, prefix: str, hop: str = "", kind: str = "VirtualAppliance") -> dict[str, Any]:
    properties = {"addressPrefix": prefix, "nextHopType": kind}
    return {"name": name, "properties": properties | ({"nextHopIpAddress": hop} if hop else {})}


class AwsServer:
    """`tests/clouds/aws.py` from outside; what a test sets up it says by boto3."""

    def __init__(self, url: str, process: Process) -> None:
        self.url, self.process = url, process
        self.client = self.service("ec2")

    def misbehave(self, *faults: dict[str, Any]) -> None:
        _admin(self.url, "POST", "faults", faults)

    def service(self, name: str) -> Any:
        """A client of a test's own."""
        return boto3.session.Session("test", "test", region_name="eu-central-1").client(name, endpoint_url=self.url)

    def actions(self) -> list[dict[str, str]]:
        return list(_admin(self.url, "GET", "log"))

    def forget(self) -> None:
        _admin(self.url, "POST", "forget-log", {})

    def routes(self, table: str) -> dict[str, str]:
        (found,) = self.client.describe_route_tables(RouteTableIds=[table])["RouteTables"]
        places = ("NetworkInterfaceId", "GatewayId")
        return {
            route.get("DestinationCidrBlock") or route["DestinationIpv6CidrBlock"]: next(route[name] for name in places if name in route)
            for route in found["Routes"]
        }  # fmt: skip

    def addresses(self, interface: str) -> list[str]:
        """Of a network interface, the first one first."""
        (found,) = self.client.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"]
        of4 = [one["PrivateIpAddress"] for one in found["PrivateIpAddresses"]]
        return of4 + [one["Ipv6Address"] for one in found.get("Ipv6Addresses", ())]

    def tags(self, table: str) -> dict[str, str]:
        (found,) = self.client.describe_route_tables(RouteTableIds=[table])["RouteTables"]
        return {tag["Key"]: tag["Value"] for tag in found["Tags"]}


class MetadataServer:
    """`tests/clouds/imds.py` from outside."""

    def __init__(self, url: str, process: Process) -> None:
        self.url, self.process = url, process

    def announce(self, **what: object) -> None:
        """`maintenance`, `spot`, `rebalance`: what IMDS answers there; without, that there is nothing."""
        _admin(self.url, "POST", "announce", announcement(**what))

    def misbehave(self, *faults: dict[str, Any]) -> None:
        _admin(self.url, "POST", "faults", faults)

    def log(self) -> list[str]:
        return list(_admin(self.url, "GET", "log"))


_PATHS = {
    "maintenance": "events/maintenance/scheduled",
    "spot": "spot/instance-action",
    "rebalance": "events/recommendations/rebalance",
}


def announcement(**what: object) -> dict[str, object]:
    """By the paths of IMDS."""
    return {_PATHS[name]: content for name, content in ({"maintenance": []} | what).items()}


@contextmanager
def imds(directory: Path) -> Iterator[MetadataServer]:
    with _server("imds", directory) as (url, process):
        yield MetadataServer(url, process)


@contextmanager
def azure(directory: Path) -> Iterator[AzureServer]:
    with _server("azure", directory) as (url, process):
        yield AzureServer(url, process)


@contextmanager
def aws(directory: Path) -> Iterator[AwsServer]:
    with _server("aws", directory) as (url, process):
        yield AwsServer(url, process)


@contextmanager
def _server(name: str, directory: Path) -> Iterator[tuple[str, Process]]:
    port_file = directory / f"{name}.port"
    argv = (sys.executable, "-m", f"clouds.{name}", str(port_file))
    process = Process(name, argv, directory / f"{name}.log", env={**os.environ, "PYTHONPATH": str(TESTS)})
    try:
        wait_until(lambda: port_file.exists() or not process.running, 30, f"the server of {name}", logs=[process])
        assert process.running, process.tail()
        yield f"http://127.0.0.1:{port_file.read_text()}", process
    finally:
        process.stop()


def marks_towards(url: str) -> list[int]:
    """SO_MARK of this process's connections to a server."""
    port = int(url.rpartition(":")[2])
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as connection:
                if connection.family == socket.AF_INET and connection.getpeername()[1] == port:
                    found.append(connection.getsockopt(socket.SOL_SOCKET, socket.SO_MARK))
        except OSError:
            continue  # closed meanwhile, or without a peer
    return found


def _admin(url: str, method: str, what: str, content: object = None) -> Any:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"{url}/admin/{what}", data, method=method)
    # A test's environment may name a proxy, to show that nobody asks it.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=10) as answer:
        return json.load(answer)
