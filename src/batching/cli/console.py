"""Where tables are printed: a terminal at its width, anything else at 100 columns."""

from __future__ import annotations

from typing import Final

from rich.console import Console

__all__ = ["open_console"]

_WIDTH: Final = 100  # columns, at most


def open_console() -> Console:
    """Return a console for standard output that is at most that wide."""
    console = Console()
    if not console.is_terminal or console.width > _WIDTH:
        console = Console(width=_WIDTH)
    return console
