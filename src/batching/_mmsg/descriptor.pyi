"""The seam, part 1: what a Conn is to the kernel.

The seam is what policy (_sender, _receiver, _waiter) may ask of a back end.  Both back
ends have these classes: _mmsg natively, _portable in Python.  A back end plans trains
and makes one attempt; it waits only where it is told how long, never retries, never
decides.  No method runs user code while it holds a lock, except where said.
"""

import socket
from typing import Any, final

@final
class Counters:
    """What one Conn did; written by the other classes, any thread, only ever growing."""

    def snapshot(self) -> dict[str, Any]:
        """Return all of it as it is at one moment, by the names of ``Stats``.

        Of a histogram it is a list: of a size up to 1, 2, 4,
        ... 128, and of more.  What ``Stats`` derives from them is not here.
        """

@final
class Descriptor:
    """A socket's descriptor that stays open until the last call on it has left.

    Entering (``with descriptor as sock:``, and inside ``attempt``) raises
    OSError(EBADF) once it was closed; ``attempt`` returns EBADF as its errno.
    """

    ticket: int
    """Changes at every kick; wait() does not sleep on a ticket that is no longer true."""
    closed: bool
    patience_s: float
    """How long a fetch that may sleep does; 0 at first.  Who changes it kicks afterwards."""
    def __init__(self, sock: socket.socket) -> None:
        """Take ownership of ``sock``, made non-blocking; OSError(EMFILE) without a wake-up."""
    def __enter__(self) -> socket.socket: ...
    def __exit__(self, *exc_info: object) -> None: ...
    def fileno(self) -> int:
        """Return the descriptor's number, -1 once closed."""
    def wait(self, events: int, timeout_s: float, ticket: int) -> None:
        """Sleep until ``events`` (poll's flags) or an error, a kick, close, a signal, the time.

        Never raises for any of them: the caller attempts again.  A negative
        ``timeout_s`` has no end.  Returns at once when ``ticket`` is old or it is closed.
        """
    def kick(self) -> None:
        """Wake all who wait."""
    def close(self) -> None:
        """Refuse further calls, wake who waits; the socket is closed by who leaves last."""
    def release(self) -> socket.socket:
        """Give the socket back, unclosed, to undo __init__; OSError(EBADF) once closed.

        Sleepers wake; nobody else may be inside.  Whether it blocks is left open.
        """
    def after_fork(self) -> None:
        """Forget, in a forked child, the parent's threads and the wake-up shared with it."""
