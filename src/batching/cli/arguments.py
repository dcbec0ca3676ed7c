"""How the commands check their arguments: an error tells the value and what is allowed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import typer

__all__ = ["between", "writable"]


def between(low: float, high: float, kind: Callable[[str], float]) -> Callable[[str], float]:
    """Return a parser of numbers from ``low`` to ``high`` whose errors tell both."""
    what = "a whole number" if kind is int else "a number"

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:  # nan is never between
            raise typer.BadParameter(f"{text}, must be {what} from {low} to {high}")
        return value

    return parse


def writable(path: Path | None) -> Path | None:
    """Refuse a path that cannot be written before anything is measured."""
    if path is not None:
        if path.is_dir():
            raise typer.BadParameter(f"{path} is a directory, must be a file")
        if not path.absolute().parent.is_dir():
            raise typer.BadParameter(f"{path.parent} is no directory, must be one")
        if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise typer.BadParameter(f"{path} may not be written")
    return path
