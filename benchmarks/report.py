"""docs/benchmarks.md: what a run found stands between markers, and what is written by hand stays.

python benchmarks/report.py FILE...    write it anew from what runs have written with --json:
                                       a group is taken from the last that has it

The runs must be of one day, machine and setting; else, or where a file is none of a run's,
nothing is written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import plots
from book import Book
from contest import Row, Table
from goals import CPU, QUEUED, RATE
from losses import Loss, losses
from outcomes import Outcome, short

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
TITLES = {
    "send": "Sending",
    "receive": "Receiving",
    "echo": "Echo",
    "forward": "Forwarding",
    "ping": "Request and response",
    "pair": "Both ends of one peer",
    "paths": "Longer paths",
    "relay": "A relay of Geneve flows",
    "single": "One datagram a call, beside a plain socket",
    "metadata": "Received with all that comes beside the payload, and without",
    "latency": "Ping-pong, beside a plain socket",
    "memory": "Memory",
    "import": "Import",
    "asyncio-receive": "asyncio: receiving",
    "asyncio-send": "asyncio: sending",
    "asyncio-echo": "asyncio: echo",
    "asyncio-latency": "asyncio: request and response",
    "asyncio-quic": "asyncio: aioquic",
}
BEGIN, END = "<!-- begin: {} -->", "<!-- end: {} -->"


def write(book: Book, document: Path = DOCUMENT) -> None:
    """Replace what stands between the markers; draw the plots beside it."""
    text = document.read_text(encoding="utf-8")
    sections = {
        "machine": machine(book),
        "goals": goals(book),
        "losses": where_we_lose(book),
    }
    drawn = plots.draw(book, document.with_suffix(""))
    sections["tables"] = tables(book, drawn)
    for name, content in sections.items():
        text = replaced(text, name, content)
    document.write_text(text, encoding="utf-8")


def replaced(text: str, name: str, content: str) -> str:
    """Return a text with something else between the markers of a section.

    Raises:
        ValueError: There is not one such section.
    """
    parts = re.split(f"({re.escape(BEGIN.format(name))}|{re.escape(END.format(name))})", text)
    if len(parts) != 5:
        raise ValueError(f"{len(parts) // 4} sections called {name}, must be one")
    before, begin, _, end, after = parts
    return f"{before}{begin}\n{content}\n{end}{after}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table as Markdown has it."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


# ---- what it was measured on ----


def machine(book: Book) -> str:
    facts = book.machine
    settings = book.settings
    offload = f"GSO {'on' if facts['gso'] else 'off'}, GRO {'on' if facts['gro'] else 'off'}"
    where = (
        f"{book.date[:10]}, {facts['processor']}, {facts['cpus']} cores; {facts['kernel']};"
        f" {facts['python']}; batching {facts['versions']['batching']}, {facts['backend']}"
        f" back end, {offload}, {facts['max_segments']} segments a train."
    )
    how = (
        f"{book.rounds}, fewer and shorter ones of what is varied;"
        f" sender on core {settings['cores'][0]}, receiver on core {settings['cores'][1]}."
    )
    peers = table(("peer", "version, or why it is missing"), book.peers.items())
    failed = [f"**{name} failed:** {reason}." for name, reason in book.failures.items()]
    return "\n\n".join([f"{where}\n{how}", peers, *failed])


# ---- goals and losses ----


def goals(book: Book) -> str:
    """Return all that is judged, and what is to be seen beside it: in a table of peers, no goal."""
    judged = book.judged()
    met = sum(found.met is True for found in judged)
    rows = (
        (
            group,
            found.name,
            f"{short(found.median)} {found.unit}".strip(),
            found.spread,
            found.goal.replace(">=", "≥").replace("<=", "≤") or "none",
            {True: "met", False: "**missed**", None: ""}[found.met],
        )
        for group, outcomes in book.outcomes.items()
        for found in outcomes
        if found.goal or group in book.tables
    )
    head = ("group", "what", "median", "spread", "goal", "")
    return f"{met} of {len(judged)} goals are met.\n\n{table(head, rows)}"


def where_we_lose(book: Book) -> str:
    base = [loss for each in book.all_tables() if each.work.is_base for loss in losses(each)]
    others = [loss for each in book.all_tables() if not each.work.is_base for loss in losses(each)]
    behind = [
        (group, found)
        for group, outcomes in book.outcomes.items()
        for found in outcomes
        if found.is_behind and group not in book.tables
    ]
    parts = [
        _losses(base),
        folded("Other sizes, batches, destinations and paths", _losses(others)),
        folded("Ratios of the other comparisons", _ratios(behind)),
    ]
    return "\n\n".join(parts)


def _losses(found: list[Loss]) -> str:
    rows = (
        (
            loss.work,
            loss.mine,
            loss.clock,
            ", ".join(f"{name} ({short(ratio)})" for name, ratio in loss.ahead.items()),
        )
        for loss in found
    )
    return table(("work", "of ours", "judged by", "behind (ratio)"), rows) if found else "Nowhere."


def _ratios(found: list[tuple[str, Outcome]]) -> str:
    rows = ((group, each.name, short(each.median), each.spread) for group, each in found)
    return table(("group", "what", "median", "spread"), rows) if found else "None."


# ---- tables ----


def tables(book: Book, drawn: dict[str, list[str]]) -> str:
    parts = []
    for group, found in book.tables.items():
        parts.append(f"### {TITLES.get(group, group)}")
        parts += [f"![{name}](benchmarks/{name}.svg)" for name in drawn.get(group, [])]
        shown = [each for each in found if each.work.is_base] or found
        parts += [_table(each) for each in shown]
        rest = [_table(each) for each in found if each not in shown]
        if rest:
            parts.append(folded("Varied", "\n\n".join(rest)))
    for group, outcomes in book.outcomes.items():
        if group not in book.tables:
            parts += [f"### {TITLES.get(group, group)}", _comparisons(outcomes)]
    return "\n\n".join(parts)


def _comparisons(found: list[Outcome]) -> str:
    rows = (
        (
            each.name,
            f"{short(each.median)} {each.unit}".strip(),
            each.spread,
            ", ".join(f"{key} {short(value)}" for key, value in each.detail.items()),
        )
        for each in found
    )
    return table(("what", "median", "spread", "medians of what it was made from"), rows)


def _table(found: Table) -> str:
    title = f"**{found.work.name}**"
    if found.failure:
        return f"{title}: not measured: {found.failure}"
    columns = PINGS if found.work.role == "ping" else FLOWS
    if not any(row.has(QUEUED) for row in found.rows):
        columns = {name: each for name, each in columns.items() if name != "CPU ns, queued"}
    size = found.work.mean_size
    rows = (_row(row, columns, size) for row in found.rows)
    return f"{title}\n\n{table(('contender', *columns), rows)}"


def _row(row: Row, columns: dict[str, str], size: float) -> Iterator[str]:
    yield row.contender
    if row.failure:
        yield from (f"failed: {row.failure}", *[""] * (len(columns) - 1))
        return
    for column in columns.values():
        yield _cell(row, column, size)


FLOWS = {
    "datagrams/s": "rate",
    "Gb/s": "gb",
    "CPU ns": CPU,
    "CPU ns, queued": QUEUED,
    "other end's CPU ns": "other cpu ns",
    "MiB": "mib",
    "loss %": "loss",
}
PINGS = {
    "p50 µs": "p50",
    "p99 µs": "p99",
    "p99.9 µs": "p999",
    "CPU ns": CPU,
    "echo's CPU ns": "other cpu ns",
    "MiB": "mib",
}


def _cell(row: Row, column: str, size: float) -> str:
    """Return a column's value: a median of the rounds."""
    if column == "rate":
        return f"{1e9 / row.median(RATE):,.0f}"
    if column == "gb":
        return short(8 * size / row.median(RATE))
    if column == "mib":
        return f"{row.resident_kib / 1024:.1f}"
    if column == "loss":
        arrived = sum(sample["received"] for sample in row.samples)
        return f"{100 * (1 - arrived / max(1, sum(sample['sent'] for sample in row.samples))):.1f}"
    if column in ("p50", "p99", "p999"):
        return f"{row.median(column) / 1000:.1f}"
    return short(row.median(column)) if row.has(column) else ""


def read(names: list[str]) -> Book:
    """Return what runs have found, put together.

    Raises:
        ValueError: A file is missing, or no run's; or the runs were of different kinds.
    """
    books = {}
    for name in names:
        try:
            books[name] = Book.read(Path(name))
        except OSError as error:
            raise ValueError(f"{name}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    first, *others = books
    for other in others:
        if difference := books[first].differs_from(books[other]):
            raise ValueError(f"{first} and {other} differ: {difference}")
        books[first].update(books[other])
    return books[first]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/benchmarks.md anew.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="of compare.py --json")
    try:
        found = read(parser.parse_args().files)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    write(found)


if __name__ == "__main__":
    main()
