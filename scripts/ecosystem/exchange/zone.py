"""The zone that the name server has and its client knows: zone.py FILE ZONE NAMES."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Final

_FIRST: Final = ipaddress.IPv4Address("10.0.0.1")


def address_of(index: int) -> str:
    return str(_FIRST + index)


def zone_file(zone: str, n_names: int) -> str:
    head = f"$ORIGIN {zone}\n$TTL 60\n@ SOA ns admin 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\n"
    return head + "".join(f"n{i} A {address_of(i)}\n" for i in range(n_names))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(zone_file(sys.argv[2], int(sys.argv[3])))
