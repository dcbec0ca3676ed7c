"""What is moved: bytes that both ends can make, block after block, from their number."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Final

_BLOCK: Final = 64 * 1024


def blocks(size: int) -> Iterator[bytes]:
    """Yield ``size`` bytes, none of whose blocks is like another."""
    for start in range(0, size, _BLOCK):
        yield random.Random(start).randbytes(min(_BLOCK, size - start))


def digest(size: int) -> str:
    """Return the hash of ``size`` bytes."""
    found = hashlib.sha256()
    for block in blocks(size):
        found.update(block)
    return found.hexdigest()
