"""What a Conn is to the kernel: a descriptor that outlives every call on it, and counters."""

cimport cython
from libc.errno cimport EBADF, errno
from libc.stdint cimport uint64_t
from libc.string cimport memset

from .linux cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, POLLIN, batching_load, batching_swap, close_fd, eventfd, getpid, pollfd, ppoll,
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock, read, timespec, write,
)

import os
from socket import SocketType

cdef object close_socket = SocketType.close  # C alone


@cython.final
cdef class Counters:
    """What one Conn did."""

    def snapshot(self):
        cdef Numbers seen = self.numbers  # of one moment: making objects of them takes many
        return seen


@cython.final
@cython.no_gc_clear  # __dealloc__ needs what it holds
cdef class Descriptor:
    """A socket's descriptor that stays open until the last call on it has left."""

    def __cinit__(self, sock):
        pthread_mutex_init(&self.lock, NULL)
        self.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.wake_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.has_wake_fd = True
        sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        self.pid = getpid()
        self.users = 1

    def __dealloc__(self):
        self.close_wake_fd()
        pthread_mutex_destroy(&self.lock)

    cdef int free(self) except -1:
        if not batching_swap(&self.is_freed, 1):
            self.close_wake_fd()
            # Not self.sock.close(), which is Python: a signal's handler may raise on entry to
            # it, and then nobody would ever close the socket.
            close_socket(self.sock)
        return 0

    cdef void close_wake_fd(self) noexcept nogil:
        if self.has_wake_fd:
            close_fd(self.wake_fd)
        self.has_wake_fd = False
        self.wake_fd = -1

    def __enter__(self):
        if not self.enter():
            raise OSError(EBADF, os.strerror(EBADF))
        return self.sock

    def __exit__(self, *exc_info):
        self.leave()

    @property
    def closed(self):
        return bool(batching_load(&self.is_closed))

    @property
    def ticket(self):
        return self.kicks

    def fileno(self):
        return -1 if batching_load(&self.is_closed) else self.fd

    def wait(self, int events, double timeout_s, uint64_t ticket):
        self.sleep(events, timeout_s, ticket)

    cdef int sleep(self, int events, double timeout_s, uint64_t ticket) except -1:
        cdef pollfd fds[2]
        cdef timespec timeout
        cdef uint64_t drained
        if not self.enter():
            return 0
        memset(fds, 0, sizeof(fds))
        # For no event the socket is left out: poll would still end for an error of it.
        fds[0].fd, fds[0].events = self.fd if events else -1, <short>events
        fds[1].fd, fds[1].events = self.wake_fd, POLLIN
        timeout_s = min(timeout_s, 1e9)
        timeout.tv_sec = <long>timeout_s
        timeout.tv_nsec = <long>((timeout_s - <double>timeout.tv_sec) * 1e9)
        with nogil:
            pthread_mutex_lock(&self.lock)
            if self.kicks == ticket and not self.is_closed:
                self.n_sleepers += 1
                pthread_mutex_unlock(&self.lock)
                ppoll(fds, 2, NULL if timeout_s < 0 else &timeout, NULL)
                pthread_mutex_lock(&self.lock)
                self.n_sleepers -= 1
                if self.kicks != ticket:
                    self.n_stale -= 1
                    if self.n_stale == 0 and not self.is_closed:
                        read(self.wake_fd, &drained, sizeof(drained))
            pthread_mutex_unlock(&self.lock)
        self.leave()
        return 0

    cdef void wake(self, bint for_good) noexcept nogil:
        cdef uint64_t one = 1
        pthread_mutex_lock(&self.lock)
        self.kicks += 1
        self.n_stale = self.n_sleepers
        # The wake-up of a forked child that did not hear of it is still its parent's.
        if (self.n_sleepers or for_good) and self.pid == getpid():
            write(self.wake_fd, &one, sizeof(one))
        pthread_mutex_unlock(&self.lock)

    def kick(self):
        self.wake(False)

    def close(self):
        if not batching_swap(&self.is_closed, 1):
            self.wake(True)
            self.leave()

    def release(self):
        if batching_swap(&self.is_closed, 1):
            raise OSError(EBADF, os.strerror(EBADF))
        batching_swap(&self.is_freed, 1)
        self.wake(True)
        self.leave()
        return self.sock

    def after_fork(self):
        pthread_mutex_init(&self.lock, NULL)
        self.close_wake_fd()
        self.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)  # poll passes over a -1
        self.has_wake_fd = self.wake_fd >= 0
        self.pid = getpid()
        self.n_sleepers = self.n_stale = 0
        self.users = 0 if self.is_closed else 1
        if self.is_closed:
            self.free()
