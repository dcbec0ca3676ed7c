"""Compare a suite's runs on the stock loop and on ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from run import Run
from suite import Suite

_N_RERUNS: Final = 2


@dataclass
class Verdict:
    """What differs between the loops."""

    stock: Run
    ours: Run
    worse: list[str] = field(default_factory=list)  # passes on stock, not on ours
    better: list[str] = field(default_factory=list)
    flaky: dict[str, str] = field(default_factory=dict)  # and how often it passed
    errors: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.worse and not self.errors

    def difference(self) -> str:
        parts = [f"{len(self.worse)} worse"] if self.worse else []
        parts += [f"{len(self.better)} better"] if self.better else []
        parts += [f"{len(self.flaky)} flaky"] if self.flaky else []
        return ", ".join(parts + self.errors) or "none"


def compare(suite: Suite) -> Verdict:
    """Run on both; a test that differs is run again before it is judged."""
    verdict = Verdict(suite.run("stock"), suite.run("ours"))
    stock, ours = verdict.stock, verdict.ours
    verdict.errors += [
        f"the run on {name} did not end"
        for name, run in (("stock", stock), ("ours", ours))
        if not run.is_over
    ]
    if not stock.tests("passed"):
        verdict.errors.append("no test passes on stock")
    if not sum(ours.endpoints.values()):
        verdict.errors.append("no endpoint was ours")
    if sum(stock.endpoints.values()):
        verdict.errors.append("stock had endpoints of ours")
    differs = stock.tests("passed") ^ ours.tests("passed")
    if differs:
        _judge(suite, verdict, sorted(differs))
    return verdict


def _judge(suite: Suite, verdict: Verdict, tests: list[str]) -> None:
    """Sort tests that differ: worse, better or flaky on either loop."""
    stocks, ours = [verdict.stock], [verdict.ours]
    for _ in range(_N_RERUNS):
        stocks.append(suite.run("stock", tests))
        ours.append(suite.run("ours", tests))
    n = _N_RERUNS + 1
    for test in tests:
        n_stock = sum(run.outcomes.get(test) == "passed" for run in stocks)
        n_ours = sum(run.outcomes.get(test) == "passed" for run in ours)
        if n_stock == n and n_ours < n - 1:
            verdict.worse.append(test)
        elif n_stock == 0 and n_ours == n:
            verdict.better.append(test)
        else:
            verdict.flaky[test] = f"passed {n_stock} of {n} on stock, {n_ours} on ours"
