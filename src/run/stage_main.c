/* Joining the run, and the loop over the coordinator's messages. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>
#include "core/clock.h"
#include "core/thread.h"
#include "run/access.h"
#include "run/control.h"
#include "run/sign.h"
#include "run/stage.h"

static const rb_link_limits limits = {
    .frame_bytes = (size_t)1 << 30, .queued_bytes = (size_t)256 << 20, .inbox_bytes = (size_t)256 << 20};

static resbm_status join(rb_stage *s, rb_err *err) {
    rb_link_options o = {.self = s->self,
                         .stages = s->workers,
                         .token = s->way->token,
                         .limits = limits,
                         .carrier = s->carrier};
    RB_TRY(rb_link_open(&o, &s->control, err));
    return rb_link_connect(s->control, RB_PEER_COORDINATOR, s->way->control, rb_now_ns() + 60 * RB_SEC, err);
}

static resbm_status read_config(rb_stage *s, const json_t *in, rb_err *err) {
    const char *text = json_string_value(json_object_get(in, "config"));
    RB_TRY(rb_config_defaults(&s->cfg, err));
    RB_TRY(rb_config_load_text(&s->cfg, "run configuration", text ? text : "", text ? strlen(text) : 0, err));
    const char *schedule = json_string_value(json_object_get(in, "schedule"));
    if (schedule) {
        rb_buf_puts(&s->schedule_text, schedule);
        RB_TRY(rb_buf_status(&s->schedule_text, err));
        RB_TRY(rb_config_place(&s->cfg, schedule, strlen(schedule), err));
    }
    RB_TRY(rb_config_validate(&s->cfg, err));
    if (rb_workers(&s->cfg) != s->workers)
        return rb_fail(err, RESBM_E_CONFIG, "started as one of %d stages, the run has %d", s->workers,
                       rb_workers(&s->cfg));
    s->places = rb_worker_places(&s->cfg);
    if (!s->places) return rb_fail(err, RESBM_E_MEMORY, "no memory for %d places", s->workers);
    s->stage = s->places[s->self].stage;
    s->epoch = (uint32_t)json_integer_value(json_object_get(in, "epoch"));
    s->training = json_is_true(json_object_get(in, "training"));
    if (!s->training) s->cfg.boundary.feedback_rows = 0;
    const char *scratch = json_string_value(json_object_get(in, "scratch"));
    snprintf(s->scratch, sizeof s->scratch, "%s", scratch ? scratch : ".");
    s->cfg.pipeline.threads = json_integer_value(json_object_get(in, "threads"));
    s->apart = json_is_true(json_object_get(in, "apart"));
    if (!s->cfg.pipeline.threads) s->cfg.pipeline.threads = s->way->threads;
    if (s->apart && s->cfg.pipeline.threads <= 0) s->cfg.pipeline.threads = sysconf(_SC_NPROCESSORS_ONLN);
    return RESBM_OK;
}

/* Does this process exchange messages with process `other`? With every replica of the stages before and behind, whatever
 * the deal is, and with those of its own stage. */
static bool neighbour(const rb_stage *s, int worker) {
    int other = s->places[worker].stage;
    if (other == s->stage) return worker != s->self;
    for (int i = 0; i + 1 < (int)s->cfg.model.segments; i++) {
        int a = rb_stage_of(&s->cfg, i), b = rb_stage_of(&s->cfg, i + 1);
        if (a != b && ((a == s->stage && b == other) || (b == s->stage && a == other))) return true;
    }
    return false;
}

/* Over TCP or Unix sockets: those behind are dialed, those before dial. */
static resbm_status dial(rb_stage *s, rb_listener *mine, const json_t *peers, int64_t deadline, rb_err *err) {
    bool missing[RB_MAX_STAGES] = {false};
    for (int i = 0; i < s->self; i++) {
        char name[RB_CARRIER_NAME], service[RB_CARRIER_NAME];
        if (neighbour(s, i) &&
            rb_carrier_address(json_string_value(json_array_get(peers, (size_t)i)), name, service))
            rb_link_expect(s->link, i, name);
    }
    for (int i = s->self + 1; i < s->workers; i++)
        if (neighbour(s, i))
            RB_TRY(rb_link_connect(s->link, i, json_string_value(json_array_get(peers, (size_t)i)), deadline,
                                   err));
    for (int i = 0; i < s->self; i++) missing[i] = neighbour(s, i);
    return rb_link_accept_all(s->link, mine, missing, deadline, err);
}

/* Over MPI. Every stage goes through its neighbours in ascending order, so that no two wait for each other in a ring. */
static resbm_status attach(rb_stage *s, int64_t deadline, rb_err *err) {
    for (int i = 0, fd; i < s->workers; i++) {
        if (i == s->self || !neighbour(s, i)) continue;
        RB_TRY(rb_mpi_stream(s->way->mpi, i, RB_STAGE_CHANNEL, &fd, err));
        RB_TRY(rb_link_attach(s->link, i, fd, deadline, err));
    }
    return RESBM_OK;
}

static resbm_status listen_for(rb_stage *s, const char *address, rb_listener **out, rb_err *err) {
    if (s->way->mpi) return RESBM_OK;
    resbm_status heard = rb_listen_over(s->carrier, address, out, err);
    if (heard && s->cfg.pipeline.addresses)
        return rb_err_context(
            err, heard,
            "pipeline.addresses, entry %d, is to be of the machine where pipeline.launcher starts "
            "stage %d: ",
            s->self + 1, s->self);
    return heard;
}

static resbm_status tell_address(rb_stage *s, const rb_listener *mine, double gflops, json_t *need,
                                 int64_t deadline, rb_err *err) {
    char host[256] = "?";
    gethostname(host, sizeof host - 1);
    return rb_control_send(s->control, RB_PEER_COORDINATOR,
                           json_pack("{s:s, s:s, s:I, s:s, s:f, s:o*}", "t", "listening", "address",
                                     mine ? rb_listener_address(mine) : "", "pid", (json_int_t)getpid(),
                                     "host", host, "gflops", gflops, "need", need),
                           deadline, err);
}

static resbm_status read_speeds(rb_stage *s, const json_t *speeds, rb_err *err) {
    for (int i = 0; i < s->workers; i++) {
        s->gflops[i] = json_number_value(json_array_get(speeds, (size_t)i));
        if (rb_stage_plans_in_flight(s) && !(s->gflops[i] > 0))
            return rb_fail(err, RESBM_E_FORMAT, "the coordinator told no speed of stage %d",
                           s->places[i].stage);
    }
    return RESBM_OK;
}

/* Of what stages send each other: a frame that claims more is refused before memory is taken for it, of which this stage may
 * have little. */
static resbm_status limit_frames(rb_stage *s, rb_link_limits *out, rb_err *err) {
    enum { LEAST = 16 << 20 }; /* the sums of replicas cross in pieces of 8 MB */
    const rb_config *c = &s->cfg;
    size_t most = 0;
    *out = limits;
    if (c->model.segments > 1)
        RB_TRY(rb_port_most_bytes(&c->model, &c->boundary, c->train.batch / c->train.microbatches,
                                  c->model.context, &most, err));
    most = (most > LEAST ? most : LEAST) + RB_FRAME_HEADER_BYTES;
    if (most < out->frame_bytes) out->frame_bytes = most;
    return RESBM_OK;
}

static resbm_status open_links(rb_stage *s, const json_t *in, rb_err *err) {
    rb_link_options o = {.self = s->self,
                         .stages = s->workers,
                         .places = s->places,
                         .epoch = s->epoch,
                         .token = s->way->token,
                         .shape = s->cfg.link,
                         .record_events = true,
                         .carrier = s->carrier,
                         .refused = s->way->note};
    rb_listener *mine = NULL;
    json_t *peers, *need = NULL;
    RB_TRY(limit_frames(s, &o.limits, err));
    if (s->up_bits > 0 && (!(o.shape.up_bits > 0) || o.shape.up_bits > s->up_bits))
        o.shape.up_bits = s->up_bits;
    if (s->apart)
        RB_TRY(rb_stage_apart_begin(s, json_string_value(json_object_get(in, "manifest")), &need, err));
    int from;
    int64_t deadline = rb_now_ns() + s->cfg.pipeline.startup_deadline_ns;
    double gflops = 0;
    if (rb_stage_plans_in_flight(s)) RB_TRY(rb_stage_speed(s, &gflops, err));
    RB_TRY(rb_link_open(&o, &s->link, err));
    RB_TRY(listen_for(s, json_string_value(json_object_get(in, "listen")), &mine, err));
    resbm_status st = tell_address(s, mine, gflops, need, deadline, err);
    if (!st) st = rb_control_expect(s->control, RB_PEER_COORDINATOR, "peers", deadline, &from, &peers, err);
    if (!st) {
        st = read_speeds(s, json_object_get(peers, "gflops"), err);
        if (!st)
            st = s->way->mpi ? attach(s, deadline, err)
                             : dial(s, mine, json_object_get(peers, "addresses"), deadline, err);
        json_decref(peers);
    }
    rb_listener_close(mine);
    return st;
}

static resbm_status dispatch(rb_stage *s, const json_t *in, json_t **reply, rb_err *err) {
    const char *type = json_string_value(json_object_get(in, "t"));
    if (!strcmp(type, "step"))
        return s->flows ? rb_stage_flow_step(s, in, reply, err) : rb_stage_step(s, in, reply, err);
    if (!strcmp(type, "drop")) return rb_stage_drop(s, reply, err);
    if (!strcmp(type, "commit")) return rb_stage_commit(s, in, err);
    if (!strcmp(type, "redeal")) return rb_stage_redeal(s, in, reply, err);
    if (!strcmp(type, "meet")) return rb_stage_meet(s, reply, err);
    if (!strcmp(type, "outer")) return rb_stage_end_round(s, err);
    if (!strcmp(type, "eval")) return rb_stage_eval(s, in, reply, err);
    if (!strcmp(type, "save") && s->apart) return rb_stage_apart_save(s, in, err);
    if (!strcmp(type, "save")) return rb_stage_save(s, in, reply, err);
    if (!strcmp(type, "decode")) return rb_stage_decode(s, in, reply, err);
    if (!strcmp(type, "finish")) {
        RB_TRY(rb_stage_apart_sent(s, err));
        return rb_stage_stats(s, reply, err);
    }
    return rb_fail(err, RESBM_E_FORMAT, "the coordinator sent \"%s\", which no stage knows", type);
}

static resbm_status answer(rb_stage *s, json_t *reply, rb_err *err) {
    return rb_control_send(s->control, RB_PEER_COORDINATOR, reply, rb_now_ns() + s->cfg.pipeline.deadline_ns,
                           err);
}

/* Waits for the coordinator as long as it lives: between steps it may be busy with things of its own. */
static resbm_status next_order(rb_stage *s, json_t **in, rb_err *err) {
    rb_sign sign;
    rb_sign_begin(&sign);
    for (;;) {
        int from;
        int64_t silent_ns, deadline = s->cfg.pipeline.deadline_ns;
        resbm_status st = rb_control_recv(s->control, RB_PEER_COORDINATOR,
                                          rb_now_ns() + rb_sign_slice(deadline), &from, in, err);
        if (st != RESBM_E_TIMEOUT) return st;
        if (!rb_sign_look(&sign, s->control, RB_PEER_COORDINATOR, deadline, &silent_ns))
            return rb_fail(err, RESBM_E_TIMEOUT,
                           "stage %d waited %.1f s for a sign of life from the coordinator", s->self,
                           (double)silent_ns * 1e-9);
    }
}

static resbm_status work(rb_stage *s, rb_err *err) {
    for (bool finished = false; !finished;) {
        json_t *in, *reply = NULL;
        RB_TRY(next_order(s, &in, err));
        resbm_status st;
        finished = !strcmp(json_string_value(json_object_get(in, "t")), "finish");
        st = dispatch(s, in, &reply, err);
        json_decref(in);
        if (!st && reply) st = answer(s, reply, err);
        if (st) return st;
    }
    rb_err ignored;
    if (s->link) rb_link_stop(s->link, rb_now_ns() + RB_SEC, &ignored);
    return rb_link_stop(s->control, rb_now_ns() + 5 * RB_SEC, err);
}

/* What comes for this participant, and for none of its streams, is for nobody: taken in, to be refused with a name. */
static resbm_status reach(rb_stage *s, const char *text, rb_err *err) {
    rb_access a;
    resbm_status st = rb_access_parse(text, &a, err);
    s->up_bits = a.up_bits;
    s->uplink_bits = a.uplink_bits;
    a.catch_all = *a.certificate != 0; /* the participant's only process that has streams */
    if (!st)
        st = rb_access_connect(&a, rb_now_ns() + 60 * RB_SEC, a.catch_all ? s->way->note : NULL, NULL,
                               &s->carrier, err);
    explicit_bzero(&a, sizeof a);
    return st;
}

static resbm_status set_up(rb_stage *s, rb_err *err) {
    json_t *in;
    int from;
    RB_TRY(rb_control_expect(s->control, RB_PEER_COORDINATOR, "config", rb_now_ns() + 60 * RB_SEC, &from, &in,
                             err));
    resbm_status st = read_config(s, in, err);
    if (!st) st = open_links(s, in, err);
    if (!st) st = rb_stage_open(s, err);
    const char *load = json_string_value(json_object_get(in, "load"));
    if (!st && load) st = rb_stage_load(s, load, err);
    if (!st && s->apart && s->snapshot.config) st = rb_stage_apart_load(s, err);
    if (!st) st = rb_stage_begin_round(s, err);
    json_decref(in);
    if (!st) st = answer(s, json_pack("{s:s, s:o*}", "t", "ready", "memory", rb_stage_planned(s)), err);
    return st;
}

/* Where no coordinator can end this process (its launcher is another), the coordinator's end is noticed here: a stage in
 * the middle of a wait for another stage lets go of it. */
typedef struct watch {
    rb_stage *s;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool over, runs;
} watch;

static void *keep_watch(void *arg) {
    watch *w = arg;
    pthread_mutex_lock(&w->lock);
    while (!w->over) {
        rb_cond_wait_until(&w->changed, &w->lock, rb_now_ns() + RB_SEC);
        if (!w->over && rb_link_gone_order(w->s->control, RB_PEER_COORDINATOR)) break;
    }
    if (!w->over && w->s->link) rb_link_close(w->s->link);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void begin_watch(watch *w, rb_stage *s) {
    *w = (watch){.s = s, .lock = PTHREAD_MUTEX_INITIALIZER};
    rb_cond_init(&w->changed);
    if (s->way->mpi) w->runs = !pthread_create(&w->thread, NULL, keep_watch, w);
}

static void end_watch(watch *w) {
    pthread_mutex_lock(&w->lock);
    w->over = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (w->runs) pthread_join(w->thread, NULL);
}

static resbm_status serve(rb_stage *s, rb_err *err) {
    watch w;
    RB_TRY(set_up(s, err));
    begin_watch(&w, s);
    resbm_status st = work(s, err);
    end_watch(&w);
    return st;
}

resbm_status rb_stage_main(const rb_stage_way *way, bool *told, rb_err *err) {
    *told = false;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* no orphans: without who started it a stage has nothing left to do */
    signal(SIGINT, SIG_IGN);          /* the coordinator turns Ctrl-C into a snapshot */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file too large is an error of write */
    rb_stage *s = calloc(1, sizeof *s);
    if (!s) return rb_fail(err, RESBM_E_MEMORY, "no memory for a stage");
    s->way = way;
    s->self = way->self;
    s->workers = way->stages;
    resbm_status st = way->access ? reach(s, way->access, err) : RESBM_OK;
    if (!st) st = join(s, err);
    *told = st == RESBM_OK;
    if (!st) {
        st = serve(s, err);
        if (st) {
            rb_err ignored;
            rb_stage_advise(s, err);
            if (!s->accused && s->link) s->accused = rb_link_bad_peer(s->link) + 1;
            rb_control_send(s->control, RB_PEER_COORDINATOR,
                            json_pack("{s:s, s:i, s:s, s:i}", "t", "fault", "code", (int)st, "text",
                                      err->text, "accused", s->accused - 1),
                            rb_now_ns() + RB_SEC, &ignored);
            rb_link_stop(s->control, rb_now_ns() + RB_SEC, &ignored);
        }
    }
    if (s->apart) *told = false; /* its owner wants to read it too */
    rb_stage_apart_stop(s);
    rb_stage_close(s);
    rb_manifest_free(&s->snapshot);
    rb_link_fini(s->link);
    rb_link_fini(s->control);
    free(s->places); /* the links' threads name workers by them to the end */
    rb_carrier_close(s->carrier, rb_now_ns() + 3 * RB_SEC);
    free(s);
    return st;
}
