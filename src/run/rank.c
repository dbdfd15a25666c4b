#include "run/rank.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "core/clock.h"
#include "link/mpi.h"
#include "link/socket.h"
#include "run/spawn.h"
#include "run/stage.h"

enum {
    HOST = 64,
    LINE = RB_ADDRESS_MAX + 32,
    CHANNEL_HOST = 1,
    CHANNEL_LINE = 2,
    MOST_ARGS = 256,
    ANNOUNCE_FD = 3
};

typedef struct rank {
    const rb_rank_options *o;
    rb_mpi *mpi;
    int self, size;
    char line[LINE]; /* "ADDRESS TOKEN" of the coordinator; empty: there is none */
    bool everywhere; /* ranks are on more than one machine */
} rank;

static volatile sig_atomic_t coordinator; /* process number; 0: none */

int rb_rank_of_process(void) {
    int r;
    return rb_mpi_launched(&r) ? r : -1;
}

/* Once one rank ends badly, its launcher ends all of them, before they have said anything; so the first one's end comes first. */
void rb_rank_let_the_first_speak(void) {
    rb_sleep_ns(3 * RB_SEC);
}

bool rb_rank_announce(const char *text, int *fd, bool *everywhere) {
    char *end;
    *fd = (int)strtol(text, &end, 10);
    *everywhere = !strcmp(end, ":everywhere");
    return end != text && *fd > 2 && (!*end || *everywhere);
}

/* --- a few bytes over a stream of its own, before the run --- */

static resbm_status move(rank *r, int fd, char *bytes, size_t n, bool out, int64_t deadline, rb_err *err) {
    for (size_t at = 0; at < n;) {
        if (!rb_socket_wait(fd, out ? POLLOUT : POLLIN, deadline))
            return rb_fail(err, RESBM_E_TIMEOUT,
                           "rank %d waited for pipeline.startup_deadline to hear of another rank", r->self);
        ssize_t k = out ? send(fd, bytes + at, n - at, MSG_NOSIGNAL) : recv(fd, bytes + at, n - at, 0);
        if (k < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (k <= 0)
            return rb_fail(err, RESBM_E_PEER, "rank %d lost its stream to another rank while starting",
                           r->self);
        at += (size_t)k;
    }
    return RESBM_OK;
}

static resbm_status exchange(rank *r, int with, int channel, char *bytes, size_t n, bool out,
                             int64_t deadline, rb_err *err) {
    int fd;
    RB_TRY(rb_mpi_stream(r->mpi, with, channel, &fd, err));
    resbm_status st = move(r, fd, bytes, n, out, deadline, err);
    close(fd);
    return st;
}

/* Rank 0 learns whether all are on its machine. */
static resbm_status compare_hosts(rank *r, int64_t deadline, rb_err *err) {
    char mine[HOST] = "", other[HOST];
    gethostname(mine, sizeof mine - 1);
    if (r->self) return exchange(r, 0, CHANNEL_HOST, mine, sizeof mine, true, deadline, err);
    for (int i = 1; i < r->size; i++) {
        RB_TRY(exchange(r, i, CHANNEL_HOST, other, sizeof other, false, deadline, err));
        r->everywhere |= memcmp(mine, other, sizeof mine) != 0;
    }
    return RESBM_OK;
}

/* --- the coordinator --- */

static int spawn(char **argv, int announce, pid_t *pid) {
    posix_spawn_file_actions_t acts;
    posix_spawn_file_actions_init(&acts);
    posix_spawn_file_actions_addopen(&acts, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&acts, announce, ANNOUNCE_FD);
    return rb_spawn(argv, &acts, POSIX_SPAWN_SETSID, pid);
}

/* The line it writes once it listens; left empty when it ends before that, having said why. */
static resbm_status read_line(rank *r, int fd, int64_t deadline, rb_err *err) {
    for (size_t have = 0; have + 1 < sizeof r->line;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = deadline - rb_now_ns();
        int got = left <= 0 ? 0 : poll(&p, 1, left > 1000 * RB_SEC ? 1000000 : (int)(left / RB_MS) + 1);
        if (!got && rb_now_ns() < deadline) continue;
        if (!got)
            return rb_fail(err, RESBM_E_TIMEOUT,
                           "the coordinator did not listen within pipeline.startup_deadline");
        if (got < 0) continue; /* a signal: a read would wait without a deadline */
        ssize_t n = read(fd, r->line + have, sizeof r->line - 1 - have);
        if (n < 0 && errno == EINTR) continue;
        if (n > 0) have += (size_t)n;
        r->line[have] = 0;
        char *end = strchr(r->line, '\n');
        if (end) *end = 0;
        if (end) return RESBM_OK;
        if (n <= 0) break;
    }
    *r->line = 0;
    return RESBM_OK;
}

/* "tcp:0.0.0.0:4711 TOKEN": ranks elsewhere need this machine's name. */
static void name_host(rank *r) {
    static const char any[] = "tcp:0.0.0.0:";
    char host[HOST] = "", rest[LINE];
    if (strncmp(r->line, any, sizeof any - 1)) return;
    snprintf(rest, sizeof rest, "%s", r->line + sizeof any - 1);
    gethostname(host, sizeof host - 1);
    snprintf(r->line, sizeof r->line, "tcp:%s:%s", r->everywhere ? host : "127.0.0.1", rest);
}

static resbm_status start_coordinator(rank *r, int64_t deadline, rb_err *err) {
    char *argv[MOST_ARGS], announce[32];
    int n = 0, ends[2];
    pid_t pid;
    snprintf(announce, sizeof announce, "%d%s", ANNOUNCE_FD, r->everywhere ? ":everywhere" : "");
    for (; r->o->argv[n] && n + 1 < MOST_ARGS; n++)
        argv[n] = strcmp(r->o->argv[n], "{announce}") ? r->o->argv[n] : announce;
    argv[n] = NULL;
    if (pipe2(ends, O_CLOEXEC)) return rb_fail_errno(err, errno, "cannot make a pipe for the coordinator");
    int bad = spawn(argv, ends[1], &pid);
    close(ends[1]);
    resbm_status st = bad ? rb_fail_errno(err, bad, "cannot start the coordinator (%s)", argv[0]) : RESBM_OK;
    if (!st) coordinator = pid;
    if (!st) st = read_line(r, ends[0], deadline, err);
    close(ends[0]);
    name_host(r);
    return st;
}

/* Whoever ends the job (mpirun, scancel) ends it well: the coordinator takes a snapshot after the present step. */
static void hand_on(int sig) {
    (void)sig;
    if (coordinator) kill(coordinator, SIGTERM);
}

static void take_signals(const rank *r) {
    struct sigaction a = {.sa_handler = r->self ? SIG_IGN : hand_on, .sa_flags = SA_RESTART};
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGUSR1, &a, NULL);
}

/* Waits for the coordinator, which ends by itself once the stages have. */
static resbm_status await_coordinator(int64_t deadline, int *exit_status, rb_err *err) {
    int status = 0;
    pid_t pid = coordinator;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (rb_now_ns() > deadline) kill(pid, SIGKILL);
        rb_sleep_ns(5 * RB_MS);
    }
    coordinator = 0;
    *exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    if (WIFEXITED(status)) return RESBM_OK;
    return rb_fail(err, RESBM_E_PEER, "the coordinator (process %d) was killed by signal %d (%s)", (int)pid,
                   WTERMSIG(status), strsignal(WTERMSIG(status)));
}

/* --- */

/* Compute threads: what the launcher has bound this rank to; unbound, its share of the machine. */
static int threads_here(void) {
    static const char *const local[] = {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS",
                                        "SLURM_NTASKS_PER_NODE"};
    cpu_set_t set;
    int all = (int)sysconf(_SC_NPROCESSORS_ONLN),
        mine = sched_getaffinity(0, sizeof set, &set) ? all : CPU_COUNT(&set);
    if (mine < all) return mine;
    for (size_t i = 0; i < sizeof local / sizeof *local; i++) {
        const char *text = getenv(local[i]);
        int n = text ? atoi(text) : 0;
        if (n > 0) return all / n > 0 ? all / n : 1;
    }
    return all;
}

static resbm_status choose_kind(const rb_rank_options *o, char out[16], rb_err *err) {
    int r;
    char path[4096];
    rb_err ignored;
    const char *kind = rb_mpi_launched(&r), *asked = o->cfg->pipeline.mpi;
    if (!kind)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "engine: mpi runs under a launcher of MPI: mpirun -n %lld resbm train RUN.yaml engine=mpi",
            (long long)rb_workers(o->cfg));
    if (strcmp(asked, "auto")) kind = asked;
    if (!*kind) /* srun: whichever there is */
        kind = rb_mpi_find(rb_mpi_kinds[0], o->program, path, &ignored) ? rb_mpi_kinds[1] : rb_mpi_kinds[0];
    snprintf(out, 16, "%s", kind);
    return RESBM_OK;
}

static resbm_status check_size(const rank *r, rb_err *err) {
    int64_t need = rb_workers(r->o->cfg), stages = r->o->cfg->pipeline.stages;
    const char *with = rb_replicated(r->o->cfg) ? " with its replicas" : "";
    if (r->size == need) return RESBM_OK;
    if (r->size == 1)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "MPI sees one rank where pipeline.stages: %lld%s needs %lld: either mpirun -n %lld was not "
            "said, or mpirun belongs to another MPI than resbm's module: set pipeline.mpi",
            (long long)stages, with, (long long)need, (long long)need);
    return rb_fail(err, RESBM_E_CONFIG, "mpirun started %d ranks, but pipeline.stages: %lld%s needs %lld",
                   r->size, (long long)stages, with, (long long)need);
}

/* All ranks come to know the coordinator; an empty line says that there is none. */
static resbm_status spread_line(rank *r, int64_t deadline, rb_err *err) {
    if (r->self) return exchange(r, 0, CHANNEL_LINE, r->line, sizeof r->line, false, deadline, err);
    for (int i = 1; i < r->size; i++)
        RB_TRY(exchange(r, i, CHANNEL_LINE, r->line, sizeof r->line, true, deadline, err));
    return RESBM_OK;
}

static resbm_status be_stage(rank *r, bool *told, rb_err *err) {
    unsigned long long token;
    char *blank = strchr(r->line, ' ');
    *told = true;
    if (!blank || sscanf(blank + 1, "%16llx", &token) != 1)
        return rb_fail(err, RESBM_E_STATE, "there is no coordinator"); /* it has said why */
    *blank = 0;
    rb_stage_way way = {.control = r->line,
                        .self = r->self,
                        .stages = r->size,
                        .token = token,
                        .mpi = r->mpi,
                        .threads = threads_here()};
    resbm_status st = rb_stage_main(&way, told, err);
    if (st && !*told && r->everywhere)
        return rb_err_context(
            err, st,
            "ranks reach the coordinator over TCP, on the first rank's machine; where its name or a "
            "chosen port does not do, set pipeline.control: ");
    return st;
}

static resbm_status join_and_work(rank *r, bool *told, rb_err *err) {
    int64_t deadline = rb_now_ns() + r->o->cfg->pipeline.startup_deadline_ns;
    resbm_status st = check_size(r, err);
    *told = st && r->self; /* every rank comes to the same: one says it */
    if (*told) rb_rank_let_the_first_speak();
    RB_TRY(st);
    RB_TRY(compare_hosts(r, deadline, err));
    take_signals(r);
    st = r->self ? RESBM_OK : start_coordinator(r, deadline, err);
    resbm_status spread = spread_line(r, deadline, st ? NULL : err);
    RB_TRY(st);
    RB_TRY(spread);
    return be_stage(r, told, err);
}

resbm_status rb_rank_main(const rb_rank_options *o, bool *told, int *exit_status, rb_err *err) {
    rank r = {.o = o};
    char kind[16];
    rb_err late = {0};
    *told = false;
    *exit_status = 1;
    RB_TRY(choose_kind(o, kind, err));
    RB_TRY(rb_mpi_open(kind, o->program, rb_now_ns() + o->cfg->pipeline.startup_deadline_ns, &r.mpi, err));
    r.self = rb_mpi_rank(r.mpi);
    r.size = rb_mpi_size(r.mpi);
    resbm_status st = join_and_work(&r, told, err);
    /* After a fault the others may be gone, and MPI_Finalize would wait for them. */
    int64_t patience = 10 * RB_SEC + o->cfg->pipeline.deadline_ns;
    resbm_status left = rb_mpi_close(r.mpi, st ? 0 : rb_now_ns() + patience, &late);
    *exit_status = st || left ? 1 : 0;
    if (st == RESBM_OK && left && err) *err = late;
    if (st == RESBM_OK) st = left;
    if (!coordinator) return st;
    resbm_status lost = await_coordinator(rb_now_ns() + patience, exit_status, &late);
    if (!lost) return st;
    *told = false; /* it can say nothing any more */
    if (err) *err = late;
    return lost;
}
