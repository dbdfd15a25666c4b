#include "link/resolve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "core/thread.h"

#define LEAST_NS (100 * RB_MS)

/* What a thread of its own asks, as getaddrinfo cannot be told to stop. Who waits takes the answer and frees the question; once
 * nobody waits any longer, the thread does. */
typedef struct question {
    pthread_mutex_t lock;
    pthread_cond_t answered;
    bool done, left;     /* left: nobody waits */
    int flags, bad, why; /* bad: what getaddrinfo returned; why: errno beside it */
    struct addrinfo *list;
    char *port;
    char host[]; /* and the port behind it */
} question;

static int ask(const char *host, const char *port, int flags, struct addrinfo **out) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};
    *out = NULL;
    return getaddrinfo(host, port, &hints, out);
}

static question *new_question(const char *host, const char *port, int flags) {
    size_t h = strlen(host) + 1, p = strlen(port) + 1;
    question *q = calloc(1, sizeof *q + h + p);
    if (!q) return NULL;
    q->flags = flags;
    q->port = q->host + h;
    memcpy(q->host, host, h);
    memcpy(q->port, port, p);
    pthread_mutex_init(&q->lock, NULL);
    rb_cond_init(&q->answered);
    return q;
}

static void free_question(question *q) {
    if (q->list) freeaddrinfo(q->list);
    pthread_cond_destroy(&q->answered);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

static void *answer(void *arg) {
    question *q = arg;
    struct addrinfo *list;
    int bad = ask(q->host, q->port, q->flags, &list), why = errno;
    pthread_mutex_lock(&q->lock);
    q->bad = bad;
    q->why = why;
    q->list = list;
    q->done = true;
    bool mine = q->left;
    pthread_cond_signal(&q->answered);
    pthread_mutex_unlock(&q->lock);
    if (mine) free_question(q);
    return NULL;
}

/* False: the time is over, and the question is the thread's. */
static bool wait_for(question *q, int64_t deadline_ns) {
    pthread_mutex_lock(&q->lock);
    while (!q->done && rb_cond_wait_until(&q->answered, &q->lock, deadline_ns)) {
    }
    bool done = q->done;
    q->left = !done;
    pthread_mutex_unlock(&q->lock);
    return done;
}

static resbm_status judge(int bad, int why, bool *later, rb_err *err) {
    *later = bad == EAI_AGAIN;
    if (!bad) return RESBM_OK;
    return rb_fail(err, RESBM_E_IO, "%s", bad == EAI_SYSTEM ? strerror(why) : gai_strerror(bad));
}

static resbm_status ask_apart(const char *host, const char *port, int flags, int64_t deadline_ns,
                              struct addrinfo **out, bool *later, rb_err *err) {
    int64_t begin = rb_now_ns();
    if (deadline_ns < begin + LEAST_NS) deadline_ns = begin + LEAST_NS;
    question *q = new_question(host, port, flags);
    if (!q) return rb_fail(err, RESBM_E_MEMORY, "no memory to look it up");
    pthread_t thread;
    int rc = rb_thread_start(&thread, "rb-resolve", answer, q);
    if (rc) {
        free_question(q);
        return rb_fail_errno(err, rc, "cannot start a thread to look it up");
    }
    if (!wait_for(q, deadline_ns)) {
        pthread_detach(thread);
        *later = true;
        return rb_fail(err, RESBM_E_TIMEOUT,
                       "the name server did not answer within %.3g s: check this machine's network and its "
                       "name servers (/etc/resolv.conf), or give an IP address in place of the name",
                       (double)(deadline_ns - begin) * 1e-9);
    }
    pthread_join(thread, NULL);
    *out = q->list;
    q->list = NULL;
    resbm_status st = judge(q->bad, q->why, later, err);
    free_question(q);
    return st;
}

resbm_status rb_resolve(const char *host, const char *port, int flags, int64_t deadline_ns,
                        struct addrinfo **out, bool *later, rb_err *err) {
    *later = false;
    int bad = ask(host, port, flags | AI_NUMERICHOST | AI_NUMERICSERV, out);
    if (bad != EAI_NONAME) return judge(bad, errno, later, err);
    return ask_apart(host, port, flags, deadline_ns, out, later, err);
}
