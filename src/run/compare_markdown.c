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

static char *add(line *l) { return l->cells < COLUMNS ? l->cell[l->cells++] : l->cell[COLUMNS - 1]; }

static void number(line *l, double v, int decimals, const char *unit) {
    if (isnan(v))
        strcpy(add(l), "-");
    else
        snprintf(add(l), CELL, "%.*f%s", decimals, v, unit);
}

static void head_line(const rb_compare_result *r, line *l) {
    strcpy(add(l), "variant");
    strcpy(add(l), "boundary");
    strcpy(add(l), "loss");
    strcpy(add(l), "perplexity");
    strcpy(add(l), "tokens");
    if (!isnan(r->target)) {
        snprintf(add(l), CELL, "steps to %.4f", r->target);
        strcpy(add(l), "steps ratio");
    }
    strcpy(add(l), "params");
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
    if (row->reached && row->reached < row->done) snprintf(out + n, CELL - n, " (%d of %d seeds)", row->reached, row->done);
}

static void row_line(const rb_compare_result *r, const rb_compare_row *row, line *l) {
    snprintf(add(l), CELL, "%s%s%s%s%s", row->variant->name, *row->point ? " (" : "", *row->point ? row->variant->sweep.key : "",
             *row->point ? " " : "", row->point);
    if (*row->point) strcat(l->cell[0], ")");
    snprintf(add(l), CELL, "%s", row->boundary);
    loss_cell(row, add(l));
    number(l, exp(row->loss), 3, "");
    snprintf(add(l), CELL, "%.4gM", (double)(row->steps * row->tokens_per_step) / 1e6);
    if (!isnan(r->target)) {
        steps_cell(row, add(l));
        number(l, row->ratio, 2, "");
    }
    if (row->params)
        snprintf(add(l), CELL, "%.3fM", (double)row->params / 1e6);
    else
        strcpy(add(l), "-");
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
        if (i > 1) pad(out, " ", width[i] - shown(l->cell[i]));
        rb_buf_puts(out, l->cell[i]);
        if (i < 2) pad(out, " ", width[i] - shown(l->cell[i]));
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
        rb_buf_puts(out, c > 1 ? "|-" : "|:");
        pad(out, "-", width[c]);
        rb_buf_puts(out, c > 1 ? ":" : "-");
    }
    rb_buf_puts(out, "|\n");
    for (int i = 0; i < r->rows; i++) print_line(&l[i + 1], width, out);
}

static void print_target(const rb_compare_result *r, rb_buf *out) {
    const rb_compare_spec *s = r->study->s;
    if (isnan(r->target)) {
        rb_buf_puts(out, "- No target loss yet: no uncompressed variant has all its seeds.\n");
        return;
    }
    rb_buf_printf(out, "- Target loss %.4f", r->target);
    if (isnan(s->target)) {
        rb_buf_printf(out, ": the final one of %s", r->row[r->reference].variant->name);
        if (s->target_slack > 0) rb_buf_printf(out, " and %g%%", 100 * s->target_slack);
    }
    rb_buf_puts(out, ", on the mean curve over the seeds, between two evaluations along a straight line.");
    if (r->reference >= 0) rb_buf_printf(out, " Ratios are to %s.", r->row[r->reference].variant->name);
    rb_buf_puts(out, "\n");
}

static void print_row_notes(const rb_compare_row *row, rb_buf *out) {
    const rb_sweep *w = &row->variant->sweep;
    if (*w->key && *row->point) {
        rb_buf_printf(out, "- %s: of %s", row->variant->name, w->key);
        for (int i = 0; i < w->values; i++) rb_buf_printf(out, "%s %s", i ? "," : "", w->value[i]);
        rb_buf_printf(out, " the best is %s.", row->point);
        if (row->edge)
            rb_buf_printf(out, " WARNING: it is the %s of the sweep; a better one may lie beyond.",
                          row->edge < 0 ? "lowest" : "highest");
        rb_buf_puts(out, "\n");
    }
    if (row->failed)
        rb_buf_printf(out, "- %s: %d of %d seeds failed: %s\n", row->variant->name, row->failed, row->seeds, row->fault);
}

static void print_failed_points(const rb_study *t, rb_buf *out) {
    for (int i = 0; i < t->runs; i++)
        if (t->run[i]->state == RB_RUN_FAILED && *t->run[i]->point)
            rb_buf_printf(out, "- %s failed: %s\n", t->run[i]->name, t->run[i]->fault);
}

void rb_compare_markdown(const rb_compare_result *r, rb_buf *out) {
    const rb_compare_spec *s = r->study->s;
    line *l = calloc((size_t)r->rows + 1, sizeof *l);
    if (!l) {
        out->failed = true;
        return;
    }
    print_table(r, l, out);
    free(l);
    rb_buf_printf(out, "\n- %d seed%s each; ± is the standard deviation over them.\n", s->seeds, s->seeds > 1 ? "s" : "");
    print_target(r, out);
    if (!r->equal_tokens) rb_buf_puts(out, "- WARNING: the variants did not train on equally many tokens; see the column.\n");
    for (int i = 0; i < r->rows; i++) print_row_notes(&r->row[i], out);
    print_failed_points(r->study, out);
}
