"""What a sending call was given, and what it tells of what it could not send.

All of it is made once a first attempt was not enough; nothing here is on the usual way.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Any, Final

from ._backend import Descriptor, Peers, SendPlan
from ._errors import SendError, os_error, send_error
from ._path_mtu import why_too_large
from .segments import Segments

__all__ = ["Datagrams", "Outcome", "Outgoing", "ToOne", "Trains"]

# A source that is not ours: EINVAL of IPv6, and, by kernel, ENETUNREACH or EINVAL of IPv4.
_NO_WAY: Final = {errno.EINVAL, errno.ENETUNREACH, errno.ENODEV, errno.EADDRNOTAVAIL}


class Outgoing:
    """The items that a call was given."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def load(self, _plan: SendPlan, _start: int, _peers: Peers) -> None:
        """Let a plan take the items from a start on, as many as it does."""
        raise NotImplementedError

    def datagrams(self, _item: int) -> int:
        """Return how many datagrams an item is."""
        return 1

    def locate(self, item: int, datagram: int) -> tuple[int, object]:
        """Return (bytes, address as the user spelled it) of a datagram of an item."""
        raise NotImplementedError

    def way(self, _item: int) -> str:
        """Say from where, and through what, an item was to go, if it asked for that."""
        return ""


class Datagrams(Outgoing):
    """Pairs of (data, address)."""

    def load(self, plan: SendPlan, start: int, _peers: Peers) -> None:
        """Take pairs."""
        plan.load(self.items, start)

    def locate(self, item: int, _datagram: int) -> tuple[int, object]:
        """Return what stands in the pair."""
        data, address = self.items[item]
        return memoryview(data).nbytes, address


class ToOne(Outgoing):
    """Buffers for one address: without their first ``offset`` bytes, or with a header there."""

    def __init__(
        self, items: list[Any], address: object, offset: int, header: bytes | None
    ) -> None:
        super().__init__(items)
        self._address = address
        self._offset = offset
        self._header = header

    def load(self, plan: SendPlan, _start: int, _peers: Peers) -> None:
        """Take all of them: there are no more than a plan takes."""
        plan.load_to(self.items, self._address, self._offset, self._header)

    def locate(self, item: int, _datagram: int) -> tuple[int, object]:
        """Return what is sent of the buffer."""
        left_out = 0 if self._header else self._offset
        return memoryview(self.items[item]).nbytes - left_out, self._address


class Trains(Outgoing):
    """Segments; ``to`` overrides their addresses."""

    def __init__(self, items: list[Segments], to: object) -> None:
        super().__init__(items)
        self._to = to

    def load(self, plan: SendPlan, start: int, peers: Peers) -> None:
        """Take trains."""
        peer = None if self._to is None else peers.get(self._to)
        plan.load_segments(self.items, start, peer)

    def datagrams(self, item: int) -> int:
        """Return how many datagrams a train has."""
        train = self.items[item]
        n_bytes = memoryview(train.data).nbytes  # not len(train): data may have been replaced
        return -(-n_bytes // train.segment_size) if n_bytes else 1

    def locate(self, item: int, datagram: int) -> tuple[int, object]:
        """Return what stands at the datagram's place in the train."""
        train = self.items[item]
        rest = memoryview(train.data).nbytes - datagram * train.segment_size
        return min(rest, train.segment_size), train.addr if self._to is None else self._to

    def way(self, item: int) -> str:
        """Say it of a train that has marks; ``to`` overrides those too."""
        train, wished = self.items[item], []
        if self._to is None and train.local_addr is not None:
            wished.append(f"from {train.local_addr!r}")
        if self._to is None and train._is_way_out:
            wished.append(f"through interface {train.interface}")
        return " ".join(wished)


class Outcome:
    """Makes errors of what plans report: (item, first datagram, datagrams, errno)."""

    def __init__(self, outgoing: Outgoing, descriptor: Descriptor, peers: Peers) -> None:
        self._outgoing = outgoing
        self._descriptor = descriptor
        self._peers = peers
        self._details: dict[tuple[int, object], str] = {}  # by bytes and address

    def gather(
        self, rows: list[tuple[int, int, int, int]], end: int
    ) -> tuple[dict[int, OSError], list[int]]:
        """Return (errors, unsent) by item; ``end``: the errno that ended the call, or 0."""
        errors: dict[int, OSError] = {}
        unsent: list[int] = []
        by_item: dict[int, list[tuple[int, int, int]]] = {}
        for item, first, n, code in rows:
            by_item.setdefault(item, []).append((first, n, code))
        for item, parts in by_item.items():
            first, n, code = parts[0]
            if len(parts) > 1 or n < self._outgoing.datagrams(item):
                errors[item] = self._part_error(item, parts, end)
            elif code:
                errors[item] = self._error(code, item, first)
            else:
                unsent.append(item)
        return errors, unsent

    def _part_error(self, item: int, parts: list[tuple[int, int, int]], end: int) -> SendError:
        """Return the error of a train of which a part went out, or failed in several ways."""
        errors: dict[int, OSError] = {}
        unsent: list[int] = []
        for first, n, code in parts:
            datagrams = range(first, first + n)
            if code:
                errors.update((each, self._error(code, item, each)) for each in datagrams)
            else:
                unsent.extend(datagrams)
        sent = self._outgoing.datagrams(item) - len(errors) - len(unsent)
        return send_error(end if unsent else 0, sent, errors, unsent)

    def _error(self, code: int, item: int, datagram: int) -> OSError:
        detail = ""
        if code == errno.EMSGSIZE:
            detail = self._why_too_large(item, datagram)
        elif code in _NO_WAY:
            detail = self._outgoing.way(item)
        return os_error(code, detail)

    def _why_too_large(self, item: int, datagram: int) -> str:
        # The user's objects may have changed since they were sent, and the socket be closed:
        # the text is then the errno's alone.
        with contextlib.suppress(OSError, TypeError, ValueError, BufferError):
            n_bytes, spelling = self._outgoing.locate(item, datagram)
            address = self._peers.get(spelling).address
            if (n_bytes, address) not in self._details:
                with self._descriptor as sock:
                    self._details[n_bytes, address] = why_too_large(sock, address, n_bytes)
            return self._details[n_bytes, address]
        return ""
