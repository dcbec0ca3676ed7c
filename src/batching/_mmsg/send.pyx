"""SendPlan: a window of datagrams as messages, and one sendmmsg at a time."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject
from libc.errno cimport EBADF, errno
from libc.string cimport memcpy

from .descriptor cimport Counters, Descriptor
from .lent cimport Lent, export, free_lent, lend, lend_bytearrays, take_back, trim_lent
from .linux cimport (
    batching_count, batching_load, iovec, is_tuple, raw_decref, raw_incref, raw_tuple_item, raw_tuple_size,
)
from .peers cimport Peer, Peers
from .segments cimport Segments
from .sizes cimport note_size
from .train cimport (
    Item, PeerState, Piece, Plan, Train, cut_trains, fill_pieces, free_plan, plan_items,
    reserve_items, reserve_pieces, send, trim_plan,
)

cdef enum:
    MAX_MESSAGES = 1024  # a call; UIO_MAXIOV: sendmmsg itself takes no more
    INITIAL_ITEMS = 128
    KEPT = 2048  # items or messages; room for more is given back after the call that needed it

WINDOW = WINDOW_


@cython.final
@cython.no_gc  # the collector would clear the list of what is lent, and so free that, before it is taken back
cdef class SendPlan:
    """A window of datagrams as messages: who shares one, and how far sending has come."""
    def __cinit__(self, Peers peers not None, Counters counters not None):
        self.peers = peers
        self.counters = counters

    def __dealloc__(self):
        self.let_go()
        free_lent(&self.lent)
        free_plan(&self.plan)

    @property
    def n_messages(self):
        return self.plan.n_trains

    @property
    def left(self):
        return self.plan.n_trains - self.position

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

    cdef inline void aim(self, Peer peer) noexcept:  # until spread() all items are datagrams to it
        raw_incref(<PyObject *>peer)
        self.plan.only = &peer.state

    cdef void spread(self) noexcept:
        # Others follow: what was laid out for the only one becomes items, with its reference.
        cdef int i
        cdef Item *item
        for i in range(self.plan.n_items):
            item = &self.plan.items[i]
            item.data = <char *>self.plan.iovecs[i].iov_base
            item.n_bytes = self.plan.iovecs[i].iov_len
            item.segment_size = 0
            item.peer = self.plan.only
        self.plan.only = NULL

    cdef int begin(self, list loaded, int start, int stop) except -1:
        cdef int room = max(stop - start, INITIAL_ITEMS)
        self.let_go()
        if start < 0:
            raise ValueError(f"start {start}, must be at least 0")
        if not (reserve_items(&self.plan, room) and reserve_pieces(&self.plan, room)):
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
        cdef int i, n_items = self.plan.n_items
        cdef PeerState *only = self.plan.only
        self.plan.n_items = self.plan.n_trains = self.plan.n_pieces = self.plan.marks.n = 0
        self.plan.only = NULL
        if only != NULL:
            raw_decref(only.owner)
            n_items = 0
        for i in range(n_items):
            if i == n_items - 1 or self.plan.items[i + 1].peer != self.plan.items[i].peer:
                raw_decref(self.plan.items[i].peer.owner)
        take_back(&self.lent)
        self.loaded = None
        trim_plan(&self.plan, KEPT)
        trim_lent(&self.lent, KEPT)
        return 0

    cpdef int load(self, list datagrams, int start=0) except -1:
        cdef int i = start, stop = min(<int>len(datagrams), start + WINDOW_)
        self.begin(datagrams, start, stop)
        try:
            if start < stop:
                self.take_only(datagrams, &i, stop)
                if i < stop:
                    self.spread()
                    self.take_mixed(datagrams, &i, stop)
            return self.finish()
        except BaseException as error:
            self.let_go()
            raise indexed("datagram", i, error)

    cdef int take_only(self, list datagrams, int *i, int stop) except -1:
        # As far as all goes to one address.
        cdef PyObject *pair
        cdef PyObject *address = NULL
        cdef char *memory = NULL
        cdef size_t n_bytes = 0
        cdef iovec *vector = self.plan.iovecs
        while i[0] < stop:
            pair = PyList_GET_ITEM(datagrams, i[0])
            if not is_pair(pair):
                return 0
            if raw_tuple_item(pair, 1) != address:
                if address != NULL:
                    return 0
                address = raw_tuple_item(pair, 1)
                self.aim(self.peers.find(<object>address))
            lend(&self.lent, raw_tuple_item(pair, 0), False, &memory, &n_bytes)
            vector.iov_base = memory
            vector.iov_len = n_bytes
            vector += 1
            i[0] += 1
            self.plan.n_items += 1
        return 0

    cdef int take_mixed(self, list datagrams, int *i, int stop) except -1:
        cdef PyObject *pair
        cdef PyObject *peer
        cdef PyObject *address
        cdef PyObject *first_address = NULL
        cdef PyObject *second_address = NULL
        cdef Peer first = None, second = None  # two destinations in turn are common: an echo, a relay
        cdef char *memory = NULL
        cdef size_t n_bytes = 0
        while i[0] < stop:
            pair = PyList_GET_ITEM(datagrams, i[0])
            if not is_pair(pair):
                # The list is ours: a tuple in the pair's place holds what the pair held.
                datagrams[i[0]] = as_pair(<object>pair)
                continue
            address = raw_tuple_item(pair, 1)
            if address == first_address and not first.is_forgotten:
                peer = <PyObject *>first
            elif address == second_address and not second.is_forgotten:
                peer = <PyObject *>second
            else:
                second, second_address = first, first_address
                first, first_address = self.peers.find(<object>address), address
                peer = <PyObject *>first
            lend(&self.lent, raw_tuple_item(pair, 0), False, &memory, &n_bytes)
            self.add(<Peer>peer, memory, n_bytes, 0)
            i[0] += 1
        return 0

    cpdef load_to(self, buffers, address, Py_ssize_t offset=0, bytes header=None):
        self.let_go()
        cdef list items = list(buffers)
        cdef int i = 0, n = <int>len(items)
        cdef bint is_written = header is not None
        cdef Py_ssize_t left_out = 0 if is_written else offset
        cdef iovec *vector
        cdef char *memory = NULL
        cdef size_t n_bytes = 0
        if n > WINDOW_:
            raise ValueError(f"{n} buffers, at most {WINDOW_}")
        if offset < 0 or (header is not None and len(header) != offset):
            raise ValueError(f"offset {offset}, must be 0 or more, and the length of a header")
        cdef Peer peer = self.peers.find(address)
        self.begin(items, 0, n)
        try:
            if n:
                self.aim(peer)
            vector = self.plan.iovecs
            for i in range(lend_bytearrays(&self.lent, items, offset, left_out, vector), n):
                lend(&self.lent, PyList_GET_ITEM(items, i), is_written, &memory, &n_bytes)
                if n_bytes < <size_t>offset:
                    raise ValueError(f"offset {offset}, but only {n_bytes} bytes")
                vector[i].iov_base = memory + left_out
                vector[i].iov_len = n_bytes - left_out
            self.plan.n_items = n
            if is_written:
                for i in range(n):
                    memcpy(vector[i].iov_base, PyBytes_AS_STRING(header), offset)
            self.finish()
        except BaseException as error:
            self.let_go()
            raise indexed("buffer", i, error)

    cpdef int load_segments(self, list segments, int start=0, Peer peer=None) except -1:
        cdef int mark, i = start, stop = min(<int>len(segments), start + WINDOW_)
        cdef char *memory = NULL
        cdef size_t n_bytes = 0
        cdef Py_ssize_t size
        cdef Segments train
        cdef Peer target
        self.begin(segments, start, stop)
        try:
            for i in range(start, stop):
                if not isinstance(segments[i], Segments):
                    raise TypeError(f"must be Segments, not {type(segments[i]).__name__}")
                train = <Segments>PyList_GET_ITEM(segments, i)
                target = self.peers.find(train.addr) if peer is None else peer
                # The data are the user's to replace: only what is exported holds them.
                export(&self.lent, train.shown(), False, &memory, &n_bytes)
                size = train.segment_size
                if size < 1 and n_bytes:
                    raise ValueError(f"segment_size {size}, must be at least 1")
                if n_bytes and n_bytes // size > 0x1FFFFFFF:
                    raise ValueError(f"{n_bytes // size} datagrams, at most {0x1FFFFFFF}")
                mark = 0 if peer is not None else train.mark_in(&self.plan.marks, self.peers)
                self.plan.items[i - start].mark = mark
                self.add(target, memory, n_bytes, <size_t>size if n_bytes > <size_t>size else 0)
            return self.finish()
        except BaseException as error:
            self.let_go()
            raise indexed("segments", i, error)

    cdef int depart(self, Descriptor descriptor) except -2:
        # The first attempt: its errno; -1 when it took all, and nothing is held any more.
        cdef int failure = 0
        self.send_once(descriptor, MAX_MESSAGES, &failure)
        if self.position < self.plan.n_trains:
            return failure
        if self.plan.n_trains == 0 and batching_load(&descriptor.is_closed):
            return EBADF
        self.position = 0
        self.let_go()
        return -1

    def attempt(self, Descriptor descriptor not None, int limit=MAX_MESSAGES):
        cdef int failure = 0, sent = self.send_once(descriptor, limit, &failure)
        return sent, failure

    cdef int send_once(self, Descriptor descriptor, int limit, int *failure) except -1:
        cdef int sent, n = min(limit, MAX_MESSAGES, self.plan.n_trains - self.position)
        if n <= 0:
            return 0
        if not descriptor.enter():
            failure[0] = EBADF
            return 0
        with nogil:
            sent = send(descriptor.fd, &self.plan.headers[self.position], n)
            if sent < 0:
                failure[0] = errno
                sent = 0
        descriptor.leave()
        self.count(sent)
        return sent

    cdef void count(self, int sent) noexcept:
        cdef int i, n_datagrams = 0
        cdef size_t n_bytes = 0
        cdef Train *train
        for i in range(self.position, self.position + sent):
            train = &self.plan.trains[i]
            note_size(self.counters.numbers.send_datagrams_per_message, train.n_datagrams)
            n_datagrams += train.n_datagrams
            n_bytes += train.n_bytes
        batching_count(&self.counters.numbers.send_calls, 1)
        if sent:
            note_size(self.counters.numbers.send_messages_per_call, sent)
            self.position += sent
            self.datagrams_sent += n_datagrams
            batching_count(&self.counters.numbers.send_datagrams, n_datagrams)
            batching_count(&self.counters.numbers.send_bytes, n_bytes)

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
        batching_count(&self.counters.numbers.send_errors, train.n_datagrams)
        self.position += 1

    def report(self):
        cdef int i, k
        cdef Train *train
        cdef Piece *piece
        rows = []
        fill_pieces(&self.plan)
        for i in range(self.plan.n_trains):
            train = &self.plan.trains[i]
            if train.failure or i >= self.position:
                for k in range(train.first_piece, train.first_piece + train.n_pieces):
                    piece = &self.plan.pieces[k]
                    rows.append((self.start + piece.item, piece.first_datagram, piece.n_datagrams, train.failure))
        return merge(sorted(rows))

    cpdef release(self):
        self.position = self.datagrams_sent = 0
        self.let_go()


cdef inline bint is_pair(PyObject *pair) noexcept:
    return is_tuple(pair) and raw_tuple_size(pair) == 2


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
