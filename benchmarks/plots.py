"""The plots of a report, as SVG: the same colours and the same order of contenders in all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from book import Book
from contenders import OURS
from contest import Row, Table
from goals import CPU, RATE
from work import BASE_SIZES, COUNTS, MANY, SIZES, Work

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

BLUES = ("#08519c", "#3182bd", "#6baed6")
OTHERS = {
    "C": "#000000",
    "C, copying": "#636363",
    "C, train": "#000000",
    "C, 128": "#636363",
    "C, 64": "#969696",
    "Go batching": "#1b9e77",
    "Go plain": "#a6dba0",
    "quinn-udp": "#d95f02",
    "by hand": "#7570b3",
    "socket": "#e7298a",
}
KEYS = {"send": RATE, "receive": CPU, "echo": CPU, "forward": CPU, "pair": RATE}
LABELS = {RATE: "ns a datagram", CPU: "CPU ns a datagram"}


def draw(book: Book, directory: Path) -> dict[str, list[str]]:
    """Draw what there is; return the names of the plots of each group.

    Nothing is drawn where matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plots: matplotlib is not installed")
        return {}
    directory.mkdir(exist_ok=True)
    drawn: dict[str, list[str]] = {}
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "benchmarks",
        "font.size": 8,
    }
    with mpl.rc_context(settings):
        for group, tables in book.tables.items():
            for name, panels in _figures(group, tables):
                if not panels:
                    continue
                _write(directory / f"{name}.svg", panels)
                drawn.setdefault(group, []).append(name)
    return drawn


Panel = Callable[["Axes"], None]


def _figures(group: str, tables: list[Table]) -> Iterable[tuple[str, list[Panel]]]:
    """Yield names and panels."""
    found = {table.work: table for table in tables if any(row.samples for row in table.rows)}
    if group == "ping":
        yield group, [_pings(table) for table in found.values()]
    elif group == "paths":
        yield group, [_points(table) for table in found.values()]
    else:
        yield group, [_points(table) for table in found.values() if table.work in _bases(group)]
        for name, axis, works in _variations(group):
            measured = [(x, found[work]) for x, work in works if work in found]
            if len(measured) > 2:
                yield f"{group}-{name}", [_lines(axis, measured)]


def _bases(group: str) -> list[Work]:
    return [Work(group, size) for size in BASE_SIZES]


def _variations(group: str) -> Iterable[tuple[str, str, list[tuple[int, Work]]]]:
    sizes = sorted(int(size) for size in (*BASE_SIZES, *SIZES) if "," not in size)
    yield "sizes", "bytes of a datagram", [(size, Work(group, str(size))) for size in sizes]
    counts = [(count, Work(group, "64", count)) for count in (*COUNTS, Work(group).count)]
    yield "batches", "datagrams of 64 bytes a batch", counts
    many = [(number, Work(group, destinations=number)) for number in (1, *MANY)]
    yield "destinations", "destinations", many


def _write(path: Path, panels: list[Panel]) -> None:
    from matplotlib import pyplot as plt

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.8 * columns, 2.8 * rows), squeeze=False, layout="constrained"
    )
    for panel, each in zip(panels, axes.flat, strict=False):
        panel(each)
        each.spines[["top", "right"]].set_visible(False)
        each.grid(visible=True, axis="both", linewidth=0.3)
    for unused in axes.flat[len(panels) :]:
        unused.set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _plain_numbers(axis: Axis) -> None:
    """Write 200 on a logarithmic axis, not as a power of ten."""
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_locator(NullLocator())


def _colours(table: Table) -> dict[str, str]:
    ours = [row.contender for row in table.rows if row.peer == OURS]
    return OTHERS | dict(zip(ours, BLUES, strict=False))


def _key(table: Table) -> str:
    return KEYS[table.work.role]


def _measured(table: Table) -> list[Row]:
    return [row for row in table.rows if row.samples and not row.failure]


def _points(table: Table) -> Panel:
    """One point a contender, on a line from the lowest to the highest round."""

    def panel(axes: Axes) -> None:
        key, colours = _key(table), _colours(table)
        rows = sorted(_measured(table), key=lambda row: row.median(key), reverse=True)
        for number, row in enumerate(rows):
            values = [sample[key] for sample in row.samples]
            colour = colours.get(row.contender, "#bdbdbd")
            axes.plot([min(values), max(values)], [number, number], color=colour, linewidth=1)
            axes.plot(row.median(key), number, "o", color=colour, markersize=4)
            axes.annotate(
                f"{row.median(key):,.0f}",
                (row.median(key), number),
                textcoords="offset points",
                xytext=(0, 4),
                ha="center",
                fontsize=6,
            )
        axes.set_yticks(range(len(rows)), [row.contender for row in rows])
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
        axes.set_xlabel(LABELS[key])
        axes.set_title(table.work.name)

    return panel


def _lines(axis: str, measured: list[tuple[int, Table]]) -> Panel:
    """One line a contender, over what is varied."""

    def panel(axes: Axes) -> None:
        key, colours = _key(measured[0][1]), _colours(measured[0][1])
        for name in [row.contender for row in measured[0][1].rows]:
            found = [(x, row) for x, table in measured if (row := table.row(name))]
            axes.plot(
                [x for x, _ in found],
                [row.median(key) for _, row in found],
                "o-",
                color=colours.get(name, "#bdbdbd"),
                linewidth=1,
                markersize=3,
                label=name,
            )
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)
        axes.set_xscale("log", base=2)
        marked = [x for x, _ in measured if x != 1200]  # too near to 1400
        axes.set_xticks(marked, map(str, marked))
        axes.set_xlabel(axis)
        axes.set_ylabel(LABELS[key])
        axes.legend(fontsize=6, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    return panel


def _pings(table: Table) -> Panel:
    """Three points a contender: how long the median takes, and the slow ones."""

    def panel(axes: Axes) -> None:
        colours = _colours(table)
        rows = sorted(_measured(table), key=lambda row: row.median("p50"), reverse=True)
        for number, row in enumerate(rows):
            colour = colours.get(row.contender, "#bdbdbd")
            for key, shape in (("p50", "o"), ("p99", "|"), ("p999", "x")):
                axes.plot(row.median(key) / 1000, number, shape, color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), [row.contender for row in rows])
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
        axes.set_xlabel("µs: p50 o, p99 |, p99.9 x")
        axes.set_title(table.work.name)

    return panel
