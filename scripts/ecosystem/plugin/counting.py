"""Count the endpoints that ``batching.asyncio`` makes: a run with none shows nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

endpoints: Final[Counter[str]] = Counter()  # by the module of the loop


def count_endpoints(ours: Any) -> None:
    """Count from now on; ``ours`` is ``batching.asyncio``."""
    make = ours.make_transport

    def make_transport(loop: Any, *arguments: Any, **options: Any) -> Any:
        made = make(loop, *arguments, **options)
        endpoints[type(getattr(loop, "wrapped", loop)).__module__] += 1
        return made

    ours.make_transport = make_transport
