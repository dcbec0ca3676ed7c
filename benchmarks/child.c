/* The protocol that all contenders speak, in C: see child.h. */
#include "child.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECEIVE_BUFFER = 32 << 20 };

double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void start(struct result *r)
{
    r->cpu = now(CLOCK_PROCESS_CPUTIME_ID); /* user and system, as getrusage, but in ns */
    r->seconds = now(CLOCK_MONOTONIC);
}

void stop(struct result *r)
{
    r->seconds = now(CLOCK_MONOTONIC) - r->seconds;
    r->cpu = now(CLOCK_PROCESS_CPUTIME_ID) - r->cpu;
}

void print(const struct result *r)
{
    printf("{\"datagrams\": %llu, \"calls\": %llu, \"measured\": %llu, \"wrong\": %llu,"
           " \"seconds\": %.9f, \"cpu\": %.9f}\n",
           (unsigned long long)r->datagrams, (unsigned long long)r->calls,
           (unsigned long long)r->measured, (unsigned long long)r->wrong, r->seconds, r->cpu);
    fflush(stdout);
}

int next_command(char *line, int length)
{
    alarm(IDLE_LIMIT_S);
    int is_there = fgets(line, length, stdin) != NULL;
    alarm(LIMIT_S);
    return is_there;
}

void die(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, errno ? strerror(errno) : "wrong argument");
    exit(1);
}

long number(const char *text, long low, long high, const char *what)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < low || value > high) {
        fprintf(stderr, "%s: %s %s, must be %ld to %ld\n", program_invocation_short_name, what, text, low,
                high);
        exit(2);
    }
    return value;
}

void *memory(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p)
        die("memory");
    return p;
}

struct sizes sizes_of(const char *text)
{
    struct sizes s = {0};
    char copy[8 * MAX_SIZES], *rest = copy, *part;
    snprintf(copy, sizeof copy, "%s", text);
    while (s.n < MAX_SIZES && (part = strsep(&rest, ","))) {
        int size = (int)number(part, LONGEST_MARK + 1, PAYLOAD, "size");
        s.each[s.n++] = size;
        if (size > s.longest)
            s.longest = size;
    }
    return s;
}

static uint8_t pattern(uint64_t i, int j)
{
    return (uint8_t)(7 * i + 13 * (uint64_t)j + (uint64_t)(j >> 8));
}

void fill(uint8_t *data, uint64_t i, int size)
{
    for (int j = 0; j < size; j++)
        data[j] = pattern(i, j);
}

int differs(const uint8_t *data, uint64_t i, int size)
{
    for (int j = 0; j < size; j++)
        if (data[j] != pattern(i, j))
            return 1;
    return 0;
}

/* ---- sockets ---- */

struct sockaddr_in destination(const char *text)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char host[INET_ADDRSTRLEN];
    const char *port = strchr(text, ':');
    if (port) {
        snprintf(host, sizeof host, "%.*s", (int)(port - text), text);
        errno = 0;
        if (inet_pton(AF_INET, host, &to.sin_addr) != 1)
            die(text);
    }
    to.sin_port = htons((uint16_t)number(port ? port + 1 : text, 1, 65535, "port"));
    return to;
}

int open_sender(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0)
        die("socket");
    return fd;
}

int open_receiver(int *port)
{
    int one = 1, bytes = RECEIVE_BUFFER, fd = open_sender();
    const char *host = getenv("BENCH_HOST");
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t length = sizeof a;
    if (inet_pton(AF_INET, host ? host : "127.0.0.1", &a.sin_addr) != 1)
        die("BENCH_HOST");
    if (setsockopt(fd, SOL_UDP, UDP_GRO, &one, sizeof one))
        die("UDP_GRO");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || getsockname(fd, (struct sockaddr *)&a, &length))
        die("bind");
    *port = ntohs(a.sin_port);
    return fd;
}

void set_segment(struct msghdr *m, union control *control, int size)
{
    uint16_t segment = (uint16_t)size;
    m->msg_control = control;
    m->msg_controllen = CMSG_SPACE(sizeof segment);
    control->head = (struct cmsghdr){.cmsg_level = SOL_UDP, .cmsg_type = UDP_SEGMENT,
                                     .cmsg_len = CMSG_LEN(sizeof segment)};
    memcpy(CMSG_DATA(&control->head), &segment, sizeof segment);
}

struct slots *slots_of(int n)
{
    struct slots *s = memory(sizeof *s);
    s->n = n;
    for (int i = 0; i < n; i++) {
        s->iov[i] = (struct iovec){memory(SLOT), SLOT};
        s->messages[i].msg_hdr = (struct msghdr){.msg_name = &s->from[i], .msg_iov = &s->iov[i],
                                                 .msg_iovlen = 1, .msg_control = &s->control[i]};
    }
    return s;
}

int fill_slots(struct slots *s, int fd, int flags)
{
    for (int i = 0; i < s->n; i++) {
        s->messages[i].msg_hdr.msg_namelen = sizeof s->from[i];
        s->messages[i].msg_hdr.msg_controllen = sizeof s->control[i];
    }
    int got = recvmmsg(fd, s->messages, (unsigned)s->n, flags, NULL);
    if (got < 0 && errno != EAGAIN && errno != EINTR)
        die("recvmmsg");
    return got;
}

int segment_of(struct slots *s, int i)
{
    struct msghdr *m = &s->messages[i].msg_hdr;
    int segment = (int)s->messages[i].msg_len;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO)
            memcpy(&segment, CMSG_DATA(c), sizeof segment);
    return segment;
}
