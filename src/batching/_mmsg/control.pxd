# Control bytes (cmsg): what is written for a train, and what is read of one.
#
# Rule 1: nothing is read past the bytes that are there, whatever a header claims.
# Rule 2: UDP_SEGMENT is exactly a u16 on the way out; UDP_GRO a four-byte int on the
# way in (kernel: net/ipv4/udp.c, udp_cmsg_recv).

from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from .linux cimport (
    CMSG_LEN, CMSG_SPACE, IP_PKTINFO, IP_TOS, IPV6_PKTINFO, IPV6_TCLASS, SO_RXQ_OVFL, SO_TIMESTAMPNS, SOL_IP,
    SOL_IPV6, SOL_SOCKET, SOL_UDP, UDP_GRO, UDP_SEGMENT, cmsghdr, in6_addr, in6_pktinfo, in_pktinfo, timespec,
)

cdef enum:
    # UDP_SEGMENT, a mark of 4 bytes, IPV6_PKTINFO: 24 + 24 + 40 where size_t has 8 bytes, less elsewhere.
    SEND_CONTROL_SIZE = 88
    ECN_BITS = 3
    MAX_SECONDS = 0x7FFFFFFF  # of a time that is believed; in nanoseconds it fits in 63 bits

cdef struct Control:
    int segment_size  # 0: not a merged train
    bint has_overflows
    uint32_t overflows

cdef struct Metadata:  # what else came with a message
    int ecn  # -1: not told
    int64_t timestamp_ns  # 0: not told
    int interface  # 0: not told
    bint has_local
    bint is_no_source  # what it was sent to is no address of ours
    in6_addr local  # of IPv4 v4-mapped


cdef inline size_t put(char *buffer, int level, int kind, const void *data, size_t n) noexcept nogil:
    cdef cmsghdr header
    memset(buffer, 0, CMSG_SPACE(n))
    header.cmsg_len = CMSG_LEN(n)
    header.cmsg_level = level
    header.cmsg_type = kind
    memcpy(buffer, &header, sizeof(header))
    memcpy(buffer + CMSG_LEN(0), data, n)
    return CMSG_SPACE(n)

cdef inline size_t put_segment_size(char *buffer, uint16_t segment_size) noexcept nogil:
    return put(buffer, SOL_UDP, UDP_SEGMENT, &segment_size, sizeof(segment_size))


cdef inline const char *next_data(const char *control, size_t n, size_t *at, cmsghdr *header,
                                  size_t *length) noexcept nogil:
    # Walk: the data of the message at `at`, with its header and length, and move on; NULL at the end.
    cdef const char *data
    cdef size_t space
    if n - at[0] < CMSG_LEN(0):
        return NULL
    memcpy(header, control + at[0], sizeof(cmsghdr))
    if header.cmsg_len < CMSG_LEN(0) or header.cmsg_len > n - at[0]:
        return NULL
    data = control + at[0] + CMSG_LEN(0)
    length[0] = header.cmsg_len - CMSG_LEN(0)
    space = CMSG_SPACE(length[0])
    at[0] = n if space > n - at[0] else at[0] + space
    return data

cdef inline Control read_control(const char *control, size_t n) noexcept nogil:
    cdef Control found
    cdef cmsghdr header
    cdef size_t length = 0, at = 0
    cdef int size
    cdef const char *data
    found.segment_size = 0
    found.has_overflows = False
    found.overflows = 0
    data = next_data(control, n, &at, &header, &length)
    while data != NULL:
        if length == 4 and header.cmsg_level == SOL_UDP and header.cmsg_type == UDP_GRO:
            memcpy(&size, data, 4)
            if 0 < size <= 65535:
                found.segment_size = size
        elif length == 4 and header.cmsg_level == SOL_SOCKET and header.cmsg_type == SO_RXQ_OVFL:
            memcpy(&found.overflows, data, 4)
            found.has_overflows = True
        data = next_data(control, n, &at, &header, &length)
    return found

cdef inline Metadata read_metadata(const char *control, size_t n) noexcept nogil:
    cdef Metadata found
    cdef cmsghdr header
    cdef size_t length = 0, at = 0
    cdef const char *data
    cdef in_pktinfo info
    cdef in6_pktinfo info6
    cdef timespec time
    cdef uint32_t traffic_class = 0
    memset(&found, 0, sizeof(found))
    found.ecn = -1
    data = next_data(control, n, &at, &header, &length)
    while data != NULL:
        if header.cmsg_level == SOL_IP and header.cmsg_type == IP_TOS and length >= 1:
            found.ecn = data[0] & ECN_BITS
        elif header.cmsg_level == SOL_IPV6 and header.cmsg_type == IPV6_TCLASS and length == 4:
            memcpy(&traffic_class, data, 4)
            found.ecn = traffic_class & ECN_BITS
        elif header.cmsg_level == SOL_SOCKET and header.cmsg_type == SO_TIMESTAMPNS and length == sizeof(timespec):
            memcpy(&time, data, sizeof(time))
            if 0 <= time.tv_sec <= MAX_SECONDS and 0 <= time.tv_nsec < 1000000000:
                found.timestamp_ns = <int64_t>time.tv_sec * 1000000000 + time.tv_nsec
        elif header.cmsg_level == SOL_IP and header.cmsg_type == IP_PKTINFO and length == sizeof(in_pktinfo):
            memcpy(&info, data, sizeof(info))
            found.is_no_source = info.ipi_spec_dst.s_addr not in (0, info.ipi_addr.s_addr)
            if not found.has_local:
                memset(&found.local.s6_addr[10], 0xFF, 2)
                memcpy(&found.local.s6_addr[12], &info.ipi_addr, 4)
                found.interface = info.ipi_ifindex
                found.has_local = True
        elif header.cmsg_level == SOL_IPV6 and header.cmsg_type == IPV6_PKTINFO and length == sizeof(in6_pktinfo):
            memcpy(&info6, data, sizeof(info6))
            found.local = info6.ipi6_addr
            found.interface = info6.ipi6_ifindex
            found.has_local = True
        data = next_data(control, n, &at, &header, &length)
    return found
