"""Answers to the questions of `questions.py`, as documents for JSON. Of ten thousand routes only some are looked at in one go;
putting them in order and into text is not done on the loop."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.bgp import trial
from gateway.bgp.instance import Instance
from gateway.bgp.peer import Peer
from gateway.bgp.rib import REJECTED_KEPT
from gateway.bgp.settings import NeighborSettings
from gateway.config.load import load_text
from gateway.config.model import Config
from gateway.config.where import places
from gateway.node.bgp_settings import route_policies, speaker_settings
from gateway.observe.looking_glass import draw_advertised, draw_table, look_up, neighbors
from gateway.observe.snapshot import SCHEMA
from gateway.runtime import memory
from gateway.runtime.clock import boottime
from gateway.runtime.questions import Advertised, Lookup, NotThere, Places, PolicyTest, Question, Table, Unusable

if TYPE_CHECKING:
    from gateway.runtime.daemon import Daemon

AT_ONCE = 64
_UNSPECIFIED = {4: ip_address("0.0.0.0"), 6: ip_address("::")}
Row = TypeVar("Row")
Document = dict[str, Any]


async def answer(daemon: Daemon, question: Question) -> bytes:
    """As JSON. NotThere, Unusable."""
    with memory.uncollected():
        return await _answer(daemon, question)


async def _answer(daemon: Daemon, question: Question) -> bytes:
    match question:
        case Advertised(peer):
            chosen = neighbors(daemon.node, peer)
            if peer and not chosen:
                raise _no_neighbor(daemon, peer)
            told = [row async for one in _each(chosen) async for row in _in_pieces(draw_advertised(one))]
            return await _text(lambda: {"advertised": _ordered(told, lambda row: (row.instance, row.peer))})
        case Table():
            entries = [row async for row in _in_pieces(draw_table(daemon.node))]
            return await _text(lambda: {"table": _ordered(entries, lambda row: (row.instance, row.metric))})
        case Lookup(address, source, instance):
            if daemon.node.tables.get(instance) is None:
                named = ", ".join(name for name in daemon.node.tables if name)
                raise NotThere(f"no instance {instance!r}; there are: {named or 'none'}")
            found = look_up(daemon.node, address, source, instance)
            return await _text(lambda: {"lookup": asdict(found)})
        case Places(keys, connection):
            file = daemon.loaded.path
            return await _text(lambda: {"file": str(file), "places": _places(file, keys, connection)})
        case PolicyTest():
            tried = await _policy_test(daemon, question)
            return await _text(lambda: {"policy_test": _listed(tried)})


def _places(file: Path, keys: tuple[str, ...], connection: str) -> list[Document]:
    """In the file as it is now, which is what will be changed; none where it cannot be read."""
    try:
        source = file.read_text()
    except (OSError, UnicodeDecodeError):
        return []
    return [asdict(one) for one in places(source, keys, connection)]


async def _each(given: Sequence[Peer]) -> AsyncIterator[Peer]:
    for one in given:
        yield one


async def _in_pieces(rows: Iterator[Row]) -> AsyncIterator[Row]:
    """With a pause after every few: whoever else has something to do comes between."""
    for number, row in enumerate(rows, 1):
        yield row
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)


async def _text(document: Callable[[], Document]) -> bytes:
    taken_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    head = {"schema": SCHEMA, "now": boottime(), "taken_at": taken_at}
    return await asyncio.to_thread(lambda: json.dumps(head | document()).encode())


def _ordered(rows: list[Any], before: Callable[[Any], tuple[object, ...]]) -> list[Document]:
    """By family, prefix and the rest. The rows are given up: to forget ten thousand of them takes its time, too."""

    def key(row: Any) -> tuple[object, ...]:
        prefix = ip_network(row.prefix)
        return (prefix.version, int(prefix.network_address), prefix.prefixlen, *before(row))

    documents = [asdict(row) for row in sorted(rows, key=key)]
    rows.clear()
    return documents


def _no_neighbor(daemon: Daemon, name: str) -> NotThere:
    named = ", ".join(peer.name for peer in neighbors(daemon.node))
    return NotThere(f"no BGP neighbor {name!r}; there are: {named or 'none'}")


# --- a dry run ------------------------------------------------------------------------------------------------------


async def _policy_test(daemon: Daemon, test: PolicyTest) -> Document:
    found, speaker = neighbors(daemon.node, test.peer), daemon.node.speaker
    if not found or speaker is None:
        raise _no_neighbor(daemon, test.peer)
    peer = found[0]
    now = trial.Side(speaker.settings, peer.settings)
    then, warnings = await asyncio.to_thread(_on_trial, daemon.loaded.config, now, test)
    instance = speaker.instances[peer.settings.instance]
    directions = ("in", "out") if test.direction == "both" else (test.direction,)
    tried = {one: await _tried(one, instance, peer, now, then) for one in directions}
    return {
        "peer": peer.name,
        "address": str(peer.settings.address),
        "policies": {"in": _policies(now, then, "import_policy"), "out": _policies(now, then, "export_policy")},
        **tried,
        "notes": [*warnings, *_notes(peer, now, then, directions)],
    }


async def _tried(direction: str, instance: Instance, peer: Peer, now: trial.Side, then: trial.Side) -> Document:
    counts = dict.fromkeys(("same", "accepted", "rejected", "changed"), 0)
    found = Counter[str]()
    differing = []
    verdicts = (trial.imports if direction == "in" else trial.exports)(instance, peer, now, then)
    async for verdict in _in_pieces(verdicts):
        if verdict.outcome:
            found[verdict.outcome] += 1
        if verdict.outcome not in ("", "same"):
            differing.append(verdict)
    return {"counts": counts | found, "routes": differing}


def _listed(tried: Document) -> Document:
    """With the verdicts in order."""
    both = {one: tried[one] for one in ("in", "out") if one in tried}
    return tried | {one: part | {"routes": _ordered(part["routes"], lambda _: ())} for one, part in both.items()}


def _on_trial(running: Config, now: trial.Side, test: PolicyTest) -> tuple[trial.Side, list[str]]:
    """The settings to try, and what to warn of. Not on the loop: a large file takes a second."""
    config, side, warnings = running, now, list[str]()
    if test.text is not None:
        loaded = load_text(test.text, test.file)
        warnings = [str(one) for one in loaded.diagnostics]
        if loaded.config is None:
            raise Unusable(*warnings)
        config = loaded.config
        side = _of_file(config, now, test)
    if not test.policy:
        return side, warnings
    known = route_policies(config.bgp) if config.bgp is not None else {}
    if test.policy not in known:
        raise NotThere(f"no policy {test.policy!r}; there are: {', '.join(known) or 'none'}")
    policy = known[test.policy]
    if test.direction == "in":
        return replace(side, neighbor=replace(side.neighbor, import_policy=policy)), warnings
    return replace(side, neighbor=replace(side.neighbor, export_policy=policy)), warnings


def _of_file(config: Config, now: trial.Side, test: PolicyTest) -> trial.Side:
    """The neighbor as that file has it. Its secrets are not read, and our address towards a neighbor is the one of now."""
    wanted = now.neighbor
    known = {one.name: one.local_address for one in now.settings.neighbors}
    listed = config.bgp.neighbor if config.bgp is not None else {}
    # Of those we do not know nothing is asked, so any address will do
    sources = {name: known.get(name) or _UNSPECIFIED[one.address.version] for name, one in listed.items()}
    try:
        settings = speaker_settings(config, {}, sources)
    except ValueError as error:
        raise Unusable(f"{test.file}: {error}") from error
    candidates: tuple[NeighborSettings, ...] = settings.neighbors if settings is not None else ()
    by_name = next((one for one in candidates if one.name == wanted.name), None)
    chosen = by_name or next((one for one in candidates if one.address == wanted.address), None)
    if settings is None or chosen is None:
        named = ", ".join(one.name for one in candidates)
        raise NotThere(f"{test.file} has no neighbor {wanted.name} or {wanted.address}; there are: {named or 'none'}")
    return trial.Side(settings, chosen)


def _policies(now: trial.Side, then: trial.Side, place: str) -> Document:
    """The names of the policies compared, "" for none."""
    used = (getattr(side.neighbor, place) for side in (now, then))
    before, after = (policy.name if policy is not None else "" for policy in used)
    return {"now": before, "then": after}


_IDENTITY = ("address", "remote_as", "local_address", "connection", "instance")


def _notes(peer: Peer, now: trial.Side, then: trial.Side, directions: Sequence[str]) -> Iterator[str]:
    """What the comparison cannot know, or does not show."""
    others = [one for one in _IDENTITY if getattr(now.neighbor, one) != getattr(then.neighbor, one)]
    others += ["local_as"] if now.settings.local_as != then.settings.local_as else []
    if others:
        yield f"{peer.name} is also another neighbor there ({', '.join(others)}): its session would begin anew"
    if "in" not in directions:
        return
    if not peer.up:
        yield f"the session with {peer.name} is not up: only paths kept from it are judged"
    if len(peer.adj_in.entries) - peer.adj_in.accepted >= REJECTED_KEPT:
        yield f"of the paths {peer.name} taught us and that are rejected now only {REJECTED_KEPT} are kept and judged"
    if peer.discarded:
        yield f"{peer.discarded} announcements over max_prefixes were not kept and are not judged"
