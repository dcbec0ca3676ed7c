"""RecvSlots: how what arrived is taken, as pairs, as trains, or into messages."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals, PyErr_Clear
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from .arrivals cimport Arrivals
from .control cimport Control, Metadata, read_control, read_metadata
from .descriptor cimport Descriptor
from .linux cimport (
    BATCHING_HAS_GIL, MSG_CTRUNC, MSG_TRUNC, POLLIN, batching_count, batching_pause_gc, batching_resume_gc, mmsghdr,
    pthread_mutex_unlock, raw_bytes, raw_decref, raw_incref, raw_list, raw_list_set, raw_list_shorten,
    raw_tuple, raw_tuple_set, raw_untrack, stolen,
)
from .message cimport Message, Target, find_oob, is_ready
from .segments cimport Segments
from .slab cimport Slab
from .slots cimport MAX_SLOTS, Arrival, Slot, next_length, take_one

cdef enum:
    COPY_BELOW = 4096  # a kept view of a small train shall not pin a slab of 64 KiB
    KEPT = 2048  # messages; room for more is given back after the call that needed it

cdef struct Replaced:  # what messages held, which may be anything: let go of without the lock
    PyObject *objects  # a list
    int n, room

cdef inline bint keep(Replaced *replaced, PyObject *held) noexcept:
    if replaced.objects == NULL:
        replaced.objects = raw_list(replaced.room)
        if replaced.objects == NULL:
            PyErr_Clear()
            return False
    raw_incref(held)
    raw_list_set(replaced.objects, replaced.n, held)
    replaced.n += 1
    return True

cdef inline void let_go(Replaced *replaced) noexcept:
    if replaced.objects != NULL:
        raw_list_shorten(replaced.objects, replaced.n)
        raw_decref(replaced.objects)

cdef inline object some(list found):  # 0: another thread was quicker
    return found if found else 0


@cython.final
@cython.no_gc  # as the base has it
cdef class RecvSlots(Arrivals):
    """Slabs that the kernel writes into, and the datagrams in them not yet taken."""
    cdef Target *targets  # where datagrams go, message by message of one call
    cdef Py_ssize_t n_targets

    def __dealloc__(self):
        free(self.targets)

    def fetch(self, Descriptor descriptor not None, int limit=0, bint sleeps=False):
        cdef int failure
        try:
            failure = self.look(descriptor, sleeps)
            return failure if failure else some(self.take(limit))
        finally:
            self.pass_on(descriptor)

    def fetch_segments(self, Descriptor descriptor not None, bint sleeps=False):
        cdef int failure
        try:
            failure = self.look(descriptor, sleeps)
            return failure if failure else some(self.take_segments())
        finally:
            self.pass_on(descriptor)

    def fetch_into(self, Descriptor descriptor not None, msgs, bint sleeps=False):
        cdef int failure
        try:
            failure = self.look(descriptor, sleeps, msgs)
            return -failure if failure else self.take_into(msgs)
        finally:
            self.pass_on(descriptor)

    cdef inline void pass_on(self, Descriptor descriptor) noexcept:
        # Others may sleep on the kernel, which knows nothing of what is pending here.
        if self.pending:
            descriptor.wake(False)

    cdef int look(self, Descriptor descriptor, bint sleeps, msgs=None) except -1:
        # An attempt, and, where there was nothing, another after a sleep, before which msgs are checked.
        cdef int pending = 0, most = MAX_SLOTS if msgs is None else self.n_copied
        cdef int failure = self.try_once(descriptor, most, &pending)
        # Patience is read after the ticket was taken: who changes it kicks then.
        if failure == EAGAIN and sleeps and descriptor.patience_s > 0:
            if msgs is not None:
                self.check(msgs)
            descriptor.sleep(POLLIN, descriptor.patience_s, self.ticket)
            failure = self.try_once(descriptor, most, &pending)
        # A signal's handler that raises shall find what came still pending.
        PyErr_CheckSignals()
        return failure

    cpdef take(self, int limit=0):
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

    cpdef take_segments(self):
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
        if self.has_metadata:
            self.tell(train)
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

    cdef int tell(self, Segments train) except -1:
        # What came with it.
        cdef mmsghdr *header = &self.headers[self.current]
        cdef Metadata found = read_metadata(<const char *>header.msg_hdr.msg_control, header.msg_hdr.msg_controllen)
        train.ecn_mark = found.ecn
        train.received_ns = found.timestamp_ns
        if found.has_local:
            train.interface_index = found.interface
            train.local_addr = self.peers.heard_at(&found, self.port)
        return 0

    cpdef check(self, msgs):
        self.prepare_messages(list(msgs))

    cdef int prepare_messages(self, list msgs) except -1:
        cdef int i = 0
        cdef PyObject *item
        cdef Target data
        try:
            while i < PyList_GET_SIZE(msgs):
                item = PyList_GET_ITEM(msgs, i)
                if type(<object>item) is not Message:
                    raise TypeError(f"must be a Message, not {type(<object>item).__name__}")
                if not is_ready(<Message>item, self.min_oob, &data):
                    (<Message>msgs[i]).prepare(self.min_oob)  # its code may change the list
                i += 1
        except TypeError as error:
            raise TypeError(f"message {i}: {error}") from None
        except ValueError as error:
            raise ValueError(f"message {i}: {error}") from None
        return 0

    cdef int locate(self, list msgs) noexcept:
        # Find, in C only, where datagrams go; return how many messages are ready, from the front.
        cdef Py_ssize_t i = 0, n = PyList_GET_SIZE(msgs)
        cdef PyObject *item
        cdef void *grown
        if n > self.n_targets:
            grown = realloc(self.targets, n * sizeof(Target))
            if grown == NULL:
                return -1
            self.targets, self.n_targets = <Target *>grown, n
        while i < n:
            item = PyList_GET_ITEM(msgs, i)
            if type(<object>item) is not Message or not is_ready(<Message>item, self.min_oob, &self.targets[i]):
                break
            i += 1
        return <int>i

    cdef int acquire_with(self, list msgs) except -1:
        # Take the lock; return how many of msgs are ready, all of them unless they change meanwhile.
        cdef int n
        self.acquire()
        n = self.locate(msgs)
        if 0 <= n < PyList_GET_SIZE(msgs):
            pthread_mutex_unlock(&self.lock)  # others' code may run now, and ask for it
            self.prepare_messages(msgs)
            self.acquire()
            n = self.locate(msgs)
        if n < 0:
            pthread_mutex_unlock(&self.lock)
            raise MemoryError
        return n

    cpdef int take_into(self, msgs) except -1:
        # The user's own list serves where nobody can change it meanwhile.
        cdef list items = msgs if BATCHING_HAS_GIL and type(msgs) is list else list(msgs)
        cdef Replaced replaced
        cdef int was_collecting, filled = 0, n = self.acquire_with(items)
        was_collecting = batching_pause_gc()
        replaced.objects, replaced.n, replaced.room = NULL, 0, n
        try:
            while self.pending and filled < n:
                self.fill_from_arrival(items, n, &filled, &replaced)
            if self.pending and n == 0 and items:
                raise ValueError("message 0: its buffers changed during the call")
        except MemoryError:
            if filled == 0:  # as in take()
                raise
        finally:
            batching_resume_gc(was_collecting)
            if self.n_targets > KEPT:
                free(self.targets)
                self.targets, self.n_targets = NULL, 0
            pthread_mutex_unlock(&self.lock)
            let_go(&replaced)
        return filled

    cdef int fill_from_arrival(self, list items, int stop, int *filled, Replaced *replaced) except -1:
        # Of one arrival, whose sender is looked up once.  What is filled counts, also when it raises.
        cdef Arrival *arrival = self.next_arrival()
        cdef char *data = self.slots[self.current].slab + arrival.taken_bytes
        cdef object address = self.sender()
        cdef size_t length, n, left = arrival.n_bytes - arrival.taken_bytes
        cdef PyObject *item = NULL
        cdef bint has_room = True
        cdef int start = filled[0], i = start
        stop = min(stop, start + arrival.n_datagrams - arrival.n_taken)
        while i < stop:
            item = PyList_GET_ITEM(items, i)
            if (<Message>item).addr is not address:
                has_room = keep(replaced, <PyObject *>(<Message>item).addr)
                if not has_room:
                    break
                (<Message>item).addr = address
            length = min(left, arrival.segment_size)
            n = min(length, <size_t>self.targets[i].n_bytes)
            memcpy(self.targets[i].memory, data, n)
            (<Message>item).n = <int>n
            (<Message>item).nn = (<Message>item).flags = 0
            if n < length:
                (<Message>item).flags = MSG_TRUNC
                batching_count(&self.counters.numbers.recv_truncated, 1)
            data += length
            left -= length
            i += 1
        if i > start:
            self.finish_messages(<Message>PyList_GET_ITEM(items, start), <Message>PyList_GET_ITEM(items, i - 1), i - start)
            arrival.taken_bytes = arrival.n_bytes - left
            filled[0] = i
        if not has_room:
            raise MemoryError
        return 0

    cdef void finish_messages(self, Message first, Message last, int n) noexcept:
        # What came with a train goes to its first datagram, that it was cut to its last; n were taken.
        cdef mmsghdr *header = &self.headers[self.current]
        cdef Arrival *arrival = &self.slots[self.current].arrival
        cdef Target oob
        if arrival.n_taken == 0:
            find_oob(first, &oob)
            first.nn = <int>min(header.msg_hdr.msg_controllen, <size_t>oob.n_bytes)
            memcpy(oob.memory, header.msg_hdr.msg_control, first.nn)
            if arrival.flags & MSG_CTRUNC or <size_t>first.nn < header.msg_hdr.msg_controllen:
                first.flags |= MSG_CTRUNC
        arrival.n_taken += n
        self.pending -= n
        if arrival.n_taken == arrival.n_datagrams:
            last.flags |= arrival.flags & MSG_TRUNC

def parse_control(const unsigned char[::1] control not None):
    """Return (segment size of UDP_GRO or 0, SO_RXQ_OVFL or -1) found in control bytes."""
    cdef Control found = read_control(<const char *>&control[0] if control.shape[0] else NULL, control.shape[0])
    return found.segment_size, found.overflows if found.has_overflows else -1


def parse_metadata(const unsigned char[::1] control not None):
    """Return (ecn, timestamp_ns, interface, local host, is it no source) found in control bytes."""
    cdef Metadata found = read_metadata(<const char *>&control[0] if control.shape[0] else NULL, control.shape[0])
    return (
        None if found.ecn < 0 else found.ecn,
        found.timestamp_ns or None,
        found.interface or None,
        PyBytes_FromStringAndSize(<char *>&found.local, 16) if found.has_local else None,
        found.is_no_source,
    )
