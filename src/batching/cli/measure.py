"""One run: a sender and a receiver, each in a process and where possible on a core of its own.

Of a sender we measure the datagrams that the kernel took from it and the CPU time of
its process.  It sends to a process that swallows everything as cheaply as it can: a
queue that nobody reads fills up, and from then on the kernel drops in the sender's own
context, which is cheaper than delivery.  Of a receiver we measure the datagrams that
it got, from the first to the mark of the end, and the CPU time of its process; it is fed
with trains at full speed.  Loss is what the sender's kernel took less what was received,
including what went before and after the clocks ran.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import batching

from .contenders import Contender
from .ends import LOOPBACK
from .worker import Job

__all__ = ["Bench", "RunError", "Sample", "Settings"]

_GRACE_S: Final = 20.0  # for starting two interpreters, importing and winding up
_WORKER: Final = "from batching.cli.worker import main; main()"
_SHOWN: Final = 100  # bytes of a line that is no answer
_MARK_EVERY_S: Final = 0.002  # the mark of the end may meet a full queue


class RunError(Exception):
    """A run that gave no result; the text says why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one run looks like."""

    duration_s: float
    batch: int
    cpus: tuple[int, int] | None
    """The cores of the sender and of the receiver; None: wherever the system puts them."""
    spin: bool
    """There are two cores, so that the drain may keep one busy."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run measured."""

    datagrams: int
    seconds: float
    cpu_s: float
    sent: int
    received: int

    @property
    def rate(self) -> float:
        """Datagrams a second."""
        return self.datagrams / self.seconds

    @property
    def cpu_ns(self) -> float:
        """CPU nanoseconds a datagram, user and system."""
        return self.cpu_s * 1e9 / self.datagrams

    @property
    def loss(self) -> float:
        """The share of what was sent that was not received, 0 to 1."""
        return 1 - self.received / self.sent


class Bench:
    """Runs contenders, one at a time, and ends their processes whatever happens.

    ``stop`` may be called from a signal handler: it ends the processes of the run in
    progress, which then raises RunError, and lets no other start.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children: list[_Child] = []
        self.stopped = False

    def stop(self) -> None:
        """End the run in progress, and all that would follow."""
        self.stopped = True
        for child in self._children:
            child.kill()

    def run(self, contender: Contender, size: int) -> Sample:
        """Return what one run of ``contender`` measured.

        Raises:
            RunError: A child failed, died, or did not come to an end in time.
        """
        settings = self._settings
        sending = contender.sender is not None
        drain = "drain" if settings.spin else "drain, asleep"
        on_sender, on_receiver = settings.cpus or (None, None)
        try:
            receiver = self._start(
                drain if sending else contender.name, "receive", size, on_receiver
            )
            sender = self._start(contender.name if sending else "feed", "send", size, on_sender)
            port = receiver.answer(_GRACE_S)["ready"]
            sender.answer(_GRACE_S)
            sender.tell([LOOPBACK, port])
            sent = sender.answer(settings.duration_s + _GRACE_S)
            received = _end(receiver, port)
        finally:
            for child in self._children:
                child.close()
            self._children.clear()
        measured = sent if sending else received
        if not measured["count"]:
            raise RunError("too few datagrams to measure, try a longer --duration")
        if received["total"] > sent["total"]:
            raise RunError(f"{received['total']} received, only {sent['total']} sent")
        return Sample(
            measured["count"],
            measured["seconds"],
            measured["cpu"],
            sent["total"],
            received["total"],
        )

    def _start(self, name: str, direction: Any, size: int, cpu: int | None) -> _Child:
        settings = self._settings
        limit_s = int(settings.duration_s + 3 * _GRACE_S) + 1
        job = Job(name, direction, size, settings.batch, settings.duration_s, limit_s, cpu)
        child = _Child(job)
        self._children.append(child)
        if self.stopped:  # stop() may have run before it was in the list
            child.kill()
        return child


def _end(receiver: _Child, port: int) -> dict[str, Any]:
    """Send the mark of the end until the receiver has seen it; return its result."""
    deadline = time.monotonic() + _GRACE_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        while True:
            sock.sendto(b"", (LOOPBACK, port))
            try:
                return receiver.answer(_MARK_EVERY_S)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise RunError(f"{receiver.name} did not end within {_GRACE_S} s") from None


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


class _Child:
    """A worker process: its answers come through a thread, so that waiting has a limit."""

    def __init__(self, job: Job) -> None:
        self.name = job.name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        # The children measure the very package that this process runs.
        home = str(Path(batching.__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            # -P: no file of the current folder is taken for a module of that name.
            [sys.executable, "-P", "-c", _WORKER, job.encode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path},
            # Ctrl-C reaches the foreground's process group: the parent alone.
            process_group=0 if os.name == "posix" else None,
        )
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(b"")

    def tell(self, what: object) -> None:
        """Write a line to its stdin; one that is gone will be noticed when it has to answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Return its next answer.

        Raises:
            TimeoutError: None came in time, and the process is alive.
            RunError: It reported an error, or died, or printed what is no answer.
        """
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            if timeout_s >= 1:
                raise RunError(f"{self.name}: no answer within {timeout_s:.0f} s") from None
            raise TimeoutError from None
        if not line:
            raise RunError(self._death())
        answer = _parse(line)
        if answer is None:
            raise RunError(f"{self.name} printed {line[:_SHOWN]!r}, must be a JSON object")
        if "error" in answer:
            raise RunError(f"{self.name}: {answer['error']}")
        return answer

    def _death(self) -> str:
        """Return how the process ended: its signal or status, and its last words."""
        status = self._process.wait()
        if status < 0:
            try:
                reason = f"was ended by {signal.Signals(-status).name}"
            except ValueError:
                reason = f"was ended by signal {-status}"
        else:
            reason = f"ended with status {status}"
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"{self.name} {reason}" + (f": {words[-1]}" if words else "")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> None:
        """End it, wait for it, and free what it held here."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what it never read cannot be flushed
                    pipe.close()
        self._errors.close()
