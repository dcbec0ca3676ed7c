# What the native back end takes from Linux and from CPython, grouped by header.
# Declarations only, and the atomics that free-threaded builds need.

from cpython.object cimport PyObject
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #ifdef Py_GIL_DISABLED
    #define batching_add(p, n) __atomic_add_fetch((p), (n), __ATOMIC_SEQ_CST)
    #define batching_count(p, n) ((void)__atomic_fetch_add((p), (n), __ATOMIC_RELAXED))
    #define batching_hold(m) ((void)pthread_mutex_lock(m))
    #define batching_let_go(m) ((void)pthread_mutex_unlock(m))
    #else  /* all are called with the GIL held, and the lock over no Python code */
    #define batching_add(p, n) (*(p) += (n))
    #define batching_count(p, n) ((void)(*(p) += (n)))
    #define batching_hold(m) ((void)(m))
    #define batching_let_go(m) ((void)(m))
    #endif
    #define batching_swap(p, n) __atomic_exchange_n((p), (n), __ATOMIC_SEQ_CST)
    #define batching_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #if PY_VERSION_HEX < 0x030C0000
    /* Up to 3.11 the collector runs inside allocations, and with it any finalizer. */
    #define batching_pause_gc() PyGC_Disable()
    #define batching_resume_gc(was) do { if (was) PyGC_Enable(); } while (0)
    #else
    #define batching_pause_gc() 0
    #define batching_resume_gc(was) ((void)(was))
    #endif
    #define batching_stolen(o) (o)
    #define batching_items(l) (((PyListObject *)(l))->ob_item)
    /* Of a list that nobody else has seen, and whose items from n on are NULL: it cannot fail. */
    #define batching_shorten(l, n) Py_SET_SIZE((PyVarObject *)(l), (n))
    /* What getbuffer and releasebuffer of bytearrays and of memoryviews do beside counting references; with the GIL. */
    #define batching_exports(o) (*(PyByteArray_CheckExact(o) ? &((PyByteArrayObject *)(o))->ob_exports \
                                                             : &((PyMemoryViewObject *)(o))->exports))
    #define batching_pin(o) ((void)batching_exports(o)++)
    #define batching_unpin(o) ((void)batching_exports(o)--)
    #define batching_view(o) ((PyMemoryViewObject *)(o))
    /* A memoryview that exports what it shows without a word: C-contiguous, and, of its other flags, not released. */
    #define batching_is_open(o, is_writable) (PyMemoryView_Check(o) \
        && (batching_view(o)->flags & ~_Py_MEMORYVIEW_FORTRAN) == _Py_MEMORYVIEW_C \
        && !(batching_view(o)->mbuf->flags & _Py_MANAGED_BUFFER_RELEASED) \
        && !((is_writable) && batching_view(o)->view.readonly))
    /* What slicing does to the view that it has made; this one is of bytes, of one dimension and nobody else's. */
    #define batching_cut(o, n) ((void)(batching_view(o)->view.len = batching_view(o)->view.shape[0] = (n)))
    #ifdef Py_GIL_DISABLED
    #define BATCHING_HAS_GIL 0
    #else
    #define BATCHING_HAS_GIL 1
    #endif
    """
    int batching_add(int *p, int n) noexcept
    void batching_count(uint64_t *p, uint64_t n) noexcept
    int batching_swap(int *p, int n) noexcept nogil
    int batching_load(int *p) noexcept nogil
    int batching_pause_gc() noexcept
    void batching_resume_gc(int was) noexcept
    bint BATCHING_HAS_GIL
    void batching_pin(PyObject *buffer) noexcept
    void batching_unpin(PyObject *buffer) noexcept
    bint is_open_view "batching_is_open"(PyObject *o, bint is_writable) noexcept
    void cut_view "batching_cut"(object view, Py_ssize_t n) noexcept
    void raw_list_shorten "batching_shorten"(PyObject *l, Py_ssize_t n) noexcept
    PyObject **raw_items "batching_items"(list l) noexcept
    object stolen "batching_stolen"(PyObject *reference)  # hand a reference over to Cython

cdef extern from "Python.h":
    # Declared with PyObject *, so that references are counted by hand where it pays.
    PyObject *raw_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t n)
    PyObject *raw_tuple "PyTuple_New"(Py_ssize_t n)
    void raw_tuple_set "PyTuple_SET_ITEM"(PyObject *t, Py_ssize_t i, PyObject *o) noexcept
    bint is_tuple "PyTuple_CheckExact"(PyObject *o) noexcept
    Py_ssize_t raw_tuple_size "PyTuple_GET_SIZE"(PyObject *t) noexcept
    PyObject *raw_tuple_item "PyTuple_GET_ITEM"(PyObject *t, Py_ssize_t i) noexcept
    bint is_list "PyList_CheckExact"(PyObject *o) noexcept
    Py_ssize_t raw_list_size "PyList_GET_SIZE"(PyObject *l) noexcept
    PyObject *raw_list_item "PyList_GET_ITEM"(PyObject *l, Py_ssize_t i) noexcept
    PyObject *raw_list "PyList_New"(Py_ssize_t n)
    void raw_list_set "PyList_SET_ITEM"(PyObject *l, Py_ssize_t i, PyObject *o) noexcept
    void raw_untrack "PyObject_GC_UnTrack"(PyObject *o) noexcept
    void raw_incref "Py_INCREF"(PyObject *o) noexcept
    void raw_decref "Py_DECREF"(PyObject *o)
    char *raw_bytes_data "PyBytes_AS_STRING"(PyObject *o) noexcept
    Py_ssize_t raw_bytes_size "PyBytes_GET_SIZE"(PyObject *o) noexcept
    bint is_bytes "PyBytes_CheckExact"(PyObject *o) noexcept
    char *raw_bytearray_data "PyByteArray_AS_STRING"(PyObject *o) noexcept
    Py_ssize_t raw_bytearray_size "PyByteArray_GET_SIZE"(PyObject *o) noexcept
    bint is_bytearray "PyByteArray_CheckExact"(PyObject *o) noexcept
    Py_buffer *raw_view "PyMemoryView_GET_BUFFER"(PyObject *o) noexcept
    bint is_unicode "PyUnicode_CheckExact"(object o) noexcept
    bint is_long "PyLong_CheckExact"(object o) noexcept

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    struct timespec:
        long tv_sec
        long tv_nsec
    size_t CMSG_SPACE(size_t n) noexcept
    size_t CMSG_LEN(size_t n) noexcept
    int sendmmsg(int fd, mmsghdr *messages, unsigned int n, int flags)
    ssize_t sendto(int fd, const void *data, size_t n, int flags, const void *name, socklen_t name_length)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int n, int flags, timespec *timeout)
    enum:
        AF_INET, AF_INET6, SOL_SOCKET, SO_RXQ_OVFL, MSG_DONTWAIT, MSG_TRUNC, MSG_CTRUNC

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        unsigned char s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    bint IN6_IS_ADDR_V4MAPPED(in6_addr *addr)
    bint IN6_IS_ADDR_LINKLOCAL(in6_addr *addr)
    uint16_t htons(uint16_t x)
    uint16_t ntohs(uint16_t x)
    uint32_t htonl(uint32_t x)
    uint32_t ntohl(uint32_t x)
    enum:
        SOL_UDP "IPPROTO_UDP"
        SOL_IP "IPPROTO_IP"
        SOL_IPV6 "IPPROTO_IPV6"
        IP_TOS, IP_PKTINFO, IPV6_TCLASS, IPV6_PKTINFO

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char *text, void *packed)
    const char *inet_ntop(int family, const void *packed, char *text, socklen_t size)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int ppoll(pollfd *fds, unsigned long n, timespec *timeout, void *mask)
    enum:
        POLLIN

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags)
    enum:
        EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void *data, size_t n)
    ssize_t read(int fd, void *data, size_t n)
    int close_fd "close"(int fd)
    int getpid()

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *m, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *m)
    int pthread_mutex_trylock(pthread_mutex_t *m)
    int pthread_mutex_unlock(pthread_mutex_t *m)
    int pthread_mutex_destroy(pthread_mutex_t *m)

cdef extern from *:  # of what only who has the GIL looks at: nothing where there is one
    void batching_hold(pthread_mutex_t *m) noexcept
    void batching_let_go(pthread_mutex_t *m) noexcept

# include/uapi/linux/udp.h; the C library's header may be older than the kernel.
cdef enum:
    UDP_SEGMENT = 103
    UDP_GRO = 104
# include/uapi/asm-generic/socket.h, SO_TIMESTAMPNS_OLD: with the C library's struct timespec.
cdef enum:
    SO_TIMESTAMPNS = 35
