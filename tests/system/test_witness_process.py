"""gatewayd --witness as its users run it: what it grants, what it remembers, and what it does not let itself be talked into."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.process import wait_until
from support.witness import HOST, SECRET, Asker, WitnessDaemon, live, now, play

from gateway.contract import Transmit
from gateway.ha.message import Standing
from gateway.ha.witness import Acquire, Ask, Break, Granted, LeaseGranted, LeaseLost, LeaseRefused, Operation, Release
from gateway.ha.witness_link import Answered

pytestmark = pytest.mark.system
TTL = 0.4
CLUSTER = f'[cluster.pair]\nnumber = 7\nsecret.file = "secret-0"\nlongest_ttl = {TTL}\n'
Make = Callable[..., WitnessDaemon]
Ask_ = Callable[..., Asker]


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Make]:
    """Makes the witness of a test."""
    made: list[WitnessDaemon] = []

    def make(clusters: str = CLUSTER, **how: object) -> WitnessDaemon:
        made.append(WitnessDaemon(tmp_path, clusters, **how))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def asker(request: pytest.FixtureRequest) -> Ask_:
    def make(witness: WitnessDaemon, name: str, ttl: float = TTL, **how: object) -> Asker:
        made = Asker(witness, name, ttl, **how)  # type: ignore[arg-type]
        request.addfinalizer(made.close)
        return made

    return make


def held(witness: WitnessDaemon, asker: Ask_, ttl: float = TTL, **how: object) -> Asker:
    """Somebody who has it."""
    made = asker(witness, "gw-a", ttl, **how)
    made.command(Acquire(1))
    play([made], made.valid, 5 + ttl, "gw-a has the lease")
    return made


def stored(witness: WitnessDaemon, cluster: int = 7) -> dict[str, object]:
    found: dict[str, object] = json.loads((witness.state / f"cluster-{cluster}.json").read_text())
    return found


# --- the lease --------------------------------------------------------------------------------------------------------


def test_it_is_acquired_renewed_and_given_back_and_people_see_it(witness: Make, asker: Ask_):
    daemon = witness()
    daemon.start(watchdog=0.5)
    assert daemon.status() == "1 cluster, 0 leases held"
    a = held(daemon, asker)
    assert stored(daemon)["epoch"] == 1
    live([a], 3 * TTL, a.valid)
    assert a.told() == [LeaseGranted(1)]
    wait_until(lambda: daemon.status() == "1 cluster, 1 lease held (pair: gw-a, epoch 1)", 5, "its status")
    a.command(Release())
    play([a], lambda: a.lease.standing(now()) is Standing.FREE, 5, "it is free")
    wait_until(lambda: daemon.status() == "1 cluster, 0 leases held", 5, "its status")
    assert "WATCHDOG=1" in daemon.notified()
    log = daemon.log()
    assert "cluster pair: lease granted to gw-a as epoch 1" in log
    assert "cluster pair: the lease of gw-a, epoch 1, was given back" in log
    assert daemon.stop() == 0
    assert "STOPPING=1" in daemon.notified()
    assert "Traceback" not in daemon.log()


def test_the_one_who_waits_is_told_when_it_is_given_back(witness: Make, asker: Ask_):
    daemon = witness(CLUSTER.replace(str(TTL), "3.0"))
    daemon.start()
    a, b = held(daemon, asker, 3.0), asker(daemon, "gw-b", 3.0)
    b.command(Acquire(1))
    play([a, b], lambda: b.events, 5, "gw-b is refused")
    assert b.events == [LeaseRefused(1, "gw-a")]
    released_at = now()
    a.command(Release())
    play([a, b], b.valid, 5, "gw-b has the lease")
    assert b.granted() == [2]
    assert b.noticed_at
    assert b.granted_at[0] - released_at < 0.5, "gw-b itself would have asked a second later"


def test_the_one_who_waits_is_told_when_it_is_over(witness: Make, asker: Ask_):
    daemon = witness()
    daemon.start()
    a, b = held(daemon, asker), asker(daemon, "gw-b")
    b.command(Acquire(1))
    play([a, b], lambda: b.events, 5, "gw-b is refused")
    last = now()
    play([b], b.valid, 5, "gw-b has the lease")
    assert b.granted() == [2]
    assert b.noticed_at and b.noticed_at[0] <= b.granted_at[0]
    assert not a.valid()
    assert b.granted_at[0] < last + 2 * TTL
    text = "cluster pair: the lease of gw-a, epoch 1, is over: it was not renewed"
    wait_until(lambda: text in daemon.log(), 5, "people are told")


def test_never_do_two_have_it(witness: Make, asker: Ask_):
    """Both want it, and who has it falls silent or gives it back, again and again."""
    daemon = witness()
    daemon.start()
    both = [asker(daemon, "gw-a"), asker(daemon, "gw-b")]
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    for _ in range(12):
        for one in both:
            one.command(Acquire(1))
        play(both, lambda: any(one.valid() for one in both), 5, "one has it")
        assert sum(one.valid() for one in both) == 1, seed
        (holder,), (other,) = [[one for one in both if one.valid() is wanted] for wanted in (True, False)]
        if chance.random() < 0.5:
            holder.command(Release())
        live([other], chance.uniform(0, 1.5 * TTL), lambda: sum(one.valid() for one in both) <= 1)
    epochs = sorted(epoch for one in both for epoch in one.granted())
    assert len(epochs) == len(set(epochs)) >= 6, seed
    assert stored(daemon)["epoch"] == epochs[-1]


def test_a_lease_is_broken_only_where_that_is_allowed(witness: Make, asker: Ask_):
    other = CLUSTER.replace("pair", "other").replace("7", "8")
    daemon = witness(CLUSTER + "break_allowed = true\n" + other)
    daemon.start()
    a, b = held(daemon, asker), asker(daemon, "gw-b")
    b.command(Break(1))
    play([a, b], b.valid, 5, "gw-b took it")
    play([a, b], lambda: not a.valid(), 5, "gw-a knows")
    assert b.events == [LeaseGranted(2, broken=True)]
    assert a.told() == [LeaseGranted(1), LeaseLost("the witness gave the lease to gw-b as epoch 2")]
    assert "WARNING witness cluster pair: gw-b took the lease from gw-a before it was over" in daemon.log()
    a, b = held(daemon, asker, cluster=8), asker(daemon, "gw-b", cluster=8)
    b.command(Break(1))
    play([a, b], lambda: b.events, 5, "gw-b is refused")
    assert b.events == [LeaseRefused(1, "gw-a")] and a.valid()


# --- what it remembers ------------------------------------------------------------------------------------------------


def test_killed_and_restarted_it_grants_nothing_for_the_longest_ttl_and_then_a_higher_epoch(witness: Make, asker: Ask_):
    daemon = witness()
    daemon.start()
    a, b = held(daemon, asker), asker(daemon, "gw-b")
    a.close()
    restarted_at = daemon.restart()
    b.command(Acquire(1))
    play([b], b.valid, 5, "gw-b has the lease")
    assert b.granted() == [2]
    assert b.granted_at[0] >= restarted_at + TTL
    daemon.kill()
    play([b], lambda: not b.valid(), 5, "its lease is over")
    restarted_at = now()
    daemon.start()
    play([b], lambda: len(b.granted()) == 2 or b.command(Acquire(1)), 10, "gw-b has it again")
    assert b.granted() == [2, 3]
    assert b.granted_at[1] >= restarted_at + TTL


def test_over_a_restart_the_holder_keeps_it(witness: Make, asker: Ask_):
    daemon = witness(CLUSTER.replace(str(TTL), "5.0"))
    daemon.start()
    a, b = held(daemon, asker, 5.0), asker(daemon, "gw-b", 5.0)
    b.command(Acquire(1))
    restarted_at = daemon.restart()
    play([a, b], lambda: now() + (a.lease.remaining(now()) or 0) > restarted_at + 5.0, 5, "gw-a's lease was renewed")
    assert a.told() == [LeaseGranted(1)]
    assert not b.granted()
    wait_until(lambda: "cluster pair: the lease of gw-a, epoch 1, goes on" in daemon.log(), 5, "people are told")
    a.command(Release())
    live([a, b], 1.0, lambda: not b.valid())


def test_a_shorter_ttl_is_no_shortcut_to_a_lease_of_before(witness: Make, asker: Ask_):
    daemon = witness(CLUSTER.replace(str(TTL), "3.0"))
    daemon.start()
    held(daemon, asker, 3.0)
    daemon.configure(CLUSTER)
    restarted_at = daemon.restart()
    b = asker(daemon, "gw-b")
    b.command(Acquire(1))
    play([b], b.valid, 10, "gw-b has the lease")
    assert b.granted_at[0] >= restarted_at + 3.0
    assert stored(daemon)["longest_ttl"] == TTL


def test_a_longer_ttl_is_on_disk_before_anybody_can_get_it(witness: Make, asker: Ask_):
    daemon = witness()
    daemon.start()
    held(daemon, asker)
    daemon.configure(CLUSTER.replace(str(TTL), "3.0"))
    daemon.restart()
    assert (stored(daemon)["epoch"], stored(daemon)["longest_ttl"]) == (1, 3.0)


def test_a_record_that_cannot_be_believed_is_named_and_nothing_is_granted(witness: Make, asker: Ask_):
    daemon = witness()
    daemon.start()
    held(daemon, asker)
    daemon.kill()
    file = daemon.state / "cluster-7.json"
    text = file.read_text()
    file.write_text(text.replace('"epoch": 1', '"epoch": 0'))
    daemon.start(wait=False)
    assert daemon.process is not None and daemon.process.wait(20) == 1
    assert "READY=1" not in daemon.notified()
    assert f"ERROR witness cannot start: {file} cannot be read (damaged)" in daemon.log().splitlines()[-1]
    assert "Traceback" not in daemon.log()
    file.write_text(text)
    daemon.start()


def test_two_do_not_share_a_state_directory(witness: Make, tmp_path: Path):
    daemon = witness()
    daemon.start()
    (tmp_path / "second").mkdir()
    second = WitnessDaemon(tmp_path / "second", CLUSTER)
    second.state = daemon.state
    second.configure(CLUSTER)
    try:
        second.start(wait=False)
        assert second.process is not None and second.process.wait(20) == 1
        assert f"another witness uses {daemon.state}" in second.log()
    finally:
        second.close()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_a_full_disk_grants_nothing_and_is_said_once_until_there_is_room(witness: Make, asker: Ask_):
    daemon = witness()
    daemon.state.mkdir()
    mounted = f'mount -t tmpfs -o size=64k none {daemon.state} && exec "$@"'
    daemon.start(wrapper=("unshare", "-m", "sh", "-c", mounted, "sh"))
    assert daemon.process is not None
    inside = Path(f"/proc/{daemon.process.pid}/root{daemon.state}")
    a = held(daemon, asker)
    filler = inside / "filler"
    fill(filler)
    live([a], 3 * TTL, a.valid)
    assert a.told() == [LeaseGranted(1)], "to renew takes no room"
    a.command(Release())
    play([a], lambda: a.lease.standing(now()) is Standing.FREE, 5, "it was given back")
    b = asker(daemon, "gw-b")
    b.command(Acquire(1))
    play([b], lambda: b.lease.problem, 5, "gw-b is told")
    assert b.lease.problem == "the witness's disk: No space left on device"
    live([b], 5 * TTL, lambda: not b.valid())
    assert json.loads((inside / "cluster-7.json").read_text())["epoch"] == 1
    wait_until(lambda: daemon.status() == "1 cluster, 0 leases held, 1 record CANNOT BE WRITTEN", 5, "its status")
    filler.unlink()
    play([b], b.valid, 5, "gw-b has it as soon as there is room")
    assert b.granted() == [2]
    assert json.loads((inside / "cluster-7.json").read_text())["epoch"] == 2
    assert daemon.log().count("No space left on device") == 1
    assert "its record can be written again" in daemon.log()


def test_a_disk_that_does_not_answer_is_told_and_holds_up_nobody_else(witness: Make, asker: Ask_):
    """A FIFO in the place of the file that is written: to open it waits for a reader."""
    daemon = witness(CLUSTER + CLUSTER.replace("pair", "second").replace("7", "8"))
    daemon.start()
    a = held(daemon, asker)
    stuck = daemon.state / "cluster-8.json.new"
    os.mkfifo(stuck)
    b = asker(daemon, "gw-b", cluster=8)
    b.command(Acquire(1))
    told = "cluster second: the disk has not written its record for 2 s"
    play([a, b], lambda: told in daemon.log(), 10, "people are told")
    assert a.told() == [LeaseGranted(1)] and not b.granted()
    reader = os.open(stuck, os.O_RDONLY | os.O_NONBLOCK)
    stuck.unlink()
    play([a, b], b.valid, 5, "gw-b has it when the disk answers")
    os.close(reader)
    assert a.told() == [LeaseGranted(1)]


def fill(path: Path) -> None:
    """Until nothing more fits; OSError is what is wanted."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


# --- who is heard -----------------------------------------------------------------------------------------------------


def test_who_has_another_secret_is_not_answered_and_people_are_told(witness: Make, asker: Ask_):
    daemon = witness()
    daemon.start()
    a, stranger = held(daemon, asker), asker(daemon, "gw-x", secret="incorrect horse battery staple")
    stranger.command(Acquire(1))
    live([a, stranger], 3 * TTL, a.valid)
    assert not stranger.answered_from
    assert stranger.lease.problem == "the witness does not answer"
    assert daemon.log().count("datagrams that are not authentic, the last one from 127.0.0.1") == 1, (
        "it asked more often"
    )
    assert SECRET not in daemon.log()


def test_ten_thousand_datagrams_of_garbage_leave_it_alive_and_as_large_as_it_was(witness: Make, asker: Ask_):
    daemon = witness()
    daemon.start()
    a = held(daemon, asker)
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind((HOST, 0))

        def pour(count: int) -> None:
            for number in range(count):
                stranger.sendto(garbage(chance, a.sent), (HOST, daemon.port))
                if number % 50 == 0:
                    live([a], 0.01, a.valid)

        pour(1000)
        before = daemon.resident()
        pour(10_000)
        live([a], TTL, a.valid)
        after = daemon.resident()
    assert a.told() == [LeaseGranted(1)], f"seed {seed}"
    assert daemon.process is not None and daemon.process.running
    assert after - before < 1 << 20, f"{after - before} octets more, seed {seed}"
    assert "Traceback" not in daemon.log()
    assert len(daemon.log().splitlines()) < 10


def garbage(chance: random.Random, real: list[bytes]) -> bytes:
    """Noise, noise behind a good header, real requests that were changed, cut, or are only old."""
    request = chance.choice(real)
    kind = chance.randrange(5)
    if kind == 0:
        return chance.randbytes(chance.randrange(0, 700))
    if kind == 1:
        return request[:12] + chance.randbytes(chance.randrange(0, 480))
    if kind == 2:
        return request[: chance.randrange(len(request))]
    if kind == 3:
        at = chance.randrange(len(request))
        return request[:at] + bytes([request[at] ^ 1 << chance.randrange(8)]) + request[at + 1 :]
    return request


def test_each_cluster_has_its_own_lease_and_its_own_secret(witness: Make, asker: Ask_):
    second = '[cluster.second]\nnumber = 8\nsecret.file = "secret-1"\nlongest_ttl = 0.4\n'
    daemon = witness(CLUSTER + second, secrets=(SECRET, "another horse, another battery"))
    daemon.start()
    a = held(daemon, asker)
    b = asker(daemon, "gw-b", cluster=8, secret="another horse, another battery")
    wrong = asker(daemon, "gw-c", cluster=8)
    b.command(Acquire(5))
    wrong.command(Acquire(1))
    play([a, b, wrong], b.valid, 5, "gw-b has the lease of its cluster")
    live([a, b, wrong], 2 * TTL, lambda: a.valid() and b.valid())
    assert (a.granted(), b.granted(), wrong.events) == ([1], [5], [])
    assert (stored(daemon)["epoch"], stored(daemon, 8)["epoch"]) == (1, 5)
    status = "2 clusters, 2 leases held (pair: gw-a, epoch 1; second: gw-b, epoch 5)"
    wait_until(lambda: daemon.status() == status, 5, "its status")


def test_a_secret_is_changed_step_by_step_and_nobody_loses_the_lease(witness: Make, asker: Ask_):
    """As the reference says: here, at the gateways, the other way round here; each step is a restart of one."""
    fresh, ttl = "a new horse for the battery", 5.0
    clusters = CLUSTER.replace(str(TTL), str(ttl))
    daemon = witness(clusters, secrets=(SECRET, fresh))
    daemon.start()
    a = held(daemon, asker, ttl)
    daemon.configure(clusters + 'older_secrets = [{ file = "secret-1" }]\n')
    daemon.restart()
    play([a], lambda: (a.lease.remaining(now()) or 0) > ttl - 1, 5, "who has the old one is still heard")
    b = asker(daemon, "gw-b", ttl, secret=fresh, older=(SECRET,))
    b.command(Acquire(1))
    play([a, b], lambda: b.events, 5, "who has both is heard")
    daemon.configure(clusters.replace("secret-0", "secret-1") + 'older_secrets = [{ file = "secret-0" }]\n')
    daemon.restart()
    play([a, b], lambda: b.lease.standing(now()) is Standing.OTHER and not b.lease.problem, 5, "the other way round")
    assert a.valid()
    daemon.configure(clusters.replace("secret-0", "secret-1"))
    daemon.restart()
    only_new = asker(daemon, "gw-c", ttl, secret=fresh)
    only_new.command(Acquire(1))
    play([only_new], lambda: only_new.events, 5, "who has the new one alone is heard")
    assert only_new.events == [LeaseRefused(1, "gw-a")]


# --- where it listens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "asked"), [("0.0.0.0", ("127.0.0.2", "127.0.0.1")), ("::", ("127.0.0.2", "::1")), ("::1", ("::1",))]
)
def test_an_answer_comes_from_the_address_that_was_asked(
    witness: Make, asker: Ask_, address: str, asked: tuple[str, ...]
):
    daemon = witness(address=address)
    daemon.start()
    for host in asked:
        a = held(daemon, asker, host=host)
        assert a.answered_from == {host}
        a.command(Release())
        play([a], lambda a=a: a.lease.standing(now()) is Standing.FREE, 5, "it is free")  # type: ignore[misc]


def test_a_taken_port_and_a_foreign_address_are_one_sentence_each(witness: Make):
    daemon = witness()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((HOST, daemon.port))
        daemon.start(wait=False)
        assert daemon.process is not None and daemon.process.wait(20) == 1
    assert daemon.log().count("\n") == 1
    assert f"cannot start: witness 127.0.0.1:{daemon.port}: Address already in use" in daemon.log()
    daemon.address = "192.0.2.1"
    daemon.configure(CLUSTER)
    daemon.start(wait=False)
    assert daemon.process.wait(20) == 1
    assert "the address is not on this host: correct witness.address" in daemon.log().splitlines()[-1]


def test_what_is_wrong_in_the_file_is_78_with_its_line_and_a_hang_up_reads_nothing(witness: Make):
    daemon = witness(CLUSTER.replace("longest_ttl", "longest_tll"))
    daemon.start(wait=False)
    assert daemon.process is not None and daemon.process.wait(20) == 78
    assert "witness.toml:8:1: cluster.pair.longest_tll: unknown key 'longest_tll'; did you mean" in daemon.log()
    daemon.configure(CLUSTER)
    daemon.start()
    daemon.process.signal(signal.SIGHUP)
    wait_until(lambda: "nothing is read again while the witness runs" in daemon.log(), 5, "it says so")
    assert daemon.process.running


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_what_an_answer_takes(witness: Make, asker: Ask_, capsys: pytest.CaptureFixture[str]):
    """On loopback; an ACQUIRE is on disk before its answer."""
    daemon = witness(CLUSTER.replace(str(TTL), "2.0"))
    daemon.start()
    a = asker(daemon, "gw-a", 2.0)
    times: dict[Operation, list[float]] = {Operation.ACQUIRE: [], Operation.RENEW: [], Operation.RELEASE: []}
    play([a], lambda: a.lease.standing(now()) is Standing.FREE, 5, "it grants")
    a.socket.setblocking(True)
    a.socket.settimeout(5)
    for epoch in range(1, 201):
        for operation, took in times.items():
            took.append(asked(a, operation, epoch))
    said = [
        f"{operation.name} {statistics.median(took) * 1e3:.2f} ({min(took) * 1e3:.2f} to {max(took) * 1e3:.2f})"
        for operation, took in times.items()
    ]
    with capsys.disabled():
        print(f" [ms, median and range of 200: {', '.join(said)}] ", end="")
    assert stored(daemon)["epoch"] == 200
    assert statistics.median(times[Operation.RENEW]) < 0.02
    assert statistics.median(times[Operation.ACQUIRE]) < 0.2


def asked(asker: Asker, operation: Operation, epoch: int) -> float:
    """Seconds until the answer to one question, past the lease."""
    asker.link.ask(Ask(1_000_000, operation, epoch, 2.0))
    began = time.monotonic()
    while True:
        for out in list(asker.link.poll()):
            if isinstance(out, Transmit):
                asker.socket.sendto(out.data, tuple(asker.remote))
            elif isinstance(out, Answered):
                assert operation is Operation.RELEASE or out.answer == Granted(epoch, 2.0)
                return time.monotonic() - began
        asker.link.receive(asker.socket.recv(2048))
