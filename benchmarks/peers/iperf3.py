"""iperf3 as a pair: its client sends UDP at full speed to its server, for a fixed time.

It speaks no protocol of ours: both ends report at the end of a test, in JSON.  It checks the
order of its datagrams by a number in each, and not their contents.  It calls ``write`` and
``read`` for every datagram; where the version has ``--gsro``, it uses GSO and GRO.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from process import LIMIT_S, Result, pinned


@dataclass(frozen=True, slots=True)
class Pair:
    """Where the two ends run."""

    program: str = "iperf3"
    cores: tuple[int | None, int | None] = (None, None)
    """Of the client, which sends, and of the server."""
    client: tuple[str, ...] = ()
    """What stands before the command of an end, to run it in a namespace."""
    server: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    """Of the server."""

    def run(self, size: int, seconds: float) -> tuple[Result, Result]:
        """Send datagrams of one size for some seconds, one at least; return what went and came.

        Seconds and CPU are those of the test alone, by iperf3's own clocks; what is lost is
        the difference of the two.

        Raises:
            RuntimeError: With iperf3's words, if an end fails.
        """
        port = free_port()
        whole = max(1, round(seconds))  # it reads 0.5 as 0, which is for ever
        # -l: bytes of a datagram; -b: no limit of the rate, and 128 at a time between two looks
        # at the clock, not 10; -i 0: no reports on the way
        options = ["-u", "-b", "0/128", "-l", str(size), "-t", str(whole), "-i", "0", "-J"]
        if self.has_gsro():
            options.append("--gsro")
        command = [*self.client, self.program, "-c", self.host, "-p", str(port), *options]
        with self._serving(port), pinned(self.cores[0]):
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False
            )
        return results(done.stdout, size)

    def has_gsro(self) -> bool:
        """Tell whether this version can do GSO and GRO."""
        done = subprocess.run(
            [self.program, "--help"], capture_output=True, text=True, timeout=10, check=False
        )
        return "--gsro" in done.stdout + done.stderr

    @contextmanager
    def _serving(self, port: int) -> Iterator[None]:
        """Run a server for one test."""
        listen = ["-s", "-1", "-p", str(port), "-B", self.host, "--forceflush"]
        with pinned(self.cores[1]):
            server = subprocess.Popen(
                [*self.server, self.program, *listen],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        try:
            assert server.stdout is not None
            for line in server.stdout:  # ends with the server
                if "listening" in line:
                    break
            else:
                raise RuntimeError(f"iperf3: the server ended with status {server.wait(5)}")
            yield
        finally:
            server.kill()
            server.communicate()


def free_port() -> int:
    """Return a port that was free for TCP and UDP a moment ago."""
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
        stream.bind(("", 0))
        port: int = stream.getsockname()[1]
        datagram.bind(("", port))
        return port


def results(report: bytes, size: int) -> tuple[Result, Result]:
    """Read the report of a client."""
    try:
        said = json.loads(report)
    except ValueError:
        raise RuntimeError(f"iperf3: no report, but {report[-200:]!r}") from None
    if "error" in said:
        raise RuntimeError(f"iperf3: {said['error']}")
    end = said["end"]
    usage = end["cpu_utilization_percent"]

    def result(summary: str, whose: str, datagrams: int) -> Result:
        seconds = end[summary]["seconds"]
        cpu = usage[f"{whose}_total"] / 100 * seconds
        return Result(datagrams, datagrams, datagrams, 0, seconds, cpu)

    return (
        result("sum_sent", "host", end["sum_sent"]["bytes"] // size),
        result("sum_received", "remote", end["sum_received"]["bytes"] // size),
    )


if __name__ == "__main__":
    for bytes_each in (64, 1400):
        sent, received = Pair().run(bytes_each, 1.0)
        print(f"{bytes_each} B: {sent}\n{' ' * 8}{received}")
