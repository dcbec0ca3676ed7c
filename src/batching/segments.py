"""Segments: a train of datagrams of one size, in one buffer, to or from one address."""

from __future__ import annotations

from ._backend import Segments

__all__ = ["Segments"]
