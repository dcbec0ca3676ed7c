# Marks: what a train is sent with beside its segment size.
#
# Rule 1: equal marks that stand near each other have one number, by which the planner tells
# what may share a train.
# Rule 2: IPv4 over an IPv6 socket is marked by IP_TOS (IPV6_TCLASS would be accepted and
# ignored), and takes its source from IP_PKTINFO, or v4-mapped from IPV6_PKTINFO.

from libc.stdlib cimport realloc
from libc.string cimport memcmp, memcpy, memset

from .control cimport put
from .linux cimport (
    AF_INET, IN6_IS_ADDR_V4MAPPED, IP_PKTINFO, IP_TOS, IPV6_PKTINFO, IPV6_TCLASS, SOL_IP,
    SOL_IPV6, in6_addr, in6_pktinfo, in_pktinfo, sockaddr_in, sockaddr_in6,
)

cdef enum:
    NEAR = 8  # so far back is looked for an equal one
    MORE = 8  # room grows by

cdef struct Mark:  # what a train is sent with, beside its segment size
    int tos, tclass  # where it travels as IPv4, and as IPv6; -1: as the socket has it
    int interface  # 0: as routes have it
    bint has_source
    in6_addr source  # of IPv4 v4-mapped

cdef struct Marks:
    Mark *marks
    int n, capacity


cdef inline in6_addr host_of(sockaddr_in6 *name) noexcept nogil:
    # Of IPv4 v4-mapped.
    cdef in6_addr host = name.sin6_addr
    if name.sin6_family == AF_INET:
        memset(&host, 0, sizeof(host))
        memset(&host.s6_addr[10], 0xFF, 2)
        memcpy(&host.s6_addr[12], &(<sockaddr_in *>name).sin_addr, 4)
    return host

cdef inline int add_mark(Marks *marks, const Mark *mark) except 0:
    # Its number, from 1.
    cdef int i
    cdef void *grown
    for i in range(marks.n, max(0, marks.n - NEAR), -1):
        if memcmp(&marks.marks[i - 1], mark, sizeof(Mark)) == 0:
            return i
    if marks.n == marks.capacity:
        grown = realloc(marks.marks, (2 * marks.n + MORE) * sizeof(Mark))
        if grown == NULL:
            raise MemoryError
        marks.marks = <Mark *>grown
        marks.capacity = 2 * marks.n + MORE
    marks.marks[marks.n] = mark[0]
    marks.n += 1
    return marks.n

cdef inline bint is_same(Marks *marks, int a, int b) noexcept nogil:
    # Numbers may differ of marks that stand far from each other.
    return a != 0 and b != 0 and memcmp(&marks.marks[a - 1], &marks.marks[b - 1], sizeof(Mark)) == 0

cdef inline size_t put_mark(char *buffer, Mark *mark, sockaddr_in6 *target) noexcept nogil:
    cdef size_t n = 0
    cdef in_pktinfo info
    cdef in6_pktinfo info6
    cdef bint is_ipv4 = target.sin6_family == AF_INET or IN6_IS_ADDR_V4MAPPED(&target.sin6_addr)
    if is_ipv4 and mark.tos >= 0:
        n += put(buffer, SOL_IP, IP_TOS, &mark.tos, sizeof(int))
    elif not is_ipv4 and mark.tclass >= 0:
        n += put(buffer, SOL_IPV6, IPV6_TCLASS, &mark.tclass, sizeof(int))
    if not (mark.has_source or mark.interface):
        return n
    if is_ipv4 and (IN6_IS_ADDR_V4MAPPED(&mark.source) or not mark.has_source):
        memset(&info, 0, sizeof(info))
        memcpy(&info.ipi_spec_dst, &mark.source.s6_addr[12], 4)
        info.ipi_ifindex = mark.interface
        return n + put(buffer + n, SOL_IP, IP_PKTINFO, &info, sizeof(info))
    info6.ipi6_addr = mark.source
    info6.ipi6_ifindex = mark.interface
    return n + put(buffer + n, SOL_IPV6, IPV6_PKTINFO, &info6, sizeof(info6))
