# cython: language_level=3
"""What libFuzzer calls: the C that reads control bytes, fed with any bytes.

Not a module to import: fuzz_control.py makes a program of it, without an interpreter.
The first eight bytes say what recvmsg would have said beside the control bytes.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport abort
from libc.string cimport memcpy, memset

from batching._mmsg.control cimport Control, Metadata, read_control, read_metadata
from batching._mmsg.linux cimport MSG_CTRUNC, MSG_TRUNC, SO_RXQ_OVFL, SOL_SOCKET, SOL_UDP, UDP_GRO, mmsghdr
from batching._mmsg.slots cimport SLAB_SIZE, Arrival, Tally, next_length, read_arrival, take_one

cdef struct Said:  # by the kernel, of a message
    uint32_t n_bytes
    uint16_t flags
    uint8_t name_length
    uint8_t may_be_merged


cdef inline void expect(bint holds) noexcept nogil:
    if not holds:
        abort()


cdef inline Control read_slowly(const char *control, size_t n) noexcept nogil:
    # The same once more, written after _portable/control.py.
    cdef Control found
    cdef uint64_t length
    cdef int32_t level, kind, value
    cdef size_t at = 0
    memset(&found, 0, sizeof(found))
    while at + 16 <= n:
        memcpy(&length, control + at, 8)
        memcpy(&level, control + at + 8, 4)
        memcpy(&kind, control + at + 12, 4)
        if length < 16 or length > n - at:
            break
        if length == 20:
            memcpy(&value, control + at + 16, 4)
            if level == SOL_UDP and kind == UDP_GRO and 1 <= value <= 65535:
                found.segment_size = value
            if level == SOL_SOCKET and kind == SO_RXQ_OVFL:
                found.overflows = <uint32_t>value
                found.has_overflows = True
        at += (length + 7) & ~<uint64_t>7
    return found


cdef inline void check_control(const char *control, size_t n) noexcept nogil:
    cdef Control found = read_control(control, n)
    cdef Control again = read_slowly(control, n)
    expect(found.segment_size == again.segment_size)
    expect(found.has_overflows == again.has_overflows and found.overflows == again.overflows)


cdef inline void check_metadata(const char *control, size_t n) noexcept nogil:
    # What it says is left to the twin, which must agree; here, that it may be believed.
    cdef Metadata found = read_metadata(control, n)
    expect(-1 <= found.ecn <= 3)
    expect(found.timestamp_ns >= 0)
    expect(found.has_local or found.interface == 0)


cdef inline void check_arrival(Said *said, char *control, size_t n) noexcept nogil:
    # Taken one by one, a train's datagrams are all of its bytes, and none is beyond the slab.
    cdef mmsghdr header
    cdef Arrival arrival
    cdef Tally tally
    cdef size_t length
    memset(&header, 0, sizeof(header))
    memset(&tally, 0, sizeof(tally))
    header.msg_len = said.n_bytes
    header.msg_hdr.msg_flags = said.flags
    header.msg_hdr.msg_namelen = said.name_length
    header.msg_hdr.msg_control = control
    header.msg_hdr.msg_controllen = n
    read_arrival(&header, &arrival, said.may_be_merged & 1, &tally)
    expect(tally.n_datagrams == arrival.n_datagrams and tally.n_bytes == arrival.n_bytes)
    expect(arrival.n_bytes <= SLAB_SIZE)
    expect(not tally.n_lost or arrival.n_datagrams == 0)
    while arrival.n_taken < arrival.n_datagrams:
        length = next_length(&arrival)
        expect(length > 0 or arrival.n_datagrams == 1)
        expect(length == arrival.segment_size or arrival.n_taken == arrival.n_datagrams - 1)
        take_one(&arrival, length)
    expect(arrival.taken_bytes == arrival.n_bytes)


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) noexcept nogil:
    cdef Said said
    if n >= sizeof(Said):
        memcpy(&said, data, sizeof(Said))
        check_control(<const char *>data + sizeof(Said), n - sizeof(Said))
        check_metadata(<const char *>data + sizeof(Said), n - sizeof(Said))
        check_arrival(&said, <char *>data + sizeof(Said), n - sizeof(Said))
    return 0
