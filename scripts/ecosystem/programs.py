"""Programs that exchange datagrams, each in a process of its own, all bounded in time."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from typing import IO, Final

from suite import BUILD, HERE, ROOT, make_venv

LIMIT_S: Final = 600
_REQUIREMENTS: Final = [
    "aioquic==1.7.2",
    "cryptography==50.0.2",
    "dnspython==2.9.2",
    "hypercorn[h3]==0.18.0",
    "kademlia==2.2.3",
    "trustme==1.2.1",
]


class ExchangeError(Exception):
    """An exchange that did not end as it should, and what its programs said."""


class Programs:
    """The programs of one exchange; closing ends those that go on."""

    def __init__(self, stack: contextlib.ExitStack, name: str) -> None:
        self._stack = stack
        self.home = BUILD / name
        self.home.mkdir(parents=True, exist_ok=True)
        self._python = make_venv(BUILD / "venv-exchange", _REQUIREMENTS)

    def run(self, program: str, *arguments: object) -> str:
        """Run one of ours to its end; return what it printed last."""
        process = self._start([self._python, HERE / "exchange" / f"{program}.py", *arguments])
        return self.end(process, program)

    def run_module(self, module: str, *arguments: object) -> str:
        return self.end(self._start([self._python, "-m", module, *arguments]), module)

    def start(self, program: str, *arguments: object) -> subprocess.Popen[str]:
        return self._start([self._python, HERE / "exchange" / f"{program}.py", *arguments])

    def start_tool(self, *command: object) -> subprocess.Popen[str]:
        return self._start(list(command))

    def _start(self, command: list[object]) -> subprocess.Popen[str]:
        paths = [ROOT / "src", HERE / "plugin"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
        process = subprocess.Popen(
            [str(word) for word in command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._stack.callback(_kill, process)
        return process

    def end(self, process: subprocess.Popen[str], name: str) -> str:
        """Close a program's standard input, wait; return the last line that it printed."""
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise ExchangeError(f"{name} did not end in {LIMIT_S} s:\n{output[-3000:]}") from None
        if process.returncode:
            raise ExchangeError(f"{name} ended with {process.returncode}:\n{output[-3000:]}")
        return output.splitlines()[-1] if output else ""


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


@contextlib.contextmanager
def programs(name: str) -> Iterator[Programs]:
    with contextlib.ExitStack() as stack:
        yield Programs(stack, name)


def line_of(stream: IO[str] | None) -> str:
    """Return the next line that a program prints."""
    assert stream is not None
    line = stream.readline()
    if not line:
        raise ExchangeError("a program ended early")
    return line.strip()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
