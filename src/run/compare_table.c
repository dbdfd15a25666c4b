#include "run/compare_table.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LABEL = 34, CELL = 32, GAP = 3 };

double rb_compare_common_loss(const rb_run_folder *run, int count) {
    double common = -INFINITY;
    for (int i = 0; i < count; i++) {
        double best = INFINITY;
        for (size_t j = 0; j < run[i].metrics.count; j++)
            if (run[i].metrics.steps[j].val_loss < best) best = run[i].metrics.steps[j].val_loss;
        if (best > common) common = best;
    }
    return isfinite(common) ? common : NAN;
}

double rb_compare_time_to(const rb_metrics *m, double loss) {
    const rb_step_metrics *before = NULL;
    for (size_t i = 0; i < m->count; i++) {
        const rb_step_metrics *s = &m->steps[i];
        if (isnan(s->val_loss)) continue;
        if (s->val_loss <= loss) {
            if (!before) return s->time_s;
            double part = (before->val_loss - loss) / (before->val_loss - s->val_loss);
            return before->time_s + (s->time_s - before->time_s) * part;
        }
        before = s;
    }
    return NAN;
}

static void cell_seconds(char *out, double s) {
    if (isnan(s))
        strcpy(out, "-");
    else if (s < 60)
        snprintf(out, CELL, "%.1f s", s);
    else
        snprintf(out, CELL, "%.0f min %02.0f s", floor(s / 60), floor(fmod(s, 60)));
}

static void cell_number(char *out, double v, int decimals, const char *unit) {
    if (isnan(v))
        strcpy(out, "-");
    else
        snprintf(out, CELL, "%.*f%s", decimals, v, unit);
}

/* The rows; a run's cell of each is filled by fill_cell. */
enum row {
    BOUNDARY,
    VAL_LOSS,
    STEPS,
    TOKENS,
    SPEED,
    FORWARD,
    BACKWARD,
    IDS,
    RATIO,
    WIRE_RATIO,
    IDLE,
    TIME,
    TIME_TO,
    ROWS
};
static const char *const row_name[ROWS] = {"boundary, codecs",
                                           "validation loss",
                                           "steps",
                                           "tokens",
                                           "tokens/s (median)",
                                           "bytes per token forward",
                                           "bytes per token backward",
                                           "token ids, bytes per token",
                                           "ratio d/k",
                                           "wire ratio (bf16 / sent)",
                                           "stages' time not computing",
                                           "wall time",
                                           "wall time to loss"};

static void fill_cell(enum row row, const rb_run_folder *r, double common, char *out) {
    const rb_summary *s = &r->summary;
    switch (row) {
    case BOUNDARY:
        snprintf(out, CELL, "%.12s %.7s/%.7s", s->boundary, s->codec_fwd, s->codec_bwd);
        break;
    case VAL_LOSS:
        cell_number(out, s->val_loss, 4, "");
        break;
    case STEPS:
        snprintf(out, CELL, "%" PRId64, s->steps);
        break;
    case TOKENS:
        snprintf(out, CELL, "%" PRId64, s->tokens);
        break;
    case SPEED:
        cell_number(out, s->tokens_per_s, 0, "");
        break;
    case FORWARD:
        cell_number(out, s->bytes_per_token_fwd, 2, "");
        break;
    case BACKWARD:
        cell_number(out, s->bytes_per_token_bwd, 2, "");
        break;
    case IDS:
        cell_number(out, s->token_bytes_per_token > 0 ? s->token_bytes_per_token : NAN, 2, "");
        break;
    case RATIO:
        cell_number(out, s->ratio, 0, "x");
        break;
    case WIRE_RATIO:
        cell_number(out, s->wire_ratio, s->wire_ratio < 10 ? 2 : 0, "x");
        break;
    case IDLE:
        cell_number(out, 100 * s->bubble, 0, "%");
        break;
    case TIME:
        cell_seconds(out, s->time_s);
        break;
    case TIME_TO:
        cell_seconds(out, rb_compare_time_to(&r->metrics, common));
        break;
    case ROWS:
        break;
    }
}

static int column_width(const rb_run_folder *r, double common) {
    size_t width = strlen(r->name);
    for (int row = 0; row < ROWS; row++) {
        char text[CELL] = "";
        fill_cell((enum row)row, r, common, text);
        if (strlen(text) > width) width = strlen(text);
    }
    return (int)width + GAP;
}

void rb_compare_table(const rb_run_folder *run, int count, rb_buf *out) {
    double common = rb_compare_common_loss(run, count);
    rb_buf_printf(out, "%-*s", LABEL, "");
    for (int i = 0; i < count; i++) rb_buf_printf(out, "%*s", column_width(&run[i], common), run[i].name);
    rb_buf_puts(out, "\n");
    for (int row = 0; row < ROWS; row++) {
        char label[64];
        if (row == TIME_TO && (count < 2 || isnan(common))) continue;
        snprintf(label, sizeof label, "%s", row_name[row]);
        if (row == TIME_TO) snprintf(label, sizeof label, "%s %.4f", row_name[row], common);
        rb_buf_printf(out, "%-*s", LABEL, label);
        for (int i = 0; i < count; i++) {
            char text[CELL] = "";
            fill_cell((enum row)row, &run[i], common, text);
            rb_buf_printf(out, "%*s", column_width(&run[i], common), text);
        }
        rb_buf_puts(out, "\n");
    }
}
