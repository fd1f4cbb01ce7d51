"""Commands about routes: what was learned, what is told, what is in force, where a packet goes, and dry runs of policies."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import output, route_views
from gateway.cli.session import SETTINGS, Session, present

LARGEST_FILE = 1 << 20
policy = typer.Typer(help="Dry runs of BGP policies.", **SETTINGS)


def bgp_routes() -> None:
    """Learned paths, which is best and why. Example: gatewayctl bgp routes -o json"""
    snapshot = Session.client.status(all_routes=True)
    present(snapshot, "routes", snapshot["routes"], lambda: [route_views.bgp_routes(snapshot, Session.style.wide)])


def bgp_learned() -> None:
    """Accepted paths, with the columns of the cloud CLI. Example: gatewayctl bgp learned -o csv"""
    snapshot = Session.client.status(all_routes=True)
    accepted = [route for route in snapshot["routes"] if route.get("accepted", True)]
    shown = snapshot | {"routes": accepted}
    present(snapshot, "routes", accepted, lambda: [route_views.bgp_learned(shown, Session.style.wide)])


def bgp_advertised(
    peer: Annotated[
        str, typer.Option("--peer", metavar="NEIGHBOR", help="name or address; default all", show_default=False)
    ] = "",
) -> None:
    """What neighbors are told, and what is held back. Example: gatewayctl bgp advertised --peer route-server"""
    found = Session.client.advertised(peer)
    rows = found["advertised"]
    present(found, "advertised", rows, lambda: [route_views.advertised(rows, Session.style.wide)])


def routes() -> None:
    """Our tables: routes, guard and exceptions, with their state. -o wide shows the blackholes under routes, too.

    Example: gatewayctl routes -o wide
    """
    found = Session.client.table()
    present(found, "table", found["table"], lambda: [route_views.table(found["table"], Session.style.wide)])


def lookup(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="where to", show_default=False)],
    source: Annotated[str, typer.Option("--from", metavar="SOURCE", help="chooses the SA", show_default=False)] = "",
    instance: Annotated[str, typer.Option(help="in this routing instance", show_default=False)] = "",
) -> None:
    """Where a packet goes, by which SA, and why. Example: gatewayctl lookup 172.16.0.10 --from 10.1.0.4"""
    there = _address(address, "ADDRESS")
    here = _address(source, "--from") if source else None
    if here is not None and here.version != there.version:
        raise typer.BadParameter("of another family than ADDRESS", param_hint="--from")
    found = Session.client.lookup(str(there), str(here or ""), instance)
    if Session.style.form == "json":
        present(found, "lookup", found["lookup"], list)
    else:
        output.show_view([*route_views.lookup(found["lookup"])], Session.style)


@policy.command("test")
def policy_test(
    peer: Annotated[str, typer.Option("--peer", metavar="NEIGHBOR", help="name or address", show_default=False)],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="another configuration", show_default=False)
    ] = None,
    name: Annotated[
        str,
        typer.Option("--policy", metavar="NAME", help="a policy of FILE, else of the running one", show_default=False),
    ] = "",
    inward: Annotated[bool, typer.Option("--in", help="only what it teaches us")] = False,
    outward: Annotated[bool, typer.Option("--out", help="only what it is told")] = False,
) -> None:
    """What other policies would make of the routes there are; nothing is changed.

    Example: gatewayctl policy test new.toml --peer edge
    """
    if file is None and not name:
        raise typer.BadParameter("either FILE or --policy NAME")
    if inward == outward and name:
        raise typer.BadParameter("a policy is for one direction: --in or --out")
    direction = "both" if inward == outward else "in" if inward else "out"
    found = Session.client.policy_test(peer, direction, name, *_read(file))
    tried = found["policy_test"]
    present(found, "policy_test", tried, lambda: route_views.policy_test(tried, Session.style.form == "csv"))


def _read(file: Path | None) -> tuple[str, str] | tuple[()]:
    """Name and text. As another user's file it may be one the daemon cannot read."""
    if file is None:
        return ()
    try:
        with file.open("rb") as opened:
            octets = opened.read(LARGEST_FILE + 1)
        if len(octets) > LARGEST_FILE:
            raise typer.BadParameter(f"{file} is larger than 1 MiB")
        return str(file), octets.decode("utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{file} is not UTF-8") from error


def _address(text: str, where: str) -> route_views.Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no address", param_hint=where) from error
