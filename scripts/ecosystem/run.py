"""Run: what became of each test of a suite, as the plugin's log tells."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Run:
    """Outcomes by test: passed, failed or skipped."""

    outcomes: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # what pytest said of those not passed
    endpoints: dict[str, int] = field(default_factory=dict)  # ours, by the module of the loop
    is_over: bool = False  # it ended by itself, and in time

    @classmethod
    def read(cls, log: Path, *, is_in_time: bool) -> Run:
        run = cls()
        for line in log.read_text().splitlines() if log.exists() else ():
            run._add(json.loads(line))
        run.is_over &= is_in_time
        return run

    def _add(self, line: dict[str, object]) -> None:
        if "endpoints" in line:
            self.endpoints = line["endpoints"]  # type: ignore[assignment]
            self.is_over = True
            return
        test, outcome = str(line["test"]), str(line["outcome"])
        if self.outcomes.get(test) != "failed":  # in an earlier phase
            self.outcomes[test] = outcome
            self.texts[test] = str(line["text"])

    def tests(self, outcome: str) -> set[str]:
        return {test for test, found in self.outcomes.items() if found == outcome}

    def count(self) -> str:
        counts = Counter(self.outcomes.values())
        return " / ".join(str(counts[each]) for each in ("passed", "failed", "skipped"))
