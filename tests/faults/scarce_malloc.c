/* A malloc that fails when told, to be preloaded: starved.py tells it.

   While scarce_first is not negative allocations are counted, from 0; scarce_width of them,
   from number scarce_first on, fail.  For a process that allocates in one thread. */

#include <errno.h>
#include <stddef.h>

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *memory, size_t n);

long scarce_first = -1, scarce_width, scarce_seen, scarce_failed;

static int is_refused(void)
{
    if (scarce_first < 0)
        return 0;
    long n = scarce_seen++ - scarce_first;
    if (n < 0 || n >= scarce_width)
        return 0;
    scarce_failed++;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t n)
{
    return is_refused() ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    return is_refused() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *memory, size_t n)
{
    return is_refused() ? NULL : __libc_realloc(memory, n);
}
