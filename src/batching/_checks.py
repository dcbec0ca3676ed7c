"""Checks of what a user gives, whose errors have the same words everywhere.

geneve, which imports only the standard library, has its own.
"""

from __future__ import annotations

__all__ = ["check_number", "check_switch"]


def check_number(name: str, value: object, least: int, most: int, *, or_none: bool = False) -> int:
    """Return an int from ``least`` to ``most``; ``or_none``: the caller takes None, too.

    Raises:
        TypeError: It is no int; True and False, which look like a switch, are none.
        ValueError: It is out of the limits.
    """
    also = " or None" if or_none else ""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be int{also}, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} {value}, must be {least} to {most}{also}")
    return value


def check_switch(name: str, value: object) -> bool:
    """Return what must be True or False; TypeError: it is neither."""
    if not isinstance(value, bool):  # ecn=2 looks like a mark
        raise TypeError(f"{name} must be bool, not {type(value).__name__}")
    return value
