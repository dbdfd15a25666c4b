/* Schedules as text. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pipeline/schedules.h"
#include "pipeline/validate.h"

enum { MOST_SEGMENTS = 1024, MOST_MICROBATCHES = 65536, MOST_STAGES = 1024 };

typedef struct reader {
    const char *at, *end, *name;
    const char *line_start;
    int line;
    rb_schedule *out;
    int where[MOST_SEGMENTS]; /* stage of a segment, -1 = not seen */
    rb_err *err;
} reader;

__attribute__((format(printf, 3, 4))) static resbm_status fail_at(const reader *r, const char *place,
                                                                  const char *fmt, ...) {
    char why[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return rb_fail(r->err, RESBM_E_FORMAT, "%s:%d:%d: %s", r->name, r->line, (int)(place - r->line_start) + 1,
                   why);
}

static resbm_status take_cell(reader *r, const char *cell, size_t n, int stage) {
    char text[RB_ACTION_TEXT] = "";
    rb_action a;
    rb_err why;
    if (n >= sizeof text) return fail_at(r, cell, "\"%.20s...\" is no action: it is too long", cell);
    memcpy(text, cell, n);
    if (rb_action_parse(text, &a, &why)) return fail_at(r, cell, "%s", why.text);
    if (a.segment >= MOST_SEGMENTS || a.microbatch >= MOST_MICROBATCHES)
        return fail_at(r, cell, "%s: segments go to %d, microbatches to %d", text, MOST_SEGMENTS - 1,
                       MOST_MICROBATCHES - 1);
    if (r->where[a.segment] >= 0 && r->where[a.segment] != stage)
        return fail_at(r, cell,
                       "%s: segment %d lives on stage %d, where it stands first, and not on stage %d", text,
                       a.segment, r->where[a.segment], stage);
    r->where[a.segment] = stage;
    if (a.segment >= r->out->segments) r->out->segments = a.segment + 1;
    if (a.microbatch >= r->out->microbatches) r->out->microbatches = a.microbatch + 1;
    return rb_action_push(&r->out->stage[stage], a, r->err);
}

/* A line that has actions on it is a stage. */
static resbm_status take_line(reader *r) {
    bool any = false;
    r->line_start = r->at;
    while (r->at < r->end && *r->at != '\n') {
        if (*r->at == '#') {
            while (r->at < r->end && *r->at != '\n') r->at++;
            break;
        }
        const char *cell = r->at;
        while (r->at < r->end && !strchr(" \t\r\n#", *r->at)) r->at++;
        size_t n = (size_t)(r->at - cell);
        if (!n) {
            r->at++;
            continue;
        }
        if (n == 1 && *cell == '.') continue;
        if (!any && r->out->stages == MOST_STAGES)
            return fail_at(r, cell, "a schedule has at most %d stages", MOST_STAGES);
        r->out->stages += !any;
        any = true;
        RB_TRY(take_cell(r, cell, n, r->out->stages - 1));
    }
    r->at += r->at < r->end;
    r->line++;
    return RESBM_OK;
}

static resbm_status place_segments(reader *r) {
    rb_schedule *s = r->out;
    if (!s->stages) return rb_fail(r->err, RESBM_E_FORMAT, "%s: there is no action in it", r->name);
    s->stage_of = calloc((size_t)s->segments, sizeof *s->stage_of);
    if (!s->stage_of) return rb_fail(r->err, RESBM_E_MEMORY, "no memory for %d segments", s->segments);
    for (int g = 0; g < s->segments; g++) {
        s->stage_of[g] = r->where[g];
        if (r->where[g] < 0)
            return rb_fail(r->err, RESBM_E_FORMAT, "%s: segment %d has no action, but segment %d has",
                           r->name, g, s->segments - 1);
    }
    return RESBM_OK;
}

resbm_status rb_schedule_parse(const char *text, size_t len, const char *name, rb_schedule *out,
                               rb_err *err) {
    reader *r = malloc(sizeof *r);
    *out = (rb_schedule){0};
    if (!r) return rb_fail(err, RESBM_E_MEMORY, "no memory to read %s", name);
    *r = (reader){.at = text, .end = text + len, .name = name, .line = 1, .out = out, .err = err};
    memset(r->where, -1, sizeof r->where);
    const char *base = strrchr(name, '/');
    snprintf(out->name, sizeof out->name, "%s", base ? base + 1 : name);
    out->stage = calloc(MOST_STAGES, sizeof *out->stage);
    resbm_status st = out->stage ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory to read %s", name);
    while (st == RESBM_OK && r->at < r->end) st = take_line(r);
    if (st == RESBM_OK) st = place_segments(r);
    free(r);
    return st;
}

void rb_schedule_print(const rb_schedule *s, rb_buf *out) {
    for (int i = 0; i < s->stages; i++) {
        for (int j = 0; j < s->stage[i].count; j++) {
            char cell[RB_ACTION_TEXT];
            rb_action_print(cell, sizeof cell, s->stage[i].items[j]);
            rb_buf_printf(out, "%s%s", j ? " " : "", cell);
        }
        rb_buf_puts(out, "\n");
    }
}

static resbm_status check_counts(const rb_schedule *s, const char *name, const rb_schedule_args *a,
                                 rb_err *err) {
    const struct {
        const char *key;
        int has, want;
    } c[] = {{"pipeline.stages", s->stages, a->stages},
             {"model.segments", s->segments, a->segments},
             {"train.microbatches", s->microbatches, a->microbatches}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++)
        if (c[i].has != c[i].want)
            return rb_fail(err, RESBM_E_CONFIG, "%s is for %s %d, but the run has %d; set %s to %d", name,
                           c[i].key, c[i].has, c[i].want, c[i].key, c[i].has);
    return RESBM_OK;
}

static bool has_messages(const rb_schedule *s) {
    for (int i = 0; i < s->stages; i++)
        for (int j = 0; j < s->stage[i].count; j++)
            if (!rb_action_computes(s->stage[i].items[j].kind)) return true;
    return false;
}

resbm_status rb_schedule_build_text(const char *text, size_t len, const char *name, const rb_schedule_args *a,
                                    rb_schedule *out, int *in_flight, int *stash, rb_err *err) {
    RB_TRY(rb_schedule_parse(text, len, name, out, err));
    RB_TRY(check_counts(out, name, a, err));
    if (!has_messages(out)) RB_TRY(rb_schedule_communicate(out, err));
    RB_TRY(rb_schedule_trunks(out, a->trunks, err));
    rb_validate_options o = {.queue_bound = a->segments * a->microbatches, .stash_needed = stash};
    return rb_schedule_validate(out, &o, in_flight, NULL, err);
}
