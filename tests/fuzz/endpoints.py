"""The whole endpoint as functions of octets: a moment of a recorded life, and what arrives instead of its datagram.

    | moment | kind | first payload | twist | content ...

    kind 0  the content as it is, from whoever: without the keys nothing that was authenticated may change
    kind 1  the content as payloads under the sender's own keys (in clear where there are none yet)
    kind 2  the same as one fragment: number and total, then the piece
    kind 3  the same in pieces, the last of them twice

The twist changes the header of kinds 1 to 3: exchange, message ID, flags, SPI. After each the endpoint is held to its bounds and
the two go on for two minutes, half of them in silence.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache

from fuzz.codecs import ROOT, SUB, fixed
from fuzz.mutation import INTERESTING, mutated, with_length
from fuzz.recorded import (
    Moment,
    arrive,
    authenticated_state,
    carry_on,
    copied,
    held_to_contract,
    plaintext_of,
    recording,
    resealed,
)
from fuzz.target import Target
from support.certified import CertifiedPair, trust
from support.ike_pair import CHILD, LEFT, NAME, RIGHT, Pair
from support.pki import ocsp_of, points_to

from gateway.ike.commands import Command, Drain, Initiate, Rekey, Terminate
from gateway.ike.errors import PeerError
from gateway.ike.events import IkeUp
from gateway.ike.message import HEADER_OCTETS, Header, emit_chain, emit_header, parse_chain
from gateway.ike.payloads import Notify, Payload, Unknown
from gateway.ike.proposal import make_offer
from gateway.ike.registry import ExchangeType, Flags, NotifyType, Protocol
from gateway.ike.settings import PostQuantumKey

AS_IT_IS, SEALED, FRAGMENT, PIECES = range(4)
EXCHANGES = (None, 34, 35, 36, 37, 43, 44, 250)
HEAD = 4

# --- lives ------------------------------------------------------------------------------------------------------------

Script = tuple[tuple[str, Command], ...]
WHOLE: Script = (
    ("left", Initiate(NAME)),
    ("left", Rekey(NAME, CHILD)),
    ("right", Rekey(NAME, CHILD)),
    ("right", Rekey(NAME)),
    ("left", Terminate(NAME, CHILD)),
    ("left", Terminate(NAME)),
)
HYBRID = make_offer(
    Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["x25519"], (), [(1, ["mlkem768"]), (2, ["ecp384"])]
)
HYBRID_CHILD = make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], ["ecp256"], [False], [(1, ["mlkem768"])])
CBC = make_offer(Protocol.IKE, [("aes-cbc", 256)], ["sha256"], ["sha256"], ["ecp256"])


def _certified() -> Pair:
    where = points_to(ocsp=["http://ca.example/ocsp"])
    left, right = (
        SUB.issue(name, key=fixed(name), serial=serial, extensions=where, ip=[address])
        for name, serial, address in (("left", 101, LEFT), ("right", 102, RIGHT))
    )
    pair = CertifiedPair(left, right, (ROOT,))
    for side in ("left", "right"):
        pair.settle_on(side, trust=trust(ROOT, SUB, revocation="relaxed"))
    answers = iter([ocsp_of(SUB, one.certificate) for one in (right, left)] * 4)
    pair.web = {"http://ca.example/ocsp": lambda _: next(answers, None)}
    return pair


def _drained() -> Pair:
    pair = Pair(redirect="follow")
    pair.configure(pair.right)
    return pair


LIVES: dict[str, tuple[Callable[[], Pair], Script]] = {
    "psk": (Pair, WHOLE),
    "cbc": (lambda: Pair(offers=(CBC,), encap=False), WHOLE[:1] + WHOLE[3:4]),
    "hybrid": (lambda: Pair(offers=(HYBRID,), esp=(HYBRID_CHILD,), fragment_size=600), WHOLE[:4]),
    "extras": (
        lambda: Pair(
            ppk=PostQuantumKey(b"ppk", bytes(32), required=False), mobike=True, childless=True, reauth_time=300.0
        ),
        WHOLE[:2] + WHOLE[3:4],
    ),
    "redirect": (_drained, (("left", Initiate(NAME)), ("right", Drain(NAME, "10.0.0.9")))),
    "certificates": (_certified, (("left", Initiate(NAME)), ("right", Terminate(NAME)))),
}


@cache
def life(name: str) -> tuple[Moment, ...]:
    make, script = LIVES[name]
    return tuple(recording(make(), script))


# --- one input ----------------------------------------------------------------------------------------------------------


def feed(name: str, data: bytes) -> float:
    """Gives the CPU time of what the datagrams themselves set off."""
    moments = life(name)
    head, content = data[:HEAD].ljust(HEAD, b"\0"), data[HEAD:]
    moment = moments[head[0] % len(moments)]
    world = copied(moment)
    before, established = authenticated_state(world.receiver), len(world.receiver.seen(IkeUp))
    kind = head[1] % 4
    datagrams = _datagrams(moment, kind, head[2], head[3], content)
    begin = time.process_time()
    for octets in datagrams:
        arrive(world, octets)
    taken = (time.process_time() - begin) / len(datagrams)
    held_to_contract(world)
    if kind == AS_IT_IS and moment.sealed and datagrams[0] != moment.flight.octets:
        assert authenticated_state(world.receiver) == before, "a stranger changed something"
        assert len(world.receiver.seen(IkeUp)) == established
    carry_on(world)
    return taken


def _datagrams(moment: Moment, kind: int, first: int, twist: int, content: bytes) -> list[bytes]:
    head = twisted(moment.flight.message.header, twist)
    if kind == AS_IT_IS:
        return [with_length(content) if twist & 1 else content]
    if not moment.sealed:
        return [emit_header(head, first, HEADER_OCTETS + len(content)) + content]
    if kind == SEALED:
        return [resealed(moment, first, content[:65000], head)]
    if kind == FRAGMENT:
        place = (content[0], content[1]) if len(content) > 1 else (0, 0)
        return [resealed(moment, first, content[2:], head, place)]
    size = max(1, -(-len(content) // 5))
    pieces = [content[at : at + size] for at in range(0, len(content), size)] or [b""]
    places = [(number, len(pieces)) for number in range(1, len(pieces) + 1)]
    order = [len(pieces) - 1, *range(len(pieces))]
    return [resealed(moment, first if not number else 0, pieces[number], head, places[number]) for number in order]


def twisted(head: Header, twist: int) -> Header:
    exchange, number = EXCHANGES[twist & 7], (0, 1, -1, None)[twist >> 3 & 3]
    flags = head.flags ^ (Flags.RESPONSE if twist & 0x20 else 0) ^ (Flags.INITIATOR if twist & 0x40 else 0)
    return replace(
        head,
        exchange=head.exchange if exchange is None else ExchangeType(exchange),
        message_id=0 if number is None else max(0, head.message_id + number),
        flags=Flags(flags),
        responder_spi=head.responder_spi ^ (twist >> 7),
    )


# --- what to begin from, and how to alter it ----------------------------------------------------------------------------


def seeds(name: str) -> Sequence[bytes]:
    found = []
    for number, moment in enumerate(life(name)):
        found.append(bytes([number, AS_IT_IS, 0, 1]) + moment.flight.octets)
        fragment = moment.flight.message.fragment
        if fragment is not None:
            first, piece = plaintext_of(moment)
            found.append(bytes([number, FRAGMENT, first, 0, fragment.number, fragment.total]) + piece)
            if fragment.number == 1:
                whole = b"".join(plaintext_of(one)[1] for one in life(name)[number : number + fragment.total])
                found += [bytes([number, kind, first, 0]) + whole for kind in (SEALED, PIECES)]
        elif moment.sealed:
            first, plaintext = plaintext_of(moment)
            found += [bytes([number, kind, first, 0]) + plaintext for kind in (SEALED, PIECES)]
        else:
            octets = moment.flight.octets
            found.append(bytes([number, SEALED, octets[16], 0]) + octets[HEADER_OCTETS:])
    return found


@cache
def pool() -> tuple[Payload, ...]:
    """Every payload that either side of any life sent, and notifications of every kind."""
    found: list[Payload] = [Notify(kind, b"\0\0\0\1") for kind in NotifyType]
    for name in LIVES:
        for seed in seeds(name):
            if seed[1] == SEALED:
                with suppress(PeerError):
                    found += parse_chain(seed[HEAD:], seed[2])
    return tuple(dict.fromkeys(found))


def altered(seed: bytes, chance: random.Random) -> bytes:
    """Its octets, its payloads, or its header."""
    head, content = bytearray(seed[:HEAD].ljust(HEAD, b"\0")), seed[HEAD:]
    lot = chance.random()
    if lot < 0.15:
        head[3] ^= 1 << chance.randrange(8)
        return bytes(head) + (mutated(content, chance) if chance.random() < 0.3 else content)
    if head[1] in (SEALED, PIECES) and lot < 0.6:
        with suppress(PeerError):
            first, chain = emit_chain(_rearranged(parse_chain(content, head[2]), chance))
            return bytes([head[0], head[1], first, head[3]]) + chain
    if lot > 0.97:
        head[2] = chance.randrange(256)
    return bytes(head) + mutated(content, chance)


def _rearranged(payloads: tuple[Payload, ...], chance: random.Random) -> tuple[Payload, ...]:
    """Grammatical pieces in ungrammatical numbers and places, and pieces whose framing holds but whose content does not."""
    found = list(payloads)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(found) + 1)
        match chance.randrange(5):
            case 0:
                del found[at : at + 1]
            case 1:
                found[at:at] = found[at : at + 1] * chance.choice((1, 1, 70))
            case 2:
                found.insert(at, chance.choice(pool()))
            case 3:
                chance.shuffle(found)
            case 4 if at < len(found):
                first, octets = emit_chain((found[at],))
                body = octets[4:]
                value = chance.choice(INTERESTING)
                body = value + body[len(value) :] if chance.random() < 0.3 else mutated(body, chance)
                found[at] = Unknown(body[:60000], first)
            case _:
                pass
    return tuple(found[:120])


def _target(name: str) -> Target:
    return Target(f"endpoint-{name}", lambda data: feed(name, data), lambda: seeds(name), altered, heavy=True)


TARGETS = tuple(_target(name) for name in LIVES)
