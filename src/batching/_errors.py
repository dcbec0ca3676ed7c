"""The errors that a caller of this package may want to tell apart.

Every other failure is the built-in error of the right type.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ._address import Address


class SendError(OSError):
    """Some datagrams of a call did not go out; the attributes tell which.

    What was sent need not be a prefix: one destination's error does not keep the
    datagrams of the others back.  To go on, send ``[datagrams[i] for i in
    error.unsent]``.

    Attributes:
        errno: That of the error with the lowest index; EBADF when the ``Conn`` was
            closed meanwhile, EAGAIN and ETIMEDOUT in the two subclasses.
        sent: Datagrams that the kernel took.
        errors: Index to its error.  An index counts datagrams, or in
            ``send_segments`` trains; the error of a train of which only a part went
            out is itself a SendError, about the train's own datagrams.
        unsent: Indices neither sent nor failed, ascending.
    """

    sent: int
    errors: Mapping[int, OSError]
    unsent: Sequence[int]

    def __init__(
        self,
        errno: int,
        message: str,
        sent: int,
        errors: Mapping[int, OSError],
        unsent: Sequence[int],
    ) -> None:
        super().__init__(errno, message)
        self.sent = sent
        self.errors = MappingProxyType(dict(errors))
        self.unsent = list(unsent)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.errno,
            self.strerror,
            self.sent,
            dict(self.errors),
            self.unsent,
        )


class SendBlocked(SendError, BlockingIOError):
    """EAGAIN: the ``Conn`` is non-blocking and the socket would block."""


class SendTimeout(SendError, TimeoutError):
    """ETIMEDOUT: the time was up before all was sent."""


class UDPGSODisabledError(OSError):
    """A destination went from GSO to none on the way; raised by write_batch_to, each time.

    Attributes:
        errno: What a train was refused with: EIO, EINVAL or EPERM.
        on_laddr: The local address of the connection.
        retry_err: What sending without GSO met, or None when every datagram was
            sent all the same.  It is the ``__cause__`` too.
    """

    on_laddr: Address
    retry_err: OSError | None

    def __init__(self, on_laddr: Address, retry_err: OSError | None, errno: int) -> None:
        super().__init__(
            errno,
            f"disabled UDP GSO on {on_laddr} ({os.strerror(errno)}), the network device"
            " or the path may not support it; "
            + ("all was sent without" if retry_err is None else f"retry: {retry_err}"),
        )
        self.on_laddr = on_laddr
        self.retry_err = retry_err
        self.__cause__ = retry_err

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.on_laddr, self.retry_err, self.errno)


def os_error(errno: int, detail: str = "") -> OSError:
    """Return the OSError (of the subclass that Python gives the errno) with its text."""
    text = os.strerror(errno)
    return OSError(errno, f"{text}: {detail}" if detail else text)


def send_error(end: int, sent: int, errors: dict[int, OSError], unsent: Sequence[int]) -> SendError:
    """Return what a sending call raises that ``end`` ended (0: all was tried)."""
    kind = {errno.EAGAIN: SendBlocked, errno.ETIMEDOUT: SendTimeout}.get(end, SendError)
    code = end or errors[min(errors)].errno or 0
    first = f", {min(errors)}: {errors[min(errors)].strerror}" if errors else ""
    why = os_error(code).strerror
    message = f"{why}; {sent} sent, {len(errors)} failed{first}, {len(unsent)} not tried"
    return kind(code, message, sent, errors, unsent)


def timed_out() -> TimeoutError:
    """Return what a call raises when its time is up, with the text of the socket module."""
    return TimeoutError(errno.ETIMEDOUT, "timed out")


def shut_down() -> OSError:
    """Return what a receiving call raises once somebody shut the socket down for reading."""
    return os_error(errno.ESHUTDOWN, "the socket was shut down for reading")
