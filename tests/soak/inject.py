"""Errnos that this kernel does not give by itself: random rules for tests/faults/shim.c.

None of them loses anything: what is refused took nothing, and it is told.
"""

from __future__ import annotations

import ctypes
import errno
import random
from typing import Final

_OF_TRAINS: Final = (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EPERM, errno.ENOBUFS)
_OF_ALL: Final = (*_OF_TRAINS, errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED, errno.ENETUNREACH)
_OF_READERS: Final = (errno.EINTR, errno.EAGAIN, errno.ECONNREFUSED)
_MAX_RULES: Final = 8


def rules(choose: random.Random) -> str:
    """Return some rules, in the shim's language."""
    return ";".join(_rule(choose) for _ in range(choose.randint(1, _MAX_RULES)))


def load(text: str) -> None:
    """Let the shim, which was preloaded, go by these rules from now on; "" for none."""
    ctypes.CDLL(None).faults_load(text.encode())


def _rule(choose: random.Random) -> str:
    often = f"skip={choose.randrange(40)} count={choose.choice((1, 1, 3, 20))}"
    kind = choose.choice(("train", "train", "send", "lost", "short", "recv", "few", "poll"))
    if kind == "train":
        return f"send errno={choose.choice(_OF_TRAINS)} train=1 {often}"
    if kind in ("send", "lost"):
        return f"send errno={choose.choice(_OF_ALL)} lost={int(kind == 'lost')} {often}"
    if kind == "short":
        return f"short most={choose.randint(1, 5)} {often}"
    if kind == "recv":
        return f"recv errno={choose.choice(_OF_READERS)} {often}"
    if kind == "few":
        return f"recv most={choose.randint(1, 3)} {often}"
    return choose.choice((f"poll errno={errno.EINTR} {often}", f"poll lie=1 {often}"))
