"""The process ExaBGP runs as its API: carries lines between ExaBGP and the daemon's UNIX socket.

    ExaBGP -- stdin --> relay -- UNIX socket --> gatewayd      (events, answers)
    ExaBGP <-- stdout -- relay <-- UNIX socket -- gatewayd     (commands)

It exists because ExaBGP's writes block: whoever reads them slowly stops BGP. So stdin is always read, into a bounded
buffer; when that is full the link is dropped, and the daemon, on the next link, synchronises anew. Without a link,
what ExaBGP says is read and forgotten. ExaBGP says each route by itself; what comes within a moment is
carried together. It understands line ends, and `done` and `error`, of which ExaBGP prints one for
every command: a new link is made only when the commands of the old one are answered, or its answers would be
taken for those of the new one. Nobody listening for LONELY seconds, ExaBGP is without supervision, and perhaps
without a data plane: it is told to withdraw everything, and to end. It needs only the standard library, and imports
nothing of the gateway.

    bgp_relay.py SOCKET
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys
import time

BUFFER_LIMIT = 64 * 1024 * 1024
COMMAND_LIMIT = 1024 * 1024  # pending towards ExaBGP; the daemon's window keeps it far below
CHUNK = 256 * 1024
PIPE = 1024 * 1024  # what ExaBGP may write before it waits for us, if the kernel lets us
GATHER = 0.005  # before what comes next is read
# The same where that was an answer: commands wait for these, 50 at a time at most, which ExaBGP takes some 10 ms for
GATHER_ANSWERS = 0.001
BACKOFF = (0.05, 1.0)
ANSWERS = (b"done", b"error")
ANSWERS_WAIT = 10.0  # for the old link's answers
QUIET = 0.2  # a new relay does not know what was asked before it: so long nothing may come, or at most...
QUIET_WAIT = 3.0
LONELY = 20.0
LAST_WORDS = ((0.0, b"clear adj-rib out\n"), (3.0, b"shutdown\n"))  # seconds later, what
READ = select.POLLIN | select.POLLHUP | select.POLLERR


class Relay:
    """One loop over stdin, stdout and the link. What a link carries begins at the start of a line, both ways."""

    def __init__(self, path: str, stdin: int = 0, stdout: int = 1, buffer_limit: int = BUFFER_LIMIT) -> None:
        self.path = path
        self.stdin = stdin
        self.stdout = stdout
        self.buffer_limit = buffer_limit
        self.link: socket.socket | None = None
        self.retry_at = time.monotonic() + QUIET
        self.quiet_until = time.monotonic() + QUIET_WAIT
        self.backoff = BACKOFF[0]
        self.lonely_at = time.monotonic() + LONELY
        self.last_words = list(LAST_WORDS)
        self.unanswered = 0
        self.drain_until = 0.0  # no new link while commands are unanswered, until then
        self.gather = 0.0  # how long what was just read can wait for more
        self.line = b""  # read from stdin, without its end yet
        self.skip_line = False  # the link began inside a line, whose rest is not for it
        self.to_daemon = bytearray()
        self.to_exabgp = bytearray()
        self.partial = bytearray()  # of a command, up to its line end
        for descriptor in (stdin, stdout):
            os.set_blocking(descriptor, False)
        with contextlib.suppress(OSError):  # no pipe, or the user's pages for pipes are used up
            fcntl.fcntl(stdin, fcntl.F_SETPIPE_SZ, PIPE)

    def run(self) -> None:
        """Until stdin or stdout ends, which they do when ExaBGP ends."""
        while self.turn():
            pass

    def turn(self) -> bool:
        """One round; False when ExaBGP is gone."""
        if self.gather:
            time.sleep(self.gather)
            self.gather = 0.0
        now = time.monotonic()
        if self.link is None and self.last_words and now >= self.lonely_at + self.last_words[0][0]:
            self.to_exabgp += self.last_words.pop(0)[1]
            self.unanswered += 1
        if self.link is None and now >= self.retry_at:
            if self.unanswered and now < self.drain_until:
                self.retry_at = now + BACKOFF[0]
            else:
                self._connect()
        ready = self._wait()
        if self.link is not None and self.link.fileno() in ready:
            events = ready[self.link.fileno()]
            if events & select.POLLOUT:
                self._write_link()
            if self.link is not None and events & READ:
                self._read_link()
        try:
            if self.stdout in ready and not self._write_stdout(ready[self.stdout]):
                return False
            return self.stdin not in ready or self._read_stdin()
        except BlockingIOError:
            return True

    def _wait(self) -> dict[int, int]:
        poller = select.poll()
        poller.register(self.stdin, select.POLLIN)
        if self.to_exabgp:
            poller.register(self.stdout, select.POLLOUT)
        timeout = None
        if self.link is None:
            timeout = max(0.0, self.retry_at - time.monotonic()) * 1000 + 1
        else:
            wanted = select.POLLIN if len(self.to_exabgp) < COMMAND_LIMIT else 0
            poller.register(self.link.fileno(), wanted | (select.POLLOUT if self.to_daemon else 0))
        return dict(poller.poll(timeout))

    def _read_stdin(self) -> bool:
        data = os.read(self.stdin, CHUNK)
        if not data:
            return False
        *lines, self.line = (self.line + data).split(b"\n")
        answers = sum(line in ANSWERS for line in lines)
        self.unanswered = max(0, self.unanswered - answers)
        self.gather = GATHER_ANSWERS if answers else GATHER
        if self.link is None:
            if time.monotonic() < self.quiet_until:
                self.retry_at = min(time.monotonic() + QUIET, self.quiet_until)
            return True
        if self.skip_line:
            _, found, data = data.partition(b"\n")
            self.skip_line = not found
        self.to_daemon += data
        if len(self.to_daemon) > self.buffer_limit:
            self._drop()
        return True

    def _write_stdout(self, events: int) -> bool:
        if events & (select.POLLERR | select.POLLHUP):
            return False
        # at most what a pipe takes: a copy of the whole buffer for each write would be slow
        written = os.write(self.stdout, self.to_exabgp[:65536])
        del self.to_exabgp[:written]
        return True

    def _read_link(self) -> None:
        assert self.link is not None
        try:
            data = self.link.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop()
            return
        self.partial += data
        complete = self.partial.rfind(b"\n") + 1
        self.unanswered += self.partial.count(b"\n", 0, complete)
        self.to_exabgp += self.partial[:complete]
        del self.partial[:complete]

    def _write_link(self) -> None:
        assert self.link is not None
        try:
            written = self.link.send(self.to_daemon[:CHUNK])
        except BlockingIOError:
            return
        except OSError:
            self._drop()
            return
        del self.to_daemon[:written]

    def _connect(self) -> None:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(self.path)
        except OSError:
            link.close()
            self._later()
            return
        link.setblocking(False)
        self.link = link
        self.skip_line = bool(self.line)
        self.quiet_until = 0.0
        self.unanswered = 0
        self.backoff = BACKOFF[0]
        self.last_words = list(LAST_WORDS)

    def _drop(self) -> None:
        if self.link is not None:
            self.link.close()
        self.link = None
        self.to_daemon.clear()
        self.partial.clear()
        self.drain_until = time.monotonic() + ANSWERS_WAIT
        self.lonely_at = time.monotonic() + LONELY
        self._later()

    def _later(self) -> None:
        self.retry_at = time.monotonic() + self.backoff
        self.backoff = min(self.backoff * 2, BACKOFF[1])


if __name__ == "__main__":
    Relay(sys.argv[1]).run()
