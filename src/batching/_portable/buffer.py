"""The bytes behind a user's object, whatever its shape and format."""

from __future__ import annotations

import pickle

__all__ = ["byte_view"]


def byte_view(data: object) -> memoryview:
    """Return a flat view of ``data``'s bytes; it pins the object until it is released.

    Runs user code where the type has a ``__buffer__`` of its own.

    Raises:
        TypeError: ``data`` has no buffer.
        ValueError: It is not C-contiguous, or a memoryview that was released.
    """
    try:
        view = memoryview(data)  # type: ignore[arg-type]  # told by the TypeError
    except TypeError:
        if hasattr(type(data), "__buffer__"):
            raise  # its own words: Python 3.12 gives every buffer type a __buffer__
        raise TypeError(f"data must be a buffer, not {type(data).__name__}") from None
    if not view.c_contiguous:
        view.release()
        raise ValueError("data is not C-contiguous")
    if view.format == "B" and view.ndim == 1:
        return view
    # memoryview.cast() knows native formats only, and ctypes' arrays say "<B"; it also
    # refuses a zero in the shape.  raw() takes any contiguous memory.
    return pickle.PickleBuffer(view).raw()
