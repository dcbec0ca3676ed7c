"""Arrivals: slabs that the kernel writes into, and what it wrote, until somebody takes it."""

cimport cython
from libc.errno cimport EBADF, EBADMSG, ENOMEM, ESHUTDOWN, errno
from libc.stdint cimport uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from .descriptor cimport Counters, Descriptor, Numbers
from .linux cimport (
    batching_count, iovec, mmsghdr, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock,
    pthread_mutex_trylock, pthread_mutex_unlock, sockaddr_in6,
)
from .peers cimport Peers
from .sizes cimport note_size
from .slab cimport Pool
from .slots cimport (
    CACHED, COPIED, FEW_SLOTS, LONE_CALLS, MAX_SLOTS, PATIENCE, PATIENCE_ALONE, Arrival, Slot, Tally, empty_pool,
    give_slab, prepare_slot, raise_trim_threshold, read_arrival, receive, take_slab,
)


@cython.no_gc  # it holds nothing that could hold it, and __dealloc__ needs its pool
cdef class Arrivals:
    """Slabs that the kernel writes into, and what it wrote; RecvSlots takes it."""

    def __cinit__(self, Peers peers not None, Counters counters not None, int max_slots=16,
                  bint gro=True, size_t control_size=512, size_t min_oob=48,
                  bint metadata=False, int port=0):
        if not 1 <= max_slots <= MAX_SLOTS:
            raise ValueError(f"max_slots {max_slots}, must be 1 to {MAX_SLOTS}")
        self.peers = peers
        self.counters = counters
        self.pool = Pool()
        self.max_slots = max_slots
        self.n_slots = min(FEW_SLOTS, max_slots)
        self.n_copied = FEW_SLOTS
        self.gro = gro
        self.control_size = control_size
        self.min_oob = min_oob
        self.has_metadata = metadata
        self.port = <uint16_t>port
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
        cdef int pending = 0, failure = self.try_once(descriptor, MAX_SLOTS, &pending)
        return pending, failure

    cdef int try_once(self, Descriptor descriptor, int most, int *pending) except -1:
        cdef int failure
        if not descriptor.enter():
            return EBADF
        self.acquire()
        failure = self.ask(descriptor, most)
        pending[0] = self.pending
        # Nothing that may run Python code before this.
        pthread_mutex_unlock(&self.lock)
        descriptor.leave()
        return failure

    cdef int ask(self, Descriptor descriptor, int most) noexcept:
        # One system call unless something is pending; return errno or 0.
        cdef int received, failure = 0, n = min(self.n_slots, most)
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
        batching_count(&self.counters.numbers.recv_calls, 1)
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
        cdef Numbers *numbers = &self.counters.numbers
        memset(&tally, 0, sizeof(tally))
        for i in range(received):
            read_arrival(&self.headers[i], &self.slots[i].arrival, self.gro, &tally)
            if self.slots[i].arrival.n_datagrams:
                note_size(numbers.recv_datagrams_per_message, self.slots[i].arrival.n_datagrams)
        self.n_arrived = received
        self.current = 0
        self.pending = tally.n_datagrams
        if tally.has_overflows:
            self.overflows = tally.overflows
        if tally.n_messages:
            note_size(numbers.recv_messages_per_call, tally.n_messages)
        batching_count(&numbers.recv_datagrams, tally.n_datagrams)
        batching_count(&numbers.recv_bytes, tally.n_bytes)
        if tally.n_cut or tally.n_control_cut:
            batching_count(&numbers.recv_truncated, tally.n_cut)
            batching_count(&numbers.recv_control_truncated, tally.n_control_cut)
        if asked > 1 or self.n_slots == 1:
            self.adapt(received, tally.n_bytes)
        if tally.n_lost:
            return EBADMSG
        return ESHUTDOWN if tally.is_shut_down and not self.pending else 0

    cdef void adapt(self, int received, size_t n_bytes) noexcept:
        # As many slots as are used; at a quarter full half as many.  Memory follows the load,
        # and the load of long trains follows the cache (64 KiB each, 2026-11-24: with 4 slots
        # recv_batch takes 390 ns a datagram, with 16 of them 480).
        if n_bytes:
            self.n_copied = max(1, <int>(COPIED * <size_t>received // n_bytes))
        self.n_lone = self.n_lone + 1 if received == 1 else 0
        if self.n_lone >= LONE_CALLS:
            self.n_lone -= 1
            self.n_alone = PATIENCE_ALONE
        if n_bytes > CACHED and self.n_slots > FEW_SLOTS:
            self.n_slots //= 2  # the slabs of the others are not to be freed: they are full
        elif received == self.n_slots:
            self.n_idle = 0
            if 2 * n_bytes <= CACHED:
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
        return self.peers.hear(&self.names[self.current], header.msg_hdr.msg_namelen).address

    def shrink(self):
        self.acquire()
        if not self.pending:
            self.n_slots = min(FEW_SLOTS, self.max_slots)
            self.free_slabs(1)
        pthread_mutex_unlock(&self.lock)

    def after_fork(self):
        pthread_mutex_init(&self.lock, NULL)
        pthread_mutex_init(&self.pool.pool.lock, NULL)
