# Receive slots: what the kernel writes into, and how one system call is read.
# C only; no Python object is touched.

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from .control cimport Control, read_control
from .linux cimport (
    MSG_CTRUNC, MSG_DONTWAIT, MSG_TRUNC, batching_hold, batching_let_go, iovec, mmsghdr, pthread_mutex_t, recvmmsg,
    recvmsg, sockaddr_in6,
)

cdef enum:
    SLAB_SIZE = 65536  # no UDP message, merged or not, is longer than 65535
    MAX_SLOTS = 64
    FEW_SLOTS = 4  # in use at first, and after a rest
    SPARE_SLABS = 16
    LONE_CALLS = 8  # in a row that brought one message: then recvmsg, the quicker one for one,
    PATIENCE_ALONE = 16  # is called so often before several are asked for again
    CACHED = 262144  # bytes: what a call brings should still be in the cache when it is taken
    COPIED = 131072  # bytes: the same, where the buffers that it is copied into are in the cache as well
    PATIENCE = 64  # calls in a row that used a quarter of the slots or less, then there are half as many

cdef struct Arrival:  # a message as it came
    size_t n_bytes
    size_t segment_size  # n_bytes where it is a single datagram
    size_t taken_bytes
    int n_datagrams
    int n_taken
    int flags

cdef struct Slot:
    char *slab  # NULL: given away, or not yet there
    Arrival arrival

cdef struct SlabPool:  # memory of slabs that nobody looks at any more
    pthread_mutex_t lock
    int n_spare
    bint is_closed
    char *spare[SPARE_SLABS]

cdef struct Tally:  # what one call brought
    int n_datagrams
    int n_messages
    int n_lost  # perhaps merged, and without their segment size
    int n_cut
    int n_control_cut
    bint is_shut_down
    bint has_overflows
    uint32_t overflows
    size_t n_bytes


cdef inline char *take_slab(SlabPool *pool) noexcept:
    cdef char *slab = NULL
    batching_hold(&pool.lock)
    if pool.n_spare:
        pool.n_spare -= 1
        slab = pool.spare[pool.n_spare]
    batching_let_go(&pool.lock)
    return slab if slab != NULL else <char *>malloc(SLAB_SIZE)

cdef inline void give_slab(SlabPool *pool, char *slab) noexcept:
    batching_hold(&pool.lock)
    if slab != NULL and pool.n_spare < SPARE_SLABS and not pool.is_closed:
        pool.spare[pool.n_spare] = slab
        pool.n_spare += 1
        slab = NULL
    batching_let_go(&pool.lock)
    free(slab)

cdef inline void empty_pool(SlabPool *pool, bint for_good) noexcept:
    cdef int i
    batching_hold(&pool.lock)
    for i in range(pool.n_spare):
        free(pool.spare[i])
    pool.n_spare = 0
    pool.is_closed = pool.is_closed or for_good
    batching_let_go(&pool.lock)


cdef inline void raise_trim_threshold() noexcept:
    # glibc gives free memory above 128 KiB back to the kernel, and a batch of 1400-byte
    # datagrams is more: then every batch pays for its pages anew (820 ns a datagram, not
    # 190; 2026-11-24, Linux 6.18).  Freeing one block of this size, untouched, moves that
    # threshold to twice its size (malloc/malloc.c, "dynamic mmap threshold").
    PyMem_RawFree(PyMem_RawMalloc(2 << 20))  # not malloc: compilers leave out such a pair


cdef inline int receive(int fd, mmsghdr *headers, int n) noexcept nogil:
    # One system call; recvmsg is the quicker one for one message.
    cdef ssize_t n_bytes
    if n > 1:
        return recvmmsg(fd, headers, n, MSG_DONTWAIT, NULL)
    n_bytes = recvmsg(fd, &headers.msg_hdr, MSG_DONTWAIT)
    if n_bytes < 0:
        return -1
    headers.msg_len = <unsigned int>n_bytes
    return 1

cdef inline void prepare_slot(mmsghdr *header, iovec *vector, Slot *slot, sockaddr_in6 *name, char *control,
                              size_t control_size) noexcept nogil:
    memset(header, 0, sizeof(mmsghdr))
    memset(name, 0, sizeof(sockaddr_in6))
    vector.iov_base = slot.slab
    vector.iov_len = SLAB_SIZE
    header.msg_hdr.msg_name = name
    header.msg_hdr.msg_namelen = sizeof(sockaddr_in6)
    header.msg_hdr.msg_iov = vector
    header.msg_hdr.msg_iovlen = 1
    header.msg_hdr.msg_control = control
    header.msg_hdr.msg_controllen = control_size

cdef inline void read_arrival(mmsghdr *header, Arrival *arrival, bint may_be_merged, Tally *tally) noexcept nogil:
    cdef Control control = read_control(<const char *>header.msg_hdr.msg_control, header.msg_hdr.msg_controllen)
    memset(arrival, 0, sizeof(Arrival))
    if control.has_overflows:
        tally.has_overflows = True
        tally.overflows = control.overflows
    arrival.flags = header.msg_hdr.msg_flags & (MSG_TRUNC | MSG_CTRUNC)
    if header.msg_hdr.msg_namelen == 0:  # what recvmsg gives after shutdown(); a datagram has a sender
        tally.is_shut_down = True
        return
    if arrival.flags & MSG_CTRUNC:
        tally.n_control_cut += 1
        if may_be_merged and control.segment_size == 0:
            tally.n_lost += 1
            return
    if arrival.flags & MSG_TRUNC:
        tally.n_cut += 1
    arrival.n_bytes = header.msg_len if header.msg_len < SLAB_SIZE else SLAB_SIZE
    arrival.segment_size = arrival.n_bytes
    arrival.n_datagrams = 1
    if control.segment_size and arrival.n_bytes > <size_t>control.segment_size:
        arrival.segment_size = control.segment_size
        arrival.n_datagrams = <int>((arrival.n_bytes + arrival.segment_size - 1) // arrival.segment_size)
    tally.n_messages += 1
    tally.n_datagrams += arrival.n_datagrams
    tally.n_bytes += arrival.n_bytes

cdef inline size_t next_length(Arrival *arrival) noexcept nogil:
    cdef size_t left = arrival.n_bytes - arrival.taken_bytes
    return left if left < arrival.segment_size else arrival.segment_size

cdef inline void take_one(Arrival *arrival, size_t length) noexcept nogil:
    arrival.taken_bytes += length
    arrival.n_taken += 1
