"""The processes of a comparison: built, pinned, told what to do, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
LIMIT_S = 90.0  # longer than the alarm that every child sets itself


def cores() -> tuple[int, int]:
    """Return a core for the sender and one for the receiver; the same one where there is one."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[0], cpus[1 % len(cpus)]


def build(directory: Path) -> list[str]:
    """Compile the ceiling and return the command that runs it."""
    program = directory / "ceiling"
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-o", program, HERE / "ceiling.c"],
        check=True,
        timeout=120,
    )
    return [str(program)]


def python(script: str, *arguments: object) -> list[str]:
    """Return the command that runs one of the scripts beside this file."""
    return [sys.executable, str(HERE / script), *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return the environment of the children: they import the package of this tree."""
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    # As a user has it: modules are compiled once, whatever this shell is set to.
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": path}


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
    """A child that answers each line on its stdin with a line of JSON; a context manager."""

    def __init__(self, command: list[str], cpu: int | None) -> None:
        self.name = " ".join(Path(part).name for part in command[:4])
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True
        )
        if cpu is not None:
            os.sched_setaffinity(self._process.pid, {cpu})
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
            raise RuntimeError(f"{self.name}: ended with status {self._process.wait(timeout=5)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ports(self) -> list[int]:
        """Return the first answer's."""
        ports: list[int] = self.answer()["ports"]
        return ports

    def ask(self, command: str) -> Result:
        self.tell(command)
        return Result(**self.answer())

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it never read cannot be flushed
                pipe.close()
