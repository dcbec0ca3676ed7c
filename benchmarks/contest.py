"""A piece of work, done by all contenders in alternating rounds, by several casts of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from contenders import Contender
from entries import Entry, Sample, entry
from outcomes import short
from paths import PATHS, PathError, ends
from process import FAILURES
from throughput import Setup
from work import Work

KIB = 1024


@dataclass(slots=True)
class Row:
    """What one contender did with one piece of work, round by round; or why it did not."""

    contender: str
    peer: str
    samples: list[Sample] = field(default_factory=list)
    resident_kib: float = 0.0
    """Of the last cast, at its end."""
    failure: str = ""

    def median(self, key: str) -> float:
        return median(sample[key] for sample in self.samples)

    def has(self, key: str) -> bool:
        return bool(self.samples) and key in self.samples[0]

    def __str__(self) -> str:
        if self.failure:
            return f"    {self.contender:<24} failed: {self.failure}"
        found = ", ".join(f"{key} {short(self.median(key))}" for key in self.samples[0])
        return f"    {self.contender:<24} {found}"


@dataclass(slots=True)
class Table:
    """All rows of a piece of work."""

    work: Work
    rows: list[Row]
    failure: str = ""
    """Why nobody could do it."""

    def row(self, contender: str) -> Row | None:
        """Return what a contender did; None where it did nothing to the end."""
        found = [row for row in self.rows if row.contender == contender and not row.failure]
        return found[0] if found else None

    def __str__(self) -> str:
        rows = "\n".join(map(str, self.rows)) or f"    {self.failure}"
        return f"  {self.work.name}\n{rows}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Table:
        rows = [Row(**row) for row in content["rows"]]
        return cls(Work(**content["work"]), rows, content["failure"])


def compete(setup: Setup, work: Work, contenders: Iterable[Contender]) -> Table:
    """Let contenders do a piece of work; who fails is left out of what follows, new casts too."""
    everybody = list(contenders)
    with ExitStack() as stack:
        try:
            where = stack.enter_context(ends(PATHS[work.path]))
        except PathError as error:
            return Table(work, [], str(error))
        rows = {each.name: Row(each.name, each.peer, failure=each.missing) for each in everybody}
        for cast in setup.casts():
            with ExitStack() as started:
                runs = {}
                for each in everybody:
                    runs[each.name] = _Run(entry(setup, where, work, each), rows[each.name])
                    started.push(runs[each.name].entry.stack)
                for run in runs.values():
                    run.begin()
                for name, is_counted in cast.turns(list(runs)):
                    runs[name].round(setup.length(is_counted=is_counted), is_counted=is_counted)
                for run in runs.values():
                    run.end()
    return Table(work, list(rows.values()))


@dataclass(slots=True)
class _Run:
    """A contender's part in a cast, which a failure ends for it alone."""

    entry: Entry
    row: Row

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            self.row.failure = str(error)
            self.entry.stack.close()

    def begin(self) -> None:
        if self.row.failure:
            return
        with self._failing():
            self.entry.start()
            if not PATHS[self.entry.work.path].is_lossy:
                self.entry.check()

    def round(self, seconds: float, *, is_counted: bool) -> None:
        if self.row.failure:
            return
        with self._failing():
            sample = self.entry.round(seconds)
            if is_counted:
                self.row.samples.append(sample)

    def end(self) -> None:
        if not self.row.failure:
            self.row.resident_kib = self.entry.resident() / KIB
