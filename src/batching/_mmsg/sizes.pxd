# Sizes: how many there were of each size, in buckets whose bounds double; _stats.Sizes names them.
# C only; no Python object is touched.

from libc.stdint cimport uint64_t

from .linux cimport batching_count

cdef extern from *:
    """
    /* log2 of n, rounded up: 2 * (n - 1) + 1 has one digit more than n - 1, and is never 0. */
    #define batching_log2(n) (31 - __builtin_clz(2u * ((unsigned)(n) - 1u) + 1u))
    """
    int batching_log2(int n) noexcept nogil

cdef enum:
    N_SIZES = 9  # at most 1, 2, 4, ... 128, and more

cdef inline void note_size(uint64_t *sizes, int n) noexcept:  # of 1 or more
    batching_count(&sizes[min(batching_log2(n), N_SIZES - 1)], 1)
