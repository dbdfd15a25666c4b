#include "run/join.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "core/clock.h"
#include "device/bench_peak.h"
#include "run/host.h"
#include "run/invitation.h"
#include "run/memory.h"
#include "run/pid_lock.h"
#include "run/spawn.h"

#define EAGER_NS                                                                                             \
    (100 * RB_MS) /* between beats for ALERT_NS behind a stage's end: another one is to begin soon */
#define ALERT_NS   (3 * RB_SEC)
#define STOPPED_NS (3 * RB_SEC / 2)
#define ENROL_NS   (120 * RB_SEC) /* to ask for a name */
enum { PROBE_BYTES = 50000 };

typedef struct guest {
    const rb_join_options *o;
    rb_access access;
    rb_carrier *carrier;
    char dir[4096];
    double gflops, memory, up_bits, down_bits, latency_s;
    rb_child child;
    uint32_t epoch;
    int stage;        /* -1: none */
    char ended[100];  /* how the stage of this epoch ended */
    char told[200];   /* what the run does, as it was last said, */
    int64_t told_ns;  /* and when */
    int beats;        /* that were answered, up to 3 */
    int64_t ended_ns; /* when; 0: one runs, or none has yet */
    bool done, cut_off, away;
    bool unreached, absent; /* it was said that the host is not reached, its coordinator not there yet */
    int lock;               /* dir/pid, open and locked */
    char reason[200];
} guest;

static void say(const guest *g, const char *text) {
    fprintf(g->o->out, "resbm join: %s\n", text);
    fflush(g->o->out);
}

static bool stopped(const guest *g) {
    return g->o->stop && atomic_load(g->o->stop);
}

static void on_note(void *ctx, const char *text) {
    char line[400];
    const guest *g = ctx;
    if (stopped(g)) return; /* it is leaving */
    snprintf(line, sizeof line, "%.300s%s", text,
             strstr(text, "trying again") ? " until the host is back (Ctrl-C leaves)" : "");
    say(g, line);
}

/* Who waits wants to know for what; who works, once in a while, what comes of it. */
static void tell(guest *g, const char *doing, bool works) {
    char line[260];
    int64_t now = rb_now_ns();
    if (!doing || !*doing || g->beats < 3 || !strncmp(doing, g->told, sizeof g->told - 1)) return;
    bool trains = !strncmp(doing, "trains", 6), loads = !strncmp(doing, "downloads", 9);
    int64_t every = !loads ? 60 * RB_SEC : strncmp(g->told, "downloads", 9) ? 0 : 5 * RB_SEC;
    if (works && (!(trains || loads) || now - g->told_ns < every)) return;
    bool run = trains || !strncmp(doing, "waits", 5);
    g->told_ns = now;
    snprintf(g->told, sizeof g->told, "%s", doing);
    snprintf(line, sizeof line, "%s%s%s", works ? "" : "nothing to do yet: ", run ? "the run " : "", g->told);
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < 32) *p = ' ';
    say(g, line);
}

/* In short tries, so that whoever presses Ctrl-C meanwhile is heard. One that gives up before its time has found what no waiting
 * mends. */
static resbm_status reach(guest *g, const rb_access *a, int64_t until,
                          void (*note)(void *ctx, const char *text), rb_carrier **out, rb_err *err) {
    char line[400];
    for (;;) {
        int64_t slice = rb_now_ns() + 2 * RB_SEC;
        if (slice > until) slice = until;
        resbm_status st = rb_access_connect(a, slice, note, g, out, err);
        if (!st) return RESBM_OK;
        int64_t now = rb_now_ns();
        if (stopped(g))
            return rb_fail(err, RESBM_E_CANCELLED, "stopped before the host at %s was reached", a->url);
        if (now < slice || now >= until || st == RESBM_E_CONFIG) return st;
        if (g->unreached) continue;
        g->unreached = true;
        snprintf(line, sizeof line, "cannot reach the host at %.200s yet: trying again (Ctrl-C leaves)",
                 a->url);
        say(g, line);
    }
}

static resbm_status ask(guest *g, rb_carrier *c, const char *subject, const void *p, size_t n,
                        int64_t patience_ns, rb_buf *out, rb_err *err) {
    (void)g;
    return c->module->ask(c->state, subject, p, n, rb_now_ns() + patience_ns, out, err);
}

static void say_absent(guest *g) {
    if (!g->absent)
        say(g, "the host's server answers, its coordinator does not yet: asking again (Ctrl-C leaves)");
    g->absent = true;
}

/* --- enrolment --- */

/* *later: the host has no room at this moment, and may be asked again. */
static resbm_status read_name(const rb_buf *answer, rb_access *own, bool *later, rb_err *err) {
    json_t *j = json_loads(answer->data ? answer->data : "", 0, NULL);
    const char *name = json_string_value(json_object_get(j, "name")),
               *refused = json_string_value(json_object_get(j, "refused"));
    resbm_status st = RESBM_OK;
    *later = json_is_true(json_object_get(j, "later"));
    if (name && strlen(name) < sizeof own->name)
        snprintf(own->name, sizeof own->name, "%s", name);
    else
        st = rb_fail(err, RESBM_E_STATE, "the host refuses this machine: %.800s",
                     refused ? refused : "its answer is not well-formed");
    json_decref(j);
    return st;
}

static resbm_status ask_once(guest *g, rb_carrier *c, const char *text, rb_access *own, bool *later,
                             rb_err *err) {
    rb_buf answer = {0};
    resbm_status st = ask(g, c, "enrol", text, strlen(text), 2 * RB_SEC, &answer, err);
    *later = st != RESBM_OK;
    if (!st) st = read_name(&answer, own, later, err);
    rb_buf_free(&answer);
    return st;
}

/* Many may ask at once, or somebody for many: then there is room again soon, and who asks often gets some. */
static resbm_status ask_to_enrol(guest *g, rb_carrier *c, rb_access *own, rb_err *err) {
    char key[RB_NKEY_TEXT];
    bool later = true, told = false;
    RB_TRY(c->module->make_key(own->seed, key, err));
    json_t *j =
        json_pack("{s:s, s:s, s:s}", "public_key", key, "label", g->o->label, "version", resbm_version());
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (!text) return rb_fail(err, RESBM_E_MEMORY, "no memory to ask");
    resbm_status st = RESBM_E_TIMEOUT;
    for (int64_t until = rb_now_ns() + ENROL_NS; later;) {
        st = ask_once(g, c, text, own, &later, err);
        if (!later || rb_now_ns() > until || stopped(g)) break;
        if (st == RESBM_E_STATE && !told) say(g, "many machines ask to join at this moment: asking again");
        told |= st == RESBM_E_STATE;
        if (st != RESBM_E_STATE) say_absent(g);
        rb_sleep_ns(RB_SEC / 4);
    }
    free(text);
    return st && stopped(g)
               ? rb_fail(err, RESBM_E_CANCELLED, "stopped before the host had let this machine in")
               : st;
}

static resbm_status enrol(guest *g, rb_err *err) {
    rb_access invited;
    rb_carrier *c;
    char *text;
    RB_TRY(rb_invitation_read(g->o->invitation, &invited, err));
    snprintf(invited.name, sizeof invited.name, "%s", RB_INVITED);
    RB_TRY(reach(g, &invited, rb_now_ns() + 30 * RB_SEC, NULL, &c, err));
    g->access = invited;
    resbm_status st = ask_to_enrol(g, c, &g->access, err);
    rb_carrier_close(c, rb_now_ns());
    if (!st) st = rb_access_print(&g->access, &text, err);
    if (st) return st;
    st = rb_host_write(g->dir, "access.json", text, err);
    explicit_bzero(text, strlen(text));
    free(text);
    return st;
}

/* *again: an access of an earlier start lies here, of the same run. That of another run is not written over: its key is what the
 * other host knows this machine by. */
static resbm_status read_known(guest *g, bool *again, rb_err *err) {
    rb_access invited = {0};
    rb_err ignored;
    *again = !rb_host_read_access(g->dir, "access.json", &g->access, &ignored);
    if (!*again || !g->o->invitation) return RESBM_OK;
    RB_TRY(rb_invitation_read(g->o->invitation, &invited, err));
    explicit_bzero(invited.seed, sizeof invited.seed);
    if (!strcmp(invited.run, g->access.run)) return RESBM_OK;
    return rb_fail(
        err, RESBM_E_STATE,
        "%s is the folder of a participant of run %s, and the invitation is of run %s: take another --dir",
        g->dir, g->access.run, invited.run);
}

/* A key that the server was never told of is no use later either: the next time asks for another. */
static resbm_status give_up_new(guest *g, resbm_status st, rb_err *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/access.json", g->dir);
    unlink(path);
    return rb_err_context(err, st,
                          "the server does not know this machine's new key (resbm join asks for another): ");
}

/* The server may take a moment to know a new key (somebody else's: a minute); who has joined before waits longer for its network. */
static resbm_status connect_own(guest *g, bool again, rb_err *err) {
    resbm_status st = RESBM_OK;
    for (int64_t until = rb_now_ns() + (again ? 600 : 150) * RB_SEC;;) {
        st = reach(g, &g->access, rb_now_ns() + 10 * RB_SEC, on_note, &g->carrier, err);
        bool refused = st == RESBM_E_CONFIG;
        if (!st || (again && refused) || stopped(g)) return st;
        if (rb_now_ns() > until) return refused ? give_up_new(g, st, err) : st;
        rb_sleep_ns(300 * RB_MS);
    }
}

/* --- measurements --- */

static resbm_status timed_ask(guest *g, const char *subject, size_t up, int down, double *s, rb_err *err) {
    char *p = calloc(1, up + 16);
    rb_buf answer = {0};
    if (!p) return rb_fail(err, RESBM_E_MEMORY, "no memory for a probe");
    int n = snprintf(p, 16, "%d", down);
    int64_t begin = rb_now_ns();
    resbm_status st =
        ask(g, g->carrier, subject, p, up > (size_t)n ? up : (size_t)n, 20 * RB_SEC, &answer, err);
    *s = (double)(rb_now_ns() - begin) * 1e-9;
    rb_buf_free(&answer);
    free(p);
    return st;
}

/* Its owner's limit, where there is so much. */
static void measure_memory(guest *g) {
    char text[200];
    double free = rb_memory_available(), limit = g->o->memory;
    g->memory = limit > 0 && !(free > 0 && free < limit) ? limit : free;
    if (!(limit > g->memory)) return;
    snprintf(text, sizeof text,
             "--max-memory %.1f GB is more than this machine has free: it counts with %.1f", limit * 1e-9,
             free * 1e-9);
    say(g, text);
}

static resbm_status measure(guest *g, rb_err *err) {
    char subject[128];
    double s, best = 1e9, up = 1e9, down = 1e9;
    snprintf(subject, sizeof subject, "measure.%s", g->access.name);
    for (int i = 0; i < 5; i++) {
        RB_TRY(timed_ask(g, subject, 1, 1, &s, err));
        best = fmin(best, s);
    }
    for (int i = 0; i < 3; i++) {
        RB_TRY(timed_ask(g, subject, PROBE_BYTES, 1, &s, err));
        up = fmin(up, s);
        RB_TRY(timed_ask(g, subject, 1, PROBE_BYTES, &s, err));
        down = fmin(down, s);
    }
    g->latency_s = best;
    g->up_bits = 8.0 * PROBE_BYTES / fmax(up - best, 1e-4);
    g->down_bits = 8.0 * PROBE_BYTES / fmax(down - best, 1e-4);
    if (g->o->up_bits > 0) g->up_bits = fmin(g->up_bits, g->o->up_bits);
    measure_memory(g);
    RB_TRY(rb_bench_sgemm_glance((int)sysconf(_SC_NPROCESSORS_ONLN), &g->gflops, err));
    char text[300];
    snprintf(text, sizeof text,
             "%s of run %s: %.1f ms to the host and back, at least %.1f Mbit/s up, %.1f down, %.0f GFLOP/s, "
             "%.1f GB of memory",
             g->access.name, g->access.run, best * 1e3, g->up_bits * 1e-6, g->down_bits * 1e-6, g->gflops,
             g->memory * 1e-9);
    say(g, text);
    return RESBM_OK;
}

/* --- the stage --- */

static void end_stage(guest *g) {
    if (!g->child.pid) return;
    if (!g->child.ended) rb_children_end(&g->child, 1, rb_now_ns());
    g->child = (rb_child){0};
}

static void look_at_stage(guest *g) {
    if (!g->child.pid || g->child.ended) return;
    rb_children_poll(&g->child, 1);
    if (!g->child.ended && g->child.stopped_ns && rb_now_ns() - g->child.stopped_ns > STOPPED_NS) {
        say(g, "a signal has stopped the process of its stage; ending it");
        kill(g->child.pid, SIGKILL);
    }
    if (!g->child.ended) return;
    g->ended_ns = rb_now_ns();
    if (!(WIFEXITED(g->child.status) && WEXITSTATUS(g->child.status) == 0))
        rb_child_describe(&g->child, g->ended, sizeof g->ended);
    char text[200];
    snprintf(text, sizeof text, "process %d %s", g->stage, *g->ended ? g->ended : "has done its part");
    say(g, text);
}

/* The stacks of a thread per processor count as taken whole, though they are hardly touched. */
static void limit_memory(const guest *g) {
    rlim_t most = (rlim_t)g->o->memory + (rlim_t)sysconf(_SC_NPROCESSORS_ONLN) * (8 << 20);
    struct rlimit r = {.rlim_cur = most, .rlim_max = most};
    if (g->o->memory > 0) prlimit(g->child.pid, RLIMIT_DATA, &r, NULL);
}

static resbm_status start_stage(guest *g, const char *control, int stages, uint64_t token, rb_err *err) {
    rb_access a = g->access;
    char *text, line[200];
    a.up_bits = g->o->up_bits;
    a.uplink_bits = g->up_bits;
    resbm_status st = rb_access_print(&a, &text, err);
    explicit_bzero(&a, sizeof a);
    if (st) return st;
    st = rb_spawn_stage(g->o->program, "", control, g->stage, stages, token, text, &g->child, err);
    explicit_bzero(text, strlen(text));
    free(text);
    if (!st) limit_memory(g);
    snprintf(line, sizeof line, "takes part as process %d of %d, epoch %u", g->stage, stages, g->epoch);
    if (!st) say(g, line);
    return st;
}

static resbm_status obey(guest *g, const json_t *j, rb_err *err) {
    const char *refused = json_string_value(json_object_get(j, "refused")),
               *control = json_string_value(json_object_get(j, "control")),
               *token = json_string_value(json_object_get(j, "token"));
    json_int_t epoch = json_integer_value(json_object_get(j, "epoch"));
    const json_t *stage = json_object_get(j, "stage");
    if (refused) {
        g->cut_off = true;
        snprintf(g->reason, sizeof g->reason, "%s", refused);
    }
    g->done = json_is_true(json_object_get(j, "done"));
    if (g->done || g->cut_off) return RESBM_OK;
    if (!stage) { /* nothing to do */
        if (g->child.pid && (uint32_t)epoch >= g->epoch) end_stage(g);
        g->stage = -1;
        if (!g->away) tell(g, json_string_value(json_object_get(j, "doing")), false);
        return RESBM_OK;
    }
    json_int_t n = json_integer_value(stage), stages = json_integer_value(json_object_get(j, "stages"));
    if (!control || !token || stages < 1 || stages > RB_MAX_STAGES || n < 0 || n >= stages || epoch <= 0 ||
        epoch > UINT32_MAX)
        return rb_fail(err, RESBM_E_FORMAT, "the host's order is not well-formed");
    if ((uint32_t)epoch <= g->epoch) { /* it runs, or has run */
        tell(g, json_string_value(json_object_get(j, "doing")), true);
        return RESBM_OK;
    }
    end_stage(g);
    g->epoch = (uint32_t)epoch;
    g->stage = (int)n;
    *g->ended = *g->told = 0;
    g->ended_ns = 0;
    g->told_ns = rb_now_ns();
    return start_stage(g, control, (int)stages, strtoull(token, NULL, 16), err);
}

/* --- the beat --- */

bool rb_join_within(const rb_join_options *o, int minute) {
    int from = o->from_minute, to = o->to_minute;
    if (from == to) return true;
    return from < to ? minute >= from && minute < to : minute >= from || minute < to;
}

static bool within_hours(const rb_join_options *o) {
    time_t now = time(NULL);
    struct tm t;
    localtime_r(&now, &t);
    return rb_join_within(o, t.tm_hour * 60 + t.tm_min);
}

static resbm_status beat(guest *g, rb_err *err) {
    char subject[128];
    rb_buf answer = {0};
    rb_carrier_counts n;
    bool away = !within_hours(g->o) || (g->o->paused && atomic_load(g->o->paused));
    if (away != g->away) say(g, away ? "paused" : "resumed");
    g->away = away;
    if (away) end_stage(g);
    g->carrier->module->count(g->carrier->state, &n);
    snprintf(subject, sizeof subject, "beat.%s", g->access.name);
    json_t *j = json_pack("{s:I, s:i, s:s, s:b, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:s, s:s*, s:s*}", "epoch",
                          (json_int_t)g->epoch, "stage", g->stage, "ended", g->ended, "paused", away,
                          "gflops", g->gflops, "memory", g->memory, "up_bits", g->up_bits, "down_bits",
                          g->down_bits, "latency_s", g->latency_s, "sent", (json_int_t)n.bytes_out,
                          "received", (json_int_t)n.bytes_in, "version", resbm_version(), "build",
                          g->o->build, "label", g->o->named ? g->o->label : NULL);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (!text) return rb_fail(err, RESBM_E_MEMORY, "no memory for a beat");
    rb_err missed; /* one that is not answered is no fault: the next one follows */
    resbm_status st = ask(g, g->carrier, subject, text, strlen(text), 2 * RB_SEC, &answer, &missed);
    free(text);
    json_t *order = st ? NULL : json_loadb(answer.data, answer.len, JSON_REJECT_DUPLICATES, NULL);
    rb_buf_free(&answer);
    g->beats += order && g->beats < 3;
    st = order ? obey(g, order, err) : RESBM_OK;
    json_decref(order);
    return st;
}

/* The server refused the key twice, which it also does by mistake, while it reads its configuration again. */
static resbm_status knock_again(guest *g, rb_err *err) {
    rb_err why;
    end_stage(g);
    for (int i = 0; i < 6; i++) {
        rb_carrier_close(g->carrier, rb_now_ns());
        g->carrier = NULL;
        resbm_status st = reach(g, &g->access, rb_now_ns() + 20 * RB_SEC, on_note, &g->carrier, &why);
        if (!st) return RESBM_OK;
        if (st != RESBM_E_CONFIG) i--; /* no refusal: the network */
        if (stopped(g)) return RESBM_OK;
        rb_sleep_ns(500 * RB_MS);
    }
    return rb_fail(err, RESBM_E_STATE,
                   "the server refuses this participant's key: the host has cut it off, or the run is over");
}

static resbm_status work(guest *g, rb_err *err) {
    while (!stopped(g) && g->carrier) {
        int64_t now = rb_now_ns();
        bool alert = g->ended_ns && now - g->ended_ns < ALERT_NS;
        int64_t next = now + (alert ? EAGER_NS : RB_BEAT_NS);
        look_at_stage(g);
        RB_TRY(beat(g, err));
        if (g->done) return say(g, "the run is done"), RESBM_OK;
        if (g->cut_off)
            return rb_fail(err, RESBM_E_STATE, "the host has cut this participant off: %s", g->reason);
        if (g->carrier->module->ended(g->carrier->state)) RB_TRY(knock_again(g, err));
        for (rb_err ignored; rb_now_ns() < next && !stopped(g); (void)ignored) {
            bool ran = g->child.pid && !g->child.ended;
            rb_sleep_ns(50 * RB_MS);
            look_at_stage(g);
            if (ran && g->child.ended) break; /* said at once */
        }
    }
    char subject[128];
    rb_buf answer = {0};
    rb_err ignored;
    if (!g->carrier) return RESBM_OK;
    snprintf(subject, sizeof subject, "leave.%s", g->access.name);
    ask(g, g->carrier, subject, "{}", 2, 2 * RB_SEC, &answer, &ignored);
    rb_buf_free(&answer);
    say(g, "has left; the same command joins again");
    return RESBM_OK;
}

/* One at a time works with a key. The lock ends with this process, however it ends. */
static resbm_status lock_folder(guest *g, rb_err *err) {
    char path[PATH_MAX];
    long holder = 0;
    snprintf(path, sizeof path, "%s/pid", g->dir);
    /* Who reads it (leave) holds it for a moment. */
    resbm_status st = rb_pid_lock(path, 2 * RB_SEC, &g->lock, &holder, err);
    if (st != RESBM_E_STATE) return st;
    return rb_fail(err, RESBM_E_STATE,
                   "a participant works in %s already (process %ld): resbm leave ends it, another "
                   "--dir joins once more",
                   g->dir, holder);
}

/* It may just be starting. */
static resbm_status await_coordinator(guest *g, rb_err *err) {
    for (int64_t until = rb_now_ns() + 600 * RB_SEC;;) {
        resbm_status st = measure(g, err);
        if (!st || rb_now_ns() > until) return st;
        if (stopped(g))
            return rb_fail(err, RESBM_E_CANCELLED, "stopped before the run's coordinator had answered");
        say_absent(g);
        rb_sleep_ns(RB_SEC / 2);
    }
}

static resbm_status run(guest *g, rb_err *err) {
    RB_TRY(rb_make_dirs(g->o->dir, err));
    char *whole = realpath(g->o->dir, NULL);
    snprintf(g->dir, sizeof g->dir, "%s", whole ? whole : g->o->dir);
    free(whole);
    chmod(g->dir, 0700);
    bool again;
    RB_TRY(lock_folder(g, err));
    RB_TRY(read_known(g, &again, err));
    if (!again)
        RB_TRY(g->o->invitation
                   ? enrol(g, err)
                   : rb_fail(err, RESBM_E_ARG, "%s has not joined a run yet: give an invitation", g->dir));
    if (chdir(g->dir))
        return rb_fail_errno(err, errno, "cannot enter %s", g->dir); /* where stages keep their weights */
    RB_TRY(connect_own(g, again, err));
    RB_TRY(await_coordinator(g, err));
    return work(g, err);
}

resbm_status rb_join(const rb_join_options *o, rb_err *err) {
    guest g = {.o = o, .stage = -1, .lock = -1};
    resbm_status st = run(&g, err);
    end_stage(&g);
    rb_carrier_close(g.carrier, rb_now_ns());
    explicit_bzero(&g.access, sizeof g.access);
    if (g.lock >= 0) close(g.lock);
    return st;
}
