"""The processes of a comparison: built, pinned, told what to do, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
CEILING = ("ceiling.c", "child.c", "passing.c")
LIMIT_S = 90.0  # longer than the alarm that every child sets itself
# What ends one part of a comparison, and no more than that: a child that fails, hangs or answers
# nonsense, and a ratio to nothing.
FAILURES = (ArithmeticError, OSError, RuntimeError, ValueError, subprocess.SubprocessError)


def cores() -> tuple[int, int]:
    """Return a core for the sender and one for the receiver; the same one where there is one."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[0], cpus[1 % len(cpus)]


def build(directory: Path) -> list[str]:
    """Compile the ceiling and return the command that runs it."""
    program = str(directory / "ceiling")
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-pthread", "-o", program]
        + [str(HERE / name) for name in CEILING],
        check=True,
        timeout=120,
    )
    return [program]


@contextlib.contextmanager
def precedence() -> Iterator[None]:
    """Let this session go before others on the machine, where we may.

    Where sessions are groups for the scheduler (sched_autogroup), nice says nothing between them.
    """
    group = Path("/proc/self/autogroup")
    try:
        before = group.read_text(encoding="ascii").split()[-1]
        group.write_text("-20", encoding="ascii")
    except (OSError, IndexError):
        yield
        return
    try:
        yield
    finally:
        group.write_text(before, encoding="ascii")


def python(script: str, *arguments: object) -> list[str]:
    """Return the command that runs one of the scripts beside this file."""
    return [sys.executable, str(HERE / script), *map(str, arguments)]


def environment(host: str = "") -> dict[str, str]:
    """Return the environment of the children: they import the package of this tree.

    Args:
        host: The address that receivers bind to, where it is not that of loopback.
    """
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    # As a user has it: modules are compiled once, whatever this shell is set to.
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": path} | ({"BENCH_HOST": host} if host else {})


@contextlib.contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Let what is started run on one core, with all the threads that it will have.

    Who is pinned afterwards may have made some before, as Go does.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if cpu is None else {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Result:
    """What a child measured in answer to one command."""

    datagrams: int
    """All of them: what went out, or came in."""
    calls: int
    measured: int
    """Those while the clocks ran."""
    wrong: int
    seconds: float
    cpu: float

    @property
    def wall_ns(self) -> float:
        return self.seconds * 1e9 / max(1, self.measured)

    @property
    def cpu_ns(self) -> float:
        return self.cpu * 1e9 / max(1, self.measured)


class Process:
    """A child that answers each line on its stdin with a line of JSON; a context manager.

    Args:
        command: What is run.
        cpu: The core that it runs on.
        within: What stands before it: see paths.py; it executes the command in its own place.
        host: See ``environment``.
    """

    def __init__(
        self, command: list[str], cpu: int | None, within: tuple[str, ...] = (), host: str = ""
    ) -> None:
        self.name = " ".join(Path(part).name for part in command[:4])
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (__exit__ closes it)
        with pinned(cpu):
            self._process = subprocess.Popen(
                [*within, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment(host),
                text=True,
            )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def answer(self, timeout_s: float = LIMIT_S) -> dict[str, Any]:
        """Return the next answer; TimeoutError when there is none in time."""
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"{self.name}: no answer in {timeout_s} s") from None
        if not line:
            raise RuntimeError(f"{self.name}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        """Wait for the end; return the last line of stderr, or the status where there is none."""
        status = self._process.wait(timeout=5)
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return said[-1] if said else f"ended with status {status}"

    def ports(self) -> list[int]:
        """Return the first answer's."""
        ports: list[int] = self.answer()["ports"]
        return ports

    def ask(self, command: str) -> Result:
        self.tell(command)
        return Result(**self.answer())

    def resident(self) -> int:
        """Return its resident set, in bytes."""
        statm = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Return the CPU seconds that it says it has used."""
        self.tell("cpu")
        seconds: float = self.answer()["cpu"]
        return seconds

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it never read cannot be flushed
                pipe.close()
