"""Run third-party suites on the stock loop and on batching's: the same tests must pass.

``make test-ecosystem`` runs it; ARGS="aioquic http3" picks.  It exits with 1 if a
test that passes on the stock loop does not on ours, or an exchange goes wrong.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from typing import Final

import http3
import keys
import names
from programs import ExchangeError
from suite import MissingToolError, SetupError, Suite, read_suites
from verdict import Verdict, compare

_HEAD = ("suite", "version", "stock", "ours", "endpoints", "difference")
_EXCHANGES: Final = {  # and how much of each, in full and quickly
    "http3": (http3.run, 100_000_000, 10_000_000),
    "dns": (names.run, 100_000, 10_000),
    "keys": (keys.run, 1_000, 100),
}


def main() -> int:
    suites = {suite.name: suite for suite in read_suites()}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*suites, *_EXCHANGES]))
    parser.add_argument("--quick", action="store_true", help="a tenth of each exchange")
    arguments = parser.parse_args()
    wanted = arguments.names or [*suites, *_EXCHANGES]
    if unknown := set(wanted) - set(suites) - set(_EXCHANGES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    verdicts, is_good = [], True
    for name in wanted:
        began = time.monotonic()
        try:
            if name in suites:
                verdict = run_suite(suites[name])
                verdicts.append((suites[name], verdict))
                said, is_good = verdict.difference(), is_good and verdict.is_good
            else:
                exchange, full, quick = _EXCHANGES[name]
                said = exchange(quick if arguments.quick else full)
        except MissingToolError as error:
            said = f"not run: {error}"
        except (SetupError, ExchangeError) as error:
            said, is_good = f"failed: {error}", False
        print(f"{name}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
    if verdicts:
        show(verdicts)
    return 0 if is_good else 1


def run_suite(suite: Suite) -> Verdict:
    suite.prepare()
    verdict = compare(suite)
    tell(verdict)
    return verdict


def tell(verdict: Verdict) -> None:
    """Name the tests that are not as on stock, or fail on both."""
    for test in verdict.worse:
        print(f"  worse: {test}\n{verdict.ours.texts.get(test, 'was not run')}")
    for test in verdict.better:
        print(f"  better: {test}")
    for test, text in verdict.flaky.items():
        said = verdict.ours.texts.get(test) or verdict.stock.texts.get(test)
        print(f"  flaky: {test}: {text}\n{said}")
    for test in sorted(verdict.stock.tests("failed") & verdict.ours.tests("failed")):
        print(f"  fails on both: {test}")


def show(verdicts: list[tuple[Suite, Verdict]]) -> None:
    """Print the table: passed / failed / skipped on each loop."""
    rows = [_HEAD]
    for suite, verdict in verdicts:
        endpoints = str(sum(verdict.ours.endpoints.values()))
        counts = (verdict.stock.count(), verdict.ours.count())
        rows.append((suite.name, suite.version, *counts, endpoints, verdict.difference()))
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    print(f"\nPython {platform.python_version()}; tests passed / failed / skipped")
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
