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

static double latent_std(const rb_boundary_config *c, const rb_boundary_dims *s) {
    (void)c;
    return s->std; /* the stream begins as wide as the embedding */
}

static void list_nothing(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                         rb_tensor_list *l) {
    (void)c, (void)s, (void)prefix, (void)l;
}

static void plan_nothing(const rb_boundary_end *e, int64_t n, rb_plan *p, rb_end_buffers *out) {
    (void)e, (void)n, (void)p;
    *out = (rb_end_buffers){0};
}

static resbm_status encode_forward(const rb_boundary_end *e, rb_view x, const rb_view *parts, rb_err *err) {
    return rb_copy(e->q, parts[0], x, err);
}

static resbm_status encode_backward_input(const rb_boundary_end *e, rb_view dx, const rb_view *dparts,
                                          rb_view x, rb_err *err) {
    (void)x;
    return rb_copy(e->q, dx, dparts[0], err);
}

static resbm_status encode_backward_weight(const rb_boundary_end *e, rb_view x, rb_err *err) {
    (void)e, (void)x, (void)err;
    return RESBM_OK;
}

static resbm_status decode_forward(const rb_boundary_end *e, rb_view y, bool add, const rb_view *parts,
                                   rb_err *err) {
    return rb_axpby(e->q, 1, parts[0], add ? 1 : 0, y, err);
}

static resbm_status decode_backward_input(const rb_boundary_end *e, const rb_view *dparts, rb_view dy,
                                          rb_err *err) {
    return rb_copy(e->q, dparts[0], dy, err);
}

static resbm_status decode_backward_weight(const rb_boundary_end *e, rb_view dy, const rb_view *parts,
                                           rb_err *err) {
    (void)e, (void)dy, (void)parts, (void)err;
    return RESBM_OK;
}

const rb_boundary_kind rb_boundary_none = {
    .name = "none",
    .summary = "x crosses whole",
    .codec = "bf16",
    .check = check,
    .parts = parts_of,
    .latent_std = latent_std,
    .list_encoder = list_nothing,
    .list_decoder = list_nothing,
    .plan_saved = plan_nothing,
    .plan_kept = plan_nothing,
    .plan_scratch = plan_nothing,
    .encode_forward = encode_forward,
    .encode_backward_input = encode_backward_input,
    .encode_backward_weight = encode_backward_weight,
    .decode_forward = decode_forward,
    .decode_backward_input = decode_backward_input,
    .decode_backward_weight = decode_backward_weight,
};
