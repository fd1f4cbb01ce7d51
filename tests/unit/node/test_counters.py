"""What a connection's children carried, over rekeys: nothing is lost between the last reading and an SA's removal."""

from __future__ import annotations

from simulation.doubles import SeededRandom

from gateway.config.load import load_text
from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction, SaCounters
from gateway.ike.events import ChildActivate, ChildInstall, ChildRemove
from gateway.ike.proposal import Choice
from gateway.ike.registry import EncryptionId
from gateway.node.settings import Secrets, build
from gateway.node.tunnel import Totals, Tunnel

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
TEXT = """
[connection.a]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.7"
psk.file = "x"
remote_ts = ["172.16.0.0/12"]
"""


def tunnel() -> Tunnel:
    loaded = load_text(TEXT)
    assert loaded.config is not None, loaded.diagnostics
    (settings,) = build(loaded.config, Secrets({"a": b"secret"})).tunnels
    return Tunnel(settings, SeededRandom("1"))


def installed(made: Tunnel, spi_in: int, spi_out: int) -> str:
    (child,) = made.settings.limits
    choice = Choice(EncryptionId.AES_GCM_16, 256)
    keys = (bytes(36), b"", bytes(36), b"")
    ends = {"local": Endpoint("10.0.1.4", 4500), "remote": Endpoint("198.51.100.7", 4500)}
    list(made.install(ChildInstall("a", child, spi_in, spi_out, choice, *keys, **ends), 1.0))
    list(made.activate(ChildActivate("a", child, spi_out)))
    return child


def did(packets: int) -> SaCounters:
    return SaCounters(packets, packets * 100, packets, 5.0)


def test_the_last_reading_of_a_removed_sa_counts() -> None:
    made = tunnel()
    child = installed(made, 0x1001, 0x2001)
    made.read({(IN, 0x1001): did(10), (OUT, 0x2001): did(20)})
    installed(made, 0x1002, 0x2002)
    list(made.remove(ChildRemove("a", child, 0, 0x2001)))
    assert made.totals(child, OUT) == Totals(20, 2000), "not less meanwhile"
    made.read({(OUT, 0x2001): did(23), (OUT, 0x2002): did(4)})
    assert made.totals(child, OUT) == Totals(27, 2700)
    list(made.remove(ChildRemove("a", child, 0x1001, 0)))
    made.read({(IN, 0x1001): did(10), (IN, 0x1002): did(1)})
    assert made.totals(child, IN) == Totals(11, 1100)
    assert made.counters.keys() == {(OUT, 0x2002), (IN, 0x1002)}, "what is gone is forgotten"


def test_a_removed_sa_that_is_not_read_again_keeps_what_was_read() -> None:
    made = tunnel()
    child = installed(made, 0x1001, 0x2001)
    made.read({(OUT, 0x2001): did(20)})
    list(made.remove(ChildRemove("a", child, 0x1001, 0x2001)))
    assert made.totals(child, OUT) == Totals(20, 2000)
    made.read({})
    assert made.totals(child, OUT) == Totals(20, 2000)
    assert made.counters == {}


def test_an_spi_the_peer_takes_again_counts_anew() -> None:
    made = tunnel()
    child = installed(made, 0x1001, 0x2001)
    made.read({(OUT, 0x2001): did(20)})
    list(made.remove(ChildRemove("a", child, 0x1001, 0x2001)))
    installed(made, 0x1002, 0x2001)
    made.read({(OUT, 0x2001): did(3)})
    assert made.totals(child, OUT) == Totals(23, 2300)
    assert made.counters == {(OUT, 0x2001): did(3)}
