"""Known answers for gateway/ike/keymat.py and authentication.py, out of strongSwan's own log.

    PYTHONPATH=.:tests python tests/vectors/generate_ike_keymat.py        (root; makes and removes two namespaces)

Two charons bring up an IKE_SA, rekey the CHILD_SA, the IKE_SA and the CHILD_SA again, at log levels that print the
Diffie-Hellman secret, SKEYSEED, every SK_*, the AUTH octets, the CHILD_SA's keys and each message sealed and in plain.
One file a suite goes to tests/vectors/ike_keymat/. Nothing of ours takes part: the answers are the peer's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ["LAB_CHARON_LEVEL"] = "4"

from support.netns import End, Lab  # noqa: E402: the level is read when charon's settings are written
from support.strongswan import Connection, Strongswan, log_of

TARGET = Path(__file__).parent / "ike_keymat"
LEFT, RIGHT = "198.51.100.1", "198.51.100.2"
PSK = "correct horse battery staple"

Names = dict[str, int | str]


@dataclass(frozen=True, slots=True)
class Suite:
    """What both charons are configured with, in their words and in ours (gateway/ike/proposal.py)."""

    proposals: str
    esp_proposals: str
    ike: Names
    esp: Names


SUITES = {
    "aes256gcm16-prfsha384-ecp384-pfs": Suite(
        "aes256gcm16-prfsha384-ecp384",
        "aes256gcm16-ecp256",
        {"encryption": "aes-gcm-16", "key_bits": 256, "prf": "sha384", "key_exchange": "ecp384"},
        {"encryption": "aes-gcm-16", "key_bits": 256, "key_exchange": "ecp256"},
    ),
    "aes128gcm16-prfsha256-x25519": Suite(
        "aes128gcm16-prfsha256-curve25519",
        "aes128gcm16",
        {"encryption": "aes-gcm-16", "key_bits": 128, "prf": "sha256", "key_exchange": "x25519"},
        {"encryption": "aes-gcm-16", "key_bits": 128},
    ),
    "chacha20poly1305-prfsha256-x25519-pfs": Suite(
        "chacha20poly1305-prfsha256-curve25519",
        "chacha20poly1305-curve25519",
        {"encryption": "chacha20-poly1305", "key_bits": 0, "prf": "sha256", "key_exchange": "x25519"},
        {"encryption": "chacha20-poly1305", "key_bits": 0, "key_exchange": "x25519"},
    ),
    "aes128gcm8-prfsha256-ecp256": Suite(
        "aes128gcm8-prfsha256-ecp256",
        "aes256gcm8",
        {"encryption": "aes-gcm-8", "key_bits": 128, "prf": "sha256", "key_exchange": "ecp256"},
        {"encryption": "aes-gcm-8", "key_bits": 256},
    ),
    "aes256gcm12-prfsha384-ecp384-pfs": Suite(
        "aes256gcm12-prfsha384-ecp384",
        "aes128gcm12-ecp384",
        {"encryption": "aes-gcm-12", "key_bits": 256, "prf": "sha384", "key_exchange": "ecp384"},
        {"encryption": "aes-gcm-12", "key_bits": 128, "key_exchange": "ecp384"},
    ),
    "aes256-sha256-modp2048": Suite(
        "aes256-sha256-modp2048",
        "aes256-sha256",
        {"encryption": "aes-cbc", "key_bits": 256, "integrity": "sha256", "prf": "sha256", "key_exchange": "modp2048"},
        {"encryption": "aes-cbc", "key_bits": 256, "integrity": "sha256"},
    ),
    "aes128-sha512-ecp521-pfs": Suite(
        "aes128-sha512-ecp521",
        "aes128-sha512-ecp521",
        {"encryption": "aes-cbc", "key_bits": 128, "integrity": "sha512", "prf": "sha512", "key_exchange": "ecp521"},
        {"encryption": "aes-cbc", "key_bits": 128, "integrity": "sha512", "key_exchange": "ecp521"},
    ),
    "aes256-sha384-prfsha1-ecp256-pfs": Suite(
        "aes256-sha384-prfsha1-ecp256",
        "aes256-sha384-modp2048",
        {"encryption": "aes-cbc", "key_bits": 256, "integrity": "sha384", "prf": "sha1", "key_exchange": "ecp256"},
        {"encryption": "aes-cbc", "key_bits": 256, "integrity": "sha384", "key_exchange": "modp2048"},
    ),
    "aes128-sha1-modp1024": Suite(
        "aes128-sha1-modp1024",
        "aes128-sha1",
        {"encryption": "aes-cbc", "key_bits": 128, "integrity": "sha1", "prf": "sha1", "key_exchange": "modp1024"},
        {"encryption": "aes-cbc", "key_bits": 128, "integrity": "sha1"},
    ),
}


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    for name, suite in SUITES.items():
        record = Transcript(suite).read(_run(suite))
        (TARGET / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        print(name, len(record["ike_sas"]), "IKE_SAs", len(record["child_sas"]), "CHILD_SAs")


def _run(suite: Suite) -> str:
    """The log of the charon that starts every exchange."""
    with Lab() as lab:
        left, right = lab.namespace("left"), lab.namespace("right")
        lab.link(End(left, "wan", (f"{LEFT}/24",)), End(right, "wan", (f"{RIGHT}/24",)))
        ours = Connection(
            "vectors", LEFT, RIGHT, PSK, LEFT, RIGHT, proposals=suite.proposals, esp_proposals=suite.esp_proposals
        )
        theirs = ours.with_(local=RIGHT, remote=LEFT, local_id=RIGHT, remote_id=LEFT)
        first, second = Strongswan(left, [ours]), Strongswan(right, [theirs])
        for machine in (left, right):
            settings = machine.directory / "strongswan" / "strongswan.conf"
            settings.write_text(settings.read_text().replace("chd = 4\n", "chd = 4\n      enc = 3\n"))
        first.start()
        second.start()
        first.initiate()
        first.wait_established()
        first.rekey_child()
        first.rekey_ike()
        first.rekey_child()
        first.stop()
        second.stop()
        return log_of(first).read_text(errors="replace")


_LINE = re.compile(r"\[(IKE|CHD|ENC)\] ?(.*)")
_CHUNK = re.compile(r"(.*?) ?=> (\d+) bytes @")
_DUMP = re.compile(r" *\d+: ((?:[0-9A-F]{2} ?){1,16}) ")


def _chunks(log: str) -> Iterator[tuple[str, bytes | None]]:
    """(label, octets) of every dump, the label being the line before it where the dump has none; text lines as (line, None)."""
    label, size, octets, previous = "", 0, b"", ""
    for line in log.splitlines():
        found = _LINE.search(line)
        if found is None:
            continue
        text = found[2]
        if size:
            row = _DUMP.match(text + "  ")
            assert row is not None, text
            octets += bytes.fromhex(row[1])[: size - len(octets)]
            if len(octets) == size:
                size = 0
                yield label, octets
            continue
        start = _CHUNK.match(text)
        if start is None:
            yield text, None
            previous = text
            continue
        label, size, octets = start[1].strip() or previous.strip(), int(start[2]), b""
        if not size:
            yield label, octets


@dataclass
class Transcript:
    """Follows the log and fills one record."""

    suite: Suite
    ni: bytes = b""
    nr: bytes = b""
    our_spi: bytes = b""
    peer_spi: bytes = b""
    shared: bytes = b""
    plain: bytes | None = None
    sealed: bytes | None = None
    parsing: str = ""
    pending: dict[str, str] = field(default_factory=dict)
    current: dict[str, object] = field(default_factory=dict)

    def read(self, log: str) -> dict[str, list[dict[str, object]]]:
        self.record: dict[str, list[dict[str, object]]] = {"ike_sas": [], "child_sas": []}
        for label, octets in _chunks(log):
            if octets is not None:
                self._chunk(label, octets)
            elif found := re.match(r"(?:parsing|generating) (?:payload of type )?([A-Z_0-9]+)", label):
                self.parsing = found[1]
        suite = {"proposals": self.suite.proposals, "psk": PSK, "ike": self.suite.ike, "esp": self.suite.esp}
        return {"source": "strongSwan 5.9.8, charon-systemd: the initiator's log", **suite, **self.record}  # type: ignore[dict-item]

    def _chunk(self, label: str, octets: bytes) -> None:
        match label:
            case "generated data for this payload" if self.parsing == "NONCE":
                self.ni = octets[4:]
            case "parsing payload from" if self.parsing == "NONCE":
                self.nr = octets[4 : int.from_bytes(octets[2:4], "big")]
            case "generating rule 7 SPI" if len(octets) == 8:
                self.our_spi = octets
            case "parsing rule 7 SPI" if len(octets) == 8:
                self.peer_spi = octets
            case "parsing payload from" if self.parsing == "HEADER":
                self._received(octets)
            case "plain":
                self._opened(octets)
            case "generated data of this generator" if self.plain is not None and _is_whole(octets):
                self._message(True, octets, self.plain)
                self.plain = None
            case _:
                self._key(label, octets)

    def _received(self, octets: bytes) -> None:
        if not self.record["ike_sas"]:
            self.our_spi, self.peer_spi = octets[:8], octets[8:16]
        self.sealed = octets if octets[16] == 46 else None

    def _opened(self, octets: bytes) -> None:
        if self.sealed is None:
            self.plain = octets
            return
        self._message(False, self.sealed, octets)
        self.sealed = None

    def _message(self, sent: bool, octets: bytes, plain: bytes) -> None:
        for sa in self.record["ike_sas"]:
            if octets[:16].hex() == f"{sa['initiator_spi']}{sa['responder_spi']}":
                sa["messages"].append({"sent": sent, "octets": octets.hex(), "plain": plain.hex()})  # type: ignore[attr-defined]

    def _key(self, label: str, octets: bytes) -> None:
        match label.split():
            case ["shared", "Diffie", "Hellman", "secret"] | ["DH", "secret"]:
                self.shared = octets
            case ["SKEYSEED"]:
                self.current = self._terms() | {
                    "initiator_spi": self.our_spi.hex(),
                    "responder_spi": self.peer_spi.hex(),
                }
                self.current |= {"skeyseed": octets.hex(), "messages": [], "auth": []}
                self.record["ike_sas"].append(self.current)
            case [name, "secret"] if name.startswith("Sk_"):
                self.current[name.lower()] = octets.hex()
            case ["IDx'"]:
                self.pending = {"identity": octets.hex()}
            case ["octets", "=", *_]:
                self.pending["octets"] = octets.hex()
            case ["AUTH", "=", *_]:
                self.current["auth"].append(self.pending | {"auth": octets.hex()})  # type: ignore[attr-defined]
            case ["seed"]:
                child = self._terms() | {"ike_sa": len(self.record["ike_sas"]) - 1}
                self.record["child_sas"].append(child)
            case [("encryption" | "integrity") as kind, ("initiator" | "responder") as side, "key"]:
                self.record["child_sas"][-1][f"{side}_{kind}"] = octets.hex()

    def _terms(self) -> dict[str, object]:
        """What a derivation starts from; a shared secret serves once."""
        shared, self.shared = self.shared, b""
        return {"shared": shared.hex(), "ni": self.ni.hex(), "nr": self.nr.hex()}


def _is_whole(octets: bytes) -> bool:
    return len(octets) > 28 and octets[16] == 46 and int.from_bytes(octets[24:28], "big") == len(octets)


if __name__ == "__main__":
    main()
