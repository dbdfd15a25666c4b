/* Learned low rank, without nonlinearity and without an identity path:
 *
 *     z = W_e x            W_e (k,d)      g_x = W_e^T g_z     dW_e += g_z^T x
 *     y = W_d q [+ S]      W_d (d,k)      g_q = W_d^T g_y     dW_d += g_y^T q
 */
#include <math.h>
#include "boundary/kinds.h"
#include "nn/linear.h"

enum { KEPT_DZ };

static resbm_status check(rb_boundary_config *c, const rb_boundary_dims *s, rb_err *err) {
    (void)s, (void)err;
    c->hidden = 0;
    return RESBM_OK;
}

static bool may_vanish(const rb_boundary_config *c) {
    (void)c;
    return true;
}

/* Both maps keep the size of a coordinate: variance 1/d, 1/k. */
static void list_encoder(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                         rb_tensor_list *l) {
    rb_tensor_add(l, prefix, "fc1.weight", c->k, s->d, RB_ROLE_BOUNDARY_MATRIX, 0, 1 / sqrt((double)s->d));
}

static void list_decoder(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                         rb_tensor_list *l) {
    double std = rb_decoder_std(c, 1 / sqrt((double)c->k));
    rb_tensor_add(l, prefix, "fc1.weight", s->d, c->k, RB_ROLE_BOUNDARY_MATRIX, 0, std);
}

static void plan_kept(const rb_boundary_end *e, int64_t n, rb_plan *p, rb_end_buffers *out) {
    *out = (rb_end_buffers){0};
    if (e->encoder) out->v[KEPT_DZ] = rb_plan2(p, n, e->cfg->k);
}

static resbm_status encode_forward(const rb_boundary_end *e, rb_view x, const rb_view *parts, rb_err *err) {
    return rb_linear_forward(e->q, parts[0], 0, x, e->w[0], err);
}

static resbm_status encode_backward_input(const rb_boundary_end *e, rb_view dx, const rb_view *dparts,
                                          rb_view x, rb_err *err) {
    (void)x;
    RB_TRY(rb_copy(e->q, e->kept.v[KEPT_DZ], dparts[0], err));
    return rb_linear_backward_x(e->q, dx, 0, dparts[0], e->w[0], err);
}

static resbm_status encode_backward_weight(const rb_boundary_end *e, rb_view x, rb_err *err) {
    return rb_linear_backward_w(e->q, e->dw[0], e->kept.v[KEPT_DZ], x, err);
}

static resbm_status decode_forward(const rb_boundary_end *e, rb_view y, bool add, const rb_view *parts,
                                   rb_err *err) {
    return rb_linear_forward(e->q, y, add ? 1 : 0, parts[0], e->w[0], err);
}

static resbm_status decode_backward_input(const rb_boundary_end *e, const rb_view *dparts, rb_view dy,
                                          rb_err *err) {
    return rb_linear_backward_x(e->q, dparts[0], 0, dy, e->w[0], err);
}

static resbm_status decode_backward_weight(const rb_boundary_end *e, rb_view dy, const rb_view *parts,
                                           rb_err *err) {
    return rb_linear_backward_w(e->q, e->dw[0], dy, parts[0], err);
}

const rb_boundary_kind rb_boundary_linear = {
    .name = "linear",
    .summary = "learned low-rank map, no nonlinearity, no identity path",
    .codec = "int4",
    .keeps_latents = true,
    .masks = true,
    .narrows = true,
    .check = check,
    .parts = rb_boundary_latents_only,
    .latent_std = rb_boundary_stream_std,
    .may_vanish = may_vanish,
    .list_encoder = list_encoder,
    .list_decoder = list_decoder,
    .plan_saved = rb_boundary_plan_nothing,
    .plan_kept = plan_kept,
    .plan_scratch = rb_boundary_plan_nothing,
    .encode_forward = encode_forward,
    .encode_backward_input = encode_backward_input,
    .encode_backward_weight = encode_backward_weight,
    .decode_forward = decode_forward,
    .decode_backward_input = decode_backward_input,
    .decode_backward_weight = decode_backward_weight,
};
