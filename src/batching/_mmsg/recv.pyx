"""RecvSlots: slabs that the kernel writes into, and the datagrams in them not yet taken."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_Clear
from cpython.object cimport PyObject
from libc.errno cimport EBADF, EBADMSG, ENOMEM, ESHUTDOWN, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from .control cimport Control, read_control
from .descriptor cimport Counters, Descriptor
from .linux cimport (
    MSG_CTRUNC, MSG_TRUNC, batching_count, batching_pause_gc, batching_resume_gc, iovec, mmsghdr,
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t, pthread_mutex_trylock,
    pthread_mutex_unlock, raw_bytes, raw_decref, raw_incref, raw_list, raw_list_set, raw_list_shorten,
    raw_tuple, raw_tuple_set, raw_untrack, sockaddr_in6, stolen,
)
from .message cimport Message, Target, is_ready, locate
from .peers cimport Peers
from .segments cimport Segments
from .slab cimport Pool, Slab
from .slots cimport (
    FEW_SLOTS, LONE_CALLS, MAX_SLOTS, PATIENCE, PATIENCE_ALONE, Arrival, Slot, Tally, empty_pool,
    give_slab, next_length, prepare_slot, raise_trim_threshold, read_arrival, receive, take_one, take_slab,
)

cdef enum:
    COPY_BELOW = 4096  # a kept view of a small train shall not pin a slab of 64 KiB


@cython.final
@cython.no_gc  # it holds nothing that could hold it, and __dealloc__ needs its pool
cdef class RecvSlots:
    """Slabs that the kernel writes into, and the datagrams in them not yet taken."""
    cdef object __weakref__
    cdef Peers peers
    cdef Counters counters
    cdef Pool pool
    cdef pthread_mutex_t lock
    cdef Slot *slots
    cdef mmsghdr *headers
    cdef iovec *iovecs
    cdef sockaddr_in6 *names
    cdef char *controls
    cdef size_t control_size, min_oob
    cdef bint gro
    cdef int max_slots, n_slots  # allowed, and in use now
    cdef int n_lone  # calls in a row that brought one message,
    cdef int n_alone  # and so, calls to come that ask for no more
    cdef int n_arrived, current  # of the last call's messages: how many, and the first not yet taken whole
    cdef int n_idle  # calls in a row that left most slots empty
    cdef readonly int pending
    cdef readonly uint32_t overflows
    cdef readonly uint64_t ticket

    def __cinit__(self, Peers peers not None, Counters counters not None, int max_slots=16,
                  bint gro=True, size_t control_size=512, size_t min_oob=48):
        if not 1 <= max_slots <= MAX_SLOTS:
            raise ValueError(f"max_slots {max_slots}, must be 1 to {MAX_SLOTS}")
        self.peers = peers
        self.counters = counters
        self.pool = Pool()
        self.max_slots = max_slots
        self.n_slots = min(FEW_SLOTS, max_slots)
        self.gro = gro
        self.control_size = control_size
        self.min_oob = min_oob
        pthread_mutex_init(&self.lock, NULL)
        raise_trim_threshold()
        self.slots = <Slot *>calloc(max_slots, sizeof(Slot))
        self.headers = <mmsghdr *>calloc(max_slots, sizeof(mmsghdr))
        self.iovecs = <iovec *>calloc(max_slots, sizeof(iovec))
        self.names = <sockaddr_in6 *>calloc(max_slots, sizeof(sockaddr_in6))
        self.controls = <char *>calloc(max_slots, control_size + 1)
        if not (self.slots and self.headers and self.iovecs and self.names and self.controls):
            raise MemoryError

    def __dealloc__(self):
        if self.slots != NULL:
            self.free_slabs(0)
        free(self.slots)
        free(self.headers)
        free(self.iovecs)
        free(self.names)
        free(self.controls)
        pthread_mutex_destroy(&self.lock)

    @property
    def has_pending(self):
        return self.pending > 0

    cdef void acquire(self) noexcept:
        # Never held while waiting, yet by others over a system call: let them come to its end.
        if pthread_mutex_trylock(&self.lock):
            with nogil:
                pthread_mutex_lock(&self.lock)

    cdef void free_slabs(self, int first) noexcept:
        cdef int i
        for i in range(first, self.max_slots):
            if self.slots[i].slab != NULL:
                give_slab(&self.pool.pool, self.slots[i].slab)
            self.slots[i].slab = NULL
        empty_pool(&self.pool.pool, False)

    def attempt(self, Descriptor descriptor not None):
        cdef int failure, pending
        if not descriptor.enter():
            return 0, EBADF
        self.acquire()
        failure = self.ask(descriptor)
        pending = self.pending
        # Nothing that may run Python code, not even making the result, before this.
        pthread_mutex_unlock(&self.lock)
        descriptor.leave()
        return pending, failure

    cdef int ask(self, Descriptor descriptor) noexcept:
        # One system call unless something is pending; return errno or 0.
        cdef int received, failure = 0, n = self.n_slots
        if self.pending:
            return 0
        if self.n_alone:
            self.n_alone -= 1
            n = 1
        if not self.prepare(n):
            return ENOMEM
        self.ticket = descriptor.kicks
        with nogil:
            received = receive(descriptor.fd, self.headers, n)
            if received < 0:
                failure = errno
        batching_count(&self.counters.recv_calls, 1)
        return self.read_arrivals(received, n) if received > 0 else failure

    cdef bint prepare(self, int n) noexcept:
        cdef int i
        for i in range(n):
            if self.slots[i].slab == NULL:
                self.slots[i].slab = take_slab(&self.pool.pool)
                if self.slots[i].slab == NULL:
                    return False
            prepare_slot(&self.headers[i], &self.iovecs[i], &self.slots[i], &self.names[i],
                         self.controls + <size_t>i * self.control_size, self.control_size)
        return True

    cdef int read_arrivals(self, int received, int asked) noexcept:
        cdef int i
        cdef Tally tally
        memset(&tally, 0, sizeof(tally))
        for i in range(received):
            read_arrival(&self.headers[i], &self.slots[i].arrival, self.gro, &tally)
        self.n_arrived = received
        self.current = 0
        self.pending = tally.n_datagrams
        if tally.has_overflows:
            self.overflows = tally.overflows
        batching_count(&self.counters.recv_messages, tally.n_messages)
        batching_count(&self.counters.recv_trains, tally.n_trains)
        batching_count(&self.counters.recv_datagrams, tally.n_datagrams)
        batching_count(&self.counters.recv_bytes, tally.n_bytes)
        if tally.n_cut or tally.n_control_cut:
            batching_count(&self.counters.recv_truncated, tally.n_cut)
            batching_count(&self.counters.recv_control_truncated, tally.n_control_cut)
        if asked > 1 or self.n_slots == 1:
            self.adapt(received)
        if tally.n_lost:
            return EBADMSG
        return ESHUTDOWN if tally.is_shut_down and not self.pending else 0

    cdef void adapt(self, int received) noexcept:
        # As many slots as are used; at a quarter full half as many.  Memory follows the load.
        self.n_lone = self.n_lone + 1 if received == 1 else 0
        if self.n_lone >= LONE_CALLS:
            self.n_lone -= 1
            self.n_alone = PATIENCE_ALONE
        if received == self.n_slots:
            self.n_idle = 0
            self.n_slots = min(2 * self.n_slots, self.max_slots)
        elif received * 4 > self.n_slots:
            self.n_idle = 0
        elif self.n_slots > FEW_SLOTS:
            self.n_idle += 1
            if self.n_idle >= PATIENCE and received <= self.n_slots // 2:
                self.n_idle = 0
                self.n_slots //= 2
                self.free_slabs(self.n_slots)

    cdef Arrival *next_arrival(self) noexcept:
        # The arrival of the next pending datagram; only to be called with one pending.
        while self.slots[self.current].arrival.n_taken == self.slots[self.current].arrival.n_datagrams:
            self.current += 1
        return &self.slots[self.current].arrival

    cdef object sender(self):
        cdef mmsghdr *header = &self.headers[self.current]
        return self.peers.heard_from(&self.names[self.current], header.msg_hdr.msg_namelen)

    def take(self, int limit=0):
        cdef int was_collecting, n, taken = 0
        cdef PyObject *out = NULL
        self.acquire()
        was_collecting = batching_pause_gc()  # a finalizer must not meet us with the lock held
        try:
            n = self.pending if limit <= 0 else min(limit, self.pending)
            out = raw_list(n)
            if out == NULL:
                raise MemoryError
            while taken < n:
                taken += self.take_pairs(out, taken, n)
        except MemoryError:
            if taken == 0:  # else what is there is returned, and the rest waits
                raise
        finally:
            self.hand_over(out, taken, n, was_collecting)
        return stolen(out)

    cdef void hand_over(self, PyObject *out, int taken, int room, int was_collecting) noexcept:
        # Ends what takes into a list: nothing here can fail, so nothing taken is lost.
        batching_resume_gc(was_collecting)
        pthread_mutex_unlock(&self.lock)
        if out != NULL:
            raw_list_shorten(out, taken)
            if taken == 0 and room > 0:  # the call raises
                raw_decref(out)

    cdef int take_pairs(self, PyObject *out, int start, int stop) except -1:
        # Of one arrival; the sender is looked up once.
        cdef Arrival *arrival = self.next_arrival()
        cdef char *slab = self.slots[self.current].slab
        cdef PyObject *data
        cdef PyObject *pair
        cdef object address = self.sender()
        cdef size_t length
        cdef int i = start
        while i < stop and arrival.n_taken < arrival.n_datagrams:
            length = next_length(arrival)
            data = raw_bytes(slab + arrival.taken_bytes, length)
            pair = raw_tuple(2) if data != NULL else NULL
            if pair == NULL:
                if data != NULL:
                    raw_decref(data)
                if i > start:
                    PyErr_Clear()
                    return i - start
                raise MemoryError
            raw_incref(<PyObject *>address)
            raw_tuple_set(pair, 0, data)
            raw_tuple_set(pair, 1, <PyObject *>address)
            raw_untrack(pair)  # bytes and a tuple of atoms: no cycle, nothing for the collector to visit
            raw_list_set(out, i, pair)
            take_one(arrival, length)
            self.pending -= 1
            i += 1
        return i - start

    def take_segments(self):
        cdef int was_collecting, room = 0, n = 0
        cdef PyObject *out = NULL
        self.acquire()
        was_collecting = batching_pause_gc()
        try:
            room = self.n_arrived - self.current if self.pending else 0
            out = raw_list(room)
            if out == NULL:
                raise MemoryError
            while self.pending:
                train = self.take_train()
                raw_incref(<PyObject *>train)
                raw_list_set(out, n, <PyObject *>train)
                n += 1
        except MemoryError:
            if n == 0:
                raise
        finally:
            self.hand_over(out, n, room, was_collecting)
        return stolen(out)

    cdef Segments take_train(self):
        cdef Arrival *arrival = self.next_arrival()
        cdef Slot *slot = &self.slots[self.current]
        cdef size_t n_bytes = arrival.n_bytes - arrival.taken_bytes
        cdef int n_datagrams = arrival.n_datagrams - arrival.n_taken
        cdef Slab slab
        cdef Segments train = Segments.__new__(Segments)
        train.segment_size = arrival.segment_size if n_datagrams > 1 else n_bytes
        train.addr = self.sender()
        train.truncated = arrival.flags & MSG_TRUNC
        if n_bytes < COPY_BELOW:
            train.source = PyBytes_FromStringAndSize(slot.slab + arrival.taken_bytes, n_bytes)
        else:
            slab = Slab.__new__(Slab)
            slab.pool = self.pool
            slab.data, slab.n_bytes = slot.slab + arrival.taken_bytes, n_bytes
            train.source = slab
            slab.memory = slot.slab  # from here on it is the train's
            slot.slab = NULL
        arrival.n_taken = arrival.n_datagrams
        self.pending -= n_datagrams
        return train

    def check(self, msgs):
        self.prepare_messages(list(msgs))

    cdef int prepare_messages(self, list msgs) except -1:
        cdef int i = 0
        cdef Message message
        try:
            for i in range(len(msgs)):
                if type(msgs[i]) is not Message:
                    raise TypeError(f"must be a Message, not {type(msgs[i]).__name__}")
                message = <Message>msgs[i]
                if not is_ready(message, self.min_oob):
                    message.prepare(self.min_oob)
        except TypeError as error:
            raise TypeError(f"message {i}: {error}") from None
        except ValueError as error:
            raise ValueError(f"message {i}: {error}") from None
        return 0

    def take_into(self, msgs):
        cdef list items = msgs if type(msgs) is list else list(msgs)
        cdef list replaced = []  # what a Message held; let go of after the lock, it may be anything
        cdef int was_collecting, filled = 0
        self.prepare_messages(items)
        self.acquire()
        was_collecting = batching_pause_gc()
        try:
            while self.pending and filled < len(items) and self.fill_from_train(items, &filled, replaced):
                pass
            if self.pending and filled == 0 and items:
                raise ValueError("message 0: its buffers changed during the call")
        except MemoryError:
            if filled == 0:  # as in take()
                raise
        finally:
            batching_resume_gc(was_collecting)
            pthread_mutex_unlock(&self.lock)
        return filled

    cdef int fill_from_train(self, list items, int *filled, list replaced) except -1:
        # Of one arrival, whose sender is looked up once.  What is filled counts, also when it raises.
        cdef int start = filled[0]
        cdef Arrival *arrival = self.next_arrival()
        cdef object address = self.sender()
        cdef Message message
        cdef Target data, oob
        while (filled[0] < len(items) and type(items[filled[0]]) is Message
               and arrival.n_taken < arrival.n_datagrams):
            message = <Message>items[filled[0]]
            if not locate(message, &data, &oob):
                break
            if message.addr is not address:
                replaced.append(message.addr)
                message.addr = address
            self.fill(message, arrival, &data, &oob)
            filled[0] += 1
        return filled[0] - start

    cdef void fill(self, Message message, Arrival *arrival, Target *data, Target *oob) noexcept:
        cdef Slot *slot = &self.slots[self.current]
        cdef mmsghdr *header = &self.headers[self.current]
        cdef size_t length = next_length(arrival), n = min(length, <size_t>data.n_bytes)
        memcpy(data.memory, slot.slab + arrival.taken_bytes, n)
        message.n = <int>n
        message.nn = message.flags = 0
        if arrival.n_taken == 0:
            message.nn = <int>min(header.msg_hdr.msg_controllen, <size_t>oob.n_bytes)
            memcpy(oob.memory, header.msg_hdr.msg_control, message.nn)
            if <size_t>message.nn < header.msg_hdr.msg_controllen:
                message.flags = MSG_CTRUNC
            message.flags |= arrival.flags & MSG_CTRUNC
        take_one(arrival, length)
        self.pending -= 1
        if arrival.n_taken == arrival.n_datagrams:
            message.flags |= arrival.flags & MSG_TRUNC
        if n < length:
            message.flags |= MSG_TRUNC
            batching_count(&self.counters.recv_truncated, 1)

    def shrink(self):
        self.acquire()
        if not self.pending:
            self.n_slots = min(FEW_SLOTS, self.max_slots)
            self.free_slabs(1)
        pthread_mutex_unlock(&self.lock)

    def after_fork(self):
        pthread_mutex_init(&self.lock, NULL)
        pthread_mutex_init(&self.pool.pool.lock, NULL)


def parse_control(const unsigned char[::1] control not None):
    """Return (segment size of UDP_GRO or 0, SO_RXQ_OVFL or -1) found in control bytes."""
    cdef Control found = read_control(<const char *>&control[0] if control.shape[0] else NULL, control.shape[0])
    return found.segment_size, found.overflows if found.has_overflows else -1
