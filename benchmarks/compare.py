"""Compare batching with its peers, side by side, and judge the goals.

python benchmarks/compare.py [--quick] [--only NAME]... [--json FILE] [--report]
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import report
from book import Book
from groups import FAMILIES, GROUPS
from peers.programs import programs
from process import FAILURES, cores, precedence
from throughput import Setup

from batching.cli.machine import Machine, version_of

PACKAGES = ("uvloop", "aiofastnet", "aioquic", "anyio")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and short rounds, less work")
    names = [*GROUPS, *FAMILIES]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--report", action="store_true", help="write docs/benchmarks.md")
    wanted = parser.parse_args()
    if wanted.json and not wanted.json.parent.is_dir():
        parser.error(f"{wanted.json.parent} is no directory")  # now, not after 20 minutes
    return wanted


def run(names: list[str], setup: Setup, book: Book) -> bool:
    """Run groups and add what they find; who fails is noted.

    Returns whether it came to its end; False: it was interrupted, which is noted too.
    """
    for name in names:
        print(f"{name}:", flush=True)
        began = time.monotonic()
        try:
            for found in GROUPS[name](setup):
                book.add(name, found)
                print(found, flush=True)
        except FAILURES as error:
            book.failures[name] = str(error)
            print(f"  failed: {error}", flush=True)
        except KeyboardInterrupt:
            book.failures[name] = "interrupted"
            return False
        print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
    return True


def main() -> int:
    wanted = arguments()
    chosen = wanted.only or list(GROUPS)
    # Who is named twice, as one of a family too, runs once.
    names = list(dict.fromkeys(n for each in chosen for n in FAMILIES.get(each, [each])))
    rounds, n_casts, seconds = (3, 1, 0.1) if wanted.quick else (9, 3, 0.15)
    setup = Setup(programs(), cores(), rounds, seconds, wanted.quick, n_casts)
    if not setup.ceiling:
        sys.exit(f"nothing to compare with: {setup.programs['C'].missing}")
    machine = Machine.look()
    book = Book(
        datetime.now(UTC).isoformat(timespec="seconds"),
        machine.as_dict(),
        {"rounds": rounds, "casts": n_casts, "seconds": seconds, "cores": setup.cores},
        {name: each.version or each.missing for name, each in setup.programs.items()}
        | {name: version_of(name) for name in PACKAGES},
    )
    print(*machine.header(), sep="\n")
    print(*(f"{name}: {version}" for name, version in book.peers.items()), sep="\n")
    where = f"sender on core {setup.cores[0]}, receiver on core {setup.cores[1]}"
    print(f"{book.rounds}, {where}; median (lowest to highest) of the rounds")
    with precedence():
        is_whole = run(names, setup, book)
    judged = book.judged()
    print(f"{sum(found.met is True for found in judged)} of {len(judged)} goals met")
    if wanted.json:
        book.write(wanted.json)
    if wanted.report and is_whole:
        report.write(book)
    elif wanted.report:
        print(f"interrupted: {report.DOCUMENT.name} is left as it was")
    return 1 if book.failures else 0


if __name__ == "__main__":
    sys.exit(main())
