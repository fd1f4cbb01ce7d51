"""Libreswan as the peer: pluto in a namespace, out of the tree `tools/debian-tree 13-libreswan`, driven by whack.

The kernel has no ESP. `xfrm_accepts.c`, preloaded into pluto, answers its netlink requests about SAs in the kernel's
place and writes down what it was given. So IKE is the real thing to the end (set-up, rekeys, liveness, deletes) and the
keys both ends derived can be compared; about packets in the tunnel nothing is proved.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from support.netns import Namespace
from support.process import Process, run, wait_until
from support.strongswan import Connection, programs_of

_LIBEXEC = "/usr/libexec/ipsec"
_SHIM = Path(__file__).with_name("xfrm_accepts.c")
_MESSAGE = struct.Struct("=IHHII")  # struct nlmsghdr
_SA_OCTETS = 224  # struct xfrm_usersa_info
_ATTRIBUTE = struct.Struct("=HH")
_KEY_OFFSETS = {1: 68, 2: 68, 18: 72, 20: 72}  # XFRMA_ALG_AUTH, _CRYPT, _AEAD, _AUTH_TRUNC: octets before the key


@dataclass(frozen=True, slots=True)
class KernelSa:
    """An SA as pluto gave it to the kernel; the keys of cipher (with salt) and integrity, as they follow each other."""

    spi: int
    destination: str
    encryption: bytes
    integrity: bytes


@dataclass(frozen=True, slots=True)
class Child:
    """One established CHILD_SA as whack lists it."""

    number: int
    spi_in: int
    spi_out: int


class Libreswan:
    """One pluto with its own NSS database, control socket and log. `esp` and `ike` in its words (`aes_gcm256-none-dh19`)."""

    def __init__(self, machine: Namespace, connection: Connection, *, ike: str, esp: str, settings: str = "") -> None:
        self.machine = machine
        self.connection = connection
        self.process: Process | None = None
        self._programs = programs_of("13-libreswan")
        self._home = machine.directory / "libreswan"
        (self._home / "nss").mkdir(parents=True)
        (self._home / "ipsec.conf").write_text(_ipsec_conf(self._home, connection, ike, esp, settings))
        secrets = self._home / "ipsec.secrets"
        secrets.touch(mode=0o600)
        secrets.write_text(f'@{connection.local_id} @{connection.remote_id} : PSK "{connection.psk}"\n')

    def start(self) -> None:
        """Start pluto and load the connection."""
        shim = self._home / "xfrm_accepts.so"
        run(
            ("gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o", str(shim), str(_SHIM))
        )
        self.machine.run(*self._programs, "ipsec", "initnss", "--nssdir", str(self._home / "nss"))
        environment = ("env", f"LD_PRELOAD={shim}", f"XFRM_ACCEPTED={self._home / 'accepted'}")
        pluto = (f"{_LIBEXEC}/pluto", "--config", str(self._home / "ipsec.conf"), "--nofork", "--stderrlog")
        self.process = self.machine.start("pluto", [*self._programs, *environment, *pluto])
        self.wait_log("loading secrets from", 10)
        # pluto loads its connections by a child of its own; asked again it says when they are there
        self._tool("addconn", "--config", str(self._home / "ipsec.conf"), self.connection.name)

    def initiate(self) -> None:
        self.whack("--initiate")

    def terminate(self) -> None:
        self.whack("--terminate")

    def rekey_child(self) -> None:
        """Rekey the CHILD_SA from this side and wait until a new one is established."""
        before = self.wait_child().number
        self.whack("--rekey-child")
        wait_until(lambda: self.wait_child().number > before, 10, "pluto: CHILD_SA rekeyed", logs=[self.process])

    def rekey_ike(self) -> None:
        """Rekey the IKE_SA from this side and wait until the new one is the only one."""
        before = self.ike_sas()
        self.whack("--rekey-ike")
        wait_until(
            lambda: len(self.ike_sas()) == 1 and self.ike_sas() != before,
            10,
            "pluto: IKE_SA rekeyed",
            logs=[self.process],
        )

    def ike_sas(self) -> list[int]:
        """The numbers of the established IKE_SAs."""
        return [int(number) for number in re.findall(r"^#(\d+): .* ESTABLISHED_IKE_SA", self._states(), re.MULTILINE)]

    def children(self) -> list[Child]:
        """The established CHILD_SAs, oldest first."""
        text = self._states()
        established = set(re.findall(r"^#(\d+): .* ESTABLISHED_CHILD_SA", text, re.MULTILINE))
        spis = re.findall(r'^#(\d+): "[^"]+" esp\.(\w+)@\S+ esp\.(\w+)@', text, re.MULTILINE)
        # pluto leaves leading zeros out
        return [
            Child(int(number), int(ours, 16), int(theirs, 16)) for number, theirs, ours in spis if number in established
        ]

    def wait_child(self, seconds: float = 10.0) -> Child:
        """The newest CHILD_SA."""
        return wait_until(self.children, seconds, "pluto has a CHILD_SA", logs=[self.process])[-1]

    def kernel_sas(self) -> dict[int, KernelSa]:
        """What pluto gave to the kernel, by SPI; the last message about an SPI counts."""
        return {sa.spi: sa for sa in _kernel_sas((self._home / "accepted").read_bytes())}

    def whack(self, *arguments: str) -> str:
        return self._tool("whack", "--name", self.connection.name, *arguments)

    def log(self) -> str:
        assert self.process is not None
        return self.process.log.read_text()

    def wait_log(self, words: str, seconds: float = 10.0) -> None:
        wait_until(lambda: words in self.log(), seconds, f"pluto says {words!r}", logs=[self.process])

    def _states(self) -> str:
        return self._tool("whack", "--showstates")

    def _tool(self, name: str, *arguments: str) -> str:
        return self.machine.run(*self._programs, f"{_LIBEXEC}/{name}", *arguments)


def _kernel_sas(data: bytes) -> list[KernelSa]:
    found = []
    while data:
        octets, *_ = _MESSAGE.unpack_from(data)
        found.append(_kernel_sa(data[_MESSAGE.size : octets]))
        data = data[octets:]
    return found


def _kernel_sa(body: bytes) -> KernelSa:
    """struct xfrm_usersa_info: the selector's 56 octets, then id: address, SPI; attributes after it."""
    family = body[56 + 16 + 4]
    address = body[56:72]
    destination = ipaddress.ip_address(address[:4] if family == 50 and not any(address[4:]) else address)
    keys, attributes = {"encryption": b"", "integrity": b""}, body[_SA_OCTETS:]
    while attributes:
        octets, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind in _KEY_OFFSETS:
            (bits,) = struct.unpack_from("=I", attributes, _ATTRIBUTE.size + 64)
            start = _ATTRIBUTE.size + _KEY_OFFSETS[kind]
            which = "integrity" if kind in (1, 20) else "encryption"
            keys[which] = attributes[start : start + bits // 8]
        attributes = attributes[(octets + 3) // 4 * 4 :]
    return KernelSa(int.from_bytes(body[72:76]), str(destination), **keys)


def _ipsec_conf(home: Path, c: Connection, ike: str, esp: str, settings: str) -> str:
    more = "".join(f"\t{line}\n" for line in settings.splitlines())
    return f"""config setup
\tnssdir={home}/nss
\tsecretsfile={home}/ipsec.secrets
conn {c.name}
\tleft={c.local}
\tleftid=@{c.local_id}
\tleftsubnet={c.local_ts}
\tright={c.remote}
\trightid=@{c.remote_id}
\trightsubnet={c.remote_ts}
\tauthby=secret
\tkeyexchange=ikev2
\tike={ike}
\tesp={esp}
\tmobike=no
\tauto=add
{more}"""
