#include "run/gradcheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "run/stage.h"
#include "run/workers.h"

/* Loss of the microbatch; with gradients when backward. */
static resbm_status pass(rb_stage *s, bool backward, double *loss, rb_err *err) {
    rb_executor_hooks h = rb_stage_hooks(s);
    rb_seat_clear(&s->seat[0]);
    for (int i = 0; i < s->hosted; i++) rb_seat_clear(&s->seat[i]);
    if (backward) RB_TRY(rb_stage_zero_grads(s->model, s->q, err));
    for (int i = 0; i < s->segments; i++) RB_TRY(h.forward(h.ctx, rb_action_of(RB_ACT_FORWARD, i, 0), err));
    for (int i = s->segments - 1; backward && i >= 0; i--)
        RB_TRY(h.backward(h.ctx, rb_action_of(RB_ACT_BACKWARD, i, 0), err));
    RB_TRY(rb_queue_sync(s->q, err));
    *loss = s->host_losses[0] / (double)(s->B * s->T);
    return RESBM_OK;
}

static resbm_status square_norm(rb_stage *s, double *out, rb_err *err) {
    rb_view sum = rb_view1(s->sums.data, RB_F64, 1);
    *out = 0;
    for (int i = 0; i < s->row_count; i++) {
        rb_view g = rb_stage_grad(s->model, s->rows[i]);
        double one;
        if (!g.data) continue;
        RB_TRY(rb_sumsq(s->q, sum, g, err));
        RB_TRY(rb_download(s->q, &one, sum.data, sizeof one, err));
        RB_TRY(rb_queue_sync(s->q, err));
        *out += one;
    }
    return RESBM_OK;
}

/* weights += by * gradient */
static resbm_status move(rb_stage *s, double by, rb_err *err) {
    for (int i = 0; i < s->row_count; i++) {
        rb_view g = rb_stage_grad(s->model, s->rows[i]);
        if (g.data) RB_TRY(rb_axpby(s->q, (float)by, g, 1, rb_stage_weight(s->model, s->rows[i]), err));
    }
    return rb_stage_weights_changed(s->model, s->q, err);
}

static resbm_status check(rb_stage *s, rb_gradcheck *out, rb_err *err) {
    double loss, sumsq, up, down;
    s->grad_scale = (float)(1.0 / (double)(s->B * s->T));
    RB_TRY(rb_sampler_window(&s->sampler, 0, s->ids, err));
    RB_TRY(rb_stage_upload_ids(s, 0, err));
    RB_TRY(pass(s, true, &loss, err));
    RB_TRY(square_norm(s, &sumsq, err));
    double norm = sqrt(sumsq),
           h = 1e-3; /* f32 losses of many tokens: rounding is 1e-7 of them, curvature goes with h^2 */
    if (!(norm > 0)) return rb_fail(err, RESBM_E_NUMERIC, "the gradient's norm is %g", norm);
    RB_TRY(move(s, h / norm, err));
    RB_TRY(pass(s, false, &up, err));
    RB_TRY(move(s, -2 * h / norm, err));
    RB_TRY(pass(s, false, &down, err));
    out->by_gradient = norm;
    out->by_difference = (up - down) / (2 * h);
    out->apart = fabs(out->by_difference - norm) / norm;
    for (int i = 0; i < s->row_count; i++)
        if (rb_role_trained(s->table.rows[s->rows[i]].role))
            out->params += rb_tensor_count(&s->table.rows[s->rows[i]]);
    return RESBM_OK;
}

resbm_status rb_gradcheck_run(const rb_config *cfg, rb_gradcheck *out, rb_err *err) {
    rb_stage *s = calloc(1, sizeof *s);
    *out = (rb_gradcheck){0};
    if (!s) return rb_fail(err, RESBM_E_MEMORY, "no memory for a stage");
    s->cfg = *cfg;
    s->cfg.pipeline.stages = 1;
    rb_config_alone(&s->cfg);
    s->cfg.pipeline.threads = cfg->pipeline.threads > 0 ? cfg->pipeline.threads : 1;
    s->cfg.train.batch = s->cfg.train.microbatches = 1;
    snprintf(s->cfg.pipeline.schedule, sizeof s->cfg.pipeline.schedule, "%s", rb_schedule_1f1b.name);
    s->cfg.data.distribute = RB_DISTRIBUTE_SHARED;
    snprintf(s->cfg.optim.offload, sizeof s->cfg.optim.offload, "none");
    s->cfg.optim.offload_dir[0] = 0;
    s->cfg.optim.offload_parts = RB_OFFLOAD_STATES;
    s->cfg.optim.offload_update = RB_OFFLOAD_UPDATE_DEVICE;
    s->cfg.optim.rule.delay = 0;
    snprintf(s->cfg.boundary.codec_fwd, sizeof s->cfg.boundary.codec_fwd, "f32");
    snprintf(s->cfg.boundary.codec_bwd, sizeof s->cfg.boundary.codec_bwd, "f32");
    const rb_boundary_kind *kind = rb_boundary_find(cfg->boundary.kind);
    if (kind && kind->straight_through) s->cfg.boundary.ratio = 1; /* whole, where it is a derivative */
    s->training = true;
    resbm_status st = rb_config_validate(&s->cfg, err);
    if (!st) st = rb_stage_open(s, err);
    if (!st) st = check(s, out, err);
    rb_stage_close(s);
    free(s);
    return st;
}
