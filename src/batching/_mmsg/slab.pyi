"""Slabs: memory that the kernel wrote into.  Not part of the seam."""

from typing import final

@final
class Pool: ...

@final
class Slab:
    def __init__(self) -> None: ...
