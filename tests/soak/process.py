"""What runs in a worker's process: rounds, as the lines on its standard input say.

It ends with its standard input, so it does not outlive the run.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import queue
import sys
import threading
from typing import Any, Final

from .endpoint import Endpoint
from .ledger import Ledger
from .plan import Options, make
from .signals import Interrupter

_CLONE_NEWNET: Final = 0x40000000  # include/uapi/linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)
_print_lock = threading.Lock()


def _say(what: str, **details: object) -> None:
    line = json.dumps({"what": what, **details})
    with _print_lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _move_to(namespace: str) -> None:
    """Let this thread, and those that it starts, be in a network namespace from now on."""
    with open(namespace, "rb") as file:
        if _libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


class _Commands:
    """The lines of standard input, read by a thread; stop goes to the round at once."""

    def __init__(self) -> None:
        self.waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.endpoint: Endpoint | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "stop":
                if self.endpoint:
                    self.endpoint.stop()
            elif command["do"] == "describe":
                if self.endpoint:
                    _say("state", state=self.endpoint.describe())
            elif command["do"] == "count":
                _say("unread", n=self.endpoint.unread() if self.endpoint else 0)
            else:
                self.waiting.put(command)
        os._exit(0)  # the run is gone


def main(ledger_fd: int, side: int, options: dict[str, Any]) -> None:
    """Run rounds."""
    faulthandler.enable()
    ledger = Ledger(ledger_fd)
    interrupter = Interrupter()
    commands = _Commands()
    cpus = os.sched_getaffinity(0)
    while True:
        command = commands.waiting.get()
        plan = make(Options(**options), command["number"])
        if command["namespace"] is not None:
            _move_to(command["namespace"])
        os.sched_setaffinity(0, {sorted(cpus)[side % len(cpus)]} if plan.is_ordered else cpus)
        endpoint = Endpoint(plan, side, command["life"], ledger, _say, interrupter)
        commands.endpoint = endpoint
        _say("ready")
        start = commands.waiting.get()
        report = endpoint.run(start["active_s"])
        commands.endpoint = None
        del endpoint
        gc.collect()  # so that what is left is what is kept
        _say("stopped", **report)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
