"""The command line of the soak: ``make soak MINUTES=n`` calls it.

Ends with 0 when all was in order, 1 when something was found, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

from shim import build

from . import plan
from .path import Path
from .plan import Options
from .progress import Progress
from .run import Run, SoakError
from .sabotage import KINDS

_BACKENDS = {"native": "batching._mmsg", "portable": "batching._portable"}
_FAULTS = (*plan.OF_ENDS, *plan.OF_NETWORK, *plan.OF_LINK)


def _available() -> list[str]:
    found = []
    for name, module in _BACKENDS.items():
        with contextlib.suppress(ImportError):  # not built
            importlib.import_module(module)
            found.append(name)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description="see docs/soak.md")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=0, help="end after so many (0: by the time)")
    parser.add_argument("--first", type=int, default=0, help="begin with this round")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--backends", default=",".join(_available()))
    parser.add_argument("--faults", default="", help=f"only these, of {', '.join(_FAULTS)}")
    parser.add_argument("--loopback", action="store_true", help="make no network namespaces")
    parser.add_argument(
        "--sabotage", choices=KINDS, default="", help="the soak's own test: it must fail"
    )
    parser.add_argument("--verbose", action="store_true", help="tell each round's plan")
    arguments = parser.parse_args()
    for name, given, known in (
        ("--backends", arguments.backends, _BACKENDS),
        ("--faults", arguments.faults, _FAULTS),
    ):
        if unknown := set(filter(None, given.split(","))) - set(known):
            parser.error(f"{name}: {', '.join(unknown)} unknown, known are {', '.join(known)}")
    return arguments


def _path(arguments: argparse.Namespace) -> Path | None:
    if arguments.loopback:
        return None
    try:
        return Path()
    except (OSError, AssertionError) as error:
        print(f"No network namespaces here ({error}): the machine's own loopback only.")
        return None


def _shim() -> str:
    """Return the shim's file, in memory, so that nothing is left of it; "" for none."""
    try:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            library = build(pathlib.Path(folder)).read_bytes()
    except FileNotFoundError as error:
        print(f"No errnos are injected: {error}.")
        return ""
    fd = os.memfd_create("shim.so")
    os.write(fd, library)
    return f"/proc/{os.getpid()}/fd/{fd}"


def main() -> int:
    """Run the soak; return the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to tidy up then too
    arguments = _arguments()
    shim = _shim()
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    path = _path(arguments)
    options = Options(
        seed=seed,
        backends=tuple(arguments.backends.split(",")),
        has_namespaces=path is not None,
        has_shim=bool(shim),
        sabotage=arguments.sabotage,
        only=tuple(filter(None, arguments.faults.split(","))),
    )
    progress = Progress(arguments.minutes * 60)
    progress.say(f"SEED={seed}, back ends {arguments.backends}")
    run = Run(options, path, shim, progress.tick)
    end = time.monotonic() + arguments.minutes * 60
    try:
        for number in itertools.count(arguments.first):
            is_last = arguments.rounds and number >= arguments.first + arguments.rounds
            if is_last or time.monotonic() >= end:
                break
            if arguments.verbose:
                progress.say(str(plan.make(options, number)))
            run.round(number)
    except SoakError as error:
        progress.say(f"FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        progress.say("Stopped.")
    finally:
        run.close()
        if path:
            path.close()
    progress.summary(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
