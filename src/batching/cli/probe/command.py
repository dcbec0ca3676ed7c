"""``batching probe`` and ``batching probe serve``: their arguments, and how they end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

import batching

from ..._kernel import IS_LINUX
from ..arguments import between, writable
from ..console import open_console
from .buffers import look_at_buffers
from .devices import look_at_devices
from .drops import look_at_drops
from .finding import worst
from .loopback import look_at_loopback
from .path import look_at_path
from .report import as_json, print_findings, print_shapes
from .server import Server
from .system import look_at_system

__all__ = ["HELP", "SERVE_HELP", "probe", "serve"]

HELP = (
    "Tell what this machine can do for UDP, what limits it, and what to change."
    "\n\nWith HOST:PORT, where batching probe serve runs, the way there and back is tested too:"
    " numbered datagrams one by one and in trains, to find drivers that mangle trains."
    " The exit status is 1 when something is broken, 0 when it is only slow."
    "\n\n[bold]Examples[/bold]\n\n"
    "  batching probe\n"
    "  batching probe 192.0.2.7:7478\n"
    "  batching probe \\[2001:db8::7]:7478 --duration 20 --json result.json"
)
SERVE_HELP = (
    "Be the other side of batching probe HOST:PORT, until Ctrl-C."
    "\n\nIt answers who has shown to receive at its address, and sends nobody more than it got."
    "\n\n[bold]Examples[/bold]\n\n"
    "  batching probe serve\n"
    "  batching probe serve --host 192.0.2.7 --port 9000"
)

_PORT: Final = 7478  # not among those that IANA has given a name
_STDOUT: Final = Path("-")


def _split(text: str) -> tuple[str, int]:
    """Return the host and the port of HOST:PORT, [HOST]:PORT for a numeric IPv6 host."""
    host, colon, digits = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise typer.BadParameter(f"{text}, must be [HOST]:PORT with an IPv6 address")
    if not colon or not host:
        raise typer.BadParameter(f"{text}, must be HOST:PORT")
    if not (digits.isascii() and digits.isdigit() and 1 <= int(digits[:6]) <= 65535):
        raise typer.BadParameter(f"{text}, the port must be a whole number from 1 to 65535")
    return host, int(digits)


def _target(text: str | None) -> str | None:
    """Refuse what is no HOST:PORT."""
    if text is not None:
        _split(text)
    return text


def _file_or_stdout(path: Path | None) -> Path | None:
    return path if path == _STDOUT else writable(path)


def probe(
    target: Annotated[
        str | None,
        typer.Argument(
            callback=_target, metavar="HOST:PORT", help="Where batching probe serve runs."
        ),
    ] = None,
    duration: Annotated[
        float,
        typer.Option(
            parser=between(0.5, 60, float),
            metavar="SECONDS",
            help="For the test of the path, 0.5 to 60; a shape in doubt may need more.",
        ),
    ] = 3.0,
    json: Annotated[
        Path | None,
        typer.Option(
            callback=_file_or_stdout,
            metavar="FILE",
            help="Write all that was found; - is standard output, without the table.",
        ),
    ] = None,
) -> None:
    """Look, print, and leave with the status that the worst finding has."""
    findings = [*look_at_system(), *look_at_loopback(), *look_at_buffers()]
    result, address = None, None
    if target is None:
        findings += look_at_devices()
    else:
        host, port = _split(target)
        found, result, address = look_at_path(host, port, duration)
        findings += found
    findings += look_at_drops()
    facts: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "batching": batching.__version__,
        "target": target,
        "address": list(address) if address else None,
    }
    if json != _STDOUT:
        console = open_console()
        print_findings(console, findings)
        if result is not None:
            console.print()
            print_shapes(console, result)
    if json is not None:
        _write(json, as_json(findings, facts, result))
    if worst(findings) == "broken":
        raise typer.Exit(1)


def _write(path: Path, text: str) -> None:
    try:
        if path == _STDOUT:
            sys.stdout.write(text)
        else:
            path.write_text(text, encoding="utf-8")
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"batching probe: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def serve(
    host: Annotated[
        str,
        typer.Option(metavar="HOST", help="A numeric address to bind to. Without it: all."),
    ] = "",
    port: Annotated[
        int,
        typer.Option(
            parser=between(0, 65535, int),
            metavar="PORT",
            help="UDP port, 0 to 65535; 0 takes a free one.",
        ),
    ] = _PORT,
) -> None:
    """Answer probes until a signal ends it."""
    try:
        conn = _bind(host, port)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--host'") from None
    except OSError as error:
        where = f"{host or 'all addresses'}, port {port}"
        print(f"batching probe serve: {where}: {error.strerror or error}", file=sys.stderr)
        raise typer.Exit(1) from None
    with conn:
        server = Server(conn, lambda line: print(line, flush=True))
        address, bound = conn.local_addr()[:2]
        with _signals(server):
            print(f"answering at [{address}]:{bound} (UDP)", flush=True)
            print(f"on the other machine: batching probe HOST:{bound}", flush=True)
            server.run()
    counts = server.counts
    print(
        f"ended: {counts['clients']:,} clients, {counts['turned away']:,} turned away,"
        f" {counts['ignored']:,} datagrams ignored"
    )


def _bind(host: str, port: int) -> batching.Conn:
    """Return a connection for all addresses of both families, or the one that is given."""
    if host:
        return batching.open_conn((host, port), batch_size=128)
    # So that the answer comes from the address that was asked, of several.
    try:
        return batching.open_conn(("::", port), batch_size=128, pktinfo=IS_LINUX)
    except OSError:  # no IPv6 here
        return batching.open_conn(("0.0.0.0", port), batch_size=128, pktinfo=IS_LINUX)


@contextmanager
def _signals(server: Server) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the server rather than raise at an arbitrary place."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: server.stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
