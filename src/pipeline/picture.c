#include "pipeline/picture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Characters of the longest label. */
static int label_width(const rb_schedule *s) {
    int width = 1;
    for (int i = 0; i < s->stages; i++) {
        for (int j = 0; j < s->stage[i].count; j++) {
            if (!rb_action_computes(s->stage[i].items[j].kind)) continue;
            int n = rb_action_print(NULL, 0, s->stage[i].items[j]);
            if (n > width) width = n;
        }
    }
    return width;
}

static long column(double t, double unit) {
    return lround(t / unit);
}

static void draw_cells(rb_buf *out, const char *label, const char *rest, long count, int width) {
    for (long c = 0; c < count; c++) rb_buf_printf(out, "%-*s", width + 1, c ? rest : label);
}

static void trim(rb_buf *out) {
    while (out->len && out->data[out->len - 1] == ' ') out->data[--out->len] = 0;
}

static void draw_stage(const rb_schedule *s, int stage, const rb_sim_result *r, double unit, int width,
                       rb_buf *out) {
    const rb_action_list *l = &s->stage[stage];
    long at = 0;
    rb_buf_printf(out, "%d  ", stage);
    for (int j = 0; j < l->count; j++) {
        if (!rb_action_computes(l->items[j].kind)) continue;
        char label[RB_ACTION_TEXT];
        rb_action_print(label, sizeof label, l->items[j]);
        long from = column(r->span[stage][j].begin, unit), to = column(r->span[stage][j].end, unit);
        draw_cells(out, ".", ".", from - at, width);
        draw_cells(out, label, "=", to - from, width);
        at = to;
    }
    draw_cells(out, ".", ".", column(r->step, unit) - at, width);
    trim(out);
    rb_buf_puts(out, "\n");
}

resbm_status rb_schedule_picture(const rb_schedule *s, const rb_sim_options *o, double unit, rb_buf *out,
                                 rb_err *err) {
    rb_sim_result r;
    resbm_status st = rb_simulate(s, o, &r, err);
    if (st == RESBM_OK && !(r.step / unit <= 100000))
        st = rb_fail(err, RESBM_E_ARG, "a picture of %g columns is too wide; use columns of at least %g",
                     r.step / unit, r.step / 100000);
    int width = label_width(s);
    for (int i = 0; st == RESBM_OK && i < s->stages; i++) draw_stage(s, i, &r, unit, width, out);
    rb_sim_free(&r);
    return st == RESBM_OK ? rb_buf_status(out, err) : st;
}
