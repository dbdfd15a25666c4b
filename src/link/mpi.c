/* The progress thread and its streams. */
#include "link/mpi.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "core/clock.h"
#include "core/thread.h"
#include "link/mpi_load.h"

enum { CHUNK = 256 * 1024, SLOTS = 2 };
#define LEAST_PAUSE_NS (20 * 1000)
#define MOST_PAUSE_NS  RB_MS

typedef enum slot_state { SLOT_FREE, SLOT_UNDER_WAY, SLOT_FULL } slot_state;

/* Slots of a direction are used in turn, so that bytes keep their order. */
typedef struct slot {
    slot_state state;
    uint64_t request;
    int bytes, at; /* received; of these, written */
    uint8_t *data; /* (CHUNK) */
} slot;

typedef struct stream {
    struct stream *next;
    int rank, out_tag, in_tag, fd;
    slot out[SLOTS], in[SLOTS];
    unsigned out_next, in_posted, in_next; /* counted up; slot = n % SLOTS */
    bool out_ended, in_ended;              /* the message of no bytes was handed over; it came */
    bool deaf;                             /* nobody reads the socket any more: what comes is thrown away */
    bool broken;                           /* MPI failed on it */
} stream;

struct rb_mpi {
    const rb_mpi_module *mod;
    void *handle;
    pthread_t thread;
    int wake_fd, rank, size;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* guarded by the lock */
    bool joined, closing, abandoned, ended, orphaned;
    stream *fresh;
    resbm_status fault;
    rb_err err;
    /* progress thread */
    stream *streams;
};

static void fail(rb_mpi *m, int code, const char *doing, int rank) {
    char why[256];
    m->mod->text(code, why, sizeof why);
    pthread_mutex_lock(&m->lock);
    if (!m->fault)
        m->fault = rank < 0 ? rb_fail(&m->err, RESBM_E_PEER, "%s failed: %s", doing, why)
                            : rb_fail(&m->err, RESBM_E_PEER, "MPI failed %s rank %d: %s", doing, rank, why);
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

/* The link at the other end of the socket sees its peer gone. */
static void break_stream(rb_mpi *m, stream *s, int code, const char *doing) {
    fail(m, code, doing, s->rank);
    s->broken = true;
    shutdown(s->fd, SHUT_RDWR);
}

/* --- out: socket -> MPI --- */

static bool finish_sends(rb_mpi *m, stream *s) {
    bool moved = false;
    for (int i = 0; i < SLOTS && !s->broken; i++) {
        slot *o = &s->out[i];
        int done = 0, ignored;
        if (o->state != SLOT_UNDER_WAY) continue;
        int bad = m->mod->test(&o->request, &done, &ignored);
        if (bad) break_stream(m, s, bad, "sending to");
        if (done) o->state = SLOT_FREE;
        moved |= done;
    }
    return moved;
}

static bool start_send(rb_mpi *m, stream *s) {
    slot *o = &s->out[s->out_next % SLOTS];
    if (s->broken || s->out_ended || o->state != SLOT_FREE) return false;
    ssize_t n = recv(s->fd, o->data, CHUNK, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n < 0) n = 0; /* closed with bytes unread */
    s->out_ended = n == 0;
    int bad = m->mod->send(o->data, (int)n, s->rank, s->out_tag, &o->request);
    o->state = SLOT_UNDER_WAY;
    s->out_next++;
    if (bad) break_stream(m, s, bad, "sending to");
    return true;
}

/* --- in: MPI -> socket --- */

static bool post_receive(rb_mpi *m, stream *s) {
    slot *i = &s->in[s->in_posted % SLOTS];
    bool posted = s->in_posted != s->in_next && s->in[(s->in_posted - 1) % SLOTS].state == SLOT_UNDER_WAY;
    if (s->broken || s->in_ended || posted || i->state != SLOT_FREE) return false;
    int bad = m->mod->receive(i->data, CHUNK, s->rank, s->in_tag, &i->request);
    i->state = SLOT_UNDER_WAY;
    s->in_posted++;
    if (bad) break_stream(m, s, bad, "receiving from");
    return true;
}

static bool finish_receive(rb_mpi *m, stream *s) {
    slot *i = &s->in[(s->in_posted - 1) % SLOTS];
    int done = 0;
    if (s->broken || s->in_posted == s->in_next || i->state != SLOT_UNDER_WAY) return false;
    int bad = m->mod->test(&i->request, &done, &i->bytes);
    if (bad) break_stream(m, s, bad, "receiving from");
    if (bad || !done) return bad;
    i->at = 0;
    i->state = SLOT_FULL;
    s->in_ended = i->bytes == 0;
    return true;
}

/* Writes what has come, as far as the socket takes it. */
static bool write_out(stream *s) {
    bool moved = false;
    while (!s->broken && s->in_next != s->in_posted && s->in[s->in_next % SLOTS].state == SLOT_FULL) {
        slot *i = &s->in[s->in_next % SLOTS];
        if (!i->bytes) shutdown(s->fd, SHUT_WR);
        ssize_t n = i->bytes && !s->deaf ? send(s->fd, i->data + i->at, (size_t)(i->bytes - i->at),
                                                MSG_DONTWAIT | MSG_NOSIGNAL)
                                         : i->bytes - i->at;
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return moved;
        if (n < 0) {
            s->deaf = true;
            continue;
        }
        moved = true;
        i->at += (int)n;
        if (i->at < i->bytes) continue;
        i->state = SLOT_FREE;
        s->in_next++;
    }
    return moved;
}

static bool ended(const stream *s) {
    if (s->broken) return true;
    bool idle = s->in_next == s->in_posted;
    for (int i = 0; i < SLOTS; i++) idle &= s->out[i].state == SLOT_FREE;
    return s->out_ended && s->in_ended && idle;
}

static void free_stream(stream *s) {
    for (int i = 0; i < SLOTS; i++) {
        free(s->out[i].data);
        free(s->in[i].data);
    }
    if (s->fd >= 0) close(s->fd);
    free(s);
}

static bool progress_one(rb_mpi *m, stream *s) {
    bool moved = finish_sends(m, s);
    moved |= start_send(m, s);
    moved |= finish_receive(m, s);
    moved |= write_out(s);
    return post_receive(m, s) || moved;
}

/* A turn for every stream; those that have ended well are let go. */
static bool progress(rb_mpi *m) {
    bool moved = false;
    for (stream **at = &m->streams; *at;) {
        stream *s = *at;
        if (!s->broken) moved |= progress_one(m, s);
        if (!ended(s) || s->broken) { /* a broken one's buffers may still be MPI's */
            at = &s->next;
            continue;
        }
        *at = s->next;
        free_stream(s);
        moved = true;
    }
    return moved;
}

/* Waits for the sockets, at most pause_ns. */
static void rest(const rb_mpi *m, int64_t pause_ns) {
    int n = 1;
    for (const stream *s = m->streams; s; s = s->next) n++;
    struct pollfd *p = calloc((size_t)n, sizeof *p);
    struct timespec t = {.tv_nsec = pause_ns};
    if (!p) {
        rb_sleep_ns(pause_ns);
        return;
    }
    p[0] = (struct pollfd){.fd = m->wake_fd, .events = POLLIN};
    n = 1;
    for (const stream *s = m->streams; s; s = s->next) {
        short events = 0;
        if (!s->broken && !s->out_ended && s->out[s->out_next % SLOTS].state == SLOT_FREE) events |= POLLIN;
        if (!s->broken && s->in_next != s->in_posted && s->in[s->in_next % SLOTS].state == SLOT_FULL)
            events |= POLLOUT;
        p[n++] = (struct pollfd){.fd = events ? s->fd : -1, .events = events};
    }
    ppoll(p, (nfds_t)n, &t, NULL);
    uint64_t count;
    if (p[0].revents) (void)!read(m->wake_fd, &count, sizeof count);
    free(p);
}

/* Takes new streams over; false when it is time to leave. */
static bool take_orders(rb_mpi *m, bool all_ended) {
    pthread_mutex_lock(&m->lock);
    while (m->fresh) {
        stream *s = m->fresh;
        m->fresh = s->next;
        s->next = m->streams;
        m->streams = s;
        all_ended = false;
    }
    bool leave = m->abandoned || (m->closing && (all_ended || m->fault));
    pthread_mutex_unlock(&m->lock);
    return !leave;
}

/* How long to rest after so long without a move: an eighth of that, so that what comes waits little longer than it has been
 * waited for, however large it is (MPI asks both sides about a large message before its bytes move). It sleeps from the start:
 * a thread that yields stands behind whoever computes, one that has slept goes first. */
static int64_t pause_after(int64_t quiet_ns) {
    int64_t pause = quiet_ns / 8;
    return pause < LEAST_PAUSE_NS ? LEAST_PAUSE_NS : pause > MOST_PAUSE_NS ? MOST_PAUSE_NS : pause;
}

static void work(rb_mpi *m) {
    int64_t moved_ns = rb_now_ns();
    prctl(PR_SET_TIMERSLACK, 1000UL); /* a back-off of 20 us is to take 20 us */
    while (take_orders(m, !m->streams)) {
        if (progress(m))
            moved_ns = rb_now_ns();
        else
            rest(m, pause_after(rb_now_ns() - moved_ns));
    }
}

static void free_all(rb_mpi *m) {
    for (stream *s = m->streams, *next; s; s = next) {
        next = s->next;
        if (!m->fault && !m->abandoned) free_stream(s);
    }
    for (stream *s = m->fresh, *next; s; s = next) {
        next = s->next;
        free_stream(s);
    }
    close(m->wake_fd);
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static void *thread_main(void *arg) {
    rb_mpi *m = arg;
    int bad = m->mod->init(&m->rank, &m->size);
    if (bad) fail(m, bad, "MPI_Init", -1);
    pthread_mutex_lock(&m->lock);
    m->joined = true;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    if (!bad) work(m);
    pthread_mutex_lock(&m->lock);
    bool well = !m->fault && !m->abandoned;
    pthread_mutex_unlock(&m->lock);
    if (well && (bad = m->mod->finish())) fail(m, bad, "MPI_Finalize", -1);
    pthread_mutex_lock(&m->lock);
    m->ended = true;
    bool mine = m->orphaned;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    if (mine) free_all(m);
    return NULL;
}

/* --- calls of other threads --- */

static void wake(const rb_mpi *m) {
    uint64_t one = 1;
    (void)!write(m->wake_fd, &one, sizeof one);
}

/* With the lock: waits for *flag until the deadline. */
static bool wait_for(rb_mpi *m, const bool *flag, int64_t deadline_ns) {
    while (!*flag && deadline_ns > 0)
        if (!rb_cond_wait_until(&m->changed, &m->lock, deadline_ns)) break;
    return *flag;
}

static resbm_status start_thread(rb_mpi *m, rb_err *err) {
    pthread_mutex_init(&m->lock, NULL);
    rb_cond_init(&m->changed);
    int rc = rb_thread_start(&m->thread, "rb-mpi", thread_main, m);
    if (rc) return rb_fail_errno(err, rc, "cannot start MPI's progress thread");
    pthread_detach(m->thread);
    return RESBM_OK;
}

/* The thread has the rest to itself, or has ended. */
static void let_go(rb_mpi *m) {
    pthread_mutex_lock(&m->lock);
    m->orphaned = true;
    bool gone = m->ended;
    pthread_mutex_unlock(&m->lock);
    if (gone) free_all(m);
}

resbm_status rb_mpi_open(const char *kind, const char *program, int64_t deadline_ns, rb_mpi **out,
                         rb_err *err) {
    rb_mpi *m = calloc(1, sizeof *m);
    if (!m) return rb_fail(err, RESBM_E_MEMORY, "no memory for MPI");
    m->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    resbm_status st =
        m->wake_fd < 0 ? rb_fail_errno(err, errno, "cannot make an event descriptor") : RESBM_OK;
    if (!st) st = rb_mpi_load(kind, program, &m->handle, &m->mod, err);
    if (!st) st = start_thread(m, err);
    if (st) {
        if (m->wake_fd >= 0) close(m->wake_fd);
        free(m);
        return st;
    }
    pthread_mutex_lock(&m->lock);
    bool joined = wait_for(m, &m->joined, deadline_ns);
    st = m->fault;
    if (st && err) *err = m->err;
    pthread_mutex_unlock(&m->lock);
    if (!st && !joined)
        st = rb_fail(err, RESBM_E_TIMEOUT,
                     "MPI_Init did not return before the deadline: not all ranks were started?");
    if (st) {
        let_go(m);
        return st;
    }
    *out = m;
    return RESBM_OK;
}

int rb_mpi_rank(const rb_mpi *m) {
    return m->rank;
}

int rb_mpi_size(const rb_mpi *m) {
    return m->size;
}

static stream *new_stream(int rank, int out_tag, int in_tag, int fd) {
    stream *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    *s = (stream){.rank = rank, .out_tag = out_tag, .in_tag = in_tag, .fd = fd};
    bool whole = true;
    for (int i = 0; i < SLOTS; i++) {
        s->out[i].data = malloc(CHUNK);
        s->in[i].data = malloc(CHUNK);
        whole &= s->out[i].data && s->in[i].data;
    }
    if (whole) return s;
    s->fd = -1;
    free_stream(s);
    return NULL;
}

static resbm_status open_stream(rb_mpi *m, int rank, int out_tag, int in_tag, int *fd, rb_err *err) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends))
        return rb_fail_errno(err, errno, "cannot make a pair of sockets for rank %d", rank);
    stream *s = new_stream(rank, out_tag, in_tag, ends[0]);
    if (!s) {
        close(ends[0]);
        close(ends[1]);
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a stream to rank %d", rank);
    }
    pthread_mutex_lock(&m->lock);
    s->next = m->fresh;
    m->fresh = s;
    pthread_mutex_unlock(&m->lock);
    wake(m);
    *fd = ends[1];
    return RESBM_OK;
}

resbm_status rb_mpi_stream(rb_mpi *m, int rank, int channel, int *fd, rb_err *err) {
    if (rank < 0 || rank >= m->size || rank == m->rank || channel < 0 || channel >= RB_MPI_CHANNELS)
        return rb_fail(err, RESBM_E_ARG, "rank %d of %d has no stream %d to rank %d", m->rank, m->size,
                       channel, rank);
    return open_stream(m, rank, channel, channel, fd, err);
}

resbm_status rb_mpi_loop(rb_mpi *m, int channel, int fd[2], rb_err *err) {
    int there = channel, back = RB_MPI_CHANNELS + channel;
    RB_TRY(open_stream(m, m->rank, there, back, &fd[0], err));
    resbm_status st = open_stream(m, m->rank, back, there, &fd[1], err);
    if (st) close(fd[0]);
    return st;
}

resbm_status rb_mpi_close(rb_mpi *m, int64_t deadline_ns, rb_err *err) {
    if (!m) return RESBM_OK;
    pthread_mutex_lock(&m->lock);
    m->closing = true;
    m->abandoned = deadline_ns <= 0;
    pthread_mutex_unlock(&m->lock);
    wake(m);
    pthread_mutex_lock(&m->lock);
    bool gone = wait_for(m, &m->ended, deadline_ns);
    resbm_status st = m->fault;
    if (st && err) *err = m->err;
    pthread_mutex_unlock(&m->lock);
    if (!gone && !st && deadline_ns > 0)
        st =
            rb_fail(err, RESBM_E_TIMEOUT, "rank %d could not leave the MPI job before the deadline", m->rank);
    let_go(m);
    return st;
}
