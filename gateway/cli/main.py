"""The command tree of gatewayctl.

Exit codes: 0 done; 1 the asked-for object is down, or the command failed; 2 usage; 3 daemon unreachable; 4 not found;
5 timed out; 78 the configuration was refused (reload, policy test). `health --nagios` uses the plugin codes 0 to 3 instead.

Global options may stand anywhere on the line, and unambiguous beginnings of commands are accepted.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Generator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gateway import __version__
from gateway.cli import disclosures, fabric_views, ha_views, output, places, route_commands, views
from gateway.cli.client import Client, Mistaken, NotFound, Refusal, TimedOut, Unreachable
from gateway.cli.session import SETTINGS, Session, present
from gateway.config.units import parse_duration

DOWN, USAGE, UNREACHABLE, NOT_FOUND, TIMED_OUT, EX_CONFIG = 1, 2, 3, 4, 5, 78
_NAGIOS = {"OK": 0, "WARNING": 1, "CRITICAL": 2, "UNKNOWN": 3}
_CLEAR = "\x1b[H\x1b[2J"
LONGEST_DISCLOSURE, MOST_PACKETS = 3600.0, 100_000  # the daemon's limits

_FAILURES: dict[type[Exception], int] = {
    Unreachable: UNREACHABLE,
    NotFound: NOT_FOUND,
    TimedOut: TIMED_OUT,
    Mistaken: EX_CONFIG,
    output.NoTable: USAGE,
}

# Global options, and whether a value follows: `main` moves them to the front.
_GLOBAL = {"--socket": True, "-o": True, "--output": True, "--no-header": False, "--color": True}


class Form(StrEnum):
    table = "table"
    wide = "wide"
    json = "json"
    csv = "csv"


class Color(StrEnum):
    auto = "auto"
    always = "always"
    never = "never"


app = typer.Typer(
    name="gatewayctl", help="Shows and steers the gateway daemon.", pretty_exceptions_enable=False, **SETTINGS
)
bgp = typer.Typer(help="BGP peers and routes.", **SETTINGS)
app.add_typer(bgp, name="bgp")
guard = typer.Typer(help="Prefixes that cannot leave in clear.", **SETTINGS)
app.add_typer(guard, name="guard")
app.add_typer(route_commands.policy, name="policy")
ha = typer.Typer(help="The pair of gateways.", **SETTINGS | {"no_args_is_help": False})
app.add_typer(ha, name="ha")

Tunnel = Annotated[
    str, typer.Argument(metavar="[TUNNEL]", help="a configured connection; default all", show_default=False)
]
Target = Annotated[str, typer.Argument(metavar="TUNNEL[/CHILD]", help="a configured connection, or one child of it")]
Wait = Annotated[
    float, typer.Option("--wait", min=0, max=600, metavar="SECONDS", help="how long to wait for the outcome")
]


OneTunnel = Annotated[str, typer.Argument(metavar="TUNNEL", show_default=False)]
Duration = Annotated[str, typer.Option("--for", metavar="DURATION", help='such as "90s" or "5m"; at most an hour')]
KeyDirectory = Annotated[
    Path, typer.Option("--to", metavar="DIR", help="where the tables go; must not be there yet", show_default=False)
]
PacketFile = Annotated[Path, typer.Option("--to", metavar="FILE", help="must not exist yet", show_default=False)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = _globals_first(sys.argv[1:] if arguments is None else arguments)
    try:
        app(words, prog_name="gatewayctl")
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else int(finished.code is not None)
    except tuple(_FAILURES) as error:
        output.complain(str(error))
        return _FAILURES[type(error)]
    return 0


@app.callback()
def _options(
    socket: Annotated[
        str, typer.Option(envvar="GATEWAYCTL_SOCKET", metavar="PATH", help="the daemon's control socket")
    ] = "",
    form: Annotated[Form, typer.Option("-o", "--output", help="how to print")] = Form.table,
    no_header: Annotated[bool, typer.Option("--no-header", help="tables without their first line")] = False,
    color: Annotated[Color, typer.Option(help="auto: on a terminal, unless NO_COLOR is set")] = Color.auto,
) -> None:
    Session.client = Client(socket or None)
    Session.style = output.Style(form.value, not no_header, color.value)


@app.command()
def status(
    watch: Annotated[float, typer.Option("--watch", min=0, metavar="SECONDS", help="repeat until interrupted")] = 0,
) -> None:
    """One screen: tunnels, BGP peers, routes, the pair, last events. Example: gatewayctl status --watch 2"""
    _interruptible()
    _print_status()
    try:
        while watch:
            time.sleep(max(watch, 0.1))
            _print_status(clear=True)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command()
def sas(tunnel: Tunnel = "") -> None:
    """IKE_SAs and their CHILD_SAs. Example: gatewayctl sas azure-a -o wide"""
    snapshot = _snapshot(tunnel)
    chosen = _chosen(snapshot, tunnel)
    present(snapshot, "tunnels", chosen, lambda: views.sas(snapshot, tunnel, Session.style.wide))
    _finish(not tunnel or chosen[0]["up"])


@bgp.command("peers")
def bgp_peers() -> None:
    """BGP neighbors, with the columns of the cloud CLI. Example: gatewayctl bgp peers"""
    snapshot = _snapshot()
    present(snapshot, "peers", snapshot["peers"], lambda: [views.bgp_peers(snapshot, Session.style.wide)])


bgp.command("routes")(route_commands.bgp_routes)
bgp.command("learned")(route_commands.bgp_learned)
bgp.command("advertised")(route_commands.bgp_advertised)
app.command()(route_commands.routes)
app.command()(route_commands.lookup)


@guard.command("show")
def guard_show() -> None:
    """Prefixes protected by the configuration, and those learned in tunnels. Example: gatewayctl guard show"""
    found = Session.client.guard()
    if Session.style.form == "json":
        output.show_json(found)
        return
    output.show_view([views.guard(found)], Session.style)


@guard.command("forget")
def guard_forget(
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="a learned prefix", show_default=False)] = "",
    everything: Annotated[bool, typer.Option("--all", help="all learned prefixes")] = False,
    instance: Annotated[str, typer.Option(help="of this routing instance", show_default=False)] = "",
) -> None:
    """Ends the protection of what was learned in a tunnel and is no longer. Example: gatewayctl guard forget 10.9.0.0/16"""
    if bool(prefix) == everything:
        raise typer.BadParameter("either PREFIX or --all")
    _report(*Session.client.forget(prefix, instance))


@app.command()
def bfd() -> None:
    """BFD sessions with BGP neighbors, and probes of tunnels. Example: gatewayctl bfd -o wide"""
    snapshot = _snapshot()
    present(snapshot, "liveness", snapshot.get("liveness", []), lambda: [views.bfd(snapshot, Session.style.wide)])


@ha.callback(invoke_without_command=True)
def ha_show(context: typer.Context) -> None:
    """The pair: roles, health, lease, and why this gateway would or would not take over. Example: gatewayctl ha"""
    if context.invoked_subcommand is None:
        snapshot = _snapshot()
        present(snapshot, "ha", snapshot.get("ha") or {}, lambda: ha_views.ha(snapshot))


@ha.command("drain")
def ha_drain(wait: Wait = 10) -> None:
    """Hands over as soon as the other is ready, and does not take over again. Example: gatewayctl ha drain"""
    _operate("ha-drain", "", wait)


@ha.command("maintenance")
def ha_maintenance(wait: Wait = 10) -> None:
    """Hands over if the other is ready, else gives it up all the same. Example: gatewayctl ha maintenance"""
    _operate("ha-maintenance", "", wait)


@ha.command("resume")
def ha_resume() -> None:
    """Ends drain and maintenance, and forgives failures. Example: gatewayctl ha resume"""
    _operate("ha-resume", "", 0)


@app.command()
def failover(wait: Wait = 10) -> None:
    """Planned switchover, said to either gateway: the active one hands over. Example: gatewayctl failover"""
    _operate("ha-failover", "", wait)


@app.command()
def fabric() -> None:
    """The cloud's route tables and shared addresses: what leads here, is foreign, or was changed. Example: gatewayctl fabric -o wide"""
    snapshot = _snapshot()
    told = (snapshot.get("fabric") or {}) | ({"addresses": shared} if (shared := snapshot.get("addresses")) else {})
    present(snapshot, "fabric", told, lambda: fabric_views.fabric(snapshot, Session.style.wide))


@app.command()
def workers() -> None:
    """Data plane threads: CPU time, packets, burst sizes, queues. Example: gatewayctl workers -o wide"""
    snapshot = _snapshot()
    present(snapshot, "workers", snapshot.get("workers", []), lambda: [views.workers(snapshot, Session.style.wide)])


@app.command()
def initiate(target: Target, wait: Wait = 30) -> None:
    """Establishes a tunnel or a child. Example: gatewayctl initiate azure-a"""
    _operate("initiate", target, wait)


@app.command()
def terminate(target: Target, wait: Wait = 30) -> None:
    """Deletes a tunnel's IKE_SA, or one CHILD_SA. Example: gatewayctl terminate azure-a/net"""
    _operate("terminate", target, wait)


@app.command()
def rekey(target: Target, wait: Wait = 30) -> None:
    """Rekeys a tunnel's IKE_SA, or one CHILD_SA. Example: gatewayctl rekey azure-a --wait 10"""
    _operate("rekey", target, wait)


@app.command()
def drain(
    tunnel: Tunnel = "",
    to: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="the other gateway", show_default=False)] = "",
    end: Annotated[bool, typer.Option("--end", help="send nobody away any more")] = False,
) -> None:
    """Sends peers that initiate and can be redirected elsewhere. Example: gatewayctl drain azure-a --to 192.0.2.9"""
    if bool(to) == end:
        raise typer.BadParameter("either --to ADDRESS or --end")
    _report(*Session.client.drain(tunnel, to))


@app.command()
def reload(
    wait: Wait = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would happen to what runs")] = False,
) -> None:
    """Reads the configuration again. What did not change is not touched. Example: gatewayctl reload --dry-run"""
    _operate("plan" if dry_run else "reload", "", wait, failure=EX_CONFIG)


@app.command()
def upgrade(
    program: Annotated[
        Path | None, typer.Option(help="this one instead of the installed gatewayd; for root", show_default=False)
    ] = None,
    wait: Annotated[float, typer.Option(min=1, max=600, metavar="SECONDS", help="how long to wait for it")] = 100,
) -> None:
    """The installed program takes over from the running one; tunnels and BGP sessions stay. Example: gatewayctl upgrade"""
    _report(*Session.client.upgrade(str(program.absolute()) if program is not None else "", wait))


@app.command()
def health(nagios: Annotated[bool, typer.Option("--nagios", help="as a monitoring plugin")] = False) -> None:
    """Exit code 0 when the daemon is ready. The probe of containers and monitoring. Example: gatewayctl health --nagios"""
    if nagios:
        raise typer.Exit(_nagios())
    snapshot = _snapshot()
    critical, warning = views.faults(snapshot)
    present(
        snapshot, "health", {"ready": snapshot["ready"], "critical": critical, "warning": warning},
        lambda: ["; ".join((*critical, *warning)) or "ok"],
    )  # fmt: skip
    _finish(snapshot["ready"])


@app.command()
def explain(tunnel: Tunnel = "") -> None:
    """Why a tunnel is down, the fix, and the lines to change. Example: gatewayctl explain azure-b"""
    snapshot = _snapshot(tunnel)
    chosen = _chosen(snapshot, tunnel)
    found = places.found(Session.client, tunnel, chosen)
    keys = ("name", "up", "ike_state", "last_failure", "explanation")
    document = [{key: t[key] for key in keys} | {"places": found.get(t["name"], [])} for t in chosen]
    present(snapshot, "tunnels", document, lambda: views.explain(places.shown(snapshot, found), tunnel))
    _finish(all(t["up"] for t in chosen))


@app.command()
def trace(tunnel: OneTunnel) -> None:
    """The last IKE messages of a tunnel, decoded. Example: gatewayctl trace azure-b"""
    lines = Session.client.trace(tunnel)
    if Session.style.form == "json":
        output.show_json(lines)
    else:
        output.show_view(views.trace(lines), Session.style)


@app.command()
def keylog(tunnel: OneTunnel, to: KeyDirectory, duration: Duration = "5m") -> None:
    """A tunnel's keys for Wireshark, those of rekeys too. Example: gatewayctl keylog azure-a --for 5m --to keys"""
    seconds = _seconds(duration)
    pieces = Session.client.disclose("keylog", tunnel, seconds, MOST_PACKETS)
    _disclosed(disclosures.write_keys(pieces, to))


@app.command()
def capture(
    tunnel: OneTunnel,
    to: PacketFile,
    duration: Duration = "60s",
    packets: Annotated[int, typer.Option(min=1, max=MOST_PACKETS, help="at most so many")] = 10_000,
) -> None:
    """A tunnel's outer IKE and ESP packets. Example: gatewayctl capture azure-a --for 60s --to azure-a.pcapng"""
    pieces = Session.client.disclose("capture", tunnel, _seconds(duration), packets)
    _disclosed(disclosures.write_packets(pieces, to))


@app.command()
def version() -> None:
    """Versions of this tool and of the running daemon. Example: gatewayctl version"""
    try:
        snapshot = Session.client.status()
        daemon = {"gatewayd": snapshot["version"], "engine": snapshot["engine"]}
    except (Unreachable, TimedOut) as error:
        daemon = {"gatewayd": f"not reachable ({error})"}
    versions = {"gatewayctl": __version__, **daemon}
    if Session.style.form == "json":
        output.show_json(versions)
    else:
        output.show([f"{name} {value}" for name, value in versions.items()], Session.style)


def _seconds(duration: str) -> float:
    try:
        seconds = parse_duration(duration)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--for") from error
    if not 0 < seconds <= LONGEST_DISCLOSURE:
        raise typer.BadParameter("more than nothing, at most an hour", param_hint="--for")
    return seconds


def _interruptible() -> None:
    """Ends by SIGINT and SIGTERM alike, also where a shell has started us in the background with SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def _disclosed(sentences: Generator[str, None, None]) -> None:
    """Until the daemon says that it is over; Ctrl-C ends it there, too."""
    _interruptible()
    try:
        for sentence in sentences:
            output.show([sentence], Session.style)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except (Refusal, OSError) as error:
        output.complain(str(error))
        raise typer.Exit(DOWN) from None
    finally:
        sentences.close()


def _snapshot(tunnel: str = "") -> views.Json:
    snapshot = Session.client.status()
    names = [status["name"] for status in snapshot["tunnels"]]
    if tunnel and tunnel not in names:
        raise NotFound(f"no connection {tunnel!r}; there are: {', '.join(names) or 'none'}")
    return snapshot


def _chosen(snapshot: views.Json, tunnel: str) -> list[views.Json]:
    return [status for status in snapshot["tunnels"] if tunnel in ("", status["name"])]


def _print_status(clear: bool = False) -> None:
    snapshot = _snapshot()
    if clear:
        sys.stdout.write(_CLEAR if sys.stdout.isatty() else "\n")
    if Session.style.form == "json":
        output.show_json(snapshot)
    else:
        output.show_view(views.status(snapshot, Session.style.wide), Session.style)


def _operate(verb: str, target: str, wait: float, failure: int = DOWN) -> None:
    _report(*Session.client.operate(verb, target, wait), failure)


def _report(ok: bool, text: str, failure: int = DOWN) -> None:
    if Session.style.form == "json":
        output.show_json({"ok": ok, "text": text})
    elif ok:
        output.show(text.splitlines(), Session.style)
    else:
        output.complain(text)
    raise typer.Exit(0 if ok else failure)


def _finish(up: bool) -> None:
    raise typer.Exit(0 if up else DOWN)


def _nagios() -> int:
    """One line: STATE - what; more | performance data."""
    try:
        snapshot = _snapshot()
    except (Unreachable, TimedOut) as error:
        output.show([f"GATEWAY UNKNOWN - {error}"], output.Style())
        return _NAGIOS["UNKNOWN"]
    critical, warning = views.faults(snapshot)
    state = "CRITICAL" if critical else "WARNING" if warning else "OK"
    tunnels = snapshot["tunnels"]
    up = sum(tunnel["up"] for tunnel in tunnels)
    what = "; ".join((*critical, *warning)).replace("|", "/") or f"{up}/{len(tunnels)} tunnels up"
    output.show([f"GATEWAY {state} - {what} | tunnels_up={up};;;0;{len(tunnels)}"], output.Style(color="never"))
    return _NAGIOS[state]


def _globals_first(words: Sequence[str]) -> list[str]:
    """`gatewayctl status -o json` and `gatewayctl -o json status` are the same."""
    front: list[str] = []
    rest: list[str] = []
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if word == "--":
            return [*front, *rest, word, *pending]
        name, joined, _ = word.partition("=")
        if name not in _GLOBAL and not (word.startswith("-o") and not word.startswith("--")):
            rest.append(word)
            continue
        front.append(word)
        if _GLOBAL.get(word, False) and not joined and pending:
            front.append(pending.pop(0))
    return front + rest


if __name__ == "__main__":
    sys.exit(main())
