"""The command line, ``batching``.

Importing this package imports nothing beyond the standard library: the children of
``batching bench`` go through here, and a core installed without the extra must be
able to say what is missing.
"""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["main"]

# What the extra brings: typer and rich, and what typer itself stands on.
_EXTRA: Final = frozenset({"typer", "rich", "click", "shellingham", "typing_extensions"})


def main() -> None:
    """Run the command line on ``sys.argv`` and leave with its exit status."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print('the command line needs: pip install "udp-batching[cli]"', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT
    app()
