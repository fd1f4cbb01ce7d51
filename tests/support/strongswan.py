"""strongSwan as the peer: charon-systemd in a namespace with user-space ESP, driven by swanctl.

The kernel has no ESP, so `kernel-libipsec` (ESP in UDP 4500 through the TUN device ipsec0) must be loaded before
kernel-netlink. Routes are ours to make, not charon's: libipsec ignores `install_routes = no`, so the rule for its
table 220 asks for a mark that no packet carries. The tunnel address sits on ipsec0, BIRD has a neighbor on a connected
network there, and what BIRD learns points into ipsec0. Without a CHILD_SA libipsec drops what enters ipsec0, so the
peer fails closed while charon runs.

Interop: strongSwan 5.9.8 with libipsec offers no ESN, always encapsulates in UDP, and keeps a rekeyed SA for 5 s.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from support.netns import Namespace
from support.process import LabError, Process, run, wait_until
from support.vici_text import parse_events

PLUGINS = (
    "random nonce openssl pem pkcs1 x509 constraints pubkey hmac sha1 sha2 aes gcm kdf curve25519 "
    "kernel-libipsec kernel-netlink socket-default vici updown counters"
)
_TREES = Path(__file__).parents[2] / "build"
# The programs and libraries of another Debian in the place of the host's, for one process (merged /usr in both).
_FOREIGN_USR = 'mount --bind "$0" /usr && exec "$@"'


def programs_of(release: str) -> tuple[str, ...]:
    """What to put before a command so that it runs with the programs of that Debian release; "12" is the host itself.

    Mounts must be private to the process already.
    """
    if release == "12":
        return ()
    tree = _TREES / f"debian-{release}"
    assert (tree / ".made-of").exists(), f"no {tree}: tools/debian-tree {release} makes it"
    return ("sh", "-c", _FOREIGN_USR, str(tree / "usr"))


@dataclass(frozen=True, slots=True)
class Connection:
    """One swanctl connection with one child, `net`; times of 0 mean that this side never starts a rekey."""

    name: str
    local: str
    remote: str
    psk: str
    local_id: str
    remote_id: str
    proposals: str = "aes256gcm16-prfsha384-ecp384"
    esp_proposals: str = "aes256gcm16-ecp256"
    local_ts: str = "0.0.0.0/0"
    remote_ts: str = "0.0.0.0/0"
    start_action: str = "none"
    encap: bool = True
    mobike: bool = False
    rekey_time: float = 0
    child_rekey_time: float = 0
    dpd_delay: float = 5
    child: str = "net"
    extra: dict[str, str] = field(default_factory=dict)
    ppk: tuple[str, str] = ("", "")  # id and secret
    auth: tuple[str, str] = ("psk", "psk")  # of this side, of the other
    certs: dict[str, str] = field(
        default_factory=dict
    )  # files below SWANCTL_DIR: x509/end.pem, x509ca/root.pem, private/end.pem

    def with_(self, **changes: Any) -> Connection:
        """A copy with some parameters changed."""
        return replace(self, **changes)


class Strongswan:
    """One charon with its own configuration, VICI socket and log."""

    def __init__(
        self,
        machine: Namespace,
        connections: list[Connection],
        *,
        tunnel_address: str | None = None,
        tunnel_routes: Sequence[str] = (),
        settings: Sequence[str] = (),
        release: str = "12",
    ) -> None:
        self.machine = machine
        self.programs = programs_of(release)
        self.tunnel_routes = tuple(tunnel_routes)
        self.settings = tuple(settings)  # lines of strongswan.conf
        self.connections = connections
        self.tunnel_address = tunnel_address
        self.process: Process | None = None
        self._home = machine.directory / "strongswan"
        self._home.mkdir()
        self._vici = f"unix://{self._home}/vici"
        (self._home / "strongswan.conf").write_text(_daemon_settings(self._vici, self.settings))
        self.write()

    def write(self) -> None:
        """Write swanctl.conf from `connections`."""
        for connection in self.connections:
            for name, text in connection.certs.items():
                file = self._home / name
                file.parent.mkdir(exist_ok=True)
                file.write_text(text)
        target = self._home / "swanctl.conf"
        target.touch(mode=0o600)
        target.write_text(_swanctl_conf(self.connections))

    def start(self) -> None:
        """Start charon, give ipsec0 its address, load the connections."""
        (self._home / "vici").unlink(missing_ok=True)
        settings = {"STRONGSWAN_CONF": str(self._home / "strongswan.conf"), "SWANCTL_DIR": str(self._home)}
        # charon's UDP socket holds 30 ms of traffic: on a busy machine the peer must not be the one who loses packets
        command = [*self.programs, "nice", "-n", "-15", "charon-systemd"]
        self.process = self.machine.start("charon", command, env=settings)
        wait_until((self._home / "vici").exists, 10, "charon's VICI socket", logs=[self.process])
        wait_until(lambda: self.machine.ip_json("link", "show", "dev", "ipsec0"), 5, "ipsec0", logs=[self.process])
        if self.tunnel_address is not None:
            self.machine.batch(f"address add {self.tunnel_address} dev ipsec0")
        if self.tunnel_routes:
            self.machine.batch(*(f"route add {prefix} dev ipsec0" for prefix in self.tunnel_routes))
        self.load()

    def load(self) -> None:
        """(Re)load swanctl.conf."""
        self.swanctl("--load-all", "--noprompt", "--file", str(self._home / "swanctl.conf"))

    def kill(self) -> None:
        """kill -9, as a crash or a power cut would."""
        assert self.process is not None
        self.process.kill(signal.SIGKILL)

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def swanctl(self, command: str, *arguments: str, check: bool = True, timeout: float = 20.0) -> str:
        """One swanctl call; SWANCTL_DIR keeps it away from /etc/swanctl."""
        environment = ("env", f"SWANCTL_DIR={self._home}", f"STRONGSWAN_CONF={self._home}/strongswan.conf")
        own_mounts = ("unshare", "--mount") if self.programs else ()
        argv = (*own_mounts, *self.programs, *environment, "swanctl", command, "--uri", self._vici, *arguments)
        try:
            return run(argv, check=check, timeout=timeout)
        except LabError as error:
            log = self.process.tail() if self.process is not None else ""
            raise LabError(f"{error}\n{log}") from None

    def initiate(self, connection: Connection | None = None, timeout: float = 10.0) -> None:
        wanted = connection or self.connections[0]
        self.swanctl(
            "--initiate",
            "--ike",
            wanted.name,
            "--child",
            wanted.child,
            "--timeout",
            str(int(timeout)),
            timeout=timeout + 5,
        )

    def terminate(self, connection: Connection | None = None) -> None:
        self.swanctl("--terminate", "--ike", (connection or self.connections[0]).name)

    def sas(self) -> list[IkeSa]:
        """The IKE_SAs charon holds."""
        text = self.swanctl("--list-sas", "--raw", check=False)
        return [IkeSa.of(name, body) for event in parse_events(text, "list-sa") for name, body in event.items()]

    def established(self) -> IkeSa | None:
        """The one established IKE_SA with an installed CHILD_SA, or None."""
        usable = [sa for sa in self.sas() if sa.state == "ESTABLISHED" and sa.installed()]
        return usable[-1] if usable else None

    def wait_established(self, seconds: float = 10.0, *, logs: list[Process] | None = None) -> IkeSa:
        watched = [self.process, *(logs or [])]
        return _present(wait_until(self.established, seconds, "strongSwan has an IKE_SA and a CHILD_SA", logs=watched))

    def rekey_child(self, seconds: float = 10.0) -> None:
        """Rekey the CHILD_SA from this side and wait until a new one carries the traffic."""
        before = {child.spi_in for child in self.wait_established().children}
        self.swanctl("--rekey", "--child", self.connections[0].child)
        self._wait(lambda sa: any(child.spi_in not in before for child in sa.installed()), seconds, "CHILD_SA rekeyed")

    def rekey_ike(self, seconds: float = 10.0) -> None:
        """Rekey the IKE_SA from this side and wait until the new one stands."""
        before = self.wait_established().spis
        self.swanctl("--rekey", "--ike", self.connections[0].name)
        self._wait(lambda sa: sa.spis != before and len(self.sas()) == 1, seconds, "IKE_SA rekeyed")

    def _wait(self, condition: Callable[[IkeSa], bool], seconds: float, what: str) -> None:
        def met() -> bool:
            sa = self.established()
            return sa is not None and condition(sa)

        wait_until(met, seconds, f"strongSwan: {what}", logs=[self.process])


@dataclass(frozen=True, slots=True)
class ChildSa:
    """One CHILD_SA as charon lists it."""

    name: str
    state: str
    spi_in: str
    spi_out: str
    encap: bool
    suite: str
    group: str
    packets_in: int
    packets_out: int


@dataclass(frozen=True, slots=True)
class IkeSa:
    """One IKE_SA as charon lists it."""

    name: str
    state: str
    unique_id: int
    initiator: bool
    spis: tuple[str, str]
    local: str
    remote: str
    suite: str
    nat: tuple[str, ...]
    children: tuple[ChildSa, ...]

    def installed(self) -> list[ChildSa]:
        return [child for child in self.children if child.state == "INSTALLED"]

    @classmethod
    def of(cls, name: str, body: dict[str, Any]) -> IkeSa:
        suite = "/".join(
            str(body[key]) for key in ("encr-alg", "encr-keysize", "integ-alg", "prf-alg", "dh-group") if key in body
        )
        return cls(
            name=name,
            state=body["state"],
            unique_id=int(body["uniqueid"]),
            initiator=body.get("initiator") == "yes",
            spis=(body["initiator-spi"], body["responder-spi"]),
            local=f"{body.get('local-host')}:{body.get('local-port')}",
            remote=f"{body.get('remote-host')}:{body.get('remote-port')}",
            suite=suite,
            nat=tuple(key for key in ("nat-local", "nat-remote", "nat-fake", "nat-any") if body.get(key) == "yes"),
            children=tuple(_child(child) for child in body.get("child-sas", {}).values()),
        )


def _child(body: dict[str, Any]) -> ChildSa:
    suite = "/".join(str(body[key]) for key in ("encr-alg", "encr-keysize", "integ-alg") if key in body)
    return ChildSa(
        name=body["name"],
        state=body["state"],
        spi_in=body.get("spi-in", ""),
        spi_out=body.get("spi-out", ""),
        encap=body.get("encap") == "yes",
        suite=suite,
        group=body.get("dh-group", ""),
        packets_in=int(body.get("packets-in", 0)),
        packets_out=int(body.get("packets-out", 0)),
    )


def _present(value: IkeSa | None) -> IkeSa:
    assert value is not None
    return value


def _daemon_settings(vici: str, lines: Sequence[str]) -> str:
    """strongswan.conf: one setting a line; short retransmissions so that a dead peer is noticed within seconds."""
    level = os.environ.get("LAB_CHARON_LEVEL", "1")
    more = "\n".join(f"  {line}" for line in lines)
    return f"""charon-systemd {{
{more}
  load = {PLUGINS}
  install_virtual_ip = no
  retransmit_timeout = 1.0
  retransmit_base = 1.4
  retransmit_tries = 6
  filelog {{
    stderr {{
      default = 1
      ike = {level}
      chd = {level}
      flush_line = yes
      time_format = %H:%M:%S
      time_add_ms = yes
    }}
  }}
  plugins {{
    vici {{
      socket = {vici}
    }}
    kernel-libipsec {{
      allow_peer_ts = yes
    }}
    kernel-netlink {{
      fwmark = 0x4242
    }}
  }}
}}
"""


def _swanctl_conf(connections: list[Connection]) -> str:
    bodies = "".join(_connection(connection) for connection in connections)
    secrets = "".join(_secret(connection) for connection in connections)
    return f"connections {{\n{bodies}}}\nsecrets {{\n{secrets}}}\n"


def _secret(c: Connection) -> str:
    owners = f'    id-local = "{c.local_id}"\n    id-remote = "{c.remote_id}"\n'
    psk = f'  ike-{c.name} {{\n{owners}    secret = "{c.psk}"\n  }}\n'
    name, secret = c.ppk
    return psk + (f'  ppk-{c.name} {{\n    id = "{name}"\n    secret = "{secret}"\n  }}\n' if secret else "")


def _connection(c: Connection) -> str:
    extra = "".join(f"    {key} = {value}\n" for key, value in c.extra.items())
    shown = "      certs = end.pem\n" if "x509/end.pem" in c.certs else ""
    return f"""  {c.name} {{
    version = 2
    local_addrs = {c.local}
    remote_addrs = {c.remote}
    proposals = {c.proposals}
    mobike = {_word(c.mobike)}
    encap = {_word(c.encap)}
    dpd_delay = {c.dpd_delay:g}s
    rekey_time = {c.rekey_time:g}s
    over_time = 3600s
{extra}    local {{
      auth = {c.auth[0]}
      id = "{c.local_id}"
{shown}    }}
    remote {{
      auth = {c.auth[1]}
      id = "{c.remote_id}"
    }}
    children {{
      {c.child} {{
        local_ts = {c.local_ts}
        remote_ts = {c.remote_ts}
        esp_proposals = {c.esp_proposals}
        mode = tunnel
        start_action = {c.start_action}
        rekey_time = {c.child_rekey_time:g}s
        life_time = 0s
      }}
    }}
  }}
"""


def _word(flag: bool) -> str:
    return "yes" if flag else "no"


def log_of(charon: Strongswan) -> Path:
    """Where charon's log is."""
    assert charon.process is not None
    return charon.process.log
