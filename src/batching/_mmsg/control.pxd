# Control bytes (cmsg): what is written for a train, and what is read of one.
#
# Rule 1: nothing is read past the bytes that are there, whatever a header claims.
# Rule 2: UDP_SEGMENT is exactly a u16 on the way out; UDP_GRO a four-byte int on the
# way in (kernel: net/ipv4/udp.c, udp_cmsg_recv).

from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memset

from .linux cimport CMSG_LEN, CMSG_SPACE, SO_RXQ_OVFL, SOL_SOCKET, SOL_UDP, UDP_GRO, UDP_SEGMENT, cmsghdr

cdef enum:
    SEND_CONTROL_SIZE = 24  # CMSG_SPACE(sizeof(u16)) where size_t has 8 bytes; less elsewhere

cdef struct Control:
    int segment_size  # 0: not a merged train
    bint has_overflows
    uint32_t overflows

cdef inline size_t put_segment_size(char *buffer, uint16_t segment_size) noexcept nogil:
    cdef cmsghdr header
    memset(buffer, 0, CMSG_SPACE(sizeof(segment_size)))
    header.cmsg_len = CMSG_LEN(sizeof(segment_size))
    header.cmsg_level = SOL_UDP
    header.cmsg_type = UDP_SEGMENT
    memcpy(buffer, &header, sizeof(header))
    memcpy(buffer + CMSG_LEN(0), &segment_size, sizeof(segment_size))
    return CMSG_SPACE(sizeof(segment_size))

cdef inline Control read_control(const char *control, size_t n) noexcept nogil:
    cdef Control found
    cdef cmsghdr header
    cdef size_t length, space, at = 0
    cdef int size
    found.segment_size = 0
    found.has_overflows = False
    found.overflows = 0
    while n - at >= CMSG_LEN(0):
        memcpy(&header, control + at, sizeof(header))
        if header.cmsg_len < CMSG_LEN(0) or header.cmsg_len > n - at:
            break
        length = header.cmsg_len - CMSG_LEN(0)
        if length == 4 and header.cmsg_level == SOL_UDP and header.cmsg_type == UDP_GRO:
            memcpy(&size, control + at + CMSG_LEN(0), 4)
            if 0 < size <= 65535:
                found.segment_size = size
        elif length == 4 and header.cmsg_level == SOL_SOCKET and header.cmsg_type == SO_RXQ_OVFL:
            memcpy(&found.overflows, control + at + CMSG_LEN(0), 4)
            found.has_overflows = True
        space = CMSG_SPACE(length)
        if space > n - at:
            break
        at += space
    return found
