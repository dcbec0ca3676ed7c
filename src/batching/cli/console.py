"""Where tables are printed: a terminal at its width, anything else at 100 columns.

Elsewhere than on a terminal no line ends with the blanks that rich fills columns with.
"""

from __future__ import annotations

import re
from typing import Any, Final

from rich.console import Console

__all__ = ["open_console"]

_WIDTH: Final = 100  # columns, at most


class _Piped(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        """Print as the console of a terminal does, without blanks at the ends of lines."""
        with self.capture() as capture:
            super().print(*objects, **options)
        self.file.write(re.sub(" +$", "", capture.get(), flags=re.MULTILINE))
        self.file.flush()  # a pipe that nobody reads any more is told here, not at the end


def open_console() -> Console:
    """Return a console for standard output that is at most that wide."""
    console = Console()
    if not console.is_terminal:
        return _Piped(width=_WIDTH)
    return Console(width=_WIDTH) if console.width > _WIDTH else console
