#include "run/compare_result.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "run/keys.h"
#include "run/report.h"

/* ", identity none" of a key that may have gained words since. */
static void describe_key(const rb_config *c, const char *name, const char *unless, rb_buf *out) {
    rb_buf value = {0};
    rb_key_print(c, rb_key_find("boundary", name), &value);
    if (value.data && strcmp(value.data, unless)) rb_buf_printf(out, ", %s %s", name, value.data);
    rb_buf_free(&value);
}

static void describe(const rb_config *c, char out[200]) {
    const rb_boundary_config *b = &c->boundary;
    rb_buf text = {0};
    if (c->model.segments < 2) {
        snprintf(out, 200, "one segment, %lld blocks", (long long)c->model.layers);
        return;
    }
    rb_buf_printf(&text, "%s", b->kind);
    if (b->k > 0 && b->k < c->model.d) rb_buf_printf(&text, " k %lld", (long long)b->k);
    rb_buf_printf(&text, " %s", b->codec_fwd);
    if (strcmp(b->codec_fwd, b->codec_bwd)) rb_buf_printf(&text, "/%s", b->codec_bwd);
    if (!strcmp(b->kind, "residual")) describe_key(c, "identity", "", &text);
    describe_key(c, "tokens", "none", &text);
    describe_key(c, "aux", "none", &text);
    if (c->model.cut == RB_CUT_INSIDE) rb_buf_puts(&text, ", cut inside blocks");
    snprintf(out, 200, "%.199s", text.data ? text.data : "");
    rb_buf_free(&text);
}

/* Headers count by message, so that the number of microbatches matters. */
static void take_frames(const rb_cost *c, rb_compare_row *row) {
    row->frame_forward = c->frame_forward / fmax(1, c->tokens);
    row->frame_backward = c->frame_backward / fmax(1, c->tokens);
}

static void take_cost(const rb_cost *c, rb_compare_row *row) {
    double rest = rb_cost_total(c) - c->boundary_forward;
    row->params = rb_cost_params(c);
    row->extra_params = c->boundary_params;
    row->compute = rb_cost_total(c) * (1 + c->backward);
    row->extra_compute = c->boundary_forward / rest;
    take_frames(c, row);
}

static void take_time(const rb_study *t, int variant, rb_compare_row *row) {
    const rb_compare_time *time = &t->time[variant];
    if (time->cost.segments) take_frames(&time->cost, row);
    row->time_fault = *time->fault ? time->fault : NULL;
    row->fitting = t->state[variant].fitting;
    row->capped = t->state[variant].capped;
    memcpy(row->step, time->step, sizeof row->step);
    for (int l = 0; l < RB_COMPARE_LINKS; l++) row->time_to[l] = NAN;
    row->step_least = row->step_most = NAN;
    row->step_measured = row->bytes_forward = row->bytes_backward = row->bytes_ids = row->rss = NAN;
    if (!time->measured.known) return;
    row->step_measured = time->measured.step;
    row->step_least = time->measured.least;
    row->step_most = time->measured.most;
    row->bytes_forward = time->measured.bytes_forward;
    row->bytes_backward = time->measured.bytes_backward;
    row->bytes_ids = time->measured.bytes_ids;
    row->rss = time->measured.rss;
}

/* What the row's configuration says, also before anything is trained. */
static resbm_status describe_row(const rb_study *t, int variant, rb_compare_row *row, rb_err *err) {
    rb_config *c = malloc(sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    rb_compare_run any = {.variant = variant, .share = 1};
    snprintf(any.point, sizeof any.point, "%s", rb_study_point(t, variant));
    resbm_status st = rb_study_config(t, &any, c, err);
    rb_cost *cost = malloc(sizeof *cost);
    if (!st && !cost) st = rb_fail(err, RESBM_E_MEMORY, "no memory for costs");
    if (!st) st = rb_cost_of(c, cost, err);
    if (!st) {
        take_cost(cost, row);
        describe(c, row->boundary);
        row->uncompressed =
            rb_compare_uncompressed(c) && t->s->variant[variant].control != RB_CONTROL_SAME_SIZE;
        row->steps = c->train.steps;
        row->tokens_per_step = c->train.batch * c->model.context;
    }
    free(cost);
    free(c);
    return st;
}

static resbm_status take_spread(rb_compare_row *row, const rb_curve *curve, rb_err *err) {
    double at[RB_COMPARE_SEEDS], mean;
    row->spread = calloc((size_t)row->mean.n + 1, sizeof *row->spread);
    if (!row->spread) return rb_fail(err, RESBM_E_MEMORY, "no memory for a curve");
    for (int i = 0; i < row->mean.n; i++) {
        for (int s = 0; s < row->done; s++)
            for (int j = 0; j < curve[s].n; j++)
                if (curve[s].step[j] == row->mean.step[i]) at[s] = curve[s].loss[j];
        rb_mean_deviation(at, row->done, &mean, &row->spread[i]);
    }
    return RESBM_OK;
}

static void take_sweep(const rb_study *t, int variant, rb_compare_row *row) {
    const rb_sweep *w = &row->variant->sweep;
    for (int i = 0; i < w->values; i++) {
        const rb_compare_run *r = rb_study_find(t, variant, w->value[i], 0, t->s->sweep_share);
        row->sweep_loss[i] = r && r->state == RB_RUN_DONE ? r->loss : NAN;
    }
}

static resbm_status gather_row(const rb_study *t, int variant, rb_compare_row *row, rb_err *err) {
    rb_compare_run *run[RB_COMPARE_SEEDS];
    rb_curve curve[RB_COMPARE_SEEDS];
    *row = (rb_compare_row){.variant = &t->s->variant[variant],
                            .point = rb_study_point(t, variant),
                            .seeds = t->s->seeds,
                            .edge = t->state[variant].best < 0 ? 0 : t->state[variant].edge,
                            .loss = NAN,
                            .deviation = NAN,
                            .reach = NAN,
                            .ratio = NAN};
    RB_TRY(describe_row(t, variant, row, err));
    take_time(t, variant, row);
    rb_study_seeds(t, variant, run);
    take_sweep(t, variant, row);
    for (int i = 0; i < row->seeds; i++) {
        if (run[i] && run[i]->state == RB_RUN_FAILED && !row->failed++) row->fault = run[i]->fault;
        if (!run[i] || run[i]->state != RB_RUN_DONE) continue;
        row->seed_loss[row->done] = run[i]->loss;
        curve[row->done++] = run[i]->curve;
    }
    rb_mean_deviation(row->seed_loss, row->done, &row->loss, &row->deviation);
    RB_TRY(rb_curve_mean(curve, row->done, &row->mean, err));
    return take_spread(row, curve, err);
}

/* The lowest mean loss among uncompressed rows whose seeds are all done. */
static int find_reference(const rb_compare_result *r) {
    int best = -1;
    for (int i = 0; i < r->rows; i++) {
        const rb_compare_row *row = &r->row[i];
        if (!row->uncompressed || row->done < row->seeds || !isfinite(row->loss)) continue;
        if (best < 0 || row->loss < r->row[best].loss) best = i;
    }
    return best;
}

static void reach_target(const rb_study *t, const rb_compare_result *r, int variant) {
    rb_compare_run *run[RB_COMPARE_SEEDS];
    rb_compare_row *row = &r->row[variant];
    row->reach = row->done ? rb_curve_reach(&row->mean, r->target) : NAN;
    for (int l = 0; l < t->s->links && row->done == row->seeds; l++)
        row->time_to[l] = row->reach * row->step[l];
    rb_study_seeds(t, variant, run);
    for (int i = 0, n = 0; i < row->seeds; i++) {
        if (!run[i] || run[i]->state != RB_RUN_DONE) continue;
        row->seed_reach[n] = rb_curve_reach(&run[i]->curve, r->target);
        row->reached += !isnan(row->seed_reach[n++]);
    }
}

resbm_status rb_compare_gather(const rb_study *t, rb_compare_result *out, rb_err *err) {
    *out = (rb_compare_result){.study = t, .target = t->s->target, .reference = -1, .equal_tokens = true};
    out->row = calloc((size_t)t->s->variants + 1, sizeof *out->row);
    if (!out->row) return rb_fail(err, RESBM_E_MEMORY, "no memory for a result");
    int64_t tokens = 0;
    for (int i = 0; i < t->s->variants; i++) {
        rb_compare_row *row = &out->row[out->rows++];
        RB_TRY(gather_row(t, i, row, err));
        int64_t all = row->steps * row->tokens_per_step;
        if (row->variant->control == RB_CONTROL_ALONE_AS_LONG) continue;
        out->equal_tokens &= !tokens || all == tokens;
        tokens = all;
    }
    out->reference = find_reference(out);
    if (isnan(out->target) && out->reference >= 0)
        out->target = out->row[out->reference].loss * (1 + t->s->target_slack);
    if (isnan(out->target)) return RESBM_OK;
    for (int i = 0; i < out->rows; i++) reach_target(t, out, i);
    for (int i = 0; i < out->rows && out->reference >= 0; i++)
        if (out->row[i].done == out->row[i].seeds)
            out->row[i].ratio = out->row[i].reach / out->row[out->reference].reach;
    return RESBM_OK;
}

void rb_compare_result_free(rb_compare_result *r) {
    for (int i = 0; r->row && i < r->rows; i++) {
        rb_curve_free(&r->row[i].mean);
        free(r->row[i].spread);
    }
    free(r->row);
    *r = (rb_compare_result){0};
}

static resbm_status write_file(const rb_study *t, const char *name, const rb_buf *text, rb_err *err) {
    char path[PATH_MAX];
    RB_TRY(rb_buf_status(text, err));
    snprintf(path, sizeof path, "%s/%s", t->o->dir, name);
    return rb_write_file_atomic(path, text->data, text->len, err);
}

resbm_status rb_compare_write(const rb_study *t, rb_buf *table, rb_err *err) {
    rb_compare_result r;
    rb_buf json = {0};
    char page[PATH_MAX];
    resbm_status st = rb_compare_gather(t, &r, err);
    if (!st) rb_compare_markdown(&r, table);
    if (!st) st = write_file(t, "compare.md", table, err);
    if (!st) st = rb_compare_json(&r, &json, err);
    if (!st) st = write_file(t, "compare.json", &json, err);
    snprintf(page, sizeof page, "%s/report.html", t->o->dir);
    if (!st) st = rb_report_write_study(page, json.data, err);
    rb_buf_free(&json);
    rb_compare_result_free(&r);
    return st;
}
