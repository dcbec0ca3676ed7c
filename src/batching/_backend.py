"""Which back end serves this process: the native one where it was built, else the portable.

BATCHING_BACKEND=native|portable forces one of the two; native then fails to import
rather than be replaced.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from ._kernel import IS_LINUX

__all__ = [
    "NAME",
    "WHY_NOT_NATIVE",
    "WINDOW",
    "Counters",
    "Descriptor",
    "Dispatcher",
    "Message",
    "Peer",
    "Peers",
    "RecvSlots",
    "Segments",
    "SendPlan",
]


def _refuse(error: ImportError | ValueError) -> NoReturn:
    """Raise it; the command line, none of which is imported yet, ends with one line instead."""
    # What stands for sys.argv[0] in the whole command: a script, or the module after -m, which
    # argv itself does not tell while that module's package is imported.
    started = "".join(sys.orig_argv[-len(sys.argv) :][:1]).removeprefix("-m")
    if os.path.splitext(os.path.basename(started))[0] == "batching":
        sys.stderr.write(f"batching: {error}\n")
        sys.exit(2)
    raise error


WHY_NOT_NATIVE = ""
NAME = os.environ.get("BATCHING_BACKEND", "")
if NAME not in ("", "native", "portable"):
    _refuse(ValueError(f"BATCHING_BACKEND={NAME}, must be native, portable or empty"))
if NAME == "portable":
    WHY_NOT_NATIVE = "native: BATCHING_BACKEND=portable"
else:
    try:
        from . import _mmsg as _mmsg
    except ImportError as error:
        why = f"not built ({error})" if IS_LINUX else "needs Linux"
        if NAME:
            _refuse(ImportError(f"BATCHING_BACKEND=native: {why}"))
        NAME, WHY_NOT_NATIVE = "portable", f"native: {why}"
    else:
        NAME = "native"

if NAME == "native" or TYPE_CHECKING:
    from ._mmsg import (
        WINDOW,
        Counters,
        Descriptor,
        Dispatcher,
        Message,
        Peer,
        Peers,
        RecvSlots,
        Segments,
        SendPlan,
    )
else:
    from ._portable import (
        WINDOW,
        Counters,
        Descriptor,
        Dispatcher,
        Message,
        Peer,
        Peers,
        RecvSlots,
        Segments,
        SendPlan,
    )
