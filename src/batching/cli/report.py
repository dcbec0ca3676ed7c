"""What is shown of a bench: the table, the JSON file, the plot."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .contenders import Direction
from .measure import Sample

__all__ = ["Report", "Row"]


@dataclass(slots=True)
class Row:
    """One contender at one size, and what its rounds measured."""

    contender: str
    direction: Direction
    size: int
    note: str = ""
    """Why it was not measured: something is not installed, or not in this system."""
    error: str = ""
    """Why it failed."""
    samples: dict[int, Sample] = field(default_factory=dict)
    """By the number of the round."""

    @property
    def rate(self) -> float:
        """Datagrams a second, the median of the rounds."""
        return median(sample.rate for sample in self.samples.values())

    @property
    def gbits(self) -> float:
        """Payload in 10**9 bits a second, the median of the rounds."""
        return self.rate * self.size * 8 / 1e9

    @property
    def cpu_ns(self) -> float:
        """CPU nanoseconds a datagram, the median of the rounds."""
        return median(sample.cpu_ns for sample in self.samples.values())

    @property
    def loss(self) -> float:
        """The share lost, the median of the rounds."""
        return median(sample.loss for sample in self.samples.values())


class Report:
    """The rows, and what they are measured against."""

    def __init__(self, header: list[str], rows: list[Row]) -> None:
        self.header = header
        self.rows = rows

    def ratio(self, row: Row) -> float | None:
        """Return the rate as a multiple of the plain socket's: the median over common rounds."""
        for plain in self.rows:
            if (plain.contender, plain.direction, plain.size) == (
                "socket",
                row.direction,
                row.size,
            ):
                ratios = [
                    sample.rate / plain.samples[number].rate
                    for number, sample in row.samples.items()
                    if number in plain.samples
                ]
                return median(ratios) if ratios else None
        return None

    def print(self, console: Console, *, finished_only: bool = False) -> None:
        """Print the header, the table and what failed, at most 100 columns wide."""
        for line in self.header:
            console.print(Text(line), soft_wrap=True)
        table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
        table.add_column("", no_wrap=True)
        for title in ("datagrams/s", "Gb/s", "CPU ns\n/datagram", "loss %", "x\nsocket"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("", max_width=20)
        rows = [row for row in self.rows if row.samples or not finished_only]
        group = None
        for row in rows:
            if group != (row.direction, row.size):
                group = (row.direction, row.size)
                table.add_row(Text(f"{row.direction}, {row.size} B", style="bold cyan"))
            table.add_row(f"  {row.contender}", *self._cells(row))
        console.print(table)
        for text in dict.fromkeys(
            f"{row.contender} ({row.direction}, {row.size} B) failed: {row.error}"
            for row in rows
            if row.error
        ):
            console.print(Text(text, style="red"))

    def _cells(self, row: Row) -> list[str | Text]:
        remark = Text("failed", style="red") if row.error else Text(row.note, style="dim")
        if not row.samples:
            return ["", "", "", "", "", remark]
        ratio = self.ratio(row)
        return [
            f"{row.rate:,.0f}",
            f"{row.gbits:.3f}" if row.gbits < 10 else f"{row.gbits:.1f}",
            f"{row.cpu_ns:,.0f}",
            f"{100 * row.loss:.1f}",
            "" if ratio is None else f"{ratio:.2f}",
            remark,
        ]

    def write_json(self, path: Path, facts: dict[str, object]) -> None:
        """Write the facts and the rows, each with the samples of its rounds."""
        rows = [{**self._summary(row), "rounds": _rounds(row)} for row in self.rows]
        path.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n", encoding="utf-8")

    def _summary(self, row: Row) -> dict[str, object]:
        measured = bool(row.samples)
        return {
            "direction": row.direction,
            "contender": row.contender,
            "size": row.size,
            "datagrams_per_second": row.rate if measured else None,
            "gigabits_per_second": row.gbits if measured else None,
            "cpu_ns_per_datagram": row.cpu_ns if measured else None,
            "loss_percent": 100 * row.loss if measured else None,
            "ratio_to_socket": self.ratio(row),
            "note": row.note,
            "error": row.error,
        }

    def plot(self, path: Path) -> None:
        """Draw the rates, one panel a direction; imports matplotlib."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 5), layout="constrained")
        FigureCanvasAgg(figure)
        directions: tuple[Direction, ...] = ("send", "receive")
        for panel, direction in zip(figure.subplots(1, 2), directions, strict=True):
            rows = [row for row in self.rows if row.direction == direction and row.samples]
            names = list(dict.fromkeys(row.contender for row in rows))
            sizes = list(dict.fromkeys(row.size for row in rows))
            height = 0.8 / max(1, len(sizes))
            for number, size in enumerate(sizes):
                of_size = [row for row in rows if row.size == size]
                places = [names.index(row.contender) + number * height for row in of_size]
                panel.barh(places, [row.rate for row in of_size], height, label=f"{size} B")
            panel.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], names)
            panel.invert_yaxis()
            panel.set_xscale("log")
            panel.set_xlim(left=1e4)
            panel.set_xlabel("datagrams a second")
            panel.set_title(direction)
            if sizes:
                panel.legend()
        figure.suptitle("\n".join(self.header[:2]), fontsize=8)
        figure.savefig(path, dpi=150)


def _rounds(row: Row) -> list[dict[str, object]]:
    return [{"round": number, **asdict(sample)} for number, sample in row.samples.items()]
