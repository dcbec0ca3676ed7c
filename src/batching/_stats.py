"""Stats: what one ``Conn`` did, in numbers that do not change any more."""

# No annotations from __future__: NamedTuple would compile each, 3 ms of the package's import.

from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple, NoReturn

BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128)  # a train has 128 datagrams at most, as sent


class FrozenDict(dict[str, int]):
    """A read-only dict; unlike a mappingproxy it can be hashed, pickled and made JSON."""

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("a snapshot cannot be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


class Sizes(tuple[int, ...]):
    """How many there were of each size: a histogram.

    ``sizes[i]`` counts those of more than ``bounds[i - 1]`` and at most ``bounds[i]``;
    the last one those that were larger than all bounds.
    """

    __slots__ = ()

    bounds: ClassVar[tuple[int, ...]] = BOUNDS

    @property
    def total(self) -> int:
        """How many there were of any size."""
        return sum(self)


_NO_SIZES: Final = Sizes([0] * (len(BOUNDS) + 1))


class Stats(NamedTuple):
    """A snapshot of what one ``Conn`` did since it was made.

    Calls are system calls, messages what one call handed over or brought, a train a message of
    several datagrams; a datagram is one whether it travelled in a train or alone.
    """

    recv_calls: int = 0
    """System calls made to receive, those that brought nothing too."""
    recv_messages: int = 0
    """Messages received: trains and single datagrams."""
    recv_trains: int = 0
    """Messages of more than one datagram, merged by the kernel (GRO)."""
    recv_datagrams: int = 0
    """Datagrams received, empty ones too."""
    recv_bytes: int = 0
    """Payload bytes received."""
    recv_truncated: int = 0
    """Messages that were cut because they did not fit (MSG_TRUNC)."""
    recv_control_truncated: int = 0
    """Messages whose control bytes were cut (MSG_CTRUNC)."""
    recv_queue_drops: int = 0
    """Drop events: a merged train that found no room in the receive queue counts as one."""
    transport_errors_lost: int = 0
    """Errors of the network that made room for newer ones, as nobody asked for them in time."""
    send_calls: int = 0
    """System calls made to send, those that sent nothing too."""
    send_messages: int = 0
    """Messages that the kernel accepted: trains and single datagrams."""
    send_trains: int = 0
    """Messages of more than one datagram that the kernel accepted (GSO)."""
    send_datagrams: int = 0
    """Datagrams that the kernel accepted, each once."""
    send_bytes: int = 0
    """Payload bytes that the kernel accepted."""
    send_errors: int = 0
    """Datagrams that were given up with an error."""
    gso_fallbacks: Mapping[str, int] = FrozenDict()
    """Reason (an errno's name) to how many times a destination lost GSO, or part of it, for it.

    Read-only.
    """
    recv_datagrams_per_message: Sizes = _NO_SIZES
    """Messages received, by the datagrams in them: ``recv_messages`` in all."""
    recv_messages_per_call: Sizes = _NO_SIZES
    """System calls that brought something, by the messages that they brought."""
    send_datagrams_per_message: Sizes = _NO_SIZES
    """Messages that the kernel accepted, by the datagrams in them: ``send_messages`` in all."""
    send_messages_per_call: Sizes = _NO_SIZES
    """System calls that sent something, by the messages that the kernel accepted."""


def stats_of(counted: dict[str, Any], **others: Any) -> Stats:
    """Make Stats of what ``Counters.snapshot`` gave, and of what is counted elsewhere."""
    for name, value in counted.items():
        if not isinstance(value, int):
            counted[name] = Sizes(value)
    for direction in ("recv", "send"):
        sizes = counted[f"{direction}_datagrams_per_message"]
        counted[f"{direction}_messages"] = sizes.total
        counted[f"{direction}_trains"] = sizes.total - sizes[0]
    return Stats(**counted, **others)
