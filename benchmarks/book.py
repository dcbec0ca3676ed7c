"""All that a run has found: what is written as JSON, and what the report is made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contest import Table
from outcomes import Outcome


@dataclass(slots=True)
class Book:
    """What was found, group by group, and on what."""

    date: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    peers: dict[str, str] = field(default_factory=dict)
    """The version of each, or why it is not there."""
    tables: dict[str, list[Table]] = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Of groups, and whether the run was interrupted."""

    def add(self, group: str, found: Table | Outcome) -> None:
        if isinstance(found, Table):
            self.tables.setdefault(group, []).append(found)
        else:
            self.outcomes.setdefault(group, []).append(found)

    def update(self, other: Book) -> None:
        """Take over the groups of another run, whole; on what it was measured stays."""
        again = {*other.tables, *other.outcomes}
        for group in again:
            self.failures.pop(group, None)
        for mine, theirs in ((self.tables, other.tables), (self.outcomes, other.outcomes)):
            for group in again - theirs.keys():
                mine.pop(group, None)
        self.tables |= other.tables
        self.outcomes |= other.outcomes
        self.failures |= other.failures

    def differs_from(self, other: Book) -> str:
        """Say in what two runs cannot stand in one report; nothing where they can."""
        mine, theirs = self._measured_on(), other._measured_on()
        return "; ".join(
            f"{name} {mine.get(name)}, there {theirs.get(name)}"
            for name in dict.fromkeys([*mine, *theirs])
            if mine.get(name) != theirs.get(name)
        )

    def _measured_on(self) -> dict[str, Any]:
        return {"date": self.date[:10], **self.machine, **self.settings, **self.peers}

    @property
    def rounds(self) -> str:
        """How many rounds there were, and by how many processes one after the other."""
        casts = self.settings["casts"]
        return (
            f"{self.settings['rounds']} rounds of {self.settings['seconds']} s"
            f" in {casts} cast{'s' * (casts > 1)} of new processes"
        )

    def all_tables(self) -> Iterator[Table]:
        for tables in self.tables.values():
            yield from tables

    def judged(self) -> list[Outcome]:
        """Return the outcomes that have a goal."""
        return [found for group in self.outcomes.values() for found in group if found.goal]

    def write(self, path: Path) -> None:
        content = {
            "date": self.date,
            "machine": self.machine,
            "settings": self.settings,
            "peers": self.peers,
            "tables": {name: [each.as_dict() for each in t] for name, t in self.tables.items()},
            "outcomes": {name: [each.as_dict() for each in o] for name, o in self.outcomes.items()},
            "failures": self.failures,
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Book:
        """Return what ``write`` wrote.

        Raises:
            OSError: It cannot be read.
            ValueError: It is something else.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            for name, kind in (("tables", Table), ("outcomes", Outcome)):
                content[name] = {
                    group: [kind.from_dict(each) for each in found]
                    for group, found in content[name].items()
                }
            return cls(**content)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"not what compare.py --json writes: {error!r}") from None
