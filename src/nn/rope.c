#include <math.h>
#include <stdlib.h>
#include "nn/run.h"

static double stretched(double f, const rb_rope_scaling *s) {
    if (!s || s->kind == RB_ROPE_NONE) return f;
    if (s->kind == RB_ROPE_LINEAR) return f / s->factor;
    double share = ((double)s->original * f / (2 * M_PI) - s->low) / (s->high - s->low);
    share = fmin(fmax(share, 0), 1);
    return f * (share + (1 - share) / s->factor);
}

static void compute(float *out, int64_t positions, int64_t half, double theta, const rb_rope_scaling *s,
                    bool cosine) {
    for (int64_t p = 0; p < positions; p++)
        for (int64_t j = 0; j < half; j++) {
            double turn = pow(theta, (double)j / (double)half);
            double angle =
                s && s->kind != RB_ROPE_NONE ? (double)p * stretched(1 / turn, s) : (double)p / turn;
            out[p * half + j] = (float)(cosine ? cos(angle) : sin(angle));
        }
}

static resbm_status fill_one(rb_queue *q, float *host, rb_view v, double theta, const rb_rope_scaling *s,
                             bool cosine, rb_err *err) {
    compute(host, v.shape[0], v.shape[1], theta, s, cosine);
    RB_TRY(rb_upload(q, v.data, host, (size_t)rb_count(v) * sizeof *host, err));
    return rb_queue_sync(q, err);
}

resbm_status rb_rope_fill(rb_queue *q, const rb_rope_table *t, double theta, const rb_rope_scaling *scaling,
                          rb_err *err) {
    float *host = malloc((size_t)rb_count(t->cos) * sizeof *host);
    if (!host)
        return rb_fail(err, RESBM_E_MEMORY, "rotary tables of %lld positions: out of memory",
                       (long long)t->cos.shape[0]);
    resbm_status st = fill_one(q, host, t->cos, theta, scaling, true, err);
    if (st == RESBM_OK) st = fill_one(q, host, t->sin, theta, scaling, false, err);
    free(host);
    return st;
}
