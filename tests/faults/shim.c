/* Faults between a process and its kernel: preloaded, it refuses what rules say.
 *
 * What a rule refuses takes nothing; all else really goes to the kernel.  Only sockets of
 * IP datagrams are touched.  Rules come from FAULTS in the environment, later ones by
 * faults_load(); they are separated by ";", and the first that matches and is not used up
 * decides.
 *
 *   send errno=N ...   a message is refused
 *        train=0|1     only datagrams, or only trains (with UDP_SEGMENT)
 *        port=N        only to that port
 *        head=HEX      only if the payload begins so
 *        lost=1        an errno that a short count of sendmmsg hides is not told later either
 *        meet=N        N threads wait for each other, and are refused together
 *   short most=N       sendmmsg takes N messages
 *   recv errno=N       a call is refused
 *   recv most=N        recvmmsg brings at most N messages
 *   recv cut=N         a message loses all but N bytes, and has MSG_TRUNC
 *   recv blind=N       a message has MSG_CTRUNC, and 1: no control bytes
 *   poll errno=N       it fails
 *   poll lie=1         it says at once that all is there; lie=0: that nothing is
 *
 *   skip=N   the first N that match are let pass (of recv: after N messages were brought)
 *   count=N  so often (1); 0: for ever
 *   then=1   not before the rule in front of it is used up
 */

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define UDP_SEGMENT 103
#define MAX_RULES 64
#define MEET_S 10
#define EXPORT __attribute__((visibility("default")))

enum { SEND, SHORT, RECV, POLL };
static const char *const WORDS[] = {"send", "short", "recv", "poll"};

struct rule {
    int word, code, train, port, lost, meet, most, cut, blind, lie, skip, count, then;
    int n_head, used, seen, waiting, met;
    unsigned char head[32];
};

static struct rule rules[MAX_RULES];
static int n_rules;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void die(const char *what) {
    fprintf(stderr, "faults: %s\n", what);
    abort();
}

static void read_field(struct rule *rule, char *field) {
    static const struct { const char *name; size_t at; } FIELDS[] = {
#define FIELD(name, member) {name, __builtin_offsetof(struct rule, member)}
        FIELD("errno", code), FIELD("train", train), FIELD("port", port), FIELD("lost", lost),
        FIELD("meet", meet), FIELD("most", most), FIELD("cut", cut), FIELD("blind", blind),
        FIELD("lie", lie), FIELD("skip", skip), FIELD("count", count),
        FIELD("then", then),
    };
    char *value = strchr(field, '=');
    if (!value)
        die(field);
    *value++ = 0;
    if (!strcmp(field, "head")) {
        for (; value[0] && value[1]; value += 2) {
            unsigned byte;
            if (rule->n_head == sizeof(rule->head) || sscanf(value, "%2x", &byte) != 1)
                die("head");
            rule->head[rule->n_head++] = (unsigned char)byte;
        }
        return;
    }
    for (size_t i = 0; i < sizeof(FIELDS) / sizeof(FIELDS[0]); i++)
        if (!strcmp(field, FIELDS[i].name)) {
            *(int *)((char *)rule + FIELDS[i].at) = atoi(value);
            return;
        }
    die(field);
}

static void read_rule(char *text) {
    char *place, *word = strtok_r(text, " ", &place);
    if (!word)
        return;
    if (n_rules == MAX_RULES)
        die("too many rules");
    struct rule *rule = &rules[n_rules++];
    memset(rule, 0, sizeof(*rule));
    rule->train = rule->lie = rule->cut = rule->blind = -1;
    rule->count = 1;
    for (rule->word = 0; strcmp(word, WORDS[rule->word]); rule->word++)
        if (rule->word == POLL)
            die(word);
    for (char *field; (field = strtok_r(NULL, " ", &place));)
        read_field(rule, field);
}

EXPORT void faults_load(const char *text) {
    char *place, *copy = strdup(text);
    pthread_mutex_lock(&lock);
    n_rules = 0;
    for (char *part = strtok_r(copy, ";", &place); part; part = strtok_r(NULL, ";", &place))
        read_rule(part);
    pthread_mutex_unlock(&lock);
    free(copy);
}

EXPORT int faults_used(int i) { return rules[i].used; }
EXPORT int faults_met(int i) { return rules[i].met; }

__attribute__((constructor)) static void start(void) {
    const char *text = getenv("FAULTS");
    if (text)
        faults_load(text);
}

static int is_spent(const struct rule *rule) { return rule->count && rule->used >= rule->count; }

static int is_left(const struct rule *rule) {
    return !is_spent(rule) && (!rule->then || rule == rules || is_spent(rule - 1));
}

static int is_ours(int fd) {
    int kept = errno, domain = 0, type = 0;
    socklen_t length = sizeof(int);
    int found = !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) &&
                !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) && type == SOCK_DGRAM &&
                (domain == AF_INET || domain == AF_INET6);
    errno = kept;
    return found;
}

/* Sending */

static int port_of(int fd, const struct msghdr *message) {
    struct sockaddr_in6 peer; /* the port is where sockaddr_in has it */
    socklen_t length = sizeof(peer);
    memset(&peer, 0, sizeof(peer));
    if (message->msg_name)
        memcpy(&peer, message->msg_name, sizeof(struct sockaddr_in));
    else
        getpeername(fd, (void *)&peer, &length);
    return ntohs(peer.sin6_port);
}

static int begins_with(const struct msghdr *message, const unsigned char *head, size_t n) {
    for (size_t i = 0; n && i < message->msg_iovlen; i++) {
        size_t part = message->msg_iov[i].iov_len < n ? message->msg_iov[i].iov_len : n;
        if (memcmp(message->msg_iov[i].iov_base, head, part))
            return 0;
        head += part;
        n -= part;
    }
    return !n;
}

static int is_train(struct msghdr *message) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_SEGMENT)
            return 1;
    return 0;
}

static int matches(const struct rule *rule, int fd, struct msghdr *message) {
    return rule->word == SEND && is_left(rule) &&
           (rule->train < 0 || rule->train == is_train(message)) &&
           (!rule->port || rule->port == port_of(fd, message)) &&
           begins_with(message, rule->head, (size_t)rule->n_head);
}

/* Return the rule that refuses a message; count it for those that let it pass. */
static struct rule *refusal(int fd, struct msghdr *message) {
    for (int i = 0; i < n_rules; i++)
        if (matches(&rules[i], fd, message)) {
            if (rules[i].seen >= rules[i].skip)
                return &rules[i];
            rules[i].seen++;
        }
    return NULL;
}

static void meet(struct rule *rule) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += MEET_S;
    if (++rule->waiting > rule->met)
        rule->met = rule->waiting;
    pthread_cond_broadcast(&changed);
    while (rule->met < rule->meet && !pthread_cond_timedwait(&changed, &lock, &end))
        ;
    rule->waiting--;
}

static int refuse(struct rule *rule) {
    int code = rule->code;
    rule->used++;
    if (rule->meet)
        meet(rule);
    pthread_mutex_unlock(&lock);
    errno = code;
    return -1;
}

static ssize_t send_one(int fd, struct msghdr *message, int flags) {
    if (is_ours(fd)) {
        pthread_mutex_lock(&lock);
        struct rule *rule = refusal(fd, message);
        if (rule)
            return refuse(rule);
        pthread_mutex_unlock(&lock);
    }
    return syscall(SYS_sendmsg, fd, message, flags);
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    return send_one(fd, (struct msghdr *)message, flags);
}

/* The libc's own type of an address would not be portable; a pointer is what is passed. */
EXPORT ssize_t faults_sendto(int fd, const void *data, size_t n, int flags, void *name,
                             socklen_t length) __asm__("sendto");
EXPORT ssize_t faults_sendto(int fd, const void *data, size_t n, int flags, void *name,
                             socklen_t length) {
    struct iovec vector = {(void *)data, n};
    struct msghdr message = {
        .msg_name = name, .msg_namelen = length, .msg_iov = &vector, .msg_iovlen = 1};
    return send_one(fd, &message, flags);
}

EXPORT ssize_t send(int fd, const void *data, size_t n, int flags) {
    return faults_sendto(fd, data, n, flags, NULL, 0);
}

EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags) {
    if (is_ours(fd) && n) {
        unsigned limit = n, passed = 0;
        struct rule *rule = NULL;
        pthread_mutex_lock(&lock);
        for (int i = 0; i < n_rules; i++)
            if (rules[i].word == SHORT && is_left(&rules[i]) && (unsigned)rules[i].most < limit) {
                limit = (unsigned)rules[i].most;
                rules[i].used++;
                break;
            }
        while (passed < limit && !(rule = refusal(fd, &messages[passed].msg_hdr)))
            passed++;
        if (rule && !passed)
            return refuse(rule);
        if (rule && rule->lost)
            rule->used++;
        pthread_mutex_unlock(&lock);
        n = passed;
    }
    return (int)syscall(SYS_sendmmsg, fd, messages, n, flags);
}

/* Receiving */

/* Return the limit that rules set to a call's messages, or -1 with errno. */
static int may_receive(int n) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < n_rules; i++) {
        struct rule *rule = &rules[i];
        if (rule->word != RECV || !is_left(rule))
            continue;
        if (rule->code && rule->seen >= rule->skip)
            return refuse(rule);
        if (rule->code && n > rule->skip - rule->seen)
            n = rule->skip - rule->seen;
        if (rule->most && rule->most <= n) {
            n = rule->most;
            rule->used++;
        }
    }
    pthread_mutex_unlock(&lock);
    return n;
}

static size_t marred(struct rule *rule, struct msghdr *message, size_t n) {
    if (rule->cut >= 0 && (size_t)rule->cut < n) {
        message->msg_flags |= MSG_TRUNC;
        n = (size_t)rule->cut;
    }
    if (rule->blind >= 0)
        message->msg_flags |= MSG_CTRUNC;
    if (rule->blind > 0)
        message->msg_controllen = 0;
    rule->used++;
    return n;
}

static size_t received(struct msghdr *message, size_t n) {
    int is_marred = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < n_rules; i++) {
        struct rule *rule = &rules[i];
        int mars = rule->cut >= 0 || rule->blind >= 0;
        if (rule->word != RECV || !is_left(rule))
            continue;
        if (mars && rule->seen >= rule->skip && !is_marred) {
            n = marred(rule, message, n);
            is_marred = 1;
        }
        rule->seen++;
    }
    pthread_mutex_unlock(&lock);
    return n;
}

static ssize_t recv_one(int fd, struct msghdr *message, int flags) {
    int is_watched = is_ours(fd) && !(flags & MSG_ERRQUEUE);
    if (is_watched && may_receive(1) < 0)
        return -1;
    ssize_t n = syscall(SYS_recvmsg, fd, message, flags);
    return n >= 0 && is_watched ? (ssize_t)received(message, (size_t)n) : n;
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    return recv_one(fd, message, flags);
}

EXPORT ssize_t faults_recvfrom(int fd, void *data, size_t n, int flags, void *name,
                               socklen_t *length) __asm__("recvfrom");
EXPORT ssize_t faults_recvfrom(int fd, void *data, size_t n, int flags, void *name,
                               socklen_t *length) {
    struct iovec vector = {data, n};
    struct msghdr message = {.msg_name = name, .msg_namelen = length ? *length : 0,
                             .msg_iov = &vector, .msg_iovlen = 1};
    ssize_t got = recv_one(fd, &message, flags);
    if (got >= 0 && length)
        *length = message.msg_namelen;
    return got;
}

EXPORT ssize_t recv(int fd, void *data, size_t n, int flags) {
    return faults_recvfrom(fd, data, n, flags, NULL, NULL);
}

EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags,
                    struct timespec *timeout) {
    int is_watched = is_ours(fd), limit = is_watched ? may_receive((int)n) : (int)n;
    if (limit < 0)
        return -1;
    int got = (int)syscall(SYS_recvmmsg, fd, messages, limit, flags, timeout);
    for (int i = 0; is_watched && i < got; i++)
        messages[i].msg_len = (unsigned)received(&messages[i].msg_hdr, messages[i].msg_len);
    return got;
}

/* Waiting */

static int lie(struct pollfd *fds, nfds_t n, int is_there) {
    int found = 0;
    for (nfds_t i = 0; i < n; i++) {
        int told = is_there && is_ours(fds[i].fd) ? fds[i].events & (POLLIN | POLLOUT) : 0;
        fds[i].revents = (short)told;
        found += told != 0;
    }
    return found;
}

EXPORT int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout,
                 const sigset_t *mask) {
    int is_watched = 0;
    for (nfds_t i = 0; i < n; i++)
        is_watched |= is_ours(fds[i].fd) && fds[i].events & (POLLIN | POLLOUT);
    pthread_mutex_lock(&lock);
    for (int i = 0; is_watched && i < n_rules; i++)
        if (rules[i].word == POLL && is_left(&rules[i]) && rules[i].seen++ >= rules[i].skip) {
            if (rules[i].code)
                return refuse(&rules[i]);
            rules[i].used++;
            int is_there = rules[i].lie;
            pthread_mutex_unlock(&lock);
            return lie(fds, n, is_there);
        }
    pthread_mutex_unlock(&lock);
    struct timespec left; /* the kernel writes into it */
    if (timeout)
        left = *timeout;
    return (int)syscall(SYS_ppoll, fds, n, timeout ? &left : NULL, mask, 8);
}

EXPORT int poll(struct pollfd *fds, nfds_t n, int timeout_ms) {
    struct timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
    return ppoll(fds, n, timeout_ms < 0 ? NULL : &timeout, NULL);
}
