/* The result as one Markdown table and the sentences that qualify it. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "run/compare_result.h"

enum { COLUMNS = 32, CELL = 240 };

/* A row of cells; add() fills the next one. */
typedef struct line {
    char cell[COLUMNS][CELL];
    int cells;
} line;

static char *add(line *l) {
    return l->cells < COLUMNS ? l->cell[l->cells++] : l->cell[COLUMNS - 1];
}

static void number(line *l, double v, int decimals, const char *unit) {
    if (isnan(v))
        strcpy(add(l), "-");
    else
        snprintf(add(l), CELL, "%.*f%s", decimals, v, unit);
}

static void head_line(const rb_compare_result *r, line *l) {
    const rb_compare_spec *s = r->study->s;
    strcpy(add(l), "variant");
    strcpy(add(l), "loss");
    strcpy(add(l), "perplexity");
    strcpy(add(l), "tokens");
    if (!isnan(r->target)) {
        snprintf(add(l), CELL, "steps to %.4f", r->target);
        strcpy(add(l), "steps ratio");
    }
    strcpy(add(l), "bytes/token ->");
    strcpy(add(l), "bytes/token <-");
    if (s->links) snprintf(add(l), CELL, "s/step %s, measured", s->link[0].name);
    for (int i = 0; i < s->links; i++) snprintf(add(l), CELL, "s/step %s, model", s->link[i].name);
    for (int i = 0; i < s->links && !isnan(r->target); i++)
        snprintf(add(l), CELL, "time to loss %s", s->link[i].name);
    if (s->links) strcpy(add(l), "memory/stage");
    strcpy(add(l), "params");
    strcpy(add(l), "of them boundaries'");
    strcpy(add(l), "compute of boundaries");
}

static void loss_cell(const rb_compare_row *row, char *out) {
    if (isnan(row->loss))
        snprintf(out, CELL, "%s", row->failed ? "failed" : "-");
    else if (isnan(row->deviation))
        snprintf(out, CELL, "%.4f", row->loss);
    else
        snprintf(out, CELL, "%.4f ± %.4f", row->loss, row->deviation);
    if (row->done && row->done < row->seeds) {
        size_t n = strlen(out);
        snprintf(out + n, CELL - n, " (%d of %d seeds)", row->done, row->seeds);
    }
}

static void steps_cell(const rb_compare_row *row, char *out) {
    if (!row->done)
        strcpy(out, "-");
    else if (isnan(row->reach))
        snprintf(out, CELL, "not reached in %" PRId64, row->steps);
    else
        snprintf(out, CELL, "%.0f", row->reach);
    size_t n = strlen(out);
    if (row->reached && row->reached < row->done)
        snprintf(out + n, CELL - n, " (%d of %d seeds)", row->reached, row->done);
}

static void seconds(line *l, double v) {
    char *out = add(l);
    if (isnan(v))
        strcpy(out, "-");
    else if (v < 100)
        snprintf(out, CELL, "%.3g s", v);
    else if (v < 6000)
        snprintf(out, CELL, "%.1f min", v / 60);
    else
        snprintf(out, CELL, "%.1f h", v / 3600);
}

/* Measured where it was; else what the wire's rules say. */
static double bytes(double measured, double paper) {
    return isnan(measured) ? paper : measured;
}

static void cost_cells(const rb_compare_result *r, const rb_compare_row *row, line *l) {
    const rb_compare_spec *s = r->study->s;
    number(l, bytes(row->bytes_forward, row->frame_forward), 2, "");
    number(l, bytes(row->bytes_backward, row->frame_backward), 2, "");
    if (s->links) number(l, row->step_measured, 3, "");
    for (int i = 0; i < s->links; i++) number(l, row->step[i], 3, "");
    for (int i = 0; i < s->links && !isnan(r->target); i++) seconds(l, row->time_to[i]);
    if (s->links) number(l, row->rss / (1 << 20), 0, " MiB");
    number(l, row->params / 1e6, 3, "M");
    number(l, row->extra_params / 1e6, 3, "M");
    number(l, 100 * row->extra_compute, 1, "%");
}

static void row_line(const rb_compare_result *r, const rb_compare_row *row, line *l) {
    snprintf(add(l), CELL, "%s%s%s%s%s", row->variant->name, *row->point ? " (" : "",
             *row->point ? row->variant->sweep.key : "", *row->point ? " " : "", row->point);
    if (*row->point) strcat(l->cell[0], ")");
    loss_cell(row, add(l));
    number(l, exp(row->loss), 3, "");
    bool unsized = row->variant->control == RB_CONTROL_ALONE_AS_LONG && !(row->fitting > 0);
    number(l, unsized ? NAN : (double)(row->steps * row->tokens_per_step) / 1e6, 3, "M");
    if (!isnan(r->target)) {
        steps_cell(row, add(l));
        number(l, row->ratio, 2, "");
    }
    cost_cells(r, row, l);
}

/* Characters that a terminal shows: UTF-8's continuation bytes are none. */
static int shown(const char *s) {
    int n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static void pad(rb_buf *out, const char *fill, int n) {
    while (n-- > 0) rb_buf_puts(out, fill);
}

static void print_line(const line *l, const int *width, rb_buf *out) {
    for (int i = 0; i < l->cells; i++) {
        rb_buf_printf(out, "| ");
        if (i > 0) pad(out, " ", width[i] - shown(l->cell[i]));
        rb_buf_puts(out, l->cell[i]);
        if (i < 1) pad(out, " ", width[i] - shown(l->cell[i]));
        rb_buf_puts(out, " ");
    }
    rb_buf_puts(out, "|\n");
}

static void print_table(const rb_compare_result *r, line *l, rb_buf *out) {
    int width[COLUMNS] = {0};
    head_line(r, &l[0]);
    for (int i = 0; i < r->rows; i++) row_line(r, &r->row[i], &l[i + 1]);
    for (int i = 0; i <= r->rows; i++)
        for (int c = 0; c < l[i].cells; c++)
            if (shown(l[i].cell[c]) > width[c]) width[c] = shown(l[i].cell[c]);
    print_line(&l[0], width, out);
    for (int c = 0; c < l[0].cells; c++) {
        rb_buf_puts(out, c > 0 ? "|-" : "|:");
        pad(out, "-", width[c]);
        rb_buf_puts(out, c > 0 ? ":" : "-");
    }
    rb_buf_puts(out, "|\n");
    for (int i = 0; i < r->rows; i++) print_line(&l[i + 1], width, out);
}

static void print_target(const rb_compare_result *r, rb_buf *out) {
    const rb_compare_spec *s = r->study->s;
    if (isnan(r->target)) {
        bool any = false;
        for (int i = 0; i < r->rows; i++) any = any || r->row[i].uncompressed;
        rb_buf_puts(out, any ? "- No target loss yet: no uncompressed variant has all its seeds.\n"
                             : "- No target loss: no variant is uncompressed; `target: 1.9` names one.\n");
        return;
    }
    rb_buf_printf(out, "- Target loss %.4f", r->target);
    if (isnan(s->target)) {
        rb_buf_printf(out, ": the final one of %s", r->row[r->reference].variant->name);
        if (s->target_slack > 0) rb_buf_printf(out, " and %g%%", 100 * s->target_slack);
    }
    rb_buf_puts(out, ", on the mean curve over the seeds, between two evaluations along a straight line.");
    if (r->reference >= 0) rb_buf_printf(out, " Ratios are to %s.", r->row[r->reference].variant->name);
    for (int i = 0; i < r->rows && isnan(s->target); i++)
        if (r->row[i].uncompressed && r->row[i].done < r->row[i].seeds)
            rb_buf_printf(out, " %s may still come below it.", r->row[i].variant->name);
    rb_buf_puts(out, "\n");
}

static void print_times(const rb_compare_result *r, rb_buf *out) {
    const rb_compare_spec *s = r->study->s;
    if (!s->links) return;
    rb_buf_printf(out,
                  "- Seconds per step: measured in a short run of all stages on this machine over %s; by the "
                  "timing model ",
                  s->link[0].name);
    if (s->flops > 0)
        rb_buf_printf(out, "(stages of %.4g Gflop/s each, Muon's products counted) over every link.",
                      s->flops / 1e9);
    else
        rb_buf_puts(out,
                    "(segments timed alone on this machine, a processor for each stage) over every link.");
    rb_buf_puts(out, " Time to loss is steps times the model's.\n");
}

/* What the specification says of it, so that rows whose boundaries are alike can be told apart. */
static void print_set(const rb_compare_variant *v, rb_buf *out) {
    if (!*v->like && !v->set.count) return;
    rb_buf_puts(out, " (");
    if (*v->like) rb_buf_printf(out, "like %s", v->like);
    for (int i = 0; i < v->set.count; i++)
        rb_buf_printf(out, "%s%s", i || *v->like ? ", " : "", v->set.text[i]);
    rb_buf_puts(out, ")");
}

static void print_what(const rb_compare_row *row, rb_buf *out) {
    const rb_compare_variant *v = row->variant;
    rb_buf_printf(out, "- %s: %s", v->name, row->boundary);
    if (v->control == RB_CONTROL_ALONE)
        rb_buf_printf(out, ": what the last stage of %s holds, without a pipeline", v->of);
    if (v->control == RB_CONTROL_SAME_SIZE) rb_buf_printf(out, ": the blocks of %s, its trunks' too", v->of);
    if (v->control == RB_CONTROL_ALONE_AS_LONG) {
        rb_buf_printf(out, ": %s for the wall time of the pipeline over the first link, ", v->of);
        if (row->fitting > 0)
            rb_buf_printf(out, "%" PRId64 " steps", row->steps);
        else
            rb_buf_puts(out, "which is not known yet");
        if (row->fitting > 0 && fabs(row->fitting / (double)row->steps - 1) > 0.01)
            rb_buf_printf(out, " (by the present measurement it would be %.0f)", row->fitting);
        if (row->capped) rb_buf_puts(out, ", CUT SHORT by `longest`");
    }
    print_set(v, out);
    rb_buf_puts(out, ".\n");
}

static void print_swept(rb_buf *out, const char *before, const char *value, double loss) {
    rb_buf_printf(out, "%s %s", before, value);
    if (isnan(loss))
        rb_buf_puts(out, " (failed)");
    else
        rb_buf_printf(out, " (%.4f)", loss);
}

#define UNSTEADY 1.5 /* times the shortest of a few steps: more than a quiet machine's */

static void print_unsteady(const rb_compare_row *row, rb_buf *out) {
    bool twin = row->variant->control == RB_CONTROL_ALONE_AS_LONG;
    if (twin || !(row->step_most > UNSTEADY * row->step_least)) return;
    rb_buf_printf(out,
                  "- %s: WARNING: its measured steps took %.3g to %.3g s: the machine had other work. Remove "
                  "timing/%s.json to measure again, or state the stages' speed by `compute`.\n",
                  row->variant->name, row->step_least, row->step_most, row->variant->name);
}

static void print_row_notes(const rb_compare_row *row, rb_buf *out) {
    const rb_sweep *w = &row->variant->sweep;
    print_what(row, out);
    if (row->time_fault)
        rb_buf_printf(out, "- %s: its time cannot be measured: %s\n", row->variant->name, row->time_fault);
    print_unsteady(row, out);
    if (*w->key && *row->point) {
        rb_buf_printf(out, "- %s: of %s", row->variant->name, w->key);
        for (int i = 0; i < w->values; i++) print_swept(out, i ? "," : "", w->value[i], row->sweep_loss[i]);
        rb_buf_printf(out, " the best is %s.", row->point);
        if (row->edge)
            rb_buf_printf(out, " WARNING: it is the %s of the sweep; a better one may lie beyond.",
                          row->edge < 0 ? "lowest" : "highest");
        rb_buf_puts(out, "\n");
    }
    if (row->done + row->failed < row->seeds)
        rb_buf_printf(out, "- %s: %d of %d seeds not trained yet.\n", row->variant->name,
                      row->seeds - row->done - row->failed, row->seeds);
    if (row->failed)
        rb_buf_printf(out, "- %s: %d of %d seeds failed: %s\n", row->variant->name, row->failed, row->seeds,
                      row->fault);
}

static void print_failed_points(const rb_study *t, rb_buf *out) {
    for (int i = 0; i < t->runs; i++)
        if (t->run[i]->state == RB_RUN_FAILED && *t->run[i]->point)
            rb_buf_printf(out, "- %s failed: %s\n", t->run[i]->name, t->run[i]->fault);
}

void rb_compare_notes(const rb_compare_result *r, rb_buf *out) {
    const rb_compare_spec *s = r->study->s;
    bool sweeps = false;
    for (int i = 0; i < r->rows; i++) sweeps |= *r->row[i].variant->sweep.key != 0;
    rb_buf_printf(out, "- %d seed%s each%s; ± is the standard deviation over them.\n", s->seeds,
                  s->seeds > 1 ? "s" : "",
                  sweeps ? ", a swept value chosen with the first of them, which counts in the mean" : "");
    print_target(r, out);
    print_times(r, out);
    if (!r->equal_tokens)
        rb_buf_puts(out, "- WARNING: the variants did not train on equally many tokens; see the column.\n");
    for (int i = 0; i < r->rows; i++) print_row_notes(&r->row[i], out);
    print_failed_points(r->study, out);
}

void rb_compare_markdown(const rb_compare_result *r, rb_buf *out) {
    line *l = calloc((size_t)r->rows + 1, sizeof *l);
    if (!l) {
        out->failed = true;
        return;
    }
    print_table(r, l, out);
    free(l);
    rb_buf_puts(out, "\n");
    rb_compare_notes(r, out);
}
