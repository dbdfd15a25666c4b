/* x crosses whole:  z = x,  y = q [+ S];  g_q = g_y,  g_x = g_q. Nothing is learned. */
#include "boundary/kinds.h"
#include "nn/linear.h"

static resbm_status check(rb_boundary_config *c, const rb_boundary_dims *s, rb_err *err) {
    (void)err;
    c->k = s->d;
    c->ratio = 1;
    return RESBM_OK;
}

static void parts_of(const rb_boundary_config *c, const rb_boundary_dims *s, rb_boundary_parts *out) {
    (void)c;
    *out = (rb_boundary_parts){.count = 1, .width = {s->d}};
}

static resbm_status encode_forward(const rb_boundary_end *e, rb_view x, const rb_view *parts, rb_err *err) {
    return rb_copy(e->q, parts[0], x, err);
}

static resbm_status encode_backward_input(const rb_boundary_end *e, rb_view dx, const rb_view *dparts,
                                          rb_view x, rb_err *err) {
    (void)x;
    return rb_copy(e->q, dx, dparts[0], err);
}

static resbm_status decode_forward(const rb_boundary_end *e, rb_view y, bool add, const rb_view *parts,
                                   rb_err *err) {
    return rb_axpby(e->q, 1, parts[0], add ? 1 : 0, y, err);
}

static resbm_status decode_backward_input(const rb_boundary_end *e, const rb_view *dparts, rb_view dy,
                                          rb_err *err) {
    return rb_copy(e->q, dparts[0], dy, err);
}

const rb_boundary_kind rb_boundary_none = {
    .name = "none",
    .summary = "x crosses whole",
    .codec = "bf16",
    .check = check,
    .parts = parts_of,
    .latent_std = rb_boundary_stream_std,
    .list_encoder = rb_boundary_list_nothing,
    .list_decoder = rb_boundary_list_nothing,
    .plan_saved = rb_boundary_plan_nothing,
    .plan_kept = rb_boundary_plan_nothing,
    .plan_scratch = rb_boundary_plan_nothing,
    .encode_forward = encode_forward,
    .encode_backward_input = encode_backward_input,
    .encode_backward_weight = rb_boundary_encode_no_weight,
    .decode_forward = decode_forward,
    .decode_backward_input = decode_backward_input,
    .decode_backward_weight = rb_boundary_decode_no_weight,
};
