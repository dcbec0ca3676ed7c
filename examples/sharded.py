"""An echo server in shards: a process a core, all on one port (SO_REUSEPORT).

    python examples/sharded.py 127.0.0.1 9000 --workers 2 --by hash

prints the address once all shards are there.  SIGHUP starts the workers anew, one after
another; SIGTERM and SIGINT end it; each worker tells then what it did.  One that does not end
when told is killed.  By cpu, a core belongs to the shard of its number modulo the workers.

The parent opens the sockets, which the workers inherit, and keeps them.  So a worker may
stop, or be killed, and what came meanwhile waits in the kernel for the next one; the shards
keep their numbers and their flows.  Lost is what a killed worker had taken out of the kernel
and not yet answered, and what finds its receive buffer full.  If the parent is killed, the
workers end too: they would keep a share of what comes to the port from the next server.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import Final

import batching

LINGER_S: Final = 0.1  # a worker that was told to stop answers what comes until then
PATIENCE_S: Final = 2.0  # and is killed then: it may have been stopped (SIGSTOP), or hang
LEAST_LIFE_S: Final = 1.0  # who dies sooner would do it again: then all is over
SIGNALS: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
FORK: Final = multiprocessing.get_context("fork")  # the sockets are inherited


class Shard:
    """A socket of the group, and the process that serves it."""

    def __init__(self, number: int, cores: list[int], conns: list[batching.Conn]) -> None:
        self.number, self._cores, self._conns = number, cores, conns
        self.start()

    def start(self) -> None:
        self._since = time.monotonic()
        self._process = FORK.Process(target=self._work, name=f"shard {self.number}")
        self._process.start()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    @property
    def is_hopeless(self) -> bool:
        """Whether it died as soon as it had started."""
        return not self.is_alive and time.monotonic() - self._since < LEAST_LIFE_S

    def tell(self) -> None:
        """Tell the process to stop, which it may take ``PATIENCE_S`` for."""
        self._end = time.monotonic() + PATIENCE_S
        self._process.terminate()

    def join(self) -> None:
        """Wait for the end of a process that was told."""
        self._process.join(max(0, self._end - time.monotonic()))
        if self.is_alive:
            print(f"shard {self.number}: killed, did not stop in {PATIENCE_S} s", file=sys.stderr)
            self._process.kill()
            self._process.join()

    def _work(self) -> None:
        """Answer, in a process of its own, until SIGTERM."""
        conn = self._conns[self.number]
        for other in self._conns:
            if other is not conn:
                other.close()  # the parent's stays open
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent tells us
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(
            signal.SIGTERM, lambda *_: conn.set_read_deadline(time.monotonic() + LINGER_S)
        )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # one that came early is there still
        threading.Thread(target=end_with_parent, daemon=True).start()
        os.sched_setaffinity(0, self._cores)
        with contextlib.suppress(TimeoutError):
            while True:
                answer(conn)
        stats = conn.stats()
        done = f"{stats.recv_datagrams} in, {stats.send_datagrams} out"
        print(f"shard {self.number}: {done}\n", end="", flush=True)  # one write: others do it too


def end_with_parent() -> None:
    """Wait for the end of the parent, then tell this process to stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def answer(conn: batching.Conn) -> None:
    """Serve one batch: here goes what a service does."""
    trains = conn.recv_segments()
    with contextlib.suppress(batching.SendError):  # a peer that cannot be reached
        conn.send_segments(trains)


def open_group(address: tuple[str, int], workers: int) -> list[batching.Conn]:
    """Return the sockets of one port, numbered as they join."""
    first = batching.open_conn(address, reuse_port=True)
    bound = (address[0], first.local_addr()[1])
    return [first, *[batching.open_conn(bound, reuse_port=True) for _ in range(workers - 1)]]


def share_cores(by: str | int, workers: int) -> list[list[int]]:
    """Return the cores of each shard, of those that this process may use.

    Raises:
        ValueError: By cpu, some shard has none, so that what it gets would cross cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if by != "cpu":
        return [[cores[number % len(cores)]] for number in range(workers)]
    shares = [[core for core in cores if core % workers == number] for number in range(workers)]
    if [] in shares:
        raise ValueError(
            f"--by cpu, {workers} workers: shard {shares.index([])} has none of the cores"
            f" {', '.join(map(str, cores))}: a core is that of its number modulo {workers}"
        )
    return shares


def serve(shards: list[Shard]) -> int:
    """Keep the shards alive until a signal ends it; return the exit status."""
    while True:
        number = signal.sigwait(SIGNALS)
        if number in (signal.SIGTERM, signal.SIGINT):
            return 0
        if number == signal.SIGHUP:
            for shard in shards:
                shard.tell()
                shard.join()
                shard.start()
        if any(shard.is_hopeless for shard in shards):
            return 1
        for shard in shards:
            if not shard.is_alive:
                shard.start()


def main() -> int:
    """Run the server."""
    parser = argparse.ArgumentParser(description="An echo server in shards.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--by", default="hash", help="hash, cpu, or an offset in the payload")
    chosen = parser.parse_args()
    if chosen.workers < 1:
        parser.error(f"--workers {chosen.workers}, at least 1")
    by = int(chosen.by) if chosen.by.isdecimal() else chosen.by
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # taken by sigwait
    with contextlib.ExitStack() as stack:
        try:
            cores = share_cores(by, chosen.workers)
            conns = open_group((chosen.host, chosen.port), chosen.workers)
            for conn in conns:
                stack.callback(conn.close)
            batching.steer(conns[0], by, members=chosen.workers if by != "hash" else None)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        shards = [Shard(number, own, conns) for number, own in enumerate(cores)]
        print(*conns[0].local_addr()[:2], flush=True)
        status = serve(shards)
        for shard in shards:
            shard.tell()
        for shard in shards:
            shard.join()
    return status


if __name__ == "__main__":
    sys.exit(main())
