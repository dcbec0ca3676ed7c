"""What is told while the soak runs, and after: a line that is renewed, and two tables."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from .run import Run, Totals

_LINE_EVERY_S: Final = 10.0
_RENEW_EVERY_S: Final = 0.25
_COLUMNS: Final = (
    "rounds",
    "datagrams",
    "again",
    "refused",
    "drops",
    "lost silence",
    "lost gap",
    "lost drops",
)


class Progress:
    """Tells how far a run is; ``tick`` is called often."""

    def __init__(self, limit_s: float) -> None:
        self.console = Console()
        self._limit_s = limit_s
        self._is_terminal = self.console.is_terminal
        self._next = 0.0
        self._peak_rss = 0

    def tick(self, run: Run) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_RENEW_EVERY_S if self._is_terminal else _LINE_EVERY_S)
        self._peak_rss = max(self._peak_rss, run.rss())
        line = self.line(run)
        if self._is_terminal:
            sys.stdout.write(f"\r\x1b[K{line[: self.console.width - 1]}")
            sys.stdout.flush()
        else:
            print(line, flush=True)

    def line(self, run: Run) -> str:
        totals = run.totals
        elapsed = time.monotonic() - totals.started
        faults = " ".join(
            f"{kind}:{row['rounds']}" for kind, row in sorted(totals.by_fault.items())
        )
        return (
            f"{elapsed:.0f}/{self._limit_s:.0f} s  round {totals.rounds}"
            f"  {totals.datagrams} datagrams  {totals.datagrams / max(elapsed, 0.001):.0f}/s"
            f"  again {totals.again}  drops {totals.drops}"
            f"  RSS {run.rss() >> 20} MiB  fds {run.fds()}  {faults}"
        )

    def say(self, text: str) -> None:
        if self._is_terminal:
            sys.stdout.write("\r\x1b[K")
        print(text, flush=True)

    def summary(self, run: Run) -> None:
        """Print what the run came to."""
        totals = run.totals
        elapsed = time.monotonic() - totals.started
        self.say("")
        self.console.width = max(self.console.width, 130)  # a log has no width of its own
        self.console.print(_table("By fault (a round may have several)", totals.by_fault))
        self.console.print(_table("By back ends of the two sides", totals.by_backend))
        for text in _sentences(totals, elapsed, self._peak_rss):
            print(text)


def _table(title: str, rows: dict[str, Counter[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for name, row in sorted(rows.items()):
        table.add_row(name, *(f"{row[column]:,}" for column in _COLUMNS))
    return table


def _sentences(totals: Totals, elapsed_s: float, peak_rss: int) -> list[str]:
    """Return what fits no table."""
    growth = ", ".join(f"{name}: {n / (1 << 20):+.1f} MiB" for name, n in totals.growth.items())
    return [
        f"{totals.rounds} rounds in {elapsed_s:.0f} s.",
        f"{totals.datagrams:,} datagrams delivered and acknowledged.",
        f"{totals.again:,} times one was sent again.",
        f"{totals.transmissions:,} transmissions, acknowledgements too.",
        f"{totals.received:,} of them received.",
        f"{totals.lost.total():,} of them lost, all explained.",
        f"The kernel counted: {_spell(totals.kernel)}.",
        f"Errors told by sending calls (datagrams): {_spell(totals.errors)}.",
        f"Errors told to readers: {totals.told:,}.",
        f"Lessons (gso_fallbacks): {_spell(totals.fallbacks)}.",
        f"Reordered where the path may (processes on several CPUs): {totals.reordered:,}.",
        f"Pauses at the end of a round, until more arrived: {len(totals.stalls)}",
        *(f"  {stall}" for stall in totals.stalls),
        f"Memory of all workers: {peak_rss >> 20} MiB at most.",
        f"Since they were warm: {growth or 'too short a run to tell'}.",
        "Descriptors: as at the start of each worker.",
    ]


def _spell(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.most_common()) or "none"
