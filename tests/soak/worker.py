"""A process that is one side of rounds, as the run sees it: lines to it and from it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
import time
from typing import Any, Final

from .plan import Options

_PATIENCE_S: Final = 30.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class WorkerError(Exception):
    """A worker said that something is wrong, died, or is silent for too long."""


class Worker:
    """A process with one back end, for many rounds.

    Args:
        side: Which of the two sides of a round it is.
        ledger_fd: The ledger's memfd, which it inherits.
        preload: A library that is to stand between it and the kernel, "" for none.
    """

    def __init__(
        self, backend: str, side: int, options: Options, ledger_fd: int, preload: str = ""
    ) -> None:
        self.backend, self.side, self.preload = backend, side, preload
        self.n_rounds = 0
        self.messages: list[dict[str, Any]] = []
        self.warm_rss = 0  # bytes, after the first rounds
        self.warm_fds = 0
        self._data = b""
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "soak.process",
                str(ledger_fd),
                str(side),
                json.dumps(dataclasses.asdict(options)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(ledger_fd,),
            env=os.environ
            | {"BATCHING_BACKEND": backend}
            | ({"LD_PRELOAD": preload} if preload else {}),
        )
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, do: str, **details: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # its death is told by poll
            self._stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")
            self._stdin.flush()

    def poll(self) -> None:
        """Take in what it has said.

        Raises:
            WorkerError: It said that something is wrong, or it ended.
        """
        while select.select([self._stdout], [], [], 0)[0]:
            data = os.read(self._stdout.fileno(), 65536)
            if not data:
                status = self._process.wait(_PATIENCE_S)
                raise WorkerError(f"the {self.backend} process of side {self.side} ended: {status}")
            self._data += data
        *lines, self._data = self._data.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["what"] == "violation":
                raise WorkerError(
                    f"{self.backend}, side {self.side}: {message['text']}\n{message['state']}"
                )
            self.messages.append(message)

    def take(self, what: str) -> list[dict[str, Any]]:
        """Return, and forget, the messages of a kind."""
        found = [each for each in self.messages if each["what"] == what]
        self.messages = [each for each in self.messages if each["what"] != what]
        return found

    def expect(self, what: str) -> dict[str, Any]:
        """Wait for a message of a kind, and return it."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            self.poll()
            if found := self.take(what):
                return found[0]
            if time.monotonic() > end:
                raise WorkerError(f"the process of side {self.side} did not say {what!r} in time")
            select.select([self._stdout], [], [], 0.1)

    def rss(self) -> int:
        """Return its resident memory, in bytes, without what it shares."""
        with open(f"/proc/{self.pid}/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
        return (resident - shared) * _PAGE

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def kill(self) -> None:
        """Let it die without warning."""
        self._process.kill()
        self._process.wait(_PATIENCE_S)
        self._stdin.close()
        self._stdout.close()

    def close(self) -> None:
        """Let it end, by the end of its input, or by force."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_PATIENCE_S)
        self._stdout.close()
