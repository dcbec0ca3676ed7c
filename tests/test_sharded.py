"""examples/sharded.py, with real senders: nothing is lost when a worker is replaced."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest

from loopback import HOST, PATIENCE_S, PlainPeer, needs_linux, until

pytestmark = [needs_linux, pytest.mark.kernel]
EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPT = (
    "import sys, sharded; sharded.LEAST_LIFE_S, sharded.PATIENCE_S = {}, {};"
    " sys.exit(sharded.main())"
)
WORKERS = 2
N = 50
SOURCES = 32  # all of them hash to one of two workers once in 2**31 runs


class Server:
    """The example, as a process, in a session of its own."""

    def __init__(
        self, *options: str, least_life_s: float = 0.0, patience_s: float = PATIENCE_S
    ) -> None:
        script = SCRIPT.format(least_life_s, patience_s)
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                script,
                HOST,
                "0",
                f"--workers={WORKERS}",
                *options,
            ],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), *sys.path])},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        host, port = self.process.stdout.readline().split()
        self.address = (host, int(port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE_S)

    def workers(self) -> list[int]:
        """Return the processes of the workers, the oldest first."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        return [int(each) for each in children.read_text(encoding="ascii").split()]

    def counts(self) -> list[tuple[int, int]]:
        """Wait for its end; return what each worker had in and out, by number of the shard."""
        said, _ = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0
        lines = sorted(re.findall(r"^shard (\d+): (\d+) in, (\d+) out$", said, re.MULTILINE))
        assert len(lines) == len(said.splitlines())
        return [(int(received), int(sent)) for _, received, sent in lines]


def numbers(n: int) -> list[bytes]:
    return [b"%d" % number for number in range(n)]


def test_every_source_is_answered_and_every_worker_answers() -> None:
    with Server() as server:
        for _ in range(SOURCES):
            with PlainPeer() as peer:
                peer.send(server.address, *numbers(3))
                assert peer.collect(3) == numbers(3)
        server.process.terminate()
        counts = server.counts()
    assert len(counts) == WORKERS
    assert all(received == sent > 0 for received, sent in counts)
    assert sum(sent for _, sent in counts) == 3 * SOURCES


def test_a_byte_of_the_payload_names_the_worker() -> None:
    with Server("--by=2") as server, PlainPeer() as peer:
        for value, n in ((0, 3), (1, 5), (2, 7)):  # 2 is 0 of two workers again
            for _ in range(n):
                peer.send(server.address, bytes([9, 9, value]))
                assert peer.collect(1) == [bytes([9, 9, value])]
        server.process.terminate()
        assert server.counts() == [(10, 10), (5, 5)]


def test_workers_are_replaced_under_traffic_without_loss() -> None:
    with Server() as server, PlainPeer() as peer:
        first = server.workers()
        server.process.send_signal(signal.SIGHUP)
        rounds = 0
        while set(first) & set(server.workers()) or len(server.workers()) < WORKERS:
            peer.send(server.address, *numbers(N))
            assert peer.collect(N) == numbers(N)
            rounds += 1
        os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does
        counts = server.counts()
    assert len(counts) == 2 * WORKERS
    assert sum(sent for _, sent in counts) == rounds * N


def test_what_comes_while_a_killed_worker_is_replaced_is_answered() -> None:
    with Server() as server, PlainPeer() as peer:
        os.kill(server.process.pid, signal.SIGSTOP)  # so that nobody is there meanwhile
        for worker in server.workers():
            os.kill(worker, signal.SIGKILL)
        until(lambda: all(is_dead(worker) for worker in server.workers()))
        peer.send(server.address, *numbers(N))
        os.kill(server.process.pid, signal.SIGCONT)
        assert peer.collect(N) == numbers(N)
        server.process.terminate()
        assert sum(sent for _, sent in server.counts()) == N


def is_dead(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:  # somebody has waited for it
        return True


def test_workers_end_with_a_parent_that_was_killed() -> None:
    with Server() as server, PlainPeer() as peer:
        peer.send(server.address, *numbers(N))
        assert peer.collect(N) == numbers(N)
        workers = server.workers()
        server.process.kill()
        until(lambda: all(is_dead(worker) for worker in workers))


def test_a_worker_that_dies_at_once_ends_all() -> None:
    with Server(least_life_s=1e9) as server:
        os.kill(server.workers()[0], signal.SIGKILL)
        assert server.process.wait(PATIENCE_S) == 1


@pytest.mark.slow
def test_a_worker_that_was_stopped_is_replaced_and_ended_all_the_same() -> None:
    with Server(patience_s=2.0) as server, PlainPeer() as peer:
        first = server.workers()
        os.kill(first[0], signal.SIGSTOP)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.workers()) == WORKERS and not set(first) & set(server.workers()))
        peer.send(server.address, *numbers(N))
        assert peer.collect(N) == numbers(N)
        for worker in server.workers():
            os.kill(worker, signal.SIGSTOP)
        server.process.terminate()
        assert len(server.counts()) == 1  # of the first two, the one that could tell it


def cores_of(number: int) -> set[int]:
    """Return the cores that are a worker's by their numbers."""
    return {core for core in os.sched_getaffinity(0) if core % WORKERS == number}


def test_by_cpu_a_worker_has_the_cores_of_its_number() -> None:
    expected = [cores_of(number) for number in range(WORKERS)]
    if set() in expected:
        pytest.skip(f"needs a core for each of {WORKERS} workers by its number")
    with Server("--by=cpu") as server:
        until(lambda: [os.sched_getaffinity(pid) for pid in server.workers()] == expected)
        server.process.terminate()
        assert len(server.counts()) == WORKERS


def test_by_hash_cores_are_taken_in_turn() -> None:
    cores = sorted(os.sched_getaffinity(0))
    expected = [{cores[number % len(cores)]} for number in range(WORKERS)]
    with Server() as server:
        until(lambda: [os.sched_getaffinity(pid) for pid in server.workers()] == expected)
        server.process.terminate()
        assert len(server.counts()) == WORKERS


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--by=cpu",), "--by cpu, 2 workers: shard {without} has none of the cores {core}: "),
        (("--by=cup",), "by 'cup', must be 'cpu', 'hash' or 0 to 65526"),
        (("--workers=0",), "--workers 0, at least 1"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(arguments: tuple[str], told: str) -> None:
    cores = os.sched_getaffinity(0)
    core = max(cores)
    os.sched_setaffinity(0, {core})  # all cores but one are missing
    try:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "sharded.py"), HOST, "0", "--workers=2", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    finally:
        os.sched_setaffinity(0, cores)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("sharded.py: error: " + told.format(core=core, without=1 - core % 2))
