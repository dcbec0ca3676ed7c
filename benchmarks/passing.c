/* What passes datagrams on, in bare system calls: echo, forward; and ping, which waits for them.
 *
 *   ceiling echo SIZE SLOTS sleep|spin           send back what comes, trains as they came
 *   ceiling forward SIZE SLOTS sleep|spin DEST   send what comes out of another socket
 *   ceiling ping SIZE DEST
 *
 *   echo, forward:  each line is answered with the CPU time used so far, in seconds
 *   ping:  N [RATE]   so many requests and responses, one after another, or started at a rate a
 *                     second; one that starts late, because that before took too long, is timed
 *                     from when it was due; answered in nanoseconds, cpu: of one
 */
#include "child.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct passing {
    struct slots *slots;
    struct sockaddr_in to; /* of family 0: to where it came from */
    int in, out, flags;
};

static void pass(struct passing *p)
{
    struct slots *s = p->slots;
    int got = fill_slots(s, p->in, p->flags), done = 0;
    for (int i = 0; i < got; i++) {
        struct msghdr *m = &s->messages[i].msg_hdr;
        int length = (int)s->messages[i].msg_len, segment = segment_of(s, i);
        s->iov[i].iov_len = (size_t)length;
        if (p->to.sin_family) {
            m->msg_name = &p->to;
            m->msg_namelen = sizeof p->to;
        }
        m->msg_controllen = 0;
        if (segment < length)
            set_segment(m, &s->control[i], segment);
    }
    while (done < got) {
        int sent = sendmmsg(p->out, s->messages + done, (unsigned)(got - done), 0);
        if (sent < 0 && errno != EINTR)
            die("sendmmsg");
        if (sent > 0)
            done += sent;
    }
    for (int i = 0; i < got; i++) {
        s->iov[i].iov_len = SLOT;
        s->messages[i].msg_hdr.msg_name = &s->from[i];
        s->messages[i].msg_hdr.msg_control = &s->control[i];
    }
}

static void *pass_for_ever(void *p)
{
    for (;;)
        pass(p);
    return NULL;
}

static void run(struct passing *p, char **argv)
{
    int port;
    pthread_t thread;
    p->slots = slots_of((int)number(argv[1], 1, MAX_SLOTS, "slots"));
    p->flags = strcmp(argv[2], "spin") ? MSG_WAITFORONE : MSG_DONTWAIT;
    p->in = open_receiver(&port);
    p->out = p->to.sin_family ? open_sender() : p->in;
    errno = pthread_create(&thread, NULL, pass_for_ever, p);
    if (errno)
        die("thread");
    printf("{\"ports\": [%d]}\n", port);
    fflush(stdout);
    char line[64];
    while (next_command(line, sizeof line)) {
        printf("{\"cpu\": %.9f}\n", now(CLOCK_PROCESS_CPUTIME_ID));
        fflush(stdout);
    }
}

void echo_main(int argc, char **argv)
{
    struct passing p = {0};
    if (argc != 3) {
        fprintf(stderr, "usage: ceiling echo SIZE SLOTS sleep|spin\n");
        exit(2);
    }
    run(&p, argv);
}

void forward_main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: ceiling forward SIZE SLOTS sleep|spin DEST\n");
        exit(2);
    }
    struct passing p = {.to = destination(argv[3])};
    run(&p, argv);
}

/* ---- ping ---- */

enum { MAX_PINGS = 1000000 };

static int64_t nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t wait_until(int64_t due)
{
    if (nanoseconds() >= due)
        return due;
    struct timespec t = {due / 1000000000, due % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    return nanoseconds();
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void measure(int fd, struct sockaddr_in *to, uint8_t *data, int size, long n, double rate)
{
    static int64_t times[MAX_PINGS];
    static uint8_t answer[SLOT];
    int64_t began = nanoseconds();
    double cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    for (long i = 0; i < n; i++) {
        int64_t at = rate > 0 ? wait_until(began + (int64_t)((double)i / rate * 1e9)) : nanoseconds();
        if (sendto(fd, data, (size_t)size, 0, (struct sockaddr *)to, sizeof *to) < 0)
            die("sendto");
        ssize_t length = recv(fd, answer, sizeof answer, 0);
        times[i] = nanoseconds() - at;
        if (length != size || memcmp(answer, data, (size_t)size))
            die("another answer than the request");
    }
    cpu = (now(CLOCK_PROCESS_CPUTIME_ID) - cpu) * 1e9 / (double)n;
    qsort(times, (size_t)n, sizeof *times, compare);
    printf("{\"p50\": %lld, \"p99\": %lld, \"p999\": %lld, \"cpu\": %.1f}\n",
           (long long)times[n / 2], (long long)times[n * 99 / 100],
           (long long)times[n * 999 / 1000], cpu);
    fflush(stdout);
}

void ping_main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: ceiling ping SIZE DEST\n");
        exit(2);
    }
    struct sockaddr_in to = destination(argv[1]);
    int size = sizes_of(argv[0]).longest, fd = open_sender();
    uint8_t *data = memory((size_t)size);
    fill(data, 0, size);
    printf("{\"ports\": []}\n");
    fflush(stdout);
    char line[64];
    while (next_command(line, sizeof line)) {
        long n = 0;
        double rate = 0;
        errno = 0;
        if (sscanf(line, "%ld %lf", &n, &rate) < 1 || n < 1 || n > MAX_PINGS)
            die(line);
        measure(fd, &to, data, size, n, rate);
    }
}
