#include "run/crew.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>
#include "core/clock.h"
#include "link/socket.h"
#include "run/apart.h"
#include "run/control.h"
#include "run/downloads.h"

static const rb_link_limits limits = {
    .frame_bytes = (size_t)64 << 20, .queued_bytes = (size_t)64 << 20, .inbox_bytes = (size_t)64 << 20};

#define LOOK_NS (200 * RB_MS) /* how often it is looked at those who owe an answer */

static bool launched(const rb_crew *c) {
    return c->o.announce > 0;
}

static resbm_status stopped(const rb_crew *c, rb_err *err) {
    int asked = c->o.stop ? atomic_load(c->o.stop) : 0;
    if (asked < (c->started ? 2 : 1)) return RESBM_OK;
    return rb_fail(err, RESBM_E_CANCELLED, "stopped at once on request, %s", c->doing);
}

static int64_t threads_per_stage(const rb_crew *crew, bool apart) {
    const rb_config *c = crew->o.cfg;
    if (c->pipeline.threads > 0 || launched(crew))
        return c->pipeline.threads; /* 0: it knows what its launcher left it */
    if (apart) return 0;            /* each decides for itself */
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int64_t share = *c->pipeline.launcher ? cores : cores / crew->stages; /* launched elsewhere: all of it */
    return share > 0 ? share : 1;
}

static resbm_status send_config(rb_crew *c, int stage, const char *text, const char *schedule, rb_err *err) {
    char listen[192];
    bool apart = c->o.outside && c->o.outside->apart;
    rb_crew_stage_address(c, stage, listen, sizeof listen);
    json_t *j = json_pack("{s:s, s:s, s:s*, s:I, s:b, s:I, s:s, s:s*, s:s*, s:b, s:s*}", "t", "config",
                          "config", text, "schedule", schedule, "epoch", (json_int_t)c->o.epoch, "training",
                          c->o.training, "threads", (json_int_t)threads_per_stage(c, apart), "listen", listen,
                          "load", apart ? NULL : c->o.load, "scratch", apart ? "." : c->o.scratch, "apart",
                          apart, "manifest", c->manifest.data);
    resbm_status st = rb_control_send(c->control, stage, j, rb_now_ns() + 10 * RB_SEC, err);
    if (st) *c->blame = rb_blame_seen(stage, st);
    return st;
}

resbm_status rb_crew_accuse(rb_crew *c, int worker, bool broke_rules, resbm_status st) {
    if (st) *c->blame = (rb_blame){.worker = worker, .by = -1, .broke_rules = broke_rules};
    return st;
}

static const char *who(const rb_crew *c, int worker, char buf[RB_WHO_TEXT]) {
    return rb_who_at(buf, worker, c->places);
}

/* The child that ended badly by the last poll, if any: a fault that explains the others. -1: none. */
static int lost_child(rb_crew *c, rb_err *err) {
    for (int i = 0; i < c->stages; i++) {
        char how[96], name[RB_WHO_TEXT], lost[200];
        if (c->gone[i]) continue;
        if (c->o.outside && c->o.outside->lost && !c->spoke[i] && /* else it has said why it ends */
            c->o.outside->lost(c->o.outside->ctx, i, lost, sizeof lost)) {
            rb_fail(err, RESBM_E_PEER, "%s (%s) %s %s", who(c, i, name),
                    c->o.outside->who(c->o.outside->ctx, i), lost, c->doing);
            rb_crew_accuse(c, i, false, RESBM_E_PEER);
            return i;
        }
        if (!c->child[i].ended || !WIFSIGNALED(c->child[i].status)) continue;
        rb_child_describe(&c->child[i], how, sizeof how);
        rb_fail(err, RESBM_E_PEER, "%s (process %d) %s %s", who(c, i, name), (int)c->child[i].pid, how,
                c->doing);
        rb_crew_accuse(c, i, false, RESBM_E_PEER);
        return i;
    }
    return -1;
}

static resbm_status dead_child(rb_crew *c, rb_err *err) {
    return lost_child(c, err) < 0 ? RESBM_OK : RESBM_E_PEER;
}

/* The stage that another has started and that ended first, without having said why: as nothing else tells how it ended, the
 * kernel's word that its connection is closed has to do. */
static resbm_status lost_stage(const rb_crew *c, rb_err *err) {
    int first = -1;
    for (int i = 0; i < c->stages && launched(c); i++) {
        int order = rb_link_gone_order(c->control, i);
        if (!order || c->spoke[i]) continue;
        if (first < 0 || order < rb_link_gone_order(c->control, first)) first = i;
    }
    char name[RB_WHO_TEXT];
    if (first < 0) return RESBM_OK;
    return rb_fail(err, RESBM_E_PEER,
                   "%s (rank %d, %s) is gone without a word %s: it was killed, or its machine or the network "
                   "to it failed; mpirun's own message may tell more",
                   who(c, first, name), first, c->about[first], c->doing);
}

/* How much a fault explains: one of a stage's own most, then who waited in vain, then who lost a peer. */
static int weight(resbm_status st) {
    return st == RESBM_E_CANCELLED ? 0 : st == RESBM_E_PEER ? 1 : st == RESBM_E_TIMEOUT ? 2 : 3;
}

/* Where deadlines are alike, the first to complain may have waited for a stage that itself waits: says who is stopped. */
static void name_stopped(const rb_crew *c, rb_err *err) {
    for (int i = 0; i < c->stages && err; i++) {
        char name[RB_WHO_TEXT];
        size_t n = strlen(err->text);
        if (c->child[i].stopped_ns && !c->child[i].ended)
            snprintf(err->text + n, sizeof err->text - n, "; a signal has stopped %s (process %d)",
                     who(c, i, name), (int)c->child[i].pid);
    }
}

/* `st` came first to the ear, but need not be the cause: a stage that was killed, or that has a fault of its own,
 * makes its neighbours complain too. Listens a little longer for it. */
static resbm_status find_cause(rb_crew *c, resbm_status st, int from, rb_err *err) {
    if (from >= 0 && from < c->stages) c->spoke[from] = true;
    int64_t until = rb_now_ns() + RB_SEC;
    while (rb_now_ns() < until && weight(st) < 3) {
        rb_children_poll(c->child, c->stages);
        if (dead_child(c, err)) return err ? err->code : RESBM_E_PEER;
        rb_err other;
        rb_blame whose;
        json_t *j = NULL;
        resbm_status got =
            rb_control_hear(c->control, RB_PEER_ANY, rb_now_ns() + 50 * RB_MS, &from, &j, &whose, &other);
        json_decref(j);
        if (from >= 0 && got) c->spoke[from] = true;
        if (from < 0 && weight(st) < 2 && lost_stage(c, err)) return RESBM_E_PEER;
        if (from < 0) rb_sleep_ns(10 * RB_MS); /* nothing was said */
        if (got == RESBM_OK || from < 0 || weight(got) <= weight(st)) continue;
        st = got;
        *c->blame = whose;
        if (err) *err = other;
    }
    if (st == RESBM_E_TIMEOUT) name_stopped(c, err);
    return st;
}

/* A stage that ended before it gave its answer (replies NULL: any). Looks at the last poll, not at a new
 * one: whoever ended since may have left its answer behind. */
static resbm_status ended_early(rb_crew *c, json_t **replies, rb_err *err) {
    RB_TRY(dead_child(c, err));
    if (!replies) RB_TRY(lost_stage(c, err));
    json_t *j = NULL;
    int from;
    rb_err said;
    rb_blame whose;
    resbm_status st =
        replies ? RESBM_OK : rb_control_hear(c->control, RB_PEER_ANY, rb_now_ns(), &from, &j, &whose, &said);
    json_decref(j);
    if (st && from >= 0 && weight(st) > 1) { /* a stage says why it ended */
        *c->blame = whose;
        if (err) *err = said;
        return st;
    }
    for (int i = 0; i < c->stages; i++) {
        char how[96], name[RB_WHO_TEXT];
        if (c->gone[i] || !c->child[i].ended || (replies && replies[i])) continue;
        rb_child_describe(&c->child[i], how, sizeof how);
        rb_crew_accuse(c, i, false, RESBM_E_PEER);
        return rb_fail(err, RESBM_E_PEER, "%s (process %d) %s %s", who(c, i, name), (int)c->child[i].pid, how,
                       c->doing);
    }
    return RESBM_OK;
}

static resbm_status accept_all(rb_crew *c, rb_listener *l, int64_t deadline, rb_err *err) {
    bool joined[RB_MAX_STAGES] = {false};
    for (int i = 0; i < c->stages;) {
        int peer;
        resbm_status st = rb_link_accept(c->control, l, rb_now_ns() + 100 * RB_MS, &peer, err);
        if (!st && !joined[peer]) {
            i++;
            joined[peer] = true;
            continue;
        }
        if (st && st != RESBM_E_TIMEOUT) return st; /* one that comes again is no other */
        RB_TRY(stopped(c, err));
        rb_children_poll(c->child, c->stages);
        RB_TRY(ended_early(c, NULL, err));
        if (rb_now_ns() <= deadline) continue;
        for (int w = c->stages - 1; w >= 0; w--)
            if (!joined[w]) rb_crew_accuse(c, w, false, RESBM_E_TIMEOUT); /* the first one that lacks */
        return rb_fail(err, RESBM_E_TIMEOUT, "%d of %d stages have joined within pipeline.startup_deadline",
                       i, c->stages);
    }
    return RESBM_OK;
}

static resbm_status introduce(rb_crew *c, int64_t deadline, rb_err *err) {
    json_t *replies[RB_MAX_STAGES] = {0};
    RB_TRY(rb_crew_gather(c, "listening", -1, deadline, replies, err));
    json_t *addresses = json_array(), *speeds = json_array(); /* all stages plan with the same numbers */
    for (int i = 0; i < c->stages; i++) {
        json_array_append(addresses, json_object_get(replies[i], "address"));
        json_array_append_new(speeds, json_real(json_number_value(json_object_get(replies[i], "gflops"))));
        const char *host = json_string_value(json_object_get(replies[i], "host"));
        snprintf(c->about[i], sizeof c->about[i], "process %lld on %.60s",
                 (long long)json_integer_value(json_object_get(replies[i], "pid")), host ? host : "?");
    }
    resbm_status st = RESBM_OK;
    for (int i = 0; i < c->stages && !st; i++)
        st = rb_crew_check_address(c, i, json_array_get(addresses, (size_t)i), err);
    json_t *peers = json_pack("{s:s, s:o, s:o}", "t", "peers", "addresses", addresses, "gflops", speeds);
    if (!st)
        st = rb_crew_tell(c, peers, err);
    else
        json_decref(peers);
    bool apart = c->o.outside && c->o.outside->apart;
    if (!st && apart) st = rb_downloads_begin(c, replies, &c->downloads, err);
    rb_crew_drop(c, replies);
    if (!st) st = rb_crew_gather(c, "ready", -1, deadline, replies, err);
    rb_downloads_end(c->downloads);
    c->downloads = NULL;
    for (int i = 0; i < c->stages && !st; i++)
        c->planned[i] = rb_planned_read(json_object_get(replies[i], "memory"));
    rb_crew_drop(c, replies);
    return st;
}

static resbm_status start_stage(rb_crew *c, const char *control, int stage, uint64_t token, rb_err *err) {
    const rb_crew_outside *o = c->o.outside;
    if (o) return o->start(o->ctx, stage, control, token, &c->child[stage], err);
    return rb_spawn_stage(c->o.program, c->o.cfg->pipeline.launcher, control, stage, c->stages, token, NULL,
                          &c->child[stage], err);
}

static resbm_status announce(const rb_crew *c, const char *address, uint64_t token, rb_err *err) {
    char line[RB_ADDRESS_MAX + 32];
    int n = snprintf(line, sizeof line, "%s %016llx\n", address, (unsigned long long)token);
    bool wrote = write(c->o.announce, line, (size_t)n) == n;
    int why = errno;
    close(c->o.announce);
    return wrote ? RESBM_OK
                 : rb_fail_errno(err, why, "cannot tell the first rank where the coordinator listens");
}

static resbm_status start(rb_crew *c, rb_listener *l, uint64_t token, rb_err *err) {
    int64_t deadline = rb_now_ns() + c->o.cfg->pipeline.startup_deadline_ns;
    if (launched(c)) RB_TRY(announce(c, rb_listener_address(l), token, err));
    for (int i = 0; i < c->stages && !launched(c); i++)
        RB_TRY(start_stage(c, rb_listener_address(l), i, token, err));
    RB_TRY(accept_all(c, l, deadline, err));
    rb_buf text = {0}, schedule = {0};
    char path[PATH_MAX];
    if (c->o.load) snprintf(path, sizeof path, "%s/manifest.json", c->o.load);
    if (c->o.load && c->o.outside && c->o.outside->apart)
        RB_TRY(rb_read_file(path, RB_MANIFEST_LIMIT, &c->manifest, err));
    rb_config_print(c->o.cfg, &text);
    resbm_status st = rb_buf_status(&text, err);
    if (!st) st = rb_config_schedule_text(c->o.cfg, &schedule, err);
    for (int i = 0; i < c->stages && !st; i++) st = send_config(c, i, text.data, schedule.data, err);
    rb_buf_free(&text);
    rb_buf_free(&schedule);
    return st ? st : introduce(c, deadline, err);
}

static void free_crew(rb_crew *c) {
    if (!c) return;
    free(c->child);
    free(c->sign);
    free(c->about);
    free(c->places);
    free(c->spoke);
    free(c->planned);
    free(c->gone);
    free(c);
}

resbm_status rb_crew_open(const rb_crew_options *o, rb_crew **out, rb_err *err) {
    rb_crew *c = calloc(1, sizeof *c);
    uint64_t token = 0;
    rb_listener *l = NULL;
    *out = NULL;
    size_t n = (size_t)rb_workers(o->cfg);
    if (c) c->child = calloc(n, sizeof *c->child);
    if (c) c->sign = calloc(n, sizeof *c->sign);
    if (c) c->about = calloc(n, sizeof *c->about);
    if (c) c->spoke = calloc(n, sizeof *c->spoke);
    if (c) c->planned = calloc(n, sizeof *c->planned);
    if (c) c->gone = calloc(n, sizeof *c->gone);
    if (c) c->places = rb_worker_places(o->cfg);
    if (!c || !c->child || !c->sign || !c->about || !c->spoke || !c->planned || !c->gone ||
        !c->places) {
        free_crew(c);
        return rb_fail(err, RESBM_E_MEMORY, "no memory for %lld stages", (long long)o->cfg->pipeline.stages);
    }
    c->o = *o;
    c->stages = (int)n;
    c->silent = -1;
    c->blame = o->blame ? o->blame : &c->unasked;
    *c->blame = rb_blame_nobody();
    snprintf(c->doing, sizeof c->doing, "while starting");
    resbm_status st = getrandom(&token, sizeof token, 0) == sizeof token
                          ? RESBM_OK
                          : rb_fail_errno(err, errno, "getrandom");
    rb_link_options lo = {.self = RB_PEER_COORDINATOR,
                          .stages = c->stages,
                          .token = token,
                          .limits = limits,
                          .places = c->places,
                          .carrier = o->outside ? o->outside->carrier : NULL};
    if (o->outside && o->outside->note) {
        lo.refused = o->outside->note;
        lo.refused_ctx = o->outside->ctx;
    }
    if (!st) st = rb_link_open(&lo, &c->control, err);
    for (int i = 0; i < c->stages && !st && o->outside; i++)
        rb_link_expect(c->control, i, o->outside->who(o->outside->ctx, i));
    if (!st) st = rb_crew_listen(c, &l, err);
    if (!st) st = start(c, l, token, err);
    rb_listener_close(l);
    if (st) {
        rb_crew_close(c);
        return st;
    }
    rb_crew_remove_sockets(c);
    c->started = true;
    *out = c;
    return RESBM_OK;
}

void rb_crew_close(rb_crew *c) {
    if (!c) return;
    bool finished = !strcmp(c->doing, "while finishing");
    if (!finished) { /* first let go, so that stages in a wait hear of it */
        if (c->control) rb_link_close(c->control);
        rb_children_end(c->child, c->stages, rb_now_ns() + RB_SEC / 5);
    } else {
        rb_children_end(c->child, c->stages, rb_now_ns() + 5 * RB_SEC);
    }
    rb_link_fini(c->control);
    rb_crew_remove_sockets(c);
    for (int i = 0; i < c->stages; i++) json_decref(c->early[i]);
    rb_buf_free(&c->manifest);
    free_crew(c);
}

int rb_crew_lead(const rb_crew *c, int stage) {
    for (int i = 0; i < c->stages; i++) /* first replicas have the first numbers */
        if (c->places[i].stage == stage && !c->gone[i]) return i;
    return stage;
}

int rb_crew_present(const rb_crew *c) {
    int n = 0;
    for (int i = 0; i < c->stages; i++) n += !c->gone[i];
    return n;
}

/* The worker whose loss a fault is, if the run can do without it: gone, with the connection to it, or without a sign of life.
 * -1: none such. err says how, in the end. */
static int spared(rb_crew *c, resbm_status st, int from, rb_err *err) {
    rb_err how;
    if (!c->o.lose || !c->started || (st != RESBM_E_PEER && st != RESBM_E_TIMEOUT)) return -1;
    int worker = -1;
    for (int i = 0; i < (st == RESBM_E_PEER ? 20 : 1) && worker < 0;
         i++) { /* its connection ends a little before it does */
        if (i) rb_sleep_ns(5 * RB_MS);
        rb_children_poll(c->child, c->stages);
        worker = lost_child(c, &how);
    }
    if (worker >= 0 && err) *err = how;
    if (worker < 0 && st == RESBM_E_TIMEOUT && from < 0) worker = c->silent;
    if (worker < 0 && st == RESBM_E_PEER) worker = from;
    for (int i = 0; i < c->stages && worker < 0 && st == RESBM_E_PEER; i++)
        if (!c->gone[i] && rb_link_gone_order(c->control, i)) worker = i;
    return worker >= 0 && worker < c->stages && !c->gone[worker] && rb_crew_has_twin(c, worker) ? worker : -1;
}

void rb_crew_leave_out(rb_crew *c, int worker, const char *how) {
    c->gone[worker] = true;
    if (c->child[worker].pid && !c->child[worker].ended) { /* stopped: it may not wake up later */
        kill(c->child[worker].pid, SIGKILL);
        rb_children_end(&c->child[worker], 1, rb_now_ns() + RB_SEC);
    }
    if (c->o.outside && c->o.outside->dropped)
        c->o.outside->dropped(c->o.outside->ctx, worker, how, c->held.found == worker);
}

static resbm_status lose(rb_crew *c, int worker, rb_err *err) {
    char how[sizeof err->text];
    snprintf(how, sizeof how, "%s", err ? err->text : "a replica is lost");
    c->silent = -1;
    *c->blame = rb_blame_nobody();
    rb_crew_leave_out(c, worker, how);
    c->held.found = -1;
    return c->o.lose(c->o.ctx, worker, how, err);
}

/* A message could not be sent: how did its receiver end? Its connection does so a little before itself. */
static void how_lost(rb_crew *c, int worker, rb_err *err) {
    char name[RB_WHO_TEXT];
    for (int i = 0; i < 20; i++) {
        rb_children_poll(c->child, c->stages);
        if (lost_child(c, err) == worker) return;
        rb_sleep_ns(5 * RB_MS);
    }
    rb_crew_accuse(c, worker, false, RESBM_E_PEER);
    rb_fail(err, RESBM_E_PEER, "%s is gone %s", who(c, worker, name), c->doing);
}

resbm_status rb_crew_tell(rb_crew *c, json_t *message, rb_err *err) {
    bool failed[RB_MAX_STAGES] = {false};
    resbm_status st = message ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for a control message");
    for (int i = 0; i < c->stages && !st; i++) {
        if (c->gone[i]) continue;
        st = rb_control_send(c->control, i, json_incref(message),
                             rb_now_ns() + c->o.cfg->pipeline.deadline_ns, err);
        failed[i] = st == RESBM_E_PEER && c->o.lose && c->started && rb_crew_has_twin(c, i);
        if (failed[i]) st = RESBM_OK;
        if (st && st != RESBM_E_CANCELLED) *c->blame = rb_blame_seen(i, st);
    }
    json_decref(message);
    for (int i = 0; i < c->stages && !st; i++) { /* once the others have been told */
        if (!failed[i] || c->gone[i]) continue;
        how_lost(c, i, err);
        st = rb_crew_has_twin(c, i) ? lose(c, i, err) : RESBM_E_PEER;
    }
    return st ? find_cause(c, st, -1, err) : RESBM_OK;
}

static bool complete(const rb_crew *c, int only, json_t **replies) {
    if (only >= 0) return replies[only] != NULL;
    for (int i = 0; i < c->stages; i++)
        if (!replies[i] && !c->gone[i]) return false;
    return true;
}

static resbm_status silent(rb_crew *c, const char *type, int only, json_t **replies, rb_err *err) {
    rb_buf all = {0};
    char name[RB_WHO_TEXT];
    for (int i = 0; i < c->stages; i++) {
        if (replies[i] || c->gone[i] || (only >= 0 && i != only)) continue;
        if (!all.len) rb_crew_accuse(c, i, false, RESBM_E_TIMEOUT);
        rb_buf_printf(&all, all.len ? ", %s" : "%s", who(c, i, name));
    }
    resbm_status st = rb_fail(err, RESBM_E_TIMEOUT, "no \"%s\" from %s %s before the deadline", type,
                              all.data ? all.data : "?", c->doing);
    rb_buf_free(&all);
    return st;
}

/* While stages start, what they say of their downloads comes between. */
static resbm_status expect(rb_crew *c, int peer, const char *type, int64_t until, int *from, json_t **out,
                           rb_err *err) {
    for (;;) {
        rb_blame whose;
        resbm_status st = rb_control_hear(c->control, peer, until, from, out, &whose, err);
        if (st) *c->blame = whose;
        if (st) return st;
        const char *got = json_string_value(json_object_get(*out, "t"));
        if (!strcmp(got, type)) return RESBM_OK;
        bool waits = !strcmp(got, "waits") && rb_held_note(&c->held, *from, *out, c->stages),
             loads = c->downloads && !strcmp(got, "loading") && *from >= 0 && *from < c->stages;
        if (!waits && !loads) {
            rb_crew_accuse(c, *from, true, RESBM_E_FORMAT);
            return rb_control_unexpected(c->control, *from, type, out, err);
        }
        if (loads) rb_downloads_note(c->downloads, *from, *out);
        json_decref(*out);
        *out = NULL;
        *from = RB_PEER_ANY;
        if (rb_now_ns() >= until) /* they may come without an end */
            return rb_fail(err, RESBM_E_TIMEOUT, "no \"%s\" came", type);
    }
}

/* Nobody is late while weights come. */
static bool too_late(const rb_crew *c, int64_t deadline_ns) {
    int64_t now = rb_now_ns();
    return now > deadline_ns && (!c->downloads || now - rb_downloads_moved_ns(c->downloads) >
                                                      c->o.cfg->pipeline.startup_deadline_ns);
}

/* The next answer. A stage that has answered its last question may be gone already: only the fault of one that still
 * owes an answer counts. */
static resbm_status next_answer(rb_crew *c, const char *type, int only, json_t **replies, int *from,
                                json_t **out, rb_err *err) {
    int64_t slice = rb_sign_slice(c->o.cfg->pipeline.deadline_ns);
    if (slice > LOOK_NS) slice = LOOK_NS;
    resbm_status st = expect(c, RB_PEER_ANY, type, rb_now_ns() + slice, from, out, err);
    if (st != RESBM_E_PEER || *from >= 0) return st;
    for (int i = 0; i < c->stages; i++) {
        if (c->gone[i] || replies[i] || (only >= 0 && i != only)) continue;
        st = expect(c, i, type, rb_now_ns() + RB_MS, from, out, err);
        if (st != RESBM_E_TIMEOUT || *from >= 0) return st;
    }
    return RESBM_E_TIMEOUT;
}

/* A stage may answer and end between two looks: takes the answers of stages that have ended well. */
static bool last_words(rb_crew *c, const char *type, int only, json_t **replies) {
    bool any = false;
    rb_children_poll(c->child, c->stages);
    for (int i = 0; i < c->stages; i++) {
        int from;
        rb_err ignored;
        if (c->gone[i] || replies[i] || (only >= 0 && i != only) || !c->child[i].ended || c->child[i].status)
            continue;
        any |= !expect(c, i, type, rb_now_ns() + 200 * RB_MS, &from, &replies[i], &ignored);
    }
    return any;
}

/* Answers that came while others were waited for. */
static void take_early(rb_crew *c, json_t **replies) {
    for (int i = 0; i < c->stages; i++) {
        if (!c->early[i] || !json_array_size(c->early[i])) continue;
        replies[i] = json_incref(json_array_get(c->early[i], 0));
        json_array_remove(c->early[i], 0);
    }
}

/* Weights, also those of other replicas, may come to one much later than to the others. Where a host has not looked at what links and
 * sums of replicas take (rb_host_wait_ns), nor does it count soon that one is late. */
static int64_t most_behind_others(const rb_crew *c, const char *type) {
    bool hosted = c->o.outside && c->o.outside->apart;
    if (!c->started || !strcmp(type, "met")) return 0;
    return (hosted ? 1 : 10) * c->o.cfg->pipeline.deadline_ns;
}

/* What one that is lost still had to say, or an answer that was given before another was lost. */
static bool is_past(const rb_crew *c, resbm_status st, int from, const json_t *j) {
    if (from < 0 || from >= c->stages) return false;
    const json_t *redeals = st ? NULL : json_object_get(j, "redeals");
    return c->gone[from] || (redeals && json_integer_value(redeals) < c->redeals[from]);
}

resbm_status rb_crew_gather(rb_crew *c, const char *type, int only, int64_t deadline_ns, json_t **replies,
                            rb_err *err) {
    memset(replies, 0, (size_t)c->stages * sizeof *replies);
    for (int i = 0; i < c->stages; i++) rb_sign_begin(&c->sign[i]);
    rb_held_begin(&c->held, rb_now_ns());
    c->held.most_ns = most_behind_others(c, type);
    take_early(c, replies);
    *c->blame = rb_blame_nobody();
    resbm_status st = RESBM_OK;
    int from = -1;
    int64_t look_ns = 0; /* at those who owe an answer */
    while (!complete(c, only, replies)) {
        json_t *j;
        if ((st = stopped(c, err))) {
            rb_crew_drop(c, replies);
            return st;
        }
        st = next_answer(c, type, only, replies, &from, &j, err);
        bool quiet = st == RESBM_E_TIMEOUT && from < 0; /* nobody spoke; a stage's own deadline is a fault */
        if (!quiet && is_past(c, st, from, j)) {        /* who counts is as quiet as before */
            if (!st) json_decref(j);
            st = RESBM_OK;
            quiet = rb_now_ns() >= look_ns;
            if (!quiet) continue;
        }
        if (quiet && last_words(c, type, only, replies)) {
            st = RESBM_OK;
            continue;
        }
        if (quiet) {
            look_ns = rb_now_ns() + LOOK_NS;
            *c->blame = rb_blame_nobody();
            from = -1;
            st = ended_early(c, replies, err);
            if (!st) st = rb_crew_all_alive(c, only, replies, err);
            if (!st) st = rb_crew_held_up(c, replies, err);
            if (!st && c->downloads) st = rb_downloads_fault(c->downloads, err);
            if (!st && too_late(c, deadline_ns)) st = silent(c, type, only, replies, err);
            if (!st) continue;
        }
        int worker = st ? spared(c, st, from, err) : -1;
        if (worker >= 0) {
            st = lose(c, worker, err);
            if (st) break;
            continue;
        }
        if (st) break;
        if (c->ahead && from >= 0 && from < c->stages && replies[from]) {
            if (!c->early[from]) c->early[from] = json_array();
            json_array_append_new(c->early[from], j);
            continue;
        }
        if (from < 0 || from >= c->stages || replies[from]) {
            char name[RB_WHO_TEXT];
            json_decref(j);
            rb_crew_accuse(c, from, true, RESBM_E_FORMAT);
            st = rb_fail(err, RESBM_E_FORMAT, "%s answered \"%s\" twice",
                         from < 0 ? "nobody" : who(c, from, name), type);
            break;
        }
        replies[from] = j;
    }
    if (!st) return RESBM_OK;
    rb_crew_drop(c, replies);
    if (c->held.found >= 0) return st; /* those who wait were given the time to say so */
    st = find_cause(c, st, from, err);
    if (st == RESBM_E_TIMEOUT) rb_crew_name_holder(c, c->blame->by, err);
    return st;
}

void rb_crew_drop(rb_crew *c, json_t **replies) {
    for (int i = 0; i < c->stages; i++) {
        json_decref(replies[i]);
        replies[i] = NULL;
    }
}

resbm_status rb_crew_look(rb_crew *c, rb_err *err) {
    RB_TRY(stopped(c, err));
    rb_children_poll(c->child, c->stages);
    int worker = lost_child(c, err);
    if (worker < 0) return RESBM_OK;
    return c->o.lose && rb_crew_has_twin(c, worker) ? lose(c, worker, err) : RESBM_E_PEER;
}
