"""SendPlan: a window of datagrams as messages, and one sendmmsg at a time."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.errno cimport EBADF, errno
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from .descriptor cimport Counters, Descriptor
from .linux cimport (
    BATCHING_HAS_GIL, batching_count, batching_pin, batching_unpin, is_bytearray, raw_bytearray_data,
    raw_bytearray_size, raw_decref, raw_incref,
)
from .peers cimport Peer, Peers
from .train cimport (
    Item, Piece, Plan, Train, cut_trains, free_plan, plan_items, reserve_items, send,
)

from ..segments import Segments

cdef enum:
    WINDOW_ = 1024  # datagrams or trains; sendmmsg itself takes 1024 messages at most
    INITIAL_ITEMS = 128
    KEPT_MESSAGES = 8192  # room for more is given back after the call that needed it: 1 MiB

WINDOW = WINDOW_


@cython.final
@cython.no_gc_clear  # __dealloc__ needs what it holds
cdef class SendPlan:
    """A window of datagrams as messages: who shares one, and how far sending has come."""
    cdef Plan plan
    cdef Peers peers
    cdef Counters counters
    cdef list loaded  # holds every object whose memory is lent to the kernel
    cdef Py_buffer *views  # of what is not bytes
    cdef int n_views, views_capacity
    cdef PyObject *pinned[WINDOW_]  # bytearrays, whose memory is to be had without a view
    cdef int n_pinned
    cdef int start
    cdef readonly int position
    cdef readonly int datagrams_sent

    def __cinit__(self, Peers peers not None, Counters counters not None):
        self.peers = peers
        self.counters = counters

    def __dealloc__(self):
        self.let_go()
        free(self.views)
        free_plan(&self.plan)

    @property
    def n_messages(self):
        return self.plan.n_trains

    @property
    def left(self):
        return self.plan.n_trains - self.position

    cdef inline int hold(self, object data, bint is_writable, char **memory, size_t *n_bytes) except -1:
        # Borrow the memory of a buffer until let_go().
        if PyBytes_CheckExact(data) and not is_writable:
            memory[0] = PyBytes_AS_STRING(data)
            n_bytes[0] = PyBytes_GET_SIZE(data)
            return 0
        if BATCHING_HAS_GIL and is_bytearray(<PyObject *>data) and self.n_pinned < WINDOW_:
            batching_pin(<PyObject *>data)
            self.pinned[self.n_pinned] = <PyObject *>data
            self.n_pinned += 1
            memory[0] = raw_bytearray_data(<PyObject *>data)
            n_bytes[0] = raw_bytearray_size(<PyObject *>data)
            return 0
        return self.export(data, is_writable, memory, n_bytes)

    cdef int export(self, object data, bint is_writable, char **memory, size_t *n_bytes) except -1:
        # Runs the object's own code.
        cdef Py_buffer *view
        if self.n_views == self.views_capacity:
            view = <Py_buffer *>realloc(self.views, (self.views_capacity + INITIAL_ITEMS) * sizeof(Py_buffer))
            if view == NULL:
                raise MemoryError
            self.views = view
            self.views_capacity += INITIAL_ITEMS
        view = &self.views[self.n_views]
        try:
            PyObject_GetBuffer(data, view, PyBUF_WRITABLE if is_writable else PyBUF_SIMPLE)
        except BufferError as error:
            raise ValueError(
                f"the buffer must be {'writable and ' if is_writable else ''}C-contiguous: {error}"
            ) from error
        self.n_views += 1
        memory[0] = <char *>view.buf
        n_bytes[0] = view.len
        return 0

    cdef inline void add(self, Peer peer, char *memory, size_t n_bytes, size_t segment_size) noexcept:
        # begin() has made room for it.
        cdef int n = self.plan.n_items
        cdef Item *item = &self.plan.items[n]
        item.data = memory
        item.n_bytes = n_bytes
        item.segment_size = segment_size
        item.peer = &peer.state
        if n == 0 or self.plan.items[n - 1].peer != item.peer:
            raw_incref(<PyObject *>peer)  # one reference for neighbours
        self.plan.n_items += 1

    cdef int begin(self, list loaded, int start, int stop) except -1:
        if start < 0:
            raise ValueError(f"start {start}, must be at least 0")
        self.let_go()
        if not reserve_items(&self.plan, max(stop - start, INITIAL_ITEMS)):
            raise MemoryError
        self.loaded = loaded
        self.start = start
        self.position = self.datagrams_sent = 0
        return 0

    cdef int finish(self) except -1:
        cdef bint is_planned
        with cython.critical_section(self.peers):  # planning writes into the peers
            is_planned = plan_items(&self.plan)
        if not is_planned:
            raise MemoryError
        return self.plan.n_items

    cdef int let_go(self) except -1:
        cdef int i, n_items = self.plan.n_items, n_views = self.n_views
        self.plan.n_items = self.plan.n_trains = self.plan.n_pieces = self.n_views = 0
        for i in range(n_items):
            if i == n_items - 1 or self.plan.items[i + 1].peer != self.plan.items[i].peer:
                raw_decref(self.plan.items[i].peer.owner)
        while self.n_pinned:
            self.n_pinned -= 1
            batching_unpin(self.pinned[self.n_pinned])
        for i in range(n_views):
            PyBuffer_Release(&self.views[i])
        self.loaded = None
        return 0

    def load(self, list datagrams not None, int start=0):
        cdef int i = start, stop = min(<int>len(datagrams), start + WINDOW_)
        cdef PyObject *address = NULL
        cdef PyObject *other_address = NULL
        cdef Peer peer = None, other = None
        cdef object pair
        cdef char *memory = NULL
        cdef size_t n_bytes = 0
        self.begin(datagrams, start, stop)
        try:
            for i in range(start, stop):
                pair = <object>PyList_GET_ITEM(datagrams, i)
                if not (PyTuple_CheckExact(pair) and PyTuple_GET_SIZE(pair) == 2):
                    # The list is ours: a tuple in the pair's place holds what the pair held.
                    pair = datagrams[i] = as_pair(pair)
                if PyTuple_GET_ITEM(pair, 1) != address or peer.is_forgotten:
                    # Two destinations in turn are common: an echo, a relay.
                    peer, other = other, peer
                    address, other_address = other_address, address
                    if PyTuple_GET_ITEM(pair, 1) != address or peer.is_forgotten:
                        address = PyTuple_GET_ITEM(pair, 1)
                        peer = self.peers.find(<object>address)
                self.hold(<object>PyTuple_GET_ITEM(pair, 0), False, &memory, &n_bytes)
                self.add(peer, memory, n_bytes, 0)
            return self.finish()
        except BaseException as error:
            self.let_go()
            raise indexed("datagram", i, error)

    def load_to(self, buffers, address, Py_ssize_t offset=0, bytes header=None):
        cdef list items = list(buffers)
        cdef int i = 0, n = <int>len(items)
        cdef char *memory = NULL
        cdef size_t n_bytes = 0
        if n > WINDOW_:
            raise ValueError(f"{n} buffers, at most {WINDOW_}")
        if offset < 0 or (header is not None and len(header) != offset):
            raise ValueError(f"offset {offset}, must be 0 or more, and the length of a header")
        cdef Peer peer = self.peers.find(address)
        self.begin(items, 0, n)
        try:
            for i in range(n):
                self.hold(<object>PyList_GET_ITEM(items, i), header is not None, &memory, &n_bytes)
                if n_bytes < <size_t>offset:
                    raise ValueError(f"offset {offset}, but only {n_bytes} bytes")
                if header is None:
                    self.add(peer, memory + offset, n_bytes - offset, 0)
                else:
                    self.add(peer, memory, n_bytes, 0)
            if header is not None:
                for i in range(n):
                    memcpy(self.plan.items[i].data, PyBytes_AS_STRING(header), offset)
            self.finish()
        except BaseException as error:
            self.let_go()
            raise indexed("buffer", i, error)

    def load_segments(self, list segments not None, int start=0, Peer peer=None):
        cdef int i = start, stop = min(<int>len(segments), start + WINDOW_)
        cdef char *memory = NULL
        cdef size_t n_bytes = 0
        cdef Py_ssize_t size
        cdef object train
        cdef Peer target
        self.begin(segments, start, stop)
        try:
            for i in range(start, stop):
                train = segments[i]
                if not isinstance(train, Segments):
                    raise TypeError(f"must be Segments, not {type(train).__name__}")
                target = self.peers.find(train.addr) if peer is None else peer
                data = train.data
                if PyBytes_CheckExact(data):  # an attribute is the user's to replace: only a view holds it
                    data = PyMemoryView_FromObject(data)
                self.hold(data, False, &memory, &n_bytes)
                size = train.segment_size
                if size < 1 and n_bytes:
                    raise ValueError(f"segment_size {size}, must be at least 1")
                if n_bytes and n_bytes // size > 0x1FFFFFFF:
                    raise ValueError(f"{n_bytes // size} datagrams, at most {0x1FFFFFFF}")
                self.add(target, memory, n_bytes, <size_t>size if n_bytes > <size_t>size else 0)
            return self.finish()
        except BaseException as error:
            self.let_go()
            raise indexed("segments", i, error)

    def attempt(self, Descriptor descriptor not None, int limit=WINDOW_):
        cdef int sent, failure = 0, n = min(limit, WINDOW_, self.plan.n_trains - self.position)
        if n <= 0:
            return 0, 0
        if not descriptor.enter():
            return 0, EBADF
        with nogil:
            sent = send(descriptor.fd, &self.plan.headers[self.position], n)
            if sent < 0:
                failure = errno
                sent = 0
        descriptor.leave()
        self.count(sent)
        return sent, failure

    cdef void count(self, int sent) noexcept:
        cdef int i, n_trains = 0, n_datagrams = 0
        cdef size_t n_bytes = 0
        cdef Train *train
        for i in range(self.position, self.position + sent):
            train = &self.plan.trains[i]
            n_trains += train.segment_size != 0
            n_datagrams += train.n_datagrams
            n_bytes += train.n_bytes
        batching_count(&self.counters.send_calls, 1)
        if sent:
            self.position += sent
            self.datagrams_sent += n_datagrams
            batching_count(&self.counters.send_messages, sent)
            batching_count(&self.counters.send_trains, n_trains)
            batching_count(&self.counters.send_datagrams, n_datagrams)
            batching_count(&self.counters.send_bytes, n_bytes)

    cdef Train *current(self) except NULL:
        if self.position >= self.plan.n_trains:
            raise IndexError(f"message {self.position} of {self.plan.n_trains}")
        return &self.plan.trains[self.position]

    def peer(self):
        return <object>self.current().peer.owner

    def segment_size(self):
        return self.current().segment_size

    def split(self, int least=0):
        cdef int n = self.current().n_datagrams
        if not cut_trains(&self.plan, self.position, least, False):
            raise MemoryError
        return n

    def recut(self):
        if not cut_trains(&self.plan, self.position, 0, True):
            raise MemoryError

    def skip(self, int failure):
        cdef Train *train = self.current()
        train.failure = failure
        batching_count(&self.counters.send_errors, train.n_datagrams)
        self.position += 1

    def report(self):
        cdef int i, k
        cdef Train *train
        cdef Piece *piece
        cdef list rows = []
        for i in range(self.plan.n_trains):
            train = &self.plan.trains[i]
            if train.failure or i >= self.position:
                for k in range(train.first_piece, train.first_piece + train.n_pieces):
                    piece = &self.plan.pieces[k]
                    rows.append((self.start + piece.item, piece.first_datagram, piece.n_datagrams, train.failure))
        rows.sort()
        return merge(rows)

    def release(self):
        self.position = self.datagrams_sent = 0
        self.let_go()
        if self.plan.trains_capacity > KEPT_MESSAGES:
            free_plan(&self.plan)


cdef tuple as_pair(object pair):
    if not isinstance(pair, (tuple, list)):
        raise TypeError(f"must be a pair (data, address), not {type(pair).__name__}")
    pair = tuple(pair)
    if len(pair) != 2:
        raise TypeError(f"must be a pair (data, address), not a sequence of {len(pair)}")
    return pair


cdef object indexed(str what, int index, error):
    # Say which item was at fault; only of errors about the item.
    if isinstance(error, TypeError):
        kind = TypeError
    elif isinstance(error, (ValueError, OverflowError)):  # a number beyond C's is one out of range
        kind = ValueError
    else:
        return error
    located = kind(f"{what} {index}: {error}")
    located.__cause__ = error.__cause__
    located.__suppress_context__ = True
    return located


cdef list merge(list rows):
    # Adjoining rows of one item that met the same fate become one.
    cdef list merged = []
    for row in rows:
        if merged:
            item, first, n, failure = merged[-1]
            if item == row[0] and failure == row[3] and first + n == row[1]:
                merged[-1] = (item, first, n + row[2], failure)
                continue
        merged.append(row)
    return merged
