#include "run/downloads.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include "core/clock.h"
#include "run/apart.h"
#include "run/parts.h"

enum {
    AHEAD = 8 << 20
}; /* bytes on the way to a stage: what a fast line has in flight, little memory for many */

typedef struct download {
    json_t *need; /* names; NULL: nothing */
    size_t next;
    rb_apart_out *out;            /* of need[next]; NULL: not open */
    bool waits, whole;            /* it has said so; that it has all */
    uint64_t before;              /* bytes of the files before it, */
    _Atomic uint64_t given, have; /* all that were sent; that it says it has */
} download;

struct rb_downloads {
    rb_crew *c;
    download *d; /* (stages) */
    pthread_t thread;
    bool runs;
    atomic_int
        unready; /* stages that lack something and have not said yet that they wait for it: they still meet each other */
    atomic_bool stop, failed;
    int64_t moved_ns;
    uint64_t came, counted; /* bytes that all have, and had at moved_ns */
    rb_err err;             /* once failed */
};

static resbm_status open_next(rb_downloads *o, int stage, rb_err *err) {
    char path[PATH_MAX];
    download *d = &o->d[stage];
    snprintf(path, sizeof path, "%s/%s", o->c->o.load, json_string_value(json_array_get(d->need, d->next)));
    return rb_apart_out_open(path, (rb_apart_base){.fd = -1}, &d->out, err);
}

/* *sent: a piece has gone; *left: there is more to send. */
static resbm_status send_to(rb_downloads *o, int stage, bool *sent, bool *left, rb_err *err) {
    download *d = &o->d[stage];
    bool end = false;
    if (d->next >= json_array_size(d->need)) return RESBM_OK;
    *left = true;
    if (atomic_load(&d->given) - atomic_load(&d->have) >= AHEAD) return RESBM_OK;
    if (!d->out) RB_TRY(open_next(o, stage, err));
    RB_TRY(rb_apart_send_piece(o->c->control, stage, d->out, NULL, &end, o->c->o.cfg->pipeline.deadline_ns,
                               err));
    *sent = true;
    uint64_t given = d->before + rb_apart_out_done(d->out, NULL);
    atomic_store(&d->given, given);
    if (!end) return RESBM_OK;
    d->before = given;
    rb_apart_out_close(d->out);
    d->out = NULL;
    d->next++;
    return RESBM_OK;
}

/* Round by round a piece for everyone who has room for it. A stage that is gone is the crew's to notice. */
static void *send_all(void *arg) {
    rb_downloads *o = arg;
    while (atomic_load(&o->unready) && !atomic_load(&o->stop)) rb_sleep_ns(5 * RB_MS);
    for (bool left = true; left && !atomic_load(&o->stop);) {
        bool sent = false;
        left = false;
        for (int i = 0; i < o->c->stages && !atomic_load(&o->stop); i++) {
            resbm_status st = send_to(o, i, &sent, &left, &o->err);
            if (!st) continue;
            atomic_store(&o->failed, true);
            return NULL;
        }
        if (left && !sent) rb_sleep_ns(5 * RB_MS);
    }
    return NULL;
}

static resbm_status check_names(rb_crew *c, int stage, const json_t *need, rb_err *err) {
    char text[RB_WHO_TEXT];
    for (size_t i = 0; i < json_array_size(need); i++) {
        const char *name = json_string_value(json_array_get(need, i));
        bool own = name && c->o.load && rb_parts_stage_of(c->o.cfg, name) == c->places[stage].stage;
        if (!own) rb_crew_accuse(c, stage, true, RESBM_E_FORMAT);
        if (!own)
            return rb_fail(err, RESBM_E_FORMAT, "%s asks for the file \"%s\", which is not its own",
                           rb_who_at(text, stage, c->places), name ? name : "?");
    }
    return RESBM_OK;
}

resbm_status rb_downloads_begin(rb_crew *c, json_t *const *listening, rb_downloads **out, rb_err *err) {
    rb_downloads *o = calloc(1, sizeof *o);
    size_t all = 0;
    *out = NULL;
    if (o) o->d = calloc((size_t)c->stages, sizeof *o->d);
    if (!o || !o->d) {
        free(o);
        return rb_fail(err, RESBM_E_MEMORY, "no memory to send weights to %d stages", c->stages);
    }
    o->c = c;
    o->moved_ns = rb_now_ns();
    resbm_status st = RESBM_OK;
    for (int i = 0; i < c->stages; i++) {
        json_t *need = json_object_get(listening[i], "need");
        if (!st) st = check_names(c, i, need, err);
        o->d[i].need = json_incref(need);
        all += json_array_size(need);
        o->unready += json_array_size(need) > 0;
    }
    int bad = st || !all ? 0 : pthread_create(&o->thread, NULL, send_all, o);
    if (bad) st = rb_fail_errno(err, bad, "cannot start a thread");
    o->runs = !st && all;
    if (st)
        rb_downloads_end(o);
    else
        *out = o;
    return st;
}

/* What counts is more than before, by more than a few bytes, and no more than it was sent: nobody keeps the others waiting by
 * claims alone, nor byte by byte. */
void rb_downloads_note(rb_downloads *o, int stage, const json_t *said) {
    json_int_t have = json_integer_value(json_object_get(said, "have")),
               of = json_integer_value(json_object_get(said, "of"));
    download *d = o ? &o->d[stage] : NULL;
    if (!d || have < 0 || have > of || (uint64_t)have > atomic_load(&d->given)) return;
    bool begins = !d->waits, ends = !d->whole && have == of;
    uint64_t before = atomic_load(&d->have);
    if (begins && json_array_size(d->need)) atomic_fetch_sub(&o->unready, 1);
    d->waits = true;
    d->whole |= ends;
    if ((uint64_t)have > before) {
        o->came += (uint64_t)have - before;
        atomic_store(&d->have, (uint64_t)have);
    }
    if (begins || ends || o->came - o->counted >= RB_APART_LEAST) {
        o->moved_ns = rb_now_ns();
        o->counted = o->came;
    }
    const rb_crew_outside *out = o->c->o.outside;
    if (out && out->loading) out->loading(out->ctx, stage, (uint64_t)have, (uint64_t)of);
}

int64_t rb_downloads_moved_ns(const rb_downloads *o) {
    return o->moved_ns;
}

resbm_status rb_downloads_fault(const rb_downloads *o, rb_err *err) {
    if (!atomic_load(&o->failed)) return RESBM_OK;
    if (err) *err = o->err;
    return o->err.code;
}

void rb_downloads_end(rb_downloads *o) {
    if (!o) return;
    atomic_store(&o->stop, true);
    if (o->runs) pthread_join(o->thread, NULL);
    for (int i = 0; i < o->c->stages; i++) {
        rb_apart_out_close(o->d[i].out);
        json_decref(o->d[i].need);
    }
    free(o->d);
    free(o);
}
