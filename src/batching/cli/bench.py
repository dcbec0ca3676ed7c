"""``batching bench``: its arguments, the alternating rounds, and how it ends."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .arguments import between, writable
from .console import open_console
from .contenders import CONTENDERS, Contender
from .machine import Machine, pair_of_cpus, usable_cpus
from .measure import Bench, RunError, Settings
from .report import Report, Row

__all__ = ["HELP", "bench"]

HELP = (
    "Compare plain sockets, asyncio, uvloop and batching on loopback, with real datagrams."
    "\n\nA sender is measured towards a process that swallows all it can; a receiver is fed"
    " with trains at full speed, so that a slow one loses much. CPU time is that of the"
    " measured process. Ctrl-C ends early and shows what is finished."
    "\n\n[bold]Examples[/bold]\n\n"
    "  batching bench\n"
    "  batching bench --size 1200 --duration 3 --rounds 5\n"
    "  batching bench --size 64 --size 1400 --json result.json --plot result.png"
)

_MAX_SIZE = 65535 - 20 - 8  # IPv4 total length less IP and UDP headers
_MAX_BATCH = 1024  # what sendmmsg takes in one call


def _plottable(path: Path | None) -> Path | None:
    if path is not None:
        if path.suffix.lower() != ".png":
            raise typer.BadParameter(f"{path}, must end in .png")
        if importlib.util.find_spec("matplotlib") is None:
            raise typer.BadParameter('needs matplotlib: pip install "udp-batching[cli]"')
    return writable(path)


def bench(
    size: Annotated[
        list[int] | None,
        typer.Option(
            parser=between(1, _MAX_SIZE, int),
            metavar="BYTES",
            help=f"Bytes a datagram, 1 to {_MAX_SIZE}; may be repeated. Without it: 64 and 1400.",
        ),
    ] = None,
    duration: Annotated[
        float,
        typer.Option(
            parser=between(0.02, 60, float),
            metavar="SECONDS",
            help="Measured for each row, all rounds together, 0.02 to 60.",
        ),
    ] = 0.8,
    batch: Annotated[
        int,
        typer.Option(
            parser=between(1, _MAX_BATCH, int),
            metavar="N",
            help=f"Datagrams a batch, 1 to {_MAX_BATCH}.",
        ),
    ] = 128,
    rounds: Annotated[
        int,
        typer.Option(
            parser=between(1, 100, int),
            metavar="N",
            help="Rounds, 1 to 100; the table shows medians.",
        ),
    ] = 3,
    pin: Annotated[
        bool,
        typer.Option(
            "--pin/--no-pin", help="Keep sender and receiver on two different cores, if there are."
        ),
    ] = True,
    json: Annotated[
        Path | None,
        typer.Option(callback=writable, metavar="FILE", help="Write all that was measured."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(callback=_plottable, metavar="FILE.png", help="Draw the rates."),
    ] = None,
) -> None:
    """Measure in alternating rounds, print the table, write the files."""
    sizes = list(dict.fromkeys(size or [64, 1400]))
    cpus = pair_of_cpus() if pin else None
    spin = len(usable_cpus()) > 1
    runner = Bench(Settings(duration / rounds, batch, cpus, spin))
    machine = Machine.look()
    plan = [
        (contender, Row(contender.name, contender.direction, one, note=contender.note()))
        for direction in ("send", "receive")
        for one in sizes
        for contender in CONTENDERS
        if contender.direction == direction
    ]
    where = f"sender on core {cpus[0]}, receiver on core {cpus[1]}" if cpus else "not pinned"
    setting = f"loopback, batches of {batch}, {rounds} x {duration / rounds:.2f} s a row, {where}"
    report = Report([*machine.header(), setting], [row for _, row in plan])
    with _interrupts(runner):
        _measure(runner, plan, rounds)
    report.print(open_console(), finished_only=runner.stopped)
    facts: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.as_dict(),
        "settings": {
            "sizes": sizes,
            "duration_s": duration,
            "batch": batch,
            "rounds": rounds,
            "cpus": cpus,
        },
        "interrupted": runner.stopped,
    }
    try:
        if json is not None:
            report.write_json(json, facts)
        if plot is not None:
            report.plot(plot)
    except OSError as error:
        print(f"batching bench: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if runner.stopped:
        print("interrupted: finished rows only", file=sys.stderr)
        raise typer.Exit(130)  # 128 + SIGINT
    if any(row.error for row in report.rows):
        raise typer.Exit(1)


@contextmanager
def _interrupts(runner: Bench) -> Iterator[None]:
    """Let SIGINT end the run in progress instead of raising at an arbitrary place."""
    before = signal.signal(signal.SIGINT, lambda *_: runner.stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _measure(runner: Bench, plan: list[tuple[Contender, Row]], rounds: int) -> None:
    """Run every contender once a round; one that failed is left out of the other rounds."""
    todo = [(contender, row) for contender, row in plan if not row.note]
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=rounds * len(todo))
        for number in range(1, rounds + 1):
            for contender, row in todo:
                if runner.stopped:
                    return
                progress.update(
                    task,
                    description=f"round {number}/{rounds}: {row.direction} {row.size} B,"
                    f" {row.contender}",
                )
                if not row.error:
                    try:
                        row.samples[number] = runner.run(contender, row.size)
                    except RunError as error:
                        if not runner.stopped:
                            row.error = str(error)
                progress.advance(task)
