"""The peers that are not Python: their sources, and how they are built."""
