from libc.stdint cimport uint64_t

from .linux cimport batching_add, batching_load, pthread_mutex_t
from .sizes cimport N_SIZES

cdef struct Numbers:
    uint64_t recv_calls, recv_datagrams, recv_bytes, recv_truncated, recv_control_truncated
    uint64_t recv_datagrams_per_message[N_SIZES]
    uint64_t recv_messages_per_call[N_SIZES]
    uint64_t send_calls, send_datagrams, send_bytes, send_errors
    uint64_t send_datagrams_per_message[N_SIZES]
    uint64_t send_messages_per_call[N_SIZES]


cdef class Counters:
    cdef Numbers numbers


cdef class Descriptor:
    cdef object __weakref__
    cdef object sock
    cdef int fd, wake_fd, pid
    cdef bint has_wake_fd
    cdef int users, is_closed, is_freed  # users: one for each call inside, and one for being open
    cdef public double patience_s
    cdef int n_sleepers, n_stale  # stale: asleep since before the last kick
    cdef uint64_t kicks
    cdef pthread_mutex_t lock  # held for a few instructions at a time, never over Python code

    cdef int sleep(self, int events, double timeout_s, uint64_t ticket) except -1
    cdef void wake(self, bint for_good) noexcept nogil
    cdef int free(self) except -1
    cdef void close_wake_fd(self) noexcept nogil

    cdef inline bint enter(self) except -1:
        batching_add(&self.users, 1)
        if batching_load(&self.is_closed):
            self.leave()
            return False
        return True

    cdef inline int leave(self) except -1:
        if batching_add(&self.users, -1) <= 0 and batching_load(&self.is_closed):
            return self.free()
        return 0
