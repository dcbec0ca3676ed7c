"""Segments: a train of datagrams of one size, in one buffer, to or from one address."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.string cimport memcmp, memset

from .control cimport ECN_BITS
from .linux cimport IN6_IS_ADDR_LINKLOCAL, in6_addr
from .mark cimport Mark, Marks, add_mark, host_of
from .peers cimport Peer, Peers
from .slab cimport Slab

from .._checks import check_number

cdef tuple FIELDS = (
    "data", "segment_size", "addr", "local_addr", "interface", "_is_way_out", "ecn", "timestamp_ns", "truncated",
)


@cython.freelist(64)
cdef class Segments:
    """A train: datagrams of ``segment_size`` bytes each, the last of which may be shorter.

    It is a sequence of memoryviews into ``data``, which is shared and not copied: who
    keeps one of them keeps the whole buffer.  ``tolist()`` copies the datagrams out.

    Args:
        data: The datagrams, one after the other: anything with the buffer protocol,
            C-contiguous.  It is not copied and must not change until it was sent.
        segment_size: Bytes of every datagram but the last.  For empty ``data`` (one
            empty datagram) it has no meaning and may be 0.
        addr: Where the train goes or came from; None on a connected ``Conn``.
        local_addr: The address to send it from, as tuple; its port is not looked at.
        interface: The index of the interface to send it through.
        ecn: The mark to send it with, 0 to 3 (RFC 3168).

    Raises:
        TypeError: ``data`` has no buffer, a number is not an int.
        ValueError: ``data`` is not contiguous; ``segment_size`` < 1 with data; ``ecn`` or
            ``interface`` out of its limits.

    Attributes:
        data: All datagrams, read-only, of bytes; a memoryview.
        segment_size: Bytes.
        addr: None on a connected ``Conn``.
        local_addr: Of a received train, where it was sent to, perhaps a group.  None: not told
            (``open_conn(pktinfo=True)``), or not wished for.  Likewise:
        interface: Of a received train, where it came in; sent back, it may leave by another.
        ecn: Of all its datagrams (``ecn=True``).
        timestamp_ns: When the kernel received its first datagram, CLOCK_REALTIME in
            nanoseconds (``timestamps=True``); one a train.
        truncated: The kernel cut the end off (MSG_TRUNC); only of received trains.
    """

    def __cinit__(self):
        self.ecn_mark = -1

    def __init__(self, data, segment_size, addr=None, *, local_addr=None, interface=None, ecn=None):
        cdef object view = memoryview(data)
        if not view.c_contiguous:
            raise ValueError("data is not C-contiguous")
        if not isinstance(segment_size, int):
            raise TypeError(f"segment_size must be int, not {type(segment_size).__name__}")
        if segment_size < 1 and (view.nbytes or segment_size < 0):
            raise ValueError(f"segment_size {segment_size}, must be at least 1")
        # A view with a zero in its shape cannot be cast; it holds nothing anyway.
        self.data = view.cast("B").toreadonly() if view.nbytes else memoryview(b"")
        self.segment_size = segment_size
        self.addr = addr
        self.local_addr = local_addr
        self.interface = interface
        self.ecn = ecn
        self.received_ns = 0
        self.truncated = False

    @property
    def ecn(self):
        return None if self.ecn_mark < 0 else self.ecn_mark

    @ecn.setter
    def ecn(self, value):
        self.ecn_mark = -1 if value is None else number_in("ecn", value, 0, ECN_BITS)

    @property
    def interface(self):
        return self.interface_index or None

    @interface.setter
    def interface(self, value):
        self.interface_index = 0 if value is None else number_in("interface", value, 1, 0x7FFFFFFF)
        self._is_way_out = value is not None

    @property
    def timestamp_ns(self):
        return self.received_ns or None

    @timestamp_ns.setter
    def timestamp_ns(self, value):
        self.received_ns = 0 if value is None else value

    @property
    def data(self):
        with cython.critical_section(self):
            if self.view is None:
                if self.source is None:  # made without __init__
                    raise AttributeError("data")
                self.view = PyMemoryView_FromObject(self.source)
            return self.view

    @data.setter
    def data(self, value):
        with cython.critical_section(self):
            self.view = value
            self.source = None

    cdef int add_mark(self, Marks *marks, Peers peers) except -1:
        cdef Peer local
        cdef Mark mark
        cdef in6_addr host
        memset(&mark, 0, sizeof(mark))
        mark.tos = mark.tclass = -1
        if self.ecn_mark >= 0:
            mark.tos = peers.tos & ~ECN_BITS | self.ecn_mark
            mark.tclass = peers.tclass & ~ECN_BITS | self.ecn_mark
        if self._is_way_out:
            mark.interface = self.interface_index
        if self.local_addr is not None:
            local = peers.find(self.local_addr)
            host = host_of(&local.state.name)
            if peers.is_source(local, &host):
                mark.has_source = True
                mark.source = host
                if mark.interface == 0 and IN6_IS_ADDR_LINKLOCAL(&mark.source):
                    mark.interface = <int>local.state.name.sin6_scope_id
        return add_mark(marks, &mark)

    cdef object shown(self):
        # What has the data, without a view: nobody may ever ask for one.
        return self.data if self.source is None or self.view is not None else self.source

    cdef Py_ssize_t n_bytes(self) except -1:
        cdef object shown = self.shown()
        if type(shown) is Slab:
            return (<Slab>shown).n_bytes
        return PyBytes_GET_SIZE(shown) if PyBytes_CheckExact(shown) else shown.nbytes

    @property
    def nbytes(self):
        """Bytes of all datagrams."""
        return self.n_bytes()

    def __len__(self):
        """Return the number of datagrams; that of no data is 1, an empty one."""
        cdef Py_ssize_t size, n_bytes = self.n_bytes()
        if n_bytes == 0:
            return 1
        size = self.segment_size
        if size < 1:
            raise ValueError(f"segment_size {size}, must be at least 1")
        return (n_bytes - 1) // size + 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            raise TypeError("Segments cannot be sliced; tolist() gives a list")
        n = len(self)
        position = index + n if index < 0 else index
        if not 0 <= position < n:
            raise IndexError(f"datagram {index} of {n}")
        start = position * self.segment_size
        return self.data[start : start + self.segment_size]

    def __iter__(self):
        data, size = self.data, self.segment_size
        if not data.nbytes:
            yield data
        for start in range(0, data.nbytes, size or 1):
            yield data[start : start + size]

    def tolist(self):
        """Return the datagrams as bytes: the quick way to look inside."""
        data, size = self.data.tobytes(), self.segment_size
        if not data:
            return [data]
        return [data[start : start + size] for start in range(0, len(data), size)]

    def common_header(self, Py_ssize_t n_bytes):
        """Return the first ``n_bytes`` of every datagram; None where they differ or one is shorter."""
        cdef Py_buffer buffer
        cdef Py_ssize_t size
        cdef object shown
        if n_bytes < 1:
            raise ValueError(f"n_bytes {n_bytes}, must be at least 1")
        shown = self.shown()
        size = self.segment_size
        PyObject_GetBuffer(shown, &buffer, PyBUF_SIMPLE)
        try:
            if size < 1 and buffer.len:
                raise ValueError(f"segment_size {size}, must be at least 1")
            if not begin_alike(<const char *>buffer.buf, buffer.len, size, n_bytes):
                return None
            return PyBytes_FromStringAndSize(<const char *>buffer.buf, n_bytes)
        finally:
            PyBuffer_Release(&buffer)

    def __getstate__(self):
        # As the twin's: it can be copied, and pickled no more than a memoryview can.
        fields = {name: getattr(self, name) for name in FIELDS}
        return getattr(self, "__dict__", None), fields

    def __repr__(self):
        return (
            f"<Segments of {len(self)} datagrams, {self.data.nbytes} bytes in segments of"
            f" {self.segment_size}, addr={self.addr!r}>"
        )


cdef int number_in(str name, object value, int least, int most) except -1:
    if type(value) is int and least <= value <= most:
        return value
    return check_number(name, value, least, most, or_none=True)


cdef bint begin_alike(const char *data, Py_ssize_t n_bytes, Py_ssize_t size, Py_ssize_t n_header) noexcept nogil:
    cdef Py_ssize_t at = size, shortest = min(n_bytes, size)
    if n_bytes > size and n_bytes % size:
        shortest = n_bytes % size
    if shortest < n_header:
        return False
    if n_header == 8:  # of Geneve: a length that the compiler knows is one comparison of words
        while at < n_bytes and memcmp(data + at, data, 8) == 0:
            at += size
    else:
        while at < n_bytes and memcmp(data + at, data, n_header) == 0:
            at += size
    return at >= n_bytes
