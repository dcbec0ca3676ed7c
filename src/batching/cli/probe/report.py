"""What is shown of a probe: the findings, the shapes of a path, the JSON of both."""

from __future__ import annotations

import json
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .client import Result
from .finding import Finding, State, worst
from .record import Direction, Record
from .tally import Count

__all__ = ["SCHEMA", "as_json", "print_findings", "print_shapes"]

SCHEMA: Final = 1
"""Of the JSON: it grows when a key goes or means something else, not when one is added."""

_STYLES: Final[dict[State, str]] = {
    "ok": "green",
    "unknown": "dim",
    "slow": "yellow",
    "broken": "bold red",
}
_DIRECTIONS: Final[tuple[Direction, Direction]] = ("out", "back")


def print_findings(console: Console, findings: list[Finding]) -> None:
    """Print a row for each: name, state, what was found, and below it what to change."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        state = Text(finding.state, style=_STYLES[finding.state])
        found = Text(finding.found)
        if finding.change:
            found.append(f"\n-> {finding.change}", style="bold" if finding.state != "ok" else "dim")
        table.add_row(Text(finding.name), state, found)
    console.print(table)


def print_shapes(console: Console, result: Result) -> None:
    """Print a row for each shape that not all is well with: what became of it, each way."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("shape", no_wrap=True)
    for direction in _DIRECTIONS:
        table.add_column(f"{direction},\none by one", justify="right")
        table.add_column(f"{direction},\nin trains", justify="right")
    pairs = list(zip(*(result.records[direction] for direction in _DIRECTIONS), strict=True))
    shown = [pair for pair in pairs if not all(_is_well(record) for record in pair)]
    for pair in shown:
        cells = [cell for record in pair for cell in _cells(record)]
        table.add_row(str(pair[0].shape), *cells)
    if shown:
        console.print(table)
    if len(shown) < len(pairs):
        which = "the other" if shown else "all"
        console.print(f"{which} {len(pairs) - len(shown)} shapes: whole, each way", highlight=False)


def _is_well(record: Record) -> bool:
    return record.is_tested and not record.total(0).harm and not record.total(1).harm


def _cells(record: Record) -> list[Text]:
    if not record.rounds:
        return [Text("not sent", style="dim")] * 2
    plain = _cell(record.total(0), record.sent, "yellow")
    if not record.is_tested:
        return [plain, Text("refused", style="yellow")]
    return [plain, _cell(record.total(1), record.sent, "bold red")]


def _cell(count: Count, sent: int, style: str) -> Text:
    if not count.harm:
        return Text(f"{sent:,} whole")
    words = {"lost": count.lost, "damaged": count.damaged, "doubled": count.doubled}
    words["swapped"] = count.swapped
    told = ", ".join(f"{n:,} {word}" for word, n in words.items() if n)
    return Text(f"{told} of {sent:,}", style=style)


def as_json(findings: list[Finding], facts: dict[str, object], result: Result | None) -> str:
    """Return all as JSON: the facts, the worst state, the findings, the shapes of a path."""
    content = {
        "schema": SCHEMA,
        **facts,
        "state": worst(findings),
        "findings": [
            {
                "name": finding.name,
                "state": finding.state,
                "found": finding.found,
                "change": finding.change,
                "facts": finding.facts,
            }
            for finding in findings
        ],
        "shapes": [] if result is None else _shapes(result),
    }
    return json.dumps(content, indent=2) + "\n"


def _shapes(result: Result) -> list[dict[str, object]]:
    return [
        {
            "direction": direction,
            **record.shape._asdict(),
            "rounds": len(record.rounds),
            "is_tested": record.is_tested,
            "sent": record.sent,
            "plain": record.total(0)._asdict(),
            "train": record.total(1)._asdict(),
        }
        for direction in _DIRECTIONS
        for record in result.records[direction]
    ]
